"""What the papers claim, and what came of it here.

    settle("lei2020.sam_cam", ends)     # in a chapter, where the number is computed

`published/claims.csv` says in words of our own what a paper claims, and which number would confirm
it. No verdict is written by hand: it follows from the interval that a chapter found. The first page
has them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from typing import Any, Literal, get_args

import pandas as pd

from lesionlab import _names, results

Sign = Literal["+", "-", ""]
RECORDED = "claim"  # results of this name, then the claim's, hold the intervals

HOLDS, FAILS = "holds", "does not hold"
UNDECIDED, UNTESTED, MISSING = "undecided", "cannot be tested", "not run"


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what would confirm it.

    Attributes:
        id: Paper and name, as in `lei2020.sam_cam`; the paper's chapter settles it.
        place: Section or table.
        words: What the paper says, in words of our own.
        number: The number that is asked for.
        sign: `+` if the number is above 0 where the claim holds, `-` if below; empty if the claim
            cannot be tested here.
        why: Why it cannot be tested.
    """

    id: str
    place: str
    words: str
    number: str
    sign: Sign
    why: str

    def verdict(self, ends: Mapping[str, Any] | None) -> str:
        """What follows from the interval, `low` to `high`, of the number."""
        if not self.sign:
            return UNTESTED
        if ends is None:
            return MISSING
        low, high = (math.nan if ends[end] is None else float(ends[end]) for end in ("low", "high"))
        if self.sign == "-":
            low, high = -high, -low
        return HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED

    @property
    def anchor(self) -> str:
        """The name of its place in the page."""
        return f"claim-{self.id.replace('.', '-').replace('_', '-')}"


@cache
def claims() -> Mapping[str, Claim]:
    """All claims by `id`, in the order of the file."""
    with resources.files("lesionlab.published").joinpath("claims.csv").open(encoding="utf-8") as f:
        rows = pd.read_csv(f, dtype=str, keep_default_na=False)
    found = {str(row["id"]): Claim(*row) for _, row in rows.iterrows()}
    for claim in found.values():
        _names.one_of(f"sign of {claim.id}", claim.sign, get_args(Sign))
    return found


@dataclass(frozen=True)
class Verdict:
    """A claim with the interval that settles it; it shows itself in a notebook."""

    claim: Claim
    ends: Mapping[str, Any] | None

    @property
    def measured(self) -> str:
        """The number with its interval, and over how many patients."""
        if self.ends is None or self.ends["value"] is None:
            return ""
        value, low, high = (float(self.ends[k]) for k in ("value", "low", "high"))
        groups = self.ends.get("n_groups")
        over = f", {int(groups)} patients" if groups else ""
        return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{over}"

    def _repr_html_(self) -> str:
        claim, said = self.claim, self.claim.verdict(self.ends)
        look = "border-left: 0.3em solid #4477aa; padding: 0.3em 0.8em"
        return (
            f'<p id="{claim.anchor}" style="{look}">'
            f"<strong>Claim</strong> ({escape(claim.place)}): {escape(claim.words)}<br>"
            f"<strong>Measured</strong>: {escape(claim.number)} {escape(self.measured)}<br>"
            f"<strong>Verdict: {said}</strong></p>"
        )


def settle(claim: str, ends: Mapping[str, Any] | pd.Series) -> Verdict:
    """Record the number that a claim asks for, and show what follows from it.

    Args:
        claim: Its `id`.
        ends: value, low, high and n_groups, as in a row of `paired` or of scores.

    Raises:
        ValueError: There is no such claim, or it is one that cannot be tested.
    """
    _names.known("claim", claim, [c.id for c in claims().values() if c.sign], "that can be tested")
    kept = {k: ends[k] for k in ("value", "low", "high", "n", "n_groups") if k in ends}
    if "difference" in ends:  # a paired comparison
        kept["value"] = ends["difference"]
    results.record(f"{RECORDED}.{claim}", kept)
    return Verdict(claims()[claim], results.jsonable(kept))


def verdicts(found: Mapping[str, Any] | None = None, paper: str = "") -> pd.DataFrame:
    """All claims with what came of them: index claim (`id`); where, claim, measured, verdict.

    Args:
        found: Results by name, as chapters record them; those of the running notebook if None.
        paper: Those of one paper.
    """
    found = results.collected()["results"] if found is None else found
    rows = {}
    for name, claim in claims().items():
        if name.startswith(f"{paper}." if paper else ""):
            one = Verdict(claim, found.get(f"{RECORDED}.{name}"))
            told = f"{claim.number}: {one.measured}" if one.measured else claim.why
            rows[name] = {
                "where": claim.place, "claim": claim.words,
                "measured": told, "verdict": claim.verdict(one.ends),
            }  # fmt: skip
    columns = ["where", "claim", "measured", "verdict"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("claim_id")
