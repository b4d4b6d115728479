"""What a paper offers the training loop: its data, its models, and how they are trained."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from lesionlab.crops.sampling import Samples
from lesionlab.training.recipes import Recipe
from lesionlab.training.targets import Target, Targets, labelled, measure

if TYPE_CHECKING:
    from lesionlab.cohorts import Cohort
    from lesionlab.crops import Crop
    from lesionlab.crops.datasets import Basis


@dataclass(frozen=True)
class Stream:
    """Lesions whose samples are prepared batch by batch, in place of `Samples`; nothing is kept.

    Liu 2020 has 9,520 slices of 256². For checkpoints, `key` says what decides over the samples:
    the store's checksum and the preparation.
    """

    lesion_ids: tuple[str, ...]
    prepare: Callable[[Sequence[str]], Samples]
    key: str
    device: torch.device | str = "cpu"

    def select(self, lesions: Sequence[int] | torch.Tensor) -> Samples:
        """The samples of some lesions, by position, in the order asked for."""
        positions = torch.as_tensor(lesions, dtype=torch.int64).tolist()
        return self.prepare([self.lesion_ids[i] for i in positions]).to(self.device)

    def split(self, size: int) -> Iterator[Samples]:
        """Batches of `size` lesions, in order; the last one may be smaller."""
        for low in range(0, len(self.lesion_ids), size):
            yield self.select(range(low, min(low + size, len(self.lesion_ids))))

    def to(self, device: torch.device | str) -> Stream:
        """The same lesions, with their batches on another device."""
        return replace(self, device=device)

    def report(self) -> dict[str, Any]:
        """How many lesions there are; nothing is known of samples that are not prepared yet."""
        return {"lesions": len(self.lesion_ids)}


Part = tuple[Samples | Stream, torch.Tensor]
"""Some lesions' samples with their labels, (lesion, target)."""


def checked(name: str, part: Part, targets: Targets) -> Part:
    """Refuse lesions, by the name of their part, that nothing can be learned from.

    Gives the part with its labels in single precision on the CPU.
    """
    samples, labels = part[0], part[1].detach().float().cpu()
    n, names = len(samples.lesion_ids), [target.name for target in targets]
    if not n:
        raise ValueError(f"{name}: expected at least one lesion, got none")
    if isinstance(samples, Samples):
        if not bool((samples.lengths > 0).all()):
            worst = samples.lesion_ids[int(samples.lengths.argmin())]
            raise ValueError(f"{name}: lesion {worst!r} has no slice")
        if not bool((finite := samples.images.isfinite()).all()):
            row = int((~finite.flatten(1).all(dim=1)).nonzero()[0, 0])
            lesion = samples.lesion_ids[int(samples.nodule[row])]
            raise ValueError(f"{name}: images of lesion {lesion!r} have values that are not finite")
    if labels.shape != (n, len(names)):
        raise ValueError(
            f"{name}: labels of shape {tuple(labels.shape)}, expected ({n}, {len(names)}), "
            f"a row for each lesion and a column for each of {names}"
        )
    if bool(labels.isinf().any()):
        row, column = labels.isinf().nonzero()[0].tolist()
        raise ValueError(f"{name}: {names[column]} of lesion {samples.lesion_ids[row]!r} is inf")
    if not bool((some := labelled(targets, labels)).all()):
        row = int((~some).nonzero()[0, 0])
        raise ValueError(f"{name}: lesion {samples.lesion_ids[row]!r} has no label at all")
    return samples, labels


