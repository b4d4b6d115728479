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
        (partial(lei2020.prepare, **lei2020.IMAGE_SETS["D3C"]), 1e-5),
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


@pytest.mark.parametrize(
    ("paper", "options", "message"),
    [
        (fu2021, {"share": 1.2}, "share=1.2"),
        (lei2020, {"channels": 10}, "channels=10: expected an odd"),
        (lei2020, {"scale": -1}, "expected numbers above 0"),
        (li2021, {"mode": "4d"}, "mode='4d'"),
        (li2021, {"n_slices": 4}, "n_slices=4: expected an odd"),
        (li2021, {"window": (1, 0)}, "window="),
        (liu2020, {"scale": 0.5}, "scale=0.5"),
        (wang2021, {"spacing": (1.0, 0.7, -0.7)}, "spacing="),
    ],
)
def test_a_wrong_option_is_refused(make_crop, paper, options, message):
    with pytest.raises(ValueError, match=message):
        paper.prepare([make_crop()], **options)


@pytest.mark.parametrize("paper", [fu2021, wang2021])
def test_a_draw_for_another_batch_is_refused(some_crops, paper):
    drawn = paper.draw(3, torch.Generator())
    with pytest.raises(ValueError, match="the draw is for"):
        paper.apply(paper.prepare(some_crops), drawn)
