// The viewer: mountViewer(el, data, options) for whoever builds on it, render() for anywidget,
// mountPage() for pages. All that can be changed lives in a model with get, set, on, off and
// save_changes: Jupyter's, or the stand-in below where there is no kernel.

const STYLE = `
:host { display: block; container-type: inline-size; }
.viewer {
  --text: var(--pst-color-text-base, var(--jp-ui-font-color1, var(--vscode-foreground, CanvasText)));
  --ground: var(--pst-color-background, var(--jp-layout-color0, var(--vscode-editor-background, Canvas)));
  --quiet: color-mix(in srgb, var(--text) 72%, var(--ground));
  --line: color-mix(in srgb, var(--text) 22%, var(--ground));
  --soft: color-mix(in srgb, var(--text) 6%, var(--ground));
  --accent: #0072b2;
  background: var(--ground); color: var(--text); border: 1px solid var(--line); border-radius: 6px;
  box-sizing: border-box; display: grid; gap: 0 1.25rem; font: 13px/1.45 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; max-width: 46rem; padding: .75rem; text-align: left;
}
.viewer.dark { --accent: #56b4e9; }
.viewer.two { max-width: 64rem; }
.viewer * { box-sizing: border-box; }
.viewer [hidden] { display: none !important; }
.panels { display: grid; gap: 0 1rem; min-width: 0; grid-template-columns: minmax(0, 1fr); }
/* two rows, so that pictures side by side stand at one height under titles of any length */
.panel { align-content: start; display: grid; grid-row: span 2; grid-template-columns: minmax(0, 1fr);
  grid-template-rows: subgrid; min-width: 0; overflow-wrap: anywhere; }
.panel + .panel { margin-top: 1rem; }
p { margin: 0; }
.title { font-weight: 600; }
.quiet, .panel output { color: var(--quiet); }
.panel output { display: block; min-height: 1.45em; }
.planes { display: grid; gap: 3px; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); margin: .4rem 0 0; }
.planes canvas { background: #000; cursor: crosshair; display: block; width: 100%; touch-action: pan-y; }
.planes .axial { grid-column: 1 / -1; }
canvas:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible,
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.bars { display: block; height: 42px; width: 100%; margin-top: 6px; cursor: pointer; }
.bars.low { height: 8px; }
input[type=range] { accent-color: var(--accent); margin: 2px 0; width: 100%; min-width: 0; }
.slice { appearance: none; background: none; height: 18px; }
.slice::-webkit-slider-runnable-track { background: var(--line); border-radius: 2px; height: 4px; }
.slice::-moz-range-track { background: var(--line); border-radius: 2px; height: 4px; }
.slice::-webkit-slider-thumb { appearance: none; background: var(--accent); border-radius: 50%;
  height: 16px; margin-top: -6px; width: 16px; }
.slice::-moz-range-thumb { background: var(--accent); border: 0; border-radius: 50%; height: 16px; width: 16px; }
.row { align-items: center; display: flex; flex-wrap: wrap; gap: .3rem .6rem; margin-top: .3rem; }
.row > :not(button) { flex: 1 1 6.5rem; min-width: 0; }
label { display: block; min-width: 0; }
label.check { align-items: center; display: flex; gap: .4rem; padding: .1rem 0; }
label.check input { accent-color: var(--accent); flex: none; margin: 0; }
label > span { color: var(--quiet); display: block; font-size: 12px; }
label.check > span { color: inherit; font-size: inherit; }
select, input[type=number], button { background: var(--ground); border: 1px solid var(--line);
  border-radius: 4px; color: var(--text); font: inherit; max-width: 100%; min-height: 28px; padding: .1rem .35rem; }
select, input[type=number] { width: 100%; }
button { background: var(--soft); cursor: pointer; padding: .25rem .7rem; }
button:hover { border-color: var(--accent); }
.swatch { border-radius: 2px; flex: none; height: 4px; width: 18px; }
.swatch.consensus { background: repeating-linear-gradient(90deg, #fff 0 4px, #000 4px 7px); border: 1px solid #000; height: 5px; }
.scale { align-items: center; color: var(--quiet); display: flex; font-size: 12px; gap: .4rem; margin-top: .3rem; }
.scale canvas { border-radius: 2px; flex: 1 1 0; height: 10px; min-width: 3rem; width: 0; }
.controls { align-content: start; display: grid; gap: .55rem 1.25rem; min-width: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 12rem), 1fr)); margin-top: .75rem; }
fieldset { border: 0; border-top: 1px solid var(--line); margin: 0; min-width: 0; padding: .3rem 0 0; }
legend { float: left; font-weight: 600; padding: 0; width: 100%; }
legend ~ * { clear: both; }
.viewer:not(.two) .controls > :first-child { border-top: 0; padding-top: 0; }
.tools { display: flex; flex-wrap: wrap; gap: .3rem; margin-bottom: .4rem; }
.tools button { padding: .25rem .5rem; }
.tools output { align-self: center; min-width: 2.2rem; text-align: center; }
[aria-pressed=true] { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
details { border-top: 1px solid var(--line); grid-column: 1 / -1; margin-top: .75rem; padding-top: .3rem; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; gap: .1rem 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); margin: .3rem 0 0; }
dl > div { display: grid; gap: .6rem; grid-template-columns: 8.5rem 1fr; }
dt { color: var(--quiet); } dd { margin: 0; }
.ratings { display: grid; gap: 0 .5rem; grid-template-columns: minmax(5.4rem, auto) minmax(3rem, 1fr) auto auto; margin-top: .75rem; }
.ratings > div { align-items: center; border-top: 1px solid var(--line); display: grid; grid-column: 1 / -1; grid-template-columns: subgrid; }
.ratings > div:first-child { border-top: 0; color: var(--quiet); font-size: 12px; white-space: nowrap; }
.ratings canvas { display: block; height: 22px; width: 100%; }
.ratings .end { text-align: right; }
.notes { color: var(--quiet); font-size: 12px; margin: .5rem 0 0; padding-left: 1.1rem; }
.alert { border-left: 4px solid #d55e00; background: var(--soft); margin-top: .4rem; padding: .5rem .7rem; }
.away { height: 1px; overflow: hidden; position: absolute; width: 1px; clip-path: inset(50%); white-space: nowrap; }
.viewer:fullscreen { border: 0; max-width: none; overflow: auto; }
.viewer:fullscreen .planes { margin-inline: auto; max-width: calc((100vh - 15rem) * var(--shape)); }
@media (pointer: coarse) { .tools button { min-height: 38px; min-width: 38px; } }
@container (min-width: 34rem) {
  .two .panels { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
  .two .panel { margin-top: 0; }
  .viewer:not(.two) { grid-template-columns: minmax(0, 1fr) 12.5rem; }
  .viewer:not(.two) .controls { grid-template-columns: minmax(0, 1fr); margin-top: 0; }
}`;

