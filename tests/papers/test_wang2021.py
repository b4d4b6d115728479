from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from lesionlab.papers import wang2021


@pytest.fixture(scope="module")
def samples(some_crops):
    return wang2021.prepare(some_crops)


def test_against_simpleitk(make_crop):
    # seven slices of 2 mm are less than 32 mm: the rest is air
    crop = make_crop(shape=(7, 50, 48), spacing=(2.0, 0.62, 0.62), radii=(5, 6, 7))
    samples = wang2021.prepare([crop])
    mask = crop.consensus()
    centroid = np.argwhere(mask).mean(0)
    spacing = np.array(crop.spacing)
    first = centroid * spacing - np.array(wang2021.SPACING) * 31 / 2

    def resampled(values, interpolator, fill):
        image = sitk.GetImageFromArray(values.astype(np.float64))
        image.SetSpacing(spacing[::-1].tolist())
        grid = (first[::-1].tolist(), [0.7, 0.7, 1.0], np.eye(3).ravel().tolist())
        done = sitk.Resample(image, (32, 32, 32), sitk.Transform(), interpolator, *grid, fill)
        return sitk.GetArrayFromImage(done)

    hu = resampled(crop.hu, sitk.sitkLinear, -1024)
    expected = (np.clip(hu, -1024, 400) + 1024) / (400 + 1024) * 2 - 1  # eq. 5
    np.testing.assert_allclose(samples.images[0, 0].numpy(), expected, atol=1e-6)
    nearest = resampled(mask, sitk.sitkNearestNeighbor, -1)
    masks = samples.masks[0, 0].nan_to_num(-1).numpy()
    assert np.mean(masks == nearest) > 0.9995  # ties of the rounding
    assert samples.padded[0] == pytest.approx((hu == -1024).mean(), abs=1e-3)


def test_what_is_left_outside_of_the_mask():
    images = torch.tensor([[[[[-0.8, 0.4, 0.2]]]]])
    masks = torch.tensor([[[[[0.0, 1.0, 0.5]]]]])
    zero = wang2021.apply_mask(images, masks)
    air = wang2021.apply_mask(images, masks, mask_fill="air")
    assert zero.flatten().tolist() == pytest.approx([0, 0.4, 0.1])
    assert air.flatten().tolist() == pytest.approx([-1, 0.4, 0.1 - 0.5])
    unknown = torch.full_like(masks, torch.nan)
    assert not wang2021.apply_mask(images, unknown).any()
    assert (wang2021.apply_mask(images, unknown, mask_fill="air") == -1).all()
    with pytest.raises(ValueError, match="mask_fill='water'"):
        wang2021.apply_mask(images, masks, mask_fill="water")
    with pytest.raises(ValueError, match="masks: shape"):
        wang2021.apply_mask(images, masks[..., :1])


def test_augmentation_by_hand(samples):
    drawn = wang2021.draw(7, torch.Generator().manual_seed(3))
    moved = wang2021.apply(samples, drawn)
    planes = ((-2, -1), (-3, -1), (-3, -2))
    for i in range(7):
        for name, noise in (("images", drawn.noise[i]), ("masks", 0)):
            one = getattr(samples, name)[i].flip([a - 3 for a in range(3) if drawn.flips[i, a]])
            one = torch.rot90(one, int(drawn.turns[i]), planes[int(drawn.axis[i])])
            # missing voxels have no noise
            expected = one + noise * moved.masks[i].isfinite()
            assert torch.equal(getattr(moved, name)[i].nan_to_num(9), expected.nan_to_num(9))


def test_what_is_drawn():
    drawn = wang2021.draw(6_000, torch.Generator().manual_seed(0), size=2, noise_hu=71.2)
    assert drawn.flips.sum(1).max() == 1
    assert float(drawn.flips.any(1).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert drawn.flips.float().mean(0).tolist() == pytest.approx([1 / 6] * 3, abs=0.02)
    assert (torch.bincount(drawn.axis) / 6_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert (torch.bincount(drawn.turns) / 6_000).tolist() == pytest.approx([0.25] * 4, abs=0.02)
    # 71.2 HU of 1424 HU, which are 2 units
    assert float(drawn.noise.std()) == pytest.approx(0.1, rel=0.02)
    with pytest.raises(ValueError, match="noise_hu=-1"):
        wang2021.draw(1, torch.Generator(), noise_hu=-1)


def test_missing_slices_are_bridged_and_counted(make_crop):
    crop = make_crop(slice_index=[40, 43, 45, 46, 47, 48, 49, 52, 54])
    gappy = replace(crop, hu=np.ones_like(crop.hu) * crop.slice_index[:, None, None].astype("i2"))
    samples = wang2021.prepare([gappy])
    z = np.argwhere(gappy.consensus())[:, 0]
    centre = gappy.slice_index[z].mean()
    expected = np.clip(centre + (np.arange(32) - 15.5) / 2, 40, 54)
    inside = (expected > 40) & (expected < 54)
    got = (samples.images[0, 0, :, 16, 16].numpy() + 1) / 2 * 1424 - 1024
    np.testing.assert_allclose(got[inside], expected[inside], atol=1e-3)
    assert samples.missing.tolist() == [6]
