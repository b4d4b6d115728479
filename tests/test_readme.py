"""What the README says is so: its snippets run, its commands exist, its numbers are those kept."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from lesionlab import published
from lesionlab.chapters import shipped
from lesionlab.cli import app
from lesionlab.training import outcomes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README": README, "intro": (ROOT / "book" / "intro.md").read_text(encoding="utf-8")}


def snippets(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", README)


@pytest.mark.slow
def test_the_python_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for snippet in snippets("python"):
        exec(compile(snippet, "README.md", "exec"), names)  # noqa: S102 - our own text
    assert len(names["nodules"]) == 2651
    assert names["outcome"].scores["value"].notna().any()
    assert names["found"].maps.shape[1] == 1
    assert (tmp_path / "runs" / "readme").is_dir()


def commands() -> list[list[str]]:
    lines = [line for page in PAGES.values() for line in page.splitlines()]
    named = (re.match(r"(?:\.venv/bin/)?lesionlab (.+?)(?:  .*)?$", line) for line in lines)
    return [shlex.split(found[1]) for found in named if found]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_a_command_exists_with_its_options(arguments):
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context(command.name, arguments[:1], resilient_parsing=True)
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(command.name, list(arguments), parent=context)


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES.values():
        for target in re.findall(r"(?m)(?:^|`)(?:PIP_EXTRA_INDEX_URL=\S+ )?make ([a-z]+)", page):
            assert re.search(rf"(?m)^{target}:", makefile), target


def test_links_lead_to_files():
    for link in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(notebooks/\S+?)`", README):
        assert (ROOT / link).exists(), link


def of(run: outcomes.Outcome, metric: str, target: str) -> float:
    rows = run.scores.query("predictor == 'model' and metric == @metric and target == @target")
    return float(rows["value"].iloc[0])


def test_its_numbers_are_those_of_the_kept_results():
    fu = outcomes.kept(shipped("book", "results", "fu2021"))
    lei = outcomes.kept(shipped("book", "results", "lei2020"))
    told = " ".join(README.split())
    full, without = (of(fu[name], "mae", "mean") for name in ("full", "no_attention"))
    assert f"mean error of {full:.3f} rating steps, without them {without:.3f}" in told
    assert f"on {len(fu['full'].predictions)} nodules" in told
    assert f"for {fu['full'].epochs} epochs" in told
    (target,) = lei["hesam"].scores.query("predictor == 'model'")["target"].unique()
    assert f"an AUC of {of(lei['hesam'], 'auc', target):.2f}" in told
    printed = published.tables()
    assert f"{len(printed)} tables" in told


def test_the_picture_is_that_of_the_kept_results(tmp_path):
    draw = runpy.run_path(str(ROOT / "book" / "results_picture.py"))["draw"]
    draw(tmp_path / "results.png")
    drawn, stored = (
        np.asarray(Image.open(path).convert("L"), dtype=float)
        for path in (tmp_path / "results.png", ROOT / "book" / "_static" / "results.png")
    )
    assert drawn.shape == stored.shape
    # fonts are drawn a little differently by another version
    assert np.abs(drawn - stored).mean() < 1
