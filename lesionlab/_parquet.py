"""Reading Parquet in the calling thread."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: Path | BinaryIO) -> pa.Table:
    """A small table, read without threads.

    `pandas.read_parquet` and `pyarrow.parquet.read_table` hand pieces of a Python file to threads
    of Arrow. One that lets go of its piece while Python is ending aborts the process, about once
    in a hundred short runs, after all its work is done.
    """
    with pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read(use_threads=False)
