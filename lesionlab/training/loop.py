"""The training loop: one for all five papers, on a CPU or a GPU.

    fitted = fit(experiment, (samples, labels), validation=(others, theirs), recipe=recipe)

What is random in a step follows from the seed, the epoch and the step, and from nothing else: the
order of the lesions, the augmentation, and torch's global generator (dropout), which is seeded
before every step. A checkpoint is written after every epoch. So a run that is killed and goes on
takes the very steps that it would have taken: on the CPU its weights are the same bit for bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from lesionlab import _names
from lesionlab.crops.sampling import Samples
from lesionlab.training import checkpoints, devices, recipes
from lesionlab.training.checkpoints import CheckpointError, Tensors
from lesionlab.training.devices import Precision
from lesionlab.training.paper import Experiment, Part, Stream, checked, checksum
from lesionlab.training.recipes import Recipe
from lesionlab.training.targets import LOWER_IS_BETTER, columns

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingError(RuntimeError):
    """A run cannot go on; what it has saved so far is whole."""


@dataclass(frozen=True, eq=False)
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
    precision: Precision = "32-true",
    progress: bool = True,
    resume: bool = True,
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
        precision: `"32-true"`, or `"bf16-mixed"`.
        progress: Show a bar.
        resume: Go on from the checkpoint in `folder`; otherwise it is removed first.

    Raises:
        ValueError: An argument does not fit, or the data cannot be learned from.
        TrainingError: The loss, the metric or the weights became NaN or infinite.
        CheckpointError: The checkpoint is damaged, or of another run.
        OSError: A checkpoint cannot be written; the one before it is whole.
    """
    stages = recipes.stages_of(recipe)
    training = checked("training", training, experiment.targets)
    if validation is not None:
        validation = checked("validation", validation, experiment.targets)
        if both := sorted(set(training[0].lesion_ids) & set(validation[0].lesion_ids)):
            raise ValueError(f"validation: lesion {both[0]!r} is in the training part, too")
    elif lacking := [stage for stage in stages if stage.needs_metric]:
        raise ValueError(
            f"validation: the recipe (select_on={lacking[0].select_on!r}, "
            f"{lacking[0].schedule.kind}) needs a metric after each epoch; give lesions to "
            "measure it on"
        )
    fabric = devices.open_fabric(device, precision)
    given: Any = {"training": training, "validation": validation}
    common: Any = {"seed": seed, "fabric": fabric, "precision": precision}
    common |= {"progress": progress, "resume": resume}
    start: Tensors = {}
    tables = []
    for number, stage in enumerate(stages, 1):
        place = None if folder is None else Path(folder)
        if place is not None and len(stages) > 1:
            place = place / f"stage-{number}"
        own = experiment.stage(stage.stage)
        parts: Any = {name: _learned(experiment, own, part) for name, part in given.items()}
        own = own.balanced(parts["training"][1])
        run = _Run(experiment=own, recipe=stage, folder=place, start=start, **parts, **common)
        run.train()
        start = run.selected
        tables.append(pd.DataFrame(run.history).astype({"epoch": int}).assign(stage=stage.stage))
    history = pd.concat(tables, ignore_index=True).set_index("epoch")
    if len(stages) == 1:
        del history["stage"]
    where = devices.describe(fabric.device)
    return Fitted(start, run.best_epoch, run.best, history, where)


def _learned(experiment: Experiment, own: Experiment, part: Part | None) -> Part | None:
    """A part with the labels that a stage learns: those of its own targets."""
    if part is None:
        return None
    return part[0], part[1][:, [[*experiment.targets].index(target) for target in own.targets]]


