"""Damaged at random: `.anno` files and tables of attributes give faults or a plain error."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lesionlab.attributes import LI_CATEGORIES
from lesionlab.crops import Crop
from lesionlab.sources.anno import Anno, AnnoError, _index, writing
from lesionlab.sources.anno._shapes import fill

EXAMPLES = settings(
    max_examples=int(os.environ.get("LESIONLAB_FUZZ", "150")),
    suppress_health_check=list(HealthCheck),
    deadline=None,
)

numbers = st.one_of(
    st.sampled_from([0, 1, -1, 0.5, 1e308, 10**400, float("nan"), float("inf"), True, None]),
    st.integers(-50, 100),
    st.floats(-60, 60),
)
anything = st.recursive(
    numbers | st.text(max_size=9) | st.sampled_from(["../..", "1.2.3", "/etc/passwd"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One lesion in 2 slices, of one doctor; beside it its whole files."""
    mask = np.zeros((2, 20, 20), np.bool_)
    mask[:, 6:11, 7:14] = True
    at = np.arange(2)
    hu = np.zeros(mask.shape, np.int16)
    crop = Crop("A", hu, mask[None], (1.0, 1.0, 1.0), at, (0, 0), 0 * at, "phantom")
    codes = dict.fromkeys([a.name for a in LI_CATEGORIES], 1)
    root = tmp_path_factory.mktemp("fuzz") / "tree"
    writing.write(root, [writing.from_crop(crop, "P", [codes])], every=1, progress=False)
    (file,) = root.rglob("1_*.anno")
    shutil.copy(file, root.with_name("whole"))
    shutil.copy(root / "attributes.csv", root.with_name("table"))
    return root


@pytest.fixture(autouse=True)
def whole(tree: Path, cache: Path) -> None:
    (file,) = tree.rglob("1_*.anno")
    shutil.copy(tree.with_name("whole"), file)
    shutil.copy(tree.with_name("table"), tree / "attributes.csv")


def changed(raw: bytes, data: Any) -> bytes:
    """Bytes changed, added, lost or cut."""
    found = bytearray(raw)
    edits = st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=6)
    for at, byte in data.draw(edits):
        found[at] = byte
    at = data.draw(st.integers(0, len(raw)))
    text = st.sampled_from([b"", b"", b"\n", b",", b"[", b"NaN", b"-", b'"', b"1e999", b"9" * 5000])
    rest = data.draw(st.sampled_from([found[at:], found[at:], found[at + 20 :], b""]))
    return bytes(found[:at]) + data.draw(text | st.binary(max_size=9)) + bytes(rest)


def check(tree: Path, raw: bytes) -> None:
    """A damaged file is left out with a fault that names it, or is sound; the other one is read."""
    (file,) = tree.rglob("1_*.anno")
    file.write_bytes(raw)
    (scan,) = _index.find_scans(tree)[0].values()
    record = _index.read_scan(scan)
    faults = [fault for fault in record["faults"] if fault.path.endswith(file.name)]
    assert len(record["faults"]) == len(faults) <= 1
    assert not faults or faults[0].reason
    lesions = record["lesions"].values()
    used = sorted(aid for one in lesions for _, aid, _ in one["files"])
    assert used == ([2] if faults else [1, 2])
    assert all(np.isfinite([one["diameter"], one["y"], one["x"]]).all() for one in lesions)
    json.dumps(record, allow_nan=False)
    if not faults:
        pixels = fill(_index.read_annotation(file).outline)
        assert 0 <= pixels.min() <= pixels.max() < 20


@EXAMPLES
@given(data=st.data())
def test_bytes_of_a_file(tree, data):
    check(tree, changed(tree.with_name("whole").read_bytes(), data))


@EXAMPLES
@given(data=st.data())
def test_values_of_a_file(tree, data):
    told = json.loads(tree.with_name("whole").read_text())
    for key in data.draw(st.lists(st.sampled_from(sorted(told)), min_size=1, max_size=3)):
        value = told[key]
        if isinstance(value, list) and value and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(value) - 1))
            value[at] = data.draw(st.lists(numbers, min_size=2, max_size=2) | anything)
        else:
            told[key] = data.draw(anything)
    literal = data.draw(st.booleans())
    check(tree, (repr(told) if literal else json.dumps(told)).encode(errors="replace"))


@EXAMPLES
@given(data=st.data())
def test_the_table_of_attributes(tree, data):
    (tree / "attributes.csv").write_bytes(changed(tree.with_name("table").read_bytes(), data))
    table, told = None, ""
    try:
        table = Anno(tree, progress=False).lesions()
    except AnnoError as error:
        told = str(error)
    if table is None:
        assert str(tree) in told
    else:
        assert len(table) == 1
        assert {code for some in table["cavity_readings"] for code in some} <= {1, 2, None}
