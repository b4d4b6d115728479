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
import io, os, sys
import pandas as pd
from lesionlab._parquet import read_parquet
threads = lambda: len(os.listdir("/proc/self/task"))
data = open(sys.argv[1], "rb").read()
before = threads()
if sys.argv[2] == "lesionlab":
    read_parquet(io.BytesIO(data)).to_pandas(use_threads=False)
else:
    pd.read_parquet(sys.argv[1])
print(threads() - before)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    TABLE.to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_as_pandas_reads_it(path: Path) -> None:
    for source in (path, io.BytesIO(path.read_bytes())):
        pd.testing.assert_frame_equal(read_parquet(source).to_pandas(), pd.read_parquet(path))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_no_thread_is_started(path: Path) -> None:
    started = {}
    for reader in ("lesionlab", "pandas"):
        command = [sys.executable, "-c", COUNT, path, reader]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        started[reader] = int(done.stdout)
    assert started["lesionlab"] == 0
    assert started["pandas"] > 0, "the count sees Arrow's threads"


def test_no_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "none.parquet")
