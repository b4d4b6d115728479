"""The papers: a package beside this file for each, and those of other distributions.

A package offers a `lesionlab.training.paper.Paper` as `PAPER`. Another distribution adds one by an
entry point in the group `lesionlab.papers`, whose value is the package.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

from lesionlab import _names

if TYPE_CHECKING:
    from lesionlab.training.paper import Paper

GROUP = "lesionlab.papers"


def modules() -> dict[str, str]:
    """The package of each paper, by the paper's name, whether it has a model yet or not."""
    here = {m.name: f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__) if m.ispkg}
    return here | _outside(tuple(sys.path))


@lru_cache(maxsize=1)
def _outside(path: tuple[str, ...]) -> dict[str, str]:
    """The packages of other distributions on a search path; to look through it takes a while."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """The papers that have a model to train."""
    found = modules()
    return [
        name for name in sorted(found) if hasattr(importlib.import_module(found[name]), "PAPER")
    ]


def get(name: str) -> Paper:
    """A paper by its name; `ValueError` if there is none, or its package offers no model."""
    from lesionlab.training.paper import Paper  # it takes a while, as torch does

    found = modules()
    if name not in found:
        _names.one_of("paper", name, names())
    try:
        paper = getattr(importlib.import_module(found[name]), "PAPER", None)
    except ImportError as error:
        raise ValueError(f"paper={name!r}: {found[name]} cannot be imported: {error}") from error
    if not isinstance(paper, Paper):
        raise ValueError(
            f"paper={name!r}: {found[name]} has no model to train: it offers no PAPER. "
            f"There are {', '.join(names())}"
        )
    if paper.name != name or not paper.variants or not paper.presets or not paper.data:
        raise ValueError(
            f"paper={name!r}: the PAPER of {found[name]} is called {paper.name!r} and has "
            f"{len(paper.variants)} variants, {len(paper.presets)} presets and {len(paper.data)} "
            f"data sets; expected the name {name!r} and one or more of each"
        )
    return paper
