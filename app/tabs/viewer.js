// Compare in the browser: pictures of all chosen runs at one step, side by side and under a wipe. The server sends the
// addresses of all steps once; a move is then made here, and asks it for nothing but pictures that weren't shown yet.
(() => {
  "use strict";
  const STEP = "\ufffc", PLAYS_EVERY = 700, LOOKS_EVERY = 3000;
  const TABS = TAB_NAMES, PARTS = ["sides", "wipe", "grid"];
  const byId = (id) => document.getElementById(id);
  const make = (tag, more) => Object.assign(document.createElement(tag), more);
  let theme = null; // that was chosen last time, before the system's
  try { theme = localStorage.getItem("reslora-theme"); } catch { /* the system's then */ }
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.classList.toggle("early-dark", dark);
  let shown = null; // the manifest
  let place = 0; // of its steps
  let cells = null; // what stands beside each other: the pictures that have come
  let turn = 0, clock = null, asked = "", drawn = "", wanted_step = null;

  const filled = (text) => text.replaceAll(STEP, shown.steps[place]);
  const address_of = (row, at) => (row.files[at] ? `pictures/${row.key}/${row.files[at]}` : null);
  const cell = async (row, url) => {
    const title = filled(row.title), alt = filled(row.alt);
    if (!url) return { title, why: filled(row.missing) };
    const why = await fetched_picture(url);
    return why ? { title, why: `${title}: ${why}` } : { title, alt, url };
  };

  const draw = async () => {
    const now = ++turn;
    show_place();
    if (!byId("sides")) start_gradio(); // another tab is opened first
    const rows = shown.rows.map((row) => cell(row, address_of(row, place)));
    const real = shown.real;
    if (real) rows.push(cell({ ...real, missing: "" }, `pictures/${real.key}/${real.file}`));
    const found = await Promise.all(rows);
    if (now !== turn) return; // a later move has come
    cells = found;
    fill();
    requestAnimationFrame(() => setTimeout(start_gradio, 0)); // after these are painted
    for (const at of [place + 1, place - 1]) shown.rows.map((row) => address_of(row, at)).filter(Boolean).forEach(fetched_picture);
  };

  const start_gradio = () => {
    const later = byId("gradio-later");
    if (!later) return;
    document.head.append(make("script", { type: "module", crossOrigin: "", src: later.href }));
    later.remove();
  };
  setTimeout(start_gradio, 1500); // whatever becomes of the pictures

  const label = () => (shown.steps.length ? `Step ${shown.steps[place]}, of ${shown.span}` : "Step");
  const show_place = () => {
    const range = document.querySelector("#step input"), last = shown.steps.length - 1;
    if (range) {
      range.max = Math.max(1, last);
      range.disabled = last < 1;
      range.value = place;
      range.setAttribute("aria-valuetext", label());
      const said = document.querySelector("#step span");
      said.setAttribute("aria-live", clock || document.activeElement === range ? "off" : "polite"); // nothing said twice
      said.textContent = label();
      byId("play").textContent = clock ? "Pause" : "Play";
    }
    const opened = document.querySelector("#opened input"); // for the tabs that mark the step
    if (opened && shown.steps.length && opened.value !== String(shown.steps[place])) {
      opened.value = shown.steps[place];
      opened.dispatchEvent(new Event("input", { bubbles: true }));
    }
    write_address();
  };

  const figure = (at) => {
    const found = make("figure", { id: `side-${at}`, className: "side" });
    const tools = make("span", { className: "tools" });
    tools.append(
      make("a", { textContent: "\u2913", title: "Download" }),
      make("button", { textContent: "\u2922", title: "Fullscreen", type: "button" }),
    );
    const missing = make("p", { className: "missing" });
    missing.setAttribute("role", "status");
    found.append(make("figcaption"), tools, make("img"), missing);
    return found;
  };
  const fill_side = (one, found) => {
    const image = one.querySelector("img"), there = Boolean(found.url);
    one.querySelector("figcaption").textContent = there ? found.title : "";
    const missing = one.querySelector(".missing");
    missing.setAttribute("aria-live", clock ? "off" : "polite");
    missing.textContent = there ? "" : found.why;
    one.querySelector(".tools").hidden = !there;
    if (!there) return image?.remove();
    const shown_by = image ?? one.insertBefore(make("img"), one.lastChild);
    shown_by.alt = found.alt;
    if (shown_by.getAttribute("src") !== found.url) shown_by.src = found.url;
    const [link, button] = one.querySelector(".tools").children;
    link.href = found.url;
    link.download = `${found.title.replace(/[^\w.-]+/g, "-")}.png`;
    link.setAttribute("aria-label", `Download ${found.title}`);
    button.setAttribute("aria-label", `${found.title} in full screen`);
  };
  const fill_sides = (sides) => {
    const nothing = [{ title: "", why: shown.why }];
    const found = shown.steps.length ? [...cells.slice(0, shown.sides), ...cells.slice(shown.rows.length)] : nothing;
    while (sides.children.length > found.length) sides.lastChild.remove();
    while (sides.children.length < found.length) sides.append(figure(sides.children.length));
    found.forEach((one, at) => fill_side(sides.children[at], one));
    sides.filled = cells;
  };
  const fill_wipe = (wipe) => {
    const two = shown.pair.map((at) => cells[at]), missing = two.filter((one) => !one.url).map((one) => one.why);
    const text = byId("wipe-text");
    wipe.filled = cells;
    if (shown.pair.length < 2 || missing.length) {
      wipe.replaceChildren();
      text.textContent = shown.why || missing.join(" ") || "The wipe needs two runs.";
      return;
    }
    if (wipe.children.length !== 2) wipe.replaceChildren(make("img"), make("img", { className: "over" }));
    two.forEach((one, at) => Object.assign(wipe.children[at], { alt: one.alt, src: one.url }));
    text.replaceChildren("left: ", make("b", { textContent: two[0].title }), " \u00a0 right: ",
      make("b", { textContent: two[1].title }));
    wipe_at(byId("wipe-at")?.querySelector("input")?.value ?? 50);
  };
  const wipe_at = (share) => document.querySelector("#wipe .over")?.style.setProperty("clip-path", `inset(0 0 0 ${share}%)`);
  const fill = () => {
    if (!shown || !cells) return;
    const [sides, wipe] = [byId("sides"), byId("wipe")];
    if (sides && sides.filled !== cells) fill_sides(sides);
    if (wipe && wipe.filled !== cells) fill_wipe(wipe);
  };

  // Moves.
  const go = (to) => {
    if (!shown?.steps.length) return;
    const next = Math.min(Math.max(0, to), shown.steps.length - 1);
    if (next === place) return;
    place = next;
    draw();
  };
  const play = (on) => {
    clearInterval(clock);
    clock = on ? setInterval(() => go(place + 1 < shown.steps.length ? place + 1 : 0), PLAYS_EVERY) : null;
    show_place();
  };
  const take = (manifest) => {
    const step = wanted_step ?? (shown?.steps.length ? shown.steps[place] : Infinity);
    const away = (at) => (step === Infinity ? -manifest.steps[at] : Math.abs(manifest.steps[at] - step));
    shown = manifest;
    cells = null; // those belong to the manifest before
    wanted_step = manifest.steps.length || step === Infinity ? null : step; // for when there are steps again
    place = manifest.steps.reduce((best, _, at) => (away(at) < away(best) ? at : best), 0);
    if (manifest.steps.length < 2 && clock) play(false);
    draw();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#earlier, #later, #play, #sides .tools button");
    if (!button) return;
    if (button.id === "earlier") go(place - 1);
    else if (button.id === "later") go(place + 1);
    else if (button.id === "play") play(!clock);
    else button.closest("figure").querySelector("img").requestFullscreen?.();
  });
  document.addEventListener("input", (event) => {
    if (event.target.matches?.("#step input")) go(Number(event.target.value));
    else if (event.target.matches?.("#wipe-at input")) wipe_at(event.target.value);
  });
  const drag = (event) => {
    const wipe = event.buttons === 1 && event.target.closest?.("#wipe"), at = byId("wipe-at")?.querySelector("input");
    if (!wipe || !at) return;
    const box = wipe.getBoundingClientRect();
    at.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    wipe_at(at.value);
    event.preventDefault();
  };
  for (const kind of ["pointerdown", "pointermove"]) document.addEventListener(kind, drag);
  document.addEventListener("keydown", (event) => { // wherever arrows have no other meaning
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const own = "input, textarea, select, [role=tab], [role=listbox], [role=option], [role=slider], [contenteditable]";
    if (!move || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(own)) return;
    if (byId("earlier")?.offsetParent) { go(place + move); event.preventDefault(); }
  });

  // What is shown stands in the address. A step takes the place of the one before; all else is a place to go back to.
  let wanted = null, first = true; // while the page is on its way to what the address says, nothing is written
  const open_one = (names, where) => {
    const all = [...document.querySelectorAll(`${where} > .tab-wrapper [role=tablist] > [role=tab]`)];
    return names[all.findIndex((one) => one.getAttribute("aria-selected") === "true")];
  };
  const without = (text, ...names) => {
    const found = new URLSearchParams(text);
    names.forEach((name) => found.delete(name));
    return found.toString();
  };
  const chosen_now = () => byId("address")?.querySelector("[data-address]")?.dataset;
  const write_address = () => {
    const chosen = chosen_now()?.address, tab = open_one(TABS, "#tabs");
    if (chosen === undefined || !tab || !shown) return;
    const step = shown.steps.length ? `&step=${shown.steps[place]}` : "";
    const now = new URLSearchParams(`${chosen}${step}&tab=${tab}`).toString();
    if (now === new URLSearchParams(location.search).toString()) { wanted = null; first = false; return; }
    if (wanted !== null) return;
    const same = first || without(now, "step") === without(location.search, "step");
    history[same ? "replaceState" : "pushState"](null, "", `?${now}`);
    first = false;
  };
  const want = () => {
    wanted = location.search;
    const step = new URLSearchParams(location.search).get("step");
    wanted_step = step !== null && /^\d{1,16}$/.test(step) ? Number(step) : null;
    setTimeout(() => { wanted = null; write_address(); }, 8000); // what it names may be gone
  };
  if (location.search) want();
  addEventListener("popstate", () => {
    first = true;
    want();
    byId("restore")?.click();
    const same = without(location.search, "step", "tab") === without(chosen_now()?.address ?? "");
    if (same && shown) take(shown); // the server has nothing new to say
  });
  for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => { wanted = null; }, true);

  // What is chosen comes from the server's menus; what belongs to it is then asked for. Tabs are drawn while they are open.
  const follow = async () => {
    const early = byId("early"), begun = early?.querySelector("script"), now = chosen_now();
    if (asked === "" && begun && (early.nextSibling || document.readyState !== "loading")) { // it came as a whole
      const sent = JSON.parse(begun.textContent);
      asked = `${sent.address}#${sent.state}`;
      take(sent.manifest);
    }
    if (!now || asked === `${now.address}#${now.state}`) return;
    const mine = (asked = `${now.address}#${now.state}`);
    try {
      const answer = await fetch(`compare.json?${now.address}`);
      if (!answer.ok) throw new Error((await answer.text()) || `The server answered ${answer.status}.`);
      const manifest = await answer.json();
      if (mine === asked) take(manifest);
    } catch (error) {
      if (mine === asked) take({ steps: [], rows: [], pair: [], sides: 0, real: null, span: "", why: String(error.message) });
    }
  };
  const redraw = (again) => {
    const tab = open_one(TABS, "#tabs"), part = open_one(PARTS, "#parts");
    const name = tab === "compare" ? (part === "grid" ? "redraw-grid" : "") : tab && `redraw-${tab}`, button = byId(name);
    const now = `${tab} ${part} ${asked} ${tab === "curves" ? shown?.steps[place] : ""}`;
    if ((now === drawn && !again) || (name && !button)) return; // a tab's inside comes a moment after it is opened
    drawn = now;
    if (button) setTimeout(() => button.click(), 0); // after Gradio has heard of what is chosen
  };
  // The server may have sent the page without what is chosen: it took too long, or Gradio's own page came.
  let pressed = false, looks = 0;
  const restore = () => {
    const button = byId("restore");
    if (!button || chosen_now()) return;
    pressed = true;
    setTimeout(() => button.click(), 0);
  };
  let known = null, asking = false;
  setInterval(async () => {
    const address = chosen_now();
    if (document.hidden || asking) return;
    if (!address) {
      if (++looks % 4 === 0) restore();
      return;
    }
    if (open_one(TABS, "#tabs") === "train") redraw(true); // one that starts or ends changes no file of a run
    asking = true;
    const now = await fetch("state").then((answer) => (answer.ok ? answer.text() : ""), () => "");
    asking = false;
    if (!now || now === chosen_now()?.state || now === known) return;
    known = now; // asked for once, even if its answer is late
    byId("refresh")?.click();
  }, LOOKS_EVERY);

  const look = () => {
    const early = byId("early"), tab = open_one(TABS, "#tabs"), real = document.querySelector(".gradio-container #sides");
    follow();
    if (early && tab && (real || tab !== "compare")) { // Gradio's page is there
      const focus = early.contains(document.activeElement) ? document.activeElement.id : "";
      early.remove();
      if (focus) byId(focus)?.focus();
    }
    if (tab && !pressed && asked.length < 2) restore(); // a page with an address has it in `asked` by now
    const news = ["#step input", "#opened input"].map((one) => document.querySelector(one)).filter((one) => one && !one.told);
    if (shown && news.length) {
      news.forEach((one) => { one.told = true; });
      show_place();
    }
    fill();
    write_address();
    redraw(false);
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true,
    attributeFilter: ["data-address", "data-state", "aria-selected"] });
})();
