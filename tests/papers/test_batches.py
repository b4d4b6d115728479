"""What holds for the samples of every paper."""

from functools import partial

import pytest
import torch

from lesionlab.papers import fu2021, lei2020, li2021, liu2020, wang2021


@pytest.mark.parametrize(
    ("prepare", "tolerance"),
    [
        (fu2021.prepare, 1e-2),  # HU
        (partial(lei2020.prepare, channels=21), 1e-5),
        (lei2020.prepare_scales, 1e-5),
        *((partial(li2021.prepare, mode=mode), 1e-5) for mode in ("2d", "2.5d", "3d")),
        (liu2020.prepare, 1e-5),
        (wang2021.prepare, 1e-5),
    ],
)
def test_a_batch_is_its_crops_one_by_one(some_crops, prepare, tolerance):
    together, alone = prepare(some_crops), [prepare([crop]) for crop in some_crops]
    assert (together.images - torch.cat([a.images for a in alone])).abs().max() < tolerance
    if together.masks is not None:
        torch.testing.assert_close(together.masks, torch.cat([a.masks for a in alone]))
