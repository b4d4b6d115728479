// Pictures on canvases: a plane with what lies over it, bars, ratings, a colour scale.

const colourTable = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));

// How a plane runs through the volume: pixel (u, v) is voxel start + u * su + v * sv.
// z rises upwards in the two upright planes, so that the head is above the feet.
const planeOf = (volume, name, at) => {
  const { depth, height, width, area, spacing } = volume;
  const [dz, dy, dx] = spacing;
  if (name === "coronal")
    return { w: width, h: depth, start: (depth - 1) * area + at * width, su: 1, sv: -area, du: dx, dv: dz };
  if (name === "sagittal")
    return { w: height, h: depth, start: (depth - 1) * area + at, su: width, sv: -area, du: dy, dv: dz };
  return { w: width, h: height, start: at * area, su: 1, sv: width, du: dx, dv: dy };
};

// The part of it that is seen: columns from u, rows from v, around a place. An upright plane is cut to
// a square, so that a few slices are no thin strip where the lesion is enlarged.
const partOf = (plane, zoom, u, v) => {
  const columns = plane.w / zoom, rows = Math.min(plane.h, Math.max(plane.h / zoom, plane.sv < 0 ? columns * plane.du / plane.dv : 0));
  const from = (at, seen, n) => Math.min(Math.max(at - seen / 2, 0), n - seen);
  return { ...plane, columns, rows, u: from(u, columns, plane.w), v: from(v, rows, plane.h) };
};

// its width over its height on the screen; within bounds, or no canvas could hold a needle
const shapeOf = (plane) => clamp(plane.columns * plane.du / (plane.rows * plane.dv), 0.05, 20);

const voxelImage = (volume, plane, look) => {
  const { w, h, start, su, sv } = plane;
  const image = new ImageData(w, h);
  const out = image.data;
  const lowest = look.centre - look.width / 2, gain = 255 / Math.max(look.width, 1e-6);
  const { map, opacity, table, limits: [low, high] } = look;
  const span = high - low || 1;
  const signed = low < 0;
  const { hu, missing, area } = volume;
  for (let v = 0, to = 0; v < h; v++) {
    for (let u = 0; u < w; u++, to += 4) {
      const i = start + u * su + v * sv;
      let red, green, blue;
      if (missing && missing[i]) {
        red = green = (u + v) & 1 ? 70 : 35;
        blue = red + 45;
      } else {
        const grey = (hu[i] - lowest) * gain;
        red = green = blue = grey < 0 ? 0 : grey > 255 ? 255 : grey;
      }
      if (map) {
        const share = (map.values[map.flat ? i % area : i] - low) / span;
        // nothing where the map is (near) zero, or the slice would be hidden where nothing is seen
        const strength = opacity * Math.min(1, 2 * (signed ? Math.abs(2 * share - 1) : share));
        if (strength > 0) {
          const entry = 3 * Math.round(255 * (share > 1 ? 1 : share));
          red += (table[entry] - red) * strength;
          green += (table[entry + 1] - green) * strength;
          blue += (table[entry + 2] - blue) * strength;
        }
      }
      out[to] = red;
      out[to + 1] = green;
      out[to + 2] = blue;
      out[to + 3] = 255;
    }
  }
  return image;
};

// along the edges between voxels inside and outside, in units of voxels
const outline = (mask, { w, h, start, su, sv }) => {
  const path = new Path2D();
  let empty = true;
  const inside = (u, v) => u >= 0 && v >= 0 && u < w && v < h && mask[start + u * su + v * sv] === 1;
  for (let v = 0; v <= h; v++) {
    for (let u = 0; u <= w; u++) {
      const here = inside(u, v);
      if (here !== inside(u - 1, v)) {
        path.moveTo(u, v);
        path.lineTo(u, v + 1);
        empty = false;
      }
      if (here !== inside(u, v - 1)) {
        path.moveTo(u, v);
        path.lineTo(u + 1, v);
        empty = false;
      }
    }
  }
  return empty ? null : path;
};

const outlineOf = (volume, plane, reader) => {
  const key = `${reader} ${plane.start} ${plane.su} ${plane.sv}`;
  if (!volume.outlines.has(key)) {
    const mask = reader === "consensus" ? volume.consensus : volume.masks[reader];
    volume.outlines.set(key, outline(mask, plane));
  }
  return volume.outlines.get(key);
};

const stroke = (context, path, { u, v, scale }, colour, width, dash = []) => {
  if (!path) return;
  const scaled = new Path2D();
  scaled.addPath(path, { a: scale[0], d: scale[1], e: -u * scale[0], f: -v * scale[1] });
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineCap = "square";
  context.setLineDash(dash);
  context.stroke(scaled);
  context.setLineDash([]);
};

const BAR_LENGTHS = [100, 50, 20, 10, 5, 2, 1];

