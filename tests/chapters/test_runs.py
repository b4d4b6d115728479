"""Runs that were made: found, compared, and summed up over seeds."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lesionlab import __version__
from lesionlab._files import write_text
from lesionlab.chapters import runs
from lesionlab.cli import app
from lesionlab.training.studies import Plan


def notebook(
    folder: Path, label: str, name: str = "one", *, results: Any = None, **parameters: Any
) -> Path:
    """A run of a notebook, as `lesionlab notebooks run` leaves it."""
    values = {"auc": 0.5} if results is None else results
    content = {
        "notebook": name, "set": label.partition("-")[0], "parameters": parameters,
        "seconds": 2.5, "commit": "a" * 40, "dirty": False,
        "versions": {"lesionlab": __version__}, "data": [], "results": values,
    }  # fmt: skip
    return write(folder / name / label / f"{name}.json", content)


def training(folder: Path, label: str, *, mae: float, seed: int = 0, **changed: Any) -> Path:
    """A run of a training, as `lesionlab train` leaves it."""
    rows = [
        {"target": "margin", "predictor": by, "metric": "mae", "value": mae + more,
         "low": mae + more - 0.1, "high": mae + more + 0.1, "n": 9, "n_groups": 9,
         "fold_mean": mae + more, "fold_sd": None}
        for by, more in (("model", 0), ("constant", 0.3))
    ]  # fmt: skip
    content = {
        "plan": {"paper": "fu2021", "data": "phantom", "preset": "smoke", "seed": seed},
        "experiment": "fu2021", "variant": "full", "seed": seed,
        "recipe": {"epochs": 1, "lr": 0.1, "schedule": {"kind": "flat"}},
        "split": {"by": "patient", "trained": [0]}, "cohort": {"lesions": 50},
        "folds": [{"fold": 0, "identity": {"precision": "32-true"}}],
        "seconds": 3, "commit": None, "dirty": None, "versions": {"lesionlab": __version__},
        "results": rows,
    } | changed  # fmt: skip
    return write(folder / "fu2021" / label / "results.json", content)


def write(path: Path, content: Any) -> Path:
    return write_text(path, content if isinstance(content, str) else json.dumps(content))


# --- found ----------------------------------------------------------------------------------------


def test_runs_of_both_kinds_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])  # a checkout: its notebooks say the defaults
    notebook(tmp_path, "book-0a", "lidc_idri", seed=0, n_resamples=7)
    training(tmp_path, "full-seed1", mae=0.4, seed=1)
    # neither a run, nor damaged
    write(tmp_path / "sweep.json", '{"plans": []}')
    write(tmp_path / "fu2021" / "full-seed1" / "fold-0" / "result.json", "damaged")
    found = runs.find(tmp_path).drop(columns=["when", "path", "parameters", "scores"])
    found = found.to_dict("records")
    assert found == [
        {"kind": "training", "name": "fu2021", "set": "smoke", "run": "full-seed1",
         "changed": "variant=full, data=phantom, seed=1", "seconds": 3.0, "commit": mock.ANY,
         "dirty": None, "version": __version__, "state": "complete"},
        {"kind": "notebook", "name": "lidc_idri", "set": "book", "run": "book-0a",
         "changed": "n_resamples=7", "seconds": 2.5, "commit": "a" * 40, "dirty": False,
         "version": __version__, "state": "complete"},
    ]  # fmt: skip


def test_defaults_are_those_of_a_plan():
    plan = {field.name: field.default for field in fields(Plan)}
    assert {name: plan[name] for name in runs._DEFAULTS} == runs._DEFAULTS


def test_failed_unfinished_and_damaged_runs_are_named(tmp_path):
    notebook(tmp_path, "book-0a")
    write(tmp_path / "one" / "smoke-0b" / "one.failed.ipynb", "{}")
    write(tmp_path / "fu2021" / "full-seed0" / "fold-0" / "result.json", "{}")
    (tmp_path / "fu2021" / "full-seed0" / "fold-1").mkdir()
    write(tmp_path / "one" / "book-0c" / "one.json", '{"notebook": "one", ')
    write(tmp_path / "one" / "book-0d" / "one.json",
          '{"notebook": "one", "parameters": {}, "results": {}, "versions": []}')  # fmt: skip
    training(tmp_path, "full-seed9", mae=0.4, folds=[])
    training(tmp_path, "full-seed8", mae=0.4, sha256="of another content")
    if hasattr(os, "mkfifo"):  # whoever opens it waits for a writer
        os.mkfifo(tmp_path / "one" / "x.json")
    state = runs.find(tmp_path).set_index("run")["state"]
    assert state.str.partition(":")[0].to_dict() == {
        "full-seed0": "unfinished", "full-seed9": "damaged", "book-0a": "complete",
        "full-seed8": "damaged", "book-0c": "damaged", "book-0d": "damaged", "smoke-0b": "failed",
    }  # fmt: skip
    assert state["full-seed0"] == "unfinished: not scored; done: fold-0"
    assert "one.json is not a JSON file" in state["book-0c"]


OTHERS: list[Any] = [None, 3, "x", "x" * 5000, True, [], [1], {}, {"a": [1]}, [{"a": 1}]]
DEEP = "[" * 100_000, "9" * 5000, '{"a":' * 900 + "1" + "}" * 900, "9" * 400


@pytest.mark.parametrize("kind", ["notebook", "training"])
def test_what_a_file_holds_never_keeps_the_other_runs_from_being_listed(tmp_path, kind):
    """Each key of a file in turn is of another type: a run that is shown, or damaged and named."""
    good = notebook(tmp_path, "book-0a") if kind == "notebook" else training(tmp_path, "a", mae=0.4)
    content = json.loads(good.read_text(encoding="utf-8"))
    texts = [json.dumps(content | {key: value}) for key in content for value in OTHERS]
    texts += [json.dumps(content | {"results": 0}).replace('"results": 0', f'"results": {text}')
              for text in (*DEEP, *(f'{{"a": {text}}}' for text in DEEP))]  # fmt: skip
    if kind == "training":
        (row, *_) = content["results"]
        texts += [json.dumps(content | {"results": [row | {key: value}]})
                  for key in row for value in OTHERS]  # fmt: skip
    for i, text in enumerate(texts):
        write(tmp_path / "other" / f"run-{i}" / good.name, text)
    found = runs.find(tmp_path)
    assert found.loc[found["path"] == good, "state"].tolist() == ["complete"]
    damaged = found[found["state"].str.startswith("damaged: ")]
    assert len(damaged) > 40
    assert all(str(row["path"]) in row["state"] for _, row in damaged.iterrows())
    shown = CliRunner().invoke(app, ["runs", "list", str(tmp_path)])
    assert shown.exit_code == 0, shown.exception
    for run in found.loc[found["state"] == "complete", "run"]:
        with contextlib.suppress(ValueError):  # there may be no score in it, which is told
            runs.over_seeds(runs.scores(runs.choose(found, [run])))


def test_numbers_of_a_notebook_have_names_with_dots(tmp_path):
    results = {
        "auc": 0.75,
        "kappa.malignancy": 1,
        "errors": [{"attribute": "margin", "mae": 0.5, "low": None, "seen": True},
                   {"attribute": "mean", "mae": 0.6}],
        "pairs": [{"first": "a", "second": "b", "r": 0.1}, {"first": "a", "second": "b", "r": 2}],
        "steps": [{"step": 1, "share": 0.2}],
        "nested": {"deep": {"er": -1.5}},
        "curve": [0.1, 0.2], "words": "many", "limit": "Infinity",
    }  # fmt: skip
    notebook(tmp_path, "book-0a", results=results)
    found = runs.scores(runs.choose(runs.find(tmp_path), ["one"]))
    assert found.set_index("score")["value"].to_dict() == {
        "auc": 0.75, "kappa.malignancy": 1, "errors.margin.mae": 0.5, "errors.mean.mae": 0.6,
        "pairs.a.b.r": 0.1, "steps.0.step": 1, "steps.0.share": 0.2, "nested.deep.er": -1.5,
    }  # fmt: skip


# --- chosen ---------------------------------------------------------------------------------------


def test_runs_are_chosen_by_name_label_and_path(tmp_path):
    path = notebook(tmp_path, "book-0a", seed=1)
    notebook(tmp_path, "book-0b", seed=2)
    found = runs.find(tmp_path)
    for names in (["one"], ["book-0a", "book-0b"], [str(tmp_path)], ["one", "book-0a"]):
        assert runs.choose(found, names).index.tolist() == ["book-0a", "book-0b"]
    for name in ("book-0a", "one/book-0a", str(path), str(path.parent)):
        assert runs.choose(found, [name])["path"].tolist() == [path]
    # and those of two kinds cannot be compared
    notebook(tmp_path, "book-0a", "fu2021")
    training(tmp_path, "full-seed0", mae=0.4)
    found = runs.find(tmp_path)
    with pytest.raises(ValueError, match="got notebook fu2021 and training fu2021; a kind chooses"):
        runs.choose(found, ["fu2021"])
    assert runs.choose(found, ["fu2021"], kind="training").index.tolist() == ["full-seed0"]


# --- compared -------------------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path: Path) -> pd.DataFrame:
    """Three seeds of one learning rate, and one of another."""
    for seed, lr, auc in ((1, 0.1, 0.5), (2, 0.1, 0.7), (3, 0.1, 0.9), (1, 0.2, 0.6)):
        results = {"auc": auc, "loss": 2 * auc} if seed < 3 else {"auc": auc}
        notebook(tmp_path, f"book-{seed}{lr}", results=results, seed=seed, lr=lr, same=1)
    return runs.choose(runs.find(tmp_path), ["one"])


def test_scores_and_their_mean_and_sd_over_seeds_by_hand(seeds):
    differ = runs.differences(seeds).T
    assert differ.columns.tolist() == ["seed", "lr"]
    assert differ["lr"].to_dict() == {
        "book-10.1": 0.1, "book-10.2": 0.2, "book-20.1": 0.1, "book-30.1": 0.1,
    }  # fmt: skip
    found = runs.scores(seeds)
    assert found["score"].tolist() == ["auc"] * 4 + ["loss"] * 3
    first = found.iloc[0]
    assert (first["run"], first["group"], first["seed"]) == ("book-10.1", "lr=0.1", 1)
    assert runs.scores(seeds, ["los*"])["score"].unique().tolist() == ["loss"]
    assert runs.scores(seeds, ["uc", "loss"])["score"].nunique() == 2
    with pytest.raises(ValueError, match=r"no score is called 'acu'; did you mean 'auc'\?"):
        runs.scores(seeds, ["acu"])
    over = runs.over_seeds(found)
    assert over.loc[("auc", "lr=0.1")].tolist() == pytest.approx([0.7, 0.2, 3])
    # loss: 1.0 and 1.4, whose SD is 0.4 / sqrt(2)
    assert over.loc[("loss", "lr=0.1")].tolist() == pytest.approx([1.2, 0.4 / np.sqrt(2), 2])
    assert "lr=0.2" not in over.index.get_level_values("group")  # a single seed


def test_trainings_have_intervals_and_baselines_when_asked(tmp_path):
    training(tmp_path, "a", mae=0.4, seed=0)
    training(tmp_path, "b", mae=0.5, seed=1)
    stages = [{"epochs": 1, "schedule": {"kind": "flat"}}, {"epochs": 2, "betas": [0.9]}]
    training(tmp_path, "c", mae=0.6, variant="sam", recipe=stages)
    chosen = runs.choose(runs.find(tmp_path), ["fu2021"])
    found = runs.scores(chosen)
    assert found["score"].unique().tolist() == ["margin/mae"]
    columns = ["value", "low", "high", "fold_mean"]
    assert found.loc[0, columns].tolist() == pytest.approx([0.4, 0.3, 0.5, 0.4])
    assert found["fold_sd"].isna().all()  # of a single fold
    assert runs.scores(chosen, ["*constant*"])["value"].tolist() == pytest.approx([0.7, 0.8, 0.9])
    differ = runs.differences(chosen)
    assert differ.index.tolist() == [
        "variant", "seed", "recipe.epochs", "recipe.lr", "recipe.schedule.kind",
        "recipe.1.epochs", "recipe.1.schedule.kind", "recipe.2.epochs", "recipe.2.betas",
    ]  # fmt: skip
    assert differ.loc["recipe.2.betas"].tolist() == [None, None, [0.9]]
    assert len(runs.over_seeds(found)) == 1


def test_runs_of_one_name_are_told_apart(tmp_path):
    for at in ("here", "there"):
        notebook(tmp_path / at, "book-0a", results={"auc": 0.1})
    chosen = runs.choose(runs.find(tmp_path), ["one"])
    places = [str(tmp_path / at / "one" / "book-0a") for at in ("here", "there")]
    assert chosen.index.tolist() == runs.scores(chosen)["run"].tolist() == places
    notebook(tmp_path / "none", "book-0a", results={})
    with pytest.raises(ValueError, match="the runs have no scores"):
        runs.scores(runs.find(tmp_path / "none"))


def test_the_plot_has_a_panel_per_score_and_a_point_per_run(seeds):
    figure = runs.plot(runs.scores(seeds))
    assert [ax.get_title() for ax in figure.axes] == ["auc", "loss"]
    for ax, heights in zip(figure.axes, ([0.5, 0.6, 0.7, 0.9], [1.0, 1.2, 1.4]), strict=True):
        points = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections])
        assert sorted(points) == pytest.approx(heights)
        assert [text.get_text() for text in ax.get_xticklabels()] == ["lr=0.1", "lr=0.2"]
    many = pd.DataFrame({"score": [f"s{i}" for i in range(13)], "group": "g", "value": 1.0})
    with pytest.raises(ValueError, match="13 scores to plot: expected at most 12"):
        runs.plot(many)
