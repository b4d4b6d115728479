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

import pytest


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parent))
    return import_module("bench_toys")


@pytest.fixture(scope="session")
def payload() -> Callable[[Any], dict[str, Any]]:
    """What a page's script reads."""

    def read(shown: Any) -> dict[str, Any]:
        pattern = r'<script type="application/json">(.*?)</script>'
        (text,) = re.findall(pattern, shown.to_html(), re.DOTALL)
        return json.loads(text)  # type: ignore[no-any-return]

    return read