export const localModel = (state) => {
  const listeners = new Map();
  return {
    get: (key) => state[key],
    set(key, value) {
      if (same(state[key], value)) return;
      state[key] = value;
      for (const listener of listeners.get(`change:${key}`) ?? []) listener();
    },
    on(name, listener) { listeners.set(name, [...(listeners.get(name) ?? []), listener]); },
    off(name, listener) { listeners.set(name, (listeners.get(name) ?? []).filter((l) => l !== listener)); },
    save_changes() {},
  };
};

const START = {
  slice: 0, other_slice: 0, cursor: [], other_cursor: [], window_centre: -600, window_width: 1500,
  method: "", head: "", other_method: "", other_head: "", opacity: 0.6, show_contours: true,
  show_consensus: false, hidden_readers: [], orthogonal: false, compare: false, linked: true,
  same_scale: true, zoom: 1, pan: [0, 0], probe: {}, other_probe: {}, error: "",
};

const KEYS = [
  ["↑ ↓, Page ↑ ↓", "slice by slice; Home, End: first, last"],
  ["wheel", "slice by slice, once you have clicked into the viewer; before that the page scrolls"],
  ["finger ← →", "slice by slice; ↑ ↓ scrolls the page"], ["+ −, Ctrl + wheel, pinch", "enlarge"],
  ["0", "lesion, whole slice"], ["drag, two fingers", "move the enlarged slice"],
  ["click, tap", "pin the probe; Escape removes it"], ["Shift + ↑ ↓ ← →", "move the probe"],
  ["Shift + drag", "window: ↔ width, ↕ centre"], ["W", "next window"], ["M, H", "next map, next of its ratings"],
  ["C", "outlines on and off"], ["F", "full screen"],
];

let turn = Promise.resolve();  // one viewer after another, so that the first can soon be used

