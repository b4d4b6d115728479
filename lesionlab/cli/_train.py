"""The command `lesionlab train`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lesionlab.cli._errors import plain_errors

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.training.outcomes import Outcome


class Paper(StrEnum):
    """As in `lesionlab.training.plans.PAPERS`, without importing it for the help."""

    fu2021 = "fu2021"
    lei2020 = "lei2020"


class Data(StrEnum):
    """As in `lesionlab.training.plans.DATA`."""

    phantom = "phantom"
    slices = "slices"
    dicom = "dicom"


class Split(StrEnum):
    """What the folds are by."""

    patient = "patient"
    nodule = "nodule"


class Precision(StrEnum):
    """Of the computation."""

    auto = "auto"
    full = "32-true"
    mixed = "bf16-mixed"


PaperArgument = Annotated[
    Paper, typer.Argument(metavar="PAPER", help="Whose model: fu2021 or lei2020.")
]
DataOption = Annotated[Data, typer.Option(help="Which crops to train on.")]
PresetOption = Annotated[
    str, typer.Option(help="How long and on how many lesions: smoke, book, paper and others.")
]
SplitOption = Annotated[Split, typer.Option("--by", help="Folds by patient, or as the papers did.")]
LesionsOption = Annotated[
    int | None, typer.Option("--lesions", min=0, help="How many; 0 for all. Default: the preset's.")
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Default: the preset's.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]


def train(
    paper: PaperArgument,
    variant: Annotated[
        str | None, typer.Option(help="Which of its models.", show_default="the paper's own")
    ] = None,
    data: DataOption = Data.phantom,
    preset: PresetOption = "book",
    folds: Annotated[
        int | None,
        typer.Option(min=1, max=5, help="How many of the five folds.", show_default="the preset's"),
    ] = None,
    by: SplitOption = Split.patient,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    lesions: LesionsOption = None,
    epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU.")] = 1,
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 if it is quicker here.")
    ] = Precision.auto,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to.", show_default="runs/PAPER/NAME"),
    ] = None,
    publish: Annotated[
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
    from lesionlab.training import publishing, studies

    with plain_errors():
        plan = studies.Plan(
            paper=paper.value,
            variant=variant,
            data=data.value,
            preset=preset,
            by=by.value,
            seed=seed,
            folds=None if folds is None else tuple(range(folds)),
            n_lesions=lesions,
            epochs=epochs,
        )
        precision_here = chosen_precision(precision, device)
        loaded = studies.load(plan, progress=sys.stderr.isatty())
        outcome = studies.run(
            plan,
            loaded=loaded,
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
        if publish is not None:
            typer.echo(f"kept in {publishing.publish(plan, outcome, publish, loaded=loaded)}")


def chosen_precision(precision: Precision, device: str) -> Literal["32-true", "bf16-mixed"]:
    """What `auto` stands for on this machine."""
    from lesionlab.training import studies

    quickest = studies.quickest(device)  # a device that is not there is an error at once
    if precision is Precision.auto:
        return quickest
    return "bf16-mixed" if precision is Precision.mixed else "32-true"


def report(outcome: Outcome) -> str:
    """The scores as text: a row per target and metric, a column per predictor."""
    names = [str(fold["fold"]) for fold in outcome.folds]
    lesions = sum(fold["test"]["lesions"] for fold in outcome.folds)
    seconds = sum(fold["seconds"] for fold in outcome.folds)
    data = outcome.folds[0]["device"]
    return "\n".join(
        [
            _wide(outcome.scores),
            "",
            f"{lesions:,} lesions predicted (fold {', '.join(names)} of 5), "
            f"{seconds:.0f} s of training on {data}",
            f"written to {outcome.path}",
        ]
    )


def _wide(scores: pd.DataFrame) -> str:
    shown = scores[scores["metric"].isin(["mae", "auc", "accuracy"])]
    ends = zip(*(shown[name] for name in ("value", "low", "high")), strict=True)
    shown = shown.assign(text=[f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in ends])
    wide = shown.pivot_table(
        index=["target", "metric"], columns="predictor", values="text", aggfunc="first", sort=False
    )
    return wide.fillna("").reset_index().to_string(index=False)
