"""A run that is killed again and again ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kills_change_nothing(tmp_path: Path) -> None:
    # half-written files, right after a rename, and at any time: another time in each run
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), str(tmp_path), str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"], found
    assert found["same_history"], found
    assert found["kills"][:8] == ["half", "replaced"] * 4, found
    assert found["kills"][-1] is None
    # never back, and not always from the start
    assert found["epochs"] == sorted(found["epochs"])
    assert len(set(found["epochs"])) > 3, found
    # nothing is left of what was half written
    assert found["files"] == ["checkpoint.safetensors"]
