"""The command `lesionlab sweep`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionlab.cli import _train
from lesionlab.cli._errors import FAILED, plain_errors

if TYPE_CHECKING:
    from lesionlab.training.sweeps import Sweep


def sweep(
    paper: _train.PaperArgument,
    variant: Annotated[list[str] | None, typer.Option(help="Train this model, or all.")] = None,
    table: Annotated[str | None, typer.Option(help="Train the rows of this table.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="A seed, 0 if none.")] = None,
    folds: _train.FoldsOption = None,
    data: _train.DataOption = "",
    preset: _train.PresetOption = "book",
    by: _train.SplitOption = "patient",
    lesions: _train.LesionsOption = None,
    epochs: _train.EpochsOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Start so many processes here.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://host:8786, instead.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; GPUs are shared out.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each worker.")] = None,
    precision: _train.PrecisionOption = "32-true",
    out: Annotated[Path, typer.Option(help="Write to OUT/PAPER/NAME.")] = Path("runs"),
) -> None:
    """Train many models: variants × seeds × folds, on many workers, and put them in one table.

    Runs that are done are not trained again; the same command goes on where it was stopped.
    --variant and --seed may be repeated. The workers of a scheduler must see the folder OUT under
    the same path. Processes here share the cores, unless --threads says how many each takes.
    """
    from tqdm import tqdm

    from lesionlab.training import sweeps

    with plain_errors():
        names = variant or []
        plans = sweeps.grid(
            paper, variants="all" if "all" in names else names, table=table, seeds=seed or [0],
            folds=None if folds is None else range(folds), data=data, preset=preset,
            n_lesions=lesions, epochs=epochs, by=by,
        )  # fmt: skip
        found = sweeps.sweep(
            plans, out=out, workers=workers, scheduler=scheduler, device=device, threads=threads,
            precision=_train.chosen_precision(precision, "cpu" if scheduler else device),
            progress=sys.stderr.isatty(),
            tell=lambda line: tqdm.write(line, file=sys.stderr),  # beside the bar, not through it
        )  # fmt: skip
        typer.echo(report(found))
    for name, error in found.failures.items():
        typer.echo(f"lesionlab: {name}: {error}", err=True)
    if found.failures:
        raise typer.Exit(FAILED)


def report(found: Sweep) -> str:
    """A row per plan as text, and the spread over seeds where there are several."""
    table = found.table
    shown = table[["variant", "seed"]].assign(
        folds=[f"{done} of {of}" for done, of in zip(table["folds"], table["of"], strict=True)]
    )
    for metric in table["metric"].unique():
        ends = table[["value", "low", "high"]].where(table["metric"] == metric).to_numpy()
        shown[metric] = [_train.interval(*row) for row in ends]
    shown["seconds"] = ["" if s != s else f"{s:.0f}" for s in table["seconds"]]
    text = f"{shown.to_string(index=False)}\n\nwritten to {found.path}"
    seeds = found.over_seeds()
    if (seeds["n"] > 1).any():
        text = f"{text}\n\nover seeds\n{seeds.round(4).to_string()}"
    return text
