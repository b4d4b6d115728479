"""Results: every kind of value, every refusal, and where a file says it comes from."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesionlab import results
from lesionlab._files import read_json, replacing, sha256, sha256_tree, write_json, write_text


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(results.ENVIRONMENT, raising=False)
    monkeypatch.setattr(results, "_values", {})
    monkeypatch.setattr(results, "_data", {})


@dataclasses.dataclass
class Interval:
    low: float
    high: Any


frame = pd.DataFrame({"n": [1, 2], "p": [0.5, np.nan]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (-np.inf, "-Infinity"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.array([[0.5, np.nan], [3, 4]]), [[0.5, None], [3, 4]]),
        (np.array(["a", None], dtype=object), ["a", None]),
        (pd.Series([1.5, np.nan], index=["a", "b"]), {"a": 1.5, "b": None}),
        (pd.Series(["x"], index=pd.MultiIndex.from_tuples([("a", 1)])), {"a / 1": "x"}),
        (pd.Series(["x", None], dtype="category"), {"0": "x", "1": None}),
        (frame, [{"n": 1, "p": 0.5}, {"n": 2, "p": None}]),
        (frame["n"].astype("Int64").mask(frame["n"] == 1), {"0": None, "1": 2}),
        (frame[["n"]].set_axis(["a", "b"]), [{"index": "a", "n": 1}, {"index": "b", "n": 2}]),
        (frame[["n"]].set_axis(pd.Index([7, 8], name="id")), [
            {"id": 7, "n": 1}, {"id": 8, "n": 2}
        ]),
        (frame[["n"]].set_axis(pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])), [
            {"level_0": "a", "level_1": 1, "n": 1}, {"level_0": "b", "level_1": 2, "n": 2}
        ]),
        (frame[["n"]].set_axis([("x", "y")], axis=1), [{"x / y": 1}, {"x / y": 2}]),
        (pd.crosstab(pd.Categorical(["a", "b"]), pd.Categorical(["x", "x"])), [
            {"row_0": "a", "x": 1}, {"row_0": "b", "x": 1}
        ]),
        ({"a": np.int64(1), 2: (1, "left")}, {"a": 1, "2": [1, "left"]}),
        ([Interval(np.nan, np.array([1]))], [{"low": None, "high": [1]}]),
    ],
)  # fmt: skip
def test_every_kind_of_value_has_a_form(value, expected):
    found = results.jsonable(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected
    assert_plain(found)


def assert_plain(value: Any) -> None:
    """Exactly JSON's types: a numpy float64 is a float, but not one of them."""
    assert type(value) in (dict, list, str, int, float, bool, type(None))
    inside = value.values() if isinstance(value, dict) else value
    for item in inside if isinstance(value, (dict, list)) else ():
        assert_plain(item)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({1, 2}, "value is of type set, which has no form in JSON"),
        ([object()], r"value\[0\] is of type object"),
        ({"a": {"b": Path("x")}}, r"value\.a\.b is of type pathlib\."),
        (pd.Series([1, 2], index=["a", "a"]), "value has two entries called 'a'"),
        ({1: 0, "1": 0}, "value has two entries called '1'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"value\[0\] has two entries called 'a'"),
    ],
)
def test_what_has_no_form_or_would_be_lost_is_named(value, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        results.jsonable(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
        max_leaves=20,
    )
)
def test_the_form_is_standard_json_and_stays_as_it_is(value):
    once = results.jsonable(value)
    assert results.jsonable(once) == once == json.loads(json.dumps(once, allow_nan=False))


# -- recording -------------------------------------------------------------------------


def test_in_a_run_every_value_goes_to_the_file(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    monkeypatch.setenv(results.ENVIRONMENT, str(file))
    results.record("auc", np.float64(0.75))
    assert read_json(file) == {"data": [], "results": {"auc": 0.75}}
    for _ in range(2):  # the same again is no fault
        results.record("kappa.margin", [0.1, float("nan")])
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


def test_in_jupyterlab_nothing_is_written_and_the_last_value_stands(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    results.record("auc", 0.5)
    results.record("auc", 0.6)
    assert results.collected() == {"data": [], "results": {"auc": 0.6}}
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["", "AUC", "1st", "a..b", "a.", "a/b", None])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(ValueError, match="name must look like"):
        results.record(name, 1)
    with pytest.raises(ValueError, match="tier='slices': expected one of real"):
        results.record_data("LIDC", tier="slices")


# -- provenance ------------------------------------------------------------------------


def test_the_commit_and_whether_files_differ_from_it(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def found() -> tuple[str | None, bool | None]:
        told = results.provenance(tmp_path)
        return told["commit"], told["dirty"]

    assert found() == (None, None)
    git("init", "--quiet")
    assert found()[0] is None, "no commit yet"
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert found() == (commit, False)
    (tmp_path / "b").write_text("new", encoding="utf-8")
    assert found() == (commit, True)
    (tmp_path / "unpacked").mkdir()
    assert results.provenance(tmp_path / "unpacked")["commit"] is None, "that is somebody else's"


def test_a_results_file_reads_back(tmp_path):
    facts = {"notebook": "one", "set": "book", "parameters": {}, "data": []}
    content = facts | {"results": {"a": 1}}
    assert results.read(write_json(tmp_path / "one.json", content)) == content
    wrong = {"set": None, "parameters": [], "data": {}, "results": "a", "seconds": "1"}
    for other in (facts, [], *(content | {key: value} for key, value in wrong.items())):
        with pytest.raises(ValueError, match=r"other\.json is not a results file"):
            results.read(write_json(tmp_path / "other.json", other))


# -- files -----------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    write_text(target, "ä\n")
    assert target.read_bytes() == "ä\n".encode()

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, float("nan"))
    assert target.read_text(encoding="utf-8") == "ä\n"
    assert list(target.parent.iterdir()) == [target], "no temporary file is left"
    with pytest.raises(ValueError, match=r"file\.txt is not a JSON file: Expecting value: line 1"):
        read_json(target)
    own = {"sha256": "somebody else's", "auc": 0.5}
    assert read_json(write_json(target, own)) == own, "no seal is looked for where none was asked"
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode, "whoever may read others"


def test_checksums_follow_names_and_contents(tmp_path):
    abc = write_text(tmp_path / "abc.py", "abc")  # FIPS 180-2, appendix B.1
    assert sha256(abc) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def checksum() -> str:
        return sha256_tree(tmp_path, [".py", ".csv"])

    seen = [checksum()]
    for name, text in [("a.py", "1"), ("a.py", "2"), ("t/t.csv", "1")]:
        write_text(tmp_path / name, text)
        seen.append(checksum())
    abc.rename(tmp_path / "b.py")
    assert len({*seen, checksum()}) == 5, "a module that moved is another library"
    before = checksum()
    for name in ("README.md", "a.pyc", ".a.py.tmp.py"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    assert checksum() == before
