"""Which nodules show what an attribute's steps look like: chosen by a rule, not by eye.

Each step of a scale has two examples: the nodule whose readers agree best on the step, and the
nodule whose readers lie furthest apart while at least one of them gave the step. A seed decides
between equals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from lesionlab.attributes import RATING_NAMES, Attribute, rating
from lesionlab.crops import Crop

N_READERS = 4
"""How many readers rated most nodules; LIDC-IDRI has no more."""

MARGIN = 6.0
"""How far `trimmed` keeps what lies around the outlines, mm in-plane."""


def coverage(readings: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """How often each step of a scale was given, and how far its readers agreed at best.

    `readings` has one row per reading: `lesion_id` and the attribute, one of LIDC's nine ratings.

    Returns:
        One row per step, also for steps that nobody gave: `word`; `n_readings` and `share` (of
        all readings); `n_nodules`, in which at least one reader gave it; `most`, the largest
        number of readers who gave it to the same nodule, among nodules with `N_READERS` ratings;
        and `n_readers`, which is that number.
    """
    known = rating(attribute)
    counts = _counts(readings, known)
    full = counts[counts.sum(axis=1) == N_READERS]
    n_readings = counts.sum()
    made = {
        "word": pd.Series(dict(known.words)),
        "n_readings": n_readings,
        "share": n_readings / max(int(n_readings.sum()), 1),
        "n_nodules": (counts > 0).sum(),
        "most": full.max() if len(full) else 0,
        "n_readers": N_READERS,
    }
    return pd.DataFrame(made).rename_axis("step")


def examples(
    readings: pd.DataFrame,
    attribute: str,
    *,
    steps: Iterable[int] | None = None,
    seed: int = 0,
    lesion_ids: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Nodules that show the steps of an attribute's scale.

    The rule looks at nodules with exactly `N_READERS` ratings of the attribute, one of which at
    least is the step. If there are none, it looks at nodules with one rating fewer, and so on down
    to one. (A nodule with more than four readings is two that pylidc's grouping has joined.)

    - `agree` is the nodule in which most readers gave the step. Between equals, it is the one
      whose readers spread least.
    - `disagree` is the nodule whose readers spread most. Between equals, it is the one in which
      most readers gave the step. It is never the nodule that is shown for `agree`.

    Among nodules that are still equal, one is drawn. The draw depends on attribute, step and seed,
    and not on the order of rows.

    Args:
        readings: As for `coverage`.
        attribute: As for `coverage`.
        steps: Steps of the scale; all if None.
        seed: Seed of the draw.
        lesion_ids: Only these nodules, such as those with voxels; all if None.

    Returns:
        One row per example, by step: `step`, `kind`, `lesion_id`, `n_readers`, `n_step` (readers
        who gave the step), `share` (of the nodule's readers), `spread` (largest minus smallest
        rating; for nominal attributes the number of different answers minus one), `readings` (in
        the order of the nodule's rows; None for a gap). A step that nobody gave has no row.
    """
    known = rating(attribute)
    wanted = list(known.codes if steps is None else steps)
    if beyond := [s for s in wanted if s not in known.codes]:
        raise ValueError(
            f"steps={beyond} of {known.name}: expected {known.minimum} to {known.maximum}"
        )
    if lesion_ids is not None:
        readings = readings[readings["lesion_id"].isin(set(lesion_ids))]
    counts = _counts(readings, known)
    total, spread = counts.sum(axis=1), _spread(counts, known)
    rows = []
    for step in wanted:
        found = pd.DataFrame({"n_readers": total, "n_step": counts[step], "spread": spread})
        found = found[(found["n_step"] > 0) & (total <= N_READERS)]
        found = found[found["n_readers"] == found["n_readers"].max()]
        rng = np.random.default_rng([seed, crc32(known.name.encode()), step])
        agree = _first(found, ["n_step", "spread"], [False, True], rng)
        rest = found.drop(index=agree) if agree else found
        other = _first(rest, ["spread", "n_step"], [False, False], rng)
        for kind, lesion_id in (("agree", agree), ("disagree", other)):
            if lesion_id:
                numbers: Any = found.loc[lesion_id]
                rows.append((step, kind, lesion_id, *map(int, numbers)))
    columns = ["step", "kind", "lesion_id", "n_readers", "n_step", "spread"]
    made = pd.DataFrame(rows, columns=columns)
    shown = readings[readings["lesion_id"].isin(made["lesion_id"])]
    said = {
        lesion_id: tuple(None if np.isnan(v) else int(v) for v in values)
        for lesion_id, values in shown.groupby("lesion_id")[known.name]
    }
    made.insert(5, "share", made["n_step"] / made["n_readers"])
    return made.assign(readings=made["lesion_id"].map(said))


