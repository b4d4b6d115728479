// One volume of a viewer: its planes, slider, bars, maps and ratings, and what keys and pointers do.

// one element; text is text, whatever it holds
const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

const ratioNow = () => Math.min(2, globalThis.devicePixelRatio || 1);

// sized to what is on screen; false while it is not
const fit = (canvas, ratio) => {
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (!width || !height) return false;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return true;
};

let count = 0;

// One volume with its slider, bars, maps and ratings. `shared` is what both panels have.
class Panel {
  constructor(shared, volume, prefix) {
    Object.assign(this, { shared, volume, prefix });
    const { panel } = volume;
    // a second panel of the same volume need not say everything again
    const again = prefix && shared.data.panels.length === 1;
    const second = (label) => (prefix ? `${label}, second panel` : label);
    const name = `panel-${count += 1}`;
    this.axial = make("canvas", {
      class: "axial", tabindex: 0, role: "application", "aria-roledescription": "slice view",
      "aria-describedby": `${name}-at ${name}-probe`, "data-plane": "axial",
    });
    this.upright = ["coronal", "sagittal"].map((plane) =>
      make("canvas", { "data-plane": plane, role: "img", "aria-label": `${plane} plane of ${panel.title}` }));
    this.bars = make("canvas", { class: panel.weights ? "bars" : "bars low", role: "img",
      "aria-label": panel.weights ? "attention of each slice" : "slices with a consensus" });
    this.slider = make("input", { class: "slice", type: "range", min: 0, max: volume.depth - 1,
      "aria-label": second("Slice"), disabled: volume.depth === 1 });
    this.at = make("output", { id: `${name}-at`, "aria-live": "off" });
    this.probe = make("output", { id: `${name}-probe`, class: "probe" }, "point at a voxel");
    const methods = [...new Set(panel.maps.map((map) => map.method))];
    this.method = make("select", { "aria-label": second("Attention map") }, make("option", { value: "" }, "none"),
                       ...methods.map((method) => make("option", { value: method }, method)));
    this.head = make("select", { "aria-label": second("Head") });
    this.headLabel = make("label", {}, make("span", {}, "Head"), this.head);
    this.ends = [make("span"), make("span")];
    this.scale = make("canvas", { "aria-hidden": "true" });
    this.scaleRow = make("div", { class: "scale" }, this.ends[0], this.scale, this.ends[1]);
    this.planes = make("div", { class: "planes" }, this.axial, ...this.upright);
    this.root = make("div", { class: "panel", role: "group", "aria-label": panel.title },
      make("p", { class: "title" }, panel.title), make("p", { class: "quiet" }, panel.tier.text),
      this.planes, this.bars, this.slider, this.at, this.probe,
      make("div", { class: "row", hidden: !methods.length },
        make("label", {}, make("span", {}, "Attention map"), this.method), this.headLabel, this.scaleRow),
      ...(again ? [] : this.ratings()),
      make("ul", { class: "notes", hidden: again || !panel.notes.length },
        ...panel.notes.map((note) => make("li", {}, note))));
    this.listen();
  }

  key(name) { return this.prefix + name; }
  get(name) { return this.shared.model.get(this.key(name)); }
  set(name, value) { this.shared.set(this.key(name), value); }
  get slice() { return clamp(this.get("slice") ?? 0, 0, this.volume.depth - 1); }

  get map() {
    const { volume } = this;
    const heads = volume.heads(this.get("method"));
    const head = heads.includes(this.get("head")) ? this.get("head") : heads[0];
    return volume.hu && volume.map(this.get("method"), head, (error) => this.shared.arrived(error));
  }

  ratings() {
    const { ratings } = this.volume.panel;
    if (!ratings.length) return [];
    const cell = (text, attributes = {}) => make("span", { role: "cell", ...attributes }, text);
    this.strips = ratings.map(() => make("canvas", { "aria-hidden": "true" }));
    const rows = ratings.map((rating, i) => {
      const words = ratingWords(rating);
      return make("div", { role: "row" }, make("span", { role: "rowheader" }, rating.title),
        make("span", { role: "cell", title: words.all }, this.strips[i], make("span", { class: "away" }, words.all)),
        cell(words.model, { class: "end" }), cell(words.readers, { class: "end" }));
    });
    const head = (text, end) => make("span", { role: "columnheader", class: end ? "end" : "" }, text);
    return [make("div", { class: "ratings", role: "table", "aria-label": `ratings of ${this.volume.panel.title}` },
      make("div", { role: "row" }, head("attribute"), head("scale"), head("◆ model", true),
           head("● mean (range)", true)), ...rows)];
  }

