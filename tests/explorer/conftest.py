"""`bench_toys.py` beside this file, importable by name, and what the tests of pages share."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lesionlab.crops import Crop


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parent))
    return import_module("bench_toys")


@pytest.fixture(scope="session")
def crop() -> Callable[..., Crop]:
    """A crop of noise with three readers, by its id."""

    def make(lesion_id: str, size: int = 12) -> Crop:
        rng = np.random.default_rng(ord(lesion_id[0]))
        hu = rng.integers(-1000, 300, (4, size, size)).astype(np.int16)
        masks = np.zeros((3, *hu.shape), np.bool_)
        for reader in range(3):
            masks[reader, 1:3, 3 : 7 + reader % 2, 4:8] = True
        at = np.arange(40, 44)
        return Crop(lesion_id, hu, masks, (2.5, 0.7, 0.7), at, (100, 90), at > 0, "phantom")

    return make


@pytest.fixture(scope="session")
def payload() -> Callable[[Any], dict[str, Any]]:
    """What a page's script reads."""

    def read(shown: Any) -> dict[str, Any]:
        pattern = r'<script type="application/json">(.*?)</script>'
        (text,) = re.findall(pattern, shown.to_html(), re.DOTALL)
        return json.loads(text)  # type: ignore[no-any-return]

    return read
