"""Results: every kind of value, every refusal, and where a file says it comes from."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesionlab import results
from lesionlab._files import read_json, replacing, sha256, write_json, write_text


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(results.ENVIRONMENT, raising=False)
    results.clear()
    yield
    results.clear()


class Side(enum.Enum):
    LEFT = "left"


@dataclasses.dataclass
class Interval:
    low: float
    high: Any


frame = pd.DataFrame({"n": [1, 2], "p": [0.5, np.nan]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        ("text", "text"),
        (0.1, 0.1),
        (float("nan"), None),
        (float("inf"), "Infinity"),
        (-np.inf, "-Infinity"),
        (np.bool_(True), True),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.float64("nan"), None),
        (np.str_("a"), "a"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan]), [0.5, None]),
        (np.array(2.5), 2.5),
        (np.array(["a", None], dtype=object), ["a", None]),
        (np.array([True, False]), [True, False]),
        (np.array([], dtype=float), []),
        (np.datetime64("2011-02-01"), "2011-02-01T00:00:00"),
        (np.array(["2011-02-01", "NaT"], dtype="datetime64[ns]"), ["2011-02-01T00:00:00", None]),
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2011-02-01"), "2011-02-01T00:00:00"),
        (datetime.date(2011, 2, 1), "2011-02-01"),
        (pd.Interval(0, 3), "(0, 3]"),
        (pd.Series([1, 2], index=["a", "b"]), {"a": 1, "b": 2}),
        (pd.Series([1.5, np.nan]), {"0": 1.5, "1": None}),
        (pd.Series(["x"], index=pd.MultiIndex.from_tuples([("a", 1)])), {"a / 1": "x"}),
        (pd.Series([1, None], dtype="Int64"), {"0": 1, "1": None}),
        (pd.Series(["x", None], dtype="category"), {"0": "x", "1": None}),
        (pd.Index([1, 2]), [1, 2]),
        (pd.array([1, None], dtype="Int64"), [1, None]),
        (frame, [{"n": 1, "p": 0.5}, {"n": 2, "p": None}]),
        (frame.set_axis(["a", "b"]), [
            {"index": "a", "n": 1, "p": 0.5}, {"index": "b", "n": 2, "p": None}
        ]),
        (frame[["p"]].set_axis(pd.Index([7, 8], name="id")), [
            {"id": 7, "p": 0.5}, {"id": 8, "p": None}
        ]),
        (frame[["n"]].set_axis(pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])), [
            {"level_0": "a", "level_1": 1, "n": 1}, {"level_0": "b", "level_1": 2, "n": 2}
        ]),
        (frame[["n"]].set_axis([("x", "y")], axis=1), [{"x / y": 1}, {"x / y": 2}]),
        (frame.iloc[:0], []),
        (pd.crosstab(pd.Categorical(["a", "b"]), pd.Categorical(["x", "x"])), [
            {"row_0": "a", "x": 1}, {"row_0": "b", "x": 1}
        ]),
        ({"a": np.int64(1), 2: (1, 2)}, {"a": 1, "2": [1, 2]}),
        (Side.LEFT, "left"),
        (Interval(0.1, np.array([1])), {"low": 0.1, "high": [1]}),
        ([Interval(np.nan, None)], [{"low": None, "high": None}]),
    ],
)  # fmt: skip
def test_every_kind_of_value_has_a_form(value: Any, expected: Any) -> None:
    found = results.jsonable(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected
    assert_plain(found)


def assert_plain(value: Any) -> None:
    """Exactly JSON's types: a numpy float64 is a float, but not one of them."""
    assert type(value) in (dict, list, str, int, float, bool, type(None))
    for item in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        assert_plain(item)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({1, 2}, "value is of type set, which has no form in JSON"),
        (1j, "value is of type complex"),
        (b"bytes", "value is of type bytes"),
        ([object()], r"value\[0\] is of type object"),
        ({"a": {"b": Path("x")}}, r"value\.a\.b is of type pathlib\."),
        (pd.Series([1j]), r"value\.0 is of type complex"),
        (Interval, "value is of type type"),
        (np.array([1j]), "value is of type numpy.ndarray"),
        (lambda: 1, "value is of type function"),
    ],
)
def test_what_has_no_form_is_named(value: Any, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        results.jsonable(value)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (pd.Series([1, 2], index=["a", "a"]), "value has two entries called 'a'"),
        ({1: 0, "1": 0}, "value has two entries called '1'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"value\[0\] has two entries called 'a'"),
    ],
)
def test_no_entry_is_lost(value: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        results.jsonable(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
        max_leaves=20,
    )
)
def test_the_form_is_standard_json_and_stays_as_it_is(value: Any) -> None:
    once = results.jsonable(value)
    assert results.jsonable(once) == once == json.loads(json.dumps(once, allow_nan=False))


