"""Masks of a scan of one's own: the same lesion from each format, and none of another scan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.sr.codedict import codes

from lesionlab.sources import anno, masks
from lesionlab.sources.anno import writing
from lesionlab.sources.dicom import DicomError, Volume
from lesionlab.sources.masks import Ball, MaskError
from lesionlab.sources.nifti import BadVolumeError

FORMS: dict[Any, str] = {"nifti": "m.nii.gz", "dicom-seg": "seg.dcm", "rtstruct": "rt.dcm"}


@pytest.fixture
def scan(own_scans, tmp_path) -> Volume:
    return masks.read_scan(own_scans.write(tmp_path))


def whole(scan: Volume, crop: Any) -> Any:
    """The crop's mask on the scan's voxels."""
    placed = np.zeros(scan.hu.shape, bool)
    z, y, x = crop.origin
    _, *size = crop.masks.shape
    placed[z : z + size[0], y : y + size[1], x : x + size[2]] = crop.masks[0]
    return placed


def itk(path: Path, array: Any, scan: Volume, *, spacing: Any = None, origin: Any = None) -> Path:
    """A mask as another program writes it."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((spacing or scan.spacing)[::-1])
    image.SetOrigin(origin or scan.origin_mm)
    image.SetDirection(scan.direction.ravel())
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
def test_one_lesion_in_each_format_is_the_same_crop(own_scans, tmp_path, turned, uneven):
    """With a hole, on even and uneven slices, and of a patient who lies prone."""
    mask = own_scans.lesion(hole=True)
    z = np.arange(len(mask)) * 2.5 + (np.arange(len(mask)) % 3 == 0) * 0.4 * uneven
    folder = own_scans.write(tmp_path, mask=mask, slice_z=z.tolist(), spacing=(2.5, 0.7, 0.6))
    for file in folder.iterdir() if turned else ():
        one = pydicom.dcmread(file)
        one.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        one.save_as(file)
    scan = masks.read_scan(tmp_path)
    found = []
    for form, name in FORMS.items():
        path = masks.write(scan, mask, tmp_path / name, form)
        # uneven slices cannot be said in NIfTI: it is taken slice by slice all the same
        crops, notes = masks.crops(scan, path)
        assert (len(crops), notes) == (1, ())
        np.testing.assert_array_equal(whole(scan, crops[0]), mask)
        found.append(crops[0])
    for crop in found[1:]:
        np.testing.assert_array_equal(crop.hu, found[0].hu)
        assert (crop.origin, crop.spacing, crop.tier) == (found[0].origin, scan.spacing, "phantom")
    (again,), _ = masks.crops(scan, mask)
    np.testing.assert_array_equal(again.masks, found[0].masks)
    with pytest.raises(FileExistsError, match="expected a new file"):
        masks.write(scan, mask, path, form)


def test_other_programs_find_what_was_written_where_it_is(scan, own_scans, tmp_path):
    mask = own_scans.lesion()
    image = sitk.ReadImage(str(masks.write(scan, mask, tmp_path / "m.nii.gz", "nifti")))
    at = np.argwhere(mask)[17]
    place = scan.patient_mm(at)
    assert image.TransformPhysicalPointToIndex(place.tolist()) == tuple(at[::-1].tolist())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image) > 0, mask)
    seg = hd.seg.segread(masks.write(scan, mask, tmp_path / "seg.dcm", "dicom-seg"))
    volume = seg.get_volume(combine_segments=True)
    inside = volume.map_indices_to_reference(np.argwhere(volume.array)).mean(axis=0)
    np.testing.assert_allclose(inside, scan.patient_mm(np.argwhere(mask)).mean(axis=0), atol=1e-3)


