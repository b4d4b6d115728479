"""The command `lesionlab sweep`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionlab.cli._errors import FAILED, plain_errors
from lesionlab.cli._train import (
    DataOption,
    EpochsOption,
    FoldsOption,
    LesionsOption,
    PaperArgument,
    PrecisionOption,
    PresetOption,
    SplitOption,
    chosen_precision,
    interval,
)

if TYPE_CHECKING:
    from lesionlab.training.sweeps import Sweep


def sweep(
    paper: PaperArgument,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Train this model, or all; may be repeated.", show_default="the paper's own"
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Train the models in the rows of this table of the paper.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Seed for weights and order; may be repeated.", show_default="0"),
    ] = None,
    folds: FoldsOption = None,
    data: DataOption = "",
    preset: PresetOption = "book",
    by: SplitOption = "patient",
    lesions: LesionsOption = None,
    epochs: EpochsOption = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Start so many processes on this machine.")
    ] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Use the workers of a Dask scheduler, tcp://host:8786, instead; they must see "
            "FOLDER under the same path.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Train on auto, cpu or cuda; several GPUs are shared out.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="PyTorch threads per worker.", show_default="cores by workers"),
    ] = None,
    precision: PrecisionOption = "32-true",
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Write to FOLDER/PAPER/NAME for each model.")
    ] = Path("runs"),
) -> None:
    """Train many models: variants × seeds × folds, on many workers, and put them in one table.

    Runs that are done are not trained again; the same command goes on where it was stopped.
    """
    from tqdm import tqdm

    from lesionlab.training import sweeps

    with plain_errors():
        names = variant or []
        plans = sweeps.grid(
            paper,
            variants="all" if "all" in names else names,
            table=table,
            seeds=seed or [0],
            folds=None if folds is None else range(folds),
            data=data,
            preset=preset,
            by=by,
            n_lesions=lesions,
            epochs=epochs,
        )
        found = sweeps.sweep(
            plans,
            out=out,
            workers=workers,
            scheduler=scheduler,
            device=device,
            threads=threads,
            precision=chosen_precision(precision, "cpu" if scheduler else device),
            progress=sys.stderr.isatty(),
            # beside the bar, not through it
            tell=lambda line: tqdm.write(line, file=sys.stderr),
        )
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
        shown[metric] = [interval(*row) for row in ends]
    shown["seconds"] = ["" if s != s else f"{s:.0f}" for s in table["seconds"]]
    text = f"{shown.to_string(index=False)}\n\nwritten to {found.path}"
    seeds = found.over_seeds()
    if (seeds["n"] > 1).any():
        text = f"{text}\n\nover seeds\n{seeds.round(4).to_string()}"
    return text
