// What scale.js, game.js and sliders.js share: a frame around a viewer that follows the page's colours without
// asking for them, and groups of radio buttons whose words can be read.

const CHOICE_STYLE = `
:host { display: block; container-type: inline-size; }
.frame {
  --text: var(--pst-color-text-base, var(--jp-ui-font-color1, var(--vscode-foreground, CanvasText)));
  --ground: var(--pst-color-background, var(--jp-layout-color0, var(--vscode-editor-background, Canvas)));
  --quiet: color-mix(in srgb, var(--text) 72%, var(--ground));
  --line: color-mix(in srgb, var(--text) 22%, var(--ground));
  --edge: color-mix(in srgb, var(--text) 60%, var(--ground));
  --soft: color-mix(in srgb, var(--text) 6%, var(--ground));
  background: var(--ground); color: var(--text); display: grid; font: 14px/1.45 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; gap: .75rem; grid-template-columns: minmax(0, 1fr);
  max-width: 64rem; overflow-wrap: anywhere; text-align: left;
}
.frame * { box-sizing: border-box; }
.frame [hidden] { display: none !important; }
p { margin: 0; max-width: 46rem; }
.title { font-size: 1.1em; font-weight: 600; }
.quiet { color: var(--quiet); font-size: 13px; }
fieldset { border: 1px solid var(--line); border-radius: 6px; margin: 0; min-width: 0; padding: .35rem .7rem .6rem; }
legend { font-weight: 600; padding: 0 .35rem; }
.options { display: flex; flex-wrap: wrap; gap: .3rem; }
.options label { align-items: center; border: 1px solid var(--line); border-radius: 4px; cursor: pointer;
  display: flex; gap: .4rem; min-height: 30px; min-width: 0; padding: .15rem .55rem .15rem .4rem; }
.options label:hover { border-color: var(--edge); }
.options label:has(:checked) { background: var(--soft); border-color: var(--text); box-shadow: inset 0 0 0 1px var(--text); }
.options label:has(:focus-visible) { outline: 2px solid var(--text); outline-offset: 2px; }
.options label:has(:disabled) { cursor: default; }
.options small { color: var(--quiet); font-size: 12px; }
/* drawn here, since the browser's own follow the system's theme and not the page's */
input[type=radio], input[type=checkbox] { appearance: none; background: var(--ground); border: 1.5px solid var(--edge);
  border-radius: 50%; flex: none; height: 14px; margin: 0; outline: 0; width: 14px; }
input[type=checkbox] { border-radius: 3px; }
input:checked { background: radial-gradient(var(--text) 0 4px, transparent 4.6px); }
input[type=checkbox]:checked { background: linear-gradient(var(--text), var(--text)) center / 8px 8px no-repeat; }
button { background: var(--soft); border: 1px solid var(--edge); border-radius: 4px; color: var(--text); cursor: pointer;
  font: inherit; min-height: 32px; padding: .25rem .8rem; }
button.main { background: var(--text); border-color: var(--text); color: var(--ground); }
button:hover { border-color: var(--text); }
button:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--text); outline-offset: 2px; }
.title:focus { outline: 0; }
.row { align-items: center; display: flex; flex-wrap: wrap; gap: .5rem; }
`;

let groups = 0;

// A fieldset of radio buttons. `options` are [value, text, small text]; `pick` gets the value chosen.
const radios = (legend, options, pick, { about } = {}) => {
  const name = `group-${groups += 1}`;
  const inputs = options.map(([value]) => make("input", { type: "radio", name, value }));
  inputs.forEach((input) => input.addEventListener("change", () => pick(input.value)));
  const labels = options.map(([, text, small], i) =>
    make("label", {}, inputs[i], make("span", {}, text), ...(small ? [make("small", {}, small)] : [])));
  const said = about ? [make("p", { class: "quiet", id: `${name}-about` }, about)] : [];
  const root = make("fieldset", { "aria-describedby": about ? `${name}-about` : undefined },
    make("legend", {}, legend), ...said, make("div", { class: "options" }, ...labels));
  return {
    root, inputs,
    show: (value) => inputs.forEach((input) => { input.checked = input.value === String(value ?? ""); }),
  };
};

// a frame with a shadow of its own in `el`; what the theme does to outputs is undone
const framed = (el, style, label) => {
  const host = make("div", { "data-lm-suppress-shortcuts": "true" });
  const root = make("section", { class: "frame", "aria-label": label });
  host.attachShadow({ mode: "open" }).append(make("style", {}, CHOICE_STYLE + style), root);
  el.replaceChildren(host);
  return { host, root };
};

const fromPage = (el) => {
  for (const name of ["background", "padding"]) el.closest(".output.text_html")?.style.setProperty(name, "0");
  return JSON.parse(el.querySelector("script[type='application/json']").textContent);
};

// what stays as it was when the next viewer takes the place of the last one
const KEPT = ["window_centre", "window_width", "show_contours", "show_consensus", "hidden_readers", "orthogonal", "linked"];

// Shows one set of panels after the other in `place`, each in a viewer of its own; what is not shown
// is not unpacked.
const stage = (place, data, first) => {
  const kept = { linked: false, ...first };  // each nodule starts at its own largest slice
  let viewer = null;
  return {
    get viewer() { return viewer; },
    show(panels, label, now = {}) {
      this.clear();
      if (!panels.length) return;
      viewer = mountViewer(place, { panels, colours: data.colours, map: data.map, signed: data.signed },
                           // on a phone picture and questions are to be seen together
                           { state: { ...kept, ...now }, controls: place.clientWidth > 544 });
      viewer.root.setAttribute("aria-label", label);  // a nodule may be shown in several places
    },
    clear() {
      for (const key of viewer ? KEPT : []) kept[key] = viewer.model.get(key);
      viewer?.destroy();
      viewer = null;
    },
  };
};
