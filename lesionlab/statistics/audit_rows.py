"""The audit of a table: what arithmetic says of each row, and of all rows together.

`table` audits a table of your own, `lesionlab.published.audits` those that the papers printed; the
tools stand in `lesionlab.statistics.audit`. A finding says that printed numbers are not mutually
consistent. It does not say which of them is wrong, or why. A note says what does fit.

Example:
    >>> mine = pd.DataFrame([["98.09", "98.73", "98.96"]], columns=["accuracy", "recall", "tnr"])
    >>> [item.check for item in table(mine).findings]
    ['between']
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import pandas as pd

from lesionlab import _names
from lesionlab.statistics import audit
from lesionlab.statistics.audit import COUNTS, LIMIT, NAMES, Printed

RATES = (*NAMES, "f1", "mcc")
WHOLE = (*COUNTS, "n", "positives", "runs")

ALIASES = {
    "acc": "accuracy", "sens": "sensitivity", "recall": "sensitivity", "tpr": "sensitivity",
    "spec": "specificity", "tnr": "specificity", "ppv": "precision", "cases": "n",
}  # fmt: skip
"""Other names of columns that `table` understands."""

MOST_NAMED = 300
"""Most cases for which other names of the columns are tried."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What stands in a row: rates by name (one may come twice), counts, and what is known of them.

    `n` is the number of cases; `at_most` stands in its place where only that is known. `runs` is
    how many runs a mean may be over, and `sds` has standard deviations, read as the rate is and as
    a fraction.
    """

    name: str
    cells: Mapping[str, str]
    rates: Sequence[tuple[str, Printed]]
    sds: Mapping[str, tuple[Printed, Printed]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    n: int | None = None
    at_most: int | None = None
    positives: int | None = None
    runs: int = 1

    def first(self, name: str) -> Printed | None:
        """The rate of that name."""
        return next((rate for own, rate in self.rates if own == name), None)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that arithmetic says of a row: a finding, or a note.

    `check` is the name of the check, `cells` has what is printed by column, `says` the arithmetic.
    """

    row: str
    check: str
    cells: Mapping[str, str]
    says: str
    finding: bool

    def __str__(self) -> str:
        printed = ", ".join(f"{name} {text}" for name, text in self.cells.items())
        return f"{self.check}: {self.row} [{printed}]: {self.says}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was looked at in a table of a paper, and what was found."""

    paper: str
    table: str
    n_rows: int
    items: Sequence[Item]

    @property
    def findings(self) -> list[Item]:
        """The items that say that numbers are not mutually consistent."""
        return [item for item in self.items if item.finding]


Said = Iterator[tuple[str, str, bool]]
"""Name of the check, the arithmetic, and whether it is a finding."""


def check(row: Row) -> Said:
    """All that can be said of one row by itself."""
    for name, rate in row.rates:
        if audit.outside(name, rate):
            yield "range", f"{name} {rate.text} is no share (0 to 1, or 0 to 100 %)", True
            return
    accuracy, sensitivity, specificity = map(row.first, NAMES[:3])
    three = accuracy and sensitivity and specificity
    if three and not audit.between(accuracy, sensitivity, specificity):  # type: ignore[arg-type]
        said = "an accuracy is the mean of sensitivity and specificity, weighted by class sizes"
        texts = [rate.text for rate in (accuracy, sensitivity, specificity) if rate]
        yield "between", f"{said}: {texts[0]} is not between {texts[1]} and {texts[2]}", True
        return
    if row.counts.keys() >= {*COUNTS}:
        total = sum(row.counts.values())
        if row.n not in (None, total):
            yield "sum", f"{' + '.join(COUNTS)} is {total:,}, and {row.n:,} is printed", True
            return
        row = replace(row, n=total)
    if row.at_most is not None:
        yield _any_number(row, row.at_most)
    elif row.n is None:
        yield from _any_share(row)
    else:
        yield from _cases(row, row.n)
        if row.runs > 1:
            yield from _spread(row, row.n)


