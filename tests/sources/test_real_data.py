"""Real data sets can be read as they are published, and where one is named nothing is skipped."""

from __future__ import annotations

import zipfile
from io import BytesIO

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from lesionlab.sources import lidc

VARIABLES = ("LESIONLAB_LIDC_SLICES", "LESIONLAB_LIDC_VOLUMES", "LESIONLAB_LIDC_DIAGNOSES")


def test_a_volume_shows_the_pixels_of_its_slices(real_volumes, real_slices, tmp_path):
    """NIfTI's axes are (x, y, z), and SimpleITK's arrays (z, y, x), as ours."""
    name = "lidc-idri-volumes/LIDC-IDRI-0001_R_1.nii.gz"
    with zipfile.ZipFile(real_volumes) as archive:
        image = sitk.ReadImage(archive.extract(name, tmp_path))
    nodules = lidc.nodules()
    nodule = nodules[nodules["patient"] == "LIDC-IDRI-0001"].iloc[0]
    in_plane = nodule["pixel_spacing"]
    assert image.GetSpacing() == pytest.approx((in_plane, in_plane, nodule["slice_spacing"]))
    hu = sitk.GetArrayFromImage(image)
    assert (hu.dtype, hu.shape) == (np.int16, image.GetSize()[::-1])

    with zipfile.ZipFile(real_slices) as archive:
        picture = archive.read("LIDC-IDRI-slices/LIDC-IDRI-0001/nodule-0/images/slice-4.png")
    pixels = np.asarray(Image.open(BytesIO(picture)), float)[32 : 32 + hu.shape[1]]
    # 8 bits of what was scaled to the slice: steps of 7.79 HU, hence half a step off at most
    again = 7.78748 * pixels[:, 40 : 40 + hu.shape[2]] - 1011.94572
    assert np.abs(again - hu[5]).max() < 4.5


def test_the_diagnoses_are_a_sheet_of_excel_97(real_diagnoses):
    assert real_diagnoses.read_bytes().startswith(bytes.fromhex("d0cf11e0a1b11ae1"))


def test_a_test_is_skipped_without_the_variable_and_fails_with_a_wrong_one(
    request, root, monkeypatch
):
    shared = request.config.pluginmanager.get_plugin(str(root / "tests" / "conftest.py"))
    monkeypatch.setenv(VARIABLES[0], "")
    with pytest.raises(pytest.skip.Exception, match=f"{VARIABLES[0]} is not set"):
        shared.find(VARIABLES[0])
    monkeypatch.setenv(VARIABLES[0], "/no/such/file")
    with pytest.raises(pytest.fail.Exception, match=f"{VARIABLES[0]}='/no/such/file': expected"):
        shared.find(VARIABLES[0])