def test_a_mask_on_finer_voxels_is_brought_to_the_scan(scan, own_scans, tmp_path):
    """Each voxel in 2 × 2 × 2: in the middle of the eight, any of them is the nearest."""
    mask = own_scans.lesion()
    fine = np.kron(mask, np.ones((2, 2, 2), int)).astype(np.uint8)
    half = tuple(mm / 2 for mm in scan.spacing)
    first = scan.patient_mm(np.full(3, -0.25)).tolist()
    path = itk(tmp_path / "fine.nrrd", fine, scan, spacing=half, origin=first)
    crops, notes = masks.crops(scan, path)
    np.testing.assert_array_equal(whole(scan, crops[0]), mask)
    assert "has other voxels than the scan (1.25 × 0.35 × 0.35 mm, the scan 2.5" in notes[0]


def test_each_connected_part_of_each_label_is_a_lesion(scan, tmp_path):
    labels = np.zeros(scan.hu.shape, np.int16)
    labels[3:6, 20:26, 20:26] = 2
    labels[9:12, 20:26, 20:26] = 2
    labels[6:9, 60:66, 50:60] = 5
    labels[15, 80, 70] = 5  # a speck
    path = itk(tmp_path / "m.nii", labels, scan)
    crops, notes = masks.crops(scan, path)
    sizes = {crop.lesion_id: int(crop.masks.sum()) for crop in crops}
    assert sizes == {"lesion-2-1": 108, "lesion-2-2": 108, "lesion-5": 180}
    assert notes[0] == "1 parts of fewer than 4 voxels were left out"
    assert [c.lesion_id for c in masks.crops(scan, path, label=5).crops] == ["lesion-5"]
    with pytest.raises(MaskError, match=r"label=3 is not in it; there are 2, 5"):
        masks.crops(scan, path, label=3)


def segment(scan: Volume, mask: Any, path: Path, **changed: Any) -> Path:
    """Two segments as highdicom writes them, on voxels of their own if there are such."""
    source = [pydicom.dcmread(file) for file in scan.files]
    about = [
        hd.seg.SegmentDescription(k, "A Name", codes.SCT.Nodule, codes.SCT.Nodule, "MANUAL")
        for k in (1, 2)
    ]
    made = hd.seg.Segmentation(
        source_images=source, pixel_array=mask, segmentation_type="FRACTIONAL",
        segment_descriptions=about, series_instance_uid=hd.UID(), series_number=1,
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer="x",
        manufacturer_model_name="x", software_versions="1", device_serial_number="1", **changed,
    )  # fmt: skip
    made.save_as(path)
    return path


def test_segments_of_another_program(scan, own_scans, tmp_path):
    """Sparse frames, fractions, and a second segment on a window of half the pixel size."""
    mask = own_scans.lesion()
    other = np.roll(mask, (4, 20, 30), (0, 1, 2))
    both = np.stack([mask, other], axis=-1).astype(float)
    both[..., 1] *= 0.6
    path = segment(scan, both, tmp_path / "two.dcm")
    one, two = masks.crops(scan, path).crops
    np.testing.assert_array_equal(whole(scan, one), mask)
    np.testing.assert_array_equal(whole(scan, two), other)

    fine = np.repeat(np.repeat(both, 2, axis=1), 2, axis=2)
    corner = scan.patient_mm([(k, -0.25, -0.25) for k in range(len(mask))])
    how = {
        "pixel_measures": hd.PixelMeasuresSequence([0.35, 0.35], 2.5, 2.5),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", p.tolist()) for p in corner],
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [1, 0, 0, 0, 1, 0]),
    }
    path = segment(scan, fine, tmp_path / "fine.dcm", **how)
    (one, two), notes = masks.crops(scan, path)
    np.testing.assert_array_equal(whole(scan, one), mask)
    np.testing.assert_array_equal(whole(scan, two), other)
    assert "has other voxels than the scan" in notes[0]


def test_a_ball_has_its_volume_and_its_place(scan):
    centre = scan.patient_mm((9.3, 50.2, 30.1))
    (crop,), _ = masks.crops(scan, Ball(tuple(centre), 12.0))
    at = np.argwhere(whole(scan, crop))
    assert len(at) * np.prod(scan.spacing) == pytest.approx(np.pi / 6 * 12**3, rel=0.05)
    np.testing.assert_allclose(at.mean(axis=0), (9.3, 50.2, 30.1), atol=0.3)
    assert masks.crops(scan, Ball(tuple(centre), 0.01)).notes == ()
    for ball, why in (
        (Ball((900.0, 0.0, 0.0), 9.0), "outside of the scan"),
        (Ball(tuple(centre), 400.0), "at most 150"),
    ):
        with pytest.raises(MaskError, match=why):
            masks.crops(scan, ball)


