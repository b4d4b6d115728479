"""Wang 2021: its networks, losses, masks and stages."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from lesionlab import papers
from lesionlab.attention import activation_map
from lesionlab.cli import app
from lesionlab.papers import wang2021
from lesionlab.papers.wang2021 import Wang2021, dice_loss
from lesionlab.papers.wang2021.model import DILATIONS
from lesionlab.sources import lidc
from lesionlab.sources.phantom import wang2021 as phantoms
from lesionlab.training.loop import fit
from lesionlab.training.outcomes import kept
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import Plan
from lesionlab.training.targets import columns

QUIET = {"device": "cpu", "progress": False}
QUICK = Recipe(epochs=1, batch_size=4, lr=1e-3, select_on="last")


def make(variant, seed=0):
    torch.manual_seed(seed)
    experiment = Wang2021(variant)
    return experiment, experiment.model(seed).eval()


@pytest.fixture(scope="module")
def samples(some_crops):
    return wang2021.prepare(some_crops)


@pytest.fixture(scope="module")
def lidc_nodules():
    return lidc.nodules()


def looked(variant, samples, seed=0):
    experiment, model = make(variant, seed)
    with torch.no_grad():
        return experiment, model, experiment.forward(model, samples)


# networks


def convolutions(inputs, *outputs):
    """Parameters of blocks: weights and biases, and two numbers a channel of normalisation."""
    ends = zip((inputs, *outputs), outputs, strict=False)
    return sum(27 * a * b + b + 2 * b for a, b in ends)


def test_parameters_by_hand():
    encoder = convolutions(1, 16, 16, 32, 32, 64, 64, 256, 256)
    up = convolutions(256 + 64, 64, 64) + convolutions(64 + 32, 32, 32)
    up += convolutions(32 + 16, 16, 16) + 2 * 16 + 2
    linear = 256 * 4**3 * 256 + 256 + 256 * 256 + 256

    def last(k):
        return 256 * k + k

    expected = {
        "segmentation": encoder + up,
        "raw_1": encoder + linear + last(3),
        "masked_types": encoder + linear + last(4),
        "cascade_2": 2 * encoder + up + linear + last(2),
        "joint_2": 2 * encoder + up + linear + last(2),
        "branches_3": encoder + up + linear + last(2),
    }
    found = {v: sum(p.numel() for p in make(v)[1].parameters()) for v in expected}
    assert found == expected
    assert found["joint_2"] == 9_920_868
    assert sum(p.numel() for p in make("segmentation_narrow")[1].parameters()) == 808_650


def test_the_segmentation_has_fifteen_blocks_with_the_printed_dilations():
    _, model = make("segmentation")
    layers = [m for m in model.unet.modules() if isinstance(m, torch.nn.Conv3d)]
    assert [layer.dilation[0] for layer in layers] == [1, 1, 2, 2, 2, 2, 4, 4, 2, 2, 2, 2, 1, 1, 1]
    assert [layer.kernel_size[0] for layer in layers] == [3] * 14 + [1]
    assert len(DILATIONS) == 14
    for layer in layers[:-1]:  # He 2015: the variance is 2 over what reaches a unit
        fan = layer.in_channels * 27
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.12)
        assert not layer.bias.any()
    # a voxel whose features say nothing is of the nodule with a probability of one in a hundred
    assert layers[-1].bias.softmax(0).tolist() == pytest.approx([0.99, 0.01])


@pytest.mark.parametrize(
    "variant", ["raw_1", "masked_1", "cascade_1", "joint_1", "branches_1", "segmentation"]
)
def test_shapes_and_predictions(samples, variant):
    experiment, model, said = looked(variant + "_narrow", samples.select([0, 1]))
    predicted = experiment.predict(said)
    assert predicted.shape == (2, len(columns(experiment.targets)))
    if experiment.design.task:
        assert said.logits["1"].shape == (2, 3)
        assert predicted[:, :3].sum(1).tolist() == pytest.approx([1, 1])
        assert model.trunk(*experiment.inputs(samples.select([0]))).features.shape == (
            *(1, 128),
            *(4, 4, 4),
        )
    if experiment.design.segments:
        assert said.segmentation.shape == (2, 1, 32, 32, 32)
        assert predicted[:, -1].tolist() == (samples.masks[:2] > 0.5).flatten(1).sum(1).tolist()


def test_images_of_another_size_and_a_missing_mask_are_refused():
    _, model = make("masked_2_narrow")
    with pytest.raises(ValueError, match=r"expected \(nodule, 1 or 2, 32, 32, 32\), got"):
        model(torch.zeros(1, 1, 32, 32, 16))
    with pytest.raises(ValueError, match="given masks in a second channel, got none"):
        model(torch.zeros(1, 1, 32, 32, 32))


def test_grad_cam_is_that_of_the_features_before_the_linear_layers(samples):
    experiment, model = make("joint_2_narrow")
    (images,) = experiment.inputs(samples.select([0]))
    found = activation_map(model, images, "grad-cam", head=0, target=1, upsample=False, relu=False)
    trunk = model.trunk(images)
    g = trunk.features.detach().requires_grad_()
    score = model.head(replace(trunk, features=g)).logits["2"][0, 1]
    (slope,) = torch.autograd.grad(score, g)
    expected = (slope.mean((2, 3, 4), keepdim=True) * g).sum(1)
    torch.testing.assert_close(found.maps, expected.detach(), rtol=1e-3, atol=1e-5)


# masks


def test_what_the_classifier_is_given(samples):
    some = samples.select([6])  # of one slice
    image, mask = some.images, some.masks.nan_to_num(0.0)
    missing = ~some.masks.isfinite()
    assert 0 < missing.float().mean() < 1
    assert torch.equal(looked("raw_2_narrow", some)[2].given, image)
    assert torch.equal(looked("masked_2_narrow", some)[2].given, image * mask)
    air = looked("masked_2_air_narrow", some)[2].given
    torch.testing.assert_close(air, image.where(mask == 1, -1.0))
    said = looked("joint_2_narrow", some)[2]
    inside = said.segmentation.sigmoid().where(~missing, 0.0)
    torch.testing.assert_close(said.given, image * inside)
    hard = looked("joint_2_hard_narrow", some)[2]
    torch.testing.assert_close(hard.given, image * (hard.segmentation > 0) * ~missing)


def test_missing_voxels_are_air_and_not_known(make_crop):
    crop = make_crop(shape=(7, 40, 40), spacing=(2.0, 0.7, 0.7), radii=(4, 6, 7))
    found = wang2021.prepare([crop])
    missing = ~found.masks.isfinite()
    assert float(missing.float().mean()) == pytest.approx(float(found.padded), abs=1e-6)
    assert missing[0, 0, 0].all()
    assert not missing[0, 0, 16].any()
    assert (found.images[missing] == -1).all()
    moved = Wang2021("joint_2").augment(found, torch.Generator().manual_seed(1))
    assert (moved.images[~moved.masks.isfinite()] == -1).all()


# losses


def test_dice_loss_by_hand():
    p = torch.tensor([0.8, 0.5, 0.1, 0.9])
    logits = p.logit().reshape(1, 1, 1, 1, 4).repeat(2, 1, 1, 1, 1)
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 0, torch.nan]]).reshape(2, 1, 1, 1, 4)
    first = (2 * 1.3 + 1) / (2 + 0.64 + 0.25 + 0.01 + 0.81 + 1)
    second = (2 * 0.8 + 1) / (1 + 0.64 + 0.25 + 0.01 + 1)  # the fourth voxel is not known
    expected = [1 - first, 1 - second]
    assert dice_loss(logits, masks).tolist() == pytest.approx(expected, abs=1e-6)


def test_joint_loss_by_hand(samples):
    labels = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    for variant, weight in (("joint_2_narrow", 1.0), ("joint_2_lambda0.5_narrow", 0.5)):
        experiment, _, said = looked(variant, samples.select([0, 1]))
        total, parts = experiment.loss(said, labels)
        entropy = -said.logits["2"].log_softmax(1)[0, 0] / 2  # the second has no class
        seg = dice_loss(said.segmentation, said.masks).mean()
        assert float(parts["cla"]) == pytest.approx(float(entropy), rel=1e-5)
        assert float(total) == pytest.approx(float(entropy + weight * seg), rel=1e-5)
    experiment, _, said = looked("cascade_2_narrow", samples.select([0, 1]))
    total, parts = experiment.loss(said, labels)
    assert list(parts) == ["cla"]
    assert float(total) == float(parts["cla"])


def test_missing_voxels_have_no_gradient(samples):
    experiment, model = make("joint_2_narrow")
    some = samples.select([5, 6])
    said = experiment.forward(model, some)
    total, _ = experiment.loss(said, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    (slope,) = torch.autograd.grad(total, said.segmentation)
    missing = ~some.masks.isfinite()
    assert missing.any()
    assert not slope[missing].any()
    assert slope[~missing].any()


def test_no_gradient_of_the_class_reaches_the_segmentation_through_hard_masks(samples):
    labels = torch.tensor([[1.0, 1.0]])
    slopes = {}
    for variant in ("joint_2_narrow", "joint_2_hard_narrow"):
        experiment, model = make(variant)
        _, parts = experiment.loss(experiment.forward(model, samples.select([0])), labels)
        weight = model.unet.last.weight
        (slopes[variant],) = torch.autograd.grad(parts["cla"], weight, allow_unused=True)
    assert slopes["joint_2_narrow"].any()
    assert slopes["joint_2_hard_narrow"] is None


# tasks


def test_classes_of_the_tasks_by_hand():
    table = pd.DataFrame({"pathology": ["AAH", "AIS", "MIA", "IAC"]})
    found = {task: wang2021.codes(table, task).tolist() for task in wang2021.TASKS}
    assert found.pop("4")[1:3] == [0, 1]
    expected = {"1": [0, 0, 1, 2], "2": [0, 0, 1, 1], "3": [0, 0, 0, 1], "types": [0, 1, 2, 3]}
    assert found == expected
    assert np.isnan(wang2021.codes(table, "4")[[0, 3]]).all()
    table = pd.DataFrame(
        {"texture": [1, 2, 2.25, 3.9, 4, 5, np.nan], "malignancy": [1, 2, 3, 3.5, 5, 4, 2]}
    )
    assert wang2021.codes(table, "type").fillna(-1).tolist() == [0, 0, 1, 1, 2, 2, -1]
    assert wang2021.codes(table, "malignancy").fillna(-1).tolist() == [0, 0, -1, 1, 1, 1, 0]


def test_cohorts():
    table = phantoms.nodules(seed=0)
    whole = wang2021.cohort(table, "joint_1")
    assert whole.comparison()["difference"].to_dict() == {"nodules": 0}
    assert wang2021.cohort(table, "segmentation").table["label"].equals(whole.table["label"])
    assert len(wang2021.cohort(table, "raw_4").table) == 193 + 335
    with pytest.raises(ValueError, match="have no classes of 'type'; expected a task of 1, 2, 3"):
        wang2021.cohort(table, "raw_type")


def test_lidc_has_other_tasks(lidc_nodules):
    found = wang2021.cohort(lidc_nodules, "joint_type")
    same = wang2021.cohort(lidc_nodules, "joint_malignancy").table
    assert same.equals(found.table), "one segmentation serves both tasks"
    assert "of at most 2 is pure ground glass, of 4 or more solid" in found.note
    assert (found.table["subsolid"] == (found.table["texture"] < 4)).all()
    with pytest.raises(ValueError, match="have no classes of '2'; expected a task of type, malig"):
        wang2021.cohort(lidc_nodules, "joint_2")


# stages


def stages(variant, preset="paper"):
    return Plan(paper="wang2021", variant=variant, preset=preset).stages


def test_every_model_goes_through_its_own_stages():
    first, second, third = stages("joint_2")
    assert [s.stage for s in (first, second, third)] == [
        "segmentation", "classification", "joint",
    ]  # fmt: skip
    assert (first.epochs, second.epochs, third.epochs) == (150, 120, 120)
    assert (first.lr, second.lr, third.lr) == (1e-4, 1e-4, 1e-5)
    assert first.schedule == second.schedule == Schedule("plateau", 10, 0.8)
    assert third.schedule == Schedule("step", 30, 0.5)
    assert {s.patience for s in (first, second, third)} == {50}
    assert {(s.batch_size, s.weight_decay) for s in (first, second, third)} == {(24, 1e-4)}
    assert (first.frozen, second.frozen, third.frozen) == ((), ("unet",), ())
    assert stages("cascade_2") == (first, second)
    assert stages("segmentation") == (first,)
    alone = (replace(second, frozen=(), stage=""),)
    assert stages("raw_2") == stages("masked_2") == stages("branches_2") == alone
    assert {s.select_on for s in stages("joint_2", "paper_literal")} == {"test"}
    assert papers.get("wang2021").presets["paper"].holdout == (0.56, 0.14, 0.30)


def test_a_frozen_segmentation_stays_as_it_is_and_stages_are_taken_over(samples, tmp_path):
    """Weights and statistics are the same bit for bit, and other models begin with them."""
    labels = torch.tensor([[0.0], [1.0]] * 2)
    part, masks = samples.select([0, 1, 2, 3]), torch.ones(4, 1)
    first, second, third = Wang2021("joint_2_narrow").stages([
        replace(QUICK, stage=stage) for stage in ("segmentation", "classification", "joint")
    ])  # fmt: skip
    alone = fit(Wang2021("segmentation_narrow"), (part, masks), recipe=first,
                folder=tmp_path / "segmentation", **QUIET)  # fmt: skip
    (tmp_path / "joint" / "stage-1").mkdir(parents=True)
    shutil.copy(tmp_path / "segmentation" / "checkpoint.safetensors", tmp_path / "joint/stage-1")
    both = torch.cat([labels, masks], dim=1)
    before = fit(Wang2021("cascade_2_narrow"), (part, both), recipe=[first, second],
                 folder=tmp_path / "joint", **QUIET)  # fmt: skip
    unet = {k: v for k, v in before.state.items() if k.startswith("unet.")}
    assert any("running_mean" in name for name in unet)
    assert unet.keys() == alone.state.keys()
    assert all(torch.equal(value, alone.state[name]) for name, value in unet.items())
    # the segmentation was read, not trained again: its time is that of the run before
    seconds = before.history.loc[before.history["stage"] == "segmentation", "seconds"]
    assert seconds.tolist() == alone.history["seconds"].tolist()
    after = fit(Wang2021("joint_2_narrow"), (part, both), recipe=[first, second, third],
                folder=tmp_path / "joint", **QUIET)  # fmt: skip
    assert after.history["seconds"].tolist()[:2] == before.history["seconds"].tolist()
    assert not torch.equal(after.state["unet.last.weight"], unet["unet.last.weight"])


@pytest.mark.slow
def test_the_command_trains_all_three_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["train", "wang2021", "--variant", "joint_2_narrow", "--preset", "smoke"]
    done = CliRunner().invoke(app, [*asked, "--device", "cpu", "--keep", "kept"])
    assert done.exit_code == 0, done.output
    found = kept(tmp_path / "kept", data="phantom-wang2021")["joint_2_narrow"]
    history = pd.DataFrame(found.folds[0]["history"])
    assert history["stage"].tolist() == ["segmentation", "classification", "joint"]
    assert history["validation_dice"].notna().tolist() == [True, False, False]
    assert set(found.scores["target"]) == {"pathology", "mask"}
    cases, n = found.table("cases"), found.folds[0]["test"]["lesions"]
    assert len(cases) == n
    assert found.table("confusion").to_numpy().sum() == n


@pytest.mark.slow
def test_it_learns_the_masks_of_a_few_nodules():
    table = phantoms.nodules(seed=0)
    part = wang2021.prepare(phantoms.phantom(name) for name in table.index[:3])
    recipe = Recipe(epochs=30, batch_size=3, lr=3e-3, stage="segmentation")
    still = replace(part, lesion_ids=tuple(f"again {i}" for i in part.lesion_ids))
    ones = torch.ones(3, 1)

    class Still(Wang2021):
        def augment(self, samples, generator):
            return samples

        def stage(self, name):
            return self

    found = fit(Still("segmentation_narrow"), (part, ones), validation=(still, ones),
                recipe=recipe, **QUIET)  # fmt: skip
    assert found.history["validation_dice"].iloc[0] < 0.3
    assert found.best > 0.7