const scaleBar = (context, width, height, pixelsPerMm, ratio) => {
  const length = BAR_LENGTHS.find((mm) => mm * pixelsPerMm <= width / 3) ?? 1;
  const x = 10 * ratio, y = height - 10 * ratio, pixels = length * pixelsPerMm;
  context.fillStyle = "rgba(0, 0, 0, .55)";
  context.fillRect(x - 5 * ratio, y - 19 * ratio, Math.max(pixels, 34 * ratio) + 10 * ratio, 24 * ratio);
  context.fillStyle = "#fff";
  context.fillRect(x, y - 2 * ratio, pixels, 2 * ratio);
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.fillText(`${length} mm`, x, y - 6 * ratio);
};

const tag = (context, text, ratio) => {
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  const wide = context.measureText(text).width;
  context.fillStyle = "rgba(0, 0, 0, .55)";
  context.fillRect(5 * ratio, 5 * ratio, wide + 10 * ratio, 18 * ratio);
  context.fillStyle = "#fff";
  context.fillText(text, 10 * ratio, 18 * ratio);
};

// One plane on a canvas of any size. `look` says how, `marks` what lies over it.
const drawPlane = (canvas, volume, plane, look, marks, ratio) => {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const small = drawPlane.scratch ??= document.createElement("canvas");
  small.width = plane.w;
  small.height = plane.h;
  small.getContext("2d").putImageData(voxelImage(volume, plane, look), 0, 0);
  context.imageSmoothingEnabled = false;  // every voxel as it is
  const { u: left, v: top, columns, rows } = plane;
  context.drawImage(small, left, top, columns, rows, 0, 0, width, height);
  const scale = [width / columns, height / rows], place = { u: left, v: top, scale };
  // thinner from reader to reader, or equal outlines would hide each other
  marks.readers.forEach((reader) => stroke(context, outlineOf(volume, plane, reader), place,
    marks.colours[reader % marks.colours.length], ([3, 2.2, 1.5][reader] ?? 0.9) * ratio));
  if (marks.consensus && volume.consensus) {
    const path = outlineOf(volume, plane, "consensus");
    stroke(context, path, place, "#000", 2.4 * ratio);
    stroke(context, path, place, "#fff", 1.2 * ratio, [4 * ratio, 3 * ratio]);
  }
  for (const [colour, thick] of marks.cross ? [["rgba(0, 0, 0, .7)", 3], ["#F0E442", 1.2]] : []) {
    const [u, v] = [(marks.cross[0] + 0.5 - left) * scale[0], (marks.cross[1] + 0.5 - top) * scale[1]];
    const gap = Math.max(5 * ratio, scale[0]);
    context.fillStyle = colour;
    const line = thick * ratio;
    context.fillRect(0, v - line / 2, u - gap, line);
    context.fillRect(u + gap, v - line / 2, width - u - gap, line);
    context.fillRect(u - line / 2, 0, line, v - gap);
    context.fillRect(u - line / 2, v + gap, line, height - v - gap);
  }
  if (volume.panel.spacing && height > 60 * ratio) scaleBar(context, width, height, scale[0] / plane.du, ratio);
  if (marks.tag) tag(context, marks.tag, ratio);
};

// the share of attention of each slice above the slider; `inset` is half of the slider's thumb
const drawBars = (canvas, volume, at, ink, ratio, inset) => {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const { weights } = volume.panel;
  const [count, left] = [volume.depth, inset * ratio];
  const step = count > 1 ? (width - 2 * left) / (count - 1) : 0;
  const thick = Math.max(1, Math.min(count > 1 ? 0.7 * step : width, 14 * ratio));
  const foot = height - (volume.marked ? 5 * ratio : 0);
  const highest = weights ? Math.max(...weights) || 1 : 1;
  context.clearRect(0, 0, width, height);
  for (let k = 0; k < count; k++) {
    const x = (count > 1 ? left + k * step : width / 2) - thick / 2;
    context.fillStyle = k === at ? ink.accent : ink.quiet;
    if (weights) {
      const tall = Math.max(weights[k] > 0 ? 1 : 0, weights[k] / highest * (foot - ratio));
      context.fillRect(x, foot - tall, thick, tall);
    }
    // where at least half of the readers saw the lesion
    if (volume.marked?.[k]) context.fillRect(x, height - 3 * ratio, thick, 3 * ratio);
  }
};

