"""Cross-validation: who sees what, what is written, and what a restart does again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab import splits
from lesionlab.crops.datasets import Basis
from lesionlab.training import checkpoints, folds, outcomes
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.folds import PARTS, Dataset, cross_validate
from lesionlab.training.outcomes import Outcome
from lesionlab.training.targets import Target, read_predictions

OPTIONS: dict[str, Any] = {"progress": False, "device": "cpu", "n_resamples": 20}
BOTH = (Target("texture"), Target("malignancy", "binary"))
DATA = ("samples", "labels", "table", "folds", "by", "holdout", "rests_on")


class Case:
    """Forty lesions of twenty patients, and three folds."""

    def __init__(self, toys: ModuleType) -> None:
        self.toys = toys
        self.samples, self.labels = toys.lesions(40)
        self.table = toys.table(self.samples, self.labels)
        self.folds = splits.folds(self.table, n_folds=3)
        self.recipe = dataclasses.replace(toys.RECIPE, epochs=3)

    def dataset(self, **changes: Any) -> Dataset:
        given = {name: getattr(self, name) for name in ("samples", "labels", "table", "folds")}
        return Dataset(**given | {"rests_on": [Basis("toys", "real", "a" * 64)]} | changes)

    def run(self, folder: Path, **changes: Any) -> Outcome:
        data = self.dataset(**{name: changes.pop(name) for name in DATA if name in changes})
        experiment = changes.pop("experiment", self.toys.Toy())
        options = OPTIONS | {"recipe": self.recipe, "folder": folder} | changes
        return cross_validate(experiment, data, **options)


@pytest.fixture
def case(toys: ModuleType) -> Case:
    return Case(toys)


def parts(data: Dataset, **changes: Any) -> list[dict[str, list[int]]]:
    return [data.split(k, **changes) for k in range(3)]


# who sees what


def check_apart(case: Case, found: dict[str, list[int]], *, by_patient: bool = True) -> None:
    """No lesion is in two parts, nor left out, and no patient where folds are by patient."""
    assert sorted(i for some in found.values() for i in some) == list(range(40))
    if by_patient:
        patients = [set(case.table["patient"].iloc[found[name]]) for name in PARTS]
        assert not patients[0] & patients[1]
        assert not (patients[0] | patients[1]) & patients[2]


@pytest.mark.parametrize("by", ["patient", "nodule"])
def test_the_parts_share_nothing_and_leave_nothing_out(case, by):
    made = splits.folds(case.table, n_folds=3, by=by)
    tested = []
    for k, found in enumerate(parts(case.dataset(folds=made, by=by))):
        check_apart(case, found, by_patient=by == "patient")
        assert set(made.iloc[found["test"]]) == {k}
        assert 1 <= len(found["validation"]) <= 5  # a tenth of about 27
        tested += found["test"]
    assert sorted(tested) == list(range(40))


def test_the_validation_part_is_drawn_by_the_seed(case):
    data = case.dataset()
    one, two = (parts(data, seed=1) for _ in range(2))
    assert one == two != parts(data, seed=2)
    unlabelled = case.dataset(table=case.table.drop(columns="malignancy"))
    assert [found["validation"] for found in parts(unlabelled, validate=False)] == [[], [], []]
    assert len(parts(unlabelled)[0]["validation"]) > 0
    # two classes of more than ten lesions each, but of less than ten patients
    few = case.dataset(table=case.table.assign(label=np.arange(40) // 2 % 2))
    assert all(found["validation"] for found in parts(few))


def test_holdouts_are_by_patient_and_each_seed_is_another(case, tmp_path):
    data = case.dataset(folds=None, holdout=(0.6, 0.2, 0.2))
    first, second = data.split(0), data.split(1)
    for found in (first, second):
        check_apart(case, found)
        assert [len(found[name]) for name in PARTS] == [24, 8, 8]
    assert first != second
    joined = data.split(0, validate=False)
    assert sorted(first["training"] + first["validation"]) == joined["training"]
    done = case.run(tmp_path, folds=None, holdout=(0.6, 0.2, 0.2), only=[0, 1])
    assert done.predictions["fold"].tolist() == [0] * 8 + [1] * 8


def other(case: Case, inside: np.ndarray) -> dict[str, Any]:
    """The same lesions, with other voxels and ratings for some of them."""
    samples, labels = case.toys.lesions(40)
    noise = torch.randn(samples.images.shape, generator=torch.Generator().manual_seed(9))
    slices = torch.tensor(inside)[samples.nodule]
    images = torch.where(slices[:, None, None, None], 3 * noise, samples.images)
    changed = torch.where(torch.tensor(inside)[:, None], 6 - labels, labels)
    return {"samples": dataclasses.replace(samples, images=images), "labels": changed}


@pytest.mark.parametrize("select_on", ["validation", "last", "test"])
def test_the_test_part_decides_nothing_unless_the_recipe_says_so(case, tmp_path, select_on):
    # an epoch more or less changes the weights, so that a selection shows in them
    recipe = dataclasses.replace(case.recipe, select_on=select_on, epochs=8, lr=0.05)
    options: dict[str, Any] = {"recipe": recipe, "only": [1]}
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
    column = "test_mae" if select_on == "test" else "validation_mae"
    assert all((column in row) is (select_on != "last") for row in results[0]["history"])


def test_only_the_training_part_is_normalised_by(case, tmp_path):
    found = case.run(tmp_path, only=[0]).folds[0]
    training = case.dataset().split(0)["training"]
    mean = float(case.samples.select(training).images.double().mean())
    assert found["normalisation"] == {"mean": mean}


# what is written


def test_every_lesion_is_predicted_once_by_a_model_that_has_not_seen_it(case, tmp_path):
    done = case.run(tmp_path)
    found = done.predictions
    columns = ["lesion_id", "patient", "fold", "malignancy", "malignancy_truth"]
    assert list(found.columns) == columns
    assert sorted(found["lesion_id"]) == sorted(case.table.index)
    by_id = found.set_index("lesion_id")
    assert by_id["fold"].to_dict() == case.folds.to_dict()
    assert by_id["patient"].to_dict() == case.table["patient"].to_dict()
    assert by_id["malignancy_truth"].to_dict() == case.table["malignancy"].to_dict()
    back = read_predictions(tmp_path, json.loads(done.path.read_text())["predictions"])
    pd.testing.assert_frame_equal(back, found, check_exact=True)


def test_results_say_where_they_come_from(case, tmp_path):
    found = case.run(tmp_path, seed=4)
    written = json.loads(found.path.read_text(encoding="utf-8"))
    assert (written["experiment"], written["variant"]) == ("toy", "attention")
    assert written["settings"]["dropout"] == 0.2
    assert written["recipe"]["schedule"]["kind"] == "constant"
    assert written["seed"] == 4
    assert (written["split"]["folds"], written["split"]["trained"]) == (3, [0, 1, 2])
    assert written["data"] == [{"name": "toys", "tier": "real", "checksum": "a" * 64}]
    assert (written["cohort"]["lesions"], written["cohort"]["patients"]) == (40, 20)
    assert {"commit", "dirty", "platform", "versions"} <= written.keys()
    assert {"torch", "lightning-fabric", "safetensors"} <= written["versions"].keys()
    assert written["device"] == ["CPU, 1 threads"]
    assert written["seconds"] == pytest.approx(sum(fold["seconds"] for fold in written["folds"]))
    for k, fold in enumerate(written["folds"]):
        counts = [fold[name]["lesions"] for name in ("training", "validation", "test")]
        assert sum(counts) == 40
        assert counts[2] == (case.folds == k).sum()
        assert len(fold["history"]) == 3


def test_scores_are_those_of_the_predictions_on_the_same_lesions(case, tmp_path):
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
    rows = found.scores.set_index(["predictor", "metric"]).loc["model", "mae"]
    alone = error.groupby(found.predictions["fold"]).mean()
    assert rows["fold_mean"] == pytest.approx(alone.mean())
    assert rows["fold_sd"] == pytest.approx(alone.std())


def test_some_folds_are_scored_with_baselines_on_their_lesions(case, tmp_path):
    found = case.run(tmp_path, only=[2])
    inside = (case.folds == 2).sum()
    assert set(found.scores["n"]) == {inside} == {len(found.predictions)}
    truth = case.table["malignancy"]
    gap = (truth[case.folds == 2] - truth[case.folds != 2].median()).abs().mean()
    scores = found.scores.set_index(["predictor", "metric"])["value"]
    assert scores["constant", "mae"] == pytest.approx(gap)


def test_ratings_and_classes_side_by_side(case, tmp_path):
    labels = torch.cat([case.labels, (case.labels > 3).float()], dim=1)
    table = case.table.assign(label=labels[:, 1].numpy())
    given: dict[str, Any] = {"labels": labels, "table": table}
    given["folds"] = splits.folds(table, n_folds=3)
    last = dataclasses.replace(case.recipe, select_on="last")
    found = case.run(tmp_path, experiment=case.toys.Toy(targets=BOTH), recipe=last, **given)
    scores = found.scores.set_index(["target", "predictor", "metric"])["value"]
    assert set(found.scores["target"]) == {"texture", "malignancy"}
    assert {p for t, p, _ in scores.index if t == "malignancy"} == {"model", "majority", "diameter"}
    assert scores["malignancy", "majority", "auc"] == 0.5
    # the mean of the folds' own, as each fold has a network of its own
    aucs = []
    for _, rows in found.predictions.groupby("fold"):
        pairs = [
            (a > b) + (a == b) / 2
            for a in rows["malignancy"][rows["malignancy_truth"] == 1]
            for b in rows["malignancy"][rows["malignancy_truth"] == 0]
        ]
        aucs.append(np.mean(pairs))
    assert scores["malignancy", "model", "auc"] == pytest.approx(np.mean(aucs))


def test_the_mean_over_ratings_is_that_of_their_errors(case, toys):
    labels = torch.cat([case.labels, 6 - case.labels + torch.arange(40)[:, None] % 3], dim=1)
    predictions = pd.DataFrame(
        {
            "lesion_id": case.table.index,
            "patient": case.table["patient"].to_numpy(),
            "fold": case.folds.to_numpy(),
            "a": 3.0,
            "b": 4.0,
        }
    )
    found = outcomes.score(
        predictions, case.table, labels, [Target("a"), Target("b")], n_resamples=20
    ).set_index(["target", "predictor", "metric"])["value"]
    for predictor in ("model", "constant", "diameter"):
        both = [found[name, predictor, "mae"] for name in ("a", "b")]
        assert found["mean", predictor, "mae"] == pytest.approx(np.mean(both))
    assert found["mean", "constant", "skill"] == 0


# what a restart does again


def test_finished_folds_are_skipped_and_the_outcome_is_the_same(case, tmp_path, monkeypatch):
    whole = case.run(tmp_path / "whole")
    # the third fold dies
    seen: list[int] = []
    fit = folds.fit

    def dying(*arguments: Any, **options: Any) -> Any:
        seen.append(len(seen))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(folds, "fit", dying)
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


def test_the_result_of_another_run_is_refused(case, tmp_path):
    case.run(tmp_path, only=[0])
    changed = dataclasses.replace(case.recipe, lr=0.5)
    result, predictions = (tmp_path / "fold-0" / n for n in ("result.json", "predictions.csv"))
    kept = result.read_text(encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"result.json is of another run: recipe.lr: 0.01 th"):
        case.run(tmp_path, only=[0], recipe=changed)
    with pytest.raises(CheckpointError, match=r"another run: parts: .*; seed: 0 there, 1 here"):
        case.run(tmp_path, only=[0], seed=1)
    case.run(tmp_path, only=[0], recipe=changed, resume=False)
    predictions.write_text("lesion_id\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"predictions.csv is not what the JSON file"):
        case.run(tmp_path, only=[0], recipe=changed)
    for text in ("", "[]", "{}", kept[:100]):
        result.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"result.json is damaged .* do the fold again"):
            case.run(tmp_path, only=[0])


# what is refused, before anything is trained


def one_class(case: Case) -> dict[str, Any]:
    label = (case.folds != 2).to_numpy().astype(np.float32)
    labels = torch.cat([case.labels, torch.from_numpy(label)[:, None]], dim=1)
    return {"labels": labels, "experiment": case.toys.Toy(targets=BOTH)}


def unlabelled(case: Case) -> dict[str, Any]:
    tested = torch.tensor((case.folds == 1).tolist())
    rating = torch.where(tested[:, None], torch.nan, case.labels)
    labels = torch.cat([rating, torch.arange(40)[:, None] % 2], dim=1)
    return {"labels": labels, "experiment": case.toys.Toy(targets=BOTH)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {"table": c.table.drop("l003")}, "table: expected one row for each lesion"),
        (lambda c: {"folds": c.folds.drop("l004")}, "folds: expected one for each lesion"),
        (lambda c: {"folds": c.folds * 0}, "fold 0: 40 of 40 lesions to test"),
        (lambda c: {"folds": None}, "expected either folds or the shares of a hold-out split"),
        (lambda c: {"only": [7]}, r"only=\[7\]: expected some of \[0, 1, 2\]"),
        (lambda c: {"only": []}, r"only=\[\]"),
        (
            lambda c: {"folds": pd.Series(np.arange(40) % 3, c.table.index)},
            "folds: patient 'p000' is in more than one; make them by patient, or say by='nodule'",
        ),
        (lambda c: {"table": c.table.assign(patient="p"), "by": "nodule"}, "1 patient to predict"),
        (lambda c: {"labels": c.labels[:9]}, "labels of shape"),
        (lambda c: {"samples": c.samples.select([])}, "samples: expected lesions, each once"),
        (lambda c: {"samples": c.samples.select([0, 0])}, "samples: expected lesions, each once"),
        (
            lambda c: {"rests_on": [Basis("x", "slices")]},  # type: ignore[arg-type]
            "tier='slices': expected one of real, phantom, private",
        ),
        (one_class, r"part of fold \d: none of its \d+ lesions has malignancy [01]; use fewer"),
        (unlabelled, r"test part of fold 1: none of its \d+ lesions has a label of texture"),
    ],
)
def test_what_does_not_go_together_is_refused(case, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        case.run(tmp_path / "run", **change(case))
    assert not (tmp_path / "run").exists()