def _any_number(row: Row, at_most: int) -> tuple[str, str, bool]:
    fit = audit.numbers_that_fit(row.rates, range(1, at_most + 1), counts=row.counts)
    if not fit:
        return "tables", f"no number of cases up to {at_most} has a table with these numbers", True
    said = _or(fit) if len(fit) < 5 else f"{len(fit)} numbers up to {at_most}"
    return "tables", f"there is a table for these numbers of cases: {said}", False


def _any_share(row: Row) -> Said:
    rates = [pair for pair in row.rates if pair[0] in NAMES]
    if len(rates) < 3:
        return
    if (share := audit.prevalence(rates)) is None:
        yield "prevalence", "no share of positive cases gives these rates", True
    else:
        yield "prevalence", f"{_percent(share)} of the cases are positive", False


def _cases(row: Row, n: int) -> Said:
    problem = _problem(row, n, row.positives)
    if problem is None:
        yield from _fitting(row, n)
        return
    name, said = problem
    if row.runs > 1:  # only these of a mean over runs are those of all their cases
        mean = replace(row, rates=[pair for pair in row.rates if pair[0] in NAMES[:3]])
        if _problem(mean, n * row.runs, row.positives and row.positives * row.runs) is None:
            yield name, f"{said}; as the mean of {row.runs} runs it can be", False
            return
        said += f"; nor as the mean of {row.runs} runs"
    yield name, said, True


def _problem(row: Row, n: int, positives: int | None) -> tuple[str, str] | None:
    """Why the rates cannot be those of n cases: the check and the arithmetic."""
    rates = [pair for pair in row.rates if pair[0] in NAMES]
    sizes = {"accuracy": n}
    if positives is not None:
        sizes |= {"sensitivity": positives, "specificity": n - positives}
        implied = audit.prevalence(rates)
        if implied and not audit.prevalence(rates, Fraction(positives, n)):
            said = f"{_percent(implied)} would have to be positive, and {positives:,} of {n:,} are"
            return "prevalence", f"{said} {100 * positives / n:.1f} %"
    for name, rate in rates:
        if name in sizes and not audit.grim(rate, of := sizes[name]):
            k = int(rate.value * of)
            near = [f"{i}/{of} = {rate.like(Fraction(i, of))}" for i in (k, k + 1) if i <= of]
            said = f"{name} {rate.text} is no whole number of {of:,} ({', '.join(near)})"
            if cut := audit.whole(rate, of):
                return "cut", f"{said}; {cut[0]} if further digits were cut and not rounded"
            return "k of n", said
    if len(rates) < 2 and not row.counts:
        return None
    if n > LIMIT:
        fits = audit.prevalence(rates) is not None
    else:
        fits = audit.possible(rates, n, positives=positives, counts=row.counts)
    return None if fits else ("tables", f"no table of {n:,} cases has these rates")


def _fitting(row: Row, n: int) -> Said:
    """Where some table fits: which one, and whether it has the F1 and the MCC."""
    if n > LIMIT or len(row.rates) < 2:
        return
    try:
        found = audit.tables(row.rates, n, positives=row.positives, counts=row.counts)
    except audit.TooManyError as many:
        yield "tables", f"{many} fit", False
        return
    rate, kinds = row.first("f1"), []
    if rate is not None:
        kinds = [kind for kind, values in audit.f1(found).items() if rate.holds(values).any()]
    if not len(found) or (rate is not None and not kinds):
        names = " and ".join(name for name, _ in row.rates if name in ("f1", "mcc"))
        said = f"no table of {n:,} cases with the other rates has this {names}"
        if row.runs > 1:
            yield "f1, mcc", f"{said}; of means over runs this cannot be said", False
        else:
            yield "f1, mcc", f"{said} (F1 of either class, macro or weighted)", True
        return
    if kinds:
        yield "f1, mcc", f"F1 can be {_or(kinds)}", False
    if len(found) == 1:
        cells = ", ".join(f"{c} {v}" for c, v in zip(COUNTS, found[0], strict=True))
        yield "tables", f"one table of {n:,} cases fits: {cells}", False


