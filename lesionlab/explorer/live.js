// A lesion, and the model that can be woken to look at it anew: slices dropped, repeated and moved, regions
// painted over, HU cut. What it says then stands beside what it said before and what readers said.

const LIVE_STYLE = `
.alert { border-left: 4px solid #d55e00; background: var(--soft); padding: .5rem .7rem; }
.tools { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); }
.tools label { display: block; margin: .2rem 0; }
.tools .row { margin: .3rem 0; }
select, input[type=range] { max-width: 100%; width: 100%; }
select { background: var(--ground); border: 1px solid var(--edge); border-radius: 4px; color: var(--text); font: inherit; min-height: 30px; }
label.check { align-items: center; display: flex; gap: .4rem; }
progress { width: min(100%, 24rem); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
caption { color: var(--quiet); padding: .2rem 0; text-align: left; }
th, td { border-top: 1px solid var(--line); padding: .15rem .4rem; text-align: right; }
th:first-child { text-align: left; }
.moved { font-weight: 600; }
`;

const PLACE = ["slice", "other_slice", "cursor", "other_cursor", "method", "head", "other_method", "other_head", "opacity",
               "zoom", "pan", "same_scale"];
const BATCH = 4;  // slices between two steps of the progress bar
const MOST_KEPT = 400;  // features of so many slices, 64 KB each
const ALIKE = 0.01;  // rating steps; more says that this is not the model that Python asked

// the same numbers from 0 to 1 on every machine
const drawsOf = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

// Paints a disc of a slice: with one value, or with the disc's own voxels in another order.
const painted = (image, { y, x, radius, fill, seed }, [height, width]) => {
  const inside = [];
  for (let v = 0; v < height; v++)
    for (let u = 0; u < width; u++) if ((v - y) ** 2 + (u - x) ** 2 <= radius ** 2) inside.push(v * width + u);
  if (fill !== null) {
    for (const i of inside) image[i] = fill;
    return;
  }
  const values = inside.map((i) => image[i]), draw = drawsOf(seed);
  for (let i = values.length - 1; i > 0; i--) {
    const j = Math.floor(draw() * (i + 1));
    [values[i], values[j]] = [values[j], values[i]];
  }
  inside.forEach((i, k) => { image[i] = values[k]; });
};

// The stack of a change, and what the model says of it. `before` is the panel of the lesion as it is.
class LiveModel {
  constructor(data, stacks, run) {
    const [depth, height, width] = data.panel.shape;
    Object.assign(this, { data, stacks, run, depth, height, width, area: height * width, features: new Map() });
  }

  // { keys, images }: by slice of the changed stack what tells it from others, and its HU
  stack({ surroundings, order, duplicate, paints, low, high }) {
    const values = this.stacks[surroundings], made = new Map();
    const given = order.map((k) => (duplicate === null ? k : duplicate));
    const images = given.map((k) => {
      if (made.has(k)) return made.get(k);
      const image = values.slice(k * this.area, (k + 1) * this.area);
      for (const paint of paints) if (paint.slice === null || paint.slice === k) painted(image, paint, [this.height, this.width]);
      for (let i = 0; i < image.length; i++) image[i] = clamp(image[i], low, high);
      made.set(k, image);
      return image;
    });
    const keys = given.map((k) =>
      JSON.stringify([k, surroundings, low, high, paints.filter(({ slice }) => slice === null || slice === k)]));
    return { given, images, keys };
  }

  // What the model says of a stack; tell(share). Features of slices that it has seen are kept.
  async answer({ images, keys }, tell) {
    if (!images.length) throw new Error("All slices are dropped: the model has nothing to look at. Undo the changes, or go on from there.");
    if (images.some((image) => image.some((value) => !Number.isFinite(value))))
      throw new Error("The volume has voxels without a value (NaN): the model is not asked.");
    if (this.features.size > MOST_KEPT) this.features.clear();
    const fresh = [...new Set(keys)].filter((key) => !this.features.has(key));
    for (let start = 0; start < fresh.length; start += BATCH) {
      const some = fresh.slice(start, start + BATCH);
      const { features } = await this.run("trunk", "hu", joined(some.map((key) => images[keys.indexOf(key)])),
                                          [some.length, 1, this.height, this.width]);
      const size = features.data.length / some.length;
      this.inner = features.dims.slice(1);
      some.forEach((key, i) => this.features.set(key, features.data.slice(i * size, (i + 1) * size)));
      tell(Math.min(1, (start + BATCH) / (fresh.length + 1)));
    }
    const found = await this.run("head", "features", joined(keys.map((key) => this.features.get(key))), [keys.length, ...this.inner]);
    if (![...found.scores.data].every(Number.isFinite)) throw new Error("The model's answer is not a number.");
    return { ...found, fresh: fresh.length };
  }

