"""The command `lesionlab train`, and the options that `lesionlab sweep` shares with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lesionlab import _names
from lesionlab.cli._errors import plain_errors

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.training.outcomes import Outcome


PRECISIONS = ("auto", "32-true", "bf16-mixed")

PaperArgument = Annotated[
    str, typer.Argument(metavar="PAPER", help="The paper, such as fu2021; a wrong name lists all.")
]
DataOption = Annotated[
    str, typer.Option(help="The data set to train on.", show_default="the paper's first one")
]
PresetOption = Annotated[
    str, typer.Option(help="How long and on how many lesions: smoke, book, paper and others.")
]
SplitOption = Annotated[
    str, typer.Option("--by", help="Make the folds by patient, or by nodule as the papers did.")
]
FoldsOption = Annotated[
    int | None,
    typer.Option(min=1, max=5, help="Train for so many folds.", show_default="the preset's"),
]
LesionsOption = Annotated[
    int | None,
    typer.Option(
        "--lesions", min=0, help="Draw so many lesions; 0 takes all.", show_default="the preset's"
    ),
]
EpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Train for so many epochs.", show_default="the preset's")
]
PrecisionOption = Annotated[
    str,
    typer.Option(help="Compute in 32-true, bf16-mixed, or, with auto, in what is quicker here."),
]
DeviceOption = Annotated[str, typer.Option(help="Train on auto, cpu, cuda or cuda:1.")]


def train(
    paper: PaperArgument,
    variant: Annotated[
        str, typer.Option(help="Which of its models to train.", show_default="the paper's own")
    ] = "",
    data: DataOption = "",
    preset: PresetOption = "book",
    folds: FoldsOption = None,
    by: SplitOption = "patient",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed for weights, order of the lesions and augmentation.")
    ] = 0,
    lesions: LesionsOption = None,
    epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Share each batch among so many GPUs or CPU processes.")
    ] = 1,
    precision: PrecisionOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write here.", show_default="runs/PAPER/NAME"),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also keep the numbers there, without the weights."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Train folds anew that are done or begun.")
    ] = False,
) -> None:
    """Train a paper's model, score it beside its baselines, and keep what came of it.

    A run that was stopped goes on where it was; folds that are done are not trained again.
    """
    from lesionlab.training import studies

    with plain_errors():
        plan = studies.Plan(
            paper=paper,
            variant=variant,
            data=data,
            preset=preset,
            by=by,  # type: ignore[arg-type]  # it checks
            seed=seed,
            folds=None if folds is None else tuple(range(folds)),
            n_lesions=lesions,
            epochs=epochs,
        )
        precision_here = chosen_precision(precision, device)
        dataset = studies.load(plan, progress=sys.stderr.isatty())
        outcome = studies.run(
            plan,
            dataset=dataset,
            folder=out,
            device=device,
            devices=devices,
            precision=precision_here,
            progress=sys.stderr.isatty(),
            resume=not restart,
        )
        typer.echo(report(outcome))
        if plan.enriched:
            typer.echo(
                f"lesions of unusual ratings were drawn more often (preset {plan.preset}): compare "
                "errors with each other, not with those on the cohort"
            )
        if keep is not None:
            typer.echo(f"kept in {studies.keep(plan, outcome, keep, dataset=dataset)}")


def chosen_precision(precision: str, device: str) -> Literal["32-true", "bf16-mixed"]:
    """What a precision, of which one is `auto`, stands for on this machine.

    Raises:
        ValueError: There is no such precision, or no such device.
    """
    from lesionlab.training import studies

    _names.known("precision", precision, PRECISIONS)
    if precision == "auto":
        return studies.quickest(device)  # a device that is not there is an error at once
    return "bf16-mixed" if precision == "bf16-mixed" else "32-true"


def report(outcome: Outcome) -> str:
    """The scores as text: a row per target and metric, a column per predictor."""
    names = ", ".join(str(fold["fold"]) for fold in outcome.folds)
    lesions = sum(fold["test"]["lesions"] for fold in outcome.folds)
    seconds = sum(fold["seconds"] for fold in outcome.folds)
    return "\n".join(
        [
            _wide(outcome.scores),
            "",
            f"{lesions:,} lesions predicted (fold {names}), "
            f"{seconds:.0f} s of training on {outcome.folds[0]['device']}",
            f"written to {outcome.path}",
        ]
    )


def interval(value: float, low: float, high: float) -> str:
    """A score with its interval as text; nothing where there is none."""
    return "" if value != value else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _wide(scores: pd.DataFrame) -> str:
    shown = scores[scores["metric"].isin(["mae", "auc", "accuracy", "macro_f1", "dice"])]
    ends = zip(*(shown[name] for name in ("value", "low", "high")), strict=True)
    shown = shown.assign(text=[interval(*row) for row in ends])
    wide = shown.pivot_table(
        index=["target", "metric"], columns="predictor", values="text", aggfunc="first", sort=False
    )
    return wide.fillna("").reset_index().to_string(index=False)
