"""One run of the training loop in one process: its model, its optimiser, and how far it is."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import nn

from lesionlab.crops.sampling import Samples
from lesionlab.training import checkpoints
from lesionlab.training.checkpoints import CheckpointError, Progress, Tensors
from lesionlab.training.devices import Call, Precision, TrainingError
from lesionlab.training.paper import Experiment
from lesionlab.training.parts import Part
from lesionlab.training.prediction import in_batches
from lesionlab.training.recipes import Recipe, make_optimizer, set_training
from lesionlab.training.targets import LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """The checked arguments of `fit`, for one stage."""

    experiment: Experiment
    training: Part
    validation: Part | None
    recipe: Recipe
    seed: int
    folder: Path | None
    precision: Precision
    deterministic: bool
    progress: bool
    every_epochs: int
    every_steps: int | None
    start: Tensors | None
    identity: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """A run in one process, made anew or from its checkpoint.

    Attributes:
        progress: How far it is.
        selected: Weights of the epoch kept so far, on the CPU.
        steps: Steps in the first epoch.
    """

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self.fabric, self.job = fabric, job
        seed_globally(fabric.device, job.seed, "model")
        self.model = job.experiment.model(derive(job.seed, "model"))
        if job.start is not None:
            self.model.load_state_dict(job.start)
        optimizer = make_optimizer(self.model, job.recipe)
        # in place: self.model and optimizer are those inside, now on the device
        self.module, self.optimizer = fabric.setup(Call(self.model), optimizer)
        self.metric = job.recipe.select_by or job.experiment.metric
        self.lower = LOWER_IS_BETTER[self.metric]
        part = "test" if job.recipe.select_on == "test" else "validation"
        self.column = f"{part}_{self.metric}"
        self.progress, self.selected = self._restore(optimizer)
        past = [row.get(self.column, 0.0) for row in self.progress.history]
        self.rates = job.recipe.schedule.start(optimizer, past, lower_is_better=self.lower)
        samples, labels = job.training
        self.samples, self.labels = samples.to(fabric.device), labels.to(fabric.device)
        self.validation = job.validation
        if self.validation is not None:  # its labels are only compared with, on the CPU
            self.validation = (self.validation[0].to(fabric.device), self.validation[1])
        self.steps = len(self.batches())

    def _restore(self, optimizer: torch.optim.Optimizer) -> tuple[Progress, Tensors]:
        folder = self.job.folder
        saved = None if folder is None else checkpoints.load(folder, self.job.identity)
        if saved is None:
            return Progress(), {}
        if not saved.progress.finished:
            groups = optimizer.state_dict()["param_groups"]
            try:
                self.model.load_state_dict(saved.model)
                optimizer.load_state_dict({"state": saved.optimizer, "param_groups": groups})
            except (RuntimeError, ValueError) as error:
                message = f"the checkpoint in {folder} does not fit the model: {error}"
                raise CheckpointError(message) from error
        return saved.progress, saved.selected or {}

    def batches(self) -> tuple[torch.Tensor, ...]:
        """The lesions of the epoch in hand, by step."""
        drawn = generator(self.job.seed, "order", self.progress.epoch)
        order = self.job.experiment.order(self.job.training[1], drawn)
        return torch.split(order, self.job.recipe.batch_size)

    def take_step(self, lesions: torch.Tensor) -> None:
        """One step of the optimiser on some lesions, by their positions.

        Raises:
            TrainingError: The loss is NaN or infinite; the weights are those before the step.
        """
        start = time.perf_counter()
        job, at, world = self.job, self.progress, self.fabric.world_size
        self.rates.at(at.epoch + at.step / self.steps)
        if at.step == 0:
            first = self.optimizer.param_groups[0]  # a part may have a rate of its own
            at.lr = job.recipe.lr * first["lr"] / first.get("initial_lr", first["lr"])
        drawn = generator(job.seed, "augment", at.epoch, at.step)
        rank, device = self.fabric.global_rank, self.fabric.device
        seed_globally(device, job.seed, "dropout", at.epoch, at.step, rank)
        batch = job.experiment.augment(self.samples.select(lesions), drawn)
        labels = self.labels[lesions.to(self.labels.device)]
        # a process without a lesion of its own computes one that does not count
        mine = torch.arange(rank, len(lesions), world)
        weight = 1.0 if len(mine) else 0.0
        if world > 1:
            mine = mine if len(mine) else torch.zeros(1, dtype=torch.int64)
            batch, labels = batch.select(mine), labels[mine.to(labels.device)]
        set_training(self.model, job.recipe)
        self.optimizer.zero_grad()
        names, sums = self._backward(batch, labels, weight / len(lesions))
        values = self._total(sums).tolist()
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise TrainingError(f"{name} is {value} {self._at(at.step + 1)}")
        self.optimizer.step()
        for name, value in zip(names, values, strict=True):
            at.sums[name] = at.sums.get(name, 0.0) + value * len(lesions)
        at.step, at.lesions = at.step + 1, at.lesions + len(lesions)
        at.seconds += time.perf_counter() - start

    def _backward(
        self, batch: Samples, labels: torch.Tensor, weight: float
    ) -> tuple[list[str], torch.Tensor]:
        """Gradients of a batch, by micro-batches; each lesion counts `weight`.

        Returns:
            The names of the loss and its parts, and their sums so weighted, float64.
        """
        world, size = self.fabric.world_size, self.job.recipe.micro_batch or len(labels)
        chunks, names, sums = batch.split(size), ["loss"], torch.zeros(())
        for i, (chunk, truth) in enumerate(zip(chunks, torch.split(labels, size), strict=True)):
            share = weight * len(truth)
            # DDP adds up over the processes once, and takes the mean, where a sum is wanted
            early = world > 1 and i < len(chunks) - 1
            with self.fabric.no_backward_sync(self.module, enabled=early):
                function = partial(_objective, self.job.experiment, chunk, truth)
                total, parts = self.module(function)
                self.fabric.backward(total * (share * world))
            names = ["loss", *(f"loss_{name}" for name in parts)]
            values = torch.stack([value.detach().double() for value in (total, *parts.values())])
            sums = sums.to(values) + share * values
        return names, sums

    def end_epoch(self) -> None:
        """Measure the validation part, add a row to the history, and select.

        Raises:
            TrainingError: The weights or the metric are NaN or infinite.
        """
        at, recipe = self.progress, self.job.recipe
        self._check_weights()
        row = {"epoch": at.epoch + 1.0}
        row |= {name: value / at.lesions for name, value in at.sums.items()}
        row |= {"lr": at.lr, "seconds": at.seconds, "lesions_per_second": at.lesions / at.seconds}
        metric = None
        if self.validation is not None:
            metric = row[self.column] = self._measure(self.validation)
        at.history.append(row)
        at.epoch, at.step, at.sums, at.lesions, at.seconds = at.epoch + 1, 0, {}, 0, 0.0
        self.rates.end_epoch(metric)
        if recipe.select_on == "last" or metric is None:
            better = at.epoch == recipe.epochs
        else:
            sign = 1 if self.lower else -1
            better = at.best is None or sign * metric < sign * at.best
        if better:
            at.best_epoch, at.best = at.epoch, metric
            self.selected = checkpoints.on_cpu(self.model.state_dict())
        waited = at.epoch - at.best_epoch
        stop = recipe.patience is not None and waited >= recipe.patience
        at.finished = stop or at.epoch == recipe.epochs

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it.

        Raises:
            TrainingError: The weights are not finite; the checkpoint before stays.
            OSError: It cannot be written; the checkpoint before stays.
        """
        if self.job.folder is None or not self.fabric.is_global_zero:
            return
        if self.progress.step:  # at the end of an epoch they have been checked
            self._check_weights()
        checkpoints.save(
            self.job.folder,
            self.job.identity,
            self.progress,
            selected=self.selected or None,
            model=checkpoints.on_cpu(self.model.state_dict()),
            optimizer=self.optimizer.state_dict()["state"],
        )

    def summary(self) -> str:
        """Loss of the epoch so far and the last metric, for a progress bar."""
        at = self.progress
        words = [f"loss={at.sums['loss'] / at.lesions:.4f}"] if at.lesions else []
        if at.history and self.column in at.history[-1]:
            words.append(f"{self.column}={at.history[-1][self.column]:.4f}")
        return ", ".join(words)

    def _at(self, step: int) -> str:
        folder = self.job.folder
        kept = "" if folder is None else f"; what was saved before is kept in {folder}"
        return f"at epoch {self.progress.epoch + 1}, step {step}{kept}"

    def _measure(self, validation: Part) -> float:
        """The metric of the validation part, by the first process for all."""
        job, value = self.job, 0.0
        if self.fabric.is_global_zero:
            (samples, labels), size = validation, job.recipe.evaluation_batch
            wanted = labels if self.metric == "loss" else None
            predictions, value = in_batches(
                job.experiment, self.model, samples, size, job.precision, wanted
            )
            if self.metric != "loss":
                value = job.experiment.measure(self.metric, predictions, labels)
        value = self._total(torch.tensor(value, device=self.fabric.device).double()).item()
        if not math.isfinite(value):
            raise TrainingError(f"{self.column} is {value} {self._at(self.steps)}")
        return value

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in each of them."""
        return cast(torch.Tensor, self.fabric.all_reduce(values, reduce_op="sum"))

    def _check_weights(self) -> None:
        for name, values in self.model.state_dict().items():
            if not bool(values.isfinite().all()):
                raise TrainingError(
                    f"{name} of the model is not finite {self._at(self.progress.step)}"
                )


def _objective(
    experiment: Experiment, samples: Samples, labels: torch.Tensor, model: nn.Module
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return experiment.loss(experiment.forward(model, samples), labels)


# --- seeds that follow from what they are for, so that no random state has to be carried along --


def derive(*purpose: int | str) -> int:
    """A seed from 0 to 2^63 - 1 for a purpose, the same on every machine.

    Seeds of neighbouring steps are unrelated, which `seed + step` would not give: runs of
    neighbouring seeds would share most of their draws.

    >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
    True
    """
    text = "/".join(map(str, purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1


def generator(*purpose: int | str) -> torch.Generator:
    """A generator on the CPU with the seed of a purpose."""
    return torch.Generator().manual_seed(derive(*purpose))


def seed_globally(device: torch.device, *purpose: int | str) -> None:
    """Seed torch's global generators of the CPU and of one device.

    `torch.manual_seed` seeds all devices, and takes a millisecond where there are none: a whole
    step of a small model.
    """
    seed = derive(*purpose)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
