from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy.ndimage import map_coordinates

from lesionlab.papers import lei2020


def test_the_data_sets_nest(some_crops):
    one, scales, eleven, twenty_one = (
        lei2020.prepare(some_crops, **options).images for options in lei2020.IMAGE_SETS.values()
    )
    torch.testing.assert_close(eleven, twenty_one[:, 5:16], rtol=0, atol=1e-6)
    torch.testing.assert_close(one, eleven[:, 5:6], rtol=0, atol=1e-6)
    torch.testing.assert_close(scales[:, :1], one, rtol=0, atol=1e-6)


def test_against_simpleitk_and_scipy(make_crop):
    crop = make_crop(spacing=(2.5, 0.7, 0.7), radii=(8, 6, 5))
    mask = crop.consensus()
    z, y, x = np.argwhere(mask).mean(0)
    # SimpleITK resamples z to 1 mm through the centroid, pixels stay
    image = sitk.GetImageFromArray(crop.hu.astype(np.float64))
    image.SetSpacing([0.7, 0.7, 2.5])
    grid = ([0, 0, z * 2.5 - 5], [0.7, 0.7, 1.0], np.eye(3).ravel().tolist())
    size = (*crop.hu.shape[:0:-1], 11)
    thin = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, *grid, 9999.0)
    thin = sitk.GetArrayFromImage(thin)
    assert 9999 not in thin
    diameter = (6 * mask.sum() * 2.5 * 0.49 / np.pi) ** (1 / 3)
    side = 2 * diameter / 0.7
    rows, columns = (c + ((np.arange(32) + 0.5) / 32 - 0.5) * side for c in (y, x))
    at = np.meshgrid(rows, columns, indexing="ij")
    expected = np.stack([map_coordinates(s, at, order=1) for s in thin])
    samples = lei2020.prepare([crop])
    got = samples.images[0].numpy() * 1424 - 1024
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert (samples.padded[0], samples.missing[0]) == (0, 0)


def test_scales_are_2_3_and_4_diameters(make_crop):
    crop = make_crop(shape=(15, 128, 128))
    ramp = replace(crop, hu=(np.arange(128) * np.ones_like(crop.hu)).astype(np.int16))
    images = lei2020.prepare([ramp], **lei2020.IMAGE_SETS["D3C"], window=(0, 1000)).images[0] * 1000
    mm = (images[:, 0, -1] - images[:, 0, 0]).numpy() * 0.7
    diameter = (6 * crop.consensus().sum() * 2 * 0.49 / np.pi) ** (1 / 3)
    assert mm == pytest.approx(np.array([2, 3, 4]) * diameter * 31 / 32, rel=1e-4)


def test_too_small_crops_are_padded_and_counted(make_crop):
    small = make_crop(shape=(3, 20, 20))
    assert lei2020.prepare([small]).padded[0] > 0.4
    report = lei2020.prepare([small, make_crop(shape=(15, 128, 128))]).report()
    assert (report["padded"], report["lesions"]) == (1, 2)
    air = lei2020.prepare([small], channels=21, outside=-1024.0)
    assert (air.images[0, 0] == 0).all()
