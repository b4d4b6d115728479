"""How a model is trained: the numbers that a paper's section on training prints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim import lr_scheduler

from lesionlab import _names
from lesionlab.training.targets import LOWER_IS_BETTER

Kind = Literal["constant", "step", "warm_restarts", "plateau"]
Optimizer = Literal["adam", "sgd"]
SelectOn = Literal["validation", "test", "last"]


@dataclass(frozen=True)
class Schedule:
    """How torch changes the learning rates over a run; `ValueError` if a number is out of range.

    Attributes:
        kind: `"constant"` (Fu 2021, 3.2). `"step"`: times `factor` after every `epochs` epochs
            (Lei 2020, 4.2, which prints "1/t, t = 10" every 30). `"warm_restarts"`: a cosine from
            1 to 0 over `epochs` epochs, then over `grow` times as many, and so on (SGDR, Loshchilov
            and Hutter 2017, eq. 5; Li 2021 prints neither length). `"plateau"`: times `factor`
            after `epochs` epochs without a better metric (Wang 2021, 3.2: 0.8 after 10).
        epochs, factor, grow: See `kind`.
    """

    kind: Kind = "constant"
    epochs: int = 10
    factor: float = 0.1
    grow: int = 1

    def __post_init__(self) -> None:
        _names.one_of("kind", self.kind, get_args(Kind))
        if self.epochs < 1 or self.grow < 1 or not 0 < self.factor < 1:
            raise ValueError(f"{self}: expected epochs and grow of 1 or more, factor in (0, 1)")


def make_scheduler(
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    past: Sequence[float | None] = (),
    *,
    lower: bool = True,
) -> Any:
    """Torch's scheduler, or None for constant rates, after so many epochs with these metrics.

    Its state follows from the epochs that are past, so it is not saved. `begin_step` goes before
    each step, `end_epoch` after each epoch.
    """
    scheduler: Any = None
    if schedule.kind == "step":
        scheduler = lr_scheduler.StepLR(optimizer, schedule.epochs, schedule.factor)
    elif schedule.kind == "warm_restarts":
        restarts = lr_scheduler.CosineAnnealingWarmRestarts
        scheduler = restarts(optimizer, schedule.epochs, schedule.grow)
    elif schedule.kind == "plateau":
        scheduler = lr_scheduler.ReduceLROnPlateau(
            optimizer,
            "min" if lower else "max",
            schedule.factor,
            schedule.epochs - 1,  # torch counts the epochs that it still accepts
            threshold=0,
            eps=0,
        )
    with warnings.catch_warnings():
        # the optimiser has made these steps, in the process that was stopped
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step", category=UserWarning)
        for metric in past:
            end_epoch(scheduler, metric)
    return scheduler


def begin_step(scheduler: Any, epochs: float) -> None:
    """Tell a scheduler how many epochs are past, such as 1.5; only a cosine moves within one."""
    if isinstance(scheduler, lr_scheduler.CosineAnnealingWarmRestarts):
        scheduler.step(epochs)


def end_epoch(scheduler: Any, metric: float | None) -> None:
    """Tell a scheduler that an epoch is past, and its metric; a cosine needs no telling."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(math.nan if metric is None else metric)
    elif isinstance(scheduler, lr_scheduler.StepLR):
        scheduler.step()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, or one stage of it; `ValueError` if a value is out of range.

    Attributes:
        epochs: At most so many times through the training part.
        batch_size: Lesions per step of the optimiser.
        lr: Learning rate.
        optimizer: `"adam"` or `"sgd"`.
        betas: Adam's two decay rates.
        momentum: SGD's momentum.
        weight_decay: Added to the gradient as `weight_decay * parameter` (L2), by both.
        lr_by_prefix: Own learning rates of parts of the model, by the beginning of their
            parameters' names: `{"backbone": 3e-5}`. The longest one counts.
        schedule: How the learning rates change as the run goes on.
        patience: Stop after so many epochs without a better metric; None never stops early.
        select_on: Whose metric chooses the epoch that is kept. `"validation"`: a part of the
            training data. `"test"`: the test part itself, as some papers did; its error is then
            too small. `"last"`: the last epoch is kept.
        select_by: `"loss"`, or a metric of `targets.measure`; the experiment's own if None.
        micro_batch: Lesions computed at once; the gradients of a batch are added up. All at once
            if None. It saves memory and changes nothing else, unless the model has batch
            normalisation, whose statistics are those of a micro-batch.
        frozen: Parts of the model that do not learn, by the beginning of their parameters' names.
            Their batch normalisation and dropout are off.
        stage: Which stage of the experiment this is (`Experiment.stage`), where there are several.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: Optimizer = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_by_prefix: Mapping[str, float] = field(default_factory=dict, hash=False)
    schedule: Schedule = Schedule()
    patience: int | None = None
    select_on: SelectOn = "validation"
    select_by: str | None = None
    micro_batch: int | None = None
    frozen: tuple[str, ...] = ()
    stage: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "micro_batch"):
            value = getattr(self, name)
            if value is not None:
                _names.whole(1, **{name: value})
        rates = {f"lr_by_prefix[{k!r}]": v for k, v in self.lr_by_prefix.items()}
        rates["lr"] = self.lr
        for name, value in rates.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r}: expected 0 or more")
        for name, value in [("momentum", self.momentum), *(("betas", b) for b in self.betas)]:
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected 0 or more, below 1")
        _names.one_of("optimizer", self.optimizer, get_args(Optimizer))
        _names.one_of("select_on", self.select_on, get_args(SelectOn))
        if self.select_by is not None:
            _names.one_of("select_by", self.select_by, LOWER_IS_BETTER)
        if self.patience is not None and self.select_on == "last":
            raise ValueError("patience: stopping early needs select_on='validation' or 'test'")

    def lasting(self, epochs: int) -> Recipe:
        """The same over more or fewer epochs; the rate changes at the same shares of the run."""
        schedule = self.schedule
        if schedule.kind != "constant":
            of_run = max(1, round(schedule.epochs * epochs / self.epochs))
            schedule = replace(schedule, epochs=of_run)
        return replace(self, epochs=epochs, schedule=schedule)

    @property
    def needs_metric(self) -> bool:
        """Whether the run cannot do without a metric after each epoch."""
        return self.select_on != "last" or self.schedule.kind == "plateau"

    @property
    def evaluation_batch(self) -> int:
        """Lesions at once where nothing is learned, and more than the paper's one are quicker."""
        return self.micro_batch or max(self.batch_size, 32)


