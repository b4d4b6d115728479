"""The chapters: found, checked, executed by papermill, and skipped while nothing has changed.

Notebooks are stored without outputs. The results beside an executed copy hold what decides later
whether it is still valid: checksums of the notebook and of the library, and the parameters.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import lesionlab
from lesionlab import _names, chapters, results
from lesionlab._files import (
    abandoned,
    read_json,
    sha256,
    sha256_tree,
    sole_writer,
    write_json,
    write_text,
)
from lesionlab._processes import end_with_parent, usable_cores
from lesionlab.chapters import parameters as _parameters

# they say how a notebook is run, not what it computes
_OWN_SETTINGS = {results.ENVIRONMENT, chapters.SET} | {
    f"LESIONLAB_{name}" for name in ("EXECUTED", "BOOK_SET", "DEBUG")
}
FAILED = ".failed.ipynb"  # a notebook as far as it got
COLLECTED = "results.json"  # what `lesionlab.results` collects while a notebook runs
_SCRATCH = "lesionlab-notebook-"  # how the folder of a run begins, among temporary ones


class ExecutionError(RuntimeError):
    """A notebook that did not run to its end; the message says where it was kept so far."""


def default_folder() -> Path:
    """`notebooks/` in the current folder or, failing that, those that came with lesionlab."""
    here = Path.cwd() / "notebooks"
    return here if (here / "sets.yml").is_file() else chapters.shipped("notebooks")


def available(folder: str | Path) -> list[str]:
    """Names of the notebooks in a folder, without `.ipynb`, sorted; an error if there are none."""
    if not (found := sorted(path.stem for path in Path(folder).glob("*.ipynb"))):
        raise FileNotFoundError(f"there are no notebooks in {folder}")
    return found


@dataclass(frozen=True)
class Plan:
    """A run that can be made: every name in it exists and every value fits.

    The kernel starts in the folder `root`; the executed copy goes to `path`. `parameters` has the
    value of every declared parameter, and `injected` only those of the set and of the caller. A
    plan that was carried out has the seconds that it took; it is `fresh` if that was just now.
    """

    name: str
    notebook: Path
    set_name: str
    injected: dict[str, Any]
    parameters: dict[str, Any]
    path: Path
    root: Path
    seconds: float = 0.0
    fresh: bool = False

    @property
    def results(self) -> Path:
        """The JSON file beside the executed copy."""
        return self.path.with_suffix(".json")

    def record(self) -> dict[str, Any]:
        """What decides whether an executed copy is still valid."""
        return checksums(self.notebook) | {
            "set": self.set_name,
            "parameters": results.jsonable(self.parameters, "parameters"),
            # their names only: with and without the images are two different runs
            "settings": sorted(
                k for k in os.environ if k.startswith("LESIONLAB_") and k not in _OWN_SETTINGS
            ),
        }

    def outdated(self) -> str | None:
        """Why the notebook has to be run, in words, or None if the copy is still valid."""
        return outdated(self.path, self.record())


def plan(
    name: str,
    *,
    set_name: str = "book",
    parameters: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    out: str | Path | None = None,
) -> Plan:
    """Check a run before it is made: the set's values with `parameters` on top.

    The copy goes to `out`. If that is None, it is `_build/executed` for the unchanged set `book`,
    else `runs/NAME/SET-CHECKSUM`, so that an experiment never replaces what the book shows.

    Raises:
        ValueError: A name is unknown, or a value is not of its default's type.
    """
    folder = (default_folder() if folder is None else Path(folder)).resolve()
    _names.known("notebook", name, available(folder), f"in {folder.name}/")
    notebook = folder / f"{name}.ipynb"
    declared, there = _parameters.declared(notebook), _parameters.sets(folder, name)
    _names.known("set", set_name, there, f"of {name}")
    injected = there[set_name] | dict(parameters or {})
    _parameters.check(name, injected, declared)
    # runs start and end in the folder above the notebooks, but never inside an installed package
    installed = folder.is_relative_to(Path(lesionlab.__file__).resolve().parent)
    values, root = declared | injected, Path.cwd() if installed else folder.parent
    if out is not None:
        out = Path(out).resolve()
    elif set_name == "book" and not parameters:
        out = root / "_build" / "executed"
    else:
        canonical = json.dumps(results.jsonable(values), sort_keys=True).encode()
        out = root / "runs" / name / f"{set_name}-{hashlib.sha256(canonical).hexdigest()[:8]}"
    return Plan(name, notebook, set_name, injected, values, out / f"{name}.ipynb", root)


def library_sha256() -> str:
    """One checksum for everything in lesionlab that a notebook's outputs can depend on."""
    kinds = [".py", ".js", ".csv", ".gz", ".toml", ".mplstyle", ".safetensors"]
    return sha256_tree(Path(lesionlab.__file__).parent, kinds)


