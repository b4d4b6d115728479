"""One lesion's voxels: what a crop accepts, and its consensus."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lesionlab.crops import Crop


def crop(**changes: Any) -> Crop:
    masks = np.zeros((2, 3, 4, 5), dtype=bool)
    masks[0, 1, 1:3, 1:3] = True
    masks[1, 1, 2, 2] = True
    whole: dict[str, Any] = {
        "lesion_id": "L-1",
        "hu": np.zeros((3, 4, 5), dtype=np.int16),
        "masks": masks,
        "spacing": (2.5, 0.7, 0.7),
        "slice_index": np.array([7, 8, 10]),
        "corner": (-2, 300),
        "calibrated": np.ones(3, dtype=bool),
        "tier": "slices",
    }
    return Crop(**(whole | changes))


def test_origin_is_the_first_voxel_in_the_scan() -> None:
    assert crop().origin == (7, -2, 300)


@pytest.mark.parametrize(("level", "voxels"), [(0.5, 4), (0.51, 1), (1, 1), (0.01, 4)])
def test_consensus_counts_readers(level: float, voxels: int) -> None:
    assert crop().consensus(level).sum() == voxels


def test_consensus_of_everybody_is_the_intersection() -> None:
    made = crop()
    assert np.array_equal(made.consensus(1), made.masks.all(axis=0))


@pytest.mark.parametrize("level", [0, -1, 1.01, float("nan")])
def test_consensus_wants_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="expected a share above 0 and up to 1"):
        crop().consensus(level)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hu": np.zeros((3, 4, 5))}, r"hu of L-1: expected int16 \(z, y, x\).*float64"),
        ({"hu": np.zeros((3, 4, 0), np.int16)}, "without an empty axis"),
        ({"hu": np.zeros((4, 5), np.int16)}, "hu of L-1"),
        ({"masks": np.zeros((2, 3, 4, 4), bool)}, r"expected bool \(reader, 3, 4, 5\)"),
        ({"masks": np.zeros((2, 3, 4, 5), np.uint8)}, "got uint8"),
        ({"hu": [[[0]]]}, r"hu of L-1: expected an array, got \[\[\[0\]\]\]"),
        ({"calibrated": None}, "calibrated of L-1: expected an array, got None"),
        ({"slice_index": np.arange(2)}, "slice_index of L-1: expected one value per slice, 3"),
        ({"slice_index": np.arange(3.0)}, "3, as int64, got float64"),
        ({"calibrated": np.ones((3, 1), bool)}, "calibrated of L-1"),
        ({"calibrated": np.ones(3)}, "3, as bool, got float64"),
        ({"corner": (1, 2, 3)}, r"corner of L-1: expected two whole numbers \(y, x\)"),
        ({"corner": (1, 2.5)}, r"corner of L-1: .*got \(1, 2\.5\)"),
        ({"tier": "real"}, "tier of L-1: expected one of phantom, slices, dicom, got 'real'"),
        ({"spacing": (2.5, 0.7)}, "spacing of L-1"),
        ({"spacing": (2.5, 0.7, 0.0)}, "mm above 0"),
        ({"spacing": (2.5, -0.7, 0.7)}, "mm above 0"),
        ({"spacing": (2.5, 0.7, float("nan"))}, "mm above 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        crop(**changes)


def test_a_crop_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        crop().tier = "dicom"  # type: ignore[misc]


def test_crops_are_compared_by_identity_and_can_be_keys() -> None:
    one, other = crop(), crop()
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_the_store_is_at_hand_and_loads_only_then() -> None:
    code = (
        "import sys, lesionlab.crops as crops\n"
        "assert 'lesionlab.crops.stores' not in sys.modules and 'pandas' not in sys.modules\n"
        "from lesionlab.crops import CropStore\n"
        "import lesionlab.crops.stores as stores\n"
        "assert CropStore is stores.CropStore\n"
        "assert 'zarr' not in sys.modules and 'fsspec' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_are_missing_as_ever() -> None:
    import lesionlab.crops

    with pytest.raises(AttributeError, match="no attribute 'Crops'"):
        lesionlab.crops.Crops  # noqa: B018
