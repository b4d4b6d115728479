"""The commands `lesionlab runs list` and `lesionlab runs compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionlab.cli._errors import aligned, estimate, plain_errors

if TYPE_CHECKING:
    import pandas as pd

runs_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@runs_app.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Look here, at any depth.")] = Path("runs"),
) -> None:
    """Show every run of a notebook and every training: a row for each.

    A "+" after a commit says that files differed from it.
    """
    from lesionlab.chapters import runs

    with plain_errors():
        shown = runs.find(folder).drop(columns=["path", "parameters", "scores"])
        commits = zip(shown["commit"], shown.pop("dirty"), strict=True)
        shown["commit"] = [commit and commit[:7] + "+" * bool(dirty) for commit, dirty in commits]
        shown["seconds"] = shown["seconds"].map("{:.0f}".format, na_action="ignore")
        shown["when"] = shown["when"].map("{:%Y-%m-%d %H:%M}".format)
        typer.echo(_text(shown))


@runs_app.command("compare")
def compare_runs(
    names: Annotated[
        list[str], typer.Argument(help="A notebook or a paper, or runs by name, file or folder.")
    ],
    folder: Annotated[Path, typer.Option(help="Look here, at any depth.")] = Path("runs"),
    kind: Annotated[str | None, typer.Option(help="Take only notebook or training.")] = None,
    score: Annotated[list[str] | None, typer.Option(help="Show scores with this name.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores: .png, .svg, .pdf.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the drawing.")] = False,
) -> None:
    """Show in what runs differ: their parameters, then their scores, a column for each run.

    --score takes a part of a name, where * stands for anything, and may be repeated.
    """
    from lesionlab._files import replacing
    from lesionlab.chapters import runs

    with plain_errors():
        if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--plot {plot}: expected a name that ends in .png, .svg or .pdf")
        if plot is not None and plot.exists() and not force:
            raise ValueError(f"--plot {plot}: the file is there already; --force replaces it")
        chosen = runs.choose(runs.find(folder), names, kind=kind)
        complete = chosen["state"] == "complete"
        for run, state in chosen.loc[~complete, "state"].items():
            typer.echo(f"{run} is left out, it is {state}", err=True)
        if not complete.any():
            raise ValueError(f"none of the runs of {', '.join(names)} is complete")
        whole = chosen[complete]
        found = runs.scores(whole, score or ())
        typer.echo(_comparison(whole, found))
        if found["fold_sd"].notna().any():
            typer.echo("In brackets: the interval over patients; then mean ± SD over the folds.")
        if plot is not None:
            with replacing(plot) as temporary:
                runs.plot(found).savefig(temporary, format=plot.suffix[1:])
            typer.echo(f"written to {plot}")


def _comparison(chosen: pd.DataFrame, found: pd.DataFrame) -> str:
    """Parameters and scores as text, a column per run, and mean ± SD where seeds allow it."""
    import pandas as pd

    from lesionlab.chapters import runs

    columns = ["value", "low", "high", "fold_mean", "fold_sd"]
    texts = found.assign(text=[estimate(*row) for row in found[columns].to_numpy()])
    wide = texts.pivot(index="score", columns="run", values="text")
    wide = wide.loc[found["score"].unique(), chosen.index]
    rows = pd.concat([runs.differences(chosen), wide])
    for group, own in runs.over_seeds(found).reset_index("group").groupby("group", sort=False):
        head = f"mean ± SD of {own['n'].max()} seeds"
        head += "" if found["group"].nunique() == 1 else f", {group}"
        said = own["mean"].map("{:.4g}".format) + " ± " + own["sd"].map("{:.2g}".format)
        rows[head] = said.reindex(rows.index)
    return _text(rows.rename_axis(None).reset_index(names=""))


def _text(table: pd.DataFrame) -> str:
    cells = table.astype(object).where(table.notna(), "–").astype(str)
    return aligned([list(cells.columns), *cells.to_numpy().tolist()])
