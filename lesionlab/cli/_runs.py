"""The commands `lesionlab runs list` and `lesionlab runs compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionlab import __version__
from lesionlab.cli._errors import aligned, plain_errors

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.chapters.runs import Run

MOST_SCORES = 60  # that are shown when nobody says which

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
        found = runs.find(folder)
        shown = runs.table(found).drop(columns="why").rename(columns={"preset": "set"})
        dirty = shown.pop("dirty").map({True: "+"}).fillna("")
        shown["commit"] = shown["commit"].str[:7] + dirty
        shown["seconds"] = shown["seconds"].map("{:.0f}".format, na_action="ignore")
        shown["when"] = shown["when"].dt.strftime("%Y-%m-%d %H:%M")
        shown["version"] = [_marked(run.version, run) for run in found]
        typer.echo(_text(shown))
        for run in found:
            if run.why:
                typer.echo(f"{run.name}/{run.label} is {run.state}: {run.why}")
        _footnote(found)


@runs_app.command("compare")
def compare_runs(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|RUN...",
            help="A notebook or a paper, for all its runs; or runs by name, file or folder.",
        ),
    ],
    folder: Annotated[Path, typer.Option(help="Look here, at any depth.")] = Path("runs"),
    kind: Annotated[
        str | None,
        typer.Option(help="Say notebook or training where both have the same name."),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Show scores whose names have this in them; * stands for anything. Repeat it.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw the scores: .png, .svg or .pdf."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
) -> None:
    """Show in what runs differ: their parameters, then their scores, a column for each run."""
    from lesionlab._files import replacing
    from lesionlab.chapters import runs

    with plain_errors():
        if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--plot {plot}: expected a name that ends in .png, .svg or .pdf")
        if plot is not None and plot.exists() and not force:
            raise ValueError(f"--plot {plot}: the file is there already; --force replaces it")
        chosen = runs.choose(runs.find(folder), names, kind=kind)
        whole = [run for run in chosen if run.state == "complete"]
        for run in chosen:
            if run not in whole:
                why = f", {run.why}" if run.why else ""
                typer.echo(f"{run.label} is left out: it is {run.state}{why}", err=True)
        if not whole:
            raise ValueError(f"none of the runs of {', '.join(names)} is complete")
        found = runs.scores(whole, score or ())
        typer.echo(_comparison(whole, found, most=None if score else MOST_SCORES))
        if found["fold_sd"].notna().any():
            typer.echo("In brackets: the interval over patients; then mean ± SD over the folds.")
        _footnote(whole)
        if plot is not None:
            with replacing(plot) as temporary:
                runs.plot(found).savefig(temporary, format=plot.suffix[1:])
            typer.echo(f"written to {plot}")


def _comparison(chosen: list[Run], found: pd.DataFrame, *, most: int | None) -> str:
    """Parameters and scores as text, a column per run, and mean ± SD where seeds allow it."""
    import pandas as pd

    from lesionlab.chapters import runs

    names = list(dict.fromkeys(found["score"]))
    columns = ["value", "low", "high", "fold_mean", "fold_sd"]
    texts = found.assign(text=[_score(*row) for row in found[columns].to_numpy()])
    wide = texts.pivot(index="score", columns="run", values="text").reindex(names[:most])
    order = runs.labels(chosen)
    rows = pd.concat([runs.differences(chosen), wide[order]])
    for group, own in runs.over_seeds(found).reset_index("group").groupby("group", sort=False):
        head = f"mean ± SD of {own['n'].max()} seeds"
        head += "" if found["group"].nunique() == 1 else f", {group}"
        said = own["mean"].map("{:.4g}".format) + " ± " + own["sd"].map("{:.2g}".format)
        rows[head] = said.reindex(rows.index)
    heads = {label: _marked(label, run) for label, run in zip(order, chosen, strict=True)}
    text = _text(rows.rename(columns=heads).rename_axis(None).reset_index(names=""))
    left = len(names[len(wide) :])
    return text + (f"\nand {left} more scores: choose some with --score PATTERN" if left else "")


def _score(value: float, low: float, high: float, fold_mean: float, fold_sd: float) -> str:
    if value != value:
        return "–"
    text = f"{value:.4g}" if low != low else f"{value:.3f} [{low:.3f}, {high:.3f}]"
    return text if fold_sd != fold_sd else f"{text} ({fold_mean:.3f} ± {fold_sd:.3f})"


def _marked(text: str | None, run: Run) -> str | None:
    return text if run.version in (None, __version__) else f"{text} *"


def _footnote(found: list[Run]) -> None:
    if any(_marked("", run) for run in found):
        typer.echo(f"* made by another version of lesionlab than this one, {__version__}")


def _text(table: pd.DataFrame) -> str:
    cells = table.astype(object).where(table.notna(), "–").astype(str)
    return aligned([list(cells.columns), *cells.to_numpy().tolist()])
