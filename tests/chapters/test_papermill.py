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
from lesionlab.chapters import notebooks, parameters, runs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def papermill(notebook: Path, cwd: Path, name: str) -> dict[str, Any]:
    """Run the command as its users do; gives what the chapter recorded."""
    recorded = cwd / "recorded.json"
    command = [sys.executable, "-m", "papermill", notebook, cwd / "out.ipynb", "--no-progress-bar"]
    values = parameters.sets(ROOT / "notebooks", name)["smoke"] | {"solutions": True}
    given = [part for key, value in values.items() for part in ("-p", key, str(value))]
    environment = os.environ | {results.ENVIRONMENT: str(recorded)}
    environment.pop(chapters.SET, None)
    subprocess.run(
        [*command, *given], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(recorded.read_text(encoding="utf-8"))
    return dict(found["results"])


@pytest.mark.parametrize("name", ["phantoms", "fu2021"])
def test_two_folders_give_the_same_results(
    name: str, smoke: Callable[[str], notebooks.Plan], tmp_path: Path
) -> None:
    # the first folder is the checkout, where `lesionlab notebooks run` starts kernels
    expected = dict(runs._numbers(results.read(smoke(name).results)["results"], ""))
    alone = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path))
    found = dict(runs._numbers(papermill(alone, tmp_path, name), ""))
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)
