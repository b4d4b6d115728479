"""The volume viewer without a browser: what goes into the page, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lesionlab import explorer
from lesionlab.explorer import _scene

SHAPE = (4, 12, 12)


def volume(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


def maps() -> dict[str, dict[str, np.ndarray]]:
    ramp = np.linspace(0, 1, SHAPE[1] * SHAPE[2]).reshape(SHAPE[1:])
    return {"Grad-CAM": {"malignancy": np.stack([ramp] * 4) * [[[1]], [[2]], [[3]], [[4]]]},
            "SAM": {"malignancy": ramp, "texture": 1 - ramp}}  # fmt: skip


@pytest.fixture
def panel(payload: Any) -> Any:
    return lambda viewer: payload(viewer)["data"]["panels"][0]


def test_a_crop_brings_spacing_masks_tier_and_place_along(panel, noise):
    shown = panel(explorer.view(noise("a")))
    assert shown["title"] == "a"
    assert shown["tier"] == {"name": "phantom", "text": "phantom: rendered voxels, not a scan"}
    assert shown["spacing"] == [2.5, 0.7, 0.7]
    assert shown["z"] == [100.0, 102.5, 105.0, 107.5]
    assert shown["corner"] == pytest.approx([70, 63])
    assert (shown["readers"], shown["votes"], shown["notes"]) == (3, 2, [])
    assert shown["frame"] == "the scan's first slice"
    alone = panel(explorer.view(volume(), spacing=(2.5, 1, 1)))
    assert (alone["frame"], alone["z"][0]) == ("the first slice here", 0)
    assert alone["tier"] == {"name": None, "text": "source not stated"}
    assert panel(explorer.view(volume(), tier="made up"))["tier"]["text"] == "made up"


def test_it_starts_where_the_first_map_is_strongest_or_the_lesion_is(panel):
    marked = np.zeros((2, *SHAPE), np.bool_)
    marked[:, 2, 2:9, 2:9] = True
    strong, middle = np.zeros(SHAPE), np.full(SHAPE, np.nan)
    strong[1, 3, 4], strong[3, 0, 0] = -3, 2
    middle[3] = 1
    flat = np.ones(SHAPE[1:])
    given = {"volume": volume(), "masks": marked}
    for overlays, slice_ in (
        ({"a": strong, "b": flat}, 1),
        ({"b": flat, "a": strong}, 2),
        ({"a": np.zeros(SHAPE)}, 2),
        ({"a": middle}, 3),
        ({}, 2),
    ):
        assert explorer.view(**given, overlays=overlays).slice == slice_
    assert explorer.view(volume()).slice == 2, "the middle"
    shown = panel(explorer.view(**given, overlays={"a": {"margin": strong}, "b": {"x": flat}}))
    assert [(m["about"], m["peak"]) for m in shown["maps"]] == [("Margin", 1), ("x", None)]
    assert shown["output"] == "Output"
    assert panel(explorer.view(**given, overlays={"a": {"margin": flat}}))["output"] == "Rating"


@pytest.mark.parametrize(
    ("rows", "columns", "home"),
    [
        # of twice 6 of 64 rows and twice 8 of 96 columns the more, but 32 rows at least
        ((40, 46), (20, 28), (2.0, 43.0, 24.0)),
        ((10, 30), (20, 28), (64 / 40, 20.0, 24.0)),
        ((5, 40), (20, 28), (1.0, 22.5, 24.0)),  # half of the slice: all of it is shown
    ],
)
def test_it_starts_at_the_lesion(panel, rows, columns, home):
    hu = np.zeros((3, 64, 96), np.int16)
    marked = np.zeros((2, *hu.shape), np.bool_)
    marked[0, 0, slice(*rows), columns[0]] = True  # together they are the box
    marked[1, 2, rows[0], slice(*columns)] = True
    assert panel(explorer.view(hu, masks=marked))["home"] == pytest.approx(home)
    assert panel(explorer.view(hu))["home"] == [1, 32, 48]


def test_ratings_stand_on_their_attributes_scale(panel):
    viewer = explorer.view(
        volume(),
        readings={"calcification": [6, 6, 5], "own": [0, 1]},
        predicted={"calcification": 5.5, "own": 0.25, "internal_structure": 1.0},
    )
    shown = {r.pop("name"): r for r in panel(viewer)["ratings"]}
    assert shown["calcification"] == {
        "title": "Calcification", "scale": [1, 6], "readings": [6, 6, 5], "predicted": 5.5,
    }  # fmt: skip
    assert shown["own"]["scale"] == [0, 1], "probabilities"
    assert shown["internal_structure"]["scale"] == [1, 4]
    assert shown["internal_structure"]["readings"] == []


def test_two_volumes_stand_side_by_side(payload, noise):
    state = payload(explorer.view(noise("a"), overlays=maps()))["state"]
    assert (state["method"], state["other_method"], state["compare"]) == ("Grad-CAM", "SAM", False)
    other = explorer.view(volume(1, (7, 5, 5)), title="the other", overlays={"x": np.zeros((5, 5))})
    viewer = explorer.view(noise("a"), other=other)
    shown = payload(viewer)
    assert [p["title"] for p in shown["data"]["panels"]] == ["a", "the other"]
    assert (shown["state"]["compare"], shown["state"]["other_slice"]) == (True, 3)
    assert shown["state"]["other_method"] == "x"
    assert repr(viewer).endswith("4×12×12, 7×5×5)")


def test_a_cube_with_four_maps_stays_under_300_kb_and_says_what_was_rounded(panel):
    rng = np.random.default_rng(0)
    z, y, x = np.indices((64, 64, 64)) - 31.5
    ball = np.sqrt(z**2 + y**2 + x**2) < 9
    hu = np.where(ball, 20, -780) + rng.normal(0, 30, ball.shape)
    smooth = np.exp(-(z**2 + y**2 + x**2) / 200)
    cells = np.kron(rng.random((8, 8, 8)), np.ones((8, 8, 8)))
    overlays = {"a": {"m": smooth, "t": np.roll(smooth, 9, 1)}, "b": {"m": cells, "t": smooth**2}}
    viewer = explorer.view(hu.round().astype(np.int16), masks=ball, overlays=overlays)
    assert len(viewer.to_html().encode()) <= 300_000
    shown = panel(viewer)
    assert any("HU are rounded to multiples of" in note for note in shown["notes"])
    assert shown["hu"]["step"] <= 16
    assert all(m["error"] <= 0.05 * (m["high"] - m["low"]) for m in shown["maps"])


@pytest.mark.parametrize(
    ("shape", "most_slices", "stride", "few"),
    [
        ((45, 4, 2), 16, (3, 1, 1), "1 slice of 3"),
        ((45, 4, 2), 45, (1, 1, 1), ""),
        ((200, 512, 512), 200, (2, 4, 4), "1 slice of 2, 1 row of 4, 1 column of 4"),
    ],
)
def test_of_a_large_volume_some_voxels_are_shown_where_they_lie(shape, most_slices, stride, few):
    scan = np.arange(np.prod(shape)).astype(np.int16).reshape(shape)
    masks = np.broadcast_to(scan % 3 == 1, (2, *shape))
    weights = np.arange(float(shape[0]))
    scene = _scene.of(
        scan,
        spacing=(0.5, 1, 2),
        masks=masks,
        slice_weights=weights,
        overlays={"a": {"m": scan, "flat": scan[0]}},
        most_slices=most_slices,
    )
    z, y, x = scene.stride
    assert (scene.stride, scene.spacing) == (stride, (z * 0.5, y, x * 2))
    assert scene.hu.size <= _scene.MAX_VOXELS
    for thin in (scene.hu, scene.maps["a", "m"]):
        assert np.array_equal(thin, scan[::z, ::y, ::x])
    assert np.array_equal(scene.maps["a", "flat"], scan[:1, ::y, ::x])
    assert np.array_equal(scene.masks, masks[:, ::z, ::y, ::x])
    assert np.array_equal(scene.weights, weights[::z])
    assert scene.z_mm[2] == 2 * z * 0.5
    assert scene.notes == ((f"shown is {few}, to keep the page small",) if few else ())


def test_missing_rounded_and_clipped_values_are_told():
    odd = volume().astype(float)
    odd[0, 0, 0], odd[1, 2, 3] = np.nan, np.inf
    (scene,) = explorer.view(odd).scenes
    assert np.argwhere(scene.missing).tolist() == [[0, 0, 0], [1, 2, 3]]
    assert "2 voxels have no value (NaN or infinite)" in scene.notes[0]
    # what stands in their place adds nothing to the range of values
    assert set(scene.hu[scene.missing]) == {np.int16(np.median(scene.hu[~scene.missing]))}
    nothing = explorer.view(np.full(SHAPE, np.nan))
    assert nothing.scenes[0].missing.all()
    assert nothing.to_png().startswith(b"\x89PNG")
    (scene,) = explorer.view(np.array([[[0.4, 1e6, -1e6]]])).scenes
    assert scene.hu.tolist() == [[[0, 32767, -32768]]]
    assert scene.notes == (
        "values are shown rounded to whole HU",
        "2 values outside -32768 to 32767 are shown as the limit",
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (2, 5, 1)])
def test_small_and_constant_volumes_are_shown(panel, shape):
    viewer = explorer.view(
        np.full(shape, -700),
        masks=np.ones((2, *shape), bool),
        spacing=(1, 1, 1),
        overlays={"a": np.zeros(shape), "b": np.full(shape[1:], np.nan)},
        slice_weights=np.zeros(shape[0]),
    )
    assert viewer.to_png().startswith(b"\x89PNG")
    assert panel(viewer)["maps"][0]["limits"] == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": np.zeros((4, 4))}, r"volume: expected numbers \(z, y, x\).*\(4, 4\)"),
        ({"masks": np.zeros((3, 4, 12, 11))}, r"masks: expected \(reader, 4, 12, 12\)"),
        ({"masks": np.full(SHAPE, 7)}, "masks: expected True and False"),
        ({"spacing": (1, 0, 1)}, r"spacing=\(1, 0, 1\): expected \(z, y, x\) in mm"),
        ({"overlays": {"a": np.zeros((3, 12, 12))}}, r"map 'a', '': expected numbers \(4"),
        ({"slice_weights": [1, 2, 3, -1]}, "slice_weights: expected 4 finite numbers.*from 0 up"),
        ({"spacing": (1, 1e308, 1)}, r"spacing=.*1e\+308.*: expected .* from 0.001 to 1000"),
        ({"overlays": {"a": np.array(volume(), float) * 1e300}}, "'a', '': expected numbers up to"),
        ({"predicted": {"margin": float("nan")}}, "ratings of 'margin': expected finite numbers"),
        ({"predicted": {"x": 1e308}}, r"ratings of 'x': expected .* 1e\+09 in size, got \[1e\+308"),
        ({"readings": {"x": [1, -1e308]}}, "ratings of 'x': expected finite numbers up to 1e"),
        ({"other": volume()}, r"other: expected what view\(\) gives, got ndarray"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        explorer.view(**{"volume": volume()} | change)
