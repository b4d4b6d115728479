"""Seconds that each chapter took for the book, and what is asked of those that train.

A chapter that has changed since `make book` is executed now, alone, into `_build/executed` as
`make book` does, and judged. Of the others the recorded seconds are shown, not judged: they may
have run side by side, or beside other work.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._table import Row
from lesionlab import papers
from lesionlab.chapters import notebooks

CHAPTER, BOOK = 100.0, 720.0
"""Seconds that a chapter of a model, and all chapters, may take with two cores without AMX."""


def rows(*, set_name: str = "book") -> Iterator[Row]:
    """One row a chapter, and one for all."""
    names = notebooks.available(notebooks.default_folder())
    tasks = [notebooks.plan(name, set_name=set_name) for name in names]
    total, fresh = 0.0, True
    for task in tasks:
        done = notebooks.carry_out(task)
        how = "executed now, alone" if done.fresh else "recorded by make book"
        judged = done.fresh and task.name in papers.names()
        total, fresh = total + done.seconds, fresh and done.fresh
        what = f"chapter {task.name}, set {set_name}"
        yield Row(what, "the most that is asked for", done.seconds, CHAPTER, int(judged), how)
    yield Row(
        "all chapters, one after the other",
        "the most that is asked for",
        total,
        BOOK,
        int(fresh),
        "sum of these",
    )