  listen() {
    const { slider, axial, bars, method, head } = this;
    slider.addEventListener("input", () => this.set("slice", Number(slider.value)));
    method.addEventListener("change", () => this.choose(method.value));
    head.addEventListener("change", () => this.set("head", head.value));
    bars.addEventListener("pointerdown", (event) => {
      const [inset, width] = [8, bars.clientWidth];
      const share = (event.offsetX - inset) / Math.max(1, width - 2 * inset);
      this.set("slice", clamp(Math.round(share * (this.volume.depth - 1)), 0, this.volume.depth - 1));
    });
    let turned = 0;
    this.planes.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return;  // zooms the page
      turned += event.deltaY * (event.deltaMode ? 40 : 1);
      const step = Math.abs(turned) < 30 ? 0 : Math.sign(turned);
      const next = clamp(this.slice + (step || Math.sign(event.deltaY)), 0, this.volume.depth - 1);
      if (next === this.slice) { turned = 0; return; }  // at either end the page scrolls on
      event.preventDefault();
      if (step) { turned = 0; this.set("slice", next); }
    }, { passive: false });
    axial.addEventListener("keydown", (event) => this.press(event));
    for (const canvas of [axial, ...this.upright]) this.point(canvas);
  }

  choose(method) {
    const heads = this.volume.heads(method);
    if (heads.length && !heads.includes(this.get("head"))) this.set("head", heads[0]);
    this.set("method", method);
  }

  // the voxel (z, y, x) under the pointer
  under(canvas, event) {
    const { depth, height, width } = this.volume;
    const share = (at, size, n) => clamp(Math.floor(at / size * n), 0, n - 1);
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    const [y, x] = this.get("cursor").length ? this.get("cursor") : [height >> 1, width >> 1];
    const z = depth - 1 - share(event.offsetY, h, depth);
    if (canvas.dataset.plane === "coronal") return [z, y, share(event.offsetX, w, width)];
    if (canvas.dataset.plane === "sagittal") return [z, share(event.offsetX, w, height), x];
    return [this.slice, share(event.offsetY, h, height), share(event.offsetX, w, width)];
  }

  point(canvas) {
    let drag = null, swipe = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      // up and down are the page's, `touch-action` says so
      swipe = event.pointerType === "touch" ? { from: event.clientX, slice: this.slice, far: false } : null;
      if (event.shiftKey) {
        const { model } = this.shared;
        drag = [event.clientX, event.clientY, model.get("window_width"), model.get("window_centre")];
        canvas.setPointerCapture(event.pointerId);
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        this.shared.set("window_width", Math.max(1, drag[2] + 4 * Math.round(event.clientX - drag[0])));
        this.shared.set("window_centre", drag[3] + 2 * Math.round(event.clientY - drag[1]));
      } else if (swipe) {
        const { depth } = this.volume, way = event.clientX - swipe.from;
        swipe.far ||= Math.abs(way) > 8;
        const steps = Math.round(way / Math.max(12, canvas.clientWidth / depth));
        if (swipe.far) this.set("slice", clamp(swipe.slice + steps, 0, depth - 1));
      } else if (this.volume.hu) this.tell(this.under(canvas, event));
    });
    canvas.addEventListener("pointerleave", () => this.tell());
    canvas.addEventListener("click", (event) => {
      if (drag || swipe?.far) { drag = swipe = null; return; }
      const [z, y, x] = this.under(canvas, event);
      this.set("cursor", [y, x]);
      this.set("slice", z);
    });
  }

  press(event) {
    const { volume, shared } = this;
    const { height, width, depth } = volume;
    const [y, x] = this.get("cursor").length ? this.get("cursor") : [height >> 1, width >> 1];
    const far = event.shiftKey ? 5 : 1;
    const move = (dy, dx) => () => this.set("cursor", [clamp(y + dy, 0, height - 1), clamp(x + dx, 0, width - 1)]);
    const go = (k) => () => this.set("slice", clamp(k, 0, depth - 1));
    const next = (list, value) => list[(list.indexOf(value) + 1) % list.length];
    const { presets } = volume.panel;
    const actions = {
      ArrowUp: move(-far, 0), ArrowDown: move(far, 0), ArrowLeft: move(0, -far), ArrowRight: move(0, far),
      PageUp: go(this.slice + 1), PageDown: go(this.slice - 1), Home: go(0), End: go(depth - 1),
      Escape: () => this.set("cursor", []),
      w: () => shared.preset(next(presets.map((p) => p[0]), shared.presetName())),
      m: () => this.choose(next(["", ...new Set(volume.panel.maps.map((map) => map.method))], this.get("method"))),
      h: () => { const heads = volume.heads(this.get("method")); if (heads.length) this.set("head", next(heads, this.get("head"))); },
      c: () => shared.set("show_contours", !shared.model.get("show_contours")),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  // what is under the pointer, or else at the pinned voxel
  tell(place = null) {
    const { volume, map } = this;
    if (!volume.hu) return;
    const [y, x] = this.get("cursor");
    const at = place ?? (y === undefined ? null : [this.slice, clamp(y, 0, volume.height - 1), clamp(x, 0, volume.width - 1)]);
    const found = at && volume.at(...at, map);
    this.probe.value = found ? probeWords(volume, found, map) : "point at a voxel";
    if (place) return;
    const { rounding, error, ...plain } = found ?? {};
    this.set("probe", plain);
  }

  marks() {
    const { model, data } = this.shared;
    const hidden = model.get("hidden_readers");
    const readers = model.get("show_contours") ? [...this.volume.masks.keys()].filter((r) => !hidden.includes(r)) : [];
    return { readers, consensus: model.get("show_consensus"), colours: data.colours, tag: this.volume.panel.tier.name ?? "source not stated" };
  }

  look() {
    const { model, tables } = this.shared;
    const { map } = this;
    return { centre: model.get("window_centre"), width: model.get("window_width"), map,
             opacity: model.get("opacity"), table: map && map.limits[0] < 0 ? tables.signed : tables.map };
  }

  // the planes shown, each with what marks the probe on it
  views() {
    const { volume, slice } = this;
    const { depth, height, width } = volume;
    const pinned = this.get("cursor");
    const shown = this.shared.model.get("orthogonal");
    const [y, x] = pinned.length ? pinned : [height >> 1, width >> 1];
    const cross = pinned.length || shown ? [x, y] : null;
    const made = [[this.axial, planeOf(volume, "axial", slice), cross]];
    if (!shown || depth < 2) return made;
    return [...made, [this.upright[0], planeOf(volume, "coronal", y), [x, depth - 1 - slice]],
            [this.upright[1], planeOf(volume, "sagittal", x), [y, depth - 1 - slice]]];
  }

  draw(ink) {
    const { volume, slice, map } = this;
    const ratio = ratioNow();
    const { panel } = volume;
    const words = sliceWords(volume, slice);
    this.slider.value = slice;
    this.slider.setAttribute("aria-valuetext", words);
    this.at.value = words;
    this.axial.setAttribute("aria-label", `${panel.title}, ${words}`);
    const upright = this.shared.model.get("orthogonal") && volume.depth > 1;
    this.upright.forEach((canvas) => { canvas.hidden = !upright; });
    this.bars.hidden = !(panel.weights || volume.marked);
    const method = this.get("method"), heads = volume.heads(method);
    this.method.value = method;
    if (!same(heads, [...this.head.options].map((option) => option.value)))
      this.head.replaceChildren(...heads.map((head) => make("option", { value: head }, head)));
    this.head.value = heads.includes(this.get("head")) ? this.get("head") : heads[0];
    this.headLabel.hidden = heads.length < 2;
    this.scaleRow.hidden = !map;
    if (map) {
      const table = map.limits[0] < 0 ? this.shared.tables.signed : this.shared.tables.map;
      if (this.scaleTable !== table) drawScale(this.scale, this.scaleTable = table);
      this.ends.forEach((end, i) => { end.textContent = tidy(map.limits[i]); });
    }
    this.strips?.forEach((strip, i) => {
      if (fit(strip, ratio)) drawRating(strip, panel.ratings[i], this.shared.data.colours, ink, ratio);
    });
    if (!volume.hu) return;
    if (!this.bars.hidden && fit(this.bars, ratio)) drawBars(this.bars, volume, slice, ink, ratio, 8);
    const [look, marks] = [this.look(), this.marks()];
    for (const [canvas, plane, cross] of this.views()) {
      canvas.style.aspectRatio = `${plane.w * plane.du} / ${plane.h * plane.dv}`;
      if (fit(canvas, ratio))
        drawPlane(canvas, volume, plane, look, { ...marks, cross, tag: canvas === this.axial ? marks.tag : canvas.dataset.plane }, ratio);
    }
    this.tell();
  }
}

// Where the second panel goes when the first is scrolled: as far, in mm, from its middle slice.
const linkedSlice = (from, to, k) => {
  if (from.volume === to.volume) return k;
  const off = (k - (from.volume.depth - 1) / 2) * from.volume.spacing[0] / to.volume.spacing[0];
  return clamp(Math.round((to.volume.depth - 1) / 2 + off), 0, to.volume.depth - 1);
};

// one volume, or one before and after a change: a voxel means the same place in both
const sameGrid = (a, b) => a === b ||
  (same(a.panel.shape, b.panel.shape) && same(a.panel.spacing, b.panel.spacing));
