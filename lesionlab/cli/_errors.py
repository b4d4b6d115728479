"""How every command ends when something is wrong: one line on standard error and a status."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
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
    if os.environ.get("LESIONLAB_DEBUG"):
        yield
        return
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        stop(str(error), WRONG_USE)
    except BrokenPipeError:  # as in `… | head`: typer ends quietly
        raise
    except (RuntimeError, OSError, ImportError) as error:
        stop(str(error), FAILED)
    except KeyboardInterrupt:
        # a task that still waits for a killed kernel would print a traceback when it is collected
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        stop("interrupted; what was finished is kept", INTERRUPTED)
