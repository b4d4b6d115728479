"""Reading a series: order, geometry, HU, and every way in which files can be wrong."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from lesionlab.sources.dicom import BadFileError, DicomError, read_series, write_series

SPACING = (2.5, 0.7, 0.8)
SHAPE = (5, 12, 10)
SECRET = "SECRET"  # noqa: S105 - stands for a name that must not be shown


@pytest.fixture
def hu() -> npt.NDArray[np.int16]:
    return np.random.default_rng(3).integers(-1023, 3000, SHAPE).astype(np.int16)


@pytest.fixture
def folder(tmp_path: Path, hu: npt.NDArray[np.int16]) -> Path:
    """A good series of five slices, from z = -30 mm."""
    z = -30 + 2.5 * np.arange(5)
    return write_series(hu, tmp_path / "scan", spacing=SPACING, patient_id="P", slice_z=z.tolist())


def edit(file: str | Path, **attributes: Any) -> None:
    """Change attributes of a file; None deletes one, and nothing is validated."""
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(file)
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            elif keyword.startswith("PixelPadding"):
                # either type is allowed in writing, whatever that of the pixels
                dataset.add_new(keyword, "SS" if value < 0 else "US", value)
            elif isinstance(value, bytes):
                # as it stands in a damaged file: pydicom would not write it
                tag = pydicom.tag.Tag(keyword)
                vr = pydicom.datadict.dictionary_VR(tag)
                dataset[tag] = pydicom.dataelem.RawDataElement(
                    tag, vr, len(value), value, 0, False, True
                )
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(file)


def store(file: Path, values: npt.NDArray[Any], bits: int, **attributes: Any) -> None:
    """Give a file other stored values, of another type, in as many bits as asked for."""
    edit(
        file,
        PixelData=values.tobytes(),
        BitsAllocated=8 * values.dtype.itemsize,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(values.dtype.kind == "i"),
        **attributes,
    )


def slices(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_order_is_by_position_not_by_name_or_number(folder, hu):
    names = ["d", "a", "IM00001", "c.dcm", "b.ima"]
    for number, (file, name) in enumerate(zip(slices(folder), names, strict=True)):
        edit(file, InstanceNumber=(number * 3) % 5)
        file.rename(folder / name)
    for volume in (read_series(folder), read_series(reversed(slices(folder)))):
        assert volume.hu.dtype == np.int16
        np.testing.assert_array_equal(volume.hu, hu)
        np.testing.assert_array_equal(volume.slice_z, [-30, -27.5, -25, -22.5, -20])
        assert (volume.thickness, volume.synthetic, volume.warnings) == (2.5, True, ())


@pytest.mark.parametrize(
    "axes",
    [
        np.eye(3),
        np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),  # sagittal
        np.array([[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]),  # oblique
    ],
)
def test_geometry_agrees_with_simpleitk(folder, axes):
    for k, file in enumerate(slices(folder)):
        position = axes @ [-3.5, 4, -12.5 + 2.5 * k]
        orientation = axes[:, :2].T.ravel().tolist()
        edit(file, ImagePositionPatient=position.tolist(), ImageOrientationPatient=orientation)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    ours, theirs = read_series(folder), reader.Execute()
    np.testing.assert_array_equal(ours.hu, sitk.GetArrayFromImage(theirs))
    assert ours.spacing[::-1] == pytest.approx(theirs.GetSpacing())
    assert ours.origin_mm == pytest.approx(theirs.GetOrigin())
    np.testing.assert_allclose(ours.direction.ravel(), theirs.GetDirection(), atol=1e-9)
    for index in ((0, 0, 0), (4, 11, 9), (2, 3, 5)):
        there = theirs.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(ours.patient_mm(index), there, atol=1e-6)


def test_z_ascends_where_the_normal_points_down(folder, hu):
    for file in slices(folder):
        edit(file, ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.hu, hu)  # slices up, rows as stored: as pylidc
    np.testing.assert_array_equal(volume.direction, np.diag([1, -1, 1]))


def test_where_a_voxel_lies_with_uneven_slices(tmp_path, hu):
    z = [0.0, 1.0, 2.0, 3.0, 4.2]
    folder = write_series(hu, tmp_path / "s", spacing=(1, 1, 1), patient_id="P", slice_z=z)
    volume = read_series(folder)
    assert "uneven steps between slices: 1 to 1.2 mm" in volume.warnings[0]
    at = volume.patient_mm([[3.5, 0, 0], [5, 0, 0], [-1, 0, 0]])[:, 2]
    np.testing.assert_allclose(at, [3.6, 5.2, -1])


@pytest.mark.parametrize("aside", [[0, 0, 40, 0, 0], [0, 2.6, 5.2, 7.8, 10.4]])
def test_slices_beside_the_others_or_too_far_aslant_are_refused(folder, aside):
    for k, file in enumerate(slices(folder)):
        edit(file, ImagePositionPatient=[0, aside[k], -30 + 2.5 * k])
    with pytest.raises(DicomError, match=r"slice-000[02].dcm: lies .* mm beside.*tilted"):
        read_series(folder)


def test_missing_slices(folder, hu):
    slices(folder)[2].unlink()
    with pytest.raises(DicomError, match=r"mm between .*slice-000.*2.5 mm is usual.*strict=False"):
        read_series(folder)
    volume = read_series(folder, strict=False)
    np.testing.assert_array_equal(volume.hu, hu[[0, 1, 3, 4]])
    assert volume.spacing[0] == 2.5


def test_a_single_slice_takes_its_thickness_for_spacing(folder):
    file = slices(folder)[0]
    volume = read_series(file)
    assert volume.hu.shape == (1, *SHAPE[1:])
    assert volume.spacing[0] == 2.5
    assert "a single slice" in volume.warnings[0]
    edit(file, SliceThickness=None)
    with pytest.raises(DicomError, match=r"slice-0000.dcm: a single slice without SliceThickness"):
        read_series(file)


@pytest.mark.parametrize(("number", "wins"), [(0, True), (99, False), (None, False)])
def test_of_different_duplicates_the_lesser_instance_number_wins(folder, hu, number, wins):
    other = shutil.copy(slices(folder)[1], folder / "a.dcm")
    store(Path(other), np.full(SHAPE[1:], 1024 + 7, np.int16), 16, InstanceNumber=number)
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.hu[1], 7 if wins else hu[1])
    assert len(volume.hu) == 5
    shared, beside = volume.warnings
    assert "2 files share their SOPInstanceUID" in shared
    assert "stands at the position of" in beside


def test_mixed_series_are_listed(folder, tmp_path):
    other = write_series(
        np.zeros((2, 12, 10)), tmp_path / "b", spacing=SPACING, patient_id="Q", series_uid="1.2.3"
    )
    for file in slices(other):
        file.rename(folder / f"other-{file.name}")
    with pytest.raises(DicomError, match=r"scan: 2 series mixed, of 5 and 2 slices; pass"):
        read_series(folder)
    volume = read_series(folder, series_uid="1.2.3")
    assert volume.hu.shape[0] == 2
    assert volume.warnings == ("skipped 5 slices of other series",)
    with pytest.raises(DicomError, match=r"scan: no slice has this series_uid; .* of the 2 series"):
        read_series(folder, series_uid="1.9")


def test_localizers_and_other_objects_are_skipped_and_counted(folder, hu):
    files = slices(folder)
    scout, other = (shutil.copy(files[0], folder / name) for name in ("scout.dcm", "seg.dcm"))
    edit(scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=None)
    edit(other, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    (folder / "069.xml").write_text("<LidcReadMessage/>", encoding="utf-8")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe.dcm")  # would block whoever opens it
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.hu, hu)
    assert "1 × localizer" in volume.warnings[0]
    assert "1 × Segmentation Storage" in volume.warnings[0]


def test_nothing_to_read(folder, tmp_path):
    with pytest.raises(DicomError, match=r"nowhere.*no such file"):
        read_series(tmp_path / "nowhere")
    for file in slices(folder):
        edit(file, SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    message = "no CT slices among 5 files; skipped 5 × MR Image Storage"
    with pytest.raises(DicomError, match=message):
        read_series(folder)


def test_slope_and_intercept_act_slice_by_slice(folder):
    stored = np.arange(120, dtype=np.int16).reshape(SHAPE[1:])
    for k, file in enumerate(slices(folder)):
        store(file, stored, 16, RescaleSlope=0.25 * (k + 1), RescaleIntercept=-10 * k)
    volume = read_series(folder)
    assert volume.hu.dtype == np.float32
    for k in range(5):
        np.testing.assert_array_equal(volume.hu[k], stored * 0.25 * (k + 1) - 10 * k)


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        (np.array([0xF000 | 5, 7], np.uint16), 12, [5, 7]),  # an overlay above BitsStored
        (np.array([0x0FFF, 0x0001], np.int16), 12, [-1, 1]),  # the sign is bit 11
        (np.array([0, 255], np.uint8), 8, [0, 255]),
        (np.array([-5, 100_000], np.int32), 32, [-5, 100_000]),
        (np.array([0, 65535], np.uint16), 16, [0, 65535]),
    ],
)
def test_bits_and_sign(folder, values, bits, expected):
    file = slices(folder)[0]
    store(file, np.tile(values, (12, 5)), bits, RescaleIntercept=0)
    volume = read_series(file)
    np.testing.assert_array_equal(volume.hu[0], np.tile(expected, (12, 5)))
    assert volume.hu.dtype == (np.int16 if max(expected) < 32768 else np.float32)


@pytest.mark.parametrize(
    ("written", "limit", "padded"),
    [
        (-976, None, [-2000]),  # as stored: HU + 1024
        (64560, None, [-2000]),  # the same 16 bits, written unsigned
        (-976, -970, [-2000, -1999]),
        (None, None, [-2000]),  # −2000 and less is never tissue
    ],
)
def test_padding_becomes_air(folder, written, limit, padded):
    hu = np.full(SHAPE[1:], -700, np.int16)
    hu[0, :3], hu[1, :2], hu[2, 0] = -2000, -1999, -1024
    for file in slices(folder):
        store(file, hu + np.int16(1024), 16)
        added = {"PixelPaddingValue": written, "PixelPaddingRangeLimit": limit}
        edit(file, **{keyword: v for keyword, v in added.items() if v is not None})
    volume = read_series(folder)
    air = np.isin(hu, padded)
    np.testing.assert_array_equal(volume.hu[2], np.where(air, -1024, hu))


def test_padding_that_could_be_tissue_and_another_unit_are_told(folder):
    file = slices(folder)[0]
    store(file, np.full(SHAPE[1:], 1024, np.int16), 16)
    edit(file, PixelPaddingValue=1024, RescaleType="US")
    volume = read_series(file)
    told = " ".join(volume.warnings)
    assert "PixelPaddingValue stands for 0 HU, which could be tissue" in told
    assert "RescaleType is not HU (in 1 slices)" in told


def compressed_by_simpleitk(file: Path, compressor: str) -> None:
    """Compress the pixels of one of our files as GDCM does."""
    dataset = pydicom.dcmread(file)
    writer = sitk.ImageFileWriter()
    temporary = file.with_suffix(".tmp.dcm")
    writer.SetFileName(str(temporary))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(dataset.pixel_array[None]))
    packed = pydicom.dcmread(temporary)
    temporary.unlink()
    encode(file, packed.PixelData, packed.file_meta.TransferSyntaxUID)


def encode(file: Path, pixels: bytes, syntax: str) -> None:
    """Put compressed pixels, whole or not, into a file."""
    dataset = pydicom.dcmread(file)
    dataset.PixelData = pixels
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)


def test_compressed_slices(folder, hu):
    files = slices(folder)
    compressed_by_simpleitk(files[0], "JPEG2000")
    compressed_by_simpleitk(files[1], "JPEG")
    compressed_by_simpleitk(files[3], "JPEG")  # of which the fourth process is the general kind
    encode(files[3], pydicom.dcmread(files[3]).PixelData, JPEGLossless)
    dataset = pydicom.dcmread(files[2])
    dataset.compress(RLELossless)
    dataset.save_as(files[2])
    syntaxes = [pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in files[:4]]
    assert syntaxes == [JPEG2000Lossless, JPEGLosslessSV1, RLELossless, JPEGLossless]
    np.testing.assert_array_equal(read_series(folder).hu, hu)


@pytest.mark.parametrize(
    ("compressor", "marker", "skip", "size"),
    [("JPEG2000", b"\xff\x51", 6, 4), ("JPEG", b"\xff\xc3", 5, 2)],  # SIZ and SOF3
)
def test_a_compressed_stream_of_another_size_than_its_header_is_refused(
    folder, compressor, marker, skip, size
):
    file = slices(folder)[1]
    compressed_by_simpleitk(file, compressor)
    dataset = pydicom.dcmread(file)
    at = dataset.PixelData.index(marker) + skip  # width and height follow
    huge = (60_000).to_bytes(size, "big") * 2
    pixels = dataset.PixelData[:at] + huge + dataset.PixelData[at + 2 * size :]
    encode(file, pixels, dataset.file_meta.TransferSyntaxUID)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadFileError, match=r"slice-0001\.dcm: its pixels"):
        read_series(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1_000_000, "60000 x 60000 pixels were not made room for (kB)"


def element(number: int, vr: bytes, length: int) -> bytes:
    """The head of an element or, without a VR, of an item, in explicit VR little endian."""
    kind = vr + b"\0\0" if vr else b""
    return struct.pack("<HH", number >> 16, number & 0xFFFF) + kind + struct.pack("<L", length)


ITEM, ENDLESS = element(0xFFFEE000, b"", 0), 0xFFFFFFFF
POSITION, REFERENCES = 0x00200032, 0x00081140


def put_first(added: bytes, *, deflate: int | None = None) -> Any:
    """Add to a file in front of all attributes; deflate it, and as many megabytes of zeros."""

    def change(file: Path) -> None:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(file, implicit_vr=False, little_endian=True)
        raw = file.read_bytes()
        at = 144 + int.from_bytes(raw[140:144], "little")  # where the file meta ends
        head, body = raw[:at], added + raw[at:]
        if deflate is not None:
            length, syntax = len(DeflatedExplicitVRLittleEndian), DeflatedExplicitVRLittleEndian
            before = b"UI\x14\0" + b"1.2.840.10008.1.2.1\0"
            assert before in head
            head = head.replace(before, b"UI" + struct.pack("<H", length) + syntax.encode())
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            parts = [
                packer.compress(body),
                *(packer.compress(bytes(1 << 20)) for _ in range(deflate)),
            ]
            body = b"".join([*parts, packer.flush()])
        file.write_bytes(head + body)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_first(b"", deflate=400), "inflates to more than 33,554,432 bytes"),
        (put_first(element(REFERENCES, b"SQ", ENDLESS) + ITEM * 300_000), ""),
        (put_first(element(REFERENCES, b"SQ", ENDLESS) + ITEM * 2_000_000, deflate=0), ""),
        (put_first(element(POSITION, b"UN", 2_000_000) + b"1\\" * 1_000_000), ""),
        (put_first(element(0x00080008, b"UN", 2_000_000) + b"A\\" * 1_000_000), "4,096 bytes"),
        (lambda file: os.truncate(file, 1 << 32), "is larger than 33,554,432 bytes"),
    ],
)  # fmt: skip
def test_a_small_file_cannot_take_much_memory_or_time(folder, change, message):
    change(slices(folder)[4])
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(BadFileError, match=rf"slice-0004\.dcm: .*{message}.*: damaged"):
            read_series(folder)
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 40  # seconds; minutes before it was bounded


def test_what_pydicom_passes_over_does_not_reach_the_decoder(folder, hu):
    nested = b"".join(
        element(REFERENCES, b"SQ", 20 * k + 8) + element(0xFFFEE000, b"", 20 * k)
        for k in reversed(range(50_000))
    )  # its process ended
    put_first(nested)(slices(folder)[1])
    put_first(b"", deflate=0)(slices(folder)[2])  # nothing is wrong with it
    np.testing.assert_array_equal(read_series(folder).hu, hu)


def cut(change: Any) -> Any:
    """Change the bytes of a file."""
    return lambda file: file.write_bytes(change(file.read_bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PixelSpacing": [0, 0.7]}, "PixelSpacing is not 2 numbers from 0.001 to 1000"),
        ({"PixelSpacing": b"0.7\\SECRET"}, "PixelSpacing (is not 2 numbers|cannot be read)"),
        ({"ImagePositionPatient": b"0\\0\\nan"}, "ImagePositionPatient is not 3 numbers"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two unit vectors"),
        ({"Columns": 60000}, "Columns is not a number from 1 to 2048"),
        ({"Rows": 13}, "size, PixelSpacing or ImageOrientationPatient are not those of 4 other"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"RescaleSlope": "1e300"}, "RescaleSlope is not a number from"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "is not MONOCHROME2"),
        ({"HighBit": 11}, "HighBit is not a number from 15 to 15"),
        ({"PixelData": None}, "its pixels are 0 bytes, expected 240"),
        ({"SeriesInstanceUID": "SECRET"}, "SeriesInstanceUID is not a UID"),
        (cut(lambda raw: raw[:200]), ""),  # in the file meta
        (cut(lambda raw: raw[:-50]), ""),  # in the pixels
        (cut(lambda raw: raw[:128] + b"MCID" + raw[132:]), ""),  # no marker
        (cut(lambda raw: raw[:600] + b"\0" * 2000), ""),
        (
            lambda file: encode(file, encapsulate([bytes(40)]), JPEGLSLossless),
            "JPEG stream.*damaged",
        ),
        (lambda file: encode(file, encapsulate([bytes(40)]), "1.2.840.99.1"), "cannot be decoded"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_can_be_left_out(folder, hu, change, message):
    file = slices(folder)[4]
    change(file) if callable(change) else edit(file, **change)
    with pytest.raises(BadFileError, match=f"slice-0004.dcm: .*{message}") as raised:
        read_series(folder)
    volume = read_series(folder, strict=False)
    np.testing.assert_array_equal(volume.hu, hu[:4])
    assert "slice-0004.dcm" in volume.warnings[0]
    assert SECRET not in " ".join((str(raised.value), *volume.warnings))
