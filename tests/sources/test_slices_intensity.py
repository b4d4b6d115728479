"""Which table puts a set back into HU, and the two tables that come with lesionlab."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lesionlab.sources import lidc, origins, slices
from lesionlab.sources.slices import Slices, _archive, _intensity

NODULES = lidc.nodules()
SHOWN = NODULES.index[NODULES["patient"] == "LIDC-IDRI-0003"].tolist()[:2]
TABLES = Path(_intensity.TABLE).parent


@pytest.fixture(scope="module")
def write_slices() -> Iterator[Any]:
    """From `lidc_sources.py` in the folder above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        import lidc_sources

        yield lidc_sources.write_slices


@pytest.fixture
def public(write_slices: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set without a table, and in the place of our table one that was made for it."""
    monkeypatch.delenv(slices.ENVIRONMENT_INTENSITY, raising=False)
    root = write_slices(tmp_path / "set", SHOWN)
    table = pd.read_csv(root / slices.INTENSITY_NAME)
    (root / slices.INTENSITY_NAME).unlink()
    ramp = np.tile(np.arange(1, 129, dtype=np.uint8), (128, 1))  # every picture of this set
    table["crc32"] = f"{zlib.crc32(ramp.tobytes()):08x}"
    table.to_csv(tmp_path / "ours.csv.gz", index=False)
    monkeypatch.setattr(_intensity, "TABLE", tmp_path / "ours.csv.gz")
    return root


def test_the_public_set_needs_no_table_beside_it(
    public: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Slices(public)
    assert source.intensity_path == _intensity.TABLE
    crop = source.crop(SHOWN[0])
    assert crop.calibrated.all()
    np.testing.assert_array_equal(crop.hu[0, 0], 8 * np.arange(1, 129) - 1000)
    assert caplog.text == ""


def test_a_set_with_other_pictures_gets_no_hu_from_our_table(
    public: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for picture in public.rglob("images/*.png"):
        Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    with caplog.at_level(logging.WARNING):
        source = Slices(public)
    assert source.intensity_path is source.intensity_checksum is None
    assert "its pictures are not those that the table of lesionlab is for" in caplog.text
    assert not source.crop(SHOWN[0]).calibrated.any()


def test_one_picture_that_is_broken_does_not_make_it_another_set(public: Path) -> None:
    next(public.rglob("nodule-0/images/slice-0.png")).write_bytes(b"")
    assert Slices(public).intensity_path == _intensity.TABLE
    for picture in public.rglob("images/*.png"):
        picture.write_bytes(b"")
    assert Slices(public).intensity_path is None


@pytest.mark.parametrize(("slope", "n"), [(8.0, 0), (9.0, 1)])
def test_a_table_of_the_user_wins_and_a_difference_is_told(
    slope: float, n: int, public: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(_intensity.TABLE).drop(columns="crc32")
    table["slope"] = table["slope"].astype(float)
    table.loc[0, "slope"] = slope
    table.to_csv(public / slices.INTENSITY_NAME, index=False)
    with caplog.at_level(logging.WARNING):
        source = Slices(public)
    assert source.intensity_path == public / slices.INTENSITY_NAME
    assert ("on 1 slices it differs from the table that comes with" in caplog.text) == bool(n)
    assert source.crop(SHOWN[0]).hu[0, 0, 9] == slope * 10 - 1000


# --- The tables that come with lesionlab --------------------------------------------------------


def test_the_table_of_intensities_is_the_one_that_its_readme_describes() -> None:
    table = pd.read_csv(TABLES / "lidc-idri-slices-intensity.csv.gz", dtype={"crc32": "str"})
    assert len(table) == 15_548
    assert table["source"].value_counts().to_dict() == {
        "chained": 12_600, "anchor": 2_629, "none": 319,
    }  # fmt: skip
    assert len(_intensity.read_intensity(_intensity.TABLE)) == 15_548 - 319
    assert (table["steps"] == 0).equals(table["source"] == "anchor")
    assert table["crc32"].notna().equals(table["slice"] == 0)
    assert table.loc[3].tolist()[:6] == ["LIDC-IDRI-0001", 0, 3, 7.925, -1024.0, "anchor"]


def test_the_table_of_links_is_the_one_that_its_readme_describes() -> None:
    table = pd.read_csv(TABLES / "lidc-idri-volumes-link.csv.gz")
    assert origins.VOLUMES.mirror is not None
    assert len(table) == table["voi"].nunique() == origins.VOLUMES.mirror.n_files
    assert (table["r"] > 0.99).sum() == 982
    number = table["voi"].str.extract(r"^(LIDC-IDRI-\d{4})_R_(\d+)\.nii\.gz$")
    assert number[0].equals(table["patient"])
    assert (number[1].astype(int) - 1).equals(table["nodule"])


@pytest.mark.parametrize("name", ["lidc-idri-slices-intensity", "lidc-idri-volumes-link"])
def test_the_readme_names_every_column(name: str) -> None:
    text = (TABLES / "README.md").read_text(encoding="utf-8")
    _, section = text.split(f"## `{name}.csv.gz`")
    described = section.split("\n## ")[0]
    for column in pd.read_csv(TABLES / f"{name}.csv.gz", nrows=1):
        assert f"`{column}`" in described


def test_real_pictures_are_recognised(
    real_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(slices.ENVIRONMENT_INTENSITY, raising=False)
    archive = _archive.Archive(real_slices)
    names = [
        n for key, n in archive.names.items() if key.patient in ("LIDC-IDRI-0001", "LIDC-IDRI-0005")
    ]
    with zipfile.ZipFile(tmp_path / "two patients.zip", "w") as made:
        for name in names:
            made.writestr(name, archive._bytes(name))
    part = _archive.Archive(tmp_path / "two patients.zip")
    path, table, remark = _intensity.find_intensity(part)
    assert (path, len(table), remark) == (_intensity.TABLE, 15_548 - 319, "")
    source = Slices(tmp_path / "two patients.zip")
    crop = source.crop("LIDC-IDRI-0001-S0012-N01")
    grey = part.read(_archive.Key("LIDC-IDRI-0001", 0, "images", 3))
    # line 5 of the table: 7.925 × grey − 1024
    np.testing.assert_array_equal(crop.hu[3], np.rint(7.925 * grey - 1024))
