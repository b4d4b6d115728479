"""What a paper's file offers the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from lesionlab.crops.sampling import Samples

Task = Literal["regression", "classification"]


class Experiment(ABC):
    """A model with its loss and what is measured of it, for one variant of one paper.

    Make a subclass a frozen dataclass if it has settings (the weight of a loss): its fields are
    written into checkpoints and results. What is the same for all variants stays without a type::

        @dataclass(frozen=True)
        class Fu2021(Experiment):
            variant: str = "full"
            auxiliary: float = 0.1
            name = "fu2021"
            tasks = TASKS  # {"subtlety": "regression", ...}

    Trained in several processes it has to pickle, as everything does that is defined in a module.

    Attributes:
        name: The paper's, as its module: `"fu2021"`.
        variant: Which of the paper's models.
        tasks: The targets in the order of their columns. `"regression"`: a rating, predicted in
            rating steps. `"classification"`: 0 or 1, predicted as the probability of 1.
        metric_name: Of `metric`, in `snake_case`.
        lower_is_better: Whether a lower `metric` is better.
        stacked: Whether a sample is a stack of slices, in their order.
    """

    name: str
    variant: str
    tasks: Mapping[str, Task]
    metric_name: str = "mae"
    lower_is_better: bool = True
    stacked: bool = True

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A new model; torch's global generator has been seeded with `seed` just before."""

    @abstractmethod
    def loss(
        self, outputs: Any, targets: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss and its parts, each a scalar and a *mean over the lesions* of the batch.

        A mean of that kind is what makes a batch in several parts (micro-batches, several GPUs)
        the same as the whole. A loss over pairs of lesions is one of each part alone.

        Args:
            outputs: Of `forward`, for some lesions.
            targets: (lesion, target), theirs, as they were given to `fit`.
        """

    @abstractmethod
    def predict(self, outputs: Any) -> torch.Tensor:
        """(lesion, target) predictions in the units of the targets."""

    @abstractmethod
    def metric(self, predictions: torch.Tensor, targets: torch.Tensor) -> float:
        """One number for (lesion, target) predictions, to choose an epoch by."""

    def inputs(self, samples: Samples) -> tuple[Any, ...]:
        """What the model is given of a batch, images first; packed ones want `nodule`, too."""
        return (samples.images,)

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        """Feed a batch to the model.

        What the loss needs of the batch (masks that were flipped with it) goes into the outputs.
        """
        return model(*self.inputs(samples))

    def maps(self) -> Mapping[str, tuple[str, bool]]:
        """Maps of where the model looks: name to the method of `attention`, and whether exact."""
        return {"Grad-CAM": ("grad-cam", False)}

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """A batch of the training part with random changes, drawn from `generator` alone."""
        return samples

    def order(self, targets: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The lesions of an epoch, int64: all in random order, or a balanced draw."""
        return torch.randperm(len(targets), generator=generator)

    def normalisation(self, training: Samples) -> Callable[[Samples], Samples]:
        """What to do to all samples before training, measured on the training part alone."""
        return _unchanged

    def settings(self) -> dict[str, Any]:
        """What else tells this experiment from others: the fields, if it is a dataclass."""
        return {name: getattr(self, name) for name in getattr(self, "__dataclass_fields__", {})}


def _unchanged(samples: Samples) -> Samples:
    return samples
