// What a model would say if its scores were other ones: a slider a score. All is computed here.

const WHAT_IF_STYLE = `
.scores { display: grid; gap: .2rem .8rem; grid-template-columns: max-content minmax(6rem, 24rem) max-content; }
.scores label { align-self: center; }
.bar { background: var(--soft); border: 1px solid var(--edge); height: 14px; max-width: 30rem; }
.bar div { background: var(--text); height: 100%; }
`;

const probabilityOf = ({ scores, log_odds }, values) => {
  const shift = scores.reduce((sum, { slope, predicted }, i) => sum + slope * (values[i] - predicted), 0);
  return log_odds.reduce((sum, odds) => sum + 1 / (1 + Math.exp(-odds - shift)), 0) / log_odds.length;
};

const mountWhatIf = (el, data) => {
  const { host, root } = framed(el, WHAT_IF_STYLE, `Scores of ${data.title}`);
  const before = probabilityOf(data, data.scores.map(({ predicted }) => predicted));
  const said = make("p", { "aria-live": "polite" });
  const share = make("div");
  const inputs = data.scores.map(({ low, high, title }) =>
    make("input", { type: "range", min: low, max: high, step: "any", "aria-label": title }));
  const numbers = data.scores.map(() => make("span", { class: "quiet" }));
  const draw = () => {
    const p = probabilityOf(data, inputs.map(({ valueAsNumber }) => valueAsNumber));
    said.textContent = `Probability of ${data.outcome}: ${p.toFixed(3)} (as predicted: ${before.toFixed(3)})`;
    share.style.width = `${100 * p}%`;
    data.scores.forEach(({ predicted, readers }, i) => {
      const theirs = readers === null ? "no rating" : readers.toFixed(1);
      numbers[i].textContent = `${inputs[i].valueAsNumber.toFixed(1)} (predicted ${predicted.toFixed(1)}, readers ${theirs})`;
    });
  };
  const set = (values) => {
    inputs.forEach((input, i) => { input.value = values[i]; });
    draw();
  };
  const button = (words, values) => {
    const made = make("button", { type: "button" }, words);
    made.addEventListener("click", () => set(values));
    return made;
  };
  inputs.forEach((input) => input.addEventListener("input", draw));
  const predicted = data.scores.map((score) => score.predicted);
  const rows = data.scores.flatMap(({ title }, i) => [make("span", {}, title), inputs[i], numbers[i]]);
  root.append(
    make("p", { class: "title" }, data.title), said, make("div", { class: "bar" }, share),
    make("div", { class: "scores" }, ...rows),
    make("div", { class: "row" }, button("As predicted", predicted),
      button("As the readers rated", data.scores.map((score) => score.readers ?? score.predicted))),
    make("p", { class: "quiet" }, data.tier));
  set(predicted);
  host.whatIf = { root, inputs, set };
  return host.whatIf;
};

export const mountWhatIfPage = (el) => mountWhatIf(el, fromPage(el).data);

// for anywidget
const renderWhatIf = ({ model, el }) => {
  const { root } = mountWhatIf(el, model.get("_data"));
  return () => root.remove();
};
export default { render: renderWhatIf };