  // the viewer's panel of a changed stack and its answer
  panel({ given, images }, found, words) {
    const { panel, model } = this.data, { depth: all, area } = this, n = images.length;
    const masks = this.masks.map((mask) => joined(given.map((k) => mask.subarray(k * area, (k + 1) * area)), Uint8Array));
    const whole = joined(images);
    const maps = model.heads.map((head, i) => {
      const values = found.maps.data.subarray(i * n * area, (i + 1) * n * area);
      const of = (k) => values.subarray(k * area, (k + 1) * area).reduce((a, b) => Math.max(a, b), 0);
      const tops = given.map((_, k) => of(k)), high = Math.max(...tops);
      const { method, about } = panel.maps.find((map) => map.head === head);
      return { method, head, about, values, low: 0, high, limits: [0, high], error: 0, flat: false, missing: null,
               peak: n > 1 && high > 0 ? tops.indexOf(high) : null };
    });
    const said = new Map(model.columns.map((name, i) => [name, found.scores.data[i]]));
    return {
      ...panel, maps, shape: [n, this.height, this.width], title: `${this.data.title}, ${words}`,
      z: given.map((k) => panel.z[k]), first: n >> 1,
      hu: { step: 1, values: Int16Array.from(whole, Math.round) },
      masks: masks.length ? joined(masks, Uint8Array) : null,
      weights: found.slice_weights ? [...found.slice_weights.data] : null,
      ratings: panel.ratings.map((rating) => ({ ...rating, predicted: said.get(rating.name) ?? rating.predicted })),
      notes: all === n ? panel.notes : [...panel.notes, `the model is given ${n} slices in place of ${all}`],
    };
  }
}

const joined = (arrays, kind = Float32Array) => {
  const out = new kind(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) { out.set(array, at); at += array.length; }
  return out;
};

