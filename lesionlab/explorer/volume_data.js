// The other half of _encoding.py: packed text becomes voxels, masks and maps. What is an array
// already, as what a live model gives, is taken as it is.
// volume_data.js, volume_draw.js, volume_panel.js and volume.js are joined in this order to one ES module.

const OLD_BROWSER = "This browser cannot unpack the images: it has no DecompressionStream. " +
  "Chrome and Edge from version 80, Firefox from 113 and Safari from 16.4 have it.";

const unpack = async (text) => {
  if (typeof DecompressionStream !== "function") throw new Error(OLD_BROWSER);
  const letters = atob(text), packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

const wholeNumbers = async (text, [depth, height, width]) => {
  if (ArrayBuffer.isView(text)) return text;
  const bytes = await unpack(text);
  const size = depth * height * width;
  const values = new Int16Array(size);  // sums wrap round, as the differences did
  let i = 0;
  for (let z = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        let predicted = 0;
        if (x && y) {
          const left = values[i - 1], upper = values[i - width], corner = values[i - width - 1];
          const low = left < upper ? left : upper, high = left < upper ? upper : left;
          predicted = left + upper - corner;
          predicted = predicted < low ? low : predicted > high ? high : predicted;
        } else if (x) predicted = values[i - 1];
        else if (y) predicted = values[i - width];
        else if (z) predicted = values[i - width * height];
        const folded = bytes[i] << 8 | bytes[size + i];
        values[i] = predicted + (folded >> 1 ^ -(folded & 1));
      }
    }
  }
  return values;
};

const bits = async (text, size) => {
  if (ArrayBuffer.isView(text)) return text;
  const bytes = await unpack(text);
  const flags = new Uint8Array(size);
  for (let i = 0; i < size; i++) flags[i] = bytes[i >> 3] >> (7 - (i & 7)) & 1;
  return flags;
};

// along one axis: from the nodes of `grid` to every index; `before` and `after` are the products
// of the sizes of the axes on either side
const interpolate = (values, grid, before, after) => {
  const size = grid.at(-1) + 1;
  const out = new Float32Array(before * size * after);
  for (let node = 0, at = 0; at < size; at++) {
    if (node < grid.length - 2 && at >= grid[node + 1]) node++;
    const right = Math.min(node + 1, grid.length - 1);
    const share = right > node ? (at - grid[node]) / (grid[right] - grid[node]) : 0;
    for (let b = 0; b < before; b++) {
      for (let a = 0; a < after; a++) {
        const first = values[(b * grid.length + node) * after + a];
        const second = values[(b * grid.length + right) * after + a];
        out[(b * size + at) * after + a] = first * (1 - share) + second * share;
      }
    }
  }
  return out;
};

const mapValues = async (map, shape) => {
  if (ArrayBuffer.isView(map.values)) return map.values;
  const stored = shape.map((n, axis) => map.grid[axis]?.length ?? n);
  let values = await wholeNumbers(map.values, stored);
  for (let axis = 0; axis < 3; axis++) {
    if (!map.grid[axis]) continue;
    const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
    values = interpolate(values, map.grid[axis], product(stored.slice(0, axis)),
                         product(stored.slice(axis + 1)));
    stored[axis] = shape[axis];
  }
  const step = (map.high - map.low) / map.levels;
  const real = Float32Array.from(values, (level) => map.low + level * step);
  if (map.missing) {
    const missing = await bits(map.missing, real.length);
    missing.forEach((flag, i) => { if (flag) real[i] = NaN; });
  }
  return real;
};

// One panel's arrays. `hu`, `masks` and `consensus` are there once load() has ended; a map comes
// when it is first asked for, since most are never looked at.
class Volume {
  constructor(panel) {
    this.panel = panel;
    [this.depth, this.height, this.width] = panel.shape;
    this.size = this.depth * this.height * this.width;
    this.area = this.height * this.width;
    // how far apart voxels are drawn: mm, or 1 where that is not known
    this.spacing = panel.spacing ?? [1, 1, 1];
    this.masks = [];
    this.maps = new Map();
    this.pending = null;  // ends when all maps that were asked for are there
    this.outlines = new Map();
  }

  async load() {
    const { hu, masks, readers, votes, missing, shape } = this.panel;
    const values = await wholeNumbers(hu.values, shape);
    if (hu.step !== 1) for (let i = 0; i < values.length; i++) values[i] *= hu.step;
    this.missing = missing && await bits(missing, this.size);
    if (masks) {
      const all = await bits(masks, readers * this.size);
      this.consensus = new Uint8Array(this.size);
      for (let reader = 0; reader < readers; reader++) {
        const mask = all.subarray(reader * this.size, (reader + 1) * this.size);
        this.masks.push(mask);
        for (let i = 0; i < this.size; i++) this.consensus[i] += mask[i];
      }
      for (let i = 0; i < this.size; i++) this.consensus[i] = this.consensus[i] >= votes ? 1 : 0;
      this.marked = Array.from({ length: this.depth }, (_, z) =>
        this.consensus.subarray(z * this.area, (z + 1) * this.area).includes(1));
    }
    this.hu = values;
  }

  // the map, or undefined while it is being unpacked: `then` is called when it is there
  map(method, head, then) {
    const found = this.panel.maps.find((map) => map.method === method && map.head === head);
    if (!found) return undefined;
    const known = this.maps.get(found);
    if (known) return known.values && known;
    const made = { ...found, values: null };
    this.maps.set(found, made);
    // a map without an axis of slices is the same on each
    const shape = [found.flat ? 1 : this.depth, this.height, this.width];
    const coming = mapValues(found, shape).then((values) => { made.values = values; then(); }, then);
    this.pending = Promise.all([this.pending, coming]);
    return undefined;
  }

  index(z, y, x) { return (z * this.height + y) * this.width + x; }

  // what is at one voxel; the numbers are those of the arrays that Python had
  at(z, y, x, map) {
    const i = this.index(z, y, x);
    const { stride, z: zs, corner, spacing, hu } = this.panel;
    const value = map && map.values[map.flat ? i % this.area : i];
    return {
      z: z * stride[0], y: y * stride[1], x: x * stride[2],
      hu: this.missing?.[i] ? null : this.hu[i],
      rounding: hu.step > 1 ? hu.step / 2 : 0,
      map: map && Number.isFinite(value) ? value : null,
      error: map ? map.error : 0,
      mm: spacing && [zs[z], corner[0] + y * spacing[1], corner[1] + x * spacing[2]],
    };
  }
}
