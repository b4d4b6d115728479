"""The command: what it prints, how it ends, and that it starts at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lesionlab import __version__, doctor, realism
from lesionlab._files import sole_writer
from lesionlab.cli import _data, app
from lesionlab.crops import datasets
from lesionlab.sources import lidc, origins, phantom

HEAVY = {"numpy", "pandas", "scipy", "matplotlib", "torch", "papermill", "nbformat", "pylidc"}


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_installed_command_prints_the_version() -> None:
    program = Path(sys.executable).with_name("lesionlab")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"lesionlab {__version__}\n"


def test_starting_loads_nothing_heavy() -> None:
    code = "import sys, lesionlab.cli; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("arguments", [[], ["notebooks"], ["data"]])
def test_without_a_command_the_help_is_shown(arguments: list[str]) -> None:
    done = command(*arguments)
    assert "Usage:" in done.output
    assert "Commands:" in done.output


def test_list_says_what_there_is_and_how_it_stands(project: Any) -> None:
    project.write("one", parameters="seed = 1\nname = 'a'")
    project.write("two", parameters=None)
    (project.folder / "sets.yml").write_text("one: {smoke: {seed: 2}}", encoding="utf-8")
    options = ["--folder", str(project.folder)]
    done = command("notebooks", "list", *options)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "one: One",
        "    seed = 1",
        "    name = 'a'",
        "    sets: book, smoke",
        "    executed copy: missing",
        "two: Two",
        "    sets: book",
        "    executed copy: missing",
    ]
    assert command("notebooks", "run", "two", *options).exit_code == 0
    assert "executed copy: up to date" in command("notebooks", "list", *options).stdout
    project.write("two", "1 + 1")
    assert "stale: the notebook has changed" in command("notebooks", "list", *options).stdout


def test_an_empty_folder_is_said_to_be_empty(project: Any) -> None:
    for what in ("list", "run"):
        done = command("notebooks", what, "--folder", str(project.folder))
        assert (done.exit_code, done.stdout) == (0, "there are no notebooks\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["onne"], "unknown notebook 'onne' in notebooks/; did you mean 'one'?; there are one"),
        (["one", "-p", "sead=3"], "unknown parameter 'sead' of one; did you mean 'seed'?"),
        (["one", "-p", "seed"], "a parameter is given as name=value, got 'seed'"),
        (["one", "-p", "seed=many"], "parameter seed of one takes a value of type int, got 'many'"),
        (["one", "--set", "smoke"], "unknown set 'smoke' of one"),
        (["--folder", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    project: Any, arguments: list[str], complaint: str
) -> None:
    project.write("one", "raise SystemError('ran')")
    done = command("notebooks", "run", "--folder", str(project.folder), *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"lesionlab: {complaint}")
    assert done.stderr.count("\n") == 1
    assert not project.executed.exists()


def test_every_name_is_checked_before_anything_runs(project: Any) -> None:
    project.write("one", parameters="seed = 1")
    project.write("two", parameters="other = 1")
    done = command("notebooks", "run", "--folder", str(project.folder), "-p", "seed=2")
    assert done.exit_code == 2
    assert "unknown parameter 'seed' of two" in done.stderr
    assert not (project.root / "runs").exists()


def test_outside_a_checkout_the_own_one_is_used_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lesionlab.__file__", str(tmp_path / "site-packages" / "x" / "__init__.py"))
    done = command("notebooks", "list")
    assert done.exit_code == 2
    assert done.stderr.startswith("lesionlab: notebooks did not come with lesionlab")


def test_a_failure_is_told_and_the_rest_still_runs(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("a", "1 / 0")
    project.write("b", "1 + 1")
    monkeypatch.chdir(project.root)
    done = command("notebooks", "run")
    assert done.exit_code == 1
    assert (
        "lesionlab: a.ipynb, cell 3 (In [2]): ZeroDivisionError: division by zero\n" in done.stderr
    )
    assert "as far as it got: _build/executed/a.failed.ipynb" in done.stderr
    assert "Traceback" not in done.output
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["a", "FAILED"],
        ["b", "executed"],
    ]
    assert (project.executed / "b.ipynb").exists()


def test_debugging_shows_the_traceback(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESIONLAB_DEBUG", "1")
    done = command("notebooks", "run", "x", "--folder", str(project.folder))
    assert isinstance(done.exception, ValueError)


def test_a_set_and_values_reach_the_run(project: Any) -> None:
    project.write("one", "assert (seed, rate) == (5, 0.001)", parameters="seed = 1\nrate = 1.0")
    (project.folder / "sets.yml").write_text("one: {smoke: {seed: 5}}", encoding="utf-8")
    options = ["--folder", str(project.folder), "--set", "smoke"]
    assert command("notebooks", "run", *options).exit_code == 1
    done = command("notebooks", "run", *options, "-p", "rate=1e-3")
    assert done.exit_code == 0, done.output
    assert len(list((project.root / "runs" / "one").glob("smoke-*/one.ipynb"))) == 1


# -- data ------------------------------------------------------------------------------

IDS = lidc.nodules().index.tolist()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    for name in ("LESIONLAB_LIDC_SLICES", "LESIONLAB_LIDC_DICOM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def rows(done: Result) -> dict[str, str]:
    """The lines of a table by their first word."""
    return {line.split()[0]: line.partition("  ")[2].strip() for line in done.stdout.splitlines()}


def test_a_store_is_built_gone_on_with_described_and_validated(cache: Path, tmp_path: Path) -> None:
    done = command("data", "build", "phantom", "--limit", "2", "--seed", "1")
    assert done.exit_code == 0, done.output
    told = rows(done)
    url = datasets.default_url("phantom", 1)
    assert told["lesions"] == "2, 2 of them made now"
    assert (told["left"], told["store"]) == ("0", url)
    (tmp_path / "ids").write_text(f"{IDS[2]}\n{IDS[0]}\n", encoding="utf-8")
    options = ["--lesions", str(tmp_path / "ids"), "--seed", "1"]
    assert rows(command("data", "build", "phantom", *options))["lesions"].startswith("3, 1 of them")

    done = command("data", "info", "phantom")
    assert rows(done)["lesions"] == "3 of 3 expected, complete"
    assert "HU" in rows(done)["intensity"]
    assert "not read" in rows(command("data", "info", url, "--quick"))["intensity"]
    told = json.loads(command("data", "info", "phantom", "--seed", "1", "--json").stdout)
    assert (told["lesions"], told["provenance"]["seed"], told["exclusions"]) == (3, 1, {})

    done = command("data", "validate", "phantom")
    assert (done.exit_code, done.stdout) == (0, f"{url}: 3 lesions, complete, nothing is wrong\n")


def test_what_is_wrong_is_listed_and_counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = datasets.crops("phantom", IDS[:3], progress=False)
    root = Path(store.url) / "zarr.json"
    about = json.loads(root.read_bytes())
    about["attributes"]["lesionlab"]["complete"] = None
    root.write_text(json.dumps(about), encoding="utf-8")
    for lesion_id in IDS[:2]:
        file = Path(store.url) / "hu" / lesion_id / "c" / "0" / "0" / "0"
        file.write_bytes(b"\1" * file.stat().st_size)
    monkeypatch.setattr(_data, "SHOWN", 2)
    done = command("data", "validate", store.url)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "zarr.json: the build did not come to its end: 0 lesions are missing"
    assert lines[1].startswith(f"{IDS[0]}: voxels, masks or geometry are not what was written")
    assert lines[2:] == ["… and 1 more"]
    assert done.stderr == f"lesionlab: {store.url}: 3 things are wrong, 3 lesions checked\n"
    assert "INCOMPLETE" in command("data", "info", store.url).stdout


def test_a_store_that_cannot_be_opened_is_wrong(cache: Path) -> None:
    store = datasets.crops("phantom", IDS[:1], progress=False)
    (Path(store.url) / "lesions.parquet").write_bytes(b"")
    done = command("data", "validate", "phantom")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "lesions.parquet is damaged" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["build", "phantm"], 2, "unknown data set 'phantm'; did you mean 'phantom'?; there are"),
        (["build", "slices"], 2, "the LIDC-IDRI slices are not set up: LESIONLAB_LIDC_SLICES"),
        (["build", "dicom"], 2, "the LIDC-IDRI scans are not set up: LESIONLAB_LIDC_DICOM"),
        (["build", "dicom", "--source", "nowhere"], 1, "nowhere"),
        (["build", "phantom", "--seed", "-1"], 2, "seed=-1: expected a whole number from 0"),
        (["build", "phantom", "--lesions", "nowhere"], 2, "nowhere"),
        (["build", "phantom", "--limit", "1", "--out", "nope://x"], 2, "nope"),
        (["info", "phantom"], 2, "there is no store of phantom in"),
        (["info", "nowhere/at-all"], 2, "nowhere/at-all: no store of crops"),
        (["validate", "dicon"], 2, "unknown data set 'dicon'; did you mean 'dicom'?"),
        (["validate", "x/y", "--report", "."], 2, "report: . is a folder"),
    ],
)
def test_wrong_use_of_data_is_one_line(
    arguments: list[str], status: int, complaint: str, cache: Path
) -> None:
    done = command("data", *arguments)
    assert done.exit_code == status, done.output
    assert done.stderr.startswith("lesionlab: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_another_writer_and_a_store_made_otherwise(cache: Path) -> None:
    url = datasets.default_url("phantom")
    with sole_writer(url):
        done = command("data", "build", "phantom", "--limit", "1")
        assert (done.exit_code, "is being written by process" in done.stderr) == (1, True)
    assert command("data", "build", "phantom", "--limit", "1").exit_code == 0
    done = command("data", "build", "phantom", "--limit", "1", "--seed", "5", "--out", url)
    assert done.exit_code == 2
    assert "was made otherwise: seed was 0, now 5: use another folder" in done.stderr


def test_a_failing_lesion_stops_and_says_which(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(lesion_id: str, seed: int) -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(phantom, "make", fails)
    done = command("data", "build", "phantom", "--limit", "1")
    assert done.exit_code == 1
    assert done.stderr == f"lesionlab: {IDS[0]}: ZeroDivisionError: oh\n"


def test_the_report_goes_to_a_file_that_is_not_replaced_unasked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    import lidc_sources

    monkeypatch.setattr(lidc.default(), "_cache", None)
    source = lidc_sources.write_slices(tmp_path / "set", IDS[:1])
    with_source = ["--source", str(source)]
    (tmp_path / "ids").write_text(f"{IDS[0]}\n{IDS[9]}\n", encoding="utf-8")
    done = command("data", "build", "slices", "--lesions", str(tmp_path / "ids"), *with_source)
    assert done.exit_code == 0, done.output
    assert "1 × no folder of the set shows it" in done.stdout
    file = tmp_path / "report.csv"
    options = ["validate", "slices", "--report", str(file), *with_source]
    done = command("data", *options)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"matched 1 of 2,651 nodules, listed in {file}\n")
    assert ", 1 left out, complete, nothing is wrong" in done.stdout
    content = file.read_text(encoding="utf-8")
    assert content.count("\n") == 2652
    assert f"{IDS[0][:14]},0,{IDS[0]},True," in content
    file.write_text("mine", encoding="utf-8")
    done = command("data", *options)
    assert (done.exit_code, "give --force to replace it" in done.stderr) == (2, True)
    assert file.read_text(encoding="utf-8") == "mine"
    assert command("data", *options, "--force").exit_code == 0
    assert file.read_text(encoding="utf-8") == content
    url = datasets.crops("phantom", IDS[:1], progress=False).url
    done = command("data", "validate", url, "--report", str(tmp_path / "other"))
    assert (done.exit_code, "expected slices or dicom" in done.stderr) == (2, True)


def test_the_help_names_every_data_set_and_cohort() -> None:
    text = "".join(command("data", "build", "--help").output.split())  # wrapped at any hyphen
    for name in (*datasets.NAMES, *datasets.COHORTS):
        assert name in text
    assert tuple(_data.Cohort) == datasets.COHORTS


# -- doctor ----------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "needed", "status"), [
    ("ok", True, 0), ("problem", False, 0), ("missing", False, 0), ("problem", True, 1),
])  # fmt: skip
def test_the_doctor_fails_only_where_phantoms_would(
    state: Any, needed: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [doctor.Finding("A", "one", state, "is so", "Do that.", needed)]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    done = command("doctor")
    assert done.exit_code == status
    assert f"  {state:<7}  one  is so\n                → Do that.\n" in done.stdout
    done = command("doctor", "--json")
    assert done.exit_code == status
    assert json.loads(done.stdout) == doctor.to_dict(findings)


@pytest.mark.slow
def test_realism_writes_what_the_chapter_reads(real_slices: Path, tmp_path: Path) -> None:
    options = ["--source", str(real_slices), "--limit", "30", "--processes", "1"]
    done = command("data", "realism", "--out", str(tmp_path / "new"), *options)
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "realism.json",
        "side_by_side.png",
    }
    found = realism.read(tmp_path / "new" / "realism.json")
    assert f"nodules        {found.n_lesions}\n" in done.output
    assert 0 < found.n_lesions <= 30
    assert (tmp_path / "new" / "side_by_side.png").read_bytes().startswith(b"\x89PNG")


def test_realism_needs_the_real_slices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LESIONLAB_LIDC_SLICES", raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    done = command("data", "realism", "--out", str(tmp_path / "new"))
    assert done.exit_code == 2
    assert "LESIONLAB_LIDC_SLICES is not set" in done.output
    assert not (tmp_path / "new").exists()
