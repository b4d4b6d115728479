"""`make bench`: a row for each comparison as it is done, and all in `_build/bench.json`."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks._table import HEAD, Row, line
from lesionlab import __version__, _files

ROOMS = (
    "lidc",
    "anno",
    "stores",
    "samples",
    "fu2021",
    "devices",
    "attention",
    "explorer",
    "chapters",
)
"""Modules with a function `rows`, in the order in which they run."""

QUICK: dict[str, dict[str, Any]] = {
    "lidc": {"max_scans": 60},
    "anno": {"n_series": 20, "n_lesions": 140},
    "stores": {"max_lesions": 200},
    "samples": {"n_crops": 40},
    "fu2021": {"n_nodules": 8},
    "devices": {"n_nodules": 8, "turns": 2},
    "explorer": {"n_redraws": 50, "n_loads": 1},
    "attention": {"n_nodules": 32, "turns": 1},
    "chapters": {"set_name": "smoke"},
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"default: {' '.join(ROOMS)}")
    parser.add_argument("--quick", action="store_true", help="a part of the data: a quick look")
    parser.add_argument("--out", type=Path, default=Path("_build/bench.json"))
    options = parser.parse_args()
    if unknown := set(options.rooms) - set(ROOMS):
        parser.error(f"no ROOM {min(unknown)!r}: expected some of {', '.join(ROOMS)}")
    rows: list[Row] = []
    print(HEAD, flush=True)
    for room in options.rooms or ROOMS:
        print(f"{room} …", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{room}")
        for row in module.rows(**(QUICK[room] if options.quick else {})):
            rows.append(row)
            print(line(row), flush=True)
    record = {
        "lesionlab": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "quick": options.quick,
        "rows": [row.record() for row in rows],
    }
    _files.write_json(options.out, record)
    # ratios of a part say nothing about the whole: judge full runs only
    return int(not options.quick and any(row.ratio < row.target for row in rows))


if __name__ == "__main__":
    sys.exit(main())
