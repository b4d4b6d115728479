from dataclasses import replace

import numpy as np
import pytest
import torch

from lesionlab.papers import li2021


def ramp(crop, axis):
    """The position along an axis in mm, as HU."""
    at = crop.slice_index if axis == 0 else np.arange(crop.hu.shape[axis])
    shape = [1, 1, 1]
    shape[axis] = -1
    steps = at.reshape(shape) * np.ones(crop.hu.shape)
    return replace(crop, hu=steps.astype(np.int16)), crop.spacing[axis]


def test_the_cube_is_d_mm_along_every_axis(make_crop):
    crop = make_crop(spacing=(1.5, 0.6, 0.6), radii=(9, 6, 5))
    rows = np.ptp(np.flatnonzero(crop.consensus().any((0, 2)))) + 1
    d = rows * 0.6
    for axis in range(3):
        made, spacing = ramp(crop, axis)
        image = li2021.prepare([made], mode="3d", window=(0, 1000)).images[0, 0] * 1000
        mm = image.movedim(axis, 0)[:, 0, 0].numpy() * spacing
        # 64 cells, so first and last middle are 63/64 of the side apart
        assert mm[-1] - mm[0] == pytest.approx(d * 63 / 64, abs=1e-3)
        middle = (47, 31.5, 29.5)[axis]
        assert (mm[-1] + mm[0]) / 2 == pytest.approx(middle * spacing, abs=1e-3)


def test_slices_are_the_scans_own(make_crop):
    crop = make_crop(radii=(6, 5, 4))  # largest on slice 47, the middle of 40 to 54
    made, _ = ramp(crop, 0)
    for n in (5, 11):
        image = li2021.prepare([made], mode="2.5d", n_slices=n, window=(0, 100)).images[0] * 100
        half = n // 2
        expected = torch.arange(47 - half, 48.0 + half)
        torch.testing.assert_close(image[:, 30, 30], expected, rtol=0, atol=1e-4)
    flat = li2021.prepare([made], window=(0, 100)).images[0] * 100
    torch.testing.assert_close(flat[0, 30, 30], torch.tensor(47.0), rtol=0, atol=1e-4)


def test_the_slice_is_the_largest_not_the_middle_one(make_crop):
    crop = make_crop()
    masks = crop.masks.copy()
    masks[:, 5, 20:40, 20:40] = True  # slice 45
    made, _ = ramp(replace(crop, masks=masks), 0)
    assert li2021.prepare([made], window=(0, 100)).images[0, 0, 9, 9] == pytest.approx(0.45)


@pytest.mark.parametrize("mode", ["2d", "2.5d", "3d"])
def test_augmentation(some_crops, mode):
    samples = li2021.prepare(some_crops, mode=mode)
    # the last one is a single slice, and has none above and below
    assert (samples.padded[-1] > 0.4) == (mode != "2d")
    drawn = li2021.draw(7, torch.Generator().manual_seed(2), p=0.6)
    moved = li2021.apply(samples, drawn).images
    for i, image in enumerate(samples.images):
        one = image.flip(-1) if drawn.flip_x[i] else image
        assert torch.equal(moved[i], torch.rot90(one, int(drawn.turns[i]), (-2, -1)))


def test_30_percent_change_in_seven_ways():
    drawn = li2021.draw(20_000, torch.Generator().manual_seed(0))
    kind = torch.bincount(4 * drawn.flip_x + drawn.turns, minlength=8) / 20_000
    assert kind.tolist() == pytest.approx([0.7, *[0.3 / 7] * 7], abs=0.01)