def _spread(row: Row, n: int) -> Said:
    mean, sds = row.first("accuracy"), row.sds.get("accuracy")
    if mean is None or sds is None or not audit.grim(mean, n * row.runs):
        return
    said = f"as mean ± SD of {row.runs} runs of {n:,} cases"
    if audit.spreads(mean, sds[0], n, row.runs):
        return
    # the least that an SD can be, one case more in one run; what is less may be a fraction
    if sds[0].value < row.runs**-0.5 / n and audit.spreads(mean, sds[1], n, row.runs):
        yield "mean ± SD", f"{said}, {sds[0].text} can be a fraction, but not in %", False
    else:
        yield "mean ± SD", f"{said}, no whole numbers of right answers give {sds[0].text}", True


def _percent(share: tuple[float, float]) -> str:
    return f"{100 * share[0]:.1f} % to {100 * share[1]:.1f} %"


def _or(names: Iterable[object]) -> str:
    return " or ".join(map(str, names))


# -- all rows of a table -----------------------------------------------------------------------


def checked(rows: Sequence[Row], keys: Sequence[object] | None = None) -> list[Item]:
    """What can be said of the rows of a table, each by itself and all together.

    Two rows with the same key are the two classes of one confusion matrix.
    """
    rows, items = _named(rows, range(len(rows)) if keys is None else keys)
    split, said = _split(rows)
    failed = []
    for row in rows:
        for name, says, finding in check(row):
            if finding and name == "tables" and row.n:
                failed.append(row)
            if finding and split and name in ("between", "tables"):
                name, says = _right(row, split, name, says)
            items.append(
                Item(row=row.name, check=name, cells=row.cells, says=says, finding=finding)
            )
    return [*items, *said, *_other_n(failed)]


def _note(row: str, says: str) -> Item:
    return Item(row=row, check="shared n", cells={}, says=says, finding=False)


def _named(rows: Sequence[Row], keys: Sequence[object]) -> tuple[list[Row], list[Item]]:
    """Rows with the same key joined to one, and the names of the columns that fit most of them."""
    by_key: dict[object, list[Row]] = {}
    for key, row in zip(keys, rows, strict=True):
        by_key.setdefault(key, []).append(row)
    groups = [
        g for own in by_key.values() for g in ([own] if len(own) == 2 else [[r] for r in own])
    ]
    names = [[name for name, _ in row.rates] for row in rows]
    best, items = None, []
    n = rows[0].n if len({row.n for row in rows}) == 1 else None
    alike = n is not None and len(groups) > 2 and all(own == names[0] for own in names)
    if n and alike and n <= MOST_NAMED and len(names[0]) > 2 and {*names[0]} <= {*NAMES}:
        fits = audit.names_that_fit([[dict(row.rates) for row in g] for g in groups], n)
        best = max(fits, key=fits.__getitem__)
        if best != tuple(names[0]):
            said = f"as named, {fits[tuple(names[0])]} of {len(groups)} tables of {n} cases exist;"
            said += f" with {', '.join(names[0])} read as {', '.join(best)}, {fits[best]};"
            said += " the rows below are read so"
            cells = _cells(groups[0])
            items.append(Item(row="all rows", check="names", cells=cells, says=said, finding=True))
    joined = []
    for group in groups:
        read = [dict(row.rates) for row in group]
        if best is not None:
            read = [dict(zip(best, own.values(), strict=True)) for own in read]
        name = " and ".join(row.name for row in group)
        joined.append(replace(group[0], name=name, rates=audit.joined(read), cells=_cells(group)))
    return joined, items


def _cells(group: Sequence[Row]) -> dict[str, str]:
    if len(group) == 1:
        return dict(group[0].cells)
    return {f"{c} ({i})": text for i, row in enumerate(group, 1) for c, text in row.cells.items()}


def _split(rows: Sequence[Row]) -> tuple[int | None, list[Item]]:
    """How many cases are positive, if most rates of all rows agree on it."""
    numbers = {row.n for row in rows}
    n = numbers.pop() if len(numbers) == 1 else None
    rates = [pair for row in rows for pair in row.rates if pair[0] in NAMES[1:3]]
    if n is None or not 2 < n <= LIMIT or len(rates) < 6 or any(row.positives for row in rows):
        return None, []
    best, fits, second = audit.positives_that_fit(rates, n)
    if fits < 0.75 * len(rates) or second == fits:
        return None, []
    said = f"{best} positive and {n - best} negative cases fit {fits} of {len(rates)} rates"
    return best, [_note("all rows", f"{said}; the next best division fits {second}")]


