import pytest
import torch
from typer.testing import CliRunner

from lesionlab.cli import app
from lesionlab.sources import origins


def call(*arguments):
    found = CliRunner().invoke(app, ["train", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    return folder, call(*TINY, "--out", folder)


TINY = ("fu2021", "--preset", "smoke", "--lesions", 50, "--epochs", 1, "--device", "cpu")


def test_trains_and_tells(trained):
    folder, (status, out, err) = trained
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if " mae " in line]
    assert [row[0] for row in rows][-2:] == ["malignancy", "mean"]
    assert out.splitlines()[0].split() == ["target", "metric", "model", "constant", "diameter"]
    assert f"written to {folder / 'results.json'}" in out
    assert "(fold 0)" in out


def test_a_second_time_nothing_is_trained_and_another_variant_does_not_overwrite(trained):
    folder, (_, out, _) = trained
    before = {p: p.stat().st_mtime_ns for p in (folder / "fold-0").iterdir()}
    assert call(*TINY, "--out", folder) == (0, out, "")
    results = (folder / "results.json").read_bytes()
    status, out, err = call(*TINY, "--variant", "no_attention", "--out", folder)
    assert (status, out) == (1, "")
    assert "of another run" in err
    assert "--restart" in err
    assert err.count("\n") == 1
    assert (folder / "results.json").read_bytes() == results
    assert {p: p.stat().st_mtime_ns for p in (folder / "fold-0").iterdir()} == before


def test_without_a_folder_it_goes_to_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(*TINY, "--by", "nodule", "--seed", 2)
    assert status == 0
    name = "full-phantom-smoke-nodule-seed2-n50-epochs1"
    assert f"runs/fu2021/{name}/results.json" in out
    assert (tmp_path / "runs" / "fu2021" / name / "fold-0" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fu2022",), "paper='fu2022': expected one of fu2021"),
        (("fu2021", "--variant", "best"), "variant='best': expected one of full"),
        (("fu2021", "--data", "slices"), "LESIONLAB_LIDC_SLICES"),
        (("fu2021", "--folds", 6), "'--folds'"),
        (("fu2021", "--lesions", 9999), "n_lesions=9999: expected 1 to"),
        (("fu2021", "--precision", "16"), "unknown precision '16'"),
        pytest.param(
            ("fu2021", "--device", "cuda"),
            "device='cuda'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_wrong_use(arguments, message, tmp_path, monkeypatch):
    monkeypatch.delenv("LESIONLAB_LIDC_SLICES", raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    status, out, err = call(*arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "run").exists()