def stages_of(recipe: Recipe | Sequence[Recipe]) -> tuple[Recipe, ...]:
    """One recipe, or one for each stage, as stages."""
    return (recipe,) if isinstance(recipe, Recipe) else tuple(recipe)


def validates(stages: Sequence[Recipe]) -> bool:
    """Whether some stage selects an epoch on validation lesions."""
    return any(stage.select_on == "validation" for stage in stages)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe; frozen parts of the model are marked as such.

    `ValueError` if a prefix of the recipe fits no parameter, or the model has none to train.
    """
    prefixes = sorted(recipe.lr_by_prefix, key=len, reverse=True)
    unused = {*prefixes, *recipe.frozen}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if frozen := _prefix(name, recipe.frozen):
            unused.discard(frozen)
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            prefix = _prefix(name, prefixes)
            unused.discard(prefix or "")
            rate = recipe.lr if prefix is None else recipe.lr_by_prefix[prefix]
            groups.setdefault(rate, []).append(parameter)
    if unused:
        parts = [name for name, _ in model.named_children()]
        raise ValueError(
            f"lr_by_prefix, frozen: no parameter under {sorted(unused)}; the model has {parts}"
        )
    if not groups:
        raise ValueError("model: expected parameters to train, found none")
    params: list[dict[str, Any]] = [  # torch's schedulers, but one, set the initial rate themselves
        {"params": some, "lr": rate, "initial_lr": rate} for rate, some in groups.items()
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(params, betas=recipe.betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(params, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def set_training(model: nn.Module, recipe: Recipe) -> None:
    """Put a model into training mode, but its frozen parts, which stay as in evaluation."""
    model.train()
    for prefix in recipe.frozen:
        model.get_submodule(prefix).eval()


def _prefix(name: str, prefixes: Sequence[str]) -> str | None:
    return next((p for p in prefixes if name == p or name.startswith(f"{p}.")), None)