@dataclass(kw_only=True, eq=False)
class _Run:
    """One stage of `fit`: what it was given, and how far it is."""

    experiment: Experiment
    recipe: Recipe
    training: Part
    validation: Part | None
    seed: int
    folder: Path | None
    precision: Precision
    progress: bool
    resume: bool
    start: Tensors
    fabric: Fabric
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    selected: Tensors = field(default_factory=dict)
    saved: dict[str, Tensors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metric = self.recipe.select_by or self.experiment.metric
        _names.one_of("metric", self.metric, LOWER_IS_BETTER)
        self.lower_is_better = LOWER_IS_BETTER[self.metric]
        part = "test" if self.recipe.select_on == "test" else "validation"
        self.column = f"{part}_{self.metric}"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none was better for long enough."""
        waited = len(self.history) - self.best_epoch
        stop = self.recipe.patience is not None and waited >= self.recipe.patience
        return stop or len(self.history) == self.recipe.epochs

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run must agree with another in, to go on from its checkpoint."""
        parts = [self.training] + [self.validation] * (self.validation is not None)
        found = identity_of(self.experiment, self.recipe, self.seed, self.precision, parts)
        if self.start:
            found["start"] = checkpoints.checksum("", self.start)
        return found

    def _load(self) -> None:
        """Go to where the checkpoint is, if there is one that counts."""
        if self.folder is None:
            return
        if not self.resume:
            checkpoints.clear(self.folder)
        elif (found := checkpoints.load(self.folder, self.identity)) is not None:
            state, self.saved = found
            self.history, self.best_epoch = state["history"], state["best_epoch"]
            self.best, self.selected = state["best"], self.saved.pop("selected", {})

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it; of a finished run the weights alone."""
        if self.folder is None:
            return
        groups = {"selected": self.selected}
        if not self.finished:
            groups["model"] = checkpoints.on_cpu(self.model.state_dict())
            for index, entries in self.optimizer.state_dict()["state"].items():
                some = {k: v for k, v in entries.items() if v is not None}
                groups[f"optimizer {index}"] = checkpoints.on_cpu(some)
        state = {"history": self.history, "best_epoch": self.best_epoch, "best": self.best}
        checkpoints.save(self.folder, {"identity": self.identity, **state}, groups)

    def train(self) -> None:
        """Train to the end, from the checkpoint on if there is one."""
        self._load()
        if self.finished:
            return
        with devices.own_randomness(self.fabric.device):
            self._set_up()
            steps = len(self._batches())
            bar = tqdm(
                total=self.recipe.epochs * steps,
                initial=len(self.history) * steps,
                unit="step",
                disable=not self.progress,
            )
            with bar:
                while not self.finished:
                    self._train_epoch(bar)
                    self.save()

    def _set_up(self) -> None:
        device = self.fabric.device
        seed_globally(device, self.seed, "model")
        self.model = self.experiment.model(derive(self.seed, "model"))
        if self.start:  # parts that the stage before had not are new
            self.model.load_state_dict(self.model.state_dict() | self.start)
        self.model.to(device)
        self.optimizer = recipes.make_optimizer(self.model, self.recipe)
        self._restore()
        past = [row.get(self.column) for row in self.history]
        self.scheduler = recipes.make_scheduler(
            self.recipe.schedule, self.optimizer, past, lower=self.lower_is_better
        )
        samples, labels = self.training
        self.samples, self.labels = samples.to(device), labels.to(device)
        if self.validation is not None:  # its labels are only compared with, on the CPU
            self.validation = (self.validation[0].to(device), self.validation[1])

    def _restore(self) -> None:
        """Load weights and the optimiser's state from the checkpoint that was read."""
        saved, self.saved = self.saved, {}
        if (model := saved.pop("model", None)) is None:
            return
        state = {int(name.removeprefix("optimizer ")): some for name, some in saved.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        try:
            self.model.load_state_dict(model)
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        except (RuntimeError, ValueError) as error:
            message = f"the checkpoint in {self.folder} does not fit the model: {error}"
            raise CheckpointError(message) from error

    def _batches(self) -> tuple[torch.Tensor, ...]:
        """The lesions of the epoch in hand, by step."""
        drawn = generator(self.seed, "order", len(self.history))
        return torch.split(self.experiment.order(self.training[1], drawn), self.recipe.batch_size)

    def _train_epoch(self, bar: Any) -> None:
        """Train an epoch, add a row to the history, and select."""
        epoch, start = len(self.history), time.perf_counter()
        words = f"{self.recipe.stage} " if self.recipe.stage else ""
        bar.set_description(f"{words}epoch {epoch + 1}/{self.recipe.epochs}", False)
        batches, n, sums = self._batches(), 0, dict[str, float]()
        for step, lesions in enumerate(batches):
            recipes.begin_step(self.scheduler, epoch + step / len(batches))
            if step == 0:
                first = self.optimizer.param_groups[0]  # a part may have a rate of its own
                lr = self.recipe.lr * first["lr"] / first["initial_lr"]
            for name, value in self._train_step(step, lesions).items():
                sums[name] = sums.get(name, 0.0) + value * len(lesions)
            n += len(lesions)
            shown = {"loss": sums["loss"] / n}
            if self.history and self.column in self.history[-1]:
                shown[self.column] = self.history[-1][self.column]
            bar.set_postfix(shown, refresh=False)
            bar.update()
        seconds = time.perf_counter() - start
        for name, values in self.model.state_dict().items():
            if not bool(values.isfinite().all()):
                raise TrainingError(f"{name} of the model is not finite {self._at(len(batches))}")
        row = {"epoch": epoch + 1.0, **{name: value / n for name, value in sums.items()}}
        row |= {"lr": lr, "seconds": seconds, "lesions_per_second": n / seconds}
        metric = None
        if self.validation is not None:
            metric = row[self.column] = self._measure(self.validation, len(batches))
        self.history.append(row)
        recipes.end_epoch(self.scheduler, metric)
        if self.recipe.select_on == "last" or metric is None:
            better = epoch + 1 == self.recipe.epochs
        else:
            sign = 1 if self.lower_is_better else -1
            better = self.best is None or sign * metric < sign * self.best
        if better:
            self.best_epoch, self.best = epoch + 1, metric
            self.selected = checkpoints.on_cpu(self.model.state_dict())

    def _train_step(self, step: int, lesions: torch.Tensor) -> dict[str, float]:
        """One step of the optimiser on some lesions, by position; gives the loss and its parts."""
        epoch, job = len(self.history), self.experiment
        # with the 0, dropout draws what it drew for the results that are kept
        seed_globally(self.fabric.device, self.seed, "dropout", epoch, step, 0)
        drawn = generator(self.seed, "augment", epoch, step)
        batch = job.augment(self.samples.select(lesions), drawn)
        labels = self.labels[lesions.to(self.labels.device)]
        recipes.set_training(self.model, self.recipe)
        self.optimizer.zero_grad()
        size, sums = self.recipe.micro_batch or len(labels), dict[str, torch.Tensor]()
        for chunk, truth in zip(batch.split(size), torch.split(labels, size), strict=True):
            share = len(truth) / len(labels)
            with self.fabric.autocast():
                total, parts = job.loss(job.forward(self.model, chunk), truth)
            self.fabric.backward(total.float() * share)
            computed = {"loss": total, **{f"loss_{name}": part for name, part in parts.items()}}
            for name, part in computed.items():
                sums[name] = sums.get(name, 0.0) + share * part.detach().double()
        values = torch.stack([*sums.values()]).tolist()
        losses = dict(zip(sums, values, strict=True))
        for name, value in losses.items():
            if not math.isfinite(value):
                raise TrainingError(f"{name} is {value} {self._at(step + 1)}")
        self.optimizer.step()
        return losses

    def _measure(self, validation: Part, steps: int) -> float:
        """The metric of the validation part."""
        samples, labels = validation
        predictions, value = in_batches(
            self.experiment,
            self.model,
            samples,
            self.recipe.evaluation_batch,
            self.precision,
            labels if self.metric == "loss" else None,
        )
        if self.metric != "loss":
            value = self.experiment.measure(self.metric, predictions, labels)
        if not math.isfinite(value):
            raise TrainingError(f"{self.column} is {value} {self._at(steps)}")
        return value

    def _at(self, step: int) -> str:
        kept = "" if self.folder is None else f"; what was saved before is kept in {self.folder}"
        return f"at epoch {len(self.history) + 1}, step {step}{kept}"


def identity_of(
    experiment: Experiment, recipe: Any, seed: int, precision: Precision, parts: Iterable[Any]
) -> dict[str, Any]:
    """What two runs must agree in to be the same: recipe, settings, data, and versions."""
    return {
        "experiment": experiment.name,
        "variant": experiment.variant,
        "settings": experiment.settings(),
        "recipe": recipe,
        "seed": seed,
        "precision": precision,
        "data": checksum(parts),
        "versions": checkpoints.versions(),
    }


# --- predictions --------------------------------------------------------------------------------


def predict(
    experiment: Experiment,
    weights: Mapping[str, torch.Tensor],
    samples: Samples | Stream,
    *,
    batch_size: int = 32,
    device: str = "auto",
    precision: Precision = "32-true",
) -> torch.Tensor:
    """What a model predicts: (lesion, column) float32 on the CPU, columns as `targets.columns`.

    The weights are `Fitted.state` or what `checkpoints.load_weights` gives, and the samples are
    normalised as those of the training were. `batch_size` lesions are computed at once.
    """
    if not samples.lesion_ids:
        raise ValueError("samples: expected at least one lesion, got none")
    place = devices.resolve(device)
    model = trained_model(experiment, weights).to(place)
    return in_batches(experiment, model, samples.to(place), batch_size, precision)[0]


def trained_model(experiment: Experiment, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """An experiment's model with these weights, in evaluation mode, on the CPU."""
    # any seed will do, the weights are replaced; the caller's random state stays as it was
    with torch.random.fork_rng(devices=[]):
        model = experiment.model(0)
    model.load_state_dict(dict(weights))
    return model.eval()


def in_batches(
    experiment: Experiment,
    model: nn.Module,
    samples: Samples | Stream,
    batch_size: int,
    precision: Precision,
    labels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, float]:
    """Predictions of a model that is where the samples are, and the mean loss with labels."""
    model.eval()
    parts, total = [], 0.0
    device = next(model.parameters()).device
    with torch.no_grad(), devices.autocast(device, precision):
        for number, batch in enumerate(samples.split(batch_size)):
            outputs = experiment.forward(model, batch)
            parts.append(experiment.predict(outputs).float().cpu())
            if labels is not None:
                low = number * batch_size
                truth = labels[low : low + batch_size].to(device)
                total += float(experiment.loss(outputs, truth)[0]) * len(truth)
    predictions = torch.cat(parts)
    expected = (len(samples.lesion_ids), len(columns(experiment.targets)))
    if predictions.shape != expected:
        raise ValueError(
            f"predict of {experiment.name} gave shape {tuple(predictions.shape)}, expected "
            f"{expected}: lesions, {', '.join(columns(experiment.targets))}"
        )
    return predictions, total / len(predictions)


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
