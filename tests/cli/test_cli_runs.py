"""`lesionlab runs list` and `lesionlab runs compare`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lesionlab import __version__
from lesionlab._files import write_json
from lesionlab.cli import app

PNG = b"\x89PNG"


def call(*arguments: Any) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["runs", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def make(folder: Path, label: str, name: str = "one", **changed: Any) -> None:
    content = {
        "notebook": name, "set": "book", "parameters": {"seed": 1}, "seconds": 61.4,
        "commit": "0123456789abcdef", "dirty": True, "versions": {"lesionlab": __version__},
        "results": {"auc": 0.5},
    } | changed  # fmt: skip
    write_json(folder / name / label / f"{name}.json", content)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed, auc in ((1, 0.5), (2, 0.6), (3, 0.7)):
        make(folder, f"book-{seed}", parameters={"seed": seed, "n": 9}, results={"auc": auc})
    return folder


def columns(line: str) -> list[str]:
    return re.split(r"  +", line)


def test_list_has_a_row_for_each_run(runs: Path) -> None:
    make(runs, "old", versions={"lesionlab": "0.0.1"}, dirty=False, seconds=None)
    (runs / "one" / "bad").mkdir()
    (runs / "one" / "bad" / "one.json").write_text("{")
    status, out, err = call("list", runs)
    assert (status, err) == (0, "")
    head, *rows = map(columns, out.splitlines())
    assert head == ["kind", "name", "set", "run", "changed", "when", "seconds", "commit",
                    "version", "state"]  # fmt: skip
    bad, first, _, _, old = rows
    assert bad[:4] == ["notebook", "one", "–", "bad"]
    assert bad[-1].startswith("damaged: ")
    assert first[:5] == ["notebook", "one", "book", "book-1", "seed=1, n=9"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", first[5])
    assert first[6:] == ["61", "0123456+", __version__, "complete"]
    assert old[6:] == ["–", "0123456", "0.0.1", "complete"]
    status, out, err = call("compare", "one", "--folder", runs)
    assert (status, err.startswith("bad is left out, it is damaged: ")) == (0, True)


def test_compare_shows_what_differs_and_the_mean_over_seeds(runs: Path) -> None:
    status, out, err = call("compare", "one", "--folder", runs)
    assert (status, err) == (0, "")
    assert [columns(line) for line in out.splitlines()] == [
        ["", "book-1", "book-2", "book-3", "mean ± SD of 3 seeds"],
        ["seed", "1", "2", "3", "–"],
        ["auc", "0.5", "0.6", "0.7", "0.6 ± 0.1"],
    ]


def test_plot_is_written_and_not_replaced_unasked(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "plot.png"
    arguments = ("compare", "one", "--folder", runs, "--plot", target)
    status, out, _ = call(*arguments)
    assert status == 0
    assert f"written to {target}" in out
    assert target.read_bytes().startswith(PNG)
    assert list(target.parent.iterdir()) == [target]  # nothing temporary is left
    target.write_text("mine")
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert "is there already; --force replaces it" in err
    assert target.read_text() == "mine"
    assert call(*arguments, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "oen"), "unknown run 'oen'; did you mean 'one'?"),
        (("compare", "one", "--score", "mae"), "no score is called 'mae'"),
        (("compare", "one", "--plot", "plot.jpeg"), "expected a name that ends in .png"),
        (("compare", "broken"), "none of the runs of broken is complete"),
    ],
)
def test_wrong_use(runs: Path, arguments: tuple[str, ...], message: str) -> None:
    (runs / "broken" / "book-1").mkdir(parents=True)
    (runs / "broken" / "book-1" / "broken.failed.ipynb").write_text("{}")
    status, out, err = call(*arguments, "--folder", runs)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    status, out, err = call("list", runs / "nowhere")
    assert (status, out, "there are no runs in" in err, err.count("\n")) == (2, "", True, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end in another way there")
@pytest.mark.parametrize("command", ["runs list {runs}", "notebooks list"])
def test_a_reader_that_stops_early_is_no_error(runs: Path, command: str) -> None:
    program = [sys.executable, "-c", "from lesionlab.cli import app; app()"]
    arguments = command.format(runs=runs).split()
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [*program, *arguments], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()  # as `head` does, before the first line
        assert running.stderr.read() == b""
