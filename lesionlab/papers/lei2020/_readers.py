"""Lei 2020, readers (4.8, Table 6): see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from lesionlab.statistics.scoring import check_columns


def twenty(
    predictions: pd.DataFrame, readings: pd.DataFrame, *, each: int = 10, seed: int = 0
) -> list[str]:
    """Nodules for a reader comparison as in 4.8: ten malignant and ten benign, drawn.

    The paper's twenty were rated by at least three doctors *and* were all classified rightly by
    its model and by the radiologists of its study. Here only the first holds: of nodules chosen
    for being right, no accuracy can be learned.

    Args:
        predictions: As `Outcome.predictions`; which lesions there are, and which are malignant.
        readings: One row per reading: lesion_id, malignancy.
        each: How many of each kind.
        seed: Of the draw.

    Returns:
        Their ids, sorted.

    Raises:
        KeyError: A column is missing.
        ValueError: There are not so many.
    """
    check_columns(predictions, ["lesion_id", "malignancy_truth"])
    check_columns(readings, ["lesion_id", "malignancy"])
    count = readings.dropna(subset="malignancy").groupby("lesion_id").size()
    rows = predictions[predictions["lesion_id"].map(count).fillna(0) >= 3]
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for label in (0, 1):
        there = sorted(rows.loc[rows["malignancy_truth"] == label, "lesion_id"])
        if len(there) < each:
            raise ValueError(f"each={each!r}: only {len(there)} nodules of class {label}")
        chosen += rng.choice(there, each, replace=False).tolist()
    return sorted(chosen)


def doctors(
    readings: pd.DataFrame,
    lesion_ids: Sequence[str],
    *,
    truth: Literal["all", "others"] = "all",
    shuffle: int | None = None,
) -> pd.DataFrame:
    """Each "doctor" against the label, as in Table 6.

    LIDC's readers are anonymous: nothing says that the first reader of one scan and that of another
    are the same person, and more than four radiologists took part. "Dr. 1" is a column of a table,
    not a person: `shuffle` puts the readings of each nodule into other columns, which changes all
    four rows and nothing about the readers. And the label is the mean of the readers' own ratings,
    which a reader agrees with more than with what the others say: `truth="others"`.

    Args:
        readings: One row per reading: lesion_id, malignancy (1 to 5); the order of a nodule's
            readings is that of the columns.
        lesion_ids: Which nodules.
        truth: `"all"`: the mean of all readers, 3 is the border (the paper). `"others"`: of all but
            the doctor; nodules where that is 3 do not count.
        shuffle: Seed of another order of the readings; as they are if None.

    Returns:
        Index doctor, `Dr. 1` to `Dr. 4`, or as many as a nodule has readings, and `all`, over all
        readings. Columns n (nodules that the doctor rated, and not with 3), accuracy (per cent, NaN
        where there are none), false_positives, false_negatives.

    Raises:
        KeyError: A column is missing.
        ValueError: An unknown `truth`, or a nodule without readings.
    """
    if truth not in ("all", "others"):
        raise ValueError(f"truth={truth!r}: expected 'all' or 'others'")
    check_columns(readings, ["lesion_id", "malignancy"])
    rng = None if shuffle is None else np.random.default_rng(shuffle)
    by_lesion = readings.dropna(subset="malignancy").groupby("lesion_id", sort=False)["malignancy"]
    groups = {name: values.to_numpy(dtype=float) for name, values in by_lesion}
    rows = []
    for name in lesion_ids:
        if name not in groups:
            raise ValueError(f"readings: none of lesion {name!r}")
        own = groups[name]
        at = np.arange(len(own)) if rng is None else rng.permutation(max(4, len(own)))[: len(own)]
        for i, given in enumerate(own):
            rest = own if truth == "all" else np.delete(own, i)
            middle = rest.mean() if len(rest) else 3.0
            if given != 3 and middle != 3:
                rows.append((int(at[i]) + 1, bool(given > 3), bool(middle > 3)))
    found = pd.DataFrame(rows, columns=["doctor", "called", "malignant"])
    most = max([4, *(len(groups[name]) for name in lesion_ids)])
    parts = {f"Dr. {k}": found[found["doctor"] == k] for k in range(1, most + 1)}
    table = {
        name: {
            "n": len(part),
            "accuracy": 100 * float((part["called"] == part["malignant"]).mean()),
            "false_positives": int((part["called"] & ~part["malignant"]).sum()),
            "false_negatives": int((~part["called"] & part["malignant"]).sum()),
        }
        for name, part in {**parts, "all": found}.items()
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("doctor")