def draw(
    readings: pd.DataFrame,
    n: int,
    *,
    seed: int = 0,
    lesion_ids: Iterable[str] | None = None,
) -> list[str]:
    """Ids of `n` nodules, drawn from those that `N_READERS` readers rated on all attributes.

    `readings` has one row per reading: `lesion_id` and the nine ratings. With `lesion_ids`, only
    these nodules are drawn from. A ValueError if there are fewer than `n`.
    """
    if lesion_ids is not None:
        readings = readings[readings["lesion_id"].isin(set(lesion_ids))]
    whole = readings[list(RATING_NAMES)].notna().all(axis=1).groupby(readings["lesion_id"])
    known = sorted(whole.all().index[whole.all() & (whole.size() == N_READERS)])
    if not 1 <= n <= len(known):
        raise ValueError(
            f"n={n!r}: expected 1 to {len(known)}, the nodules with {N_READERS} whole readings"
        )
    chosen = np.random.default_rng([seed, 20]).choice(len(known), size=n, replace=False)
    return [known[i] for i in chosen]


def trimmed(crop: Crop) -> Crop:
    """The part of a crop around its readers' outlines.

    It keeps the slices that a reader outlined and one more on either side. In-plane it keeps the
    box around all outlines with `MARGIN` mm, as far as the crop goes. A crop without an outline
    stays whole.
    """
    marked = np.argwhere(crop.masks.any(axis=0))
    if not len(marked):
        return crop
    around = [1, *(int(np.ceil(MARGIN / s)) for s in crop.spacing[1:])]
    low = np.maximum(marked.min(axis=0) - around, 0)
    high = np.minimum(marked.max(axis=0) + 1 + around, crop.hu.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return replace(
        crop,
        hu=crop.hu[z, y, x],
        masks=crop.masks[:, z, y, x],
        slice_index=crop.slice_index[z],
        steps=crop.steps[z],
        corner=(crop.corner[0] + y.start, crop.corner[1] + x.start),
    )


def _counts(readings: pd.DataFrame, attribute: Attribute) -> pd.DataFrame:
    """How many readers of each nodule (rows, by id) gave each step (columns)."""
    if absent := [c for c in ("lesion_id", attribute.name) if c not in readings.columns]:
        raise KeyError(f"readings has no column {absent}; it has {list(readings.columns)}")
    given = readings[["lesion_id", attribute.name]].dropna()
    values = given[attribute.name]
    if not (off := values[~values.isin(attribute.codes)]).empty:
        raise ValueError(
            f"{attribute.name} of {given.loc[off.index[0], 'lesion_id']}: expected whole numbers "
            f"from {attribute.minimum} to {attribute.maximum}, got {off.iloc[0]}"
        )
    table = pd.crosstab(given["lesion_id"], values.astype(int))
    return table.reindex(columns=list(attribute.codes), fill_value=0).sort_index()


def _spread(counts: pd.DataFrame, attribute: Attribute) -> pd.Series[Any]:
    given = counts > 0
    if attribute.kind == "nominal":
        return given.sum(axis=1) - 1
    return given.iloc[:, ::-1].idxmax(axis=1) - given.idxmax(axis=1)


def _first(
    table: pd.DataFrame, by: list[str], ascending: list[bool], rng: np.random.Generator
) -> str | None:
    """The id that comes first; equals are drawn."""
    if table.empty:
        return None
    best = table.sort_values(by, ascending=ascending).iloc[0]
    equal = table.index[(table[by] == best[by]).all(axis=1)]
    return str(sorted(equal)[int(rng.integers(len(equal)))])
