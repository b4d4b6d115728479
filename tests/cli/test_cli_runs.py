"""`lesionlab runs list` and `lesionlab runs compare`, and a real training to compare."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lesionlab import __version__
from lesionlab.cli import app

PNG = b"\x89PNG"


def call(*arguments: Any) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["runs", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def make(folder: Path, label: str, name: str = "one", **changed: Any) -> Path:
    content = {
        "notebook": name, "set": "book", "parameters": {"seed": 1}, "seconds": 61.4,
        "commit": "0123456789abcdef", "dirty": True, "versions": {"lesionlab": __version__},
        "results": {"auc": 0.5},
    } | changed  # fmt: skip
    path = folder / name / label / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


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
    head, *rows = out.splitlines()
    assert columns(head) == ["kind", "name", "set", "run", "changed", "when", "seconds", "commit",
                             "version", "state"]  # fmt: skip
    bad, first, _, _, old = (columns(row) for row in rows[:5])
    assert bad[:4] == ["notebook", "one", "–", "bad"]
    assert bad[-1] == "damaged"
    assert first[:5] == ["notebook", "one", "book", "book-1", "seed=1, n=9"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", first[5])
    assert first[6:] == ["61", "0123456+", __version__, "complete"]
    assert old[6:] == ["–", "0123456", "0.0.1 *", "complete"]
    assert rows[5].startswith("one/bad is damaged: ")
    assert rows[6] == f"* made by another version of lesionlab than this one, {__version__}"
    status, out, err = call("compare", "one", "--folder", runs)
    assert (status, err.startswith("bad is left out: it is damaged, ")) == (0, True)
    assert "old *" in out.splitlines()[0]


def test_compare_shows_what_differs_and_the_mean_over_seeds(runs: Path) -> None:
    status, out, err = call("compare", "one", "--folder", runs)
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["book-1", "book-2", "book-3", *["mean", "±", "SD", "of", "3", "seeds"]]
    assert [columns(row) for row in rows] == [
        ["seed", "1", "2", "3", "–"],
        ["auc", "0.5", "0.6", "0.7", "0.6 ± 0.1"],
    ]


def test_many_scores_are_cut_unless_they_are_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "book-1", results={f"s{i}": i for i in range(70)})
    lines = call("compare", "one", "--folder", tmp_path)[1].splitlines()
    assert len(lines) == 1 + 60 + 1
    assert lines[-1] == "and 10 more scores: choose some with --score PATTERN"
    lines = call("compare", "one", "--folder", tmp_path, "--score", "s?")[1].splitlines()
    assert [columns(line)[0] for line in lines[1:]] == [f"s{i}" for i in range(10)]


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
        (("compare", "one", "--score", "mae"), "scores: none is called 'mae'"),
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
    assert (status, out, "there is no folder" in err, err.count("\n")) == (2, "", True, 1)


def test_trainings_are_listed_and_compared(tmp_path: Path) -> None:
    small = ["fu2021", "--preset", "smoke", "--lesions", "50", "--epochs", "1", "--device", "cpu"]
    for seed in ("0", "1"):
        folder = tmp_path / f"seed{seed}"  # not the folder's own name: the plan is in the file
        done = CliRunner().invoke(app, ["train", *small, "--seed", seed, "--out", str(folder)])
        assert done.exit_code == 0, done.stderr
    rows = [columns(line) for line in call("list", tmp_path)[1].splitlines()[1:]]
    first = "variant=full, data=phantom"
    assert [row[:5] for row in rows] == [
        ["training", "fu2021", "smoke", "seed0", f"{first}, n_lesions=50, epochs=1"],
        ["training", "fu2021", "smoke", "seed1", f"{first}, seed=1, n_lesions=50, epochs=1"],
    ]
    status, out, _ = call("compare", "fu2021", "--folder", tmp_path, "--score", "mean/mae")
    lines = {columns(line)[0]: columns(line)[1:] for line in out.splitlines()[1:]}
    assert (status, lines["seed"]) == (0, ["0", "1", "–"])
    assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", lines["mean/mae"][0])
    *values, mean = (float(text.partition(" ")[0]) for text in lines["mean/mae"])
    assert mean == pytest.approx(sum(values) / 2, abs=1.1e-3)
    # as after several folds
    path = tmp_path / "seed0" / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for row in content["results"]:
        row |= {"fold_mean": 0.5, "fold_sd": 0.125}
    path.write_text(json.dumps(content), encoding="utf-8")
    out = call("compare", "fu2021", "--folder", tmp_path, "--score", "mean/mae")[1]
    assert "] (0.500 ± 0.125)" in out
    assert out.endswith("then mean ± SD over the folds.\n")


# -- all commands ----------------------------------------------------------------------


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
