"""What all commands share: tables as text, and one line with a status when something is wrong."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import typer

WRONG_USE, FAILED, INTERRUPTED = 2, 1, 130


def stop(message: str, status: int) -> NoReturn:
    """End the command with a line that says why."""
    typer.echo(f"lesionlab: {message}", err=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can cause into one line; anything else is ours and keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        # a BrokenPipeError is as in `… | head`, which typer ends quietly
        if os.environ.get("LESIONLAB_DEBUG") or isinstance(error, BrokenPipeError):
            raise
        wrong_use = isinstance(error, (ValueError, FileNotFoundError))
        stop(str(error), WRONG_USE if wrong_use else FAILED)
    except KeyboardInterrupt:
        # a task that still waits for a killed kernel would print a traceback when it is collected
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        stop("interrupted; what was finished is kept", INTERRUPTED)


def estimate(
    value: float, low: float, high: float, fold_mean: float = math.nan, fold_sd: float = math.nan
) -> str:
    """A number with its interval, and mean ± SD over the folds; NaN is left out."""
    if math.isnan(value):
        return "–"
    text = f"{value:.4g}" if math.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
    return text if math.isnan(fold_sd) else f"{text} ({fold_mean:.3f} ± {fold_sd:.3f})"


def aligned(lines: Iterable[Sequence[str]]) -> str:
    """A table as text, words on the left; no spaces at the ends of lines."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(n) for cell, n in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
