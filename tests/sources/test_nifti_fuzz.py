"""Damaged at random: NIfTI and NRRD files and the table give faults or a plain error."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lesionlab.sources.nifti import Nifti, NiftiError, read_case

EXAMPLES = settings(
    max_examples=int(os.environ.get("LESIONLAB_FUZZ", "600")) // 4,
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
CELLS = {"case": "a", "image": "a.nii", "mask": "a-label.nrrd", "pathology": "", "where": "line 2"}
TABLE = "case,patient,image,mask,pathology\na,7,a.nii,a-label.nrrd,IAC\nb,8,b.nii,b-label.nrrd,\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one case, uncompressed and compressed."""
    folder = tmp_path_factory.mktemp("whole")
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 1:3, 2:4] = 1
    files = {}
    for name, array in (("a.nii", mask.astype(np.int16) * 500 - 800), ("a-label.nrrd", mask)):
        made: Any = sitk.GetImageFromArray(array)
        made.SetSpacing((0.7, 0.7, 1.25))
        made.SetOrigin((-20.0, 30.0, -100.0))
        for packed in (False, True):
            sitk.WriteImage(made, folder / name, useCompression=packed)
            files[f"{name}{packed}"] = (folder / name).read_bytes()
    files["a.niiTrue"] = gzip.compress(files["a.niiFalse"])
    return files


@pytest.fixture
def root(tmp_path: Path, whole: dict[str, bytes], cache: Path) -> Path:
    for case in "ab":
        (tmp_path / f"{case}.nii").write_bytes(whole["a.niiFalse"])
        (tmp_path / f"{case}-label.nrrd").write_bytes(whole["a-label.nrrdTrue"])
    (tmp_path / "labels.csv").write_text(TABLE)
    return tmp_path


def changed(raw: bytes, data: Any, most: int) -> bytes:
    """Bytes changed, mostly among the first ones, added, lost or cut."""
    found = bytearray(raw)
    where = st.integers(0, min(most, len(raw)) - 1) | st.integers(0, len(raw) - 1)
    for at, byte in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), max_size=6)):
        found[at] = byte
    at = data.draw(st.integers(0, len(raw)))
    rest = data.draw(st.sampled_from([found[at:], found[at:], found[at + 20 :], b""]))
    text = st.sampled_from(
        [b"", b"", b"", b"\n", b" ", b"9" * 50, b"-", b"nan", b"1e999", b"(", b","]
    )
    return bytes(found[:at]) + data.draw(text | st.binary(max_size=9)) + bytes(rest)


def check(root: Path, name: str, raw: bytes) -> None:
    """A damaged file gives one fault that names it, or a volume with sound numbers."""
    (root / name).write_bytes(raw)
    record = read_case(root, CELLS)
    json.dumps(record, allow_nan=False)
    if not record["faults"]:
        row = record["row"]
        assert 0 < row["diameter"] < 1e6
        assert all(1e-3 <= mm <= 1e3 for mm in record["spacing"])
        assert np.abs(record["grid"].origin).max() <= 1e5
        return
    # an image that still can be read may have another place than its mask
    assert len(record["faults"]) == 1
    assert record["faults"][0].path in ("a.nii", "a-label.nrrd")
    assert record["faults"][0].reason


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("name", ["a.nii", "a-label.nrrd"])
def test_bytes_of_a_file(root, whole, name, data):
    check(root, name, changed(whole[f"{name}{data.draw(st.booleans())}"], data, 400))


@EXAMPLES
@given(data=st.data())
def test_numbers_of_an_image(root, whole, data):
    """Each at its own place, so that what is behind the first checks is met, too."""
    raw = bytearray(whole["a.niiFalse"])
    small, wide = st.integers(-3, 20), st.integers(-(2**15), 2**15 - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            at = data.draw(st.sampled_from([*range(40, 76, 2), 252, 254]))
            struct.pack_into(
                "<h", raw, at, data.draw(small | wide | st.sampled_from([2, 4, 16, 64]))
            )
        else:
            at = data.draw(st.sampled_from([*range(76, 120, 4), *range(256, 328, 4)]))
            number = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 0.7, -0.7, 352.0])
            struct.pack_into("<f", raw, at, data.draw(number))
    check(root, "a.nii", bytes(raw))


FIELDS = {
    "type": ["short", "float", "block", "double", "uint64"],
    "dimension": ["3", "4", "-1", "99999999999"],
    "sizes": ["5 4 3", "0 4 3", "5 4", "99999 99999 99999", "5 4 3 1", "-5 4 3"],
    "space": ["LPS", "right-anterior-superior", "scanner-xyz", "", "left-posterior-superior-time"],
    "space directions": ["none (1,0,0) (0,1,0)", "(nan,0,0) (0,1,0) (0,0,1)",
                         "(0,0,0) (0,0,0) (0,0,0)", "(1,0,0)",
                         "(1e308,0,0) (0,1e308,0) (0,0,1e308)",
                         "(" * 3000],
    "space origin": ["(inf,0,0)", "(0,0)", "0 0 0", "x", "(1e300,0,0)"],
    "endian": ["big", "middle", ""],
    "encoding": ["gzip", "raw", "hex", "ascii", "bzip2"],
    "data file": ["/etc/passwd", "LIST", "a.raw", "x%03d 1 9 1"],
    "byte skip": ["-1", "9", "99999999999999999999"],
    "kinds": ["domain domain list", "3-color domain domain"],
}  # fmt: skip


@EXAMPLES
@given(data=st.data())
def test_fields_of_a_mask(root, whole, data):
    head, _, rest = whole[f"a-label.nrrd{data.draw(st.booleans())}"].partition(b"\n\n")
    lines = head.decode().splitlines()
    for field in data.draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3)):
        value = data.draw(st.sampled_from(FIELDS[field]) | st.text(max_size=30))
        lines = [line for line in lines if not line.startswith(f"{field}:")] + [f"{field}: {value}"]
    check(root, "a-label.nrrd", "\n".join(lines).encode(errors="replace") + b"\n\n" + rest)


@EXAMPLES
@given(data=st.data())
def test_the_table(root, data):
    (root / "labels.csv").write_bytes(changed(TABLE.encode(), data, 200))
    table, told = None, ""
    try:
        table = Nifti(root, progress=False).lesions()
    except NiftiError as error:
        told = str(error)
    if table is None:
        assert str(root) in told
    else:
        assert 1 <= len(table) <= 4
        assert {*table["pathology"].dropna()} <= {"AAH", "AIS", "MIA", "IAC"}
