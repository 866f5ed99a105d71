"""The page's look, and the script for what Gradio has no setting for."""

from __future__ import annotations

import gradio as gr

from ..uploads import MOST_BYTES_EACH

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.orange,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_md,
    font=["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],  # nothing is fetched
    font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
).set(  # each at 4.5 : 1 or better on what it stands on (WCAG AA); Gradio's own hints are 2.5 : 1
    body_text_color_subdued="#57534e",
    body_text_color_subdued_dark="#d6d3d1",
    block_info_text_color="#57534e",
    block_info_text_color_dark="#d6d3d1",
    block_label_text_color="#44403c",
    block_label_text_color_dark="#e7e5e4",
    block_title_text_color="#44403c",
    block_title_text_color_dark="#e7e5e4",
    input_placeholder_color="#57534e",
    input_placeholder_color_dark="#d6d3d1",
    button_primary_background_fill="#c2410c",
    button_primary_background_fill_hover="#9a3412",
    button_primary_background_fill_dark="#c2410c",
    button_primary_background_fill_hover_dark="#9a3412",
    color_accent="#c2410c",
    link_text_color="#1d4ed8",
    link_text_color_dark="#93c5fd",
)

CSS = """
.gradio-container { max-width: 1400px !important; }
#head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem; }
#head h1 { font-size: 1.5rem; margin: 0; letter-spacing: -.02em; }
#head p { margin: 0; color: var(--body-text-color-subdued); }
.tight { gap: .6rem; }
.player { gap: .6rem; flex-wrap: wrap; align-items: center; }
.player > button { flex: 0 1 auto; }
#tried { align-items: flex-start; }
.side .image-frame, .side .image-frame > *, .side img { width: 100% !important; max-width: none; }
.side img { height: auto !important; object-fit: contain; }
#grid img, #live img, #moving img { max-width: 100%; height: auto; background: #fff; }
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
.picked { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: .5rem; max-height: 26rem;
  overflow-y: auto; padding: .2rem; }
.picked .one { display: flex; gap: .5rem; align-items: flex-start; }
.picked img { width: 72px; height: 72px; object-fit: cover; border-radius: 4px; flex: none; }
.picked textarea { flex: 1; min-width: 0; font: inherit; font-size: .85rem; padding: .3rem .4rem; resize: vertical;
  color: var(--body-text-color); background: var(--input-background-fill); border-radius: 4px;
  border: 1px solid var(--border-color-primary); }
.picked textarea::placeholder { color: var(--body-text-color-subdued); opacity: 1; }
.training { display: grid; grid-template-columns: auto auto 1fr; gap: .1rem .8rem; padding: .5rem .2rem; }
.training progress { grid-column: 1 / -1; }
progress { appearance: none; width: 100%; height: .5rem; border: 0; border-radius: 4px; overflow: hidden;
  background: var(--block-border-color); }
progress::-webkit-progress-bar { background: var(--block-border-color); }
progress::-webkit-progress-value { background: #ea580c; }
progress::-moz-progress-bar { background: #ea580c; }
.training small { grid-column: 1 / -1; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.training .state { font-weight: 600; }
.training.running .state, .training.finishing .state { color: #c2410c; }
.training.failed .state { color: #b91c1c; }
.dark .training.running .state, .dark .training.finishing .state { color: #fb923c; }
.dark .training.failed .state { color: #fca5a5; }
h2 { font-size: 1.1rem; }
.icon-button, .icon-button-wrapper button, #upload button { min-width: 24px; min-height: 24px; }
input[type=range] { min-height: 24px; }
a.download-link > button { pointer-events: none; }  /* the link around it is what is pressed */
#address, .form:has(> #opened), #opened, .unseen, #slow:not(:has(.say)) { display: none; }
[role=tab][aria-selected=true] { color: #c2410c !important; }
.dark [role=tab][aria-selected=true] { color: #fb923c !important; }
:focus-visible { outline: 3px solid #ea580c !important; outline-offset: 2px; }
#tried > .side { flex: 1 1 0; max-width: 460px; }
@media (max-width: 640px) {
  #tried > .side { flex: 1 1 calc(50% - 1rem); max-width: calc(50% - .4rem); min-width: 0 !important; }
  .side .icon-button-wrapper { display: none; }
  #tried .side img { padding-top: 1.8rem; }
}
"""

HEAD = """
<script>
// Gradio sends no file at all where one is too large: that one stays here, and the rest goes.
const without_large = (files) => {
  const most = window.mostBytes ?? MOST_BYTES, rest = new DataTransfer(), large = [];
  for (const file of files) file.size > most ? large.push(file.name) : rest.items.add(file);
  let said = document.getElementById("too-large");
  if (!said) {
    said = Object.assign(document.createElement("p"), { id: "too-large", className: "say bad" });
    said.setAttribute("role", "alert");
    document.getElementById("upload")?.after(said);
  }
  said.hidden = !large.length;
  said.textContent = `Left out, as a file may have ${Math.round(most / 1e6)} MB: ${large.join(", ")}`;
  return large.length ? rest.files : null;
};
document.addEventListener("change", (event) => {
  if (!event.target.matches?.("#upload input[type=file]")) return;
  const rest = without_large(event.target.files);
  if (rest && !rest.length) event.stopImmediatePropagation();
  else if (rest) event.target.files = rest;
}, true);
document.addEventListener("drop", (event) => {
  const input = event.target.closest?.("#upload")?.querySelector("input[type=file]");
  const rest = input && without_large(event.dataTransfer.files);
  if (!rest) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  input.files = rest;
  if (rest.length) input.dispatchEvent(new Event("change", { bubbles: true }));
}, true);
// Gradio's field for files is a button around a field.
const name_things = () => {
  document.querySelectorAll("#upload button:has(input[type=file])").forEach((one) => {
    const input = one.querySelector("input");  // a button around a field is two controls in one for a screen reader
    if (one.getAttribute("role") !== "group") one.setAttribute("role", "group");
    for (const each of [one, input]) {
      if (each.getAttribute("aria-label") !== "Add files") each.setAttribute("aria-label", "Add files");
    }
  });
};
// The theme that was chosen last time, before the system's.
const kept_theme = () => { try { return localStorage.getItem("reslora-theme"); } catch { return null; } };
const keep_theme = () => {
  const dark = kept_theme() === "dark";
  if (kept_theme() && document.body.classList.contains("dark") !== dark) document.body.classList.toggle("dark", dark);
};
keep_theme();
new MutationObserver(keep_theme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
new MutationObserver(name_things).observe(document, { subtree: true, childList: true, attributes: true,
  attributeFilter: ["aria-label"] });
</script>
"""

HEAD = HEAD.replace("MOST_BYTES", str(MOST_BYTES_EACH))

TOGGLE_DARK = """() => {
  const dark = !document.body.classList.contains("dark");
  try { localStorage.setItem("reslora-theme", dark ? "dark" : "light"); } catch { /* not kept then */ }
  document.body.classList.toggle("dark", dark);
}"""
