"""Phantom ground-glass nodules: Table 1's counts, types that overlap, interference, honesty."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lesionlab import published
from lesionlab.crops import Crop
from lesionlab.papers import wang2021 as paper
from lesionlab.sources.phantom import wang2021 as wang


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return wang.nodules()


@pytest.fixture(scope="module")
def plain(table: pd.DataFrame) -> list[pd.Series]:
    """Nodules of 8 mm without core, vessel or wall."""
    bare = {"diameter": 8.0, "glass_hu": -600.0, "solid_share": 0.0}
    bare |= {"has_vessel": False, "at_wall": False}
    return [changed(row, **bare) for _, row in table.head(6).iterrows()]


def changed(row: pd.Series, **values: object) -> pd.Series:
    return pd.Series(row.to_dict() | values, name=row.name)


def mean_hu(crop: Crop) -> float:
    return float(crop.hu[crop.masks[0]].mean())


def equivalent_diameter(crop: Crop) -> float:
    return float((6 * crop.masks[0].sum() * np.prod(crop.spacing) / np.pi) ** (1 / 3))


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_are_those_of_table_1(seed: int) -> None:
    drawn = wang.nodules(seed=seed)
    kinds = ["AAH", "AIS", "MIA", "IAC"]
    counts = pd.crosstab(drawn["pathology"], drawn["part"], margins=True, margins_name="total")
    printed = published.table("wang2021", 1).set_index("category")
    columns = ["training", "testing", "total"]
    assert (counts.loc[kinds, columns] == printed.loc[kinds, columns]).all(axis=None)
    assert len(drawn) == 740
    assert drawn["patient"].is_unique


def test_size_density_and_core_grow_from_aah_to_iac() -> None:
    many = wang.nodules(20_000).groupby("pathology")
    order = ["AAH", "AIS", "MIA", "IAC"]
    for name in ("diameter", "glass_hu", "solid_share"):
        assert many[name].mean().loc[order].is_monotonic_increasing, name
        # each type reaches into the next: three quarters of one exceed a quarter of the next
        high, low = many[name].quantile(0.75), many[name].quantile(0.25)
        for one, following in pairwise(order):
            assert high[one] >= low[following], (name, one)


def test_interference_tells_nothing_about_the_type() -> None:
    many = wang.nodules(20_000).groupby("pathology")
    for name in ("has_vessel", "at_wall"):
        share = many[name].mean()
        assert share.max() - share.min() < 0.05, name  # five standard errors of the AAH


def test_crop_holds_the_paper_s_patch(table: pd.DataFrame) -> None:
    crops = [wang.render(row) for _, row in table.head(12).iterrows()]
    samples = paper.prepare(crops)
    assert samples.images.shape == (12, 1, 32, 32, 32)
    assert samples.padded.max() == 0
    assert samples.masks is not None
    assert (samples.masks.sum(dim=(1, 2, 3, 4)) > 10).all()
    assert {(crop.tier, len(crop.masks), *crop.hu.shape[1:]) for crop in crops} == {
        ("phantom", 1, 64, 64)
    }


def test_size_density_and_core_show_in_the_voxels(plain: list[pd.Series]) -> None:
    for row in plain:
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


def test_vessels_and_wall_interfere(plain: list[pd.Series]) -> None:
    def dense(row: pd.Series) -> float:
        """Share of the voxels around the nodule that are vessel or wall."""
        crop = wang.render(row)
        away = ndimage.distance_transform_edt(~crop.masks[0], sampling=crop.spacing)
        return float((crop.hu[(away > 0.5) & (away < 4)] > -300).mean())

    neither, vessel, wall = (
        np.array([dense(changed(row, **interference)) for row in plain])
        for interference in ({}, {"has_vessel": True}, {"at_wall": True})
    )
    assert vessel.mean() > neither.mean() + 0.01
    assert wall.mean() > neither.mean() + 0.05
    assert (vessel - neither).min() >= -0.005


def test_large_vessels_are_left_out_of_the_mask(plain: list[pd.Series]) -> None:
    without = sum(wang.render(row).masks.sum() for row in plain)
    crops = [wang.render(changed(row, has_vessel=True)) for row in plain]
    kept = sum(crop.masks.sum() for crop in crops)
    assert 0.5 * without < kept < without
    assert all((crop.hu[crop.masks[0]] > -100).mean() < 0.1 for crop in crops)


def test_pathology_itself_is_never_read(table: pd.DataFrame) -> None:
    row = table.iloc[3]
    others = changed(row, pathology="AAH"), changed(row, pathology=None), row.drop("pathology")
    assert len({wang.render(one).hu.tobytes() for one in (row, *others)}) == 1


@pytest.mark.slow
def test_types_overlap_as_the_docstring_says(table: pd.DataFrame) -> None:
    """One number alone is far from enough; AUCs of 220 nodules, against those of all 740."""
    some = table.iloc[:220]
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
