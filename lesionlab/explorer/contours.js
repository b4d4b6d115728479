// Scrolls through the slices of one nodule; no library, no network, no kernel.
// `root` is the element that Python wrote, `data` what contours.py describes.
(root, data) => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.appendChild(element);
    return element;
  };
  const svg = root.querySelector("svg");
  const slider = root.querySelector("input[type=range]");
  const status = root.querySelector("output");
  const boxes = [...root.querySelectorAll("input[type=checkbox]")];
  const layer = make("g", {}, svg);

  const bar = make("g", { class: "ll-bar" }, svg);
  const [left, , width, height] = data.view;
  const y = data.view[1] + height * 0.95;
  make("line", { x1: left + width * 0.04, x2: left + width * 0.04 + data.bar.length, y1: y, y2: y,
                 stroke: "currentColor", "stroke-width": 2, "vector-effect": "non-scaling-stroke" }, bar);
  make("text", { x: left + width * 0.04, y: y - height * 0.02, "font-size": height * 0.05,
                 fill: "currentColor" }, bar).textContent = data.bar.label;

  const draw = () => {
    const slice = data.slices[Number(slider.value)];
    layer.replaceChildren();
    const below = (a, b) => a.reader - b.reader;
    for (const outline of [...slice.outlines].sort(below)) {
      if (!boxes[outline.reader].checked) continue;
      make("path", { d: outline.path, fill: "none", stroke: data.colours[outline.reader],
                     // thinner from reader to reader, or equal outlines would hide each other
                     "stroke-width": [7, 4.5, 2.5][outline.reader] ?? 1.3, "stroke-linejoin": "round", "vector-effect": "non-scaling-stroke",
                     "stroke-dasharray": outline.hole ? "4 3" : "none" }, layer);
    }
    const readers = new Set(slice.outlines.map((o) => o.reader)).size;
    const words = `slice ${Number(slider.value) + 1} of ${data.slices.length}, z = ${slice.z} mm, ` +
      `outlined by ${readers} of ${data.colours.length} readers`;
    status.textContent = words;
    svg.setAttribute("aria-label", `${data.title}, ${words}`);
    slider.setAttribute("aria-valuetext", words);
  };

  slider.addEventListener("input", draw);
  boxes.forEach((box) => box.addEventListener("change", draw));
  svg.addEventListener("click", () => slider.focus({ preventScroll: true }));
  svg.addEventListener("wheel", (event) => {
    if (!root.contains(document.activeElement)) return;  // not in use: the page scrolls
    const before = slider.value;
    slider.value = Number(slider.value) - Math.sign(event.deltaY);
    if (slider.value !== before) event.preventDefault();  // at either end the page scrolls on
    draw();
  }, { passive: false });
  draw();
}
