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

// where in a picture the pointer is: (y, x), from 0 to 1
const shareOf = (canvas, event) => [event.offsetY / canvas.clientHeight, event.offsetX / canvas.clientWidth];

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
    this.pointed = null;  // where the pointer is: a canvas and a place in it
    this.probe = make("output", { id: `${name}-probe`, class: "probe" }, "point at a voxel");
    const methods = [...new Set(panel.maps.map((map) => map.method))];
    this.method = make("select", { "aria-label": second("Attention map") }, make("option", { value: "" }, "none"),
                       ...methods.map((method) => make("option", { value: method }, method)));
    this.head = make("select", { "aria-label": second(panel.output) });
    this.headLabel = make("label", {}, make("span", {}, panel.output), this.head);
    this.about = make("p", { class: "quiet" });
    this.ends = [make("span"), make("span")];
    this.scale = make("canvas", { "aria-hidden": "true" });
    this.scaleRow = make("div", {}, make("div", { class: "scale" }, this.ends[0], this.scale, this.ends[1]), this.about);
    this.planes = make("div", { class: "planes" }, this.axial, ...this.upright);
    this.root = make("div", { class: "panel", role: "group", "aria-label": panel.title },
      make("div", {}, make("p", { class: "title" }, panel.title), make("p", { class: "quiet" }, panel.tier.text)),
      make("div", {}, this.planes, this.bars, this.slider, this.at, this.probe,
      make("div", { class: "row", hidden: !methods.length },
        make("label", {}, make("span", {}, "Attention map"), this.method), this.headLabel),
      this.scaleRow,
      ...(again ? [] : this.ratings()),
      make("ul", { class: "notes", hidden: again || !panel.notes.length },
        ...panel.notes.map((note) => make("li", {}, note)))));
    this.listen();
  }

  key(name) { return this.prefix + name; }
  get(name) { return this.shared.model.get(this.key(name)); }
  set(name, value) { this.shared.set(this.key(name), value); }
  get slice() { return clamp(this.get("slice") ?? 0, 0, this.volume.depth - 1); }

  // the map that is chosen, and the same with its values, once they are unpacked
  get chosen() {
    const maps = this.volume.panel.maps.filter((map) => map.method === this.get("method"));
    return maps.find((map) => map.head === this.get("head")) ?? maps[0];
  }
  get map() {
    const { volume, chosen } = this;
    return chosen && volume.hu && volume.map(chosen.method, chosen.head, (error) => this.shared.arrived(error));
  }

  // how far the axial plane is enlarged, and around which place (y, x); never beyond its edges
  get nearest() {
    const { height, width, panel } = this.volume;
    return Math.max(panel.home[0], Math.min(height, width) / 8);
  }
  get zoom() { return clamp(this.volume.panel.home[0] * this.shared.model.get("zoom"), 1, this.nearest); }
  get middle() {
    const [, y, x] = this.volume.panel.home, [dy, dx] = this.shared.model.get("pan");
    return this.inside(y + dy, x + dx);
  }
  inside(y, x) {
    const { height, width } = this.volume, half = 0.5 / this.zoom;
    return [clamp(y, half * height, (1 - half) * height), clamp(x, half * width, (1 - half) * width)];
  }
  // the place that is seen at (y, x), shares of the picture
  placeAt([y, x]) {
    const { height, width } = this.volume, [middleY, middleX] = this.middle;
    return [middleY + (y - 0.5) * height / this.zoom, middleX + (x - 0.5) * width / this.zoom];
  }
  // enlarges, and moves so that a place is seen there
  enlarge(zoom, place = this.middle, [y, x] = [0.5, 0.5]) {
    const { panel: { home }, height, width } = this.volume, { shared } = this;
    shared.set("zoom", clamp(zoom, 1, this.nearest) / home[0]);
    const middle = this.inside(place[0] - (y - 0.5) * height / this.zoom, place[1] - (x - 0.5) * width / this.zoom);
    shared.set("pan", middle.map((at, axis) => Math.round(1e3 * (at - home[axis + 1])) / 1e3));
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
           head("● readers", true)), ...rows)];
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
      const way = event.deltaY * (event.deltaMode ? 40 : 1);
      if (event.ctrlKey) {  // so comes a pinch on a touchpad, too
        event.preventDefault();
        const at = event.target === axial ? shareOf(axial, event) : [0.5, 0.5];
        this.enlarge(this.zoom * clamp(Math.exp(-way / 200), 0.8, 1.25), this.placeAt(at), at);
        return;
      }
      if (!this.root.getRootNode().activeElement) return;  // not in use: the page scrolls
      turned -= way;
      const step = Math.abs(turned) < 30 ? 0 : Math.sign(turned);
      const next = clamp(this.slice + (step || -Math.sign(way)), 0, this.volume.depth - 1);
      if (next === this.slice) { turned = 0; return; }  // at either end the page scrolls on
      event.preventDefault();
      if (step) { turned = 0; this.set("slice", next); }
    }, { passive: false });
    axial.addEventListener("keydown", (event) => this.press(event));
    for (const canvas of [axial, ...this.upright]) this.point(canvas);
  }

  choose(method) {
    this.set("method", method);
    if (this.chosen) this.set("head", this.chosen.head);
  }

  // the voxel (z, y, x) that is seen at (y, x), shares of the picture
  under(canvas, [down, along]) {
    const { depth } = this.volume, [, plane] = this.views().find(([own]) => own === canvas);
    const u = clamp(Math.floor(plane.u + along * plane.columns), 0, plane.w - 1);
    const v = clamp(Math.floor(plane.v + down * plane.rows), 0, plane.h - 1);
    if (canvas === this.axial) return [this.slice, v, u];
    return canvas.dataset.plane === "coronal" ? [depth - 1 - v, this.probed[0], u] : [depth - 1 - v, u, this.probed[1]];
  }

  // One pointer moves the enlarged slice, with Shift it sets the window; one finger goes through the
  // slices, as up and down are the page's (`touch-action` says so); two enlarge and move.
  point(canvas) {
    const down = new Map();
    let from = null, moved = false;
    const now = () => {
      const all = [...down.values()], { model } = this.shared;
      const [y, x] = [0, 1].map((i) => all.reduce((sum, at) => sum + at[i], 0) / all.length);
      const at = [y / canvas.clientHeight, x / canvas.clientWidth];
      return { y, x, at, apart: all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 0,
               slice: this.slice, zoom: this.zoom, place: this.placeAt(at),
               width: model.get("window_width"), centre: model.get("window_centre") };
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      moved &&= down.size > 0;
      down.set(event.pointerId, [event.offsetY, event.offsetX]);
      canvas.setPointerCapture(event.pointerId);
      from = now();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        down.delete(event.pointerId);
        if (down.size) from = now();
      });
    }
    canvas.addEventListener("pointermove", (event) => {
      this.pointed = [canvas, shareOf(canvas, event)];
      this.tell();
      if (!down.has(event.pointerId)) return;
      down.set(event.pointerId, [event.offsetY, event.offsetX]);
      const to = now(), [wayY, wayX] = [to.y - from.y, to.x - from.x];
      const touch = event.pointerType === "touch";
      moved ||= to.apart > 0 || Math.hypot(wayY, wayX) > (touch ? 8 : 3);
      if (!moved) return;
      if (to.apart) this.enlarge(from.zoom * to.apart / from.apart, from.place, to.at);
      else if (event.shiftKey) {
        this.shared.set("window_width", Math.max(1, from.width + 4 * Math.round(wayX)));
        this.shared.set("window_centre", from.centre + 2 * Math.round(wayY));
      } else if (touch) {
        const { depth } = this.volume, steps = Math.round(wayX / Math.max(12, canvas.clientWidth / depth));
        this.set("slice", clamp(from.slice + steps, 0, depth - 1));
      } else if (canvas === this.axial) this.enlarge(from.zoom, from.place, to.at);
    });
    canvas.addEventListener("pointerleave", () => {
      this.pointed = null;
      this.tell();
    });
    canvas.addEventListener("click", (event) => {
      if (moved) return;
      const [z, y, x] = this.under(canvas, shareOf(canvas, event));
      this.axial.focus({ preventScroll: true });  // now wheel and keys are the viewer's
      this.set("cursor", [y, x]);
      this.set("slice", z);
    });
  }

  press(event) {
    const { volume, shared } = this;
    const { height, width, depth } = volume;
    const move = (dy, dx) => () => {
      const to = [clamp(this.probed[0] + dy, 0, height - 1), clamp(this.probed[1] + dx, 0, width - 1)];
      const [[top, left], [low, right]] = [this.placeAt([0, 0]), this.placeAt([1, 1])];
      this.pointed = null;  // told is the voxel that the keys have come to
      this.set("cursor", to);
      if (to[0] < top || to[0] >= low || to[1] < left || to[1] >= right) this.enlarge(this.zoom, to);
    };
    const go = (k) => () => this.set("slice", clamp(k, 0, depth - 1));
    const next = (list, value) => list[(list.indexOf(value) + 1) % list.length];
    const { presets } = volume.panel;
    const actions = {
      ArrowUp: go(this.slice + 1), ArrowDown: go(this.slice - 1),
      PageUp: go(this.slice + 1), PageDown: go(this.slice - 1), Home: go(0), End: go(depth - 1),
      "+": () => this.enlarge(this.zoom * 1.25), "=": () => this.enlarge(this.zoom * 1.25),
      "-": () => this.enlarge(this.zoom / 1.25), 0: shared.whole, f: shared.full,
      Escape: () => this.set("cursor", []),
      w: () => shared.preset(next(presets.map((p) => p[0]), shared.presetName())),
      m: () => this.choose(next(["", ...new Set(volume.panel.maps.map((map) => map.method))], this.get("method"))),
      h: () => { const heads = [...this.head.options].map((option) => option.value); if (heads.length) this.set("head", next(heads, this.chosen.head)); },
      c: () => shared.set("show_contours", !shared.model.get("show_contours")),
    };
    const probe = { ArrowUp: move(-1, 0), ArrowDown: move(1, 0), ArrowLeft: move(0, -1), ArrowRight: move(0, 1) };
    const action = (event.shiftKey && probe[event.key]) || actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  // What is under the pointer, or else at the pinned voxel. Every drawing tells it anew: the picture
  // may have changed under a pointer that rests.
  tell() {
    const { volume, map, pointed } = this;
    if (!volume.hu) return;
    const pinned = this.get("cursor").length ? volume.at(this.slice, ...this.probed, map) : null;
    const found = pointed && !pointed[0].hidden ? volume.at(...this.under(...pointed), map) : pinned;
    this.probe.value = found ? probeWords(volume, found, map) : "point at a voxel";
    const { rounding, error, ...plain } = pinned ?? {};
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
    const limits = this.shared.limits(this.chosen);
    return { centre: model.get("window_centre"), width: model.get("window_width"), map: this.map, limits,
             opacity: model.get("opacity"), table: limits[0] < 0 ? tables.signed : tables.map };
  }

  // (y, x) of the pinned voxel, or of the one in the middle of the slice
  get probed() {
    const pinned = this.get("cursor"), { height, width } = this.volume;
    return pinned.length ? [clamp(pinned[0], 0, height - 1), clamp(pinned[1], 0, width - 1)] : [height >> 1, width >> 1];
  }

  // the planes shown, each with what marks the probe on it
  views() {
    const { volume, slice, zoom } = this;
    const { depth } = volume;
    const shown = this.shared.model.get("orthogonal");
    const [[y, x], [middleY, middleX]] = [this.probed, this.middle];
    const cross = this.get("cursor").length || shown ? [x, y] : null;
    const part = (name, at, u, v) => partOf(planeOf(volume, name, at), zoom, u, v);
    const made = [[this.axial, part("axial", slice, middleX, middleY), cross]];
    if (!shown || depth < 2) return made;
    const level = depth - 1 - slice;
    return [...made, [this.upright[0], part("coronal", y, middleX, level + 0.5), [x, level]],
            [this.upright[1], part("sagittal", x, middleY, level + 0.5), [y, level]]];
  }

  draw(ink) {
    const { volume, slice, chosen } = this;
    const ratio = ratioNow();
    const { panel } = volume;
    const words = sliceWords(volume, slice);
    this.slider.value = slice;
    this.slider.setAttribute("aria-valuetext", words);
    this.at.value = words;
    this.axial.setAttribute("aria-label", `${panel.title}, ${words}${this.zoom > 1 ? `, enlarged ${tidy(this.zoom, 2)} times` : ""}`);
    const upright = this.shared.model.get("orthogonal") && volume.depth > 1;
    this.upright.forEach((canvas) => { canvas.hidden = !upright; });
    this.bars.hidden = !(panel.weights || volume.marked);
    const method = this.get("method"), heads = volume.panel.maps.filter((map) => map.method === method);
    this.method.value = method;
    if (!same(heads.map((map) => map.head), [...this.head.options].map((option) => option.value)))
      this.head.replaceChildren(...heads.map((map) => make("option", { value: map.head }, map.about)));
    this.head.value = chosen?.head;
    this.headLabel.hidden = heads.length < 2;
    this.scaleRow.hidden = !chosen;
    const look = this.look();
    if (chosen) {
      if (this.scaleTable !== look.table) drawScale(this.scale, this.scaleTable = look.table);
      this.ends.forEach((end, i) => { end.textContent = tidy(look.limits[i]); });
      this.about.textContent = mapWords(chosen, look.limits);
    }
    this.strips?.forEach((strip, i) => {
      if (fit(strip, ratio)) drawRating(strip, panel.ratings[i], this.shared.data.colours, ink, ratio);
    });
    if (!volume.hu) return;
    if (!this.bars.hidden && fit(this.bars, ratio)) drawBars(this.bars, volume, slice, ink, ratio, 8);
    const marks = this.marks(), views = this.views();
    const shapes = views.map(([, plane]) => shapeOf(plane));
    // width for one height of all planes, for the full screen
    this.planes.style.setProperty("--shape", 1 / (1 / shapes[0] + Math.max(0, ...shapes.slice(1).map((shape) => 0.5 / shape))));
    for (const [i, [canvas, plane, cross]] of views.entries()) {
      canvas.style.aspectRatio = shapes[i];
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
