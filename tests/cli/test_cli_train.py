"""`lesionlab train`, and its runs beside each other in `lesionlab runs`."""

import re
import shutil

import pytest
from typer.testing import CliRunner

from lesionlab import _files
from lesionlab.cli import app
from lesionlab.sources import origins
from lesionlab.training import studies

TINY = ("fu2021", "--preset", "smoke", "--lesions", 50, "--epochs", 1, "--device", "cpu")


def call(*arguments):
    found = CliRunner().invoke(app, list(map(str, arguments)))
    return found.exit_code, found.stdout, found.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that was made without saying where, and what the command told."""
    folder = tmp_path_factory.mktemp("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        told = call("train", *TINY, "--by", "nodule", "--seed", 2)
    return folder / "runs" / "fu2021" / "full-phantom-smoke-nodule-seed2-n50-epochs1", told


def test_trains_and_tells(trained):
    folder, (status, out, err) = trained
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if " mae " in line]
    assert [row[0] for row in rows][-2:] == ["malignancy", "mean"]
    assert out.splitlines()[0].split() == ["target", "metric", "model", "constant", "diameter"]
    assert f"written to {folder.relative_to(folder.parents[2]) / 'results.json'}" in out
    assert "(fold 0)" in out
    assert (folder / "fold-0" / "result.json").exists()


def test_a_second_time_nothing_is_trained_and_another_variant_does_not_overwrite(trained):
    folder, (_, out, _) = trained
    before = {p: p.stat().st_mtime_ns for p in (folder / "fold-0").iterdir()}
    again = ("train", *TINY, "--by", "nodule", "--seed", 2, "--out", folder)
    status, told, err = call(*again)
    assert (status, told.partition("written")[0], err) == (0, out.partition("written")[0], "")
    results = (folder / "results.json").read_bytes()
    status, out, err = call(*again, "--variant", "no_attention")
    assert (status, out) == (1, "")
    assert "of another run" in err
    assert "--restart" in err
    assert err.count("\n") == 1
    assert (folder / "results.json").read_bytes() == results
    assert {p: p.stat().st_mtime_ns for p in (folder / "fold-0").iterdir()} == before


def test_trainings_are_listed_and_compared(trained, tmp_path):
    folder, _ = trained
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(folder, first)
    content = _files.read_json(folder / "results.json", sealed=True)
    content["seed"] = content["plan"]["seed"] = 3
    for row in content["results"]:  # as after several folds
        row |= {"fold_mean": 0.5, "fold_sd": 0.125}
    _files.write_json(second / "results.json", content, sealed=True)
    rows = [re.split("  +", line) for line in call("runs", "list", tmp_path)[1].splitlines()]
    assert [row[:5] for row in rows[1:]] == [
        ["training", "fu2021", "smoke", label, "variant=full, data=phantom, by=nodule, "
         f"seed={seed}, n_lesions=50, epochs=1"] for label, seed in (("first", 2), ("second", 3))
    ]  # fmt: skip
    status, out, _ = call("runs", "compare", "fu2021", "--folder", tmp_path, "--score", "mean/mae")
    assert status == 0
    lines = {name: cells for name, *cells in (re.split("  +", line) for line in out.splitlines())}
    assert lines["seed"] == ["2", "3", "–"]
    one, other, over = lines["mean/mae"]
    assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", one)
    assert other == f"{one} (0.500 ± 0.125)"
    assert float(over.partition(" ")[0]) == pytest.approx(float(one[:5]), abs=1.1e-3)
    assert out.endswith("then mean ± SD over the folds.\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--by", "nodule", "--weights", "new"), 2, "by='nodule': expected folds by patient"),
        (("--weights", "file/below"), 1, "cannot write a file in file"),
        (("--keep", "file/below"), 1, "cannot write a file in file"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_before_anything_is_loaded(
    arguments, status, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(studies, "load", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    found = call("train", "fu2021", *arguments)
    assert found[:2] == (status, "")
    assert message in found[2]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fu2021", "--data", "slices"), "LESIONLAB_LIDC_SLICES"),
        (("fu2021", "--folds", 6), "'--folds'"),
        (("fu2021", "--precision", "16"), "unknown precision '16'"),
    ],
)
def test_wrong_use(arguments, message, tmp_path, monkeypatch):
    monkeypatch.delenv("LESIONLAB_LIDC_SLICES", raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    status, out, err = call("train", *arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "run").exists()