def checksum(parts: Iterable[Part]) -> str:
    """SHA-256 of the lesions, samples and labels, and of their order."""
    digest = hashlib.sha256()
    for samples, labels in parts:
        digest.update("\n".join(samples.lesion_ids).encode())
        tensors = [labels]
        if isinstance(samples, Stream):
            digest.update(samples.key.encode())
        else:
            found = (samples.nodule, samples.images, samples.masks)
            tensors = [*(values for values in found if values is not None), labels]
        for values in tensors:
            digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Live:
    """A model in two parts that a page can run, for one lesion; neither may need a gradient.

    Attributes:
        trunk: From the images of a lesion, (slice, 1, y, x), to features with the same first axis.
            A slice's features must not depend on the other slices.
        head: From the features to a tuple of what `outputs` names.
        outputs: Some of scores, (column,) as `Experiment.predict`; maps, (head, slice, y, x) as
            large as the images; slice_weights, (slice,); mixing, (head t, head k).
        size: `(y, x)` of an image.
    """

    trunk: Callable[[torch.Tensor], torch.Tensor]
    head: nn.Module
    outputs: tuple[str, ...]
    size: tuple[int, int]


class Experiment(ABC):
    """A model with its loss, for one variant of one paper.

    Make a subclass a frozen dataclass if it has settings (the weight of a loss): its fields are
    written into checkpoints and results. What is the same for all variants stays without a type::

        @dataclass(frozen=True)
        class Fu2021(Experiment):
            variant: str = "full"
            name = "fu2021"

    Attributes:
        name: The paper's name in the registry: `"fu2021"`.
        variant: Which of the paper's models.
        targets: What the model says of a lesion, in the order of the columns of the labels.
        metric: What selects an epoch, unless the recipe says otherwise; see `targets.measure`.
        stacked: Whether a sample is a stack of slices, in their order.
        edits: By name, what a model that is given a mask can do to it: its `edit` is set to one.
        normaliser: What `normalisation` gives, to be made again of its fields; None if it has none.
    """

    name: str
    variant: str
    targets: Targets
    metric: str = "mae"
    stacked: bool = True
    edits: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType({})
    normaliser: Any = None

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A new model; torch's global generator has been seeded with `seed` just before."""

    @abstractmethod
    def loss(
        self, outputs: Any, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss and its parts, each a scalar and a *mean over the lesions* of the batch.

        Because it is such a mean, a batch computed in micro-batches has the same gradient as the
        whole. A loss over pairs of lesions is computed within each micro-batch only.

        Args:
            outputs: What `forward` returned for some lesions.
            labels: (lesion, target) of these lesions; NaN where a label is missing.
        """

    @abstractmethod
    def predict(self, outputs: Any) -> torch.Tensor:
        """(lesion, column) predictions, the columns being `targets.columns(self.targets)`."""

    def inputs(self, samples: Samples) -> tuple[Any, ...]:
        """What the model is given of a batch, images first; packed batches also need `nodule`."""
        return (samples.images,)

    def forward(self, model: nn.Module, samples: Samples) -> Any:
        """Feed a batch to the model.

        What the loss needs of the batch (masks that were flipped with it) goes into the outputs.
        """
        return model(*self.inputs(samples))

    def measure(self, metric: str, predictions: torch.Tensor, labels: torch.Tensor) -> float:
        """One number for (lesion, column) predictions, to select an epoch by."""
        return measure(metric, self.targets, predictions, labels)

    def stages(self, recipes: Sequence[Recipe]) -> Sequence[Recipe]:
        """Which of a preset's stages this variant goes through, and how; all of them by default."""
        return recipes

    def stage(self, name: str) -> Experiment:
        """The experiment as it is trained in a stage of that name (`Recipe.stage`).

        It may have some of the targets only, and a model with some of the parts only.
        """
        return self

    def on(self, data: str) -> Experiment:
        """The experiment on a data set of that name, which may lack some of the labels."""
        return self

    def balanced(self, labels: torch.Tensor) -> Experiment:
        """The experiment with what its loss takes from the training part's labels: weights."""
        return self

    def maps(self) -> Mapping[str, tuple[str, bool]]:
        """Maps of where the model looks: name to the method of `attention`, and whether exact.

        In place of a method, the field of the outputs with maps of the model's own.
        """
        return {"Grad-CAM": ("grad-cam", False)}

    def head(self, target: Target) -> dict[str, Any]:
        """Which output a map of a target is about, as arguments of `attention.activation_map`."""
        return {"head": [t for t in self.targets if t.kind != "segmentation"].index(target)}

    def seeing(self, fold: Any) -> Any:
        """A `studies.Trained` as the explorer asks it: kept features go back on their network."""
        return fold

    def what_if(
        self, model: nn.Module, samples: Samples
    ) -> tuple[pd.DataFrame, list[float]] | None:
        """What `explorer.what_if` needs of one lesion, without readers; None for most models."""
        return None

    def live(self, model: nn.Module) -> Live | None:
        """The model in a form that a page without Python can run; None if it has none.

        Its maps are those of the first method that `maps` names.
        """
        return None

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """A batch of the training part with random changes, drawn from `generator` alone."""
        return samples

    def order(self, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The lesions of an epoch, int64: all in random order, or a balanced draw."""
        return torch.randperm(len(labels), generator=generator)

    def normalisation(self, training: Any) -> Callable[[Samples], Samples]:
        """What to do to all samples before training, measured on the training part alone."""
        return unchanged

    def settings(self) -> dict[str, Any]:
        """What else tells this experiment from others: the fields, if it is a dataclass."""
        return {name: getattr(self, name) for name in getattr(self, "__dataclass_fields__", {})}


def unchanged(samples: Samples) -> Samples:
    """The normalisation of an experiment that has none."""
    return samples


@dataclass(frozen=True, eq=False)
class Lesions:
    """The lesions of one data set and their voxels.

    The table has one row per lesion, index `lesion_id`: patient, and what cohort and labels need.
    `open` gives, for the ids that are wanted, a store of crops such as `CropStore` of
    `lesionlab.crops.stores`: `store.crops(ids)`, `id in store`, and `store.exclusions`, which says
    by id why there is no crop. What a result rests on is asked when the crops have been made.
    """

    table: pd.DataFrame
    open: Callable[[Sequence[str]], Any]
    rests_on: Callable[[], Sequence[Basis]]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much work a run is.

    Attributes:
        recipe: How to train; one recipe for each stage where there are several.
        n_lesions: Lesions drawn from the cohort, over all folds; all of them if None.
        n_folds: How many of the folds to train for, unless asked otherwise.
        holdout: Shares of the training, validation and test parts, by patient. Fold k is then the
            k-th such split, seeded by k. None for five folds.
        streamed: Prepare samples batch by batch, where all of them do not fit into memory.
    """

    recipe: Recipe | tuple[Recipe, ...]
    n_lesions: int | None = None
    n_folds: int = 1
    holdout: tuple[float, float, float] | None = None
    streamed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Paper:
    """All that the library knows of a paper; a package under `papers/` offers one as `PAPER`.

    Attributes:
        title: As it is cited: `"Fu et al. 2021"`.
        variants: Its models by name; the first one is the paper's own.
        presets: By name: smoke, book, paper, and what else there is.
        prepare: From crops to samples, for a variant.
        labels: From a table to (lesion, target), for a variant; NaN where a label is missing.
        cohort: From the table of a data set to the paper's cohort, for a variant.
        data: The data sets that it can be trained on, by name; the first one is the default. Each
            is given a seed (of phantoms), and whether to show a bar.
        tables: The variants in the rows of the paper's tables, by the number of the table.
        analyse: `module:function` that makes tables by name, to be kept beside the scores, of the
            trained models of a run and its predictions; empty for none. It is named because it
            stands on the paper, and not the other way round.
    """

    name: str
    title: str
    variants: Mapping[str, Any]
    presets: Mapping[str, Preset]
    experiment: Callable[[str], Experiment]
    prepare: Callable[[Iterator[Crop], str], Samples]
    labels: Callable[[pd.DataFrame, str], torch.Tensor]
    cohort: Callable[[pd.DataFrame, str], Cohort]
    data: Mapping[str, Callable[[int, bool], Lesions]]
    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    analyse: str = ""
