"""The volumes set: parts of it made here around real contours, and the public one where it is."""

from __future__ import annotations

import copy
import gzip
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from lesionlab.crops import datasets
from lesionlab.sources import lidc, origins
from lesionlab.sources.slices import TABLES, Slices
from lesionlab.sources.volumes import MAX_UNPACKED, Volumes, VolumesError

NODULES = lidc.nodules()
SHOWN = ["LIDC-IDRI-0003-S0014-N02", "LIDC-IDRI-0003-S0014-N03", "LIDC-IDRI-0332-S0333-N01"]
FIRST = "LIDC-IDRI-0003_R_2.nii.gz"


def zipped(folder: Path, target: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.glob("*.nii.gz")):
            archive.write(file, f"{inside}{file.name}")
    return target


@pytest.fixture(scope="module")
def original(lidc_sources: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = lidc_sources.write_volumes(tmp_path_factory.mktemp("volumes") / "set", SHOWN)
    return made


@pytest.fixture
def part(original: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "set"))


@pytest.mark.parametrize("inside", [None, "", "any/folder/", "../../"])
def test_a_part_of_the_set_gives_its_lesions_and_no_others(original, tmp_path, inside):
    """From a folder or a zip, whatever stands before the names: nothing is unpacked."""
    path = original if inside is None else zipped(original, tmp_path / "set.zip", inside)
    source = copy.copy(Volumes(path))  # as other processes get it
    assert source.lesion_ids == SHOWN
    for crop in map(source.crop, SHOWN):
        masks, about = lidc.masks(crop.lesion_id), NODULES.loc[crop.lesion_id]
        z, y, _ = np.indices(crop.hu.shape) + np.reshape(crop.origin, (3, 1, 1, 1))
        np.testing.assert_array_equal(crop.hu, 10 * z + y)
        assert (crop.tier, crop.spacing) == ("volumes", masks.spacing)
        assert (crop.hu_error == 0).all()
        assert crop.masks.sum() == masks.readers.sum()
        inside_mm = np.argwhere(crop.consensus()) + crop.origin
        assert inside_mm.mean(axis=0) == pytest.approx(about[["z", "y", "x"]].to_numpy(float))
    assert [p.name for p in tmp_path.iterdir()] == ([] if inside is None else ["set.zip"])


def test_what_is_not_there_is_said(part, caplog):
    for stranger in ("LIDC-IDRI-0003_R_99.nii.gz", "LIDC-IDRI-0332_R_9.nii.gz"):
        shutil.copy(part / FIRST, part / stranger)
    (part / FIRST).unlink()
    source = Volumes(part)
    with pytest.raises(LookupError, match=f"the volumes set has no file of {SHOWN[0]}"):
        source.crop(SHOWN[0])
    with pytest.raises(LookupError, match="no nodule has the lesion_id 'N-1'"):
        source.crop("N-1")
    assert "2 files are left out, the database has no such nodule; the first is " in caplog.text
    # of this patient's two scans the set shows one
    with pytest.raises(LookupError, match="no file of LIDC-IDRI-0332-S0334-N01"):
        source.crop("LIDC-IDRI-0332-S0334-N01")


def header(offset: int, kind: str, *values: float) -> Any:
    """Change numbers of a NIfTI header (nifti1.h has the offsets)."""

    def change(file: Path) -> None:
        plain = bytearray(gzip.decompress(file.read_bytes()))
        struct.pack_into(f"<{kind}", plain, offset, *values)
        file.write_bytes(gzip.compress(plain))

    return change


def image(change: Any) -> Any:
    """Change what SimpleITK reads, and let it write that."""

    def changed(file: Path) -> None:
        read = sitk.ReadImage(file)
        sitk.WriteImage(change(read) or read, file)

    return changed


def volume_with(axis: int, by: int) -> Any:
    """Cut or add voxels at both ends of an axis."""

    def change(read: Any) -> Any:
        many = [0, 0, 0]
        many[axis] = abs(by)
        return (sitk.ConstantPad if by > 0 else sitk.Crop)(read, many, [0, 0, 0])

    return image(change)


