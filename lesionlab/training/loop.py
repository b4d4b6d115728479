"""The training loop: one for all five papers, on a CPU, a GPU, or several.

    fitted = fit(experiment, (samples, labels), validation=(others, theirs), recipe=recipe)

What is random in a step follows from the seed, the epoch and the step, and from nothing else: the
order of the lesions, the augmentation, and torch's global generator (dropout), which is seeded
before every step. So a run that is killed and goes on from a checkpoint takes the very steps that
it would have taken: on the CPU its weights are the same bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from lightning_fabric import Fabric
from tqdm import tqdm

from lesionlab.training import checkpoints
from lesionlab.training._run import Job, Run
from lesionlab.training.checkpoints import Progress, Tensors
from lesionlab.training.devices import (
    Precision,
    TrainingError,
    describe,
    launch,
    open_fabric,
    own_randomness,
)
from lesionlab.training.paper import Experiment
from lesionlab.training.parts import Part, check_part, checksum
from lesionlab.training.recipes import Recipe, stages_of

__all__ = ["Fitted", "TrainingError", "fit"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A trained model and how it came about.

    Attributes:
        state: Weights and buffers of the selected epoch, on the CPU, for `load_state_dict`.
        best_epoch: That epoch, from 1, in the last stage.
        best: Its metric; None where nothing was selected on.
        history: One row per epoch (the index, from 1): loss, loss_… for its parts, lr (at the start
            of the epoch), seconds, lesions_per_second (training alone), and the metric of the
            validation or test part where there is one; stage, where there are several.
        device: Where it was trained, in words.
    """

    state: Tensors
    best_epoch: int
    best: float | None
    history: pd.DataFrame
    device: str

    @property
    def seconds(self) -> float:
        """Training time, without the evaluation of the epochs."""
        return float(self.history["seconds"].sum())


