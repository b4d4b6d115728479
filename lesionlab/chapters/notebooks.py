"""The chapters: found, checked, executed once, and skipped while nothing has changed.

Notebooks are stored without outputs. :func:`run` executes one through papermill
into ``_build/executed``, where the book takes it from, and leaves there what is
needed to know later whether the copy still holds: the checksums of the notebook
and of the library, and the parameters. The defaults in a notebook's cell tagged
``parameters`` are what the book shows; ``notebooks/sets.yml`` names other
sets of values, and single ones can be given by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lesionlab
from lesionlab import chapters, results
from lesionlab._files import read_json, sha256, sha256_tree, write_json, write_text
from lesionlab.chapters import _parameters
from lesionlab.chapters._execution import ExecutionError, execute
from lesionlab.chapters._parameters import parameters, parse_parameter, sets, title

__all__ = [
    "ExecutionError",
    "Plan",
    "Run",
    "available",
    "carry_out",
    "default_folder",
    "library_sha256",
    "outdated",
    "parameters",
    "parse_parameter",
    "plan",
    "run",
    "sets",
    "title",
]

_OWN_SETTINGS = {
    results.ENVIRONMENT,
    chapters.SET,
    "LESIONLAB_EXECUTED",
    "LESIONLAB_BOOK_SET",
    "LESIONLAB_DEBUG",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """An executed notebook.

    Attributes:
        name: the notebook's name, without ``.ipynb``.
        set_name: the set of parameters it was run with.
        parameters: the value of every declared parameter.
        path: the executed copy.
        results: the JSON file beside it.
        seconds: how long the execution took, whenever it was.
        fresh: whether it was executed now; False if the copy was up to date.
    """

    name: str
    set_name: str
    parameters: dict[str, Any]
    path: Path
    results: Path
    seconds: float
    fresh: bool


# -- what there is ---------------------------------------------------------------------


def default_folder() -> Path:
    """``notebooks/`` in the current folder or, failing that, those that came with lesionlab.

    Raises:
        FileNotFoundError: if there are neither.
    """
    here = Path.cwd() / "notebooks"
    return here if (here / "sets.yml").is_file() else chapters.shipped("notebooks")


def available(folder: str | Path) -> list[str]:
    """Names of the notebooks in a folder, without ``.ipynb``, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return sorted(path.stem for path in Path(folder).glob("*.ipynb"))


# -- what is to be done ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that can be made: every name in it exists and every value fits.

    Attributes:
        name: the notebook's name.
        notebook: the stored notebook.
        set_name: the name of the set of parameters.
        injected: the values that differ from what the notebook says.
        parameters: the value of every declared parameter.
        path: where the executed copy goes.
        root: the folder that the kernel starts in.
    """

    name: str
    notebook: Path
    set_name: str
    injected: dict[str, Any]
    parameters: dict[str, Any]
    path: Path
    root: Path

    @property
    def results(self) -> Path:
        """The JSON file beside the executed copy."""
        return self.path.with_suffix(".json")

    @property
    def failed(self) -> Path:
        """Where the notebook is kept as far as it got, if it fails."""
        return self.path.with_suffix(".failed.ipynb")

    def record(self) -> dict[str, Any]:
        """What decides whether an executed copy still holds."""
        return {
            "notebook_sha256": sha256(self.notebook),
            "library_sha256": library_sha256(),
            "kept_sha256": _kept_sha256(self.name),
            "set": self.set_name,
            "parameters": results.jsonable(self.parameters, "parameters"),
            # their names only: with and without the images are two different runs
            "settings": sorted(
                k for k in os.environ if k.startswith("LESIONLAB_") and k not in _OWN_SETTINGS
            ),
        }

    def outdated(self) -> str | None:
        """Why the notebook has to be run, in words, or None if the copy still holds."""
        reason = outdated(self.path, self.notebook)
        if reason or not self.results.exists():
            return reason or "its results are missing"
        old, new = _recorded(self.path), self.record()
        for key in ("set", "parameters", "settings"):
            if old.get(key) != new[key]:
                return f"it was executed with other {key.removesuffix('s')}s"
        return None


def plan(
    name: str,
    *,
    set_name: str = "book",
    parameters: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    out: str | Path | None = None,
) -> Plan:
    """Check a run before it is made; the arguments are those of :func:`run`.

    Raises:
        ValueError: naming what is unknown, what comes close, and what there is.
    """
    folder = (default_folder() if folder is None else Path(folder)).resolve()
    _parameters.known("notebook", name, available(folder), f"in {folder.name}/")
    notebook = folder / f"{name}.ipynb"
    declared, there = _parameters.parameters(notebook), sets(folder, name)
    _parameters.known("set", set_name, there, f"of {name}")
    injected = there[set_name] | dict(parameters or {})
    _parameters.check(name, injected, declared)
    values, root = declared | injected, _root(folder)
    if out is not None:
        out = Path(out).resolve()
    elif set_name == "book" and not parameters:
        out = root / "_build" / "executed"
    else:
        canonical = json.dumps(results.jsonable(values), sort_keys=True).encode()
        short = hashlib.sha256(canonical).hexdigest()[:8]
        out = root / "runs" / name / f"{set_name}-{short}"
    return Plan(name, notebook, set_name, injected, values, out / f"{name}.ipynb", root)


def _root(folder: Path) -> Path:
    """Where runs of a folder's notebooks start and end: above it, but never in the package."""
    inside = folder.is_relative_to(Path(lesionlab.__file__).resolve().parent)
    return Path.cwd() if inside else folder.parent


