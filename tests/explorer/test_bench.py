"""What the workbench computes, without its controls."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab.attention import activation_map
from lesionlab.crops.resampling import AIR
from lesionlab.explorer._models import columns
from lesionlab.explorer.bench import (
    Bench,
    Request,
    errors,
    lesion_table,
    masked,
    matching,
    reordered,
)  # fmt: skip
from lesionlab.papers.fu2021 import prepare
from lesionlab.papers.lei2020 import maps, outlines
from lesionlab.sources import lidc
from lesionlab.training.targets import Target

BOTH = pytest.mark.parametrize("model", ["Lei", "Fu"])


@pytest.fixture(scope="module")
def bench(toys):
    # the order of creation is the order in which a fold is asked about a lesion
    parts = [toys.lei(ids=(name,), seed=seed) for seed, name in enumerate(toys.TESTED)]
    return Bench({"Lei": toys.lei(), "Fu": toys.fu(), "parts": parts}, toys.crops())


@pytest.fixture(scope="module")
def crop(toys: Any) -> Any:
    return toys.crops()[toys.IDS[0]]


@pytest.fixture(scope="module")
def of_fu(bench: Bench, toys: Any) -> Any:
    return bench.compute(Request(toys.IDS[0], "Fu", reverse=True))


def change(**fields: Any) -> Request:
    return Request("a", "b", **fields)


def said(look: Any) -> list[float]:
    return list(look.predicted.values())


# -- what is changed -------------------------------------------------------------------


@pytest.mark.parametrize(("fill", "value", "margin"), [("lung", -850, 0.0), ("air", -1024, 3.0)])
def test_masking_leaves_what_is_inside_as_it_is(crop, fill, value, margin):
    made = masked(crop, change(surroundings=fill, margin=margin))
    inside = crop.consensus()
    assert np.array_equal(made.hu[inside], crop.hu[inside])
    assert np.array_equal(made.masks, crop.masks)
    places = np.argwhere(inside) * crop.spacing
    for at in np.random.default_rng(0).integers(0, crop.hu.shape, (300, 3)):
        away = np.sqrt(((places - at * crop.spacing) ** 2).sum(axis=1)).min()
        if abs(away - margin) > 1e-6:
            assert made.hu[tuple(at)] == (crop.hu[tuple(at)] if away < margin else value), away


# Lei's slices are interpolated along z, Fu's window is close around the lesion
@pytest.mark.parametrize(("model", "margin"), [("Lei", 6.0), ("Fu", 1.5)])
def test_a_model_is_given_the_lesion_as_it_was_and_nothing_around_it(bench, toys, model, margin):
    found = bench.compute(Request(toys.IDS[0], model, surroundings="air", margin=margin))
    before, after = found.before, found.after
    inside = before.masks.all(axis=0)  # with all that is interpolated there within the margin
    assert inside.any()
    np.testing.assert_allclose(after.hu[inside], before.hu[inside], atol=0.01)
    assert after.hu[0, 0, 0] == pytest.approx(AIR, abs=0.01)
    assert before.hu[0, 0, 0] > AIR + 50
    assert after.predicted != before.predicted


@BOTH
def test_slices_are_reversed_and_duplicated_with_their_outlines(bench, crop, model):
    given = bench.models[model].given(crop)

    def stack(look: Any) -> torch.Tensor:
        return look.samples.images.reshape(given.hu.shape)

    once = reordered(given, change(reverse=True))
    assert torch.equal(stack(once), stack(given).flip(0))
    assert not torch.equal(stack(once), stack(given))
    assert np.array_equal(once.masks, given.masks[:, ::-1])
    assert np.array_equal(once.hu, given.hu[::-1])
    made = reordered(given, change(duplicate=1))
    assert made.samples.images.shape == given.samples.images.shape
    assert (stack(made) == stack(given)[1]).all()
    assert (made.hu == given.hu[1]).all()
    assert (made.masks == given.masks[:, 1:2]).all()


# -- what a model says -----------------------------------------------------------------


def test_changes_and_predictions_are_named():
    words = "air beyond 1.5 mm of the consensus, slice 3 in all places, slices reversed"
    asked = change(surroundings="air", margin=1.5, duplicate=2, reverse=True)
    assert (asked.change, change(margin=3).change) == (words, "")
    lobe = Target("lobe", "multiclass", ("unknown", "upper", "lower"), ignored=0)
    assert columns(Target("margin")) == ["margin"]
    assert columns(Target("calcified", "binary")) == ["probability of calcified"]
    assert columns(Target("x", "binary", ("benign", "malignant"))) == ["probability of malignant"]
    assert columns(lobe) == ["probability of upper", "probability of lower"]


@BOTH
def test_unchanged_it_predicts_what_the_study_does(bench, toys, model):
    fold = toys.lei() if model == "Lei" else toys.fu()
    for name, row in zip(toys.TESTED, fold.predict(device="cpu"), strict=True):
        found = bench.compute(Request(name, model))
        assert said(found.before) == pytest.approx(row.tolist(), abs=1e-4)
        assert (found.after, len(found.scenes)) == (None, 1)


def test_fu_does_not_mind_the_order_and_lei_does(bench, toys, of_fu):
    # attention over slices knows no order (eq. 1 to 3); channels of a convolution do
    before, after = of_fu.before, of_fu.after
    assert said(after) == pytest.approx(said(before), abs=1e-4)
    assert after.weights == pytest.approx(before.weights[::-1], abs=1e-5)
    assert before.weights.sum() == pytest.approx(1, abs=1e-5)
    assert after.map == pytest.approx(before.map[::-1], abs=1e-3 * before.map.max())
    alike = bench.compute(Request(toys.IDS[0], "Fu", duplicate=0)).after
    assert alike.weights == pytest.approx(1 / len(alike.hu), abs=1e-5)
    lei = bench.compute(Request(toys.IDS[0], "Lei", reverse=True))
    fold = toys.lei()
    with torch.no_grad():
        direct = float(fold.model()(fold.samples.images[:1].flip(1)).logits.softmax(1)[0, 1])
    assert said(lei.after) == pytest.approx([direct], abs=1e-5)
    assert said(lei.after) != pytest.approx(said(lei.before), abs=1e-6)


def test_maps_are_those_of_attention(bench, toys, of_fu):
    fold, name = toys.lei(), toys.IDS[1]
    seen = maps.explain(fold.experiment, fold.model(), fold.samples.select([1]))
    for method, expected in seen.maps.items():
        found = bench.compute(Request(name, "Lei", method=method, about="malignant")).before.map
        middle = len(found) // 2
        assert found[middle] == pytest.approx(expected[0].numpy(), abs=1e-5)
        assert np.isnan(np.delete(found, middle, axis=0)).all()
    fold = toys.fu()
    one = fold.samples.select([0])
    head = [t.name for t in fold.experiment.targets].index("malignancy")
    direct = activation_map(fold.model(), one.images, "grad-cam", head=head, inputs=(one.nodule, 1))
    assert of_fu.before.map == pytest.approx(direct.maps.numpy(), abs=1e-5)


def test_a_map_in_three_axes_keeps_its_slices(toys):
    models = {"volume": toys.fu("volume", depth=8), "sam_3d": toys.lei("sam_3d")}
    bench = Bench(models, toys.crops())
    volume = bench.compute(Request(toys.IDS[0], "volume", about="texture")).before
    assert volume.map.shape == volume.hu.shape == (3, 64, 64)
    assert volume.weights is None
    sam = bench.compute(Request(toys.IDS[0], "sam_3d"))
    assert (sam.request.method, sam.request.about) == ("SAM", "malignant")
    assert np.isfinite(sam.before.map).all()


def test_what_is_shown_is_what_is_given(bench, crop, toys):
    fu = bench.models["Fu"].given(crop)
    assert fu.hu == pytest.approx(prepare([crop]).images[:, 0].numpy(), abs=0.01)
    lei = bench.models["Lei"].given(crop)
    images = toys.lei().samples.images[0].numpy()  # 0 to 1 for -1024 to 400 HU
    assert lei.hu == pytest.approx(images * 1424 - 1024, abs=0.01)
    (drawn,) = outlines([crop]).values()
    middle = lei.masks[:, len(lei.hu) // 2]
    assert np.array_equal(middle[middle.any(axis=(1, 2))], drawn.masks)
    side = lei.spacing[1] * 32  # of two equivalent diameters
    volume = crop.consensus().sum() * np.prod(crop.spacing)
    assert side == pytest.approx(2 * (6 * volume / np.pi) ** (1 / 3), rel=1e-3)
    assert (lei.spacing[0], fu.spacing[0]) == pytest.approx((1, crop.spacing[0]), abs=1e-4)


@BOTH
def test_positions_are_those_of_the_scan(bench, crop, toys, model):
    found = bench.compute(Request(toys.IDS[0], model, reverse=True))
    before, after = found.scenes
    assert before.frame == after.frame == "the scan's first slice"
    assert after.z_mm == pytest.approx(before.z_mm[::-1]), "slices keep their place in the scan"
    # the middle of the outlines, in mm, is at one place in the scan and in what the model is given
    shown = np.argwhere(before.masks.sum(axis=0) * 2 >= len(before.masks))
    real = np.argwhere(crop.consensus()).mean(axis=0)
    z = float(before.z_mm[shown[:, 0]].mean())
    assert z == pytest.approx((crop.slice_index[0] + real[0]) * crop.spacing[0], abs=1.5)
    for axis in (0, 1):
        place = before.corner_mm[axis] + shown[:, axis + 1].mean() * before.spacing[axis + 1]
        expected = (crop.corner[axis] + real[axis + 1]) * crop.spacing[axis + 1]
        assert place == pytest.approx(expected, abs=0.5)
    if model == "Fu":
        assert set(np.round(before.z_mm / crop.spacing[0], 6)) <= set(crop.slice_index)


def test_each_lesion_gets_the_fold_that_has_not_seen_it(bench, toys):
    for seed in (1, 0, 1):  # and again, with the other's weights
        name = toys.IDS[seed]
        expected = toys.lei(ids=(name,), seed=seed).predict(device="cpu")
        found = bench.compute(Request(name, "parts"))
        assert said(found.before) == pytest.approx(expected[0].tolist(), abs=1e-5)
        assert not any("trained on it" in note for note in found.scenes[0].notes)
    other = bench.compute(Request(toys.IDS[2], "parts"))
    assert any("may have been trained on it" in note for note in other.scenes[0].notes)


# -- what is shown ---------------------------------------------------------------------


def test_before_and_after_stand_side_by_side(of_fu, toys, bench):
    before, after = of_fu.scenes
    assert before.title == f"{toys.IDS[0]}, Fu, as it is"
    assert after.title == f"{toys.IDS[0]}, Fu, slices reversed"
    assert np.array_equal(after.hu, before.hu[::-1])
    assert list(before.maps) == [("Grad-CAM", "malignancy")]
    rated = {r["name"]: r for r in before.ratings}
    assert (len(rated), len(rated["malignancy"]["readings"])) == (9, 4)
    assert rated["malignancy"]["predicted"] == of_fu.before.predicted["malignancy"]
    rows = of_fu.table()
    assert list(rows) == ["readers", "before", "after", "difference"]
    assert rows.loc["texture", "readers"] == bench.ratings.loc[toys.IDS[0], "texture"]
    assert (rows["difference"] == rows["after"] - rows["before"]).all()
    assert list(replace(of_fu, after=None).table()) == ["readers", "before"]


def test_a_lesion_without_ratings_is_shown_too(toys):
    class Store(dict[str, Any]):
        tier = "slices"

    nothing = pd.DataFrame(index=pd.Index([], name="lesion_id"))
    bench = Bench({"Lei": toys.lei()}, Store(toys.crops()), ratings=nothing)
    found = bench.compute(Request(toys.IDS[0], "Lei"))
    assert found.readings == {}
    assert found.table()["readers"].isna().all()
    assert bench.table().to_dict("list") == {"tier": ["slices"] * 3}


def test_nothing_of_the_callers_is_touched(toys):
    fold, crops = toys.lei(), toys.crops()
    hu = {name: crop.hu.copy() for name, crop in crops.items()}
    weights = {name: value.clone() for name, value in fold.weights.items()}
    images, random = fold.samples.images.clone(), torch.get_rng_state()
    asked = Request(toys.IDS[0], "Lei", surroundings="lung", duplicate=0, reverse=True)
    Bench({"Lei": fold}, crops).compute(asked)
    assert all(np.array_equal(crop.hu, hu[name]) for name, crop in crops.items())
    assert all(torch.equal(value, weights[name]) for name, value in fold.weights.items())
    assert torch.equal(fold.samples.images, images)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "x"}, "model='x': expected one of Lei, Fu, parts"),
        ({"about": "texture"}, "about='texture': expected one of benign, malignant"),
        ({"duplicate": 11}, "duplicate=11: expected a slice, 0 to 10"),
        ({"surroundings": "water"}, "surroundings='water': expected None or one of lung, air"),
        ({"margin": float("nan")}, "margin=nan: expected mm"),
    ],
)
def test_what_cannot_be_asked_is_named(bench, toys, wrong, message):
    with pytest.raises(ValueError, match=message):
        bench.compute(Request(**{"lesion_id": toys.IDS[0], "model": "Lei"} | wrong))


def test_models_that_do_not_go_together_are_named(toys):
    with pytest.raises(ValueError, match="models, crops: expected at least one of each"):
        Bench({}, toys.crops())
    with pytest.raises(ValueError, match="got lei2020 hesam, lei2020 sam"):
        Bench({"x": [toys.lei(), toys.lei("sam")]}, toys.crops())


# -- which lesions fulfil what; nothing that is typed is ever evaluated -----------------


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {"margin": [1.0, 2.5, 2.5, 4.0, np.nan], "tier": ["phantom", "dicom", None, "x", "x"]},
        index=list("abcde"),
    )


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], "abcde"),
        ([("margin", "at least", 2.5)], "bcd"),
        ([("margin", "at most", 2.5)], "abc"),
        ([("margin", "equal to", 2.5)], "bc"),
        ([("margin", "not equal to", 2.5)], "ad"),  # a gap fulfils nothing
        ([("tier", "equal to", "x")], "de"),
        ([("tier", "not equal to", "x")], "ab"),
        ([("margin", "at least", 2.0), ("tier", "equal to", "x")], "d"),
        ([("margin", "at least", " 2,5 ")], "bcd"),  # as typed
        ([("tier", "equal to", " x ")], "de"),
    ],
)
def test_filters_by_hand(rows, filters, found):
    for order in (filters, filters[::-1], filters * 2):
        assert "".join(matching(rows, order).index) == found


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (("margin", "equal to", "two"), "margin: expected a number, got 'two'"),
        (("margin", "at least", "__import__('os')"), "margin: expected a number"),
        (("margin", ">", 1), "'>': expected one of at least, at most"),
        (("x", "at least", 1), "column='x'"),
    ],
)
def test_filters_that_do_not_go(rows, one, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        matching(rows, [one])


def test_the_table_has_ratings_ranges_and_sizes():
    nodules = lidc.nodules()
    ids = list(nodules.index[:40])
    table = lesion_table([*ids, "unknown"], nodules)
    assert list(table.index) == [*ids, "unknown"]
    assert table.loc[ids[0], "malignancy"] == nodules.loc[ids[0], "malignancy"]
    assert table.loc[ids[0], "diameter"] == nodules.loc[ids[0], "diameter"]
    assert table.loc["unknown"].isna().all()
    readings = lidc.readings()
    for name in ids:  # a single reader disagrees with nobody
        given = readings.loc[readings["lesion_id"] == name, "texture"]
        value = table.loc[name, "texture, range"]
        assert (value == np.ptp(given)) if len(given) > 1 else np.isnan(value)


def test_errors_by_hand():
    rows = pd.DataFrame(
        {"lesion_id": ["a", "b"], "margin": [1.0, 3.0], "margin_truth": [2.0, 3.5],
         "texture": [5.0, 1.0], "texture_truth": [5.0, 4.0]}
    )  # fmt: skip
    table = errors(rows, [Target("margin"), Target("texture")])
    assert table.loc["a"].to_dict() == {
        "margin, error": 1.0, "texture, error": 0.0, "error": 0.5,
    }  # fmt: skip
    assert errors(rows, [Target("margin")]).to_dict() == {"error": {"a": 1.0, "b": 0.5}}
    with pytest.raises(ValueError, match="predictions: no column x, x_truth"):
        errors(rows, [Target("x")])
    place = Target("lobe", "multiclass", ("several", "upper", "lower"), ignored=0)
    rows = rows.assign(
        **{"lobe: upper": [0.7, 0.4], "lobe: lower": [0.3, 0.6], "lobe_truth": [2.0, 0]}
    )
    lacks = errors(rows, [place])["error"]
    assert lacks["a"] == pytest.approx(0.7)
    assert np.isnan(lacks["b"])  # several lobes are no class


@pytest.mark.parametrize(
    ("variant", "depth"), [("soft_2d", 1), ("self_2.5d", 5), ("soft_3d32", 32)]
)
def test_li_shows_maps_of_each_head(toys, variant, depth):
    bench = Bench({"Li": toys.li(variant)}, toys.crops())
    model = bench.models["Li"]
    assert len(model.about) == 6 + 2 + 3 + 2 + 3 + 2  # "With" is a class of two heads
    about = "Lobulation: With"
    found = {}
    for method in model.methods:
        look = bench.compute(Request(toys.IDS[0], "Li", method, about)).before
        assert look.hu.shape == look.map.shape
        assert len(look.map) == depth
        assert sum(look.predicted.values()) == pytest.approx(6, abs=1e-5)
        found[method] = look.map[depth // 2]
    assert list(found) == ["Grad-CAM", "Attention gate"][: 1 + variant.startswith("soft")]
    if variant != "soft_2d":
        return
    network, samples = model.folds[0].model(), look.samples
    head = list(network.heads).index("lobulation_presence")
    gate = network(samples.images).gates[0, head].detach().double().numpy()
    assert gate.min() - 1e-6 <= found["Attention gate"].min() < found["Attention gate"].max()
    assert found["Attention gate"][0, 0] == pytest.approx(gate[0, 0], abs=1e-6)
    expected = activation_map(network, samples.images, "grad-cam", head=head, target=1).maps[0]
    np.testing.assert_allclose(found["Grad-CAM"], expected.detach().numpy(), atol=1e-5)
