"""What holds for the samples of every paper."""

from functools import partial

import pytest
import torch

from lesionlab.papers import fu2021, lei2020, li2021, liu2020, wang2021


@pytest.mark.parametrize(
    ("prepare", "shape", "low"),
    [
        (fu2021.prepare, (1, 64, 64), None),  # HU
        (partial(lei2020.prepare, channels=21), (21, 32, 32), 0),
        (partial(lei2020.prepare, **lei2020.IMAGE_SETS["D3C"]), (3, 32, 32), 0),
        (partial(li2021.prepare, mode="2d"), (1, 64, 64), 0),
        (partial(li2021.prepare, mode="2.5d"), (5, 64, 64), 0),
        (partial(li2021.prepare, mode="3d"), (1, 64, 64, 64), 0),
        (liu2020.prepare, (1, 256, 256), 0),
        (wang2021.prepare, (1, 32, 32, 32), -1),
    ],
)
def test_a_batch_is_its_crops_one_by_one(some_crops, prepare, shape, low):
    together, alone = prepare(some_crops), [prepare([crop]) for crop in some_crops]
    tolerance = 1e-2 if low is None else 1e-5
    assert (together.images - torch.cat([a.images for a in alone])).abs().max() < tolerance
    assert together.images.dtype == torch.float32
    slices = prepare in (fu2021.prepare, liu2020.prepare)
    n = [int(c.consensus().any((1, 2)).sum()) if slices else 1 for c in some_crops]
    assert together.lengths.tolist() == n
    assert together.images.shape == (sum(n), *shape)
    if low is not None:
        assert low <= together.images.min() < together.images.max() <= 1
    if together.masks is not None:
        masks = torch.cat([a.masks for a in alone])
        torch.testing.assert_close(together.masks, masks, equal_nan=True)
        assert set(masks[masks.isfinite()].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (fu2021.prepare, {"share": 1.2}, "share=1.2"),
        (lei2020.prepare, {"channels": 10}, "channels=10"),
        (lei2020.prepare, {"scale": -1}, "scale=-1"),
        (li2021.prepare, {"mode": "4d"}, "mode='4d'"),
        (li2021.prepare, {"n_slices": 4}, "n_slices=4"),
        (li2021.prepare, {"window": (1, 0)}, "window="),
        (liu2020.prepare, {"scale": 0.5}, "scale=0.5"),
        (wang2021.prepare, {"spacing": (1.0, 0.7, -0.7)}, "spacing="),
    ],
)
def test_a_wrong_option_is_refused(make_crop, call, options, message):
    with pytest.raises(ValueError, match=message):
        call([make_crop()], **options)


@pytest.mark.parametrize("experiment", [fu2021.Fu2021, lei2020.Lei2020, wang2021.Wang2021])
def test_a_variant_that_does_not_exist(experiment):
    with pytest.raises(ValueError, match="variant='fool'"):
        experiment("fool")


@pytest.mark.parametrize("paper", [fu2021, wang2021])
def test_a_draw_for_another_batch_is_refused(some_crops, paper):
    drawn = paper.draw(3, torch.Generator())
    with pytest.raises(ValueError, match="the draw is for"):
        paper.apply(paper.prepare(some_crops), drawn)
