// "Be the reader": rate one nodule after the other, then see how far off the readers one is. The
// model has `phase` (start, rate, result), `chosen`, `reveal`, `at`, `answers` (lesion id to attribute
// to code) and `seen` (ids whose readers have been shown, and whose answers therefore stand).

const GAME_STYLE = `
.ratings { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.body { display: grid; gap: .75rem; grid-template-columns: minmax(0, 1fr); }
.options { margin-top: .35rem; }
.readers { margin-top: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
caption { font-weight: 600; padding-bottom: .3rem; text-align: left; }
th, td { overflow-wrap: normal; border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; vertical-align: baseline; }
th:first-child, .words { text-align: left; }
thead th { color: var(--quiet); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 500; white-space: nowrap; }
tr.mean > * { border-top: 2px solid var(--edge); font-weight: 600; }
.bar { background: var(--edge); display: block; height: 4px; margin: 3px 0 0 auto; min-width: 1px; }
.bar.own { background: repeating-linear-gradient(90deg, var(--text) 0 4px, transparent 4px 6px); }
summary { cursor: pointer; font-weight: 600; }
`;

const GAME_START = { phase: "start", chosen: [], reveal: true, at: 0, answers: {}, seen: [] };

const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const given = (readings) => readings.filter((value) => value !== null);

// The measure of Fu 2021's row "IB": the mean absolute difference of two readers, over all pairs of
// all nodules. `you` pairs the player with each reader, `constant` somebody whose answer never
// changes. score() in game.py gives the same numbers.
export const scoreOf = (data, answers) => data.attributes.map((attribute) => {
  const off = { you: [], constant: [], readers: [] };
  let nodules = 0;
  for (const { id, readings } of data.nodules) {
    const answer = answers[id]?.[attribute.name];
    const others = given(readings[attribute.name]);
    if (answer === undefined || !others.length) continue;
    nodules += 1;
    others.forEach((value, i) => {
      off.you.push(Math.abs(answer - value));
      off.constant.push(Math.abs(attribute.constant - value));
      for (const second of others.slice(i + 1)) off.readers.push(Math.abs(second - value));
    });
  }
  return { attribute, nodules, pairs: off.you.length, you: average(off.you), readers: average(off.readers), constant: average(off.constant) };
});

const FEWEST = 5;  // nodules that a band is told for

// Between which results nine in ten radiologists land on what was rated: of each nodule one of its
// readers, drawn by chance, plays against the others, in games that are the same on every visit.
export const bandOf = (data, answers, games = 1000) => {
  const rated = data.nodules.filter(({ id }) => answers[id] && Object.keys(answers[id]).length);
  if (rated.length < FEWEST) return null;
  let state = 1;
  const random = () => {  // the minimal standard generator of Park and Miller
    state = state * 48271 % 2147483647;
    return state / 2147483647;
  };
  const results = Array.from({ length: games }, () => {
    const drawn = rated.map(({ readings }) => Math.floor(random() * Object.values(readings)[0].length));
    const means = data.attributes.map(({ name }) => average(rated.flatMap(({ id, readings }, i) => {
      const all = readings[name], own = all[drawn[i]];
      if (!(name in answers[id]) || own === null) return [];
      return given(all.filter((_, reader) => reader !== drawn[i])).map((value) => Math.abs(value - own));
    }))).filter(Number.isFinite);
    return average(means);
  }).filter(Number.isFinite).sort((a, b) => a - b);
  return results.length ? [0.05, 0.95].map((share) => results[Math.round(share * (results.length - 1))]) : null;
};

const bandWords = ([low, high], you, constant) => {
  const where = you < low ? "You are below that: nearer to the readers than they are to each other."
    : you > high ? "You are above that: farther from the readers than they are from each other."
    : "You are inside: by this measure you cannot be told from one of them.";
  return `Radiologists differ, too. When one reader of each of these nodules plays against the others, nine results in ten lie between ${decimals(low)} and ${decimals(high)} (5 % to 95 %). ${where} Always the same answer comes to ${decimals(constant)}.`;
};

