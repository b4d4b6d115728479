// One attribute's scale, step by step, each with its examples in the viewer. The model has `step`.

const SCALE_STYLE = ".said { min-height: 1.45em; }";

export const mountScale = (el, data, options = {}) => {
  const model = options.model ?? localModel({ step: data.first, ...options.state });
  const { host, root } = framed(el, SCALE_STYLE, `Scale of ${data.title}`);
  const place = make("div");
  const said = make("p", { class: "said", "aria-live": "polite" });
  const shown = stage(place, data, data.state);
  const steps = radios(data.title, data.steps.map((step) => [step.code, `${step.code} ${step.word}`, step.share]), (value) => {
    model.set("step", Number(value));
    model.save_changes();
  }, { about: data.meaning });
  root.append(steps.root, said, place);

  let now = null;
  const draw = () => {
    const step = data.steps.find(({ code }) => code === model.get("step"));
    if (!step || step === now) return;
    now = step;
    steps.show(step.code);
    said.textContent = step.text;
    shown.show(step.examples.map(({ volume, title, notes }) => {
      const panel = data.volumes[volume];
      return { ...panel, title, notes: [...notes, ...panel.notes] };
    }), `Nodules of ${data.title}, step ${step.code} ${step.word}`);
  };
  model.on("change:step", draw);
  draw();
  const destroy = () => {
    model.off("change:step", draw);
    shown.clear();
    host.remove();
  };
  host.scale = { model, root, destroy, get viewer() { return shown.viewer; } };
  return host.scale;
};

export const mountScalePage = (el) => {
  const { data, state } = fromPage(el);
  return mountScale(el, data, { state });
};

// for anywidget
const renderScale = ({ model, el }) => {
  const scale = mountScale(el, model.get("_data"), { model });
  return () => scale.destroy();
};
export default { render: renderScale };