def library_sha256() -> str:
    """One checksum for everything in lesionlab that a notebook's outputs can depend on."""
    return sha256_tree(Path(lesionlab.__file__).parent, [".py", ".csv", ".js"])


def _kept_sha256(name: str) -> str | None:
    """One checksum for the results that come with the book and that a chapter shows."""
    try:
        return sha256_tree(chapters.shipped("book", "results", name), [".json", ".csv", ".png"])
    except FileNotFoundError:
        return None


def _recorded(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError:
        return {}
    found = content.get("metadata", {}).get("lesionlab") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def outdated(copy: str | Path, notebook: str | Path) -> str | None:
    """Say why an executed copy no longer stands for a notebook.

    Args:
        copy: the executed copy.
        notebook: the stored notebook.

    Returns:
        A reason in words (the copy is missing, or the notebook, the library or
        the results that it shows have changed since), or None if it does.
    """
    if not Path(copy).exists():
        return "it has not been executed"
    old = _recorded(Path(copy))
    if old.get("notebook_sha256") != sha256(notebook):
        return "the notebook has changed since it was executed"
    if old.get("library_sha256") != library_sha256():
        return "lesionlab has changed since it was executed"
    if old.get("kept_sha256") != _kept_sha256(Path(notebook).stem):
        return "the results that it shows have changed since it was executed"
    return None


# -- doing it --------------------------------------------------------------------------


def run(
    name: str,
    *,
    set_name: str = "book",
    parameters: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    timeout: float | None = None,
    progress: bool = True,
) -> Run:
    """Execute a notebook, unless an executed copy is there and still holds.

    The kernel is the running Python, whatever kernels are installed; it starts
    in the folder above ``folder``, without the user's IPython profile. The copy
    and its results take their place only when the last cell has run.

    Args:
        name: the notebook's name, without ``.ipynb``.
        set_name: a set of parameters from ``sets.yml``.
        parameters: values on top of the set.
        folder: where the notebooks are (:func:`default_folder`).
        out: where the copy goes: ``_build/executed`` for the set ``book`` as it is,
            else ``runs/NAME/SET-<checksum of the values>``, so that trying something
            out never replaces what the book shows.
        force: execute even if the copy holds.
        timeout: seconds that one cell may take; None for no limit.
        progress: show a bar, if standard error is a terminal.

    Returns:
        The executed notebook.

    Raises:
        ValueError: before anything runs, if a name is unknown or a value does
            not fit; see :func:`plan`.
        ExecutionError: if a cell fails. The notebook is kept as far as it got in
            ``NAME.failed.ipynb``; an earlier copy and its results stay.
    """
    task = plan(name, set_name=set_name, parameters=parameters, folder=folder, out=out)
    return carry_out(task, force=force, timeout=timeout, progress=progress)


def carry_out(
    task: Plan, *, force: bool = False, timeout: float | None = None, progress: bool = True
) -> Run:
    """Do what :func:`plan` has checked; everything else is as in :func:`run`."""
    if not force and task.outdated() is None:
        seconds = float(_recorded(task.path).get("seconds", 0.0))
        return Run(
            task.name, task.set_name, task.parameters, task.path, task.results, seconds, fresh=False
        )
    # before, not after: an edit while it runs must make the copy stale
    record, start = task.record(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lesionlab-") as scratch:
        collected = Path(scratch) / "results.json"
        try:
            notebook = execute(
                task.notebook,
                values=task.injected,
                cwd=task.root,
                scratch=Path(scratch),
                collected=collected,
                timeout=timeout,
                progress=progress,
            )
        except ExecutionError as error:
            if error.partial is not None:
                error.copy = _save(error.partial, task.failed)
            raise
        found = read_json(collected) if collected.exists() else {"data": [], "results": {}}
    seconds = round(time.monotonic() - start, 2)
    origin = {"seconds": seconds, **results.provenance(task.root)}
    write_json(task.results, {"notebook": task.name, **record, **origin, **found})
    notebook.metadata["lesionlab"] = record | {k: origin[k] for k in ("seconds", "versions")}
    # last: without the copy, the run has not happened
    _save(notebook, task.path)
    task.failed.unlink(missing_ok=True)
    return Run(
        task.name, task.set_name, task.parameters, task.path, task.results, seconds, fresh=True
    )


def _save(notebook: Any, path: Path) -> Path:
    import nbformat

    return write_text(path, nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
