"""`make bench`: every comparison, one table, and the same as JSON in `_build/bench.json`."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from benchmarks import lidc
from benchmarks._table import show
from lesionlab import __version__, _files


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--max-scans", type=int, help="only so many scans: a quick look")
    parser.add_argument("--out", type=Path, default=Path("_build/bench.json"))
    options = parser.parse_args()
    rows = lidc.rows(max_scans=options.max_scans)
    print(show(rows))
    record = {
        "lesionlab": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "max_scans": options.max_scans,
        "rows": [row.record() for row in rows],
    }
    _files.write_json(options.out, record)
    # ratios of a part say nothing about the whole: judge full runs only
    return int(options.max_scans is None and any(row.ratio < row.target for row in rows))


if __name__ == "__main__":
    sys.exit(main())
