"""One row per comparison, and how they are timed and printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison. `equal` says how the two results were compared."""

    what: str
    peer: str
    lesionlab_s: float
    peer_s: float
    target: float
    equal: str

    @property
    def ratio(self) -> float:
        return self.peer_s / self.lesionlab_s

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def seconds(work: Callable[[], Any], *, repeats: int = 1) -> tuple[float, Any]:
    """Median wall time of some runs, and what the last one gave."""
    times = []
    result = None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def _times(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.2g} ×"


HEAD = """\
| what | peer | lesionlab | peer | ratio | asked for | equal |
|---|---|--:|--:|--:|--:|---|"""


def line(row: Row) -> str:
    """A line of a Markdown table; target 0 is for comparison and asks for nothing."""
    asked = _times(row.target) if row.target else "–"
    return (
        f"| {row.what} | {row.peer} | {row.lesionlab_s:.2f} s | {row.peer_s:.2f} s "
        f"| {_times(row.ratio)} | {asked} | {row.equal} |"
    )
