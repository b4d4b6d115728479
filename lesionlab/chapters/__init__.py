"""What a chapter needs wherever it is opened: its parameters checked, its files found.

A notebook does not know which folder it was opened in, so it finds nothing by a relative path:
`chapters.begin("fu2021").results()` is the folder of results that the book keeps for a chapter.
"""

from __future__ import annotations

import ast
import logging
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import lesionlab
from lesionlab import _names
from lesionlab.chapters import parameters

if TYPE_CHECKING:
    from IPython.display import HTML

SET = "LESIONLAB_SET"  # the variable that names a set for a notebook that papermill does not run
SOLUTION = "%%solution"  # the first line of a cell that runs only if `solutions` is true

_NOT_RUN = (
    "This cell holds a solution and was not run. To run it, delete its first line; "
    "to run all solutions, set the parameter solutions to True at the top."
)


@dataclass(frozen=True)
class Chapter:
    """A notebook that is being run, by its name; `progress` says whether somebody watches."""

    name: str
    progress: bool

    def results(self, folder: str | Path = "") -> Path:
        """The folder of results that this chapter shows: `folder`, or the one of the book.

        A page of tables, `lei2020_tables`, shows the results of its chapter, `lei2020`.
        """
        if not folder:
            return shipped("book", "results", results_of(self.name))
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"there is no folder {str(folder)!r} of results")
        return Path(folder)

    def downloads(self, folder: str | Path = "") -> HTML:
        """Links to the predictions of the runs in `results(folder)`, one CSV file a run.

        Links to the book's own files also work in the built book.
        """
        from IPython.display import HTML

        place = self.results(folder)
        own = place if folder else Path("..", "book", "results", place.name)
        links = []
        for file in sorted(place.rglob("*.csv*")):
            name = file.relative_to(place).as_posix()
            link = escape((own / name).as_posix())
            links.append(f'<li><a href="{link}" download>{escape(name)}</a></li>')
        head = f"Predictions to download: {len(links)} runs, one row per lesion and output"
        return HTML(  # type: ignore[no-untyped-call]
            f'<details class="lesionlab-downloads"><summary>{head}</summary>'
            f"<ul>{''.join(links)}</ul></details>"
        )

    def quiz(self) -> HTML:
        """Questions on this chapter; an answer that is chosen says whether it is right, and why."""
        from lesionlab.chapters.quiz import quiz

        return quiz(self.name)


def results_of(name: str) -> str:
    """Whose folder of results a page shows: its own, or that of the chapter it has tables of."""
    return name.removesuffix("_tables")


def shipped(*parts: str) -> Path:
    """A file or folder that comes with the library, by its path in the checkout."""
    package = Path(lesionlab.__file__).resolve().parent
    for root in (package / "_book", package.parent):  # in a wheel, then in a checkout
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    raise FileNotFoundError(
        f"{'/'.join(parts)} did not come with lesionlab {lesionlab.__version__}: install it again, "
        "from its wheel or from a checkout (pip install --editable .)"
    )


def copy(folder: str | Path) -> list[Path]:
    """Copy the notebooks and the pages that they link to into `notebooks/` and `book/` of a folder.

    Raises:
        FileExistsError: A file of that name is there; nothing has been written.
    """
    wanted = {
        Path(folder, part, file.name): file
        for part, pattern in (("notebooks", "*.ipynb"), ("notebooks", "sets.yml"), ("book", "*.md"))
        for file in sorted(shipped(part).glob(pattern))
    }
    if there := [str(target) for target in wanted if target.exists()]:
        raise FileExistsError(f"{there[0]} is there already; choose another folder or move it away")
    for target, file in wanted.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return list(wanted)


def begin(name: str) -> Chapter:
    """Check the parameters of the running notebook, and set up what every chapter has.

    Values that papermill injected stay. Where the environment variable `LESIONLAB_SET` names a set
    of `sets.yml`, the other parameters take its values. What the library logs appears in the page.

    Raises:
        ValueError: A parameter is unknown, or its value is not of its default's type.
        RuntimeError: No notebook is running.
    """
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise RuntimeError("chapters.begin is called by a notebook, and no notebook is running")
    folder = shipped("notebooks")
    _names.known("notebook", name, (p.stem for p in folder.glob("*.ipynb")), "of the book")
    declared = parameters.declared(folder / f"{name}.ipynb")
    values = shell.user_ns
    injected = list(_injected(values.get("In", ())))
    for key in injected:
        _names.known("parameter", key, declared, f"of {name}")
    if chosen := os.environ.get(SET):
        there = parameters.sets(folder, name)
        _names.known("set", chosen, there, f"of {name}, from the variable {SET}")
        values.update({k: v for k, v in there[chosen].items() if k not in injected})
    parameters.check(name, {key: values[key] for key in declared if key in values}, declared)
    logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
    if _without_unwanted_solutions not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_without_unwanted_solutions)
    watched = "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in values
    return Chapter(name, progress=watched)


def _injected(cells: Iterable[str]) -> Iterable[str]:
    """Names that papermill's cells set: it begins them with a comment of its own."""
    for source in cells:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                if isinstance(node, ast.Assign):
                    yield from (t.id for t in node.targets if isinstance(t, ast.Name))


def _without_unwanted_solutions(lines: list[str]) -> list[str]:
    """Take the first line off a cell that holds a solution, or replace the cell by a note."""
    from IPython.core.getipython import get_ipython

    if not lines or lines[0].strip() != SOLUTION:
        return lines
    asked_for = get_ipython().user_ns.get("solutions")  # type: ignore[union-attr]
    return lines[1:] if asked_for else [f"print({_NOT_RUN!r})\n"]
