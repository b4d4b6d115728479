"""Which nodules a paper used, filter by filter: `fu2021(lidc.nodules())` shows every count.

Where a paper's count cannot be reached, the preset says so and `nearest` lists the filters that
come closest.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from lesionlab import _names, published, splits
from lesionlab.tables import beside, show

Rule = Literal["mean", "median"]


@dataclass(frozen=True)
class Filter:
    """A condition that a nodule must meet, in words and for the rows of a table."""

    words: str
    keep: Callable[[pd.DataFrame], pd.Series]


def readers_between(low: int = 1, high: int | None = None) -> Filter:
    """At least `low` and at most `high` readings; more than four are two nodules run together."""
    words = f"{low} or more readers" if high is None else f"{low} to {high} readers"
    return Filter(words, lambda t: t["n_readers"].between(low, high if high else np.inf))


def thickness_up_to(mm: float) -> Filter:
    """Slice thickness of at most `mm`."""
    return Filter(f"slice thickness ≤ {mm:g} mm", lambda t: t["slice_thickness"] <= mm)


def diameter_between(low: float, high: float, *, column: str = "diameter") -> Filter:
    """Diameter within `[low, high]` mm; `column` says which diameter."""
    return Filter(
        f"{column.replace('_', ' ')} {low:g} to {high:g} mm", lambda t: t[column].between(low, high)
    )


def malignancy_decided(rule: Rule = "mean") -> Filter:
    """The readers' mean (or median) malignancy is not exactly 3."""
    return Filter(f"{rule} malignancy not 3", lambda t: malignancy_label(t, rule=rule).notna())


def malignancy_label(nodules: pd.DataFrame, *, rule: Rule = "mean") -> pd.Series:
    """Benign (0), malignant (1) or missing, from the readers' malignancy ratings.

    Below 3 is benign, above 3 malignant, 3 is missing (Fu 2021, Liu 2020 section III.A.1,
    Lei 2020 section 4.1). This is the readers' impression, not pathology. `nodules` has
    `malignancy` (mean over readers) or, for the median, `malignancy_readings` (lists).
    """
    _names.one_of("rule", rule, get_args(Rule))
    score = nodules["malignancy"]
    if rule == "median":
        score = nodules["malignancy_readings"].map(np.nanmedian).astype(float)
    label = (score > 3).astype("Int8").rename("label")
    return label.where(score.notna() & (score != 3))


@dataclass(frozen=True)
class Cohort:
    """The nodules of one study and how they were reached."""

    name: str
    table: pd.DataFrame  # the nodules that are left; with `label` where malignancy is decided
    flow: pd.DataFrame  # a row per step: what it asks for, nodules, patients, nodules it left out
    published: Mapping[str, int]  # the paper's counts; empty for a cohort of one's own
    note: str = ""  # where the paper's counts cannot be reached, and what is known about it

    @property
    def counts(self) -> dict[str, int]:
        """Our counts, under the names of `published`."""
        counts = {"nodules": len(self.table), "patients": self.table["patient"].nunique()}
        if "label" in self.table:
            counts["benign"] = int((self.table["label"] == 0).sum())
            counts["malignant"] = int((self.table["label"] == 1).sum())
        return counts

    def comparison(self) -> pd.DataFrame:
        """Our counts beside the paper's: `paper`, `lesionlab`, `difference`."""
        counts = self.counts
        return beside(self.published, {name: counts[name] for name in self.published})

    def folds(self, *, by: splits.By = "patient", n_folds: int = 5, seed: int = 0) -> pd.Series:
        """`lesionlab.splits.folds` of the table; `by="nodule"` is what the papers did."""
        return splits.folds(self.table, by=by, n_folds=n_folds, seed=seed)

    def _tables(self) -> dict[str, pd.DataFrame]:
        """By caption, the flow and, of a paper's cohort, the comparison, with heads for readers."""
        flow = self.flow.set_index("step").rename(columns={"left_out": "left out"})
        heads = {"paper": "printed in the paper", "lesionlab": "here"}
        tables = {f"Cohort {self.name}, step by step.": flow}
        if self.published:
            tables["Its counts beside the paper's."] = self.comparison().rename(columns=heads)
        return tables

    def __str__(self) -> str:
        parts = [f"{caption}\n{table.to_string()}" for caption, table in self._tables().items()]
        return "\n\n".join(filter(None, [*parts, self.note]))

    def _repr_html_(self) -> str:
        shown = (show(t, caption=caption).to_html() for caption, t in self._tables().items())
        return "".join(shown) + f"<p>{html.escape(self.note)}</p>"


def build(
    nodules: pd.DataFrame,
    filters: list[Filter],
    *,
    name: str,
    rule: Rule | None = None,
    published: Mapping[str, int] | None = None,
    note: str = "",
) -> Cohort:
    """Apply filters to `lesionlab.sources.lidc.nodules()` in order, and keep the count after each.

    With a `rule`, the table gets the column `label` (`malignancy_label`). The rest is as in
    `Cohort`.
    """
    table = nodules
    rows = [("all nodules", len(table), table["patient"].nunique(), 0)]
    for condition in filters:
        kept = table[condition.keep(table)]
        rows.append((condition.words, len(kept), kept["patient"].nunique(), len(table) - len(kept)))
        table = kept
    if rule is not None:
        table = table.assign(label=malignancy_label(table, rule=rule))
    flow = pd.DataFrame(rows, columns=["step", "nodules", "patients", "left_out"])
    return Cohort(name, table, flow, dict(published or {}), note)