def shifted(scan: Volume, mask: Any, path: Path) -> Path:
    first = scan.patient_mm((1, 0, 0)).tolist()
    return itk(path, mask.astype(np.uint8), scan, origin=first)


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_shifted_by_a_slice_is_refused(scan, own_scans, tmp_path, form):
    path = tmp_path / FORMS[form]
    if form == "nifti":
        shifted(scan, own_scans.lesion(), path)
    else:
        masks.write(scan, own_scans.lesion(), path, form)
        data: Any = pydicom.dcmread(path)
        if form == "dicom-seg":
            for frame in data.PerFrameFunctionalGroupsSequence:
                frame.PlanePositionSequence[0].ImagePositionPatient[2] += scan.spacing[0]
        else:
            for one in data.ROIContourSequence[0].ContourSequence:
                one.ContourData = [
                    float(v) + scan.spacing[0] * (k % 3 == 2) for k, v in enumerate(one.ContourData)
                ]
        data.save_as(path)
    with pytest.raises(MaskError, match="it is shifted"):
        masks.crops(scan, path)


@pytest.mark.parametrize("form", ["dicom-seg", "rtstruct"])
def test_a_mask_of_another_patient_is_refused(scan, own_scans, tmp_path, form):
    other = masks.read_scan(own_scans.write(tmp_path / "other", seed=7))
    path = masks.write(other, own_scans.lesion(), tmp_path / "m.dcm", form)
    with pytest.raises(DicomError, match="of another frame of reference than the scan"):
        masks.crops(scan, path)
    # and of another scan without one, it lies elsewhere
    elsewhere = itk(tmp_path / "m.nii", np.ones((4, 9, 9), np.uint8), scan, origin=(500, 0, 0))
    with pytest.raises(MaskError, match="outside of the scan"):
        masks.crops(scan, elsewhere)


def test_bad_masks_are_plain_errors(scan, own_scans, tmp_path):
    mask = own_scans.lesion()
    cases = {
        "the mask is empty": itk(tmp_path / "a.nii", 0 * mask.astype(np.uint8), scan),
        "is it an image": itk(tmp_path / "b.nii", scan.hu.astype(np.int16), scan),
        "got fractions": itk(tmp_path / "c.nii", mask * np.float32(0.5), scan),
        "expected whole numbers": mask[1:],
    }
    for why, bad in cases.items():
        with pytest.raises(MaskError, match=why):
            masks.crops(scan, bad)
    with pytest.raises(MaskError, match="is no mask"):
        masks.crops(scan, scan.files[0])
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        masks.crops(scan, tmp_path / "none.nii")
    text = tmp_path / "text.nii"
    text.write_text("no volume")
    with pytest.raises(BadVolumeError, match="is no NIfTI-1 file"):
        masks.crops(scan, text)
    lung = Volume(**vars(scan) | {"hu": scan.hu - np.int16(150)})
    air = masks.crops(lung, np.roll(mask, 25, axis=2)).notes[0]
    assert "more than half of its voxels are below -800 HU" in air
    large = np.ones(scan.hu.shape, bool)
    wide = Volume(**vars(scan) | {"spacing": (8.0, 3.0, 3.0)})
    with pytest.raises(MaskError, match="is 288 mm long, expected at most 150 mm"):
        masks.crops(wide, large)


@pytest.mark.parametrize("form", ["dicom-seg", "rtstruct"])
def test_damaged_objects_are_plain_errors(scan, own_scans, tmp_path, form):
    path = masks.write(scan, own_scans.lesion(), tmp_path / "m.dcm", form)
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(0), []
    for k in range(40):
        data = bytearray(whole)
        if k % 2:
            data = data[: int(rng.integers(300, len(data)))]
        else:
            for at in rng.integers(300, len(data), 20):
                data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            masks.crops(scan, path)
        except (MaskError, DicomError) as error:
            refused.append(str(error))
    assert len(refused) >= 15
    assert not any("P-1" in why for why in refused)


