"""Cross-validation: who sees what, what is written, and what a restart does again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lesionlab.training.crossval import cross_validate

from lesionlab import splits
from lesionlab.crops.sampling import Samples
from lesionlab.training import _parts, checkpoints, outcomes
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.outcomes import Data, Outcome

PHANTOM = [Data("toys", "phantom")]
OPTIONS: dict[str, Any] = {"progress": False, "device": "cpu", "n_resamples": 20, "data": PHANTOM}


class Case:
    """Forty lesions of twenty patients, three folds, and what was asked of the experiments."""

    def __init__(self, toys: ModuleType) -> None:
        self.toys = toys
        self.samples, self.targets = toys.lesions(40)
        self.table = toys.table(self.samples, self.targets)
        self.folds = splits.folds(self.table, n_folds=3)
        self.recipe = dataclasses.replace(toys.RECIPE, epochs=3)
        self.made: list[set[str]] = []

    def make(self, training: Samples, targets: torch.Tensor) -> Any:
        assert len(training.lesion_ids) == len(targets)
        self.made.append(set(training.lesion_ids))
        return self.toys.Toy()

    def run(self, folder: Path, **changes: Any) -> Outcome:
        names = ("samples", "targets", "table", "folds")
        given = [changes.pop(name, getattr(self, name)) for name in names]
        options = OPTIONS | {"recipe": self.recipe, "folder": folder} | changes
        return cross_validate(options.pop("make", self.make), *given, **options)


@pytest.fixture
def case(toys: ModuleType) -> Case:
    return Case(toys)


def parts(table: pd.DataFrame, folds: pd.Series, **changes: Any) -> list[_parts.Parts]:
    return [_parts.split(table, folds, k, **changes) for k in sorted(folds.unique())]


# who sees what


@pytest.mark.parametrize("by", ["patient", "nodule"])
def test_the_parts_share_nothing_and_leave_nothing_out(case: Case, by: Any) -> None:
    folds = splits.folds(case.table, n_folds=3, by=by)
    tested = []
    for k, found in enumerate(parts(case.table, folds, by=by, share=0.2)):
        lists = [found.training, found.validation, found.test]
        assert sorted(found.training + found.validation + found.test) == list(range(40))
        assert set(folds.iloc[found.test]) == {k}
        assert 3 <= len(found.validation) <= 8  # a fifth of about 27
        if by == "patient":
            patients = [set(case.table["patient"].iloc[some]) for some in lists]
            assert not patients[0] & patients[1]
            assert not (patients[0] | patients[1]) & patients[2]
        tested += found.test
    assert sorted(tested) == list(range(40))


def test_the_validation_part_is_drawn_by_the_seed(case: Case) -> None:
    one, two = (parts(case.table, case.folds, seed=1) for _ in range(2))
    assert one == two != parts(case.table, case.folds, seed=2)
    none = parts(case.table.drop(columns="malignancy"), case.folds, share=None)
    assert [found.validation for found in none] == [[], [], []]
    assert len(parts(case.table.drop(columns="malignancy"), case.folds)[0].validation) > 0


def other(case: Case, inside: np.ndarray) -> dict[str, Any]:
    """The same lesions, with other voxels and ratings for some of them."""
    samples, targets = case.toys.lesions(40)
    noise = torch.randn(samples.images.shape, generator=torch.Generator().manual_seed(9))
    slices = torch.tensor(inside)[samples.nodule]
    images = torch.where(slices[:, None, None, None], 3 * noise, samples.images)
    changed = torch.where(torch.tensor(inside)[:, None], 6 - targets, targets)
    return {"samples": dataclasses.replace(samples, images=images), "targets": changed}


@pytest.mark.parametrize("select_on", ["validation", "last", "test"])
def test_the_test_part_decides_nothing_unless_the_recipe_says_so(
    case: Case, tmp_path: Path, select_on: Any
) -> None:
    # an epoch more or less changes the weights, so that a selection shows in them
    recipe = dataclasses.replace(case.recipe, select_on=select_on, epochs=8, lr=0.05)
    options: dict[str, Any] = {"recipe": recipe, "only": [1], "by": "patient"}
    case.run(tmp_path / "one", **options)
    case.run(tmp_path / "two", **options, **other(case, (case.folds == 1).to_numpy()))
    found = [checkpoints.load_weights(tmp_path / name / "fold-1") for name in ("one", "two")]
    same = all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert same is (select_on != "test")
    # nor is anything measured on it
    results = [
        json.loads((tmp_path / n / "fold-1/result.json").read_text()) for n in ("one", "two")
    ]
    assert results[0]["normalisation"] == results[1]["normalisation"]
    test = {
        case.table.index[i] for i in case.folds.to_numpy().nonzero()[0] if case.folds.iloc[i] == 1
    }
    assert all(not seen & test for seen in case.made)
    column = "test_mae" if select_on == "test" else "validation_mae"
    assert all((column in row) is (select_on != "last") for row in results[0]["history"])


def test_only_the_training_part_is_normalised_by(case: Case, tmp_path: Path) -> None:
    case.run(tmp_path, only=[0])
    training = _parts.split(case.table, case.folds, 0).training
    mean = float(case.samples.select(training).images.double().mean())
    found = json.loads((tmp_path / "fold-0/result.json").read_text(encoding="utf-8"))
    assert found["normalisation"] == {"mean": mean}
    assert case.made[-1] == {case.table.index[i] for i in training}


# what is written


def test_every_lesion_is_predicted_once_by_a_model_that_has_not_seen_it(
    case: Case, tmp_path: Path
) -> None:
    found = case.run(tmp_path).predictions
    columns = ["lesion_id", "patient", "fold", "malignancy", "malignancy_truth"]
    assert list(found.columns) == columns
    assert sorted(found["lesion_id"]) == sorted(case.table.index)
    by_id = found.set_index("lesion_id")
    assert by_id["fold"].to_dict() == case.folds.to_dict()
    assert by_id["patient"].to_dict() == case.table["patient"].to_dict()
    assert by_id["malignancy_truth"].to_dict() == case.table["malignancy"].to_dict()
    back = outcomes.read_predictions(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(back, found, check_exact=True)


def test_results_say_where_they_come_from(case: Case, tmp_path: Path) -> None:
    found = case.run(tmp_path, data=[Data("toys", "real", "a" * 64)], seed=4)
    written = json.loads(found.path.read_text(encoding="utf-8"))
    assert written["experiment"] == "toy"
    assert written["variant"] == "attention"
    assert written["settings"]["absolute"] == 0.1
    assert written["recipe"]["schedule"] == {"kind": "constant"}
    assert written["seed"] == 4
    assert written["split"]["folds"] == 3
    assert written["split"]["trained"] == [0, 1, 2]
    assert written["data"] == [{"name": "toys", "tier": "real", "checksum": "a" * 64}]
    assert written["cohort"]["lesions"] == 40
    assert written["cohort"]["patients"] == 20
    assert {"commit", "dirty", "platform", "versions"} <= written.keys()
    assert {"torch", "lightning-fabric", "safetensors"} <= written["versions"].keys()
    assert written["device"] == ["CPU, 1 threads"]
    assert written["seconds"] == pytest.approx(sum(fold["seconds"] for fold in written["folds"]))
    for k, fold in enumerate(written["folds"]):
        counts = [fold[name]["lesions"] for name in ("training", "validation", "test")]
        assert sum(counts) == 40
        assert counts[2] == (case.folds == k).sum()
        assert len(fold["history"]) == 3


def test_scores_are_those_of_the_predictions_on_the_same_lesions(
    case: Case, tmp_path: Path
) -> None:
    found = case.run(tmp_path)
    scores = found.scores.set_index(["target", "predictor", "metric"])["value"]
    error = (found.predictions["malignancy"] - found.predictions["malignancy_truth"]).abs()
    assert scores["malignancy", "model", "mae"] == pytest.approx(error.mean())
    # by hand: the median of the other folds
    truth = case.table["malignancy"]
    gaps = [abs(truth[i] - truth[case.folds != case.folds[i]].median()) for i in truth.index]
    assert scores["malignancy", "constant", "mae"] == pytest.approx(np.mean(gaps))
    skill = 1 - error.mean() / np.mean(gaps)
    assert scores["malignancy", "model", "skill"] == pytest.approx(skill)
    assert scores["malignancy", "constant", "skill"] == 0
    assert set(found.scores["predictor"]) == {"model", "constant", "diameter"}
    assert set(found.scores["n"]) == {40}
    assert set(found.scores["n_groups"]) == {20}
    assert (found.scores["low"] <= found.scores["high"]).all()


def test_some_folds_are_scored_with_baselines_on_their_lesions(case: Case, tmp_path: Path) -> None:
    found = case.run(tmp_path, only=[2])
    inside = (case.folds == 2).sum()
    assert set(found.scores["n"]) == {inside} == {len(found.predictions)}
    truth = case.table["malignancy"]
    gap = (truth[case.folds == 2] - truth[case.folds != 2].median()).abs().mean()
    scores = found.scores.set_index(["predictor", "metric"])["value"]
    assert scores["constant", "mae"] == pytest.approx(gap)


def test_ratings_and_classes_side_by_side(case: Case, tmp_path: Path) -> None:
    targets = torch.cat([case.targets, (case.targets > 3).float()], dim=1)
    table = case.table.assign(label=targets[:, 1].numpy())
    folds = splits.folds(table, n_folds=3)
    make = lambda training, targets: case.toys.Malignant()  # noqa: E731
    found = case.run(tmp_path, make=make, targets=targets, table=table, folds=folds)
    scores = found.scores.set_index(["target", "predictor", "metric"])["value"]
    assert set(found.scores["target"]) == {"texture", "malignancy"}
    assert {p for t, p, _ in scores.index if t == "malignancy"} == {"model", "majority", "diameter"}
    assert scores["malignancy", "majority", "auc"] == 0.5
    rows = found.predictions
    pairs = [
        (a > b) + (a == b) / 2
        for a in rows["malignancy"][rows["malignancy_truth"] == 1]
        for b in rows["malignancy"][rows["malignancy_truth"] == 0]
    ]
    assert scores["malignancy", "model", "auc"] == pytest.approx(np.mean(pairs))


def test_the_mean_over_ratings_is_that_of_their_errors(case: Case, toys: ModuleType) -> None:
    truths = pd.DataFrame({"a": case.targets[:, 0], "b": 6 - case.targets[:, 0]}, case.table.index)
    truths["b"] += np.arange(40) % 3
    predictions = pd.DataFrame(
        {
            "lesion_id": case.table.index,
            "patient": case.table["patient"].to_numpy(),
            "fold": case.folds.to_numpy(),
            "a": 3.0,
            "b": 4.0,
            "a_truth": truths["a"].to_numpy(),
            "b_truth": truths["b"].to_numpy(),
        }
    )
    tasks = {"a": "regression", "b": "regression"}
    found = outcomes.score(
        predictions,
        case.table,
        truths,
        case.folds,
        tasks,
        n_resamples=20,  # type: ignore[arg-type]
    ).set_index(["target", "predictor", "metric"])["value"]
    for predictor in ("model", "constant", "diameter"):
        both = [found[name, predictor, "mae"] for name in ("a", "b")]
        assert found["mean", predictor, "mae"] == pytest.approx(np.mean(both))
    assert found["mean", "constant", "skill"] == 0


# what a restart does again


def test_finished_folds_are_skipped_and_the_outcome_is_the_same(
    case: Case, tmp_path: Path, monkeypatch: Any
) -> None:
    whole = case.run(tmp_path / "whole")
    # the third fold dies
    seen: list[int] = []
    fit = cross_validate.__globals__["fit"]

    def dying(*arguments: Any, **options: Any) -> Any:
        seen.append(len(seen))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setitem(cross_validate.__globals__, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        case.run(tmp_path / "killed")
    assert not (tmp_path / "killed" / "results.json").exists()
    again = case.run(tmp_path / "killed")
    assert len(seen) == 4  # the third once more, the first two not
    pd.testing.assert_frame_equal(again.predictions, whole.predictions, check_exact=True)
    pd.testing.assert_frame_equal(again.scores, whole.scores, check_exact=True)
    timed = {"seconds", "history"}
    for one, two in zip(again.folds, whole.folds, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in two.items() if k not in timed
        }


def test_the_result_of_another_run_is_refused(case: Case, tmp_path: Path) -> None:
    case.run(tmp_path, only=[0])
    changed = dataclasses.replace(case.recipe, lr=0.5)
    result, predictions = (tmp_path / "fold-0" / n for n in ("result.json", "predictions.csv"))
    kept = result.read_text(encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"result.json is of another run: recipe.lr: 0.01 th"):
        case.run(tmp_path, only=[0], recipe=changed)
    with pytest.raises(CheckpointError, match=r"another run: parts: .*; seed: 0 there, 1 here"):
        case.run(tmp_path, only=[0], seed=1, validation_share=0.1)
    case.run(tmp_path, only=[0], recipe=changed, resume=False)
    predictions.write_text("lesion_id\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"predictions.csv is not what result.json was"):
        case.run(tmp_path, only=[0], recipe=changed)
    for text in ("", "[]", "{}", kept[:100]):
        result.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"result.json is damaged .* do the fold again"):
            case.run(tmp_path, only=[0])


# what is refused, before anything is trained


def without(name: str, position: int) -> Callable[[Case], dict[str, Any]]:
    def change(case: Case) -> dict[str, Any]:
        given = getattr(case, name)
        return {name: given.drop(given.index[position])}

    return change


def one_class(case: Case) -> dict[str, Any]:
    label = (case.folds != 2).to_numpy().astype(np.float32)
    targets = torch.cat([case.targets, torch.from_numpy(label)[:, None]], dim=1)
    return {"targets": targets, "make": lambda *_: case.toys.Malignant()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("table", 3), "table lacks 1 lesions, e.g. 'l003'"),
        (without("folds", 4), "folds lacks 1 lesions, e.g. 'l004'"),
        (lambda c: {"folds": c.folds * 0}, r"folds: expected two or more, got \[0\]"),
        (lambda c: {"only": [7]}, r"only=\[7\]: expected some of \[0, 1, 2\]"),
        (lambda c: {"only": []}, r"only=\[\]"),
        (
            lambda c: {"folds": pd.Series(np.arange(40) % 3, c.table.index)},
            "folds: patient 'p000' is in more than one; make them by patient, or say by='nodule'",
        ),
        (lambda c: {"table": c.table.assign(diameter=0)}, "diameter of 'l000' is not above 0 mm"),
        (lambda c: {"table": c.table.assign(patient="p"), "by": "nodule"}, "1 patient to predict"),
        (lambda c: {"validation_share": 0.9}, "validation_share=0.9: expected above 0, up to 0.5"),
        (lambda c: {"targets": c.targets[:9]}, "targets: 9 rows, expected 40, one per lesion"),
        (lambda c: {"samples": c.samples.select([])}, "samples: expected at least one lesion"),
        (lambda c: {"samples": c.samples.select([0, 0])}, "samples: expected each lesion once"),
        (one_class, r"part of fold 0: none of its \d+ lesions has malignancy [01]; use fewer"),
    ],
)
def test_what_does_not_go_together_is_refused(
    case: Case, tmp_path: Path, change: Callable[[Case], dict[str, Any]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        case.run(tmp_path / "run", **change(case))
    assert not (tmp_path / "run").exists()


def test_a_hole_in_a_crop_is_refused(case: Case, tmp_path: Path) -> None:
    case.samples.images[7, 0, 1, 1] = torch.nan
    lesion = case.samples.lesion_ids[int(case.samples.nodule[7])]
    with pytest.raises(ValueError, match=f"images of lesion '{lesion}' have values that are"):
        case.run(tmp_path)


def test_data_have_a_tier() -> None:
    with pytest.raises(ValueError, match="tier='slices': expected one of real, phantom, private"):
        Data("x", "slices")