def fu2021(nodules: pd.DataFrame) -> Cohort:
    """Fu 2021, section 3.1: every rated nodule; the paper counts 2,622.

    At most four readers and slices of at most 3 mm give exactly that number. The paper's
    875 patients are those with any nodule, before these filters.
    """
    return build(
        nodules,
        [readers_between(1, 4), thickness_up_to(3)],
        name="Fu 2021",
        published=_published("fu2021", "nodules", "patients"),
        note="The filters are ours: the paper names none. They reach its number of nodules; its "
        "number of patients is that of all nodules, before any filter.",
    )


def liu2020(nodules: pd.DataFrame) -> Cohort:
    """Liu 2020, section III.A.1: 972 benign and 450 malignant nodules of 3 to 30 mm.

    The paper at its word (any number of readers, mean diameter 3 to 30 mm, mean malignancy not 3)
    has 381 benign and 128 malignant ones more. Here are the plain filters whose two counts come
    closest with its rule for the label: two to four readers, slices of at most 3 mm, largest
    diameter 3 to 30 mm. With the median instead of the mean others come closer still (`nearest`).
    """
    diameter = diameter_between(3, 30, column="largest_diameter")
    return build(
        nodules,
        [readers_between(2, 4), thickness_up_to(3), diameter, malignancy_decided()],
        name="Liu 2020 (nearest)",
        rule="mean",
        published=_published("liu2020", "benign", "malignant"),
        note="No plain filter reaches the paper's two counts; this is the nearest that keeps its "
        "rule, the mean over readers.",
    )


def lei2020(nodules: pd.DataFrame) -> Cohort:
    """Lei 2020, section 4.1: 635 benign and 510 malignant nodules with at least three readers.

    The paper also leaves out "ambiguous IDs", which it does not define: here those are groups of
    more than four readings. Its spacing ends at 3.0 mm.
    """
    return build(
        nodules,
        [readers_between(3, 4), thickness_up_to(3), malignancy_decided()],
        name="Lei 2020",
        rule="mean",
        published=_published("lei2020", "benign", "malignant"),
        note="What the paper's “ambiguous IDs” were is not said, and its counts are not reached.",
    )


def wang2021(nodules: pd.DataFrame) -> Cohort:
    """Wang 2021, section 3.1: ground-glass nodules below 10 mm; the paper has 740 of its own.

    LIDC-IDRI's nearest: a mean diameter below 10 mm, slices of at most 1.25 mm, and a mean texture
    below 4, which is ground glass or part-solid.
    """
    small = Filter("diameter below 10 mm", lambda t: t["diameter"] < 10)
    glassy = Filter("mean texture below 4", lambda t: t["texture"] < 4)
    return build(
        nodules,
        [small, thickness_up_to(1.25), glassy],
        name="Wang 2021 (nearest)",
        published=_published("wang2021", "nodules"),
        note="The paper's nodules were resected and have a pathology; none of these has.",
    )


def _published(paper: str, *names: str) -> dict[str, int]:
    return {name: int(published.fact(paper, f"n_{name}")) for name in names}


def nearest(nodules: pd.DataFrame, *, benign: int, malignant: int, top: int = 10) -> pd.DataFrame:
    """Combinations of plain filters, by how near their counts come to a paper's.

    One row for each of the `top` best: number of readers (at least 1 to 4; more than four readings
    allowed or not), slice thickness (any, ≤ 3, ≤ 2.5 mm), diameter (any, mean, largest or
    equivalent within 3 to 30 mm), rule for the label, `benign`, `malignant`, and `off`, the sum of
    the two absolute differences.
    """
    anything = Filter("any", lambda t: pd.Series(True, index=t.index))
    readers = [readers_between(low, high) for low in (1, 2, 3, 4) for high in (4, None)]
    thickness = [anything, thickness_up_to(3), thickness_up_to(2.5)]
    columns = ("diameter", "largest_diameter", "equivalent_diameter")
    diameters = [anything, *(diameter_between(3, 30, column=c) for c in columns)]
    rules: tuple[Rule, ...] = ("mean", "median")
    labels = {rule: malignancy_label(nodules, rule=rule) for rule in rules}
    rows = []
    for r, t, d, rule in itertools.product(readers, thickness, diameters, rules):
        kept = labels[rule][r.keep(nodules) & t.keep(nodules) & d.keep(nodules)]
        b, m = int((kept == 0).sum()), int((kept == 1).sum())
        off = abs(b - benign) + abs(m - malignant)
        rows.append((r.words, t.words, d.words, rule, b, m, off))
    heads = ["readers", "slice thickness", "diameter", "rule", "benign", "malignant", "off"]
    table = pd.DataFrame(rows, columns=heads)
    return table.sort_values("off", kind="stable").head(top).reset_index(drop=True)
