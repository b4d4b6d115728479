import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import datasets
from lesionlab.explorer.bench import Bench, Request
from lesionlab.sources import lidc
from lesionlab.training import outcomes, studies
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.plans import PAPERS, Plan, study


def plan(**changed):
    return Plan(**{"paper": "fu2021", "preset": "smoke", "n_lesions": 50, "epochs": 1} | changed)


@pytest.fixture(scope="module")
def loaded(small_plan, small_loaded):
    assert small_plan == plan()
    return small_loaded


@pytest.fixture(scope="module")
def done(small_run):
    return small_run


def run(folder, loaded, **changed):
    how = {"loaded": loaded, "folder": folder, "device": "cpu", "progress": False}
    return studies.run(plan(**changed), n_resamples=50, **how)


# -- plans -----------------------------------------------------------------------------


def test_defaults_are_the_papers_own():
    made = Plan(paper="fu2021")
    assert (made.variant, made.data, made.preset, made.by) == ("full", "phantom", "book", "patient")
    assert made.chosen == (0,)
    assert Plan(paper="fu2021", preset="paper").chosen == (0, 1, 2, 3, 4)
    assert Plan(paper="fu2021", preset="paper").size is None


def test_another_plan_another_folder():
    plans = [
        plan(),
        plan(variant="no_attention"),
        plan(data="slices"),
        plan(preset="book"),
        plan(by="nodule"),
        plan(seed=1),
        plan(data_seed=1),
        plan(n_lesions=51),
        plan(epochs=2),
    ]
    assert len({made.folder for made in plans}) == len(plans)
    assert plan(folds=(0,)).folder == plan(folds=(3,)).folder  # folds share one


def test_epochs_replace_the_recipes_and_its_cosine():
    recipe = plan(preset="book", epochs=7).recipe
    assert (recipe.epochs, recipe.schedule.first) == (7, 7)
    assert plan(preset="paper", epochs=7).recipe.schedule == plan(preset="paper").recipe.schedule


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"paper": "fu2022"}, "paper='fu2022': expected one of fu2021"),
        ({"variant": "none"}, "variant='none': expected one of full, "),
        ({"data": "mri"}, "data='mri': expected one of phantom, slices, dicom"),
        ({"preset": "quick"}, "preset='quick': expected one of smoke, book"),
        ({"by": "reader"}, "by='reader': expected one of patient, nodule"),
        ({"folds": (5,)}, "folds="),
        ({"folds": ()}, "folds="),
        ({"seed": -1}, "seed=-1: expected 0 or more"),
        ({"n_lesions": -1}, "n_lesions=-1"),
    ],
)
def test_plans_refuse(changed, message):
    with pytest.raises(ValueError, match=message):
        plan(**changed)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_study_is_whole(paper):
    of = study(paper)
    assert of.name == paper
    assert {"smoke", "book", "paper"} <= set(of.presets)
    assert of.presets["smoke"].n_lesions < of.presets["book"].n_lesions
    for variant in of.variants:
        assert Plan(paper=paper, variant=variant).model == variant


# -- loading ---------------------------------------------------------------------------


def test_samples_targets_and_folds_go_together(loaded):
    assert list(loaded.samples.lesion_ids) == list(loaded.table.index) == list(loaded.folds.index)
    assert loaded.targets.shape == (50, 9)
    truth = loaded.table["malignancy"].to_numpy(dtype=np.float32)
    assert np.array_equal(loaded.targets[:, -1].numpy(), truth)


def test_folds_are_those_of_the_whole_cohort(loaded):
    everything = loaded.cohort.folds(by="patient")
    assert loaded.folds.equals(everything.loc[loaded.folds.index])


def test_fewer_lesions_are_among_more(loaded):
    fewer = studies.drawn(loaded.cohort.table, 20).index
    assert len(fewer) == 20
    assert set(fewer) <= set(studies.drawn(loaded.cohort.table, 200).index)


def test_an_enriched_draw_has_more_of_the_unusual(loaded):
    cohort = loaded.cohort.table
    few, more = (studies.drawn(cohort, n, enriched=True) for n in (200, 600))
    assert (len(few), len(more)) == (200, 600)
    assert set(few.index) <= set(more.index)
    assert list(more.index) == list(cohort.index[cohort.index.isin(more.index)])
    plain = studies.drawn(cohort, 600)
    for name in ("spiculation", "lobulation", "texture", "margin"):
        off = (cohort[name] - cohort[name].median()).abs() >= 2
        assert off[more.index].sum() > 1.5 * off[plain.index].sum(), name


def test_an_enriched_draw_is_told():
    book = Plan(paper="fu2021", preset="book")
    assert book.enriched
    assert not replace(book, n_lesions=0).enriched  # all of them
    assert not Plan(paper="fu2021", preset="smoke").enriched
    names = [one.name for one in studies._data(book, {"database": None})]
    assert names[1] == "phantom crops, seed 0, lesions of unusual ratings drawn more often"


def test_an_enriched_draw_goes_by_the_squared_distance():
    """Of lesions 1/4 and 2/4 of a scale from the median, the second come four times as often."""
    usual = dict.fromkeys(RATING_NAMES, 3.0)
    n = 4000
    margins = [3.0] * (2 * n + 1) + [4.0] * n + [5.0] * n
    table = pd.DataFrame([usual | {"margin": m} for m in margins]).astype("Float64")
    table.loc[0, "texture"] = pd.NA  # not unusual
    drawn = studies.drawn(table, 400, enriched=True)["margin"].value_counts()
    assert 3.0 not in drawn.index
    assert 3 < drawn[5.0] / drawn[4.0] < 5.3
    everything = studies.drawn(table, len(table) - 1, enriched=True)
    assert len(everything) == len(table) - 1


