"""`toy_paper.py` beside this file, importable by name in other processes; a run of Fu 2021."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lesionlab import papers
from lesionlab.training import folds, studies
from lesionlab.training.studies import Plan


@pytest.fixture(scope="session")
def toys() -> Iterator[ModuleType]:
    sys.path.insert(0, str(Path(__file__).parent))
    yield importlib.import_module("toy_paper")
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture
def toy(toys, tmp_path_factory, monkeypatch):
    """The toy paper as a distribution of its own, which workers find as well."""
    site = tmp_path_factory.mktemp("site")
    about = site / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{papers.GROUP}]\ntoy = toy_paper\n")
    monkeypatch.syspath_prepend(str(site))
    return toys


@pytest.fixture(scope="session")
def small_plan() -> Plan:
    """One epoch of Fu 2021 on few lesions."""
    return Plan(paper="fu2021", preset="smoke", n_lesions=50, epochs=1)


@pytest.fixture(scope="session")
def dataset(small_plan: Plan) -> folds.Dataset:
    """What it trains on, not to be changed."""
    return studies.load(small_plan, progress=False)


@pytest.fixture(scope="session")
def done(small_plan, dataset, tmp_path_factory):
    """Its run, trained once for all files; to be copied before anything is changed in it."""
    how = {"folder": tmp_path_factory.mktemp("run"), "device": "cpu", "progress": False}
    return studies.run(small_plan, dataset=dataset, n_resamples=50, **how)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is ten times as slow on several threads of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
