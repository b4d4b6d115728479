"""Sweeps: what is trained, what is left alone, and what a dead worker costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from lesionlab import _files
from lesionlab.cli import app
from lesionlab.papers import fu2021
from lesionlab.training import folds, studies, sweeps, targets
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.outcomes import RESULTS
from lesionlab.training.sweeps import grid, sweep

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

OPTIONS: dict[str, Any] = {"progress": False, "device": "cpu", "n_resamples": 20}
NAME = "toy/slow-squares-smoke-patient-seed0"


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    sweeps._load.cache_clear()


def seen(folder: Path) -> dict[str, int]:
    """Every file of a sweep, and when it was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


@pytest.fixture
def inside(toy: ModuleType) -> Iterator[str]:
    """A scheduler with one worker in this very process, to be used by its address."""
    settings = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with distributed.LocalCluster(**settings, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def slow(folder: Path, scheduler: str | None = None, **changes: Any) -> sweeps.Sweep:
    """One plan of two folds."""
    plans = grid("toy", variants=["slow"], preset="smoke", **changes)
    return sweep(plans, out=folder, scheduler=scheduler, **OPTIONS)


# what there is to train


def test_a_grid_has_every_variant_with_every_seed_once() -> None:
    names = ["no_attention", "full", "no_attention"]
    found = grid("fu2021", variants=names, seeds=[3, 1], folds=range(2), preset="smoke", epochs=1)
    expected = [(name, seed) for name in ("no_attention", "full") for seed in (3, 1)]
    assert [(plan.variant, plan.seed) for plan in found] == expected
    assert {plan.folds for plan in found} == {(0, 1)}
    assert {plan.recipe.epochs for plan in found} == {1}
    assert len({plan.folder for plan in found}) == 4


def test_a_grid_takes_a_table_of_the_paper_or_all_it_has() -> None:
    assert [plan.variant for plan in grid("fu2021", table="2")] == ["no_attention",
        "slice_attention", "volume"]  # fmt: skip
    both = grid("fu2021", table="2", variants=["full", "volume"])
    assert [plan.variant for plan in both] == ["full", "volume", "no_attention", "slice_attention"]
    assert [plan.variant for plan in grid("fu2021", variants="all")] == list(fu2021.VARIANTS)
    assert [plan.variant for plan in grid("fu2021")] == ["full"]
    # the preset decides over the folds, as for one plan
    assert grid("fu2021", preset="paper")[0].folds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "change", [{"table": "7"}, {"variants": ["ful"]}, {"seeds": []}, {"epochs": 0}]
)
def test_a_grid_of_what_there_is_not_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"table='7'|variant='ful'|seeds=|epochs=0"):
        grid("fu2021", **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plans": []}, "plans="),
        ({"workers": 0}, "workers=0"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"plans": grid("fu2021", folds=[0]) + grid("fu2021", folds=[1])}, "is there twice"),
    ],
)
def test_a_sweep_of_nonsense_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        sweep(**({"plans": grid("fu2021"), "out": tmp_path / "new"} | change))
    assert not (tmp_path / "new").exists()


# what is done


def test_a_sweep_gives_what_each_run_gives_alone(
    toy: ModuleType, inside: str, tmp_path: Path
) -> None:
    chosen = grid("toy", variants=["slow", "other"], seeds=[0, 1], preset="smoke")
    lines: list[str] = []
    found = sweep(chosen, out=tmp_path / "a", scheduler=inside, tell=lines.append, **OPTIONS)
    assert found.failures == {}
    assert len(lines) == 8
    rows = found.table.set_index(["variant", "seed"])
    for plan in chosen:
        folder = tmp_path / "b" / plan.name
        alone = studies.run(plan, folder=folder, **OPTIONS)
        there = tmp_path / "a" / "toy" / plan.name / "predictions.csv"
        assert there.read_bytes() == (folder / "predictions.csv").read_bytes()
        scores = alone.scores.set_index(["predictor", "metric"]).loc["model", "accuracy"]
        row = rows.loc[plan.variant, plan.seed]
        ends = ["value", "low", "high"]
        assert row[ends].tolist() == scores[ends].tolist()
        assert (row["folds"], row["of"]) == (2, 2)
    written = json.loads(found.path.read_text(encoding="utf-8"))
    assert {"commit", "versions", "platform"} <= written.keys()
    assert written["versions"]["distributed"] == distributed.__version__
    assert [row["value"] for row in written["plans"]] == found.table["value"].tolist()
    assert written["plans"][0]["rests_on"][0]["tier"] == "phantom"
    assert str(tmp_path) not in found.path.read_text(encoding="utf-8")
    # and kept: all seeds of a variant below each other
    kept = sweeps.keep(found, tmp_path / "kept").parent
    assert {path.name for path in kept.iterdir()} == {"sweep.json", "slow.csv.gz", "other.csv.gz"}
    both = sweeps.pooled(kept)
    assert list(both) == ["slow", "other"]
    seeds = dict(tuple(both["slow"].groupby("seed")))
    there = _files.read_json(tmp_path / "b" / chosen[1].name / RESULTS, sealed=True)
    first = targets.read_predictions(tmp_path / "b" / chosen[1].name, there["predictions"])
    again = seeds[1].set_index("lesion").loc[first["lesion_id"]]
    names = first.columns.drop(targets.KEYS)
    np.testing.assert_allclose(again[names], first[names], rtol=1e-3)
    assert (again["fold"].to_numpy() == first["fold"] + 100).all()
    assert both["slow"]["lesion_id"].is_unique
    assert set(seeds[0]["patient"]) == set(seeds[1]["patient"])
    some = pd.read_csv(kept / "slow.csv.gz").iloc[1:]
    targets.write_csv(kept / "slow.csv.gz", some)
    with pytest.raises(CheckpointError, match=r"slow\.csv\.gz is not what the JSON file"):
        sweeps.pooled(kept)


