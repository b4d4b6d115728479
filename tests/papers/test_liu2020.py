import numpy as np
import pytest
import torch

from lesionlab.papers import fu2021, liu2020


@pytest.fixture(scope="module")
def samples(some_crops):
    return liu2020.prepare(some_crops)


def test_the_window_is_fu_2021s(make_crop):
    crop = make_crop()
    ours = liu2020.prepare([crop], size=64, window=(-2000, 2000)).images
    torch.testing.assert_close(ours * 4000 - 2000, fu2021.prepare([crop]).images, rtol=0, atol=1e-3)


def test_crop_and_flip(samples):
    images = samples.images[:9]
    drawn = liu2020.draw(9, torch.Generator().manual_seed(4))
    out = liu2020.apply(images, drawn)
    assert out.shape == (9, 1, 224, 224)
    for i, image in enumerate(images):
        top, left = int(drawn.top[i]), int(drawn.left[i])
        one = image[:, top : top + 224, left : left + 224]
        axes = [a for a, f in ((-1, drawn.flip_x[i]), (-2, drawn.flip_y[i])) if f]
        assert torch.equal(out[i], one.flip(axes))


def test_every_place_is_drawn():
    drawn = liu2020.draw(20_000, torch.Generator().manual_seed(0))
    for first in (drawn.top, drawn.left):
        assert (int(first.min()), int(first.max())) == (0, 32)
        assert float(first.float().mean()) == pytest.approx(16, abs=0.3)
    for flip in (drawn.flip_x, drawn.flip_y):
        assert float(flip.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_centre_crop():
    image = torch.arange(256.0).expand(2, 1, 256, 256)
    assert torch.equal(liu2020.centre_crop(image), image[..., 16:240, 16:240])


def test_three_channels():
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(liu2020.to_rgb(grey, imagenet=False), grey.repeat(1, 3, 1, 1))
    rgb = liu2020.to_rgb(torch.full((1, 1, 2, 2), 0.485))
    expected = [0, (0.485 - 0.456) / 0.224, (0.485 - 0.406) / 0.225]
    assert rgb[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ones", [3, 17, 60])
def test_balancing_repeats_the_rarer_label_evenly(ones):
    labels = torch.tensor([1] * ones + [0] * (100 - ones))
    rows = liu2020.balanced(labels, torch.Generator().manual_seed(0))
    most = max(ones, 100 - ones)
    assert torch.bincount(labels[rows]).tolist() == [most, most]
    times = np.bincount(rows.numpy(), minlength=100)
    for label in (0, 1):
        mine = times[labels.numpy() == label]
        assert mine.max() - mine.min() <= 1
        assert mine.min() >= 1
    assert torch.equal(rows, liu2020.balanced(labels, torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="4 of label 0 and 0 of label 1"):
        liu2020.balanced(torch.zeros(4, dtype=torch.int64), torch.Generator())


def test_a_crop_larger_than_the_image(samples):
    with pytest.raises(ValueError, match="size=300"):
        liu2020.draw(2, torch.Generator(), size=300)
    with pytest.raises(ValueError, match="size=300"):
        liu2020.centre_crop(samples.images, size=300)
