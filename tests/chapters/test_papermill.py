"""Plain papermill, from any folder, gives the whole chapter with the same results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lesionlab import chapters, results
from lesionlab.chapters import notebooks

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def papermill(notebook: Path, cwd: Path, name: str) -> dict[str, Any]:
    """Run the command as its users do; gives what the chapter recorded."""
    recorded = cwd / "recorded.json"
    command = [sys.executable, "-m", "papermill", notebook, cwd / "out.ipynb", "--no-progress-bar"]
    values = notebooks.sets(ROOT / "notebooks", name)["smoke"] | {"solutions": True}
    given = [part for key, value in values.items() for part in ("-p", key, str(value))]
    environment = os.environ | {results.ENVIRONMENT: str(recorded)}
    environment.pop(chapters.SET, None)
    subprocess.run(
        [*command, *given], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(recorded.read_text(encoding="utf-8"))
    return dict(found["results"])


def assert_alike(left: Any, right: Any, where: str) -> None:
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key, value in left.items():
            assert_alike(value, right[key], f"{where}.{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_alike(one, other, f"{where}[{i}]")
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=1e-6, rel=1e-6), where
    else:
        assert left == right, where


@pytest.mark.parametrize("name", ["phantoms", "fu2021"])
def test_two_folders_give_the_same_results(
    name: str, smoke: Callable[[str], notebooks.Run], tmp_path: Path
) -> None:
    # the first folder is the checkout, where `lesionlab notebooks run` starts kernels
    expected = results.read(smoke(name).results)["results"]
    alone = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path))
    assert_alike(papermill(alone, tmp_path, name), expected, name)
