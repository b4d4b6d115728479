"""Phantoms of Li's and Wang's private data: printed counts, dependencies, signs seen in voxels."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from lesionlab import published
from lesionlab.attributes import LI_CATEGORIES, category
from lesionlab.crops import Crop
from lesionlab.papers import li2021 as li_paper
from lesionlab.papers import wang2021 as wang_paper
from lesionlab.sources.phantom import _scene as scene
from lesionlab.sources.phantom import li2021 as li
from lesionlab.sources.phantom import wang2021 as wang
from lesionlab.statistics.association import chi_square

TYPES = {"mass": 1, "nodule": 2, "glass": 3, "air": 4, "consolidation": 5, "effusion": 6}
SIGNS = [a.name for a in LI_CATEGORIES if a.name not in ("lesion_type", "lesion_location")]
PATHOLOGIES = ["AAH", "AIS", "MIA", "IAC"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return li.lesions()


@pytest.fixture(scope="module")
def plain(table: pd.DataFrame) -> list[pd.Series]:
    """Nodules of 18 to 28 mm in one lobe each, stripped of every sign."""
    wanted = (table["lesion_type"] == 2) & (table["lesion_location"] > 0)
    rows = table[wanted & table["diameter"].between(18, 28)].head(5)
    return [changed(row, **dict.fromkeys(SIGNS, 1)) for _, row in rows.iterrows()]


@pytest.fixture(scope="module")
def glass() -> list[pd.Series]:
    """Ground-glass nodules of 8 mm without core, vessel or wall."""
    bare = {"diameter": 8.0, "glass_hu": -600.0, "solid_share": 0.0}
    bare |= {"has_vessel": False, "at_wall": False}
    return [changed(row, **bare) for _, row in wang.nodules().head(6).iterrows()]


def changed(row: pd.Series, **values: object) -> pd.Series:
    return pd.Series(row.to_dict() | values, name=row.name)


def measured(plain: list[pd.Series], measure, **codes: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.array([measure(li.render(changed(row, **codes))) for row in plain])


def inside(crop: Crop, mm: float = 0.0) -> np.ndarray:
    """HU in the mask, at least `mm` from its surface."""
    return crop.hu[ndimage.distance_transform_edt(crop.masks[0], sampling=crop.spacing) > mm]


def away(crop: Crop) -> np.ndarray:
    """Distance of each voxel from the mask, mm."""
    return ndimage.distance_transform_edt(~crop.masks[0], sampling=crop.spacing)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_printed_count_is_met_exactly(seed):
    drawn, printed = li.lesions(seed=seed), published.table("li2021", 2)
    assert len(drawn) == 2014
    for attribute in LI_CATEGORIES:
        rows = printed[printed["attribute"] == attribute.name].set_index("category")["lesions"]
        found = drawn[attribute.name].map(attribute.words).value_counts()
        known = rows.dropna()  # one cell is not printed
        assert found[known.index].tolist() == known.tolist(), attribute.name
    assert (drawn["vessel_convergence"] == 1).sum() == 2014 - 553
    assert (drawn["lesion_location"] == 0).sum() == 2014 - 496 - 151 - 286 - 374 - 271


@pytest.mark.parametrize("n", [1, 7, 333, 5113])
def test_other_sizes_keep_the_proportions(n):
    drawn = li.lesions(n)
    assert len(drawn) == n
    assert drawn.index.is_unique
    for name, counts in li.printed_counts().items():
        found = drawn[name].value_counts()
        for code, count in counts.items():
            assert abs(found.get(code, 0) - n * count / 2014) < 1, (name, code)


def test_apportion_by_hand():
    assert scene.apportion([1, 1, 1], 4).tolist() == [2, 1, 1]
    assert scene.apportion([0.5, 0.3, 0.2], 10).tolist() == [5, 3, 2]
    assert scene.apportion([675, 728, 611], 2014).tolist() == [675, 728, 611]


@pytest.mark.parametrize("seed", [0, 5])
def test_dependencies_that_section_4_2_states(seed):
    table = li.lesions(seed=seed)
    by_type = (table[SIGNS] > 1).groupby(table["lesion_type"]).mean()
    mass, rest = by_type.loc[TYPES["mass"]], by_type.drop(index=TYPES["mass"]).max()
    assert mass["margin_clarity"] > 0.9  # "almost unclear"
    rare = ["lobulation_presence", "spiculation_length"]
    common = ["vessel_convergence", "pleural_indentation"]
    assert (mass[rare] > 2 * rest[rare]).all()
    assert mass["pleural_indentation"] > rest["pleural_indentation"]
    for kind in ("nodule", "glass", "consolidation"):
        here = by_type.loc[TYPES[kind]]
        assert here[common].min() > here[rare].max(), kind
        assert here[common].min() > 5 * by_type.loc[TYPES["air"], common].max()
    for kind in ("air", "effusion"):
        here = by_type.loc[TYPES[kind]]
        assert here["margin_clarity"] == 0
        assert here.max() < 0.03
    # calcium is concentrated in the nodules
    calcified = table[table["calcification_extent"] > 1]["lesion_type"]
    assert (calcified == TYPES["nodule"]).mean() > 0.75
    # "when vessel convergence and pleural indentation are present …"
    for name in ("vessel_convergence", "pleural_indentation", "cavity"):
        given, without = table[table[name] == 2], table[table[name] == 1]
        for sign in ("lobulation_presence", "margin_clarity"):
            assert (given[sign] == 2).mean() > max(0.6, (without[sign] == 2).mean() + 0.15)


@pytest.mark.parametrize("seed", [0, 5])
def test_strong_and_weak_pairs_of_attributes(seed):
    table = li.lesions(seed=seed)

    def cramers_v(x: str, y: str) -> float:
        return float(chi_square(table[x], table[y])["cramers_v"])

    def p_value(x: str, y: str) -> float:
        some = table[table["lesion_location"] > 0] if x == "lesion_location" else table
        return float(chi2_contingency(pd.crosstab(some[x], some[y]), correction=False).pvalue)

    local = ["margin_clarity", "spiculation_length", "lobulation_presence"]
    for x, y in combinations(local, 2):
        assert cramers_v(x, y) > 0.4
    for name in (*local, "lesion_type", "pleural_indentation"):
        assert cramers_v("vessel_convergence", name) > 0.15
    assert cramers_v("pleural_indentation", "margin_clarity") > 0.2
    for name in ("margin_clarity", "lobulation_presence"):
        assert p_value("cavity", name) < 1e-3
    for attribute in LI_CATEGORIES:
        if attribute.name != "lesion_location":
            assert p_value("lesion_location", attribute.name) > 1e-3, attribute.name


def test_scans_sizes_and_ids(table):
    assert table["scan_id"].nunique() == table["patient"].nunique() == 355
    assert table.index.is_unique
    per_scan = table.groupby("scan_id")[["slice_thickness", "pixel_spacing"]].nunique()
    assert (per_scan == 1).all(axis=None)
    assert table["slice_thickness"].between(1, 2).all()
    assert table["pixel_spacing"].between(0.176, 0.977).all()  # Table 1
    widest = table.groupby("lesion_type")["diameter"].agg(["min", "max"])
    assert widest.loc[TYPES["mass"], "min"] > 30 > widest.loc[TYPES["nodule"], "max"]
    assert table.loc[table["cavity"] == 2, "diameter"].min() >= 12
    small = table[(table["lesion_type"] == 2) & (table["diameter"] < 10)]
    large = table[(table["lesion_type"] == 2) & (table["diameter"] > 15)]
    with_vessels = [(t["vessel_convergence"] == 2).mean() for t in (small, large)]
    assert with_vessels[0] < with_vessels[1] / 2  # 4.1.8


def calcium(crop: Crop) -> float:
    return float((inside(crop, 1.0) > 200).mean())


def rim(crop: Crop) -> float:
    outside = away(crop)
    return float(np.median(crop.hu[(outside > 1.4) & (outside < 3)]))


def air(crop: Crop) -> float:
    return float((inside(crop, 1.5) < -700).mean())


def hollows(crop: Crop) -> float:
    """Share of the convex hull, in the largest slice, that the mask leaves out."""
    mask = crop.masks[0]
    points = np.argwhere(mask[mask.sum(axis=(1, 2)).argmax()])
    corners = np.concatenate([points + d for d in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return 1 - float(len(points) / ConvexHull(corners).volume)


def vessels(crop: Crop) -> int:
    """Pieces of 4 voxels and more in a shell around the lesion, where no wall is."""
    outside = away(crop)
    dense, _ = ndimage.label((crop.hu > -400) & (outside < 3.5), np.ones((3, 3, 3)))
    labels, _ = ndimage.label(dense * (outside > 2.0), np.ones((3, 3, 3)))
    return int((np.bincount(labels.ravel())[1:] >= 4).sum())


def joined(crop: Crop) -> bool:
    """Whether tissue leads from the lesion to something large 12 mm away: the wall."""
    labels, _ = ndimage.label(crop.hu > -600, np.ones((3, 3, 3)))
    lesion = np.bincount(labels[crop.masks[0] & (labels > 0)]).argmax()
    return bool(((labels == lesion) & (away(crop) > 12)).sum() > 5000)


@pytest.mark.parametrize(
    ("sign", "measure", "at_most", "at_least"),
    [
        ("cavity", air, 0.005, 0.08),
        ("calcification_extent", calcium, 0.01, 0.03),
        ("margin_clarity", rim, -780, -790),
        ("lobulation_presence", hollows, 0.07, 0.07),
        ("vessel_convergence", vessels, 0, 1),
        ("pleural_indentation", joined, 0, 1),
    ],
)
def test_a_sign_is_seen_where_it_is_and_nowhere_else(plain, sign, measure, at_most, at_least):
    assert measured(plain, measure, **{sign: 1}).max() <= at_most
    shown = measured(plain, measure, **{sign: 2})
    assert shown.min() >= at_least
    assert sign != "vessel_convergence" or shown.mean() >= 2
    if sign == "calcification_extent":  # of a part, or of nearly all
        assert shown.max() < 0.5
        assert measured(plain, measure, calcification_extent=3).min() > 0.9
    if sign == "margin_clarity":
        assert (shown - measured(plain, measure, margin_clarity=1)).min() > 70


def test_spicules_reach_out_and_stay_out_of_the_mask(plain):
    for row in plain:
        without = li.render(row)
        reach = {}
        for code in (2, 3):
            crop = li.render(changed(row, spiculation_length=code))
            assert np.array_equal(crop.masks, without.masks)
            drawn = crop.hu.astype(int) - without.hu > 150
            assert drawn.sum() > 40
            reach[code] = np.quantile(away(crop)[drawn], 0.95)
        assert reach[3] < 6.0 < reach[2] < 14.0  # code 2 is long, 3 short


def test_lesion_types_look_different(table):
    clean = table[(table[SIGNS[1:]] == 1).all(axis=1) & (table["diameter"] > 8)]
    some = clean.groupby("lesion_type").head(3)
    crops = {
        name: [li.render(row) for _, row in some[some["lesion_type"] == k].iterrows()]
        for name, k in TYPES.items()
    }

    def median(crop: Crop) -> float:
        return float(np.median(inside(crop, 1.0)))

    def width(crop: Crop) -> float:
        y, x = np.nonzero(crop.masks[0].any(axis=0))
        return float((max(np.ptp(y), np.ptp(x)) + 1) * crop.spacing[1])

    for crop in (*crops["mass"], *crops["nodule"], *crops["consolidation"]):
        assert -200 < median(crop) < 100
    assert min(map(width, crops["mass"])) > 30 > max(map(width, crops["nodule"]))
    assert all(-720 < median(crop) < -400 for crop in crops["glass"])
    assert all(np.quantile(inside(crop, 1.0), 0.2) < -850 for crop in crops["air"])
    assert all(-15 < median(crop) < 30 for crop in crops["effusion"])
    for crop in crops["consolidation"]:  # air in the bronchi
        assert (inside(crop, 2.5) < -350).mean() > 0.003
    for crop in crops["mass"]:
        assert (inside(crop, 2.5) < -350).mean() < 0.0005

    def at_wall(crop: Crop) -> float:
        """Share of the voxels just outside that are soft tissue or bone."""
        outside = away(crop)
        return float((crop.hu[(outside > 2) & (outside < 5)] > -200).mean())

    assert min(map(at_wall, crops["effusion"])) > 0.2
    assert max(map(at_wall, crops["nodule"])) < 0.1


def test_lesions_lie_in_their_lobe(table):
    """By place in the scan: sides by column, lobes by height and by front and back."""
    small = table[table["diameter"] < 15]
    places = {}
    for name, code in {"RU": 1, "RM": 2, "RL": 3, "LU": 4, "LL": 5}.items():
        rows = small[small["lesion_location"] == code].head(4)
        crops = [li.render(row) for _, row in rows.iterrows()]
        found = [np.argwhere(crop.masks[0]).mean(axis=0) + crop.origin for crop in crops]
        places[name] = np.array(found) * [[crop.spacing[0], 1, 1] for crop in crops]
    for name, at in places.items():  # the patient's right is on the left of the image
        assert ((at[:, 2] < 256) == (name[0] == "R")).all(), name
    height, row = ({name: at[:, axis].mean() for name, at in places.items()} for axis in (0, 1))
    assert height["RU"] > height["RL"] + 15
    assert height["LU"] > height["LL"] + 15
    assert row["RM"] < row["RL"] - 20  # in front of
    assert places["RU"][:, 0].min() > places["RM"][:, 0].max()  # the horizontal fissure


def test_crops_are_whole_and_fit_the_papers_inputs(table):
    lesions = [li.render(row) for _, row in table.groupby("lesion_type").head(1).iterrows()]
    nodules = [wang.render(row) for _, row in wang.nodules().head(12).iterrows()]
    for crop in (*lesions, *nodules):
        (mask,) = crop.masks
        assert mask.any()
        assert mask[1:-1, 5:-5, 5:-5].sum() == mask.sum()  # none at the border
    modes = ("2d", "2.5d", "3d")
    inputs = [li_paper.prepare(lesions, mode=mode, n_slices=11) for mode in modes]
    inputs.append(wang_paper.prepare(nodules))
    assert {samples.padded.max().item() for samples in inputs} == {0}
    assert [samples.images.shape[2:] for samples in inputs[2:]] == [(64,) * 3, (32,) * 3]


def test_all_combinations_of_codes_can_be_rendered(table):
    """Also those that the table never has: every sign at once, on each type."""
    row = table[table["diameter"].between(24, 28)].iloc[0]
    for code in category("lesion_type").codes:
        loud = changed(row, lesion_type=code, lesion_location=0, **dict.fromkeys(SIGNS, 2))
        assert li.render(loud).masks.any()


def mean_hu(crop: Crop) -> float:
    return float(crop.hu[crop.masks[0]].mean())


def equivalent_diameter(crop: Crop) -> float:
    return float((6 * crop.masks[0].sum() * np.prod(crop.spacing) / np.pi) ** (1 / 3))


def test_wang_s_counts_are_those_of_table_1():
    printed = published.table("wang2021", 1).set_index("category")
    for seed in (0, 1):
        drawn = wang.nodules(seed=seed)
        counts = pd.crosstab(drawn["pathology"], drawn["part"], margins=True, margins_name="total")
        assert counts.loc[PATHOLOGIES].equals(printed.loc[PATHOLOGIES, counts.columns])
        assert drawn["patient"].nunique() == len(drawn) == 740


def test_size_density_and_core_grow_from_aah_to_iac_and_interference_tells_nothing():
    many = wang.nodules(20_000).groupby("pathology")
    for name in ("diameter", "glass_hu", "solid_share"):
        assert many[name].mean()[PATHOLOGIES].is_monotonic_increasing, name
        # each type reaches into the next: three quarters of one exceed a quarter of the next
        high, low = many[name].quantile(0.75), many[name].quantile(0.25)
        for one, following in pairwise(PATHOLOGIES):
            assert high[one] >= low[following], (name, one)
    for name in ("has_vessel", "at_wall"):
        assert np.ptp(many[name].mean()) < 0.05, name  # five standard errors of the AAH


def test_size_density_and_core_show_in_the_voxels(glass):
    for row in glass:
        crop = wang.render(row)
        assert equivalent_diameter(crop) == pytest.approx(7.2, abs=1.3)  # oval: 8 is the longest
        assert -720 < mean_hu(crop) < -560
        larger = wang.render(changed(row, diameter=9.5))
        assert equivalent_diameter(larger) > equivalent_diameter(crop) + 0.7
        denser = wang.render(changed(row, glass_hu=-500.0))
        assert mean_hu(denser) > mean_hu(crop) + 50
        solid = wang.render(changed(row, solid_share=0.6))
        mask = solid.masks[0]
        assert np.array_equal(mask, crop.masks[0])
        inner = ndimage.distance_transform_edt(mask, sampling=solid.spacing) > 2.4
        assert solid.hu[inner].mean() > crop.hu[inner].mean() + 250


def test_vessels_and_wall_interfere(glass):
    def dense(row: pd.Series) -> float:
        """Share of the voxels around the nodule that are vessel or wall."""
        crop = wang.render(row)
        away = ndimage.distance_transform_edt(~crop.masks[0], sampling=crop.spacing)
        return float((crop.hu[(away > 0.5) & (away < 4)] > -300).mean())

    neither, vessel, wall = (
        np.array([dense(changed(row, **interference)) for row in glass])
        for interference in ({}, {"has_vessel": True}, {"at_wall": True})
    )
    assert vessel.mean() > neither.mean() + 0.01
    assert wall.mean() > neither.mean() + 0.05
    assert (vessel - neither).min() >= -0.005


def test_large_vessels_are_left_out_of_the_mask(glass):
    without = sum(wang.render(row).masks.sum() for row in glass)
    crops = [wang.render(changed(row, has_vessel=True)) for row in glass]
    kept = sum(crop.masks.sum() for crop in crops)
    assert 0.5 * without < kept < without
    assert all((crop.hu[crop.masks[0]] > -100).mean() < 0.1 for crop in crops)


@pytest.mark.slow
def test_types_overlap_so_that_one_number_is_not_enough():
    """AUCs of 220 nodules, against those of all 740."""
    some = wang.nodules().iloc[:220]
    crops = [wang.render(row, size=44) for _, row in some.iterrows()]
    measures = {
        "diameter": np.array([equivalent_diameter(crop) for crop in crops]),
        "mean HU": np.array([mean_hu(crop) for crop in crops]),
    }
    kind = some["pathology"].to_numpy()
    for positive, among, expected in (
        (("MIA", "IAC"), wang.TYPES, (0.67, 0.78)),
        (("IAC",), wang.TYPES, (0.69, 0.78)),
        (("MIA",), ("AIS", "MIA"), (0.61, 0.71)),
    ):
        here = np.isin(kind, list(among))
        for measure, auc in zip(measures.values(), expected, strict=True):
            found = roc_auc_score(np.isin(kind, positive)[here], measure[here])
            assert found == pytest.approx(auc, abs=0.08)
