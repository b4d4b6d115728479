"""The loop: the same seed trains the same, a batch is the sum of its lesions, errors are plain."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from lesionlab.crops.sampling import Samples
from lesionlab.training import checkpoints, devices
from lesionlab.training.devices import quickest
from lesionlab.training.loop import Fitted, TrainingError, fit, predict
from lesionlab.training.paper import Stream
from lesionlab.training.recipes import Schedule
from lesionlab.training.targets import Target, overlap

State = dict[str, torch.Tensor]
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def trained(toys: ModuleType, **changes: Any) -> Fitted:
    return toys.train(**{"part": toys.lesions(23)} | changes)  # type: ignore[no-any-return]


# what is the same


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(toys: ModuleType) -> None:
    one = trained(toys, seed=3)
    torch.manual_seed(99)  # what was drawn before does not matter
    assert same(one.state, trained(toys, seed=3).state)
    assert not same(one.state, trained(toys, seed=4).state)


def test_a_run_leaves_torchs_global_state_and_the_data_alone(toys: ModuleType) -> None:
    (training, targets), (again, _) = toys.lesions(), toys.lesions()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    fit(toys.Toy(), (training, targets), recipe=toys.LAST, **QUIET)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == before
    assert torch.equal(training.images, again.images)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_going_on_is_never_having_stopped(toys: ModuleType, tmp_path: Path, optimizer: str) -> None:
    recipe = dataclasses.replace(
        toys.RECIPE, optimizer=optimizer, schedule=Schedule("step", 1, 0.5)
    )

    class Later(toys.Exploding):  # type: ignore[misc, name-defined]
        at = 12

    whole = trained(toys, recipe=recipe)
    toys.calls.clear()
    # the 13th batch is in the third of five-step epochs
    with pytest.raises(TrainingError, match=r"loss is nan at epoch 3, step 3; what was saved"):
        trained(toys, experiment=Later(), recipe=recipe, folder=tmp_path)
    resumed = trained(toys, experiment=Later(), recipe=recipe, folder=tmp_path)
    assert same(resumed.state, whole.state)
    assert resumed.best_epoch == whole.best_epoch
    timed = ["seconds", "lesions_per_second"]
    assert resumed.history.drop(columns=timed).equals(whole.history.drop(columns=timed))
    assert len(toys.calls) == 13 + 10  # the third epoch from its beginning


def test_a_finished_run_is_not_trained_again(toys: ModuleType, tmp_path: Path) -> None:
    one = trained(toys, folder=tmp_path)
    toys.calls[:] = range(100)
    two = trained(toys, folder=tmp_path, experiment=toys.Exploding())
    assert same(one.state, two.state)
    assert one.history.equals(two.history)
    assert len(toys.calls) == 100
    assert same(checkpoints.load_weights(tmp_path), one.state)
    three = trained(toys, folder=tmp_path, experiment=toys.Exploding(), resume=False)
    assert len(toys.calls) == 120
    assert same(one.state, three.state)


# a batch is the sum of its lesions


def test_a_packed_batch_has_the_gradient_of_its_lesions_one_at_a_time(toys: ModuleType) -> None:
    experiment, (samples, targets) = toys.Toy(dropout=0.0), toys.lesions(11)
    model = experiment.model(0)
    together, _ = experiment.loss(experiment.forward(model, samples), targets)
    expected = torch.autograd.grad(together, list(model.parameters()))
    found = [torch.zeros_like(g) for g in expected]
    for i, lesion in enumerate(samples.split(1)):
        alone, _ = experiment.loss(experiment.forward(model, lesion), targets[i : i + 1])
        for total, part in zip(
            found, torch.autograd.grad(alone, list(model.parameters())), strict=True
        ):
            total += part / 11
    torch.testing.assert_close(found, list(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_micro_batches_change_nothing(toys: ModuleType, micro: int) -> None:
    # SGD: Adam makes whole steps of gradients that are all but zero
    recipe = dataclasses.replace(toys.LAST, optimizer="sgd", lr=1e-3)
    small = dataclasses.replace(recipe, micro_batch=micro)
    options = {"experiment": toys.Toy(dropout=0.0)}
    one, two = (trained(toys, recipe=r, **options) for r in (recipe, small))
    torch.testing.assert_close(two.state, one.state, atol=1e-5, rtol=1e-5)
    # kept as Python's floats, but sums in single precision
    losses = [list(r.history["loss"]) for r in (two, one)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert not same(one.state, toys.Toy().model(0).state_dict())


# what is kept


def test_the_history_says_what_happened(
    toys: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(toys.RECIPE, epochs=3, schedule=Schedule("step", 2, 0.1))
    (samples, ratings), (others, theirs) = toys.lesions(23), toys.lesions(9, seed=1, start=500)
    found = trained(
        toys,
        recipe=recipe,
        progress=True,
        experiment=toys.Toy(targets=(Target("one"), Target("two"))),
        part=(samples, torch.cat([ratings, 6 - ratings], dim=1)),
        validation=(others, torch.cat([theirs, 6 - theirs], dim=1)),
    )
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("epoch 3/3", "loss=", "validation_mae="))
    parts = ["loss", "loss_one", "loss_two", "lr", "seconds", "lesions_per_second"]
    assert list(found.history.columns) == [*parts, "validation_mae"]
    assert found.history.index.tolist() == [1, 2, 3]
    assert found.history["lr"].tolist() == pytest.approx([0.01, 0.01, 0.001])
    whole = found.history["loss_one"] + found.history["loss_two"]
    assert found.history["loss"].tolist() == pytest.approx(whole.tolist())
    assert found.seconds == found.history["seconds"].sum() > 0
    assert found.history["loss"].iloc[-1] < found.history["loss"].iloc[0]
    assert found.best == found.history["validation_mae"].min()


def test_parts_of_the_model_learn_at_their_own_rates(toys: ModuleType) -> None:
    recipe = dataclasses.replace(toys.LAST, lr_by_prefix={"backbone": 1e-12})
    both = [trained(toys, recipe=dataclasses.replace(recipe, epochs=n)) for n in (1, 3)]
    assert both[1].history["lr"].tolist() == pytest.approx([recipe.lr] * 3)  # not a part's own
    one, two = (found.state for found in both)
    torch.testing.assert_close(one["backbone.weight"], two["backbone.weight"])
    assert not torch.allclose(one["head.weight"], two["head.weight"])


def test_the_best_epoch_is_kept_and_none_is_waited_for_too_long(toys: ModuleType) -> None:
    last = trained(toys, recipe=dataclasses.replace(toys.LAST, epochs=2))
    for name, sign in (("mae", 1), ("accuracy", -1)):  # of which the higher one is better
        toys.Told.value = iter([sign * value for value in (3.0, 1.0, 2.0, 1.0, 5.0, 0.0)])
        recipe = dataclasses.replace(toys.RECIPE, epochs=20, patience=3, select_by=name)
        found = trained(toys, experiment=toys.Told(), recipe=recipe)
        assert [sign * v for v in found.history[f"validation_{name}"]] == [3, 1, 2, 1, 5]
        assert (found.best_epoch, found.best) == (2, sign)
        assert same(found.state, last.state)


def test_the_history_has_the_rates_of_a_plateau_and_a_metric_must_be_known(
    toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.Told.value = iter([1.0, 2.0, 3.0])
    recipe = dataclasses.replace(toys.RECIPE, epochs=3, schedule=Schedule("plateau", 1, 0.5))
    found = trained(toys, experiment=toys.Told(), recipe=recipe)
    assert found.history["lr"].tolist() == pytest.approx([0.01, 0.01, 0.005])
    monkeypatch.setattr(toys.Told, "metric", "rmse")
    with pytest.raises(ValueError, match="metric='rmse': expected one of loss, mae"):
        trained(toys, experiment=toys.Told())


def test_the_validation_loss_can_select(toys: ModuleType) -> None:
    experiment = toys.Toy(dropout=0.0)
    recipe = dataclasses.replace(toys.RECIPE, select_by="loss")
    found = trained(toys, experiment=experiment, recipe=recipe)
    losses = found.history["validation_loss"]
    assert found.best == losses.min() == losses[found.best_epoch]
    samples, labels = toys.lesions(9, seed=1, start=500)
    gap = predict(experiment, found.state, samples, batch_size=4, device="cpu") - labels
    by_hand = float(gap.square().mean())
    assert found.best == pytest.approx(by_hand, rel=1e-5)
    found = trained(toys, experiment=experiment)  # by the metric of the experiment
    gap = predict(experiment, found.state, samples, batch_size=4, device="cpu") - labels
    assert found.best == pytest.approx(float(gap.abs().mean()), rel=1e-5)


def test_stages_go_on_from_each_other_and_frozen_parts_stay(
    toys: ModuleType, tmp_path: Path
) -> None:
    first = dataclasses.replace(toys.LAST, stage="one")
    second = dataclasses.replace(toys.LAST, stage="two", frozen=("backbone",), lr=0.1)
    options: dict[str, Any] = {"experiment": toys.Toy(dropout=0.0)}
    alone = trained(toys, recipe=first, **options)
    both = trained(toys, recipe=[first, second], folder=tmp_path, **options)
    assert torch.equal(both.state["backbone.weight"], alone.state["backbone.weight"])
    assert not torch.allclose(both.state["head.weight"], alone.state["head.weight"])
    assert both.history["stage"].tolist() == ["one"] * 4 + ["two"] * 4
    again = trained(toys, recipe=[first, second], folder=tmp_path, **options)
    assert same(again.state, both.state)
    assert same(checkpoints.load_weights(tmp_path), both.state)


def test_a_stage_may_learn_some_of_the_targets_with_some_of_the_parts(
    toys: ModuleType, tmp_path: Path
) -> None:
    """Then it is the same as a run of that model alone, and can be taken over from it."""
    mask = Target("mask", "segmentation")

    class Masks(toys.Toy):  # type: ignore[misc, name-defined]
        def model(self, seed: int) -> Any:
            net = toys.Net(1, 0.0)
            return nn.ModuleDict({"backbone": net.backbone, "mask": net.mask})

        def forward(self, model: Any, samples: Samples) -> Any:
            maps = model["backbone"](samples.images).relu()
            return None, model["mask"](maps), samples.masks

        def predict(self, outputs: Any) -> torch.Tensor:
            return overlap(*outputs[1:])

        def stage(self, name: str) -> Any:
            return self

    alone = Masks(targets=(mask,), part="masks", dropout=0.0)

    class Both(toys.Toy):  # type: ignore[misc, name-defined]
        def stage(self, name: str) -> Any:
            return alone if name == "masks" else self

    samples, labels = toys.lesions()
    both = torch.cat([labels, torch.ones(len(labels), 1)], dim=1)
    first = dataclasses.replace(toys.LAST, stage="masks")
    second = dataclasses.replace(toys.LAST, frozen=("backbone", "mask"))
    trained_first = fit(alone, (samples, both[:, 1:]), recipe=first, folder=tmp_path, **QUIET)
    (tmp_path / "both" / "stage-1").mkdir(parents=True)
    (tmp_path / checkpoints.NAME).rename(tmp_path / "both" / "stage-1" / checkpoints.NAME)
    experiment = Both(targets=(*toys.RATING, mask), dropout=0.0)
    part, recipe = (samples, both), [first, second]
    found = fit(experiment, part, recipe=recipe, folder=tmp_path / "both", **QUIET)
    seconds = trained_first.history["seconds"].tolist()
    assert found.history["seconds"].tolist()[:4] == seconds, "it was not trained again"
    for name, value in trained_first.state.items():
        assert torch.equal(found.state[name], value)
    assert "head.weight" in found.state.keys() - trained_first.state.keys()


def test_lesions_that_do_not_fit_into_memory_are_prepared_batch_by_batch(toys: ModuleType) -> None:
    samples, labels = toys.lesions(23)
    most = []

    def prepare(ids: Any) -> Samples:
        most.append(len(ids))
        return samples.select([samples.lesion_ids.index(i) for i in ids])

    stream = Stream(samples.lesion_ids, prepare, "toys")
    found = fit(toys.Toy(), (stream, labels), recipe=toys.LAST, **QUIET)
    whole = fit(toys.Toy(), (samples, labels), recipe=toys.LAST, **QUIET)
    torch.testing.assert_close(found.state, whole.state)
    assert max(most) == 5  # a batch


def test_the_last_epoch_is_kept_where_none_is_selected(toys: ModuleType) -> None:
    found = trained(toys, recipe=toys.LAST, validation=None)
    assert (found.best_epoch, found.best) == (4, None)
    # a validation part is measured and decides nothing
    measured = trained(toys, recipe=toys.LAST)
    assert same(found.state, measured.state)
    assert measured.best == measured.history["validation_mae"].iloc[-1]


def test_it_learns(toys: ModuleType) -> None:
    recipe = dataclasses.replace(toys.RECIPE, epochs=40, lr=0.02)
    found = trained(toys, recipe=recipe, experiment=toys.Toy(dropout=0.0))
    assert found.best < 0.4  # of a spread of 1.2


def test_bf16_trains_other_weights_that_are_near(toys: ModuleType) -> None:
    one, two = trained(toys), trained(toys, precision="bf16-mixed")
    assert not same(one.state, two.state)
    assert {v.dtype for v in two.state.values()} == {torch.float32}
    torch.testing.assert_close(one.state, two.state, atol=0.05, rtol=0.1)


@pytest.mark.parametrize("asked", ["1", None])
def test_one_thread_if_asked_for_and_where_there_is_one_core(asked: str | None) -> None:
    if asked is None and not hasattr(os, "sched_setaffinity"):
        pytest.skip("cores cannot be taken away here")
    code = (
        f"import os; {asked} or os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from lesionlab.training import devices\n"
        "print(devices.quickest('cpu')); print(devices.describe(devices.resolve('cpu')))"
    )
    given = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    given |= {"OMP_NUM_THREADS": asked} if asked else {}
    found = subprocess.check_output([sys.executable, "-c", code], env=given, text=True)
    precision, where = found.splitlines()
    assert precision in ("32-true", "bf16-mixed")
    assert where == "CPU, 1 threads"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("bfloat16", "second", "asked", "expected"),
    [
        (0.5, 0.6, "", ("bf16-mixed", 2)),
        (0.9, 0.6, "", ("32-true", 2)),
        (20.0, 0.6, "", ("32-true", 2)),
        (0.5, 1.4, "", ("bf16-mixed", 1)),  # another process has the second core
        (0.5, 1.4, "2", ("bf16-mixed", 2)),
    ],
)
def test_the_quickest_is_tried_once(
    monkeypatch: pytest.MonkeyPatch,
    bfloat16: float,
    second: float,
    asked: str,
    expected: tuple[str, int],
) -> None:
    tried = []

    def seconds(layer: Any, images: Any, precision: str) -> float:
        tried.append(precision)
        return (bfloat16 if precision == "bf16-mixed" else 1.0) * second ** (
            torch.get_num_threads() - 1
        )

    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "_seconds", seconds)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    else:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    devices._tried.cache_clear()
    torch.set_num_threads(2)
    try:
        assert (quickest("cpu"), torch.get_num_threads()) == expected
        n = len(tried)
        assert quickest("auto") == expected[0]
        assert len(tried) == n
        if bfloat16 > 3:  # what takes so long is not tried again
            assert tried.count("bf16-mixed") <= 2
    finally:
        devices._tried.cache_clear()
        torch.set_num_threads(before)


# what is refused


def spoiled(part: Any, **changes: Any) -> Any:
    samples, targets = part
    return dataclasses.replace(samples, **changes), targets


def test_bad_input_is_refused_in_plain_words(toys: ModuleType) -> None:
    part = toys.lesions(6)
    nothing = (part[0].select([]), part[1][:0])
    holes = part[0].images.clone()
    holes[-1, 0, 2, 3] = torch.nan
    gaps = part[1].clone()
    gaps[2] = torch.nan
    other = toys.lesions(4, start=500)
    cases = [
        (nothing, other, "training: expected at least one lesion, got none"),
        (part, nothing, "validation: expected at least one lesion, got none"),
        (spoiled(part, images=holes), other, "images of lesion 'l005' have values that are not"),
        ((part[0], gaps), other, "training: lesion 'l002' has no label at all"),
        ((part[0], part[1] / 0), other, "training: malignancy of lesion 'l000' is inf"),
        ((part[0], part[1][:5]), other, r"labels of shape \(5, 1\), expected \(6, 1\)"),
        (part, part, "validation: lesion 'l000' is in the training part, too"),
        (part, None, r"select_on='validation'.*needs a metric after each epoch"),
        (spoiled(part, lesion_ids=(*part[0].lesion_ids, "none")), other, "'none' has no slice"),
    ]
    for training, validation, words in cases:
        with pytest.raises(ValueError, match=words):
            fit(toys.Toy(), training, validation=validation, recipe=toys.RECIPE, **QUIET)


@pytest.mark.parametrize("changes", [{"device": "tpu"}, {"device": "cpu:1"}, {"precision": "16"}])
def test_arguments_out_of_range_are_refused(toys: ModuleType, changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}='{value}'"):
        trained(toys, **changes)


def test_what_is_not_finite_stops_and_is_never_saved(toys: ModuleType, tmp_path: Path) -> None:
    class BadWeights(toys.Toy):  # type: ignore[misc, name-defined]
        """A loss of 0 with a gradient of NaN, which the square root has at 0."""

        def loss(self, outputs: Any, labels: torch.Tensor) -> Any:
            return (outputs[0] * 0).sqrt().mean(), {}

    toys.Told.value = float("nan")
    one = dataclasses.replace(toys.RECIPE, batch_size=30)
    for experiment, words in (
        (BadWeights(), "is not finite"),
        (toys.Told(), "validation_mae is nan"),
    ):
        with pytest.raises(TrainingError, match=f"{words} at epoch 1, step 1"):
            trained(toys, experiment=experiment, recipe=one, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_predictions_of_another_shape_are_refused(toys: ModuleType) -> None:
    class Wrong(toys.Toy):  # type: ignore[misc, name-defined]
        def predict(self, outputs: Any) -> torch.Tensor:
            return outputs[0].squeeze(1)

    with pytest.raises(ValueError, match=r"gave shape \(9,\), expected \(9, 1\): lesions, malig"):
        trained(toys, experiment=Wrong())
    with pytest.raises(ValueError, match="expected at least one lesion, got none"):
        predict(toys.Toy(), {}, toys.lesions(2)[0].select([]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_a_gpu_trains_alike_every_time_and_nearly_as_the_cpu(
    toys: ModuleType, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(toys.RECIPE, optimizer="sgd", lr=1e-3)
    options: dict[str, Any] = {"recipe": recipe, "experiment": toys.Toy(dropout=0.0)}
    one, two = (trained(toys, device="cuda", **options) for _ in range(2))
    assert same(one.state, two.state)
    assert {values.device.type for values in one.state.values()} == {"cpu"}
    torch.testing.assert_close(one.state, trained(toys, **options).state, atol=1e-4, rtol=1e-3)
    # dropout draws on the GPU; a run that is resumed draws the same
    whole = trained(toys, device="cuda")
    toys.calls.clear()
    with pytest.raises(TrainingError):
        trained(toys, device="cuda", experiment=toys.Exploding(), folder=tmp_path)
    assert same(trained(toys, device="cuda", folder=tmp_path).state, whole.state)
