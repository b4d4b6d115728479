"""The command: what it prints, how it ends, and that it starts at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lesionlab import __version__
from lesionlab.cli import app

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


@pytest.mark.parametrize("arguments", [[], ["notebooks"]])
def test_without_a_command_the_help_is_shown(arguments: list[str]) -> None:
    done = command(*arguments)
    assert "Usage:" in done.output
    assert "Commands:" in done.output


def test_list_says_what_there_is_and_how_it_stands(project: Any) -> None:
    project.write("one", parameters="seed = 1\nname = 'a'")
    project.write("two", parameters=None)
    (project.folder / "presets.yml").write_text("one: {smoke: {seed: 2}}", encoding="utf-8")
    options = ["--folder", str(project.folder)]
    done = command("notebooks", "list", *options)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "one: One",
        "    seed = 1",
        "    name = 'a'",
        "    presets: book, smoke",
        "    executed copy: missing",
        "two: Two",
        "    presets: book",
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
        (["one", "--preset", "smoke"], "unknown preset 'smoke' of one"),
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
    assert done.stderr.startswith("lesionlab: there is no notebooks/presets.yml here")


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


def test_a_preset_and_values_reach_the_run(project: Any) -> None:
    project.write("one", "assert (seed, rate) == (5, 0.001)", parameters="seed = 1\nrate = 1.0")
    (project.folder / "presets.yml").write_text("one: {smoke: {seed: 5}}", encoding="utf-8")
    options = ["--folder", str(project.folder), "--preset", "smoke"]
    assert command("notebooks", "run", *options).exit_code == 1
    done = command("notebooks", "run", *options, "-p", "rate=1e-3")
    assert done.exit_code == 0, done.output
    assert len(list((project.root / "runs" / "one").glob("smoke-*/one.ipynb"))) == 1
