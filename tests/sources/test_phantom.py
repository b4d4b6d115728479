"""Phantoms around real contours: what the ratings do, and what must not change a byte."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lesionlab.sources import lidc, phantom
from lesionlab.sources.phantom import _scene, li2021, wang2021
from lesionlab.sources.phantom._physics import generator

SOLID = "LIDC-IDRI-0003-S0014-N03"  # four readers, 9 to 14 mm
LESIONS = [SOLID, "LIDC-IDRI-0010-S0021-N03", "LIDC-IDRI-0012-S0023-N04"]
ONE_SLICE = "LIDC-IDRI-0069-S0002-N02"
LARGEST = "LIDC-IDRI-0191-S0192-N01"
WIDEST = "LIDC-IDRI-0701-S0954-N04"  # 98 pixels
SMALLEST = "LIDC-IDRI-0759-S0896-N04"
OUT_OF_RANGE = "LIDC-IDRI-0510-S0516-N08"  # one reader's internal structure is 5

PLAIN = {"subtlety": 5, "internal_structure": 1, "calcification": 6, "margin": 5}
PLAIN |= {"lobulation": 1, "spiculation": 1, "texture": 5}


@pytest.fixture(scope="module")
def nodules():
    return lidc.nodules()


@pytest.fixture(scope="module")
def rendered(nodules):
    """One lesion with given ratings; the same lesion and ratings are rendered once."""
    made = {}

    def render(lesion_id=SOLID, **ratings):
        key = (lesion_id, *sorted(ratings.items()))
        if key not in made:
            masks = lidc.masks(lesion_id)
            made[key] = phantom.render(nodules.loc[lesion_id], masks, ratings=PLAIN | ratings)
        return made[key]

    return render


def inside(crop):
    return crop.hu[crop.consensus()].astype(float)


def centre(crop, share=0.6):
    """HU of the consensus deeper than a share of its depth."""
    depth = ndimage.distance_transform_edt(crop.consensus(), sampling=crop.spacing)
    return crop.hu[depth > share * depth.max()].astype(float)


def ring(crop, low, high):
    """HU outside all outlines, at a distance in mm."""
    marked = crop.masks.any(axis=0)
    away = ndimage.distance_transform_edt(~marked, sampling=crop.spacing)
    return crop.hu[(away > low) & (away <= high)].astype(float)


def content(crop):
    return (crop.hu.tobytes(), crop.masks.tobytes(), crop.slice_index.tobytes(), crop.corner)


@pytest.mark.parametrize(
    ("render", "ids"),
    [
        (phantom.phantom, LESIONS),
        (li2021.phantom, ["LI-0001-S1-L01", "LI-0002-S1-L01"]),
        (wang2021.phantom, ["GGN-0001-S1-N1", "GGN-0002-S1-N1"]),
    ],
)
def test_order_and_process_change_nothing_and_the_seed_all(render, ids):
    forwards = [content(render(i)) for i in ids]
    backwards = [content(render(i, seed=0)) for i in reversed(ids)]
    assert forwards == backwards[::-1]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert forwards == [content(crop) for crop in pool.map(render, ids)]
    one, two = render(ids[0]), render(ids[0], seed=1)
    if one.hu.shape == two.hu.shape:
        assert (one.hu != two.hu).mean() > 0.9


@pytest.mark.parametrize(
    ("render", "lesion_id", "voxels", "mean", "hu"),
    [
        (phantom.phantom, SOLID, 925, -398.65, [-983, -126, -64, 67, 41, -936, -886, -903]),
        (li2021.phantom, "LI-0001-S1-L01", 13280, -495.66,
         [-102, 68, 42, -852, -24, -821, -847, -841]),
        (wang2021.phantom, "GGN-0001-S1-N1", 206, -583.70,
         [-40, -842, -846, -669, -88, -786, -839, -818]),
    ],
)  # fmt: skip
def test_a_phantom_is_what_it_was(render, lesion_id, voxels, mean, hu):
    """Models and results that ship rest on these. Processors differ by 1 HU, in a few voxels."""
    crop = render(lesion_id)
    depth, side, _ = crop.hu.shape
    diagonal = np.arange(8) * side // 8
    assert crop.masks.sum() == pytest.approx(voxels, abs=2)
    assert crop.hu.mean() == pytest.approx(mean, abs=0.05)
    np.testing.assert_allclose(crop.hu[depth // 2, diagonal, diagonal], hu, rtol=0, atol=2)


def test_malignancy_and_pathology_are_never_read(nodules):
    nodule, masks = nodules.loc[SOLID], lidc.masks(SOLID)
    changed = nodule.copy()
    changed["malignancy"] = 6 - nodule["malignancy"]
    changed["malignancy_readings"] = [6 - value for value in nodule["malignancy_readings"]]
    without = nodule.drop(["malignancy", "malignancy_readings"])
    assert len({content(phantom.render(row, masks)) for row in (nodule, changed, without)}) == 1
    glass = wang2021.nodules().iloc[3]
    rows = (glass, glass.replace(glass["pathology"], "AAH"), glass.drop("pathology"))
    assert len({content(wang2021.render(row)) for row in rows}) == 1


def test_one_reader_is_drawn_whole_and_rendered_and_each_has_a_turn(nodules):
    nodule = nodules.loc["LIDC-IDRI-0013-S0024-N02"]
    told = [phantom.drawn_ratings(nodule, seed=k) for k in range(60)]
    columns = [nodule[f"{name}_readings"] for name in told[0]]
    assert {tuple(one.values()) for one in told} == set(zip(*columns, strict=True))
    assert told[3] == phantom.drawn_ratings(nodule, seed=3)
    masks = lidc.masks(nodule.name)
    by_hand = phantom.render(nodule, masks, seed=3, ratings=told[3])
    assert content(by_hand) == content(phantom.render(nodule, masks, seed=3))


def test_a_missing_internal_structure_is_soft_tissue(nodules):
    nodule = nodules.loc[OUT_OF_RANGE]
    assert np.isnan(nodule["internal_structure_readings"]).any()
    drawn = {phantom.drawn_ratings(nodule, seed=k)["internal_structure"] for k in range(20)}
    assert drawn <= {1, 2, 3, 4}
    assert phantom.phantom(OUT_OF_RANGE).hu.dtype == np.int16


def density(crop):
    return inside(crop).mean()


def steepness(crop):
    """Mean gradient in plane at the edge of the consensus."""
    smooth = ndimage.gaussian_filter(crop.hu.astype(float), (0, 0.7, 0.7))
    steep = np.hypot(*np.gradient(smooth, crop.spacing[2], axis=(1, 2)))
    consensus, plane = crop.consensus(), np.ones((1, 3, 3))
    near = ndimage.binary_dilation(consensus, plane) & ~ndimage.binary_erosion(consensus, plane)
    return float(steep[near].mean())


@pytest.mark.parametrize("lesion_id", LESIONS)
def test_each_step_of_a_rating_shows(rendered, lesion_id):
    for name, measure, values, least in (
        ("texture", density, range(1, 6), 250),
        ("margin", steepness, (1, 3, 5), 30),
        ("subtlety", lambda crop: np.median(centre(crop)), (1, 3, 5), 150),
    ):
        shown = [measure(rendered(lesion_id, **{name: value})) for value in values]
        assert shown == sorted(shown), name
        assert shown[-1] - shown[0] > least, name
    # ground glass has lung in it; solid is soft tissue
    assert -760 < np.median(centre(rendered(lesion_id, texture=1))) < -400
    assert -60 < np.median(centre(rendered(lesion_id, texture=5))) < 160


def built(nodules, lesion_id, **ratings):
    """The lesion alone, before the scanner blurs it."""
    masks = lidc.masks(lesion_id)
    grid = phantom._grid(nodules.loc[lesion_id], masks, 128, None)
    rng = generator("lesion", lesion_id, 0)
    shape = phantom._shape_on_planes(masks, grid)
    return phantom._Lesion(rng, PLAIN | ratings, shape, grid, lung_hu=-870)


@pytest.mark.parametrize("lesion_id", LESIONS)
def test_more_spiculation_is_more_and_longer_strands(nodules, rendered, lesion_id):
    strands = [built(nodules, lesion_id, spiculation=v).strands for v in range(1, 6)]
    counts = [len(s) for s in strands]
    assert counts[0] == 0
    assert counts == sorted(set(counts))
    lengths = [np.linalg.norm(s[:, 1, :3] - s[:, 0, :3], axis=1).mean() for s in strands[1:]]
    assert lengths[-1] > lengths[0]
    outside = [ring(rendered(lesion_id, spiculation=v), 0.5, 4.0).mean() for v in (1, 5)]
    assert outside[1] > outside[0] + 3


@pytest.mark.parametrize("lesion_id", LESIONS)
def test_more_lobulation_bends_the_surface_more(nodules, lesion_id):
    smooth, *lobed = (built(nodules, lesion_id, lobulation=v).distance for v in range(1, 6))
    bent = [float(np.abs(surface - smooth).mean()) for surface in lobed]
    assert bent == sorted(set(bent))
    assert bent[-1] == pytest.approx(4 * bent[0], rel=0.02)


def test_calcium_patterns(rendered):
    none, solid = rendered(calcification=6), rendered(calcification=3)
    assert np.percentile(inside(none), 95) < 200
    assert np.median(inside(solid)) > 250

    def off_centre(crop):
        """How far the calcium, denser than the same lesion without any, lies from the middle."""
        added = np.where(crop.masks.any(0), crop.hu.astype(float) - none.hu, 0)
        added[added < 150] = 0
        middle = (np.argwhere(crop.consensus()) * crop.spacing).mean(0)
        return np.linalg.norm(ndimage.center_of_mass(added) * np.array(crop.spacing) - middle)

    central, aside = off_centre(rendered(calcification=5)), off_centre(rendered(calcification=4))
    assert central < 1.5
    assert aside > central + 1.5
    assert len({rendered(calcification=v).hu.tobytes() for v in range(1, 7)}) == 6


@pytest.mark.parametrize(
    ("structure", "low", "high"), [(1, 0, 140), (2, -60, 60), (3, -170, -40), (4, -960, -500)]
)
def test_internal_structure_fills_the_middle(rendered, structure, low, high):
    assert low < np.median(centre(rendered(internal_structure=structure), 0.75)) < high


@pytest.mark.parametrize("lesion_id", [SOLID, ONE_SLICE, LARGEST, WIDEST, SMALLEST])
def test_crops_of_all_sizes(nodules, lesion_id):
    crop, masks, nodule = phantom.phantom(lesion_id), lidc.masks(lesion_id), nodules.loc[lesion_id]
    assert crop.hu.shape[1:] == (128, 128)
    assert crop.masks.sum() == masks.readers.sum()
    found = np.argwhere(crop.masks)[0][1:] + np.array((crop.slice_index[0], *crop.corner))
    assert found.tolist() == (np.argwhere(masks.readers)[0][1:] + masks.origin).tolist()
    assert crop.tier == "phantom"
    assert crop.calibrated.all()
    assert (np.diff(crop.slice_index) == 1).all()
    n_slices = len(lidc.default().database.slice_z[nodule["scan_id"]])
    assert crop.slice_index[0] >= 0
    assert crop.slice_index[-1] < n_slices
    # Lei's deepest sample has 10 slices of 1 mm above and below
    above = (crop.slice_index - nodule["z"]) * crop.spacing[0]
    assert above[0] <= -10 or crop.slice_index[0] == 0
    assert above[-1] >= 10 or crop.slice_index[-1] == n_slices - 1
    # a lung with a lesion in it
    assert np.median(crop.hu[ndimage.gaussian_filter(crop.hu, 2) < -600]) < -750
    assert inside(crop).mean() > ring(crop, 2, 6).min()


def test_lesions_of_one_scan_share_kernel_chest_and_lung(nodules, monkeypatch):
    asked = []
    monkeypatch.setattr(_scene, "generator", lambda *keys: asked.append(keys) or generator(*keys))
    scan = nodules[nodules["scan_id"] == nodules.loc[ONE_SLICE, "scan_id"]]
    for lesion_id in scan.index[:2]:
        phantom.phantom(lesion_id)
    assert len({keys for keys in asked if keys[0] in {"scanner", "lung", "chest"}}) == 3
    assert len({keys for keys in asked if keys[0] == "noise"}) == 2


def test_what_does_not_belong_together_or_fit_is_refused(nodules):
    nodule, masks = nodules.loc[SOLID], lidc.masks(SOLID)
    rated = nodule.copy()
    rated["texture_readings"] = [0.0] * 4
    empty = replace(masks, readers=np.zeros_like(masks.readers))
    for row, of, options, told in (
        (nodule, lidc.masks(ONE_SLICE), {}, f"masks are of '{ONE_SLICE}'"),
        (nodule, empty, {}, f"masks of {SOLID}: expected at least one voxel"),
        (nodules.loc[WIDEST], lidc.masks(WIDEST), {"size": 64}, "size=64: .* 85 pixels wide"),
        (nodule, masks, {"size": 15}, "size=15"),
        (rated, masks, {}, f"{SOLID}: texture=0.0"),
        (nodule, masks, {"ratings": PLAIN | {"margin": 2.5}}, "margin=2.5"),
    ):
        with pytest.raises(ValueError, match=told):
            phantom.render(row, of, **options)
    with pytest.raises(LookupError, match="LIDC-IDRI-9999"):
        phantom.phantom("LIDC-IDRI-9999-S0001-N01")


def test_readers_who_agree_on_no_voxel_are_rendered_and_arguments_stay_as_they_were(nodules):
    nodule, masks, ratings = nodules.loc[SOLID].copy(), lidc.masks(SOLID), dict(PLAIN)
    apart = replace(masks, consensus=np.zeros_like(masks.consensus))
    before, readers = nodule.copy(deep=True), masks.readers.copy()
    assert phantom.render(nodule, apart, ratings=ratings).hu.shape[1:] == (128, 128)
    assert nodule.equals(before)
    assert (masks.readers == readers).all()
    assert ratings == PLAIN


BOTH = pytest.mark.parametrize(
    ("draw", "of"), [(li2021.lesions, li2021), (wang2021.nodules, wang2021)], ids=["li", "wang"]
)


@BOTH
@pytest.mark.parametrize("value", [-1, 2.5, True, "10"])
def test_whole_numbers_that_are_none(draw, of, value):
    row = draw(5).iloc[0]
    with pytest.raises(ValueError, match="n="):
        draw(value)
    for call in (lambda: draw(5, seed=value), lambda: of.render(row, seed=value)):
        with pytest.raises(ValueError, match="seed="):
            call()
    with pytest.raises(ValueError, match="size="):
        of.render(row, size=value)


@BOTH
def test_rows_that_cannot_be_rendered(draw, of):
    row = draw(5).iloc[0].astype(object)
    bad = {"diameter": [np.nan, np.inf], "pixel_spacing": [None, 0], "has_vessel": ["no", np.nan]}
    bad |= {"glass_hu": [3000.0], "solid_share": ["half"]}
    bad |= {"lesion_type": [0], "cavity": [np.nan], "spiculation_length": ["long"]}
    for name in row.index.intersection(list(bad)):
        for value in bad[name]:
            with pytest.raises(ValueError, match=name):
                of.render(row.where(row.index != name, value))
        with pytest.raises(KeyError, match=name):
            of.render(row.drop(name))
    with pytest.raises(ValueError, match=r"size=32: a crop of .* pixels or more"):
        of.render(row, size=32)
    with pytest.raises(LookupError, match="nobody"):
        of.phantom("nobody")
