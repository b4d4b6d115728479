"""The commands `lesionlab train` and `lesionlab sweep`, which share most options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesionlab import _files, _names
from lesionlab.cli._errors import FAILED, estimate, plain_errors

if TYPE_CHECKING:
    from lesionlab.training.outcomes import Outcome

PaperArgument = Annotated[str, typer.Argument(help="A paper; a wrong name lists all.")]
DataOption = Annotated[str, typer.Option(help="The data set, not the paper's first one.")]
PresetOption = Annotated[str, typer.Option(help="How long, on how many: smoke, book, paper, ….")]
SplitOption = Annotated[str, typer.Option("--by", help="Make folds by patient or by nodule.")]
FoldsOption = Annotated[int | None, typer.Option(min=1, max=5, help="Train so many folds.")]
LesionsOption = Annotated[int | None, typer.Option(min=0, help="Draw so many; 0 takes all.")]
ErrorOption = Annotated[
    float | None, typer.Option(min=0, help="Leave out lesions whose HU may be further off.")
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Train for so many epochs.")]
PrecisionOption = Annotated[str, typer.Option(help="32-true, bf16-mixed, or auto: the quicker.")]


def train(
    paper: PaperArgument,
    variant: Annotated[str, typer.Option(help="Another model than the paper's own.")] = "",
    data: DataOption = "",
    preset: PresetOption = "book",
    folds: FoldsOption = None,
    by: SplitOption = "patient",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order, augmentation.")] = 0,
    lesions: LesionsOption = None,
    epochs: EpochsOption = None,
    hu_error: ErrorOption = None,
    device: Annotated[str, typer.Option(help="Train on auto, cpu, cuda or cuda:1.")] = "auto",
    precision: PrecisionOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Write here, not in runs/PAPER/NAME.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Copy the numbers to this folder.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Keep the first fold's model in this folder.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Train all folds anew.")] = False,
) -> None:
    """Train a paper's model, score it beside its baselines, and keep what came of it.

    A run that was stopped goes on where it was; folds that are done are not trained again. What is
    not said, such as folds, lesions and epochs, is as in the preset.
    """
    from lesionlab.training import studies

    with plain_errors():
        several = None if folds is None else tuple(range(folds))
        plan = studies.Plan(
            paper=paper, variant=variant, data=data, preset=preset, seed=seed, folds=several,
            n_lesions=lesions, epochs=epochs, hu_error=hu_error, by=by,  # type: ignore[arg-type]  # it checks
        )  # fmt: skip
        if keep is not None:
            _files.check_writable(keep)
        if weights is not None:
            from lesionlab import weights as kept

            kept.check(plan, weights)
        how: Any = {"device": device, "progress": sys.stderr.isatty()}
        how["precision"] = chosen_precision(precision, device)
        dataset = studies.load(plan, progress=how["progress"])
        outcome = studies.run(plan, dataset=dataset, folder=out, resume=not restart, **how)
        typer.echo(report(outcome))
        if keep is not None:
            typer.echo(f"kept in {studies.keep(plan, outcome, keep, dataset=dataset)}")
        if weights is not None:
            typer.echo(f"weights in {kept.keep(plan, outcome, weights, dataset=dataset)}")


def chosen_precision(precision: str, device: str) -> Any:
    """What a precision, of which one is `auto`, stands for on this machine."""
    from lesionlab.training import devices

    _names.known("precision", precision, ("auto", "32-true", "bf16-mixed"))
    devices.resolve(device)  # one that is not there is an error at once
    return devices.quickest(device) if precision == "auto" else precision


def report(outcome: Outcome) -> str:
    """The scores as text: a row per target and metric, a column per predictor."""
    scores = outcome.scores.dropna(subset="value")
    shown = scores[scores["metric"].isin(["mae", "auc", "accuracy", "macro_f1", "dice"])]
    texts = [estimate(*ends) for ends in shown[["value", "low", "high"]].to_numpy()]
    wide = shown.assign(text=texts).pivot_table(
        index=["target", "metric"], columns="predictor", values="text", aggfunc="first", sort=False
    )
    lesions = sum(fold["test"]["lesions"] for fold in outcome.folds)
    names = ", ".join(str(fold["fold"]) for fold in outcome.folds)
    seconds = sum(fold["seconds"] for fold in outcome.folds)
    return (
        f"{wide.fillna('').reset_index().to_string(index=False)}\n\n"
        f"{lesions:,} lesions predicted (fold {names}), {seconds:.0f} s of training on "
        f"{outcome.folds[0]['device']}\nwritten to {outcome.path}"
    )


def sweep(
    paper: PaperArgument,
    variant: Annotated[list[str] | None, typer.Option(help="Train this model, or all.")] = None,
    table: Annotated[str | None, typer.Option(help="Train the rows of this table.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="A seed, 0 if none.")] = None,
    folds: FoldsOption = None,
    data: DataOption = "",
    preset: PresetOption = "book",
    by: SplitOption = "patient",
    lesions: LesionsOption = None,
    epochs: EpochsOption = None,
    hu_error: ErrorOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Start so many processes here.")] = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://host:8786, instead.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; GPUs are shared out.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each worker.")] = None,
    precision: PrecisionOption = "32-true",
    out: Annotated[Path, typer.Option(help="Write to OUT/PAPER/NAME.")] = Path("runs"),
    keep: Annotated[Path | None, typer.Option(help="Copy the numbers to this folder.")] = None,
) -> None:
    """Train many models: variants × seeds × folds, on many workers, and put them in one table.

    Runs that are done are not trained again; the same command goes on where it was stopped.
    --variant and --seed may be repeated. The workers of a scheduler must see the folder OUT under
    the same path. Processes here share the cores, unless --threads says how many each takes.
    """
    from tqdm import tqdm

    from lesionlab.training import sweeps

    with plain_errors():
        if keep is not None:
            _files.check_writable(keep)
        names = variant or []
        plans = sweeps.grid(
            paper, variants="all" if "all" in names else names, table=table, seeds=seed or [0],
            folds=None if folds is None else range(folds), data=data, preset=preset,
            n_lesions=lesions, epochs=epochs, hu_error=hu_error, by=by,
        )  # fmt: skip
        found = sweeps.sweep(
            plans, out=out, workers=workers, scheduler=scheduler, device=device, threads=threads,
            precision=chosen_precision(precision, "cpu" if scheduler else device),
            progress=sys.stderr.isatty(),
            tell=lambda line: tqdm.write(line, file=sys.stderr),  # beside the bar, not through it
        )  # fmt: skip
        shown = found.table.drop(columns="paper")
        typer.echo(shown.to_string(index=False, float_format="{:.3f}".format, na_rep="–"))
        typer.echo(f"\nwritten to {found.path}")
        if keep is not None and not found.failures:
            typer.echo(f"kept in {sweeps.keep(found, keep)}")
    for name, error in found.failures.items():
        typer.echo(f"lesionlab: {name}: {error}", err=True)
    if found.failures:
        raise typer.Exit(FAILED)
