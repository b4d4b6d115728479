"""Damaged at random: a volume or a plain error that names where, never anything else."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from lesionlab.sources.dicom import DicomError, Volume, find_series, identity, read_series
from lesionlab.sources.dicom import write_series as write

SECRET = "ZZSECRETZZ"  # noqa: S105 - stands for a name that must not be shown


@pytest.fixture(scope="module", params=["explicit", "implicit", "rle"])
def originals(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slices that bear a name, in one transfer syntax."""
    hu = np.random.default_rng(1).integers(-1000, 1000, (3, 8, 8)).astype(np.int16)
    folder = write(hu, tmp_path_factory.mktemp("fuzz") / "scan", spacing=(1, 1, 1), patient_id="P")
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        one.PatientName = one.PatientID = one.StudyDescription = one.InstitutionName = SECRET
        one.RequestAttributesSequence = [pydicom.Dataset()]
        one.RequestAttributesSequence[0].RequestedProcedureID = SECRET
        if request.param == "rle":
            one.compress(RLELossless)
        if request.param == "implicit":
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            pydicom.dcmwrite(file, one, implicit_vr=True, little_endian=True)
        else:
            one.save_as(file)
    return folder


class Heard(logging.Handler):
    """What anybody logs."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(f"{record.name}: {record.getMessage()}")


def check(folder: Path) -> None:
    """Every reader on a folder whose middle file is damaged; pydicom never has a word."""
    heard = Heard()
    logging.getLogger().addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            read_all(folder)
    finally:
        logging.getLogger().removeHandler(heard)
    assert [str(w.message) for w in warned] == []
    assert [line for line in heard.told if line.startswith("pydicom") or SECRET in line] == []


def read_all(folder: Path) -> None:
    for on_bad_file in ("raise", "exclude"):
        try:
            volume = read_series(folder, on_bad_file=on_bad_file)  # type: ignore[arg-type]
        except DicomError as error:
            told = str(error)
            assert str(folder) in told
            assert SECRET not in told
        else:
            assert isinstance(volume, Volume)
            assert np.isfinite(volume.hu).all()
            assert (np.diff(volume.slice_z) > 0).all()
            assert all(s > 0 for s in volume.spacing)
            assert SECRET not in " ".join(volume.warnings)
    table = identity(folder)
    assert SECRET not in table.to_string()
    table = find_series(folder, progress=False)
    # PatientID is a column of the table, for that is what it lists
    assert SECRET not in table.drop(columns="patient").to_string() + str(table.attrs["excluded"])


def damage(originals: Path, target: Path, raw: bytes) -> None:
    files = sorted(originals.iterdir())
    target.mkdir(exist_ok=True)
    for file in files:
        (target / file.name).write_bytes(file.read_bytes())
    (target / files[1].name).write_bytes(raw)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "scan"


def examples(count: int) -> settings:
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@examples(15)
@given(data=st.data())
def test_truncated_anywhere(originals: Path, target: Path, data: st.DataObject) -> None:
    raw = sorted(originals.iterdir())[1].read_bytes()
    damage(originals, target, raw[: data.draw(st.integers(0, len(raw) - 1))])
    check(target)


@examples(35)
@given(data=st.data())
def test_bytes_changed(originals: Path, target: Path, data: st.DataObject) -> None:
    raw = bytearray(sorted(originals.iterdir())[1].read_bytes())
    header = len(raw) - 128
    where = st.one_of(st.integers(128, header), st.integers(0, len(raw) - 1))
    flips = st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=8)
    for at, byte in data.draw(flips):
        raw[at] = byte
    damage(originals, target, bytes(raw))
    check(target)


@examples(15)
@given(data=st.data())
def test_bytes_lost_or_added(originals: Path, target: Path, data: st.DataObject) -> None:
    raw = sorted(originals.iterdir())[1].read_bytes()
    at = data.draw(st.integers(0, len(raw)))
    lost = data.draw(st.integers(0, 40))
    damage(originals, target, raw[:at] + data.draw(st.binary(max_size=30)) + raw[at + lost :])
    check(target)


@examples(12)
@given(raw=st.binary(max_size=400), marked=st.booleans())
def test_any_bytes(originals: Path, target: Path, raw: bytes, marked: bool) -> None:
    damage(originals, target, b"\0" * 128 + b"DICM" + raw if marked else raw)
    check(target)
