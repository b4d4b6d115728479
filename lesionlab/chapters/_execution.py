"""One notebook through papermill, in the Python that is running, and what to say if it fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lesionlab.chapters import SET
from lesionlab.results import ENVIRONMENT

__all__ = ["ExecutionError", "execute"]

_MARKER, _INJECTED = "papermill-error-cell-tag", "injected-parameters"


class ExecutionError(RuntimeError):
    """A notebook that did not run to its end.

    Attributes:
        cell: number of the cell, counted from 1 over all cells of the stored
            notebook, or None if no cell had started.
        partial: the notebook as far as it got, as ``nbformat`` has it, or None.
        copy: where it was kept, or None.
    """

    def __init__(self, message: str, *, cell: int | None, partial: Any) -> None:
        super().__init__(message)
        self.cell, self.partial = cell, partial
        self.copy: Path | None = None


def execute(
    notebook: Path,
    *,
    values: Mapping[str, Any],
    cwd: Path,
    scratch: Path,
    collected: Path,
    timeout: float | None,
    progress: bool,
) -> Any:
    """Run every cell of a notebook.

    Args:
        notebook: the stored notebook; it is not touched.
        values: parameters to inject; with none, no cell is added.
        cwd: the folder that the kernel starts in.
        scratch: an empty folder for what exists only meanwhile.
        collected: the file that :mod:`lesionlab.results` writes to.
        timeout: seconds that one cell may take; None for no limit.
        progress: show a bar, if standard error is a terminal.

    Returns:
        The executed notebook, without papermill's notes about paths and times.

    Raises:
        ExecutionError: if a cell fails, takes too long, kills the kernel, or
            ends the notebook early (which papermill takes for success).
        RuntimeError: if papermill is not installed.
    """
    try:
        import nbformat
        import papermill
    except ImportError as error:
        need = "pip install 'lesionlab[book]'"
        raise RuntimeError(f"running notebooks needs {error.name}: {need}") from error
    partial = scratch / notebook.name
    begun: list[int] = []
    try:
        with _kernel_environment(collected, scratch / "ipython"):
            done = papermill.execute_notebook(
                notebook,
                partial,
                parameters=dict(values),
                kernel_name="python3",
                kernel_manager_class=_this_python(),
                cwd=cwd,
                execution_timeout=None if timeout is None else max(1, round(timeout)),
                on_cell_execute=lambda cell, cell_index: begun.append(cell_index),
                store_widget_state=False,
                record_timing=False,
                log_output=False,
                # None: only where somebody is looking
                progress_bar={
                    "desc": notebook.stem,
                    "leave": False,
                    "disable": None if progress else True,
                },
            )
    except Exception as error:
        done = nbformat.read(partial, 4) if partial.exists() else None  # type: ignore[no-untyped-call]
        index = getattr(error, "cell_index", begun[-1] if begun else None)
        raise _failure(notebook, done, index, _reason(error, timeout)) from error
    for index, cell in enumerate(done.cells):
        wanted = cell.cell_type == "code" and cell.source.strip()
        if wanted and cell.execution_count is None and "skip-execution" not in _tags(cell):
            raise _failure(notebook, done, index, "was never reached: a cell before it exits")
    return _cleaned(done)


@contextlib.contextmanager
def _kernel_environment(collected: Path, profile: Path) -> Iterator[None]:
    """Let a kernel know where results go, and nothing of this user's habits."""
    ours: dict[str, str | None] = {
        ENVIRONMENT: str(collected),
        "IPYTHONDIR": str(profile),  # start-up files and settings of somebody's own
        "PYTHONSTARTUP": None,
        SET: None,  # the values are injected
        "JPY_SESSION_NAME": None,  # a run from a terminal or a cell of JupyterLab is not watched
        "MPLBACKEND": None,  # MPLBACKEND=agg, common on servers, would leave out every figure
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning about frozen modules on each start
    }
    before = {name: os.environ.get(name) for name in ours}
    try:
        _set(ours)
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _this_python() -> type:
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        """Starts ``sys.executable``, though another kernel may be installed as ``python3``."""

        @property
        def kernel_spec(self) -> KernelSpec:
            # its log is about its own sockets; what a cell prints comes another way
            return KernelSpec(**get_kernel_dict(["--IPKernelApp.log_level=50"]))

        @default("transport_encryption")
        def _encrypted_if_possible(self) -> str:
            # ipykernel 7 warns on every start that other users of the machine could listen
            return "auto"

    return ThisPython


def _reason(error: Exception, timeout: float | None) -> str:
    name = type(error).__name__
    if name == "CellTimeoutError":
        return f"took longer than {timeout:g} s"
    if name == "DeadKernelError":
        return "killed the kernel (out of memory?)"
    if name == "PapermillExecutionError":
        name, text = getattr(error, "ename", name), str(getattr(error, "evalue", ""))
    else:
        text = str(error)
    lines = text.strip().splitlines()
    return f"{name}: {lines[0]}" if lines else name


def _failure(notebook: Path, done: Any, index: int | None, reason: str) -> ExecutionError:
    if index is None or done is None:
        return ExecutionError(f"{notebook.name} did not start: {reason}", cell=None, partial=None)
    # as the reader of the stored notebook counts: without what papermill put in between
    cells = [cell for cell in done.cells if _MARKER not in _tags(cell)]
    put_in = sum(_INJECTED in _tags(cell) for cell in cells[:index])
    count = cells[index].get("execution_count")
    where = f"cell {index - put_in + 1}" + (f" (In [{count}])" if count else "")
    message = f"{notebook.name}, {where}: {reason}"
    return ExecutionError(message, cell=index - put_in + 1, partial=_cleaned(done))


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", ()))


def _cleaned(done: Any) -> Any:
    # papermill's metadata hold absolute paths
    done.metadata.pop("papermill", None)
    for cell in done.cells:
        cell.metadata.pop("papermill", None)
        if _INJECTED in _tags(cell):
            # the values of a set stand in sets.yml; in a page, a second cell of parameters confuses
            cell.metadata["tags"] = [*_tags(cell), "remove-cell"]
    return done