def test_too_many_lesions():
    with pytest.raises(ValueError, match=r"n_lesions=99999: expected 1 to 2\d{3}"):
        studies.load(plan(n_lesions=99999), progress=False)


def test_a_lesion_without_a_rating_is_named(loaded):
    # internal structure 5 is no rating of the scale: of this one lesion it is all there is
    odd = loaded.cohort.table["internal_structure"].isna()
    table = loaded.cohort.table.loc[odd | (odd.cumsum() < 1)].tail(4)
    rated = ~study("fu2021").targets(table, "full").isnan().any(dim=1)
    assert rated.tolist() == [True, True, True, False]


def test_classes_leave_the_undecided_out():
    cohort = study("fu2021").cohort(lidc.nodules(), "malignancy_class")
    assert set(cohort.table["label"]) == {0.0, 1.0}
    assert (cohort.table["malignancy"] != 3).all()


def test_an_empty_cohort(monkeypatch):
    nodules = lidc.nodules()
    monkeypatch.setattr(lidc, "nodules", lambda: nodules.iloc[:0])
    with pytest.raises(ValueError, match="the cohort of fu2021 is empty"):
        studies.load(plan(), progress=False)


def test_no_crop_is_there(monkeypatch):
    class Empty(dict):
        exclusions = {}  # noqa: RUF012
        provenance = {"database": None}  # noqa: RUF012

    monkeypatch.setattr(datasets, "crops", lambda *_, **__: Empty())
    with pytest.raises(ValueError, match="none of the 50 lesions is there"):
        studies.load(plan(), progress=False)


# -- running ---------------------------------------------------------------------------


def test_what_a_run_leaves(done, loaded):
    assert done.path.name == "results.json"
    test = loaded.folds.index[loaded.folds == 0]
    assert set(done.predictions["lesion_id"]) == set(test)
    assert {"model", "constant", "diameter"} <= set(done.scores["predictor"])


def test_the_trained_model_predicts_what_the_run_predicted(done, loaded):
    (fold,) = studies.trained(plan(), loaded=loaded, folder=done.path.parent)
    expected = done.predictions[[*fold.experiment.tasks]].to_numpy()
    np.testing.assert_allclose(fold.predict(device="cpu").numpy(), expected, atol=1e-5)
    with torch.no_grad():
        outputs = fold.experiment.forward(fold.model(), fold.samples)
    assert outputs.slice_weights.shape == (len(fold.samples.images),)


def test_what_was_done_to_the_samples_can_be_done_to_more(done, loaded):
    (fold,) = studies.trained(plan(), loaded=loaded, folder=done.path.parent)
    at = [loaded.samples.lesion_ids.index(name) for name in fold.samples.lesion_ids]
    again = fold.normalise(loaded.samples.select(at))
    assert torch.equal(again.images, fold.samples.images)
    # from the crop on, as the workbench goes
    name = fold.samples.lesion_ids[-1]
    bench = Bench({"Fu 2021": fold}, datasets.crops("phantom", [name], progress=False))
    found = bench.compute(Request(name, "Fu 2021")).before.predicted
    expected = done.predictions.set_index("lesion_id").loc[name, list(found)]
    np.testing.assert_allclose(list(found.values()), expected.astype(float), atol=1e-3)


def test_another_fold_joins_those_that_are_done(done, loaded, tmp_path):
    folder = shutil.copytree(done.path.parent, tmp_path / "run")
    before = (folder / "fold-0" / "result.json").stat().st_mtime_ns
    both = run(folder, loaded, folds=(1,))
    assert [fold["fold"] for fold in both.folds] == [0, 1]
    assert (folder / "fold-0" / "result.json").stat().st_mtime_ns == before
    assert len(both.predictions) == int((loaded.folds <= 1).sum())


def test_another_model_in_the_same_folder(done, loaded, tmp_path):
    folder = shutil.copytree(done.path.parent, tmp_path / "run")
    before = (folder / outcomes.RESULTS).read_bytes()
    with pytest.raises(CheckpointError, match=r"of another run.*variant"):
        run(folder, loaded, variant="no_attention")
    with pytest.raises(CheckpointError, match="of another run"):
        next(studies.trained(plan(variant="no_attention"), loaded=loaded, folder=folder))
    assert (folder / outcomes.RESULTS).read_bytes() == before


def test_a_truncated_checkpoint(done, loaded, tmp_path):
    folder = shutil.copytree(done.path.parent, tmp_path / "run")
    (weights,) = (folder / "fold-0").glob("selected-*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"damaged|differs|truncated"):
        next(studies.trained(plan(), loaded=loaded, folder=folder))


def test_nothing_trained_yet(loaded, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished fold"):
        next(studies.trained(plan(), loaded=loaded, folder=tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none_fails_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="device='cuda'"):
        studies.run(plan(), folder=tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


def test_nan_in_a_crop(loaded, tmp_path):
    images = loaded.samples.images.clone()
    images[3, 0, 5, 5] = torch.nan
    broken = replace(loaded, samples=replace(loaded.samples, images=images))
    with pytest.raises(ValueError, match=r"samples: .*LIDC-IDRI"):
        run(tmp_path, broken)
    assert not list(tmp_path.iterdir())