def test_values_are_not_changed_and_keep_their_precision() -> None:
    table = frame.copy()
    assert results.jsonable(np.pi) == np.pi
    results.jsonable(table)
    pd.testing.assert_frame_equal(table, frame)


# -- recording -------------------------------------------------------------------------


def test_in_a_run_every_value_goes_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    monkeypatch.setenv(results.ENVIRONMENT, str(file))
    results.record("auc", np.float64(0.75))
    assert read_json(file) == {"data": [], "results": {"auc": 0.75}}
    results.record("auc", 0.75)
    results.record("kappa.margin", [0.1, float("nan")])
    results.record("kappa.margin", [0.1, float("nan")])
    results.record_data("LIDC", tier="real", checksum="0" * 64)
    results.record_data("LIDC", tier="real", checksum="0" * 64)
    assert read_json(file) == {
        "data": [{"name": "LIDC", "tier": "real", "checksum": "0" * 64}],
        "results": {"auc": 0.75, "kappa.margin": [0.1, None]},
    }
    with pytest.raises(ValueError, match=r"'auc' was recorded as 0\.75 before, now as 0\.76"):
        results.record("auc", 0.76)
    with pytest.raises(ValueError, match="'LIDC' was recorded as"):
        results.record_data("LIDC", tier="phantom")
    assert read_json(file)["results"]["auc"] == 0.75


def test_in_jupyterlab_nothing_is_written_and_the_last_value_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results.record("auc", 0.5)
    results.record("auc", 0.6)
    assert results.collected() == {"data": [], "results": {"auc": 0.6}}
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["", "AUC", "1st", "a b", "a..b", "a.", ".a", "a/b", "é", 3, None])
def test_a_name_of_another_form_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="name must look like"):
        results.record(name, 1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": " ", "tier": "real"}, "name must say what the data are"),
        (
            {"name": "LIDC", "tier": "slices"},
            "tier must be one of real, phantom, private, got 'slices'",
        ),
        ({"name": "LIDC", "tier": "real", "checksum": "abc"}, "64 hexadecimal digits"),
        ({"name": "LIDC", "tier": "real", "checksum": "G" * 64}, "64 hexadecimal digits"),
    ],
)
def test_data_of_another_form_are_refused(arguments: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        results.record_data(**arguments)
    assert results.collected()["data"] == []


# -- provenance ------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    found = results.provenance(tmp_path)
    assert (found["commit"], found["dirty"]) == (None, None)

    git(tmp_path, "init", "--quiet")
    assert results.provenance(tmp_path)["commit"] is None, "no commit yet"
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    found = results.provenance(tmp_path)
    assert found["commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert found["dirty"] is False

    (tmp_path / "b").write_text("new", encoding="utf-8")
    assert results.provenance(tmp_path)["dirty"] is True
    (tmp_path / "b").unlink()
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert results.provenance(tmp_path)["dirty"] is True

    inside = tmp_path / "unpacked"
    inside.mkdir()
    assert results.provenance(inside)["commit"] is None, "that commit is somebody else's"


def test_versions_are_those_installed(root: Path) -> None:
    versions = results.provenance(root)["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["pandas"] == pd.__version__
    assert {"python", "lesionlab", "scikit-learn", "statsmodels"} <= versions.keys()


def test_a_results_file_reads_back(tmp_path: Path) -> None:
    content = {
        "notebook": "one",
        "set": "book",
        "parameters": {},
        "data": [],
        "results": {"a": 1},
    }
    assert results.read(write_json(tmp_path / "one.json", content)) == content
    with pytest.raises(ValueError, match=r"other\.json is not a results file"):
        results.read(write_json(tmp_path / "other.json", {"results": {}}))
    with pytest.raises(ValueError, match=r"list\.json is not a results file"):
        results.read(write_json(tmp_path / "list.json", []))
    with pytest.raises(ValueError, match=r"no\.json is not a JSON file: Expecting value: line 1"):
        results.read(write_text(tmp_path / "no.json", "no"))
    with pytest.raises(FileNotFoundError):
        results.read(tmp_path / "missing.json")


# -- files -----------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    write_text(target, "ä\n")
    assert target.read_bytes() == "ä\n".encode()

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text(encoding="utf-8") == "ä\n"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, float("nan"))
    assert target.read_text(encoding="utf-8") == "ä\n"
    assert list(target.parent.iterdir()) == [target], "no temporary file is left"


def test_a_written_file_can_be_read_by_whom_other_files_can(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_checksum_is_sha256sums(tmp_path: Path) -> None:
    empty = write_text(tmp_path / "empty", "")
    assert sha256(empty) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    abc = write_text(tmp_path / "abc", "abc")  # FIPS 180-2, appendix B.1
    assert sha256(abc) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
