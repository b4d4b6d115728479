"""A trained model on the workbench: what it is given of a crop, what it says, where it looks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lesionlab.attention import activation_maps
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples, locate
from lesionlab.explorer import _filters
from lesionlab.figures.samples import Footprint, footprint
from lesionlab.training.plans import study
from lesionlab.training.prediction import in_batches
from lesionlab.training.studies import Trained

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

KNOWN_HU = (-900, 300)
"""Two values that no preparation clips; what they become tells HU from the values of a sample."""

CLASSES = ("benign", "malignant")


@dataclass(frozen=True, eq=False)
class Given:
    """One lesion as a model is given it.

    Attributes:
        samples: Prepared and normalised.
        hu: (z, y, x) the same values as HU.
        masks: (reader, z, y, x) the readers' outlines at these places.
        spacing: `(z, y, x)` mm between the samples' values; z where slices have equal distances.
        z: (z,) position of each slice in the scan, mm over its first slice.
        corner: `(y, x)` position of the first row and column in the scan, mm.
        notes: What has to be known about them.
    """

    samples: Samples
    hu: Floats
    masks: Bools
    spacing: tuple[float, float, float]
    z: Floats
    corner: tuple[float, float]
    notes: tuple[str, ...]


class Model:
    """The folds of one variant, of which each lesion gets the one that has not seen it.

    Attributes:
        name: As it is offered.
        experiment: Of all the folds.
        methods: Names of the maps that it has.
        n_tested: On how many lesions it was tested, in all folds.
        heads: What a map can be about; empty where that is a class.
        classes: The classes that a map can be about; empty where there are none.

    Args:
        name: What to call it.
        folds: One, or several of one variant.

    Raises:
        ValueError: No fold, folds of different variants, or channels that are no slices.
    """

    def __init__(self, name: str, folds: Trained | Iterable[Trained]) -> None:
        self._folds = (folds,) if isinstance(folds, Trained) else tuple(folds)
        kinds = {(f.experiment.name, f.experiment.variant) for f in self._folds}
        if len(kinds) != 1:
            found = ", ".join(sorted(" ".join(kind) for kind in kinds)) or "none"
            raise ValueError(f"models[{name!r}]: expected folds of one variant, got {found}")
        self.name = name
        self.n_tested = sum(len(fold.samples.lesion_ids) for fold in self._folds)
        self.experiment = experiment = self._folds[0].experiment
        self.heads: tuple[str, ...] = tuple(experiment.tasks)
        self.classes: tuple[str, ...] = ()
        if not experiment.stacked:
            raise ValueError(f"models[{name!r}]: its channels are scales, not slices")
        self._methods = experiment.maps()
        if set(experiment.tasks.values()) == {"classification"}:
            self.heads, self.classes = (), CLASSES
        self.methods = tuple(self._methods)
        self._lock = threading.Lock()  # one network for all folds, and more than one thread
        self._loaded = -1
        self._known: dict[int, tuple[float, float]] = {}  # what KNOWN_HU become
        # made here, as making one draws random numbers, which no other thread may
        self._network = self._folds[0].model()

    def number(self, lesion_id: str) -> tuple[int, bool]:
        """Which of the folds to ask about a lesion, and whether it has been tested by it."""
        for number, fold in enumerate(self._folds):
            if lesion_id in fold.table.index:
                return number, True
        return 0, False

    def given(self, crop: Crop) -> Given:
        """What the model gets of a crop, on the crop's own readers' consensus.

        Raises:
            ValueError: As the paper's `prepare`.
        """
        number, tested = self.number(crop.lesion_id)
        samples, hu = self.voxels(crop)
        place = footprint(crop, lambda crops: self._in_hu(self._fed(crops, number), number, crop),
                          unit=None)  # fmt: skip
        steps = np.diff(place.z)
        steps = steps[steps > 1e-6]
        between = float(np.median(steps)) if len(steps) else float(crop.spacing[0])
        # the masks go the way of the voxels, and so lie where these do
        dark, bright = KNOWN_HU
        drawn = (replace(crop, hu=np.where(m, bright, dark).astype(np.int16)) for m in crop.masks)
        masks = self._in_hu(self._fed(drawn, number), number, crop).images.numpy()
        notes = []
        if not tested:
            notes.append(
                f"{self.name}, fold {self._folds[number].fold}, was not tested on this lesion and "
                "may have been trained on it: what it says here proves nothing"
            )
        if (padded := float(samples.padded[0])) > 0.005:
            notes.append(f"{padded:.0%} of what the model sees lies beyond the crop")
        if missing := int(samples.missing[0]):
            notes.append(f"{missing} slices are missing between those shown")
        return Given(
            samples=samples,
            hu=hu,
            masks=(masks >= sum(KNOWN_HU) / 2).reshape(len(crop.masks), -1, *masks.shape[-2:]),
            spacing=(round(between, 6), round(place.pixel[0], 6), round(place.pixel[1], 6)),
            z=place.z + locate(crop).centroid[0] * crop.spacing[0],
            corner=(_first(crop, place, 0), _first(crop, place, 1)),
            notes=tuple(notes),
        )

    def voxels(self, crop: Crop) -> tuple[Samples, Floats]:
        """What the model gets of a crop: the samples, and (z, y, x) their values as HU."""
        number, _ = self.number(crop.lesion_id)
        samples = self._fed([crop], number)
        return samples, _stack(self._in_hu(samples, number, crop).images).numpy()

    def predict(self, lesion_id: str, samples: Samples) -> dict[str, float]:
        """What the lesion's fold predicts of it, by target, as in a run."""
        number, _ = self.number(lesion_id)
        with self._lock:
            precision = self._folds[number].precision
            found = in_batches(self.experiment, self._at(number), samples, 32, precision)[0]
        return {
            _named(name, task): float(value)
            for (name, task), value in zip(self.experiment.tasks.items(), found, strict=True)
        }

    def look(
        self, lesion_id: str, samples: Samples, method: str, about: str
    ) -> tuple[Floats, Floats | None]:
        """Where the model looks: one map, and the attention of each slice.

        Args:
            lesion_id: The lesion.
            samples: Its own, changed or not.
            method: One of `methods`.
            about: One of `heads`, or of `classes`.

        Returns:
            (z, y, x), NaN on slices where the map is not drawn; and (z,), or None.

        Raises:
            ValueError: No such method, head or class; or as `attention.activation_maps`.
        """
        known = self.classes or self.heads
        for what, value, among in (("method", method, self.methods), ("about", about, known)):
            if value not in among:
                raise ValueError(f"{what}={value!r}: {self.name} has {', '.join(among)}")
        of, exact = self._methods[method]
        how: dict[str, Any] = {"weights": "exact"} if exact else {}
        if self.classes:
            how |= {"head": 0, "target": self.classes.index(about)}
        else:
            how |= {"head": self.heads.index(about)}
        images, *others = self.experiment.inputs(samples)
        how["inputs"] = tuple(others)
        outputs: list[Any] = []

        def kept(output: Any) -> Any:
            outputs.append(output)
            return output

        with self._lock:
            network = self._at(self.number(lesion_id)[0])
            found = activation_maps(network, images, (of,), select=kept, **how)[of]
        weights = getattr(outputs[0], "slice_weights", None)
        return (
            _placed(found.maps.double(), len(_stack(samples.images))),
            None if weights is None else weights.detach().double().numpy(),
        )

    def errors(self) -> Iterator[pd.DataFrame]:
        """How far it is off on the lesions that it was tested on, a few at a time.

        Yields:
            As `_filters.errors`.
        """
        names = list(self.experiment.tasks)
        for number, fold in enumerate(self._folds):
            first = 0
            for batch in fold.samples.split(16):
                with self._lock:
                    found = in_batches(self.experiment, self._at(number), batch, 16, fold.precision)
                truth = fold.targets[first : first + len(found)]
                first += len(found)
                rows = pd.DataFrame(found.double().numpy(), columns=names)
                rows[[f"{name}_truth" for name in names]] = truth.double().numpy()
                yield _filters.errors(rows.assign(lesion_id=list(batch.lesion_ids)), names)

    def _fed(self, crops: Iterable[Crop], number: int) -> Samples:
        of = self.experiment
        prepared = study(of.name).prepare(iter(crops), of.variant)
        return self._folds[number].normalise(prepared)

    def _in_hu(self, samples: Samples, number: int, crop: Crop) -> Samples:
        """The values as HU; clipped where the preparation clips."""
        dark, bright = KNOWN_HU
        if number not in self._known:
            even = [replace(crop, hu=np.full_like(crop.hu, value)) for value in KNOWN_HU]
            ends = self._fed(even, number).images.double().reshape(2, -1).mean(1)
            self._known[number] = (float(ends[0]), float(ends[1]))
        low, high = self._known[number]
        share = (samples.images.double() - low) / (high - low)
        return replace(samples, images=dark + share * (bright - dark))

    def _at(self, number: int) -> torch.nn.Module:
        """The network with the weights of a fold; only under the lock."""
        if self._loaded != number:
            self._network.load_state_dict(dict(self._folds[number].weights))
            self._loaded = number
        return self._network


def _first(crop: Crop, place: Footprint, axis: int) -> float:
    """Where the middle of the first row or column lies in the scan, mm; `place` has its edge."""
    step = crop.spacing[axis + 1]
    return (crop.corner[axis] - 0.5) * step + place.corner[axis] + place.pixel[axis] / 2


def _named(name: str, task: str) -> str:
    if task == "regression":
        return name
    return f"probability of {'malignant' if name == 'malignancy' else name}"


def _stack(images: torch.Tensor) -> torch.Tensor:
    """(z, y, x) of one lesion, whether its slices are packed samples or channels."""
    return images.reshape(-1, *images.shape[-2:])


def _placed(maps: torch.Tensor, depth: int) -> Floats:
    """(z, y, x) of the samples: a map without places along z lies on the middle slice."""
    values: Floats = maps.numpy()
    if values.ndim == 4:  # (1, z, y, x), for Fu's volumes with more slices on both sides
        first = (values.shape[1] - depth) // 2
        return values[0, first : first + depth]
    if len(values) == depth:
        return values
    flat = np.full((depth, *values.shape[1:]), np.nan)
    flat[depth // 2] = values[0]
    return flat