const SAME = "that same answer";

const decimals = (value) => (Number.isFinite(value) ? value.toFixed(2) : "–");

export const mountGame = (el, data, options = {}) => {
  const model = options.model ?? localModel({ ...GAME_START, chosen: data.chosen, ...options.state });
  const { host, root } = framed(el, GAME_STYLE, data.title);
  const get = (key) => model.get(key);
  const set = (values) => {
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
  };
  const chosen = () => data.attributes.filter(({ name }) => get("chosen").includes(name));
  const answersOf = (id) => get("answers")[id] ?? {};
  const rated = () => data.nodules.filter(({ id }) => Object.keys(answersOf(id)).length);
  const button = (text, press, main = false) => {
    const made = make("button", { type: "button", class: main ? "main" : "" }, text);
    made.addEventListener("click", press);
    return made;
  };

  // the words above everything; they get the focus when something else comes
  const title = make("p", { class: "title", tabindex: -1 });
  const lead = make("p", { class: "quiet" });
  const place = make("div");
  const body = make("div", { class: "body" });
  const said = make("p", { class: "quiet", role: "status" });
  const buttons = make("div", { class: "row" });
  root.append(title, lead, place, body, said, buttons);
  const shown = stage(place, data, data.state);
  let sync = () => {};  // shows what the model says where only a control has changed
  let last = null;

  const fill = (heading, words, parts, row) => {
    title.textContent = heading;
    lead.textContent = words;
    body.replaceChildren(...parts);
    buttons.replaceChildren(...row);
    said.textContent = "";
    sync = () => {};
  };

  // -- start ---------------------------------------------------------------------------
  const start = () => {
    shown.clear();
    const boxes = data.attributes.map(({ name, title: text }) => {
      const box = make("input", { type: "checkbox", value: name });
      box.addEventListener("change", () => set({ chosen: boxes.filter(([b]) => b.checked).map(([b]) => b.value) }));
      return [box, make("label", {}, box, make("span", {}, text))];
    });
    const when = radios("When do you want to see what the readers said?",
      [["true", "after each nodule"], ["false", "at the end"]], (value) => set({ reveal: value === "true" }));
    const begin = button(rated().length ? "Go on" : "Start", () => set({ phase: "rate" }), true);
    fill(data.title, `${data.intro} Your answers stay in this page: nothing is sent anywhere.`,
      [make("fieldset", {}, make("legend", {}, "Which attributes will you rate?"),
            make("div", { class: "options" }, ...boxes.map(([, label]) => label))), when.root], [begin]);
    sync = () => {
      boxes.forEach(([box]) => { box.checked = get("chosen").includes(box.value); });
      when.show(get("reveal"));
      begin.disabled = !get("chosen").length;
    };
    sync();
  };

  // -- rate ----------------------------------------------------------------------------
  const answer = (id, name, value) => {
    const own = { ...answersOf(id) };
    if (value === "") delete own[name];
    else own[name] = Number(value);
    const all = { ...get("answers"), [id]: own };
    if (!Object.keys(own).length) delete all[id];
    set({ answers: all });
  };

  const readersWords = ({ words, nominal }, values) => {
    const named = Object.fromEntries(words);
    const list = given(values).map((value) => `${value} ${named[value] ?? ""}`.trim());
    return `Readers: ${list.join(", ")}${nominal ? "" : ` (mean ${decimals(average(given(values)))})`}`;
  };

  const go = (at) => (at < data.nodules.length ? set({ at: Math.max(0, at) }) : set({ phase: "result" }));

  const rate = () => {
    const at = clamp(get("at"), 0, data.nodules.length - 1);
    const nodule = data.nodules[at];
    const heading = `Nodule ${at + 1} of ${data.nodules.length}`;
    const open = !get("seen").includes(nodule.id);
    // the outlines are what the readers say of the edge: they come with their answers
    shown.show([{ ...nodule.panel, title: heading }], heading, { show_contours: !open });
    const parts = chosen().map((attribute) => {
      const group = radios(attribute.title,
        [...attribute.words.map(([code, word]) => [code, `${code} ${word}`]), ["", "no answer"]],
        (value) => answer(nodule.id, attribute.name, value), { about: attribute.meaning });
      if (!open) {
        group.root.append(make("p", { class: "readers" }, readersWords(attribute, nodule.readings[attribute.name])));
        group.inputs.forEach((input) => { input.disabled = true; });
      }
      return { attribute, group };
    });
    const next = () => {
      if (open && get("reveal") && Object.keys(answersOf(nodule.id)).length) set({ seen: [...get("seen"), nodule.id] });
      else go(at + 1);
    };
    const forward = button("", next, true);
    const words = () => {
      const any = Object.keys(answersOf(nodule.id)).length > 0;
      if (open && any && get("reveal")) return "Compare with the readers";
      if (at === data.nodules.length - 1) return "See the result";
      return any || !open ? "Next nodule" : "Skip this nodule";
    };
    fill(heading, open ? data.hint : "Your answers stand; below each are the readers', and the picture has their outlines.",
      [make("div", { class: "ratings" }, ...parts.map(({ group }) => group.root))],
      [forward, ...(at ? [button("Back", () => go(at - 1))] : []), button("Stop and see the result", () => set({ phase: "result" }))]);
    sync = () => {
      parts.forEach(({ attribute, group }) => group.show(answersOf(nodule.id)[attribute.name]));
      forward.textContent = words();
      const done = rated().length;
      said.textContent = `${done} of ${data.nodules.length} nodules rated`;
    };
    sync();
  };

  // -- result --------------------------------------------------------------------------
  const result = () => {
    shown.clear();
    const rows = scoreOf(data, get("answers")).filter((row) => row.pairs);
    const left = data.nodules.length - rated().length;
    const row = [
      ...(left ? [button("Go on rating", () => set({ phase: "rate", at: data.nodules.findIndex(({ id }) => !(id in get("answers"))) }), true)] : []),
      button("Look at the nodules again", () => set({ phase: "rate", at: 0 })),
      button("Start again", () => set({ ...GAME_START, chosen: get("chosen"), reveal: get("reveal") })),
    ];
    if (!rows.length) {
      fill("Nothing to compare yet", "You have not rated a nodule.", [], row);
      return;
    }
    const of = (values) => average(values.filter(Number.isFinite));
    const you = of(rows.map((r) => r.you)), readers = of(rows.map((r) => r.readers));
    const band = bandOf(data, get("answers"));
    fill(`You differ from a reader by ${decimals(you)} steps; two readers of the same nodules by ${decimals(readers)}`,
      `Mean over ${rows.length} ${rows.length === 1 ? "attribute" : "attributes"} and ${rated().length} of ${data.nodules.length} nodules. ${data.outro}`,
      [...(band ? [make("p", {}, bandWords(band, you, of(rows.map((r) => r.constant))))] : []), table(rows), details()], row);
  };

  const cell = (value, kind, largest) => {
    const bar = make("span", { class: kind });
    bar.style.width = `${largest ? 3.5 * value / largest : 0}rem`;
    return make("td", {}, decimals(value), ...(Number.isFinite(value) ? [bar] : []));
  };

  const table = (rows) => {
    const largest = Math.max(...rows.flatMap((r) => [r.you, r.readers, r.constant].filter(Number.isFinite)));
    const heads = ["attribute", "nodules", "your answer against one reader", "one reader against another, same nodules",
      "always the same answer against one reader", SAME, ...data.references];
    const line = (r) => make("tr", {}, make("th", { scope: "row" }, r.attribute.title), make("td", {}, String(r.nodules)),
      cell(r.you, "bar own", largest), cell(r.readers, "bar", largest), cell(r.constant, "bar", largest),
      make("td", { class: "words" }, String(r.attribute.constant)),
      ...r.attribute.references.map((value) => make("td", {}, decimals(value ?? NaN))));
    const of = (values) => average(values.filter(Number.isFinite));
    const mean = make("tr", { class: "mean" }, make("th", { scope: "row" }, "mean"), make("td"),
      ...["you", "readers", "constant"].map((key) => make("td", {}, decimals(of(rows.map((r) => r[key]))))), make("td"),
      ...data.references.map((_, i) => make("td", {}, decimals(of(rows.map((r) => r.attribute.references[i] ?? NaN))))));
    return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Your result, a table" },
      make("table", {}, make("caption", {}, "Mean absolute difference, in steps of the scale"),
        make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col", class: text === SAME ? "words" : "" }, text)))),
        make("tbody", {}, ...rows.map(line), mean)));
  };

  const details = () => {
    const lines = rated().flatMap(({ id, readings }) => data.attributes.filter(({ name }) => name in answersOf(id)).map((attribute) =>
      make("tr", {}, make("th", { scope: "row" }, `${data.nodules.findIndex((n) => n.id === id) + 1} · ${id}`), make("td", { class: "words" }, attribute.title),
        make("td", {}, String(answersOf(id)[attribute.name])), make("td", {}, given(readings[attribute.name]).join(", ")))));
    return make("details", {}, make("summary", {}, "Nodule by nodule"),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Nodule by nodule, a table" },
        make("table", {}, make("thead", {}, make("tr", {}, ...["nodule", "attribute", "you", "readers"].map((text) => make("th", { scope: "col", class: text === "attribute" ? "words" : "" }, text)))),
          make("tbody", {}, ...lines))));
  };

  // -- what the model tells, whoever changed it ------------------------------------------
  const keep = () => {
    try {
      const state = Object.fromEntries(Object.keys(GAME_START).map((key) => [key, get(key)]));
      if (options.store) sessionStorage.setItem(options.store, JSON.stringify(state));
    } catch { /* a page from disk may have no storage: then a reload begins anew */ }
  };
  const draw = () => {
    const now = JSON.stringify([get("phase"), get("phase") === "rate" && [get("at"), get("chosen"), get("seen")], get("phase") === "result" && get("answers")]);
    if (now !== last) {
      const first = last === null;
      last = now;
      ({ start, rate, result }[get("phase")] ?? start)();
      if (!first) title.focus();
    } else sync();
    keep();
  };
  // several values change together: drawn once, when all have
  let asked = false, gone = false;
  const later = () => {
    if (!asked) queueMicrotask(() => { asked = false; if (!gone) draw(); });
    asked = true;
  };
  for (const key of Object.keys(GAME_START)) model.on(`change:${key}`, later);
  draw();
  const destroy = () => {
    gone = true;
    for (const key of Object.keys(GAME_START)) model.off(`change:${key}`, later);
    shown.clear();
    host.remove();
  };
  host.game = { model, root, destroy, score: () => scoreOf(data, get("answers")), band: () => bandOf(data, get("answers")), get viewer() { return shown.viewer; } };
  return host.game;
};

// what an earlier visit in this tab left, if it still fits
const stored = (store, data) => {
  try {
    const state = JSON.parse(sessionStorage.getItem(store) ?? "{}");
    const ids = new Set(data.nodules.map(({ id }) => id));
    return Object.keys(state.answers ?? {}).every((id) => ids.has(id)) ? state : {};
  } catch {
    return {};
  }
};

export const mountGamePage = (el) => {
  const { data, state } = fromPage(el);
  const store = `lesionlab-game-${data.key}`;
  return mountGame(el, data, { state: { ...state, ...stored(store, data) }, store });
};

// for anywidget
const renderGame = ({ model, el }) => {
  const game = mountGame(el, model.get("_data"), { model });
  return () => game.destroy();
};
export default { render: renderGame };