def fit(
    experiment: Experiment,
    training: Part,
    *,
    recipe: Recipe | Sequence[Recipe],
    validation: Part | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    device: str = "auto",
    devices: int = 1,
    precision: Precision = "32-true",
    deterministic: bool = True,
    progress: bool = True,
    resume: bool = True,
    every_epochs: int = 1,
    every_steps: int | None = None,
) -> Fitted:
    """Train a model.

    Args:
        experiment: The model, its loss and its targets.
        training: Samples to learn from, normalised, with their labels. They are held in memory (on
            the GPU, if there), unless they are a `Stream`.
        recipe: How. Several are stages, one after the other: each begins with the weights that
            the one before it has selected.
        validation: Other lesions, whose metric selects the epoch. They are the test part,
            knowingly, where the recipe says `select_on="test"`.
        seed: Seed for weights, order, augmentation and dropout.
        folder: Where to keep checkpoints; nothing is written if None.
        device: `"auto"` (CUDA where there is one), `"cpu"`, `"cuda"` or `"cuda:1"`.
        devices: GPUs, or processes on the CPU, that share every batch (DDP). All of them draw and
            augment the whole batch and compute their part: the same steps as one alone, to
            rounding, unless the model has batch normalisation or dropout.
        precision: `"32-true"`, or `"bf16-mixed"`.
        deterministic: See `devices.own_randomness`; a GPU may be faster without.
        progress: Show a bar.
        resume: Go on from the checkpoint in `folder`; otherwise it is removed first.
        every_epochs: Epochs from one checkpoint to the next; the last one always has its own.
        every_steps: Checkpoint also within an epoch, after so many steps.

    Returns:
        The selected weights and the history. For a run that is finished: those it had.

    Raises:
        ValueError: An argument does not fit, or the data cannot be learned from.
        TrainingError: The loss, the metric or the weights became NaN or infinite.
        CheckpointError: The checkpoint is damaged, or of another run.
        OSError: A checkpoint cannot be written; the one before it is whole.
    """
    stages = stages_of(recipe)
    training, validation = _part(training), None if validation is None else _part(validation)
    for stage in stages:
        _check(experiment, training, validation, stage)
    for name, value in (("every_epochs", every_epochs), ("every_steps", every_steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value!r}: expected 1 or more")
    fabric = open_fabric(device, devices, precision)
    start: Tensors | None = None
    histories: dict[str, pd.DataFrame] = {}
    for number, stage in enumerate(stages, 1):
        place = None if folder is None else Path(folder)
        if place is not None and len(stages) > 1:
            place = place / f"stage-{number}"
        job = Job(
            experiment=experiment.stage(stage.stage),
            training=training,
            validation=validation,
            recipe=stage,
            seed=seed,
            folder=place,
            precision=precision,
            deterministic=deterministic,
            progress=progress,
            every_epochs=every_epochs,
            every_steps=every_steps,
            start=start,
        )
        if place is not None:
            job = dataclasses.replace(job, identity=_identity(job))
            if not resume:
                checkpoints.clear(place)
        reached, start = _in_one(fabric, job) if devices == 1 else _in_several(fabric, job)
        histories[stage.stage] = pd.DataFrame(reached.history).astype({"epoch": int})
    history = pd.concat(histories.values(), ignore_index=True).set_index("epoch")
    if len(stages) > 1:
        history["stage"] = [name for name, table in histories.items() for _ in range(len(table))]
    return Fitted(
        state=start or {},
        best_epoch=reached.best_epoch,
        best=reached.best,
        history=history,
        device=describe(fabric.device, devices),
    )


def _part(part: Part) -> Part:
    samples, labels = part
    return samples, labels.detach().float().cpu()


def _check(experiment: Experiment, training: Part, validation: Part | None, recipe: Recipe) -> None:
    check_part("training", training, experiment)
    if validation is not None:
        check_part("validation", validation, experiment)
        if both := sorted(set(training[0].lesion_ids) & set(validation[0].lesion_ids)):
            raise ValueError(f"validation: lesion {both[0]!r} is in the training part, too")
    elif recipe.needs_metric:
        raise ValueError(
            f"validation: the recipe (select_on={recipe.select_on!r}, {recipe.schedule.kind}) "
            "needs a metric after each epoch; give lesions to measure it on"
        )


def _identity(job: Job) -> dict[str, Any]:
    """What a run must agree with another in, to go on from its checkpoint."""
    experiment = job.experiment
    found = {
        "experiment": experiment.name,
        "variant": experiment.variant,
        "settings": experiment.settings(),
        "recipe": dataclasses.asdict(job.recipe),
        "seed": job.seed,
        "precision": job.precision,
        "data": checksum(part for part in (job.training, job.validation) if part is not None),
        "versions": checkpoints.versions(),
    }
    if job.start is not None:
        digest = hashlib.sha256()
        for name, tensor in sorted(job.start.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        found["start"] = digest.hexdigest()
    return found


def _in_one(fabric: Fabric, job: Job) -> tuple[Progress, Tensors]:
    fabric.launch()
    return _train(fabric, job)


def _in_several(fabric: Fabric, job: Job) -> tuple[Progress, Tensors]:
    """Train in processes of their own, which leave what came of it on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if job.folder is None else job.folder
        job = dataclasses.replace(job, folder=folder, identity=job.identity or _identity(job))
        launch(fabric, partial(_train_quietly, job=job))
        saved = checkpoints.load(folder, job.identity)
        if saved is None or not saved.progress.finished or saved.selected is None:
            raise TrainingError("the processes ended, and the run is not finished")
        return saved.progress, saved.selected


def _train_quietly(fabric: Fabric, job: Job) -> None:
    # weights returned from a process would fill its pipe while nobody reads
    _train(fabric, job)


def _train(fabric: Fabric, job: Job) -> tuple[Progress, Tensors]:
    """Train in this process, one of `fabric.world_size`."""
    recipe = job.recipe
    with own_randomness(fabric.device, deterministic=job.deterministic):
        run = Run(fabric, job)
        at = run.progress
        bar = tqdm(
            total=recipe.epochs * run.steps,
            initial=at.epoch * run.steps + at.step,
            unit="step",
            disable=not (job.progress and fabric.is_global_zero),
        )
        words = f"{recipe.stage} " if recipe.stage else ""
        with bar:
            while not at.finished:
                batches = run.batches()
                for batch in batches[at.step :]:
                    run.take_step(batch)
                    bar.set_description(f"{words}epoch {at.epoch + 1}/{recipe.epochs}", False)
                    bar.set_postfix_str(run.summary(), refresh=False)
                    bar.update()
                    every = job.every_steps
                    if every and at.step % every == 0 and at.step < len(batches):
                        run.save()
                run.end_epoch()
                if at.finished or at.epoch % job.every_epochs == 0:
                    run.save()
        return at, run.selected
