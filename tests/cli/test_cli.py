"""The command: what it prints, how it ends, and that it starts at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from lesionlab import __version__, diagnosed, realism, results
from lesionlab.cli import _data, app
from lesionlab.crops import datasets
from lesionlab.sources import lidc, origins


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_installed_command_prints_the_version() -> None:
    program = Path(sys.executable).with_name("lesionlab")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"lesionlab {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["notebooks"], ["data"]])
def test_without_a_command_the_help_is_shown(arguments: list[str]) -> None:
    done = command(*arguments)
    assert "Usage:" in done.output
    assert "Commands:" in done.output


# -- notebooks -------------------------------------------------------------------------


def test_list_says_what_there_is_and_how_it_stands(project: Any) -> None:
    options = ["--folder", str(project.folder)]
    done = command("notebooks", "list", *options)
    assert (done.exit_code, "there are no notebooks in" in done.stderr) == (2, True)
    project.write("one", parameters="seed = 1\nname = 'a'")
    project.write("two", parameters=None)
    (project.folder / "sets.yml").write_text("one: {smoke: {seed: 2}}", encoding="utf-8")
    assert command("notebooks", "run", "two", *options).exit_code == 0
    done = command("notebooks", "list", *options)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "one: One",
        "    seed = 1",
        "    name = 'a'",
        "    sets: book, smoke",
        "    executed copy: it has not been executed, or its results are missing",
        "two: Two",
        "    sets: book",
        "    executed copy: up to date",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["onne"], "unknown notebook 'onne' in notebooks/; did you mean 'one'?; there are one"),
        (["-p", "rate=3"], "unknown parameter 'rate' of two; there are seed"),
        (["one", "-p", "seed"], "a parameter is given as name=value, the value as YAML; got"),
        (["one", "-p", "seed=many"], "parameter seed of one takes a value of type int, got 'many'"),
        (["one", "--set", "smoke"], "unknown set 'smoke' of one"),
        (["--folder", "nowhere"], "there are no notebooks in nowhere"),
    ],
)
def test_wrong_use_is_one_line_and_status_2_and_nothing_runs(
    project: Any, arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("one", "raise SystemError('ran')", parameters="seed = 1\nrate = 1")
    project.write("two")
    done = command("notebooks", "run", "--folder", str(project.folder), *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"lesionlab: {complaint}")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in project.root.iterdir()} == {"notebooks"}
    monkeypatch.setenv("LESIONLAB_DEBUG", "1")
    done = command("notebooks", "run", "--folder", str(project.folder), *arguments)
    assert isinstance(done.exception, (ValueError, FileNotFoundError)), "with its traceback"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_failure_is_told_and_the_rest_still_runs(
    project: Any, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    project.write("a", "1 / 0")
    project.write("b", "assert (seed, rate) == (5, 0.001)", parameters="seed = 1\nrate = 1.0")
    (project.folder / "sets.yml").write_text("b: {book: {seed: 5, rate: 1e-3}}", encoding="utf-8")
    monkeypatch.chdir(project.root)
    done = command("notebooks", "run", "--jobs", jobs)
    assert done.exit_code == 1
    told = "lesionlab: a.ipynb, In [2]: ZeroDivisionError: division by zero; as far as it got: "
    assert done.stderr == f"{told}_build/executed/a.failed.ipynb\n"
    failed, executed = sorted(line.split() for line in done.stdout.splitlines())
    assert failed == ["a", "FAILED"]
    assert (*executed[:2], executed[-1]) == ("b", "executed", "_build/executed/b.ipynb")
    assert (project.executed / "b.ipynb").exists()


# -- data ------------------------------------------------------------------------------

IDS = lidc.nodules().index.tolist()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    for name in ("LESIONLAB_LIDC_SLICES", "LESIONLAB_LIDC_VOLUMES", "LESIONLAB_LIDC_DICOM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def rows(done: Result) -> dict[str, str]:
    """The lines of a table by their name."""
    parted = (line.partition("  ") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in parted}


def test_a_store_is_built_gone_on_with_described_and_validated(cache: Path, tmp_path: Path) -> None:
    done = command("data", "build", "phantom", "--limit", "2", "--seed", "1")
    assert done.exit_code == 0, done.output
    told = rows(done)
    url = datasets.get("phantom", seed=1).url
    assert told["lesions"] == "2, 2 of them made now"
    assert (told["left out"], told["store"]) == ("0", url)
    (tmp_path / "ids").write_text(f"{IDS[2]}\n{IDS[0]}\n", encoding="utf-8")
    options = ["--lesions", str(tmp_path / "ids"), "--seed", "1"]
    assert rows(command("data", "build", "phantom", *options))["lesions"].startswith("3, 1 of them")

    told = rows(command("data", "info", "phantom", "--seed", "1"))
    assert (told["lesions"], told["expected"], told["complete"]) == ("3", "3", "True")
    assert told["seed"] == "1"

    done = command("data", "validate", url)
    assert (done.exit_code, done.stdout) == (0, f"{url}: 3 lesions, complete, nothing is wrong\n")


def test_what_is_wrong_is_listed_and_counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = datasets.crops("phantom", IDS[:3], progress=False)
    for lesion_id in IDS[:3]:
        file = Path(store.url, "hu", lesion_id, "c", "0", "0", "0")
        file.write_bytes(bytes(file.stat().st_size))
    monkeypatch.setattr(_data, "SHOWN", 2)
    done = command("data", "validate", store.url)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [*IDS[:2], "…"]
    assert lines[2] == "…: and 1 more"
    assert done.stderr == f"lesionlab: {store.url}: 3 things are wrong, 3 lesions checked\n"
    (Path(store.url) / "lesions.parquet").write_bytes(b"")
    done = command("data", "validate", "phantom")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "lesions.parquet is damaged" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["fetch", "slice"], 2, "expected one of slices, volumes, diagnoses, dicom"),
        (["build", "phantm"], 2, "unknown data set 'phantm'"),
        (["build", "slices"], 2, "the LIDC-IDRI slices are not set up: LESIONLAB_LIDC_SLICES"),
        (["build", "dicom", "--source", "nowhere"], 1, "nowhere"),
        (["info", "phantom"], 2, "is missing; to make it: lesionlab data build phantom"),
        (["realism", "--out", "x"], 2, "LESIONLAB_LIDC_SLICES is not set"),
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


def test_lesions_that_a_source_does_not_show_are_left_out(
    cache: Path, tmp_path: Path, lidc_sources: Any
) -> None:
    source = ["--source", str(lidc_sources.write_slices(tmp_path / "set", IDS[:1]))]
    (tmp_path / "ids").write_text(f"{IDS[0]}\n{IDS[9]}\n", encoding="utf-8")
    done = command("data", "build", "slices", "--lesions", str(tmp_path / "ids"), *source)
    assert done.exit_code == 0, done.output
    assert "1 × no folder of the set shows it" in done.stdout
    done = command("data", "validate", "slices", *source)
    assert done.exit_code == 0, done.output
    assert ", 1 left out, complete, nothing is wrong" in done.stdout


def test_diagnoses_writes_what_the_chapter_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(origins.DIAGNOSES.variable, raising=False)
    done = command("data", "diagnoses", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert "LESIONLAB_LIDC_DIAGNOSES is not set" in done.output
    (sheet := tmp_path / "sheet.xls").write_bytes(b"a sheet")
    found = {name: pd.DataFrame({"left": ["patients"], "n": [157]}) for name in diagnosed.TABLES}
    monkeypatch.setattr(diagnosed, "measure", lambda kept, source: found)
    done = command("data", "diagnoses", "--out", str(tmp_path / "new"), "--sheet", str(sheet))
    assert done.exit_code == 0, done.output
    assert rows(done)["patients"] == "157"
    assert diagnosed.read(tmp_path / "new" / "results.json")["flow"].equals(found["flow"])


@pytest.mark.slow
def test_realism_writes_what_the_chapter_reads(real_slices: Path, tmp_path: Path) -> None:
    options = ["--source", str(real_slices), "--limit", "30", "--processes", "1"]
    done = command("data", "realism", "--out", str(tmp_path / "new"), *options)
    assert done.exit_code == 0, done.output
    found = realism.read(tmp_path / "new" / "realism.json")
    assert rows(done)["nodules"] == str(found.n_lesions)
    assert 0 < found.n_lesions <= 30
    learned = pd.DataFrame(results.read(tmp_path / "new" / "transfer.json")["results"])
    assert learned.groupby("trained").size().to_dict() == {"phantom": 9, "slices": 9}
    assert learned[["mae", "refitted", "constant"]].ge(0).all(axis=None)
    assert (tmp_path / "new" / "side_by_side.png").read_bytes().startswith(b"\x89PNG")
