"""Plans, what they load, what a run leaves, and what is kept of it."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lesionlab import _files, papers
from lesionlab.crops import datasets
from lesionlab.explorer.bench import Bench, Request
from lesionlab.sources import lidc
from lesionlab.training import checkpoints, outcomes, studies
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.folds import Dataset
from lesionlab.training.outcomes import Outcome
from lesionlab.training.studies import Plan


def plan(**changed: Any) -> Plan:
    return Plan(**{"paper": "fu2021", "preset": "smoke", "n_lesions": 50, "epochs": 1} | changed)


@pytest.fixture
def again(done: Outcome, tmp_path: Path) -> Path:
    """A copy of its folder, to spoil."""
    return shutil.copytree(done.path.parent, tmp_path / "run")


def run(folder: Path, dataset: Dataset, **changed: Any) -> Outcome:
    how: dict[str, Any] = {"folder": folder, "device": "cpu", "progress": False}
    return studies.run(plan(**changed), dataset=dataset, n_resamples=50, **how)


# -- plans -----------------------------------------------------------------------------


def test_defaults_are_the_papers_own() -> None:
    made = Plan(paper="fu2021")
    assert (made.variant, made.data, made.preset, made.by) == ("full", "phantom", "book", "patient")
    assert made.chosen == (0,)
    assert Plan(paper="fu2021", preset="paper").chosen == (0, 1, 2, 3, 4)
    assert Plan(paper="fu2021", preset="paper").size is None


def test_another_plan_another_folder() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"variant": "no_attention"}, {"data": "slices"}, {"preset": "book"}, {"by": "nodule"},
        {"seed": 1}, {"data_seed": 1}, {"n_lesions": 51}, {"epochs": 2}, {"hu_error": 42},
    ]  # fmt: skip
    assert len({plan(**changed).folder for changed in changes}) == len(changes)
    assert plan(folds=(0,)).folder == plan(folds=(3,)).folder  # folds share one


def test_epochs_replace_the_recipes_and_its_cosine() -> None:
    recipe = plan(preset="book", epochs=7).recipe
    assert (recipe.epochs, recipe.schedule.epochs) == (7, 7)
    assert plan(preset="paper", epochs=7).recipe.schedule == plan(preset="paper").recipe.schedule


@pytest.mark.parametrize(
    "changed",
    [
        {"paper": "fu2022"}, {"variant": "none"}, {"data": "mri"}, {"preset": "quick"},
        {"by": "reader"}, {"folds": (5,)}, {"folds": ()}, {"seed": -1}, {"n_lesions": -1},
        {"hu_error": -1},
    ],
)  # fmt: skip
def test_plans_refuse(changed: dict[str, Any]) -> None:
    ((name, value),) = changed.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: expected ")):
        plan(**changed)


# -- loading ---------------------------------------------------------------------------


def test_samples_targets_and_folds_go_together(dataset: Dataset) -> None:
    ids = list(dataset.samples.lesion_ids)
    assert ids == list(dataset.table.index)
    assert dataset.labels.shape == (50, 9)
    truth = dataset.table["malignancy"].to_numpy(dtype=np.float32)
    assert np.array_equal(dataset.labels[:, -1].numpy(), truth)
    # folds are those of the whole cohort
    assert dataset.folds is not None
    assert dataset.folds.equals(dataset.cohort.folds(by="patient").loc[ids])


def test_a_rating_off_the_scale_is_missing(dataset: Dataset) -> None:
    # internal structure 5 is no rating of the scale: of this one lesion it is all there is
    odd = dataset.cohort.table["internal_structure"].isna()
    table = dataset.cohort.table.loc[odd | (odd.cumsum() < 1)].tail(4)
    rated = ~papers.get("fu2021").labels(table, "full").isnan().any(dim=1)
    assert rated.tolist() == [True, True, True, False]


def test_classes_leave_the_undecided_out() -> None:
    cohort = papers.get("fu2021").cohort(lidc.nodules(), "malignancy_class")
    assert set(cohort.table["label"]) == {0.0, 1.0}
    assert (cohort.table["malignancy"] != 3).all()


def test_there_is_something_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(dict[str, Any]):
        exclusions: dict[str, str] = {}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"n_lesions=99999: expected 1 to 2\d{3}"):
        studies.load(plan(n_lesions=99999), progress=False)
    monkeypatch.setattr(datasets, "crops", lambda *_, **__: Empty())
    with pytest.raises(ValueError, match="none of the 50 lesions is there"):
        studies.load(plan(), progress=False)
    nodules = lidc.nodules()
    monkeypatch.setattr(lidc, "nodules", lambda: nodules.iloc[:0])
    with pytest.raises(ValueError, match="the cohort of fu2021 is empty"):
        studies.load(plan(), progress=False)


# -- running ---------------------------------------------------------------------------


def test_what_a_run_leaves(done: Outcome, dataset: Dataset) -> None:
    assert done.path.name == "results.json"
    test = dataset.folds.index[dataset.folds == 0]
    assert set(done.predictions["lesion_id"]) == set(test)
    assert {"model", "constant", "diameter"} <= set(done.scores["predictor"])


def test_the_trained_model_predicts_what_the_run_predicted(done: Outcome, dataset: Dataset) -> None:
    (fold,) = studies.trained(plan(), dataset=dataset, folder=done.path.parent)
    expected = done.predictions[[t.name for t in fold.experiment.targets]].to_numpy()
    np.testing.assert_allclose(fold.predict(device="cpu").numpy(), expected, atol=1e-5)
    with torch.no_grad():
        outputs = fold.experiment.forward(fold.model(), fold.samples)
    assert outputs.slice_weights.shape == (len(fold.samples.images),)


def test_what_was_done_to_the_samples_can_be_done_to_more(done: Outcome, dataset: Dataset) -> None:
    (fold,) = studies.trained(plan(), dataset=dataset, folder=done.path.parent)
    at = [dataset.samples.lesion_ids.index(name) for name in fold.samples.lesion_ids]
    again = fold.normalise(dataset.samples.select(at))
    assert torch.equal(again.images, fold.samples.images)
    # from the crop on, as the workbench goes
    name = fold.samples.lesion_ids[-1]
    bench = Bench({"Fu 2021": fold}, datasets.crops("phantom", [name], progress=False))
    found = bench.compute(Request(name, "Fu 2021")).before.predicted
    expected = done.predictions.set_index("lesion_id").loc[name, list(found)]
    np.testing.assert_allclose(list(found.values()), expected.astype(float), atol=1e-3)


def test_another_fold_joins_those_that_are_done(dataset: Dataset, again: Path) -> None:
    before = (again / "fold-0" / "result.json").stat().st_mtime_ns
    both = run(again, dataset, folds=(1,))
    assert [fold["fold"] for fold in both.folds] == [0, 1]
    assert (again / "fold-0" / "result.json").stat().st_mtime_ns == before
    assert dataset.folds is not None
    assert len(both.predictions) == int((dataset.folds <= 1).sum())


def test_another_model_in_the_same_folder(dataset: Dataset, again: Path) -> None:
    before = (again / outcomes.RESULTS).read_bytes()
    with pytest.raises(CheckpointError, match=r"of another run.*variant"):
        run(again, dataset, variant="no_attention")
    with pytest.raises(CheckpointError, match="of another run"):
        next(studies.trained(plan(variant="no_attention"), dataset=dataset, folder=again))
    assert (again / outcomes.RESULTS).read_bytes() == before


def test_a_damaged_checkpoint_or_none(dataset: Dataset, again: Path, tmp_path: Path) -> None:
    weights = again / "fold-0" / checkpoints.NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        next(studies.trained(plan(), dataset=dataset, folder=again))
    with pytest.raises(FileNotFoundError, match="no finished fold"):
        next(studies.trained(plan(), dataset=dataset, folder=tmp_path / "nothing"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none_fails_before_anything_is_loaded(
    monkeypatch: Any, tmp_path: Any
) -> None:
    monkeypatch.setattr(studies, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="device='cuda': torch sees no CUDA device here; try dev"):
        studies.run(plan(), folder=tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


# -- keeping ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(small_plan: Plan, dataset: Dataset, done: Outcome, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("results")
    return studies.keep(small_plan, done, folder, dataset=dataset)


def copied(path: Path, tmp_path: Path, **changed: Any) -> Path:
    """The same file under another name, with other entries."""
    about = _files.read_json(path, sealed=True) | changed
    there = path.with_suffix(".csv.gz")
    (tmp_path / there.name).write_bytes(there.read_bytes())
    target = tmp_path / f"{len(list(tmp_path.glob('*.json')))}.json"
    return _files.write_json(target, about, sealed=True)


def test_numbers_are_kept_as_they_were_and_no_weights(
    kept: Path, small_plan: Plan, done: Outcome
) -> None:
    assert {p.suffix for p in kept.parent.iterdir()} == {".json", ".gz"}
    assert kept.stem == small_plan.name
    assert kept.stat().st_size < 300_000
    (one,) = outcomes.kept(kept.parent, data="phantom").values()
    assert (one.variant, one.epochs) == ("full", 1)
    assert one.predictions.equals(done.predictions)
    values = done.scores["value"].to_numpy(dtype=float)
    assert np.array_equal(one.scores["value"].to_numpy(dtype=float), values, equal_nan=True)
    assert {"commit", "versions"} <= set(one.about)
    # and what the paper's analysis says
    assert {"ends", "profile", "weights", "agreement", "auxiliary"} == set(one.about["analysis"])
    weights = one.table("weights")
    assert weights.sum(axis=1).to_numpy(dtype=float) == pytest.approx(np.ones(9))
    final = one.table("auxiliary").loc["margin", "mae_final"]
    model = one.scores[(one.scores["target"] == "margin") & (one.scores["predictor"] == "model")]
    assert final == pytest.approx(float(model.set_index("metric").loc["mae", "value"]))


def test_other_data_and_other_folds_are_apart(kept: Path, tmp_path: Path) -> None:
    for folder, wanted in [
        (kept.parent, {"data": "slices"}),
        (kept.parent, {"data": "phantom", "by": "nodule"}),
        (tmp_path / "nothing", {}),
    ]:
        with pytest.raises(FileNotFoundError, match=r"holds no run with data=.*--keep FOLDER"):
            outcomes.kept(folder, **wanted)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "has no folds, plan"),
        ({"plan": {}, "variant": "full"}, "has no folds, predictions, re"),
    ],
)
def test_results_of_another_version_are_named(tmp_path: Any, content: Any, told: Any) -> None:
    _files.write_json(tmp_path / "old.json", content, sealed=True)
    with pytest.raises(ValueError, match=rf"old\.json does not hold the results.*{told}"):
        outcomes.kept(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: re.sub(r'"value": [0-9.]+', '"value": 0.0', text, count=1), "does not fit"),
        (lambda text: re.sub(r'"sha256": "\w+"\n}', '"x": 0\n}', text), "has no sha256"),
        (lambda text: "[]", "has no sha256"),
        (lambda text: 9999 * "[", "is not a JSON file"),
    ],
)
def test_changed_scores_are_refused(change: Any, told: str, kept: Path, tmp_path: Path) -> None:
    path = copied(kept, tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=rf"0\.json {told}|0\.json is not as it.*{told}"):
        outcomes.kept(tmp_path, data="phantom")


def test_more_folds_count_before_more_epochs(kept: Path, tmp_path: Path) -> None:
    about = _files.read_json(kept, sealed=True)
    copied(kept, tmp_path)
    longer = copied(kept, tmp_path, recipe=about["recipe"] | {"epochs": 9})
    assert outcomes.kept(tmp_path, data="phantom")["full"].path == longer
    more = copied(kept, tmp_path, folds=about["folds"] * 2)
    assert outcomes.kept(tmp_path, data="phantom")["full"].path == more


def test_trainings_in_a_table() -> None:
    history = [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    fold = {"training": {"lesions": 80}, "history": history, "best_epoch": 2, "seconds": 90.0}
    told = outcomes.trainings({"here": fold, "elsewhere": fold | {"seconds": 30.0}})
    assert told.loc["here"].to_dict() == {
        "lesions": 80, "epochs": 3, "best_epoch": 2, "minutes": 1.5
    }  # fmt: skip
    assert told["minutes"].to_dict() == {"here": 1.5, "elsewhere": 0.5}


def test_changed_predictions_are_refused(kept: Path, tmp_path: Path) -> None:
    copied(kept, tmp_path)
    table = tmp_path / kept.with_suffix(".csv.gz").name
    text = gzip.decompress(table.read_bytes())
    table.write_bytes(gzip.compress(text.replace(b"LIDC-IDRI-0", b"LIDC-IDRI-1", 1)))
    with pytest.raises(CheckpointError, match=f"{table.name} is not what"):
        outcomes.kept(tmp_path, data="phantom")
