"""Can these numbers be? What printed accuracies, sensitivities and counts rule out by arithmetic.

A printed number stands for all numbers that round to it: 0.84 for those from 0.835 to 0.845, both
ends included, since some round a half up and others to the even digit. Behind the rates of two
classes stands a table of four whole numbers: true positives, false negatives, false positives and
true negatives. The functions here list the tables that round to what is printed. If there is none,
the printed numbers are not mutually consistent; why they are not, arithmetic cannot say.

Example:
    >>> row = {"accuracy": "0.90", "sensitivity": "0.75", "specificity": "1.00"}
    >>> rates = {name: printed(text) for name, text in row.items()}
    >>> tables(rates.items(), 10)
    array([[3, 1, 0, 6]])

`grim` is Brown and Heathers' test of means (Soc Psychol Personal Sci 8, 2017), `spreads` is
Anaya's and Allard's of standard deviations (GRIMMER), exact where the spread is small.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Counts = NDArray[np.int64]

LIMIT = 2000
"""Most cases for which all tables are looked through; for more, real numbers stand for counts."""

MOST = 3_000_000
"""Most tables that are listed."""

DECIMALS = 9
"""Of a number with more, further decimals are cut."""

COUNTS = ("tp", "fn", "fp", "tn")

OTHER_CLASS = {
    "accuracy": "accuracy", "mcc": "mcc", "sensitivity": "specificity",
    "specificity": "sensitivity", "precision": "npv", "npv": "precision",
}  # fmt: skip
"""What a rate of one of two classes is for the other one."""

NAMES = ("accuracy", "sensitivity", "specificity", "precision", "npv")
"""Rates that are a share of a row, a column or the whole of a table."""

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?|[-+]?\.\d+")
EMPTY = {"", "-", "–", "—", "na", "n/a", "nan", "none"}
"""Cells in which nothing is printed."""

_NEAR = 1e-9  # nothing that fits may be lost by the rounding of floats


@dataclass(frozen=True)
class Printed:
    """A number as printed, and the numbers that round to it: from low / unit to high / unit."""

    text: str
    low: int
    high: int
    unit: int
    scale: int = 1

    @property
    def value(self) -> Fraction:
        """What is printed, as a fraction of 1."""
        return Fraction(self.low + self.high, 2 * self.unit)

    @property
    def ends(self) -> tuple[Fraction, Fraction]:
        """The smallest and the largest number that rounds to it."""
        return Fraction(self.low, self.unit), Fraction(self.high, self.unit)

    def like(self, value: Fraction) -> str:
        """Another number with as many digits, and in percent where this one is."""
        places = len(str(self.unit // self.scale)) - 1
        return f"{float(self.scale * value):.{places}f}{' %' if self.scale == 100 else ''}"

    def holds(self, values: NDArray[np.float64] | float) -> Any:
        """Whether each value rounds to what is printed, give or take 1e-9."""
        low, high = map(float, self.ends)
        return (low - _NEAR <= values) & (values <= high + _NEAR)

    def cut(self) -> Printed:
        """The numbers whose further digits were cut off, not rounded, to give what is printed."""
        half = (self.high - self.low) // 2
        return replace(self, low=self.low + half, high=self.high + half)


def printed(text: str, scale: int = 1) -> Printed | None:
    """Read a cell; None if it is empty (or holds a dash, "N/A" or "nan").

    A percent sign may follow, and a comma stands for a decimal point. `scale` is by how much the
    printed number is larger than the rate: 100 for percent.

    Raises:
        ValueError: The cell holds something else.

    >>> printed("84,2 %", scale=100).value
    Fraction(421, 500)
    """
    plain = text.replace("%", "").replace("−", "-").replace(",", ".").strip()
    if plain.lower() in EMPTY:
        return None
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"{text!r}: expected a number such as 0.84, 84.2 % or 84,2")
    whole, _, digits = plain.partition(".")
    digits = digits[:DECIMALS]
    middle = 2 * int(f"{whole}{digits}" if whole.strip("+-") else f"{whole}0{digits}")
    return Printed(text, middle - 1, middle + 1, 2 * 10 ** len(digits) * scale, scale)


Rates = Iterable[tuple[str, Printed]]


def outside(name: str, rate: Printed) -> bool:
    """Whether a rate is not between 0 and 1, or a correlation (mcc) not between -1 and 1."""
    return rate.value > 1 or rate.value < (-1 if name == "mcc" else 0)


def grim(rate: Printed, n: int) -> range:
    """The whole numbers k for which k of n rounds to what is printed; empty if none does.

    >>> grim(printed("84.20", 100), 229), grim(printed("84.28", 100), 229)
    (range(193, 193), range(193, 194))
    """
    low, high = -(-rate.low * n // rate.unit), rate.high * n // rate.unit
    return range(max(low, 0), max(min(high, n), low - 1) + 1)


def between(accuracy: Printed, sensitivity: Printed, specificity: Printed) -> bool:
    """Whether an accuracy can be what it is: a mean of the other two, weighted by class sizes."""
    low = min(sensitivity.ends[0], specificity.ends[0])
    high = max(sensitivity.ends[1], specificity.ends[1])
    return accuracy.ends[1] >= low and accuracy.ends[0] <= high


def prevalence(rates: Rates, positives: Fraction | None = None) -> tuple[float, float] | None:
    """Smallest and largest share of positives that the rates allow; None if they allow none.

    Counts are real numbers here, so this holds for any number of cases: a linear program over the
    four shares of a table. F1 and MCC are left out. `positives` is the share, where it is known.
    """
    rows, limits = [], []
    for name, rate in rates:
        if name not in _PARTS:
            continue
        low, high = rate.low / rate.unit, rate.high / rate.unit
        hit, of = (np.isin(COUNTS, parts).astype(float) for parts in _PARTS[name])
        rows += [low * of - hit, hit - high * of]
        limits += [0.0, 0.0]
    equal, value = [[1.0, 1.0, 1.0, 1.0]], [1.0]
    if positives is not None:
        equal, value = [*equal, [1.0, 1.0, 0.0, 0.0]], [1.0, float(positives)]
    ends = []
    for sign in (1.0, -1.0):
        cost = [sign, sign, 0.0, 0.0]
        found = linprog(cost, A_ub=rows or None, b_ub=limits or None, A_eq=equal, b_eq=value)
        if found.status == 2:  # infeasible
            return None
        ends.append(min(max(sign * found.fun, 0.0), 1.0))
    return ends[0], ends[1]


_PARTS = {
    "accuracy": (("tp", "tn"), COUNTS),
    "sensitivity": (("tp",), ("tp", "fn")),
    "specificity": (("tn",), ("fp", "tn")),
    "precision": (("tp",), ("tp", "fp")),
    "npv": (("tn",), ("fn", "tn")),
}
"""What is counted in a rate, and of what it is a share."""


class TooManyError(ValueError):
    """More tables fit than anybody wants to see."""


def tables(rates: Rates, n: int, **known: Any) -> Counts:
    """All tables of n cases whose rates round to those printed.

    Args:
        rates: Name of the rate (`NAMES`, or "mcc") and what is printed; a name may come twice. A
            rate that is printed must exist: there is no sensitivity without a positive case.
        n: Number of cases.
        known: `positives`, how many cases are positive, and `counts`, those that are known by
            their names in `COUNTS`.

    Returns:
        (table, 4), whole numbers: true positives, false negatives, false positives, true negatives.

    Raises:
        TooManyError: More than `MOST` tables fit.
    """
    rates = list(rates)
    tp, fn, low, high = _bounds(rates, n, **known)
    row, tn = _expand(low, high)
    found = np.stack([tp[row], fn[row], (n - tp - fn)[row] - tn, tn], axis=1)
    for rate in (r for name, r in rates if name == "mcc"):
        found = found[rate.holds(mcc(found))]
    return found


def possible(rates: Rates, n: int, **known: Any) -> bool:
    """Whether there is such a table; MCC is left out."""
    _, _, low, high = _bounds(rates, n, **known)
    return bool((low <= high).any())


def numbers_that_fit(rates: Rates, numbers: Iterable[int], **known: Any) -> list[int]:
    """The numbers of cases for which there is a table."""
    rates = list(rates)
    return [n for n in numbers if possible(rates, n, **known)]


def _bounds(
    rates: Rates, n: int, *, positives: int | None = None, counts: Mapping[str, int] | None = None
) -> tuple[Counts, Counts, Counts, Counts]:
    """Pairs of true positives and false negatives, with least and most true negatives of each."""
    given = [(name, r.low, r.high, r.unit) for name, r in rates if name in NAMES]
    known = counts or {}
    p = np.arange(n + 1) if positives is None else np.array([positives])
    low, high = np.zeros_like(p), p
    for _, a, b, unit in (g for g in given if g[0] == "sensitivity"):
        low, high = np.maximum(low, -(-a * p // unit)), np.minimum(high, b * p // unit)
        high = np.where(p == 0, -1, high)
    row, tp = _expand(low, high)
    fn = p[row] - tp
    chosen = (tp == known.get("tp", tp)) & (fn == known.get("fn", fn))
    tp, fn = tp[chosen], fn[chosen]
    negative = n - tp - fn
    low, high = np.zeros_like(tp), negative
    for name, a, b, unit in given:  # each bounds the true negatives
        if name == "accuracy":
            low = np.maximum(low, -(-a * n // unit) - tp)
            high = np.minimum(high, b * n // unit - tp)
        elif name == "specificity":
            low = np.maximum(low, -(-a * negative // unit))
            high = np.where(negative == 0, -1, np.minimum(high, b * negative // unit))
        elif name == "npv":  # a (tn + fn) <= unit tn <= b (tn + fn)
            low = np.maximum(low, np.maximum(-(-a * fn // max(unit - a, 1)), 1 - fn))
            high = high if b >= unit else np.minimum(high, b * fn // (unit - b))
        elif name == "precision":  # a (tp + fp) <= unit tp <= b (tp + fp)
            least = np.maximum(-(-unit * tp // max(b, 1)), 1)
            high = np.minimum(high, tp + negative - least)
            low = low if a <= 0 else np.maximum(low, tp + negative - unit * tp // a)
    if "tn" in known:
        low, high = np.maximum(low, known["tn"]), np.minimum(high, known["tn"])
    if "fp" in known:
        tn = negative - known["fp"]
        low, high = np.maximum(low, tn), np.minimum(high, tn)
    return tp, fn, low, high


def _expand(low: Counts, high: Counts) -> tuple[Counts, Counts]:
    """All whole numbers from each low to its high, and the row that each belongs to."""
    size = np.maximum(high - low + 1, 0)
    if (total := int(size.sum())) > MOST:
        raise TooManyError(f"{total:,} tables or more")
    row = np.repeat(np.arange(len(size)), size)
    return row, np.arange(total) - (np.cumsum(size) - size - low)[row]


def mcc(table: Counts) -> NDArray[np.float64]:
    """Matthews' correlation of each table (table, 4); 0 where a class is never true or named."""
    tp, fn, fp, tn = table.T.astype(float)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found: NDArray[np.float64] = np.zeros_like(tp)
    np.divide(tp * tn - fp * fn, root, out=found, where=root > 0)
    return found