def test_what_is_done_is_read_and_nothing_else(
    toy: ModuleType, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = slow(tmp_path, inside)
    before = seen(tmp_path)
    sweeps._load.cache_clear()
    # one fold more: the others are left alone
    more = slow(tmp_path, inside, folds=range(3))
    after = seen(tmp_path)
    assert {file.split("/")[2] for file in after.keys() - before.keys()} == {"fold-2"}
    assert all(after[file] == before[file] for file in before if "/fold-" in file)
    assert (first.table["of"].item(), more.table["of"].item()) == (2, 3)
    # nothing more: no worker, no data, and no file but the summary
    monkeypatch.setattr(sweeps, "connect", None)
    last = slow(tmp_path, folds=range(3))
    then = seen(tmp_path)
    assert {file for file in then if then[file] != after.get(file)} == {"sweep.json"}
    assert then.keys() == after.keys()
    assert last.table.equals(more.table)
    assert last.failures == {}


def test_one_that_fails_is_named_and_the_others_go_on(
    toy: ModuleType, inside: str, tmp_path: Path
) -> None:
    chosen = grid("toy", table="1", preset="smoke", variants=["broken"])
    assert [plan.variant for plan in chosen] == ["broken", "slow"]
    found = sweep(chosen, out=tmp_path, scheduler=inside, **OPTIONS)
    name = "toy/broken-squares-smoke-patient-seed0"
    error = "RuntimeError: no loss, none at all"
    assert found.failures == {f"{name}/fold-{k}": error for k in range(2)}
    rows = found.table.set_index("variant")
    assert (rows.loc["broken", "folds"], rows.loc["slow", "folds"]) == (0, 2)
    assert rows["value"].isna().to_dict() == {"broken": True, "slow": False}
    assert not (tmp_path / name / "results.json").exists()


def test_a_fold_of_another_run_is_a_failure_and_stays(
    toy: ModuleType, inside: str, tmp_path: Path
) -> None:
    slow(tmp_path, inside)
    result = tmp_path / NAME / "fold-1" / folds.RESULT
    content = _files.read_json(result, sealed=True)
    content["identity"]["recipe"]["lr"] = 7
    _files.write_json(result, content, sealed=True)
    before = seen(tmp_path)
    assert "recipe.lr: 7 there, 0.01 here" in slow(tmp_path, inside).failures[NAME]
    assert {f for f, t in seen(tmp_path).items() if t != before[f]} == {"sweep.json"}
    result.write_text("{", encoding="utf-8")
    assert "is not a JSON file" in slow(tmp_path).failures[NAME]


def test_whoever_writes_keeps_another_sweep_out(
    toy: ModuleType, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"written by process {os.getpid()} on "
    with _files.sole_writer(tmp_path), pytest.raises(RuntimeError, match=words):
        slow(tmp_path, inside)
    monkeypatch.setattr(sweeps, "PATIENCE", 0.0)
    with _files.sole_writer(tmp_path / NAME / "fold-0"):
        found = slow(tmp_path, inside)
    assert found.failures.keys() == {f"{NAME}/fold-0"}
    assert words in found.failures[f"{NAME}/fold-0"]
    assert slow(tmp_path, inside).failures == {}
    assert not list(tmp_path.rglob(_files.LOCK))


def test_workers_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(count: int, device: str, worker: Any) -> str:
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        return sweeps.own_device(device, worker)

    assert chosen(0, "auto", 1) == "auto"
    assert chosen(1, "cuda", 1) == "cuda"
    assert [chosen(2, "cuda", worker) for worker in (0, "3")] == ["cuda:0", "cuda:1"]
    assert [chosen(2, device, 3) for device in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
    assert chosen(2, "cuda", "SLURMCluster-3") == "cuda"


# with workers of their own


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_a_killed_worker_costs_its_run_a_little_and_the_others_nothing(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "killed"
    chosen = grid("toy", variants=["slow", "other"], seeds=[0, 1], preset="smoke", epochs=4)
    jobs = {out / "toy" / plan.name / f"fold-{k}": plan for plan in chosen for k in plan.chosen}
    monkeypatch.setenv(toy.SLOWLY, "0.1")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)

    def kill() -> dict[Path, list[dict[str, float]]]:
        """Kill a worker when both are in the middle of a run, and one epoch at least is kept."""
        cut: dict[Path, list[dict[str, float]]] = {}
        end = time.monotonic() + 300
        while len(cut) < 2 and time.monotonic() < end:
            begun = [folder for folder in jobs if not (folder / folds.RESULT).exists()]
            cut = {folder: rows for folder in begun if (rows := toy.history(folder))}
        children = psutil.Process().children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        # with which training would ask for its memory anew at each step
        assert all("MALLOC_TRIM_THRESHOLD_" not in child.environ() for child in workers)
        workers[0].kill()
        return cut

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        found = sweep(chosen, out=out, workers=2, threads=1, **OPTIONS)
    assert found.failures == {}
    assert found.table["value"].notna().all()
    monkeypatch.setenv(toy.SLOWLY, "0")
    for folder, rows in killed.result().items():
        # both were gone on with: the epochs before are kept to the last digit of their seconds
        result = json.loads((folder / folds.RESULT).read_text(encoding="utf-8"))
        kept = [{k: row[k] for k in rows[0]} for row in result["history"]]
        assert (kept[: len(rows)], len(kept)) == (rows, 4)
        # and they came to what they would have come to
        whole = tmp_path / "whole" / jobs[folder].name
        studies.run(jobs[folder], folder=whole, **OPTIONS)
        one, two = (place / "predictions.csv" for place in (folder, whole / folder.name))
        assert one.read_bytes() == two.read_bytes()


# the command


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


@pytest.mark.slow
def test_jobs_whose_workers_stay_away_fail_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**sweeps.SETTINGS, "distributed.scheduler.no-workers-timeout": "1 second"}
    monkeypatch.setattr(sweeps, "SETTINGS", settings)
    with sweeps.connect(None, 0) as client:
        ((name, error),) = sweeps.as_completed(client, print, {"a": ()})
    assert name == "a"
    assert "worker" in str(error)


@pytest.mark.parametrize(
    ("option", "value", "status", "words"),
    [
        ("table", "9", 2, "expected one of 1, 2, S1"),
        ("scheduler", "tcp://127.0.0.1:9", 1, "no scheduler answers there"),
        ("scheduler", "127.0.0.1:9", 1, "no scheduler answers there"),
        ("scheduler", "nope://x", 2, "no scheduler answers there"),
    ],
)
def test_wrong_use_is_told_soon(
    option: str, value: str, status: int, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sweeps, "CONNECTING", 0.5)
    begun = time.monotonic()
    done = command("fu2021", f"--{option}", value, "--out", str(tmp_path))
    assert time.monotonic() - begun < 10
    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith(f"lesionlab: {option}={value!r}: {words}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_failure_ends_the_command_with_1(
    toy: ModuleType, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = grid("toy", table="1", preset="smoke")
    monkeypatch.setattr("lesionlab.training.sweeps.grid", lambda *a, **k: made)
    done = command("fu2021", "--scheduler", inside, "--device", "cpu", "--out", str(tmp_path))
    assert done.exit_code == 1
    folder = "toy/broken-squares-smoke-patient-seed0"
    told = [f"lesionlab: {folder}/fold-{k}: RuntimeError: no loss, none at all" for k in (0, 1)]
    assert sorted(done.stderr.splitlines()[-2:]) == told
    shown = [line.split()[:4] for line in done.stdout.splitlines()[:3]]
    rows = [["slow", "0", "2", "2"], ["broken", "0", "0", "2"]]
    assert shown == [["variant", "seed", "folds", "of"], *rows]


def test_dask_is_loaded_when_needed_and_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "import sys, lesionlab.training.sweeps; print('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused = command("fu2021", "--out", str(tmp_path))
    assert refused.exit_code == 1
    assert refused.stderr == "lesionlab: a sweep needs Dask: pip install 'lesionlab[scale]'\n"