def checksums(notebook: Path) -> dict[str, str]:
    """Of all files that a notebook's outputs can depend on: itself, the library, kept results."""
    kept = chapters.shipped("book", "results") / chapters.results_of(notebook.stem)
    return {
        "notebook_sha256": sha256(notebook),
        "library_sha256": library_sha256(),
        "results_sha256": sha256_tree(kept, [".json", ".csv", ".gz", ".png"]),
    }


def recorded(copy: str | Path) -> dict[str, Any]:
    """What was written beside an executed copy; nothing if that is damaged or missing."""
    with contextlib.suppress(OSError, ValueError):
        return results.read(Path(copy).with_suffix(".json"))
    return {}


def outdated(copy: Path, record: Mapping[str, Any]) -> str | None:
    """Say in words why an executed copy is not of this record, such as `checksums`, or None."""
    old = recorded(copy)
    if not copy.exists() or not old:
        return "it has not been executed, or its results are missing"
    differ = (key.removesuffix("_sha256") for key in record if old.get(key) != record[key])
    return next((f"the {what} changed since it was executed" for what in differ), None)


def carry_out(
    task: Plan, *, force: bool = False, timeout: float | None = None, progress: bool = True
) -> Plan:
    """Execute a notebook, unless an executed copy is there and still valid, or with `force`.

    The kernel is the running Python, whatever kernels are installed, without the user's IPython
    profile. A cell may take `timeout` seconds. The copy and its results take their place only when
    the last cell has run.

    Raises:
        ExecutionError: A cell failed, took too long, killed the kernel or ended the notebook early.
            The notebook is kept as far as it got in `NAME.failed.ipynb`; an earlier copy stays.
        RuntimeError: Papermill is not installed.
    """
    if not force and task.outdated() is None:
        return replace(task, seconds=float(recorded(task.path).get("seconds", 0.0)))
    # before, not after: an edit while it runs must make the copy stale
    record, start = task.record(), time.monotonic()
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch, sole_writer(scratch):
        notebook = _execute(task, Path(scratch), timeout, progress)
        collected = Path(scratch) / COLLECTED
        found = read_json(collected) if collected.exists() else {"data": [], "results": {}}
    seconds = round(time.monotonic() - start, 2)
    origin = {"seconds": seconds, **results.provenance(task.root)}
    _save(notebook, task.path)
    # last: without it, the run has not happened
    write_json(task.results, {"notebook": task.name, **record, **origin, **found})
    task.path.with_suffix(FAILED).unlink(missing_ok=True)
    return replace(task, seconds=seconds, fresh=True)


