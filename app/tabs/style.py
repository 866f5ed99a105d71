"""The page's look, and the script for what Gradio has no setting for."""

from __future__ import annotations

import gradio as gr

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.orange,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_md,
    font=["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],  # nothing is fetched
    font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
)

CSS = """
.gradio-container { max-width: 1400px !important; }
#head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem; }
#head h1 { font-size: 1.5rem; margin: 0; letter-spacing: -.02em; }
#head p { margin: 0; color: var(--body-text-color-subdued); }
.tight { gap: .6rem; }
.player { gap: .6rem; flex-wrap: wrap; align-items: center; }
.player > button { flex: 0 1 auto; }
#sides, #tried { align-items: flex-start; }
.side .image-frame, .side .image-frame > *, .side img { width: 100% !important; max-width: none; }
.side img { height: auto !important; object-fit: contain; }
#step input[type=number], #step .min_value, #step .max_value { display: none; }
#step label > span, #step .head label span { font-size: 1.1rem; font-weight: 600; }
#wipe { max-width: 640px; }
#grid img, #live img, #moving img { max-width: 100%; height: auto; background: #fff; }
#curves { flex-wrap: wrap; }
.say { margin: .25rem 0; padding: 0 .2rem; }
.say.bad, details.say { padding: .6rem .8rem; border-left: 4px solid #dc2626; border-radius: 4px; }
.say.bad { background: rgba(220, 38, 38, .12); }
.say.good { color: var(--body-text-color); }
details.say { border-color: #d97706; background: rgba(217, 119, 6, .1); }
details.say summary { cursor: pointer; }
details.say li { overflow-wrap: anywhere; }
.figure { padding: .8rem 1rem; border-radius: 8px; background: var(--background-fill-secondary); }
.figure .large { font-size: 2rem; font-weight: 700; letter-spacing: -.02em; }
.figure .rule { color: var(--body-text-color-subdued); max-width: 75ch; }
.wide { overflow-x: auto; }
.drawing { overflow-x: auto; color: var(--body-text-color); }
.drawing svg { display: block; height: auto; }
.training { display: grid; grid-template-columns: auto auto 1fr; gap: .1rem .8rem; padding: .5rem .2rem; }
.training progress { grid-column: 1 / -1; }
progress { appearance: none; width: 100%; height: .5rem; border: 0; border-radius: 4px; overflow: hidden;
  background: var(--block-border-color); }
progress::-webkit-progress-bar { background: var(--block-border-color); }
progress::-webkit-progress-value { background: #ea580c; }
progress::-moz-progress-bar { background: #ea580c; }
.training small { grid-column: 1 / -1; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.training .state { font-weight: 600; }
.training.running .state, .training.finishing .state { color: #ea580c; }
.training.failed .state { color: #dc2626; }
:focus-visible { outline: 3px solid #ea580c !important; outline-offset: 2px; }
#sides > .side, #tried > .side { flex: 1 1 0; max-width: 460px; }
@media (max-width: 640px) {
  #sides > .side, #tried > .side { flex: 1 1 calc(50% - 1rem); max-width: calc(50% - .4rem); min-width: 0 !important; }
  .side .icon-button-wrapper { display: none; }
  .side img { padding-top: 1.8rem; }
}
"""

HEAD = """
<script>
// Arrow keys move the step, wherever they have no other meaning.
document.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: "earlier", ArrowRight: "later" }[event.key];
  const own = "input, textarea, select, [role=tab], [role=listbox], [role=option], [role=slider], [contenteditable]";
  if (!move || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(own)) return;
  const button = document.getElementById(move);
  if (button && button.offsetParent) { button.click(); event.preventDefault(); }
});
// ImageSlider has no setting for its pictures' alternative texts: they come from the line below it. Gradio's download
// links hold nothing but a picture of an arrow, and its sliders say a place where people want to hear the step.
const name_things = () => {
  const texts = [...document.querySelectorAll("#wipe-text [data-alt]")].map((one) => one.dataset.alt);
  document.querySelectorAll("#wipe img").forEach((image, place) => {
    const text = texts[place] ?? texts[0];
    if (text !== undefined && image.alt !== text) image.alt = text;
  });
  const label = document.querySelector("#step label span, #step [data-testid=block-info]")?.textContent?.trim();
  document.querySelectorAll("#step input[type=range]").forEach((one) => {
    if (label && one.getAttribute("aria-valuetext") !== label) one.setAttribute("aria-valuetext", label);
  });
};
new MutationObserver(name_things).observe(document, { subtree: true, childList: true, attributes: true,
  attributeFilter: ["src", "data-alt"] });
</script>
"""

TOGGLE_DARK = "() => { document.body.classList.toggle('dark'); }"
