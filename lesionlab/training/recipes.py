"""How a model is trained: the numbers that a paper's section on training prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from lesionlab.training.schedules import Constant, Plateau, Schedule, WarmRestarts

Optimizer = Literal["adam", "sgd"]
SelectOn = Literal["validation", "test", "last"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: At most so many times through the training part.
        batch_size: Lesions per step of the optimiser, over all devices together.
        lr: Learning rate.
        optimizer: `"adam"` or `"sgd"`.
        betas: Of Adam.
        momentum: Of SGD.
        weight_decay: Added to the gradient as `weight_decay * parameter` (L2), by both.
        lr_by_prefix: Own learning rates of parts of the model, by the beginning of their
            parameters' names: `{"backbone": 3e-5}`. The longest one counts.
        bias_factor: How many times as fast biases learn as the weights beside them; 1 in the
            papers. A network without normalisation whose biases begin at 0 answers a brighter image
            by more of the same until they have grown, some thousand steps at a usual rate.
        schedule: What the learning rates are multiplied with as the run goes on.
        patience: Stop after so many epochs without a better metric; None never stops early.
        select_on: Whose metric chooses the epoch that is kept. `"validation"`: a part of the
            training data. `"test"`: the test part itself, as some papers did; its error is then
            too small. `"last"`: none, the last epoch is kept.
        micro_batch: Lesions computed at once; the gradients of a batch are added up. All at once
            if None. It saves memory and changes nothing else, unless the model has batch
            normalisation, whose statistics are those of a micro-batch.

    Raises:
        ValueError: A number is out of range, or early stopping has no metric to go by.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: Optimizer = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_by_prefix: Mapping[str, float] = field(default_factory=dict, hash=False)
    bias_factor: float = 1.0
    schedule: Schedule = Constant()  # noqa: RUF009 - frozen
    patience: int | None = None
    select_on: SelectOn = "validation"
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "micro_batch"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
                raise ValueError(f"{name}={value!r}: expected a whole number, 1 or more")
        rates = {"lr": self.lr, **{f"lr_by_prefix[{k!r}]": v for k, v in self.lr_by_prefix.items()}}
        for name, value in rates.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a number above 0")
        if not 0 < self.bias_factor < math.inf:
            raise ValueError(f"bias_factor={self.bias_factor!r}: expected a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r}: expected 0 or more")
        for name, value in [("momentum", self.momentum), *(("betas", b) for b in self.betas)]:
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected 0 or more, below 1")
        for name, kind in (("optimizer", Optimizer), ("select_on", SelectOn)):
            if (value := getattr(self, name)) not in get_args(kind):
                expected = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{name}={value!r}: expected one of {expected}")
        if self.patience is not None and self.select_on == "last":
            raise ValueError("patience: stopping early needs select_on='validation' or 'test'")

    def lasting(self, epochs: int) -> Recipe:
        """The same over another number of epochs; a cosine over the whole run stays one."""
        schedule = self.schedule
        if isinstance(schedule, WarmRestarts) and schedule.first == self.epochs:
            schedule = replace(schedule, first=epochs)
        return replace(self, epochs=epochs, schedule=schedule)

    @property
    def needs_metric(self) -> bool:
        """Whether the run cannot do without a metric after each epoch."""
        return self.select_on != "last" or isinstance(self.schedule, Plateau)

    @property
    def evaluation_batch(self) -> int:
        """Lesions at once where nothing is learned, and more than the paper's one are quicker."""
        return self.micro_batch or max(self.batch_size, 32)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The model's parameters by learning rate, each group with `lr` and `initial_lr`.

    Raises:
        ValueError: A prefix of the recipe fits no parameter, or the model has none to train.
    """
    prefixes = sorted(recipe.lr_by_prefix, key=len, reverse=True)
    used: set[str] = set()
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            prefix = next((p for p in prefixes if name == p or name.startswith(f"{p}.")), None)
            rate = recipe.lr
            if prefix is not None:
                rate = recipe.lr_by_prefix[prefix]
                used.add(prefix)
            if name.rpartition(".")[2] == "bias":
                rate *= recipe.bias_factor
            groups.setdefault(rate, []).append(parameter)
    if unused := [prefix for prefix in prefixes if prefix not in used]:
        parts = [name for name, _ in model.named_children()]
        raise ValueError(f"lr_by_prefix: no parameter under {unused}; the model has {parts}")
    if not groups:
        raise ValueError("model: expected parameters to train, found none")
    return [{"params": some, "lr": rate, "initial_lr": rate} for rate, some in groups.items()]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over a model's parameters; errors as `parameter_groups`."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's learning rate to `scale` times its own."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * scale