def test_a_lesion_at_the_edge_is_cut_and_said(scan, own_scans):
    mask = np.zeros(scan.hu.shape, bool)
    mask[:3, :8, 30:40] = True
    (crop,), notes = masks.crops(scan, mask)
    assert crop.origin[:2] == (0, 0)
    assert crop.masks.sum() == mask.sum()
    assert "reaches the edge of the scan" in notes[0]


def test_scans_are_chosen_by_number_and_can_be_files(own_scans, tmp_path):
    for k in range(3):
        own_scans.write(tmp_path / f"s{k}", seed=k)
    own_scans.name_person(tmp_path / "s0" / "ct")
    with pytest.raises(DicomError, match=r"3 CT series, choose one by its number: 1: 20 files in"):
        masks.read_scan(tmp_path)
    second = masks.read_scan(tmp_path, series=2)
    assert second.files[0].parent == tmp_path / "s1" / "ct"
    with pytest.raises(DicomError, match="series=4: expected 1 to 3"):
        masks.read_scan(tmp_path, series=4)
    with pytest.raises(FileNotFoundError, match="is no folder of DICOM files"):
        masks.read_scan(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DicomError, match="none of the 0 DICOM series"):
        masks.read_scan(tmp_path / "empty")

    file = itk(tmp_path / "scan.nii.gz", second.hu, second)
    of_file = masks.read_scan(file)
    mask = own_scans.lesion()
    path = masks.write(of_file, mask, tmp_path / "m.nii.gz", "nifti")
    (one,), _ = masks.crops(of_file, path)
    (two,), _ = masks.crops(second, mask)
    np.testing.assert_array_equal(one.hu, two.hu)
    assert one.tier == "own"
    # without DICOM files the frame of reference cannot be compared
    seg = masks.write(second, mask, tmp_path / "seg.dcm", "dicom-seg")
    (three,), notes = masks.crops(of_file, seg)
    np.testing.assert_array_equal(three.masks, one.masks)
    assert "names no frame of reference" in notes[0]
    with pytest.raises(ValueError, match="was not read from DICOM files"):
        masks.write(of_file, mask, tmp_path / "x.dcm", "rtstruct")


def test_one_doctors_anno_files_are_a_mask(tmp_path):
    root = writing.write(tmp_path / "tree", writing.phantoms(2), progress=False)
    lesions = anno.Anno(root, progress=False)
    for lesion_id in lesions.lesions().index:
        expected = lesions.crop(lesion_id)
        (place,) = root.rglob(f"{lesion_id.partition('-')[0]}/SE01")
        scan = masks.read_scan(place)
        for doctor, mask in enumerate(expected.masks, 1):
            found = masks.crops(scan, place.with_name(f"SE01_01_{doctor:02d}"))
            (crop,) = found.crops
            at = {*map(tuple, (np.argwhere(crop.masks[0]) + crop.origin).tolist())}
            drawn = {*map(tuple, (np.argwhere(mask) + expected.origin).tolist())}
            assert at <= drawn
            assert len(drawn - at) < masks.FEWEST_VOXELS  # a voxel by itself, which is left out
    file = next(place.with_name("SE01_01_01").glob("*.anno"))
    other = json.loads(file.read_text()) | {"SeriesID": "1.2.3"}
    file.write_text(json.dumps(other))
    with pytest.raises(MaskError, match=r"anno: was drawn on another series than the scan's"):
        masks.crops(scan, file.parent)
    file.write_text("{")
    with pytest.raises(anno.BadAnnoError, match="neither JSON nor a Python literal"):
        masks.crops(scan, file.parent)
    with pytest.raises(MaskError, match=r"SE01: has no \.anno file; expected the folder of one"):
        masks.crops(scan, place)