def _right(row: Row, positives: int, name: str, says: str) -> tuple[str, str]:
    """The same finding, with how many cases are right if so many are positive."""
    accuracy, sensitivity, specificity = map(row.first, NAMES[:3])
    if accuracy is None or sensitivity is None or specificity is None or row.n is None:
        return name, says
    sizes, hits = (positives, row.n - positives), []
    for rate, of in zip((sensitivity, specificity), sizes, strict=True):
        hits.append(audit.whole(rate, of))
        if len(hits[-1]) != 1:
            return name, f"{says}; {rate.text} is not one whole number of {of}"
    right = hits[0][0] + hits[1][0]
    said = f"{hits[0][0]} of {sizes[0]} and {hits[1][0]} of {sizes[1]} are right, which makes"
    said += f" {right} of {row.n} = {accuracy.like(Fraction(right, row.n))}"
    if right in audit.whole(accuracy, row.n):
        return "cut", f"{says}; but {said}, as printed, if digits were cut and not rounded"
    return name, f"{says}; {said}"


def _other_n(rows: Sequence[Row]) -> Iterator[Item]:
    """Which other number of cases fits rows that have no table of theirs, if one fits many."""
    fits = {
        row.name: audit.numbers_that_fit(row.rates, range(row.n // 2, 3 * row.n // 2))
        for row in rows if row.n is not None and row.n <= LIMIT // 2
    }  # fmt: skip
    while len(fits) > 1:
        counted = Counter(n for own in fits.values() for n in own)
        best = max(sorted(counted), key=counted.__getitem__, default=0)
        if counted[best] < max(2, len(fits) / 2):
            return
        names = [name for name, own in fits.items() if best in own]
        said = f"{len(names)} of {len(fits)} rows without a table have one of {best} cases"
        yield _note("; ".join(names), said)
        fits = {name: own for name, own in fits.items() if best not in own}


# -- from cells to rows ------------------------------------------------------------------------


def rows_of(
    cells: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    label: Sequence[str] = (),
    scales: Mapping[str, int] | None = None,
    **known: Any,
) -> list[Row]:
    """The rows of a table of text, with their numbers read; rows without a number are left out.

    Args:
        cells: Text as printed.
        columns: Column by what it holds: a name of `RATES`, also with "_sd", or of `WHOLE`.
        label: Columns that name a row; those before the first of `columns` by default.
        scales: By how much printed numbers are larger than the rate. By default 100 where a cell or
            the name of the column has a percent sign, or the middle value is above 1.5.
        known: What holds for all rows, as in `Row`.

    Raises:
        ValueError: A cell holds no number; the message names row and column.
    """
    known_columns = [i for i, c in enumerate(cells) if c in columns.values()]
    keys = list(label) or [c for c in cells.columns[: min(known_columns)] if c != "reference"]

    def read(text: str, row: str, column: str, scale: int = 1) -> Printed | None:
        try:
            return audit.printed(text, scale)
        except ValueError as error:
            raise ValueError(f"{row}, column {column}: {error}") from None

    names = []
    for i, (_, cell) in enumerate(cells.iterrows(), 1):
        words = [
            f"{k} {cell[k]}" if cell[k].replace(".", "", 1).isdigit() else cell[k] for k in keys
        ]
        names.append(", ".join(filter(None, words)) or f"row {i}")
    rates: list[dict[str, Printed]] = [{} for _ in names]
    sds: list[dict[str, tuple[Printed, Printed]]] = [{} for _ in names]
    for name in (name for name in RATES if name in columns):
        column, spread = columns[name], columns.get(f"{name}_sd")
        plain = [read(text, row, column) for text, row in zip(cells[column], names, strict=True)]
        middle = pd.Series([float(p.value) for p in plain if p is not None], dtype=float).median()
        percent = "%" in "".join([column, *cells[column]]) or middle > 1.5
        scale = (scales or {}).get(name, 100 if percent else 1)
        for i, text in enumerate(cells[column]):
            if (rate := read(text, names[i], column, scale)) is not None:
                rates[i][name] = rate
            if spread is None:
                continue
            own = [read(cells[spread].iloc[i], names[i], spread, s) for s in (scale, 1)]
            if own[0] is not None and own[1] is not None:
                sds[i][name] = own[0], own[1]
    rows = []
    for i, (_, cell) in enumerate(cells.iterrows()):
        whole = {c: _count(cell[columns[c]], names[i], columns[c]) for c in WHOLE if c in columns}
        own_known = {c: value for c, value in whole.items() if value is not None}
        counts = {c: own_known.pop(c) for c in COUNTS if c in own_known}
        if rates[i] or counts:
            shown = {c: cell[c] for c in columns.values() if cell[c]}
            rows.append(Row(name=names[i], cells=shown, rates=list(rates[i].items()), sds=sds[i],
                            counts=counts, **own_known | known))  # fmt: skip
    return rows


def _count(text: str, row: str, column: str) -> int | None:
    plain = text.strip().replace(",", "").replace(" ", "").removesuffix(".0")
    if plain.lower() in audit.EMPTY:
        return None
    if not plain.isdecimal():
        raise ValueError(f"{row}, column {column}: {text!r}: expected a whole number")
    return int(plain)


def read(text: str) -> pd.DataFrame:
    """A table of text from CSV: columns are parted by tabs or semicolons if the head has any.

    Raises:
        ValueError: It has no head, or a row that is longer.
    """
    head = text.lstrip().partition("\n")[0]
    parted = next((mark for mark in "\t;" if mark in head), ",")
    lines = csv.reader(io.StringIO(text.strip()), delimiter=parted, skipinitialspace=True)
    names, *rows = [line for line in lines if any(line)] or [[]]
    for i, row in enumerate(rows, 1):
        if len(row) > len(names):
            raise ValueError(f"row {i} has {len(row)} cells, and the head has {len(names)}")
    padded = [row + [""] * (len(names) - len(row)) for row in rows]
    return pd.DataFrame(padded, columns=[name.strip() for name in names], dtype=object)


def table(
    cells: pd.DataFrame, *, cases: int | None = None, name: str = "table", paper: str = ""
) -> Audit:
    """Audit a table of your own, one row per model.

    Args:
        cells: Columns accuracy, sensitivity (or recall), specificity, precision (or ppv), npv, f1,
            mcc, tp, fn, fp, tn, n (or cases), positives and runs, as far as there are any, and
            accuracy_sd; the columns before them name the row. A column is in percent if a cell or
            its name has a percent sign, or if the middle of its values is above 1.5. Read a CSV
            with `dtype=str`: a zero at the end counts.
        cases: Number of cases behind each row, where no column n says it.
        name: What to call the table.
        paper: Whose it is.

    Raises:
        ValueError: There is no column that can be audited, one comes twice, or a cell of such a
            column holds no number.
    """
    if cases is not None:
        _names.whole(1, cases=cases)
    clean = cells.astype(object).where(cells.notna(), "").astype(str).reset_index(drop=True)
    clean.columns = clean.columns.map(str)
    heads = [str(c).replace("%", "").lower().strip(" ()_").replace(" ", "_") for c in clean]
    heads = [ALIASES.get(head, head) for head in heads]
    pairs = [
        (h, c) for h, c in zip(heads, clean, strict=True) if h in {*RATES, *WHOLE, "accuracy_sd"}
    ]
    columns = {head: str(column) for head, column in pairs}
    known: dict[str, Any] = {} if cases is None or "n" in columns else {"n": cases}
    if len(columns) < len(pairs) or not clean.columns.is_unique:
        raise ValueError(f"a column comes twice in {_names.listed(map(str, clean))}")
    if not columns.keys() & {*RATES, *COUNTS}:
        there = _names.listed(map(str, clean))
        raise ValueError(f"no column to audit in {there}; expected some of {', '.join(RATES)}")
    rows = rows_of(clean, columns, **known)
    for row in rows:
        if row.n == 0 or (row.positives or 0) > (row.n or math.inf):
            said = f"n={row.n}, positives={row.positives}"
            raise ValueError(f"{row.name}: {said}: expected some cases, and no more positive ones")
    return Audit(paper=paper, table=name, n_rows=len(rows), items=checked(rows))
