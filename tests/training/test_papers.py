"""Papers: a toy from outside, Li's nine heads, two stages; what each must have; one step of all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab import papers
from lesionlab.papers import li2021
from lesionlab.training import studies
from lesionlab.training.folds import Dataset
from lesionlab.training.loop import fit
from lesionlab.training.outcomes import kept
from lesionlab.training.recipes import Schedule
from lesionlab.training.studies import Plan
from lesionlab.training.targets import read_predictions

OPTIONS: dict[str, Any] = {"progress": False, "device": "cpu", "n_resamples": 20}


# a toy from outside


def test_a_paper_from_outside_is_found_by_its_entry_point(toy):
    assert papers.get("toy") is toy.PAPER
    assert "toy" in papers.names()
    made = Plan(paper="toy")
    assert (made.variant, made.data, made.preset) == ("cascade", "squares", "book")


def test_lesions_whose_hu_may_be_too_far_off_are_left_out(toy):
    bounded = studies.load(Plan(paper="toy", hu_error=154), progress=False)
    assert bounded.excluded["toy007"] == "its HU may be 155 off"
    assert "toy007" not in bounded.samples.lesion_ids
    assert "toy007" not in studies.load(Plan(paper="toy", hu_error=155), progress=False).excluded


def test_it_trains_in_two_stages_and_is_scored_by_kind(toy, tmp_path):
    plan = Plan(paper="toy", folds=(0, 1, 2, 3, 4))
    dataset = studies.load(plan, progress=False)
    assert dataset.excluded == {"toy005": "its picture is lost"}
    assert dataset.labels.isnan().any()  # a brightness is missing, and its lesion stays
    done = studies.run(plan, dataset=dataset, folder=tmp_path, **OPTIONS)
    scores = done.scores.set_index(["target", "predictor", "metric"])["value"]
    assert scores["kind", "model", "accuracy"] > scores["kind", "majority", "accuracy"] + 0.3
    assert scores["brightness", "model", "mae"] < scores["brightness", "constant", "mae"]
    assert scores["mask", "model", "dice"] > 0.8
    assert ("kind", "model", "macro_f1") in scores.index
    # by hand, on the lesions whose kind is not ignored
    rows = done.predictions[done.predictions["kind_truth"] > 0]
    calls = rows[["kind: dark", "kind: grey", "kind: bright"]].to_numpy().argmax(1) + 1
    assert scores["kind", "model", "accuracy"] == pytest.approx(
        (calls == rows["kind_truth"]).mean()
    )
    known = done.predictions.dropna(subset="brightness_truth")
    gaps = (known["brightness"] - known["brightness_truth"]).abs().mean()
    assert scores["brightness", "model", "mae"] == pytest.approx(gaps)
    back = read_predictions(tmp_path, done.about["predictions"])
    pd.testing.assert_frame_equal(back, done.predictions, check_exact=True)
    # the second stage did not touch what the first has learned
    (fold, *_) = studies.trained(plan, dataset=dataset, folder=tmp_path)
    again = fold.predict(device="cpu")
    counts = done.predictions.set_index("lesion_id").loc[list(fold.samples.lesion_ids)]
    assert again[:, -3:].tolist() == counts.filter(like="mask: ").to_numpy().tolist()
    history = pd.DataFrame(done.folds[0]["history"])
    assert history["stage"].value_counts().to_dict() == {"classes": 40, "masks": 4}
    assert history["validation_dice"].count() == 4


def test_it_trains_on_a_second_hold_out_split_from_a_stream(toy, tmp_path):
    plan = Plan(paper="toy", variant="slow", preset="split", folds=(1,))
    done = studies.run(plan, folder=tmp_path, **OPTIONS)
    counts = [done.folds[0][name]["lesions"] for name in ("training", "validation", "test")]
    assert sum(counts) == 38
    assert done.predictions["fold"].unique().tolist() == [1]
    assert set(done.scores["predictor"]) == {"model", "constant", "majority"}


# a paper that lacks a part


def test_a_paper_that_lacks_a_part_is_refused(toy, monkeypatch):
    paper = toy.PAPER
    for change, words in (
        ({"name": "other"}, "the PAPER of toy_paper is called 'other'"),
        ({"variants": {}}, "has 0 variants"),
        ({"data": {}}, "0 data sets"),
    ):
        monkeypatch.setattr(toy, "PAPER", dataclasses.replace(paper, **change))
        with pytest.raises(ValueError, match=words):
            papers.get("toy")
    monkeypatch.delattr(toy, "PAPER")
    with pytest.raises(ValueError, match="toy_paper has no model to train: it offers no PAPER"):
        papers.get("toy")
    assert "toy" not in papers.names()
    with pytest.raises(ValueError, match=r"expected one of fu2021.*; did you mean 'fu2021'\?"):
        papers.get("fu2020")


@pytest.mark.parametrize("name", papers.names())
def test_every_registered_paper_is_whole(name):
    paper = papers.get(name)
    assert {"smoke", "book", "paper", "gpu"} <= set(paper.presets)
    smoke, book = (paper.presets[preset].n_lesions for preset in ("smoke", "book"))
    assert smoke is not None
    assert book is None or smoke < book
    assert {v for rows in paper.tables.values() for v in rows.values()} <= set(paper.variants)
    for variant in paper.variants:
        experiment = paper.experiment(variant)
        assert (experiment.name, experiment.variant) == (name, variant)
        assert experiment.targets
        assert isinstance(experiment.settings(), dict)


# one step of every paper and family of variants, in both precisions, on the CPU and on a GPU


def families() -> list[Any]:
    """One variant of each kind of model: those whose settings differ in numbers only are one."""
    found = []
    for name in papers.names():
        seen = set()
        for variant in papers.get(name).variants:
            kind = variant.split("_")[0]
            if kind not in seen:
                seen.add(kind)
                found.append(pytest.param(name, variant, id=f"{name}-{variant}"))
    return found


@pytest.fixture(scope="module")
def prepared() -> dict[Any, Dataset]:
    return {}


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)
@pytest.mark.parametrize(("name", "variant"), families())
def test_one_step_of_every_model(name, variant, device, prepared):
    paper = papers.get(name)
    plan = Plan(paper=name, variant=variant, preset="smoke", n_lesions=60)
    key = (name, str(plan.experiment.settings().get("design", variant)))
    if key not in prepared:
        prepared[key] = studies.load(plan, progress=False)
    samples, labels = prepared[key].part(range(4))
    part = plan.experiment.normalisation(samples)(samples), labels
    recipe = dataclasses.replace(
        plan.recipe, epochs=1, batch_size=4, select_on="last", schedule=Schedule(), patience=None
    )
    # a processor that does not multiply in bfloat16 takes minutes for large networks: the paper's
    both = device == "cuda" or variant == next(iter(paper.variants))
    for precision in ("32-true", "bf16-mixed") if both else ("32-true",):
        how: Any = {"device": device, "precision": precision, "progress": False}
        found = fit(plan.experiment, part, recipe=recipe, **how)
        assert np.isfinite(found.history["loss"]).all()


# Li 2021: nine heads on the phantoms of its private data, six on LIDC's


@pytest.mark.slow
def test_nine_heads_train_on_the_phantoms_of_li(tmp_path):
    plan = Plan(paper="li2021", variant="basic_2d", preset="smoke", n_lesions=150, epochs=1)
    dataset = studies.load(plan, progress=False)
    effusions = int((dataset.table["lesion_type"] == 6).sum())
    assert 0 < effusions < 5, "too few for all five folds, and no reason to refuse the run"
    done = studies.run(plan, dataset=dataset, folder=tmp_path, **OPTIONS)
    assert list(dict.fromkeys(done.scores["target"])) == list(li2021.ATTRIBUTES)
    assert set(done.scores["predictor"]) == {"model", "majority", "diameter"}
    assert {f"loss_{name}" for name in li2021.ATTRIBUTES} < set(done.folds[0]["history"][0])
    # location 0 is ignored by the head of location alone
    tested, model = done.predictions, done.scores[done.scores["predictor"] == "model"]
    n = model[model["metric"] == "accuracy"].set_index("target")["n"]
    assert n["lesion_location"] == (tested["lesion_location_truth"] > 0).sum() < len(tested)
    assert n["lesion_type"] == len(tested)
    studies.keep(plan, done, tmp_path / "kept", dataset=dataset)
    table = kept(tmp_path / "kept", data="phantom-li2021")["basic_2d"].table("classes")
    assert set(table.index) == {*li2021.ATTRIBUTES, "low", "middle", "high", "all"}


@pytest.mark.slow
def test_six_heads_train_on_lidc_with_their_thresholds(tmp_path, monkeypatch):
    plan = Plan(paper="li2021", variant="self_2d", data="phantom", preset="smoke", epochs=1)
    monkeypatch.chdir(tmp_path)
    done = studies.run(plan, **OPTIONS)
    assert list(dict.fromkeys(done.scores["target"])) == list(li2021.lidc.ATTRIBUTES)
    assert done.about["settings"]["thresholds"]["mass_mm"] == 30
    fold = next(studies.trained(plan))
    assert fold.predict(device="cpu").shape[1] == 18
    studies.keep(plan, done, tmp_path / "kept")
    rule = kept(tmp_path / "kept", data="phantom")["self_2d"].table("thresholds")["value"]
    assert rule.to_dict() == dataclasses.asdict(li2021.Thresholds())


def test_the_loss_is_weighted_by_the_training_part_alone(toy):
    seen: list[Any] = []

    class Told(toy.Toy):  # type: ignore[misc, name-defined]
        def balanced(self, labels: torch.Tensor) -> Any:
            seen.append(labels)
            return self

    toy.train(experiment=Told(), recipe=dataclasses.replace(toy.RECIPE, epochs=1))
    assert len(seen) == 1
    assert torch.equal(seen[0], toy.lesions()[1])


# memory


def test_nine_thousand_large_slices_are_never_in_memory_at_once():
    """Liu 2020 has 9,520 slices of 256²; 2.5 GB in single precision."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak is read from /proc")
    # VmHWM, as ru_maxrss of a new process begins at what its parent has
    code = """if True:
        import re
        from pathlib import Path
        import torch
        from lesionlab.crops.sampling import Samples
        from lesionlab.training.paper import Stream
        ids = tuple(f"s{i}" for i in range(9520))
        def prepare(some):
            n = len(some)
            return Samples(torch.full((n, 1, 256, 256), 0.5), torch.arange(n), tuple(some),
                           torch.zeros(n), torch.zeros(n, dtype=torch.int64),
                           torch.ones(n, dtype=torch.bool))
        stream = Stream(ids, prepare, "slices")
        seen = sum(len(batch.lesion_ids) for batch in stream.split(64))
        print(seen, *re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen, peak = map(int, done.stdout.split())
    assert seen == 9520
    assert 0.1 < peak / 2**20 < 2  # GB; VmHWM is in KB