// Shows `data` (see _html.py) in `el`.
//   options.model     a model as Jupyter's; else a stand-in is made, which starts at options.state
//   options.data      gives the data that hold now, where they can be replaced
//   options.controls  false folds the controls away, where there is no room for them
// Gives { model, ready, settled, draw, toPNG, destroy, root, volumes }: `ready` ends when all is
// unpacked and drawn, so does settled() after a change; draw() draws at once what is there; toPNG()
// gives a Blob; `root` is where more elements may be put, `volumes` hold the arrays.
export const mountViewer = (el, data, options = {}) => {
  const first = data.panels[0], last = data.panels.at(-1);
  const model = options.model ?? localModel({ ...START, slice: first.first, other_slice: last.first,
    compare: data.panels.length > 1, ...options.state });
  const host = make("div", { "data-lm-suppress-shortcuts": "true" });  // or JupyterLab takes the keys
  const shadow = host.attachShadow({ mode: "open" });
  const root = make("section", { class: "viewer", "aria-label": `Volume viewer: ${data.panels.map((p) => p.title).join(", ")}` });
  shadow.append(make("style", {}, STYLE), root);
  el.replaceChildren(host);

  let asked = 0, gone = false;
  const listeners = [];
  const schedule = () => { if (!asked && !gone) asked = requestAnimationFrame(draw); };
  // a kernel can put other data in the place of these: what still comes from here is about the old
  const stale = () => gone || (options.data !== undefined && options.data() !== data);
  const set = (key, value) => {
    if (stale() || same(model.get(key), value)) return;
    model.set(key, value);
    model.save_changes();
    schedule();
  };
  const presetName = () => {
    const now = [model.get("window_centre"), model.get("window_width")];
    return first.presets.find(([, ...window]) => same(window, now))?.[0] ?? "";
  };
  const preset = (name) => {
    const [, centre, width] = first.presets.find((p) => p[0] === name);
    set("window_centre", centre);
    set("window_width", width);
  };
  const fail = (error) => {
    set("error", error.message);
    alert.textContent = error.message;
    alert.hidden = false;
    panels.forEach((panel) => { panel.planes.hidden = true; panel.bars.hidden = true; });
    shadow.querySelectorAll("fieldset, .slice, select, .tools button").forEach((part) => { part.disabled = true; });
  };
  const arrived = (error) => (error ? fail(error) : schedule());
  const tables = { map: colourTable(data.map), signed: colourTable(data.signed) };
  const volumes = data.panels.map((panel) => new Volume(panel));
  // one map of two volumes, as before and after a change, can have one colour scale
  const alike = () => volumes.length > 1 && model.get("compare") && left.chosen && right.chosen &&
    ["method", "head"].every((key) => left.chosen[key] === right.chosen[key]);
  const limits = (map) => {
    if (!map || !model.get("same_scale") || !alike()) return map?.limits ?? [0, 1];
    const [low, high] = [Math.min, Math.max].map((of, i) => of(left.chosen.limits[i], right.chosen.limits[i]));
    return low < 0 ? [-Math.max(-low, high), Math.max(-low, high)] : [low, high];
  };
  const largest = Math.max(...data.panels.map(({ home }) => home[0]));
  const fitted = () => model.get("zoom") === 1 && same(model.get("pan"), [0, 0]);
  const whole = () => {
    set("zoom", fitted() ? 1 / largest : 1);
    set("pan", [0, 0]);
  };
  // where it is refused, or is not known as on some phones, everything stays as it is
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen?.())?.catch(() => {});
  const shared = { model, data, tables, set, preset, presetName, arrived, limits, whole, full };
  const panels = [new Panel(shared, volumes[0], ""), new Panel(shared, volumes.at(-1), "other_")];
  const [left, right] = panels;

  // -- controls for both panels
  const check = (key, text, ...before) => {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => set(key, box.checked));
    return { label: make("label", { class: "check" }, box, ...before, make("span", {}, text)), show: () => { box.checked = model.get(key); } };
  };
  const value = (key, text, attributes) => {
    const field = make("input", attributes);
    field.addEventListener(attributes.type === "range" ? "input" : "change", () => {
      const given = Number(field.value);
      if (field.value !== "" && Number.isFinite(given)) set(key, Math.max(given, attributes.min ?? -32768));
      schedule();
    });
    return { label: make("label", {}, make("span", {}, text), field), field,
             show: () => { if (shadow.activeElement !== field || attributes.type === "range") field.value = model.get(key); } };
  };
  const windows = make("select", { "aria-label": "Preset" }, ...first.presets.map(([name]) => make("option", { value: name }, name)),
                       make("option", { value: "" }, "own"));
  windows.addEventListener("change", () => windows.value && preset(windows.value));
  const readers = Math.max(first.readers, last.readers);
  const fields = {
    centre: value("window_centre", "Centre (HU)", { type: "number", step: 10 }),
    width: value("window_width", "Width (HU)", { type: "number", step: 10, min: 1 }),
    // for fingers
    centreSlider: value("window_centre", "", { type: "range", step: 10, min: -1000, max: 1000, "aria-label": "Window centre" }),
    widthSlider: value("window_width", "", { type: "range", step: 10, min: 10, max: 3000, "aria-label": "Window width" }),
    opacity: value("opacity", "Opacity", { type: "range", min: 0, max: 1, step: 0.05 }),
    contours: check("show_contours", "readers' outlines"),
    consensus: check("show_consensus", "consensus (≥ half)", make("i", { class: "swatch consensus" })),
    orthogonal: check("orthogonal", "coronal and sagittal"),
    compare: check("compare", volumes.length > 1 ? "second volume" : "compare two maps"),
    linked: check("linked", "linked scrolling"),
    same: check("same_scale", "same colour scale"),
  };
  const boxes = Array.from({ length: readers }, (_, reader) => {
    const box = make("input", { type: "checkbox" });
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = data.colours[reader % data.colours.length];
    box.addEventListener("change", () => {
      const hidden = model.get("hidden_readers").filter((r) => r !== reader);
      set("hidden_readers", box.checked ? hidden : [...hidden, reader].sort((a, b) => a - b));
    });
    return { box, label: make("label", { class: "check" }, box, swatch, make("span", {}, `reader ${reader + 1}`)) };
  });
  const group = (name, ...parts) => make("fieldset", {}, make("legend", {}, name), ...parts);
  const maps = data.panels.some((panel) => panel.maps.length);
  const save = make("button", { type: "button" }, "Save as PNG");
  save.addEventListener("click", async () => {
    const link = make("a", { download: `${first.title.replace(/[^\w.-]+/g, "_").slice(0, 80)}_slice_${left.slice + 1}.png`,
                             href: URL.createObjectURL(await toPNG()) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  const alert = make("p", { class: "alert", role: "alert", hidden: true });
  const tool = (text, press, attributes = {}) => {
    const button = make("button", { type: "button", ...attributes }, text);
    button.addEventListener("click", press);
    return button;
  };
  const enlarged = make("output", { "aria-label": "Enlarged" });
  const wholeTool = tool("", whole);
  const outlines = tool("Outlines", () => set("show_contours", !model.get("show_contours")), { hidden: !readers });
  const more = tool("More", () => {
    controls.hidden = !controls.hidden;
    more.setAttribute("aria-expanded", !controls.hidden);
  }, { hidden: options.controls !== false, "aria-expanded": "false" });
  const tools = make("div", { class: "tools", role: "group", "aria-label": "Picture" },
    tool("−", () => left.enlarge(left.zoom / 1.25), { "aria-label": "Zoom out" }), enlarged,
    tool("+", () => left.enlarge(left.zoom * 1.25), { "aria-label": "Zoom in" }), wholeTool, outlines,
    tool("Full screen", full, { hidden: !document.fullscreenEnabled }), more);
  const upright = volumes.some((volume) => volume.depth > 1);
  fields.orthogonal.label.hidden = !upright;
  fields.compare.label.hidden = volumes.length < 2 && !maps;
  const controls = make("div", { class: "controls", hidden: options.controls === false },
    group("Window", make("label", {}, make("span", {}, "Preset"), windows),
          make("div", { class: "row" }, make("div", {}, fields.centre.label, fields.centreSlider.field),
               make("div", {}, fields.width.label, fields.widthSlider.field))),
    ...(maps ? [group("Attention", fields.opacity.label, fields.same.label)] : []),
    ...(readers ? [group("Outlines", fields.contours.label, ...boxes.map((b) => b.label), fields.consensus.label)] : []),
    group("View", fields.orthogonal.label, fields.compare.label, fields.linked.label, make("div", { class: "row" }, save)));
  const help = make("details", {}, make("summary", {}, "Keys and mouse"),
    make("dl", {}, ...KEYS.map(([key, what]) => make("div", {}, make("dt", {}, key), make("dd", {}, what)))));
  root.append(make("div", {}, alert, tools, make("div", { class: "panels" }, left.root, right.root)), controls, help);

  const ink = () => {
    const style = getComputedStyle(root);
    const rgb = style.backgroundColor.match(/[\d.]+/g).map(Number);
    const scaled = style.backgroundColor.startsWith("color") ? rgb.map((c) => 255 * c) : rgb;
    const dark = 0.299 * scaled[0] + 0.587 * scaled[1] + 0.114 * scaled[2] < 128;
    root.classList.toggle("dark", dark);
    root.style.colorScheme = dark ? "dark" : "light";  // for the browser's own boxes and lists
    return { text: style.color, ground: style.backgroundColor, dark, accent: dark ? "#56b4e9" : "#0072b2", quiet: dark ? "#8c8c8c" : "#767676" };
  };
  let colours = null;

  function draw() {
    cancelAnimationFrame(asked);
    asked = 0;
    // Jupyter puts `el` into the page after render(): the observer of its size will draw then
    if (gone || !root.isConnected) return;
    colours ??= ink();
    const two = Boolean(model.get("compare")) && (volumes.length > 1 || maps);
    root.classList.toggle("two", two);
    right.root.hidden = !two;
    fields.linked.label.hidden = !two;
    fields.same.label.hidden = !alike();
    enlarged.value = `×${tidy(left.zoom, 2)}`;
    const [short, long] = fitted() || largest === 1 ? ["Whole", "Whole slice"] : ["Lesion", "Fit lesion"];
    wholeTool.textContent = short;
    wholeTool.setAttribute("aria-label", long);
    wholeTool.disabled = fitted() && largest === 1;
    outlines.setAttribute("aria-pressed", model.get("show_contours"));
    windows.value = presetName();
    Object.values(fields).forEach((field) => field.show());
    boxes.forEach(({ box }, reader) => {
      box.checked = !model.get("hidden_readers").includes(reader);
      box.disabled = !model.get("show_contours");
    });
    left.draw(colours);
    if (two) right.draw(colours);
  }

  // -- what the model tells, whoever changed it
  let linking = false;
  const link = (from, to, name) => () => {
    if (!linking && model.get("linked") && model.get("compare")) {
      linking = true;
      if (name === "slice") to.set("slice", linkedSlice(from, to, from.slice));
      else if (sameGrid(from.volume, to.volume)) to.set("cursor", from.get("cursor"));
      linking = false;
    }
  };
  const on = (key, listener) => { model.on(`change:${key}`, listener); listeners.push([`change:${key}`, listener]); };
  for (const name of ["slice", "cursor"]) {
    on(name, link(left, right, name));
    on(`other_${name}`, link(right, left, name));
  }
  for (const name of ["linked", "compare"]) on(name, link(left, right, "slice"));
  for (const key of Object.keys(START)) on(key, schedule);
  const resized = new ResizeObserver(schedule);
  resized.observe(root);
  const restyle = () => { colours = null; schedule(); };
  const themed = new MutationObserver(restyle);
  for (const part of [document.documentElement, document.body])
    themed.observe(part, { attributeFilter: ["class", "data-theme", "data-mode", "data-jp-theme-light", "style"] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", restyle);

  // until everything that is to be seen is unpacked and drawn
  const settled = async () => {
    draw();
    await Promise.all(volumes.map((volume) => volume.pending));
    draw();
  };
  const ready = turn.then(() => Promise.all(volumes.map((volume) => volume.load()))).then(settled, fail);
  turn = ready.then(() => new Promise((next) => { setTimeout(next); }));  // what was drawn is shown first
  link(left, right, "slice")();
  draw();

  const toPNG = async () => {
    await settled();
    const shown = panels.filter((panel) => !panel.root.hidden);
    const canvas = picture(shown, ink(), readers && model.get("show_contours") ? data.colours : []);
    return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  };
  const destroy = () => {
    gone = true;
    cancelAnimationFrame(asked);
    listeners.forEach(([name, listener]) => model.off(name, listener));
    resized.disconnect();
    themed.disconnect();
    scheme.removeEventListener("change", restyle);
    host.remove();
  };
  host.viewer = { model, ready, settled, draw, toPNG, destroy, root, volumes };
  return host.viewer;
};

// What is seen, with the words that a picture needs to be understood elsewhere.
const picture = (panels, ink, colours) => {
  const ratio = 2, wide = 420, pad = 12, line = 18;
  const uprightTall = (panel) => Math.max(0, ...panel.views().slice(1).map(([, plane]) => (wide / 2 - 2) / shapeOf(plane)));
  const axialTall = (panel) => wide / shapeOf(panel.views()[0][1]);
  const tall = (panel) => pad * 2 + 2 * line + axialTall(panel) + 4 + uprightTall(panel) + 50 + 8 * line +
    (1 + panel.volume.panel.ratings.length) * 24 + panel.volume.panel.notes.length * 2 * line;
  const canvas = make("canvas", { width: ratio * (pad + panels.length * (wide + pad)), height: ratio * Math.max(...panels.map(tall)) });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = ink.ground;
  context.fillRect(0, 0, canvas.width, canvas.height);
  let lowest = 0;
  panels.forEach((panel, number_) => {
    const { volume, slice, map } = panel;
    const left = pad + number_ * (wide + pad);
    let y = pad;
    const write = (text, bold = false) => {
      context.font = `${bold ? "600 " : ""}13px system-ui, sans-serif`;
      context.fillStyle = ink.text;
      context.fillText(text, left, y + 13, wide);
      y += line;
    };
    const paste = (width, height, paint, at = left) => {
      const part = make("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      paint(part);
      context.drawImage(part, at, y, width, height);
    };
    write(volume.panel.title, true);
    write(volume.panel.tier.text);
    const [look, marks] = [panel.look(), panel.marks()];
    panel.views().forEach(([own, plane, cross], i) => {
      const width = i ? wide / 2 - 2 : wide, height = width / shapeOf(plane);
      paste(width, height, (part) => drawPlane(part, volume, plane, look,
        { ...marks, cross, tag: i ? own.dataset.plane : marks.tag }, ratio), i === 2 ? left + wide / 2 + 2 : left);
      if (!i) y += height + 4;
    });
    y += uprightTall(panel) + 4;
    if (!panel.bars.hidden) {
      const height = volume.panel.weights ? 42 : 8;
      paste(wide, height, (part) => drawBars(part, volume, slice, ink, ratio, 8));
      y += height + 4;
    }
    write(`${sliceWords(volume, slice)} · window ${tidy(look.centre)} / ${tidy(look.width)} HU`);
    if (panel.get("cursor").length) write(panel.probe.value);
    if (map) {
      write(mapWords(map, look.limits));
      write(`colours from ${tidy(look.limits[0])} to ${tidy(look.limits[1])}, opacity ${tidy(look.opacity)}`);
      context.drawImage(panel.scale, left, y, wide / 2, 8);
      y += 14;
    }
    let x = left;
    marks.readers.forEach((reader) => {
      if (!colours.length) return;
      context.fillStyle = colours[reader % colours.length];
      context.fillRect(x, y + 7, 14, 4);
      context.fillStyle = ink.text;
      context.fillText(`reader ${reader + 1}`, x + 18, y + 13);
      x += 78;
      if (x > left + wide - 78) { x = left; y += line; }
    });
    if (marks.readers.length) y += line;
    (panel.strips ?? []).forEach((_, i) => {
      const rating = volume.panel.ratings[i];
      const words = ratingWords(rating);
      const top = y;
      y += 2;
      paste(150, 22, (part) => drawRating(part, rating, panel.shared.data.colours, ink, ratio), left + 100);
      y = top;
      write(rating.title);
      y = top;
      context.fillText(`model ${words.model} · readers ${words.readers}`, left + 258, y + 13, wide - 258);
      y = top + 24;
    });
    volume.panel.notes.forEach((note) => write(note));
    lowest = Math.max(lowest, y + pad);
  });
  const cut = make("canvas", { width: canvas.width, height: Math.ceil(lowest * ratio) });
  cut.getContext("2d").drawImage(canvas, 0, 0);
  return cut;
};

// for anywidget
const render = ({ model, el }) => {
  const data = () => model.get("_data");
  let viewer = null;
  const mount = () => {
    el.style.minHeight = `${el.offsetHeight}px`;  // or the notebook jumps
    viewer?.destroy();
    viewer = mountViewer(el, data(), { model, data });
    viewer.ready.then(() => { el.style.minHeight = ""; });
  };
  mount();
  model.on("change:_data", mount);
  return () => {
    model.off("change:_data", mount);
    viewer.destroy();
  };
};
export default { render };

// for pages: the element holds the data as JSON
export const mountPage = (el) => {
  const { data, state } = JSON.parse(el.querySelector("script[type='application/json']").textContent);
  // the theme puts outputs on a light ground in its dark mode
  for (const name of ["background", "padding"]) el.closest(".output.text_html")?.style.setProperty(name, "0");
  return mountViewer(el, data, { state });
};