// readers as dots in their colours, their spread as a band, their mean as a line, the model as ◆
const drawRating = (canvas, rating, colours, ink, ratio) => {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const [low, high] = rating.scale;
  const inset = 14 * ratio, middle = height / 2;
  const x = (value) => inset + (value - low) / (high - low || 1) * (width - 2 * inset);
  context.clearRect(0, 0, width, height);
  context.fillStyle = ink.quiet;
  context.fillRect(inset, middle - ratio / 2, width - 2 * inset, ratio);
  // no more than can be told apart, however far off a value lies
  const start = Math.ceil(low), steps = Math.floor(high) - start;
  for (let k = 0; k <= steps && steps <= 100; k++)
    context.fillRect(x(start + k) - ratio / 2, middle - 3 * ratio, ratio, 6 * ratio);
  const { readings } = rating;
  if (readings.length) {
    const [first, last] = [Math.min(...readings), Math.max(...readings)];
    context.globalAlpha = 0.35;
    context.fillRect(x(first) - 4 * ratio, middle - 5 * ratio, x(last) - x(first) + 8 * ratio, 10 * ratio);
    context.globalAlpha = 1;
    const mean = readings.reduce((a, b) => a + b, 0) / readings.length;
    context.fillStyle = ink.text;
    context.fillRect(x(mean) - ratio, middle - 8 * ratio, 2 * ratio, 16 * ratio);
  }
  readings.forEach((value, reader) => {
    const equal = readings.flatMap((other, i) => (other === value ? [i] : []));
    const off = (equal.indexOf(reader) - (equal.length - 1) / 2) * 7 * ratio;
    context.beginPath();
    context.arc(x(value) + off, middle, 3.2 * ratio, 0, 7);
    context.fillStyle = colours[reader % colours.length];
    context.fill();
  });
  if (rating.predicted !== null) {
    const [at, big] = [x(rating.predicted), 5.5 * ratio];
    context.beginPath();
    context.moveTo(at, middle - big);
    context.lineTo(at + big, middle);
    context.lineTo(at, middle + big);
    context.lineTo(at - big, middle);
    context.closePath();
    context.lineWidth = 2 * ratio;
    context.strokeStyle = ink.ground;
    context.stroke();
    context.fillStyle = ink.text;
    context.fill();
  }
};

const drawScale = (canvas, table) => {
  const context = canvas.getContext("2d");
  const image = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  canvas.width = 256;
  canvas.height = 1;
  context.putImageData(image, 0, 0);
};

// -- words --------------------------------------------------------------------------------

const number = (value, digits) => value.toFixed(digits).replace("-", "−");

const tidy = (value, digits = 4) => (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e5)
  ? String(Number(value.toPrecision(digits))) : value.toExponential(Math.min(digits - 1, 2))).replace("-", "−");

// in as many digits as it is known to
const mapNumber = (value, { error }) => {
  const [first, last] = [Math.abs(value), 2 * error || Number.MIN_VALUE].map(Math.log10);
  return tidy(value, Math.min(6, Math.max(1, 1 + Math.floor(first) + Math.ceil(-last))));
};

// which map it is, how far its own values go and where, and what its colours mean
const mapWords = ({ method, about, low, high, peak, missing }, limits) => {
  const name = [method, about].filter(Boolean).join(" of ");
  if (!low && !high) return `${name}: ${missing ? "0, or no value," : "0"} everywhere`;
  const where = peak === null ? "the same on every slice" : `strongest on slice ${peak + 1}`;
  return `${name}: ${tidy(low)} to ${tidy(high)}, ${where}${limits[0] < 0 ? "; orange above 0, purple below" : ""}`;
};

const sliceWords = (volume, k) => {
  const { z, spacing, weights, stride, frame } = volume.panel;
  const words = [`slice ${k + 1} of ${volume.depth}`];
  if (stride[0] > 1) words.push(`index ${k * stride[0]}`);
  if (spacing) words.push(`z ${number(z[k], 1)} mm from ${frame}`);
  if (weights) words.push(`attention ${tidy(weights[k])}`);
  return words.join(" · ");
};

const probeWords = (volume, found, map) => {
  const parts = [];
  if (found.hu === null) parts.push("no value");
  else if (found.rounding) parts.push(`HU ≈ ${number(found.hu, 0)} ± ${found.rounding}`);
  else parts.push(`HU ${number(found.hu, 0)}`);
  if (map) {
    const fine = map.error > (map.high - map.low) / 2000 ? ` ± ${tidy(map.error)}` : "";
    parts.push(found.map === null ? "map: no value" : `map ${mapNumber(found.map, map)}${fine}`);
  }
  const [z, y, x] = (found.mm ?? []).map((mm) => number(mm, 1));
  if (found.mm) parts.push(`z ${z}, y ${y}, x ${x} mm`);
  parts.push(`voxel (${found.z}, ${found.y}, ${found.x})`);
  return parts.join(" · ");
};

const ratingWords = ({ readings, predicted }) => {
  const mean = readings.reduce((a, b) => a + b, 0) / readings.length;
  const spread = `${tidy(Math.min(...readings))}–${tidy(Math.max(...readings))}`;
  return {
    model: predicted === null ? "–" : tidy(predicted),
    readers: readings.length ? `${tidy(mean)} (${spread})` : "–",
    all: readings.length ? `readers gave ${readings.map((value) => tidy(value)).join(", ")}` : "no reader",
  };
};
