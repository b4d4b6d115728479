"""`bench_toys.py` beside this file, importable by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def toys() -> Iterator[ModuleType]:
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import bench_toys

        yield bench_toys
    finally:
        sys.path.remove(str(Path(__file__).parent))
