"""The command `lesionlab`.

Each command imports what it needs when it is called, so that `lesionlab --version` answers at once.
Wrong use ends with exit status 2, work that failed with 1, and either says why in one line on
standard error; `LESIONLAB_DEBUG=1` shows the traceback instead.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lesionlab import __version__
from lesionlab.cli._audit import audit
from lesionlab.cli._data import data_app
from lesionlab.cli._dicom import dicom_app
from lesionlab.cli._errors import FAILED, plain_errors
from lesionlab.cli._predict import predict
from lesionlab.cli._runs import runs_app
from lesionlab.cli._train import sweep, train

__all__ = ["app"]

# no markup: plain text reads the same in a log, on a narrow terminal and to a screen reader
app = typer.Typer(
    help="Five papers on the visual attributes of lung lesions in CT, read by running them.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
notebooks_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
app.add_typer(notebooks_app, name="notebooks", help="List, copy and execute the chapters.")
app.add_typer(data_app, name="data", help="Build, describe and check the crops of the lesions.")
app.add_typer(dicom_app, name="dicom", help="Look into DICOM files of your own.")
app.add_typer(runs_app, name="runs", help="List and compare the runs that were made.")
app.command("train")(train)
app.command("sweep")(sweep)
app.command("audit")(audit)
app.command("predict")(predict)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lesionlab {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("doctor")
def doctor() -> None:
    """Say which packages, data and device are found, and what to do next.

    The exit status is 1 where phantoms, the default way with no download, do not work.
    """
    from lesionlab import doctor as examination

    with plain_errors():
        found = examination.examine()
        typer.echo(examination.to_text(found))
    if not examination.healthy(found):
        raise typer.Exit(FAILED)


Folder = Annotated[Path | None, typer.Option(help="Take the notebooks here, not in notebooks/.")]
Out = Annotated[Path | None, typer.Option(help="Put copies here, not in _build/executed.")]


@notebooks_app.command("list")
def list_notebooks(folder: Folder = None, out: Out = None) -> None:
    """Show every notebook: its title, its parameters, and whether it has to be run."""
    from lesionlab.chapters import notebooks, parameters

    with plain_errors():
        place = folder or notebooks.default_folder()
        for name in notebooks.available(place):
            task = notebooks.plan(name, folder=place, out=out)
            typer.echo(f"{name}: {parameters.title(task.notebook)}")
            for key, value in task.parameters.items():
                typer.echo(f"    {key} = {value!r}")
            typer.echo(f"    sets: {', '.join(parameters.sets(place, name))}")
            typer.echo(f"    executed copy: {task.outdated() or 'up to date'}")


@notebooks_app.command("copy")
def copy_notebooks(
    folder: Annotated[Path, typer.Argument(help="Copy them here; it is made when it is missing.")],
) -> None:
    """Copy the chapters into a folder, to open them in JupyterLab, Notebook or VS Code."""
    from lesionlab import chapters

    with plain_errors():
        written = chapters.copy(folder)
        typer.echo(f"{len(written)} files in {folder}; open them with: jupyter lab {folder}")


@notebooks_app.command("run")
def run_notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all of them.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set one parameter, as YAML."),
    ] = None,
    set_name: Annotated[str, typer.Option("--set", help="A set of sets.yml.")] = "book",
    force: Annotated[bool, typer.Option("--force", help="Run even what is up to date.")] = False,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds for a cell.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many at once; as the cores allow by default.")
    ] = None,
    folder: Folder = None,
    out: Out = None,
) -> None:
    """Execute notebooks that have changed, or whose library has, since they were executed.

    With -p, or another set than "book", the copy goes to runs/ and leaves the book alone.
    """
    from lesionlab.chapters import notebooks, parameters

    failed = False
    with plain_errors():
        values = dict(map(parameters.parse, parameter or ()))
        place = folder or notebooks.default_folder()
        how: Any = {"set_name": set_name, "parameters": values, "folder": place, "out": out}
        chosen = dict.fromkeys(names or notebooks.available(place))
        # all of them before the first one runs
        tasks = [notebooks.plan(name, **how) for name in chosen]
        width = max(map(len, chosen))
        every = notebooks.carry_out_all(tasks, jobs=jobs, force=force, timeout=timeout)
        with contextlib.closing(every):
            for task, done in every:
                if isinstance(done, notebooks.ExecutionError):
                    failed = True
                    typer.echo(f"lesionlab: {done}", err=True)
                    typer.echo(f"{task.name:<{width}}  FAILED")
                else:
                    state = "executed  " if done.fresh else "up to date"
                    path = os.path.relpath(done.path)
                    typer.echo(f"{task.name:<{width}}  {state}  {done.seconds:8.1f} s  {path}")
    if failed:
        raise typer.Exit(FAILED)
