"""The page of an exported comparison: one file that needs no server and asks for nothing.

Every text of a run gets in as JSON, and onto the page as text alone (`textContent`). The policy in its head lets the
browser load nothing but what is in the file.
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --ink: #1c1917; --faint: #57534e; --paper: #fff; --line: #d6d3d1; }
@media (prefers-color-scheme: dark) { :root { --ink: #fafaf9; --faint: #c7c2be; --paper: #151312; --line: #57534e; } }
body { margin: 0 auto; max-width: 1200px; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: .2rem 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 1.4rem 0 .4rem; }
.row { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: end; margin: .6rem 0; }
label { display: flex; flex-direction: column; gap: .2rem; color: var(--faint); min-width: 0; }
label.wide { flex: 1 1 260px; }
select, button { font: inherit; padding: .4rem .6rem; min-height: 2.2rem; max-width: 100%; color: var(--ink);
  background: var(--paper); border: 1px solid var(--line); border-radius: 6px; }
input[type=range] { width: 100%; min-height: 2.2rem; accent-color: #ea580c; }
#sides { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 140px; max-width: 420px; }
figcaption { overflow-wrap: anywhere; }
img { display: block; width: 100%; image-rendering: auto; border-radius: 4px; }
img.small { image-rendering: pixelated; }
#wipe { position: relative; max-width: 640px; }
#wipe img:last-child { position: absolute; inset: 0; }
.missing { padding: 2rem 1rem; border: 1px dashed var(--line); border-radius: 4px; }
footer { margin-top: 2rem; color: var(--faint); }
:focus-visible { outline: 3px solid #ea580c; outline-offset: 2px; }
[hidden] { display: none !important; }
</style>
</head>
<body>
<h1 id="title"></h1>
<main>
<div class="row">
  <label class="wide">Prompt and seed <select id="series"></select></label>
  <button id="play" type="button">Play</button>
  <label class="wide"><span id="step-text">Step</span>
    <input id="step" type="range" min="0" value="0" step="1" aria-labelledby="step-text"></label>
</div>
<div id="sides"></div>
<section id="wipe-part">
<h2>Wipe</h2>
<div class="row">
  <label>Left <select id="left"></select></label>
  <label>Right <select id="right"></select></label>
  <label class="wide">Place of the wipe <input id="place" type="range" min="0" max="100" value="50"></label>
</div>
<div id="wipe"></div>
</section>
</main>
<footer id="about"></footer>
<script id="data" type="application/json">DATA</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const make = (kind, text) => Object.assign(document.createElement(kind), { textContent: text ?? "" });
const fill = (menu, texts) => menu.replaceChildren(...texts.map((text, place) =>
  Object.assign(make("option", text), { value: place })));
const series = () => data.series[+at("series").value];
const step = () => series().steps[+at("step").value];
const found = (run) => series().pictures[run]?.[at("step").value] ?? null;
const told = (run) => `${data.runs[run]}, step ${step()}`;
const image = (number, alt) => {
  const one = Object.assign(make("img"), { src: data.images[number], alt });
  one.addEventListener("load", () => one.classList.toggle("small", one.naturalWidth <= 128));
  return one;
};
const picture = (number, title) => {
  const figure = make("figure");
  const shown = number === null ? Object.assign(make("div", "no picture"), { className: "missing" })
    : image(number, `${title}, for the prompt "${series().prompt}" with seed ${series().seed}`);
  figure.append(shown, make("figcaption", title));
  return figure;
};
const show_wipe = () => {
  const two = [+at("left").value, +at("right").value], numbers = two.map(found);
  if (numbers.includes(null)) {
    at("wipe").replaceChildren(Object.assign(make("div", "The wipe needs two pictures."), { className: "missing" }));
    return;
  }
  at("wipe").replaceChildren(...numbers.map((number, side) => image(number, told(two[side]))));
  at("wipe").lastChild.style.clipPath = `inset(0 0 0 ${at("place").value}%)`;
};
const show = () => {
  const text = `Step ${step()}, of ${series().steps[0]} to ${series().steps.at(-1)}`;
  at("step-text").textContent = text;
  at("step").setAttribute("aria-valuetext", text);
  const named = (run) => Object.assign(picture(found(run), told(run)), { title: data.technical[run] });
  const sides = data.runs.map((_, run) => named(run));
  if (series().real !== null) sides.push(picture(series().real, series().real_title));
  at("sides").replaceChildren(...sides);
  show_wipe();
};
const start_series = () => {
  at("step").max = series().steps.length - 1;
  at("step").value = series().steps.length - 1;
  show();
};
let clock = null;
at("play").addEventListener("click", () => {
  if (clock) clearInterval(clock);
  clock = clock ? null : setInterval(() => {
    at("step").value = (+at("step").value + 1) % series().steps.length;
    show();
  }, 700);
  at("play").textContent = clock ? "Pause" : "Play";
});
at("title").textContent = data.title;
at("about").textContent = data.about;
fill(at("series"), data.series.map((one) => `${one.prompt}, seed ${one.seed}`));
fill(at("left"), data.runs);
fill(at("right"), data.runs);
at("right").value = Math.min(1, data.runs.length - 1);
at("wipe-part").hidden = data.runs.length < 2;
at("series").addEventListener("change", start_series);
at("step").addEventListener("input", show);
for (const id of ["left", "right", "place"]) at(id).addEventListener("input", show_wipe);
start_series();
</script>
</body>
</html>
"""
