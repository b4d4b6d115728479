"""One lesion's voxels: what a crop accepts, and its consensus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lesionlab.crops import Crop


def crop(**changes: Any) -> Crop:
    masks = np.zeros((2, 3, 4, 5), dtype=bool)
    masks[0, 1, 1:3, 1:3] = True
    masks[1, 1, 2, 2] = True
    hu, at = np.zeros((3, 4, 5), dtype=np.int16), np.array([7, 8, 10])
    whole = Crop("L-1", hu, masks, (2.5, 0.7, 0.7), at, (-2, 300), np.array([0, 3, -1]), "slices")
    return replace(whole, **changes)


def test_the_error_of_a_slice_follows_from_its_steps_in_the_slices_set_alone():
    assert crop().hu_error.tolist() == [5, 42, np.inf]
    assert crop(tier="dicom").hu_error.tolist() == [0, 0, np.inf]
    assert crop().calibrated.tolist() == [True, True, False]
    far = crop(steps=np.array([5, 6, 34]))
    assert far.hu_error.tolist() == [70, 155, 155]


@pytest.mark.parametrize(("level", "voxels"), [(0.5, 4), (0.51, 1), (1, 1), (0.01, 4)])
def test_consensus_counts_readers(level, voxels):
    assert crop().consensus(level).sum() == voxels


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hu": np.zeros((3, 4, 5))}, r"hu of L-1: expected \(3, 4, 5\) int16, got .*float64"),
        ({"hu": np.zeros((3, 0), np.int16)}, r"hu of L-1: expected \(z, y, x\)"),
        ({"masks": np.zeros((2, 3, 4, 4), bool)}, r"masks of L-1: expected \(2, 3, 4, 5\)"),
        ({"slice_index": np.arange(2)}, r"slice_index of L-1: expected \(3,\)"),
        ({"steps": np.ones(3)}, r"steps of L-1: expected \(3,\) int64"),
        ({"steps": np.array([0, -2, 1])}, "steps of L-1: expected -1 or more, got -2"),
        ({"corner": (1, 2.5)}, r"corner of L-1: .*got \(1, 2\.5\)"),
        ({"tier": "real"}, "tier of L-1='real'"),
        ({"spacing": (2.5, -0.7, float("nan"))}, "spacing of L-1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        crop(**changes)


@pytest.mark.parametrize("level", [0, 1.01, float("nan")])
def test_a_share_of_no_readers_or_of_more_than_all_is_refused(level):
    with pytest.raises(ValueError, match=rf"level={level}: expected a share above 0 and up to 1"):
        crop().consensus(level)
