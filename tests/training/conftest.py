"""`training_toys.py` beside this file, importable by name in other processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

# for the workers of a sweep, which have this folder on their path; a search for doctests has not
collect_ignore = ["sweep_toys.py"]


@pytest.fixture(scope="session")
def toys() -> Iterator[ModuleType]:
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import training_toys

        yield training_toys
    finally:
        sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is ten times as slow on several threads of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
