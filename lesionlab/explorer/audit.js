// A table that is pasted into a page, audited there: the checks of lesionlab.statistics.audit_rows for
// a row of two classes, with five rates and a number of cases. `data` has the names, so that this file
// and the Python one know the same columns.
(el, data) => {
  const STYLE = `
    :host { display: block; }
    form, ul { color: var(--pst-color-text-base, var(--jp-ui-font-color1, CanvasText)); display: grid;
      font: 15px/1.5 system-ui, sans-serif; gap: .6rem; max-width: 46rem; }
    label { display: grid; font-weight: 600; gap: .2rem; }
    textarea, input, button { background: var(--pst-color-background, var(--jp-layout-color0, Canvas));
      border: 1px solid currentcolor; border-radius: 4px; box-sizing: border-box; color: inherit;
      font: 14px/1.4 ui-monospace, monospace; padding: .4rem .6rem; width: 100%; }
    input { max-width: 12rem; }
    button { cursor: pointer; font: inherit; font-weight: 600; justify-self: start; min-height: 36px; width: auto; }
    :focus-visible { outline: 2px solid currentcolor; outline-offset: 2px; }
    ul { margin: .8rem 0 0; padding-left: 1.2rem; }
    li { overflow-wrap: anywhere; }
    li.finding { font-weight: 600; }`;
  const make = (tag, more = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), more);
    made.append(...children);
    return made;
  };

  // -- reading -------------------------------------------------------------------------
  const cellsOf = (line, mark) => {
    const cells = [""];
    let quoted = false;
    for (const letter of line) {
      if (letter === '"') quoted = !quoted;
      else if (letter === mark && !quoted) cells.push("");
      else cells[cells.length - 1] += letter;
    }
    return cells.map((cell) => cell.trim());
  };
  const plain = (text) => text.replaceAll("%", "").replaceAll("−", "-").replaceAll(",", ".").trim();
  const empty = (text) => data.empty.includes(plain(text).toLowerCase());
  const printed = (text, scale) => {
    const cell = plain(text);
    if (!/^[-+]?(\d+(\.\d*)?|\.\d+)$/.test(cell)) throw new Error(`“${text}” is not a number such as 0.84, 84.2 % or 84,2`);
    const [whole, all = ""] = cell.split(".");
    const digits = all.slice(0, data.decimals);
    const middle = 2 * Number(`${/\d/.test(whole) ? whole : `${whole}0`}${digits}`);
    return { text, low: middle - 1, high: middle + 1, unit: 2 * 10 ** digits.length * scale, scale, places: digits.length };
  };
  const value = ({ low, high, unit }) => (low + high) / 2 / unit;
  const read = (text, cases) => {
    const lines = text.split(/\r?\n/).filter((line) => line.trim());
    if (!lines.length) throw new Error("there is no table: paste one, with the names of the columns above");
    const mark = ["\t", ";"].find((one) => lines[0].includes(one)) ?? ",";
    const named = cellsOf(lines[0], mark);
    const heads = named.map((name) => name.replaceAll("%", "").toLowerCase().replace(/^[ ()_]+|[ ()_]+$/g, "").replaceAll(" ", "_"))
      .map((name) => data.aliases[name] ?? name);
    const at = Object.fromEntries([...data.names, "n"].map((name) => [name, heads.indexOf(name)]).filter(([, i]) => i >= 0));
    const rates = data.names.filter((name) => name in at);
    if (!rates.length) throw new Error(`no column to audit in ${named.join(", ")}; expected some of ${data.names.join(", ")}`);
    const rows = lines.slice(1).map((line) => cellsOf(line, mark));
    const first = Math.min(...Object.values(at));
    const scales = Object.fromEntries(rates.map((name) => {
      const texts = rows.map((row) => row[at[name]] ?? "");
      const values = texts.filter((cell) => !empty(cell)).map((cell) => value(printed(cell, 1))).sort((a, b) => a - b);
      const half = values.length / 2;
      const middle = (values[Math.ceil(half) - 1] + values[Math.floor(half)]) / 2;
      return [name, [named[at[name]], ...texts].join("").includes("%") || middle > 1.5 ? 100 : 1];
    }));
    return rows.map((row, i) => {
      const has = rates.filter((name) => !empty(row[at[name]] ?? ""));
      const number = (row[at.n] ?? "").replace(/[ ,]/g, "").replace(/\.0$/, "");
      if (!empty(number) && !/^\d+$/.test(number)) throw new Error(`“${row[at.n]}” is not a whole number of cases`);
      return {
        name: row.slice(0, first).filter(Boolean).join(", ") || `row ${i + 1}`,
        rates: has.map((name) => [name, printed(row[at[name]], scales[name])]),
        n: empty(number) ? cases : Number(number),
      };
    }).filter((row) => row.rates.length);
  };

  // -- the arithmetic, in whole numbers ------------------------------------------------
  const grim = ({ low, high, unit }, n) => {  // BigInt: a million cases times nine digits
    const [a, b, u, m] = [low, high, unit, n].map(BigInt);
    const first = Math.max(low < 0 ? 0 : Number((a * m + u - 1n) / u), 0);
    return [first, high < 0 ? -1 : Math.min(Number((b * m) / u), n)];
  };
  const between = (accuracy, ...others) => {
    const over = (a, x, b, y) => BigInt(a) * BigInt(y) > BigInt(b) * BigInt(x);  // a / x > b / y
    return others.some((r) => !over(r.low, r.unit, accuracy.high, accuracy.unit)) &&
      others.some((r) => !over(accuracy.low, accuracy.unit, r.high, r.unit));
  };
  const up = (a, b) => Math.ceil(a / b), down = (a, b) => Math.floor(a / b);
  // how many tables of n cases there are, and the first of them
  const tables = (rates, n) => {
    const of = Object.fromEntries(rates);
    let count = 0, one = null;
    for (let p = 0; p <= n; p += 1) {
      const { sensitivity: s, specificity: c, accuracy: a, npv: v, precision: r } = of;
      const negative = n - p;
      if ((s && !p) || (c && !negative)) continue;
      const most = s ? Math.min(p, down(s.high * p, s.unit)) : p;
      for (let tp = s ? Math.max(0, up(s.low * p, s.unit)) : 0; tp <= most; tp += 1) {
        const fn = p - tp;
        let low = 0, high = negative;
        const bound = (least, last) => { low = Math.max(low, least); high = Math.min(high, last); };
        if (a) bound(up(a.low * n, a.unit) - tp, down(a.high * n, a.unit) - tp);
        if (c) bound(up(c.low * negative, c.unit), down(c.high * negative, c.unit));
        if (v) bound(Math.max(up(v.low * fn, Math.max(v.unit - v.low, 1)), 1 - fn),
                     v.high >= v.unit ? negative : down(v.high * fn, v.unit - v.high));
        if (r) bound(r.low <= 0 ? 0 : tp + negative - down(r.unit * tp, r.low),
                     tp + negative - Math.max(up(r.unit * tp, Math.max(r.high, 1)), 1));
        if (high >= low) {
          count += high - low + 1;
          one ??= { tp, fn, fp: negative - low, tn: low };
        }
      }
    }
    return { count, one };
  };
  const check = ({ rates, n }) => {
    const of = Object.fromEntries(rates);
    const wrong = rates.find(([, rate]) => value(rate) > 1 || value(rate) < 0);
    if (wrong) return ["range", `${wrong[0]} ${wrong[1].text} is no share (0 to 1, or 0 to 100 %)`, true];
    const { accuracy: a, sensitivity: s, specificity: c } = of;
    if (a && s && c && !between(a, s, c)) {
      return ["between", `an accuracy is the mean of sensitivity and specificity, weighted by class sizes: ${a.text} is not between ${s.text} and ${c.text}`, true];
    }
    if (!n) return ["none", "without the number of cases, nothing more can be checked here", false];
    if (a) {
      const [first, last] = grim(a, n);
      if (first > last) {
        const k = Math.floor(value(a) * n);
        const near = [k, k + 1].filter((i) => i <= n).map((i) => `${i}/${n} = ${(a.scale * i / n).toFixed(a.places)}`);
        const said = `accuracy ${a.text} is no whole number of ${n} (${near.join(", ")})`;
        const [cut, end] = grim({ ...a, low: a.low + 1, high: a.high + 1 }, n);
        return cut > end ? ["k of n", said, true] : ["cut", `${said}; ${cut} if further digits were cut and not rounded`, true];
      }
    }
    if (rates.length < 2) return ["none", "nothing speaks against it", false];
    if (n > data.limit) return ["none", `of more than ${data.limit} cases, tables are not looked through here`, false];
    const { count, one } = tables(rates, n);
    if (!count) return ["tables", `no table of ${n} cases has these rates`, true];
    const cells = Object.entries(one).map(([name, k]) => `${name} ${k}`).join(", ");
    return ["tables", count === 1 ? `one table of ${n} cases fits: ${cells}` : `${count} tables of ${n} cases fit, the first is ${cells}`, false];
  };
  const audit = (text, cases) => read(text, cases).map((row) => {
    const [name, says, finding] = check(row);
    return { row: row.name, check: name, says, finding };
  });

  // -- the form ------------------------------------------------------------------------
  const host = make("div");
  host.setAttribute("data-lm-suppress-shortcuts", "true");  // in JupyterLab, letters are text here
  const area = make("textarea", { rows: 7, value: data.text, spellcheck: false, name: "table" });
  const number = make("input", { type: "number", min: 1, step: 1, value: data.cases ?? "", name: "cases" });
  const found = make("ul");
  found.setAttribute("aria-live", "polite");
  const form = make("form", {}, make("label", {}, "Your table, with the names of its columns", area),
                    make("label", {}, "Cases behind each row, if there is no column n", number),
                    make("button", { type: "submit" }, "Audit this table"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    let items;
    try {
      items = audit(area.value, Number(number.value) || null);
    } catch (error) {
      items = [{ row: "", check: "not read", says: error.message, finding: false }];
    }
    found.replaceChildren(...items.map(({ row, check: name, says, finding }) =>
      make("li", { className: finding ? "finding" : "" }, `${[row, name === "none" ? "" : name].filter(Boolean).join(", ")}: ${says}`)));
  });
  host.attachShadow({ mode: "open" }).append(make("style", {}, STYLE), form, found);
  el.replaceChildren(host);
  host.audit = audit;
}