const mountLivePage = (el) => {
  const { data, state } = fromPage(el);
  const { panel, model, controls: texts } = data;
  const [depth] = panel.shape;
  const { host, root } = framed(el, LIVE_STYLE, `Live model: ${data.title}`);
  const place = make("div"), viewers = stage(place, data);
  const button = (words, press, attributes = {}) => {
    const made = make("button", { type: "button", ...attributes }, words);
    made.addEventListener("click", press);
    return made;
  };
  const alert = make("p", { class: "alert", role: "alert", hidden: true });
  const status = make("p", { role: "status", class: "quiet" });
  const progress = make("progress", { max: 1, value: 0, "aria-label": "Progress", hidden: true });
  const say = (words, wrong = "") => {
    status.textContent = words;
    alert.textContent = wrong;
    alert.hidden = !wrong;
  };
  const tell = (share) => { progress.value = share; };

  // -- the change, and its controls
  const limits = [data.hu.low, data.hu.high];
  const asIs = () => ({ surroundings: "", order: [...Array(depth).keys()], duplicate: null, reversed: false, paints: [], low: limits[0], high: limits[1] });
  let change = asIs(), live = null, untouched = null, last = null, asking = false, again = false;
  const select = (words, options) => {
    const field = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
    return { field, label: make("label", {}, words, field) };
  };
  const range = (words, from, to, step, value) => {
    const field = make("input", { type: "range", min: from, max: to, step, value, "aria-label": words });
    const said = make("span");
    const show = () => { said.textContent = `${words}: ${tidy(field.valueAsNumber)}`; };
    field.addEventListener("input", show);
    show();
    return { field, show, label: make("label", {}, said, field) };
  };
  const check = (words) => {
    const field = make("input", { type: "checkbox" });
    return { field, label: make("label", { class: "check" }, field, words) };
  };
  const here = make("p", { class: "quiet" });
  const now = () => viewers.viewer.model;
  const shown = () => Math.min(now().get(last ? "other_slice" : "slice"), change.order.length - 1);
  const reorder = (act) => () => { if (change.order.length) act(change.order, shown()); ask(); };
  const step = (by) => reorder((order, k) => {
    const to = clamp(k + by, 0, order.length - 1);
    order.splice(to, 0, ...order.splice(k, 1));
    now().set("linked", false);  // the slice that was moved stays in sight
    now().set("other_slice", to);
  });
  const duplicate = select(texts.duplicate, [["", "no"], ...panel.z.map((_, k) => [k, `slice ${k + 1} of ${depth}`])]);
  const reverse = check(texts.reverse);
  const surroundings = select(texts.surroundings, data.stacks.map(({ name, text }) => [name, text]));
  const low = range("Lowest HU that the model gets", ...limits, 10, limits[0]);
  const high = range("Highest HU that the model gets", ...limits, 10, limits[1]);
  const fill = select("Paint", [...data.fills.map(([name, hu]) => [hu, `${name} (${tidy(hu)} HU)`]), ["", "noise (its own voxels, shuffled)"]]);
  const radius = range("Radius (mm)", 1, 30, 0.5, 4);
  const everywhere = check("on all slices");
  const on = ({ field }, act) => field.addEventListener("change", () => { act(field); ask(); });
  on(duplicate, ({ value }) => { change.duplicate = value === "" ? null : Number(value); });
  on(reverse, () => { change.order.reverse(); change.reversed = !change.reversed; });
  on(surroundings, ({ value }) => { change.surroundings = value; });
  on(low, ({ valueAsNumber }) => { change.low = Math.min(valueAsNumber, change.high); low.field.value = change.low; low.show(); });
  on(high, ({ valueAsNumber }) => { change.high = Math.max(valueAsNumber, change.low); high.field.value = change.high; high.show(); });
  const paint = () => {
    const pinned = [now().get("other_cursor"), now().get("cursor")].find((cursor) => cursor?.length);
    const [y, x] = pinned ?? [panel.shape[1] / 2, panel.shape[2] / 2];
    const { given } = live.stack(change), slice = everywhere.field.checked || !given.length ? null : given[shown()];
    const seed = change.paints.length + 1;
    change.paints.push({ y, x, slice, seed, radius: radius.field.valueAsNumber / (panel.spacing?.[1] ?? 1),
                         fill: fill.field.value === "" ? null : Number(fill.field.value) });
    ask();
  };
  const undo = () => {
    change = asIs();
    duplicate.field.value = surroundings.field.value = "";
    reverse.field.checked = false;
    [low, high].forEach((end, i) => { end.field.value = limits[i]; end.show(); });
    ask();
  };
  const group = (words, ...parts) => make("fieldset", {}, make("legend", {}, words), ...parts);
  const tools = make("div", { class: "tools", hidden: true },
    group("Slices", here,
      make("div", { class: "row" }, button("Drop", reorder((order, k) => order.splice(k, 1))),
        button("Repeat", reorder((order, k) => order.splice(k, 0, order[k]))),
        button("Earlier", step(-1)), button("Later", step(1))),
      duplicate.label, reverse.label),
    group("Paint", make("p", { class: "quiet" }, "Around the voxel that you pin by a click, or the middle of the slice."),
      fill.label, radius.label, everywhere.label, make("div", { class: "row" }, button("Paint", paint))),
    group("What the model sees", surroundings.label, low.label, high.label,
      make("div", { class: "row" }, button(texts.undo, undo))));
  const waker = button(`Wake the model`, () => start(), { class: "main" });
  const table = make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Scores" });

  // -- what is shown
  const words = () => {
    const { order, paints } = change, said = [];
    if (change.surroundings) said.push(data.stacks.find(({ name }) => name === change.surroundings).text);
    if (paints.length) said.push(`${paints.length} ${paints.length > 1 ? "regions" : "region"} painted over`);
    if (change.low > limits[0] || change.high < limits[1]) said.push(`HU from ${tidy(change.low)} to ${tidy(change.high)}`);
    if (change.duplicate !== null) said.push(`slice ${change.duplicate + 1} in all places`);
    if (!same(order, asIs().order)) said.push(`slices ${order.map((k) => k + 1).join(", ")}`);
    return said.join("; ") || "as it is";
  };
  const show = (panels) => {
    const kept = viewers.viewer && Object.fromEntries(PLACE.map((key) => [key, now().get(key)]));
    place.style.minHeight = `${place.offsetHeight}px`;  // or the page jumps
    const compare = panels.length > 1;
    // a second panel begins where the first one is
    const both = compare && kept && !now().get("compare") && { linked: true, other_slice: kept.slice, other_method: kept.method, other_head: kept.head };
    viewers.show(panels, `Viewer: ${data.title}`, { ...kept, ...both, compare });
    viewers.viewer.ready.then(() => { place.style.minHeight = ""; });
    for (const key of ["slice", "other_slice", "head", "other_head"]) now().on(`change:${key}`, follow);
    follow();
  };
  const follow = () => {
    const n = change.order.length;
    here.textContent = n ? `Slice ${shown() + 1} of the ${n} that the model is given` : "No slice is left";
    tabulate();
  };
  const tabulate = () => {
    if (!last) return;
    const about = Math.max(0, model.heads.indexOf(now().get("other_head") || now().get("head")));
    const mixes = (found) => (k) => found.mixing && found.mixing.data[about * model.heads.length + k];
    const cells = (values) => values.map((value) => make("td", {}, value === null || value === undefined ? "–" : number(value, 3)));
    const rows = model.columns.map((name, k) => {
      const { title, readings, predicted } = panel.ratings.find((rating) => rating.name === name);
      const readers = readings.length ? readings.reduce((a, b) => a + b) / readings.length : null;
      const [before, after] = [untouched, last].map(({ scores }) => scores.data[k]);
      const weights = untouched.mixing ? [untouched, last].map((found) => mixes(found)(k)) : [];
      const row = make("tr", {}, make("th", { scope: "row" }, title), ...cells([readers, predicted, after, after - before, ...weights]));
      if (Math.abs(after - before) >= 0.1) row.children[4].className = "moved";
      return row;
    });
    const { about: of } = panel.maps.find((map) => map.head === model.heads[about]);
    const heads = ["Rating", "Readers", "Untouched", "Now", "Change", ...(untouched.mixing ? [`Weight for ${of}, untouched`, "now"] : [])];
    table.replaceChildren(make("table", {}, make("caption", {}, `What ${model.name} says; ${words()}`),
      make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows)));
  };

  // -- asking
  const ask = async () => {
    if (!live) return;
    if (asking) { again = true; return; }
    asking = true;
    do {
      again = false;
      follow();
      progress.hidden = false;
      const stack = live.stack(change), said = words(), begun = performance.now();
      try {
        const found = await live.answer(stack, tell);
        if (again) continue;
        const spent = performance.now() - begun;
        const after = live.panel(stack, found, said);
        last = found;
        show([panel, after]);
        say(`Answered in ${Math.round(spent)} ms: ${stack.keys.length} slices, ${found.fresh} of them new to it.`);
        host.live.spent = spent;
      } catch (error) {
        say("Shown is the last answer.", error.message);
      }
    } while (again);
    progress.hidden = true;
    asking = false;
  };
  const start = async () => {
    waker.disabled = true;
    progress.hidden = false;
    say(`Waking ${model.name}.`);
    try {
      const run = await wake(model.key, tell);
      const stacks = Object.fromEntries(await Promise.all(data.stacks.map(async ({ name, values }) =>
        [name, Float32Array.from(await wholeNumbers(values, panel.shape), (value) => value * data.hu.step)])));
      await viewers.viewer.ready;
      const made = new LiveModel(data, stacks, run);
      made.masks = viewers.viewer.volumes[0].masks;
      const begun = performance.now();
      untouched = await made.answer(made.stack(change), tell);
      const spent = performance.now() - begun;
      const off = Math.max(...model.columns.map((name, i) =>
        Math.abs(untouched.scores.data[i] - panel.ratings.find((rating) => rating.name === name).predicted)));
      live = made;
      last = untouched;
      show([panel, live.panel(live.stack(change), untouched, words())]);
      waker.hidden = true;
      tools.hidden = false;
      say(`${model.name} is awake: its first answer took ${Math.round(spent)} ms and is within ${off.toExponential(0)} of Python's.`,
          off > ALIKE ? `The model in this page is not the one that Python asked: scores differ by ${tidy(off)}.` : "");
    } catch (error) {
      say("The model sleeps; the picture is as Python computed it.", error.message);
      waker.disabled = false;
    }
    progress.hidden = true;
  };
  root.append(place, make("div", { class: "row" }, waker, progress), alert, status, tools, table);
  viewers.show([panel], `Viewer: ${data.title}`, state);
  host.live = { root, ask, change: (to) => { change = { ...asIs(), ...to }; return ask(); }, get last() { return last; },
                get awake() { return live !== null; }, get asking() { return asking; }, get viewer() { return viewers.viewer; } };
  const asleep = (why) => { waker.hidden = true; say(`The model sleeps: ${why}`); };
  if (data.asleep) asleep(data.asleep);
  else if (!hasSIMD()) asleep(NO_SIMD);
  else {
    siteIndex().then(({ files, runtime }) => {
      const names = [...runtime, `${model.key}-trunk`, `${model.key}-head`];
      const bytes = names.reduce((sum, name) => sum + (files[name]?.bytes ?? 0), 0);
      waker.textContent = `Wake the model (${(bytes / 1e6).toFixed(0)} MB)`;
      say("The picture is as Python computed it. Woken, the model runs here, in your browser.");
    }).catch((error) => asleep(error.message));
  }
  return host.live;
};
export { mountLivePage };
