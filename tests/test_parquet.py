"""Reading Parquet leaves no thread behind that could outlive the interpreter."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lesionlab._parquet import read_parquet

TABLE = pd.DataFrame({"lesion_id": ["a", "b"], "rating": [1.5, None], "readers": [[1, 2], [3]]})

COUNT = """
import os, sys
from lesionlab._parquet import read_parquet
before = len(os.listdir("/proc/self/task"))
read_parquet(sys.argv[1]).to_pandas(use_threads=False)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_as_pandas_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    TABLE.to_parquet(path)
    for source in (path, io.BytesIO(path.read_bytes())):
        pd.testing.assert_frame_equal(read_parquet(source).to_pandas(), pd.read_parquet(path))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_no_thread_is_started(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "table.parquet")
    command = [sys.executable, "-c", COUNT, tmp_path / "table.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 0
