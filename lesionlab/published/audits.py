"""The audit of all printed tables, and of the numbers in the papers' text.

What the columns of a printed table are, and how many cases the paper says are behind it, stands in
`audit.toml`; all that follows from it is computed by `lesionlab.statistics.audit_rows`.

>>> [audit] = papers("outside")
>>> audit.findings[0].check
'between'
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from lesionlab import _names, published
from lesionlab.statistics import audit
from lesionlab.statistics.audit_rows import RATES, Audit, Item, Row, checked, rows_of, table

OUTSIDE = "outside"
"""In place of a paper: rows of other papers, `outside.csv`."""

TEXT = "text"
"""In place of a table: the numbers in the text of a paper."""


def papers(paper: str | None = None) -> list[Audit]:
    """Audit every printed table of a paper, or of all papers and of `outside.csv`.

    Args:
        paper: A slug, such as "lei2020", or "outside".

    Raises:
        ValueError: There is no such paper.
    """
    every = [*published.PAPERS, OUTSIDE]
    if paper is not None:
        _names.one_of("paper", paper, every)
    return [one for slug in ([paper] if paper else every) for one in _paper(slug)]


@cache
def _entries() -> Mapping[str, list[dict[str, Any]]]:
    text = resources.files("lesionlab.published").joinpath("audit.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _paper(slug: str) -> Iterator[Audit]:
    if slug == OUTSIDE:
        yield table(published.outside(), name="rows of other papers", paper=OUTSIDE)
        return
    for number in [*published.tables(slug)["table"], TEXT]:
        one = pd.DataFrame({"": ["the text"]})
        cells = one if number == TEXT else published.as_printed(slug, number)
        items, n_rows = [], 0
        for entry in (e for e in _entries()[slug] if number in e["tables"]):
            chosen = pd.Series(True, index=cells.index)
            for column, text in entry.get("where", {}).items():
                chosen &= cells[column] == text
            for column, text in entry.get("without", {}).items():
                chosen &= cells[column] != text
            n_rows += int(chosen.sum())
            items += _entry(slug, cells[chosen], entry)
        if n_rows or number != TEXT:
            yield Audit(paper=slug, table=number, n_rows=n_rows, items=items)


def _entry(slug: str, cells: pd.DataFrame, entry: Mapping[str, Any]) -> list[Item]:
    """All that one entry of `audit.toml` asks for."""
    if "sum" in entry:
        return list(_sums(slug, cells, **entry["sum"]))
    if "rows" in entry:
        return list(_sums_of_rows(slug, cells, **entry["rows"]))
    if "mean" in entry:
        return list(_means(cells, **entry["mean"]))
    if "pivot" in entry:
        names, values = entry["pivot"]["names"], entry["pivot"]["values"]
        rest = [c for c in cells if c not in (names, *values)]
        long = cells.melt([names, *rest], values, var_name="column", value_name="cell")
        cells = long.pivot(index=[*rest, "column"], columns=names, values="cell").reset_index()
    asked = (("cases", "n"), ("at_most", "at_most"), ("positives", "positives"), ("runs", "runs"))
    known: dict[str, Any] = {to: _count(slug, entry[key]) for key, to in asked if key in entry}
    columns = entry.get("columns") or {
        c: c for c in map(str, cells) if c.removesuffix("_sd") in RATES
    }
    how = {key: entry[key] for key in ("label", "scales") if key in entry}
    rows = rows_of(cells, columns, **how, **known)
    if "matrix" in entry:
        return list(_matrices(slug, cells, rows, **entry["matrix"]))
    keys = cells[entry["classes"]].agg(", ".join, axis=1).tolist() if "classes" in entry else None
    return checked(rows, keys)


def _count(slug: str, what: Any) -> int:
    """A number of cases: a number, a fact, or the sum of some cells of a printed table."""
    if isinstance(what, int):
        return what
    if isinstance(what, str):
        return int(_facts(slug)[what])
    printed = published.table(slug, what["table"])
    return int(printed.loc[printed.iloc[:, 0].isin(what["rows"]), what["column"]].sum())


@cache
def _facts(slug: str) -> Mapping[str, float]:
    known = published.facts(slug)
    return dict(zip(known["name"], known["value"], strict=True))


def _finding(row: str, check: str, cells: Mapping[str, str], says: str) -> Item:
    return Item(row=row, check=check, cells=cells, says=says, finding=True)


def _sums(
    slug: str, cells: pd.DataFrame, parts: Sequence[str], total: Sequence[Any]
) -> Iterator[Item]:
    """Rows in which columns or facts do not add up to their total."""
    for _, row in cells.iterrows():
        of = {c: int(text.replace(",", "")) for c, text in row.items() if c in (*parts, *total)}
        added, whole = (
            [of[p] if isinstance(p, str) and p in of else _count(slug, p) for p in side]
            for side in (parts, total)
        )
        if sum(added) != sum(whole):
            shown = {p: f"{value:,}" for p, value in zip(parts, added, strict=True)}
            yield _finding(row.iloc[0], "sum", shown, _unequal(added, sum(whole)))


def _sums_of_rows(
    slug: str, cells: pd.DataFrame, column: str, by: list[str], total: str
) -> Iterator[Item]:
    """Rows that do not add up to a fact; sets with a number that is not printed are left out."""
    sets = cells[by].agg(", ".join, axis=1) if by else pd.Series("all rows", index=cells.index)
    for name, own in cells.groupby(sets, sort=False):
        added = [int(text.replace(",", "")) for text in own[column] if text]
        if len(added) == len(own) and sum(added) != _count(slug, total):
            shown = dict(zip(own.iloc[:, len(by)], own[column], strict=True))
            yield _finding(str(name), "sum", shown, _unequal(added, _count(slug, total)))


def _unequal(parts: Sequence[int], total: int) -> str:
    added = " + ".join(f"{part:,}" for part in parts)
    return f"{added} = {sum(parts):,}, and {total:,} is printed"


def _means(cells: pd.DataFrame, column: str, of: Sequence[str]) -> Iterator[Item]:
    """Rows whose mean is not that of the other columns, as far as their rounding allows."""
    for _, row in cells.iterrows():
        ends = [one.ends for name in of if (one := audit.printed(row[name])) is not None]
        mean = audit.printed(row[column])
        if mean is None or not ends:
            continue
        low, high = (sum(side) / len(ends) for side in zip(*ends, strict=True))
        if high < mean.ends[0] or low > mean.ends[1]:
            says = f"the mean of {len(ends)} columns is {float(low):.4f} to {float(high):.4f}"
            yield _finding(row.iloc[0], "mean", {column: row[column]}, says)


def _matrices(
    slug: str, cells: pd.DataFrame, rows: Sequence[Row], table: str, columns: list[str], key: str
) -> Iterator[Item]:
    """Rates that are not those of the printed confusion matrix, and which F1 the others are."""
    every = published.table(slug, table)
    for label, row in zip(cells[key], rows, strict=True):
        own = audit.of_matrix(every.loc[every[key] == label, columns].to_numpy())
        other = []
        for name, rate in row.rates:
            kinds = ("macro", "weighted") if name == "f1" else (name,)
            fit = [kind for kind in kinds if rate.holds(own[kind])]
            if not fit:
                values = (f"{rate.like(Fraction(own[kind]))}{f' ({kind})' * (kind != name)}"
                          for kind in kinds)  # fmt: skip
                other.append(f"{name} {' or '.join(values)}")
            elif name == "f1":
                says = f"F1 is the {' or '.join(fit)} one of the matrix of {table}"
                yield Item(row=row.name, check="matrix", cells=row.cells, says=says, finding=False)
        if other:
            says = f"the matrix of {table} makes {'; '.join(other)}"
            yield _finding(row.name, "matrix", row.cells, says)


def to_frame(audits: Sequence[Audit]) -> pd.DataFrame:
    """One row per item: paper, table, row, check, cells, says, finding."""
    rows = [
        {"paper": one.paper, "table": one.table} | vars(item)
        | {"cells": ", ".join(f"{c} {t}" for c, t in item.cells.items())}
        for one in audits for item in one.items
    ]  # fmt: skip
    columns = ["paper", "table", "row", "check", "cells", "says", "finding"]
    return pd.DataFrame(rows, columns=columns)


def report(audits: Sequence[Audit], *, notes: bool = False, width: int | None = None) -> str:
    """The audits as text: each table with its findings, and its notes if they are wanted.

    Lines of more than `width` characters are wrapped.
    """
    lines = []
    for one in audits:
        # "Fig. 4", the text and rows of other papers are named as they are
        place = one.table if len(one.table) > 3 else f"Table {one.table}"
        if one.paper in published.PAPERS:
            place = f"{published.PAPERS[one.paper].name}, {place}"
        said = (
            f"{one.n_rows} rows, {len(one.findings)} findings" if one.n_rows else "nothing to audit"
        )
        lines.append(f"{place}: {said}")
        lines += [f"  {'' if item.finding else 'note, '}{item}"
                  for item in one.items if item.finding or notes]  # fmt: skip
    n = sum(len(one.findings) for one in audits)
    lines.append(
        f"{len(audits)} tables, {n} findings. A finding says that the printed numbers are not "
        "mutually consistent. It does not say which of them is wrong, or why."
    )
    if width is not None:
        lines = [textwrap.fill(line, width, subsequent_indent=" " * 6) for line in lines]
    return "\n".join(lines)