def carry_out_all(
    tasks: Sequence[Plan],
    *,
    jobs: int | None = None,
    force: bool = False,
    timeout: float | None = None,
) -> Generator[tuple[Plan, Plan | ExecutionError], None, None]:
    """Carry out plans as `carry_out` does, some side by side; gives what came of each as it ends.

    With `jobs` at once the kernels share the cores out by OMP_NUM_THREADS, which stays as it is
    where the user has set it. If `jobs` is None, it is the square root of the cores that may be
    used, rounded up: with two cores, two chapters with a thread each take less time than one after
    the other with two threads, as much of a chapter computes with one thread only.

    An error other than an `ExecutionError`, Ctrl-C and `close` end all that still run.
    """
    cores, todo = usable_cores(), sum(force or task.outdated() is not None for task in tasks)
    jobs = min(jobs or math.ceil(math.sqrt(cores)), todo)
    if jobs > 1:
        yield from _side_by_side(tasks, jobs, (max(1, cores // jobs), force, timeout))
        return
    for task in tasks:
        try:
            yield task, carry_out(task, force=force, timeout=timeout)
        except ExecutionError as error:
            yield task, error


def _side_by_side(
    tasks: Sequence[Plan], jobs: int, how: tuple[int, bool, float | None]
) -> Generator[tuple[Plan, Plan | ExecutionError], None, None]:
    # a process each, as a run sets the environment
    context, waiting = multiprocessing.get_context("spawn"), list(tasks)
    running: dict[Any, tuple[Plan, Any]] = {}  # by the end of a pipe that tells what came of it
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task, (ours, theirs) = waiting.pop(0), context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(theirs, task, *how), daemon=True)
                process.start()
                theirs.close()
                running[ours] = task, process
            ready: Any = wait(list(running))
            for end in ready:
                task, process = running[end]
                try:
                    done = end.recv()
                except EOFError:
                    done = RuntimeError(f"the process that ran {task.name} was killed")
                process.join()
                del running[end]
                if isinstance(done, Exception) and not isinstance(done, ExecutionError):
                    raise done
                yield task, done
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _run(end: Connection, task: Plan, threads: int, force: bool, timeout: float | None) -> None:
    """Carry out a plan in a process of its own and send what came of it."""
    # Ctrl-C on a terminal reaches every process: only the first one heeds it, and ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its kernel ends first
    end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        end.send(carry_out(task, force=force, timeout=timeout, progress=False))
    except KeyboardInterrupt:
        # a task that still waits for the kernel would print a traceback when it is collected
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    except Exception as error:
        end.send(error)


def _sweep() -> None:
    """Remove what runs left that were killed: the folder of each says whose it was."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        if abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _execute(task: Plan, scratch: Path, timeout: float | None, progress: bool) -> Any:
    """Run every cell; gives the notebook without papermill's notes about paths and times."""
    try:
        import nbformat
        import papermill
        from ipykernel.kernelspec import write_kernel_spec
    except ImportError as error:
        need = "pip install 'lesionlab[book]'"
        raise RuntimeError(f"running notebooks needs {error.name}: {need}") from error
    # Jupyter looks here first, so that another kernel called python3 does not take its place. Its
    # log, which is about its own sockets, is silent; what a cell prints comes another way.
    write_kernel_spec(
        scratch / "jupyter" / "kernels" / "python3",
        extra_arguments=["--IPKernelApp.log_level=50"],
    )
    file, partial, begun = task.notebook.name, scratch / "partial.ipynb", list[int]()
    bar = {"desc": task.name, "leave": False, "disable": None}  # None: only on a terminal
    try:
        with _kernel_environment(scratch):
            done = papermill.execute_notebook(
                task.notebook,
                partial,
                parameters=task.injected,
                kernel_name="python3",
                cwd=task.root,
                execution_timeout=None if timeout is None else max(1, round(timeout)),
                on_cell_execute=lambda cell, cell_index: begun.append(cell_index),
                store_widget_state=False,
                record_timing=False,
                log_output=False,
                progress_bar=bar if progress else False,
            )
        code = (cell for cell in done.cells if cell.cell_type == "code" and cell.source.strip())
        skipped = "skip-execution"  # this tag keeps a cell from being run
        if all(c.execution_count or skipped in c.metadata.get("tags", ()) for c in code):
            return _cleaned(done)
        raise ExecutionError("exits before the last cell")  # papermill takes it for success
    except Exception as error:
        reason = _reason(error, timeout)
        if not begun:
            raise ExecutionError(f"{file} did not start: {reason}") from error
        so_far = _cleaned(nbformat.read(partial, 4))  # type: ignore[no-untyped-call]
        copy = os.path.relpath(_save(so_far, task.path.with_suffix(FAILED)))
        where = f"{file}, In [{len(begun)}]"
        raise ExecutionError(f"{where}: {reason}; as far as it got: {copy}") from error


@contextlib.contextmanager
def _kernel_environment(scratch: Path) -> Iterator[None]:
    """Tell the kernel where results go, and keep this user's habits from it."""
    before = dict(os.environ)
    # MPLBACKEND=agg, common on servers, would leave out every figure; the last two would pretend
    # that no values are injected, and that somebody watches
    for name in ("PYTHONSTARTUP", "MPLBACKEND", chapters.SET, "JPY_SESSION_NAME"):
        os.environ.pop(name, None)
    os.environ[results.ENVIRONMENT] = str(scratch / COLLECTED)
    os.environ["JUPYTER_PATH"] = str(scratch / "jupyter")
    os.environ["IPYTHONDIR"] = str(scratch / "ipython")
    # so that nothing of a run that is killed lies elsewhere: the temporary folders of its cells,
    # and the file with the kernel's key, which Jupyter writes in this process
    temporary, tempfile.tempdir = tempfile.tempdir, str(scratch)
    os.environ["TMPDIR"] = str(scratch)
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or each start warns of frozen modules
    try:
        yield
    finally:
        tempfile.tempdir = temporary
        os.environ.clear()
        os.environ.update(before)


def _reason(error: Exception, timeout: float | None) -> str:
    name, text = type(error).__name__, str(error)
    known = {
        "CellTimeoutError": f"took longer than {timeout or 0:g} s",
        "DeadKernelError": "killed the kernel (out of memory?)",
        "ExecutionError": text,
    }
    if name == "PapermillExecutionError":
        name, text = getattr(error, "ename", name), str(getattr(error, "evalue", ""))
    return known.get(name) or ": ".join([name, *text.strip().splitlines()[:1]])


def _cleaned(done: Any) -> Any:
    done.metadata.pop("papermill", None)  # it holds absolute paths
    for cell in done.cells:
        cell.metadata.pop("papermill", None)
        if "injected-parameters" in cell.metadata.get("tags", ()):
            # in a page, a second cell of parameters confuses; the values of a set are in sets.yml
            cell.metadata["tags"] = [*cell.metadata.tags, "remove-cell"]
    return done


def _save(notebook: Any, path: Path) -> Path:
    import nbformat

    return write_text(path, nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