DAMAGE = [
    (lambda file: file.write_bytes(file.read_bytes()[:-100]), "file ended before"),
    (lambda file: file.write_bytes(b"not gzip"), "Not a gzipped file"),
    (lambda file: file.write_bytes(gzip.compress(b"\0" * 400)), "cannot read it as NIfTI"),
    (lambda file: file.write_bytes(gzip.compress(bytes(MAX_UNPACKED * 9))), "when unpacked"),
    (header(42, "3h", 32000, 32000, 32000), "its header says .* more than its bytes"),
    (header(40, "5h", 4, 8, 8, 1, 2), "expected 3 axes of 16-bit whole numbers, got 4 axes"),
    (image(lambda read: sitk.Cast(read, sitk.sitkFloat32)), "expected 3 axes of 16-bit"),
    (header(112, "2f", 0.5, 3.0), "expected 3 axes of 16-bit"),  # a slope: no whole numbers
    (image(lambda read: read.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))), "got rotated ones"),
    (image(lambda read: read.SetSpacing((0.82, 0.82, 2))), "database's spacing of 2.5 × 0.82"),
    (image(lambda read: read.SetOrigin((0, 0, 999))), "expected its first slice at .* got z = 999"),
    (volume_with(2, 1), "with a margin that is the same on both sides"),
    (volume_with(2, 2), "expected its first slice at"),
    (volume_with(2, -2), "expected the box of its outlines"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_a_file_that_cannot_be_used_says_why(part, damage, says):
    damage(part / FIRST)
    with pytest.raises(VolumesError, match=f"{FIRST} is no.*: .*{says}"):
        Volumes(part).crop(SHOWN[0])
    assert Volumes(part).crop(SHOWN[1])


def test_a_set_that_is_not_there_or_another_says_why(original, tmp_path, cache, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"LESIONLAB_LIDC_VOLUMES is not set\. .*fetch vol"):
        Volumes()
    monkeypatch.setenv(origins.VOLUMES.variable, str(original))
    assert Volumes().path == original
    (tmp_path / "x").mkdir()
    with pytest.raises(VolumesError, match="holds 0 files but none of the volumes set; expected a"):
        Volumes(tmp_path / "x")


def test_a_damaged_member_is_an_exclusion_that_is_counted(part, cache):
    path = zipped(part, part / "set.zip")
    raw = bytearray(path.read_bytes())
    at = raw.index(FIRST.encode()) + len(FIRST) + 200
    raw[at : at + 4] = b"\0\0\0\0"
    path.write_bytes(raw)
    store = datasets.crops("volumes", [*SHOWN, NODULES.index[0]], source=path, progress=False)
    assert (store.tier, list(store)) == ("volumes", SHOWN[1:])
    assert sorted(datasets.by_reason(store.exclusions).values()) == [1, 1]
    assert "Bad CRC-32" in store.exclusions[SHOWN[0]]
    assert datasets.validate(store) == {}
    assert datasets.get("volumes", source=path).rests_on()[1].checksum == store.provenance["set"]


@pytest.mark.slow
def test_the_public_set(real_volumes, real_slices):
    """Every volume has a crop at its place, with the HU that the slices have there."""
    source, public = Volumes(real_volumes), Slices(real_slices)
    link = pd.read_csv(TABLES / "lidc-idri-volumes-link.csv.gz").set_index(["patient", "nodule"])
    shown, rows, elsewhere = public._folders, [], []
    assert len(source.lesion_ids) == 994
    for lesion_id in source.lesion_ids:
        crop = source.crop(lesion_id)
        inside, disc = crop.consensus(), np.ones((1, 3, 3))
        near, far = (ndimage.binary_dilation(inside, disc, iterations=n) for n in (2, 5))
        ring = far & ~near & ~crop.masks.any(axis=0)
        row = {"contrast": np.median(crop.hu[inside]) - np.median(crop.hu[ring])}
        if lesion_id in shown:
            folder, beside = shown[lesion_id], public.crop(lesion_id)
            low = np.maximum(crop.corner, beside.corner)
            high = np.minimum(np.add(crop.corner, crop.hu.shape[1:]), np.add(beside.corner, 128))
            _, *both = np.intersect1d(crop.slice_index, beside.slice_index, return_indices=True)
            exact, eight_bits = (
                one.hu[(k, *map(slice, low - one.corner, high - one.corner))].astype(float)
                for one, k in zip((crop, beside), both, strict=True)
            )
            pairs = zip(exact, eight_bits, strict=True)
            row["r"] = min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs)
            lung = (exact < -700) & (beside.steps[both[1]] == 0)[:, None, None]
            if lung.sum() > 30:
                row["off"] = np.median(np.abs(exact - eight_bits)[lung])
            # where the volume was found by moving it over its picture
            at = link.loc[(folder.patient, folder.nodule)]
            if at["r"] > 0.99:
                first = folder.slice_index[folder.slices.index(at["slice"])] - at["z"]
                found = first, folder.corner_y + at["y"], folder.corner_x + at["x"]
                elsewhere += [(lesion_id, *np.subtract(found, crop.origin))]
        rows.append(pd.Series(row, name=lesion_id))
    table, places = pd.DataFrame(rows), pd.DataFrame(elsewhere).set_index(0)
    assert (table["r"].count(), table["r"].min() > 0.99) == (992, True)
    assert table["off"].median() < 3
    assert table["off"].max() <= 8
    assert len(places) == 982
    assert places[places.any(axis=1)].T.to_dict("list") == {"LIDC-IDRI-0698-S0957-N02": [1, 0, 0]}
    solid = table["contrast"][NODULES["texture"].reindex(table.index) >= 4.5]
    assert (solid > 0).mean() > 0.99
