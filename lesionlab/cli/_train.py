"""The command `lesionlab train`, and the options that `lesionlab sweep` shares with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesionlab import _names
from lesionlab.cli._errors import plain_errors

if TYPE_CHECKING:
    from lesionlab.training.outcomes import Outcome

PaperArgument = Annotated[str, typer.Argument(help="A paper; a wrong name lists all.")]
DataOption = Annotated[str, typer.Option(help="The data set, not the paper's first one.")]
PresetOption = Annotated[str, typer.Option(help="How long, on how many: smoke, book, paper, ….")]
SplitOption = Annotated[str, typer.Option("--by", help="Make folds by patient or by nodule.")]
FoldsOption = Annotated[int | None, typer.Option(min=1, max=5, help="Train so many folds.")]
LesionsOption = Annotated[int | None, typer.Option(min=0, help="Draw so many; 0 takes all.")]
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
    device: Annotated[str, typer.Option(help="Train on auto, cpu, cuda or cuda:1.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Share a batch among so many GPUs.")] = 1,
    precision: PrecisionOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Write here, not in runs/PAPER/NAME.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Copy the numbers to this folder.")] = None,
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
            n_lesions=lesions, epochs=epochs, by=by,  # type: ignore[arg-type]  # it checks
        )  # fmt: skip
        how: Any = {"device": device, "devices": devices, "progress": sys.stderr.isatty()}
        how["precision"] = chosen_precision(precision, device)
        dataset = studies.load(plan, progress=how["progress"])
        outcome = studies.run(plan, dataset=dataset, folder=out, resume=not restart, **how)
        typer.echo(report(outcome))
        if plan.enriched:
            typer.echo(
                f"lesions of unusual ratings were drawn more often (preset {plan.preset}): compare "
                "errors with each other, not with those on the cohort"
            )
        if keep is not None:
            typer.echo(f"kept in {studies.keep(plan, outcome, keep, dataset=dataset)}")


def chosen_precision(precision: str, device: str) -> Any:
    """What a precision, of which one is `auto`, stands for on this machine."""
    from lesionlab.training import studies

    _names.known("precision", precision, ("auto", "32-true", "bf16-mixed"))
    # a device that is not there is an error at once
    return studies.quickest(device) if precision == "auto" else precision


def report(outcome: Outcome) -> str:
    """The scores as text: a row per target and metric, a column per predictor."""
    scores = outcome.scores
    shown = scores[scores["metric"].isin(["mae", "auc", "accuracy", "macro_f1", "dice"])]
    ends = shown[["value", "low", "high"]].itertuples(index=False)
    wide = shown.assign(text=[interval(*row) for row in ends]).pivot_table(
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


def interval(value: float, low: float, high: float) -> str:
    """A score with its interval as text; nothing where there is none."""
    return "" if value != value else f"{value:.3f} [{low:.3f}, {high:.3f}]"