def f1(table: Counts) -> dict[str, NDArray[np.float64]]:
    """F1 of each table (table, 4): of the positive and the negative class, macro and weighted."""
    tp, fn, fp, tn = table.T.astype(float)
    one, other = (
        np.divide(2 * hit, 2 * hit + fp + fn, out=np.zeros_like(hit), where=2 * hit + fp + fn > 0)
        for hit in (tp, tn)
    )
    share = (tp + fn) / np.maximum(table.sum(axis=1), 1)
    weighted = share * one + (1 - share) * other
    return {"binary": one, "other class": other, "macro": (one + other) / 2, "weighted": weighted}


def of_matrix(matrix: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, F1 (macro, weighted) and MCC of a confusion matrix (truth, prediction)."""
    m = matrix.astype(float)
    n, truth, named, hit = m.sum(), m.sum(axis=1), m.sum(axis=0), m.diagonal()
    each = 2 * hit / np.maximum(truth + named, 1)
    root = np.sqrt((n**2 - named @ named) * (n**2 - truth @ truth))
    correlation = (hit.sum() * n - truth @ named) / root if root else 0.0
    return {"accuracy": hit.sum() / n, "macro": each.mean(), "weighted": each @ truth / n,
            "mcc": correlation}  # fmt: skip


def spreads(mean: Printed, sd: Printed, n: int, runs: int) -> bool:
    """Whether a mean ± SD over some runs of n cases each can be, the SD of the sample or of all.

    A run has a whole number of right cases, at most n. So the sum over the runs is whole, and the
    sum of squares is whole, and odd where the sum is. Where the sum of squared deviations is small
    and the runs are few, all runs are looked through.
    """
    ends = [max(end, Fraction(0)) * n for end in sd.ends]
    for total in grim(mean, n * runs):
        base, rest = divmod(total, runs)  # deviations from base: whole numbers that sum to rest
        for divisor in {max(runs - 1, 1), runs}:
            low, high = (divisor * end**2 + Fraction(rest**2, runs) for end in ends)
            first = math.ceil(low) + (math.ceil(low) - rest) % 2  # as odd or even as the sum
            if first > high:
                continue
            if high > _SMALL or runs > _FEW:
                return True
            if not _sums(runs, int(high), base, n)[rest].isdisjoint(range(first, int(high) + 1, 2)):
                return True
    return False


_SMALL, _FEW = 400, 20


def _sums(runs: int, largest: int, base: int, n: int) -> dict[int, set[int]]:
    """The sums of squares that so many whole deviations can have, by their sum."""
    steps = range(-min(base, int(largest**0.5)), min(n - base, int(largest**0.5)) + 1)
    reached = {(0, 0)}
    for _ in range(runs):
        reached = {(s + d, q + d * d) for s, q in reached for d in steps if q + d * d <= largest}
    found: dict[int, set[int]] = {rest: set() for rest in range(runs)}
    for total, square in reached:
        found.setdefault(total, set()).add(square)
    return found


def positives_that_fit(rates: Rates, n: int) -> tuple[int, int, int]:
    """The split of n cases into two classes that most printed rates are whole numbers of.

    Only sensitivities and specificities count; digits may be rounded or cut.

    Returns:
        The number of positives, how many rates it fits, and how many the next best one fits.
    """
    known = [(name, r) for name, r in rates if name in ("sensitivity", "specificity")]
    fits = {
        p: sum(bool(whole(r, p if name == "sensitivity" else n - p)) for name, r in known)
        for p in range(1, n)
    }
    best, second = sorted(fits, key=fits.__getitem__, reverse=True)[:2]
    return best, fits[best], fits[second]


def whole(rate: Printed, n: int) -> range:
    """As `grim`; where no whole number is rounded to the rate, those that are cut to it."""
    return grim(rate, n) or grim(rate.cut(), n)


Group = Sequence[Mapping[str, Printed]]
"""One class in its row, or two classes of the same table in two rows."""


def joined(group: Group) -> list[tuple[str, Printed]]:
    """The rates of one table, from one row or from the rows of both its classes."""
    first = list(group[0].items())
    return first + [(OTHER_CLASS[k], r) for row in group[1:] for k, r in row.items()]


def names_that_fit(groups: Sequence[Group], n: int) -> dict[tuple[str, ...], int]:
    """How many groups have a table of n cases if their columns are named otherwise.

    Returns:
        By the names of the columns, in their order: the printed names, which come first, and those
        that fit more groups than any before, and at least half of them.
    """
    columns = list(groups[0][0])
    found: dict[tuple[str, ...], int] = {}
    for names in dict.fromkeys([tuple(columns), *permutations(NAMES, len(columns))]):
        most = min(len(groups) - max(found.values(), default=0) - 1, len(groups) // 2)
        misses = 0
        for group in groups:
            renamed = [dict(zip(names, row.values(), strict=True)) for row in group]
            misses += not possible(joined(renamed), n)
            if found and misses > most:
                break
        else:
            found[names] = len(groups) - misses
    return found
