"""A trained model on the workbench: what it is given of a crop, what it says, where it looks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lesionlab import papers
from lesionlab.attention import activation_maps
from lesionlab.crops import Crop
from lesionlab.crops.footprint import Footprint, footprint
from lesionlab.crops.sampling import Samples, locate
from lesionlab.training.paper import Experiment
from lesionlab.training.prediction import in_batches
from lesionlab.training.studies import Trained
from lesionlab.training.targets import by_target

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

KNOWN_HU = (-900, 300)
"""Two values that no preparation clips; what they become tells HU from the values of a sample."""


class Output(NamedTuple):
    """One target that a model predicts, `regression`, `binary` or `multiclass`.

    `classes` are the names of a classifier's classes, else empty.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """What its predicted numbers are called; of two classes the second one's is predicted."""
        if self.kind == "regression":
            return [self.name]
        predicted = self.classes[1 if len(self.classes) == 2 else 0 :]
        return [f"probability of {name}" for name in predicted]


def outputs(experiment: Experiment) -> tuple[Output, ...]:
    """What an experiment's models predict, but for masks, which the viewer does not show."""
    found = []
    for target in experiment.targets:
        names: tuple[str, ...] = ()
        if target.kind == "binary":
            names = target.classes or (f"not {target.name}", target.name)
        elif target.kind == "multiclass":
            names = tuple(target.classes[code] for code in target.codes)
        if target.kind != "segmentation":
            found.append(Output(target.name, target.kind, names))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Given:
    """One lesion as a model is given it.

    Attributes:
        samples: Prepared and normalised.
        hu: (z, y, x) the same values as HU.
        masks: (reader, z, y, x) the readers' outlines at these places.
        spacing: `(z, y, x)` mm between the samples' values; z where slices have equal distances.
        z, corner: (z,) position of each slice, and `(y, x)` of the first row and column, in mm
            from the scan's first slice and corner.
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
        outputs: What it predicts.
        methods: Map's name to its method of `attention`, and whether its weights are exact.
        about: What a map can be about, an output or one of its classes, to arguments of
            `attention.activation_maps`.
    """

    def __init__(self, name: str, folds: Trained | Iterable[Trained]) -> None:
        self.folds = (folds,) if isinstance(folds, Trained) else tuple(folds)
        kinds = {(f.experiment.name, f.experiment.variant) for f in self.folds}
        if len(kinds) != 1:
            found = ", ".join(sorted(" ".join(kind) for kind in kinds)) or "none"
            raise ValueError(f"models[{name!r}]: expected folds of one variant, got {found}")
        self.name = name
        self._experiment = self.folds[0].experiment
        if not self._experiment.stacked:
            raise ValueError(f"models[{name!r}]: its channels are scales, not slices")
        self.outputs = outputs(self._experiment)
        self.methods = dict(self._experiment.maps())
        self.about: dict[str, dict[str, int]] = {}
        for head, output in enumerate(self.outputs):
            self.about |= {
                c: {"head": head, "target": k} for k, c in enumerate(output.classes)
            } or {output.name: {"head": head}}
        self._lock = threading.Lock()  # one network for all folds, and more than one thread
        self._loaded = -1
        self._ends: dict[int, tuple[float, float]] = {}  # what KNOWN_HU become
        # made here, as making one draws random numbers, which no other thread may
        self._network = self.folds[0].model()

    def number(self, lesion_id: str) -> tuple[int, bool]:
        """Which of the folds to ask about a lesion, and whether it has been tested by it."""
        for number, fold in enumerate(self.folds):
            if lesion_id in fold.table.index:
                return number, True
        return 0, False

    def given(self, crop: Crop) -> Given:
        """What the model gets of a crop, on the crop's own readers' consensus."""
        number, tested = self.number(crop.lesion_id)
        samples, hu = self.voxels(crop)

        def in_hu(crops: Iterable[Crop]) -> Samples:
            return self._in_hu(self._fed(crops, number), number, crop)

        place = footprint(crop, in_hu, unit=None)
        steps = np.diff(place.z)
        steps = steps[steps > 1e-6]
        between = float(np.median(steps)) if len(steps) else float(crop.spacing[0])
        # the masks go the way of the voxels, and so lie where these do
        dark, bright = KNOWN_HU
        drawn = (replace(crop, hu=np.where(m, bright, dark).astype(np.int16)) for m in crop.masks)
        masks = in_hu(drawn).images.numpy() >= (dark + bright) / 2
        notes = []
        if not tested:
            notes.append(
                f"{self.name}, fold {self.folds[number].fold}, was not tested on this lesion and "
                "may have been trained on it: what it says here proves nothing"
            )
        if (padded := float(samples.padded[0])) > 0.005:
            notes.append(f"{padded:.0%} of what the model sees lies beyond the crop")
        if missing := int(samples.missing[0]):
            notes.append(f"{missing} slices are missing between those shown")
        return Given(
            samples=samples,
            hu=hu,
            masks=masks.reshape(len(crop.masks), -1, *masks.shape[-2:]),
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
        precision = self.folds[number].precision
        with self._lock:
            found = in_batches(self._experiment, self._at(number), samples, 32, precision)[0]
        names = [column for output in self.outputs for column in output.columns]
        targets = self._experiment.targets
        parts = zip(targets, by_target(targets, found), strict=True)
        values = [part[0] for target, part in parts if target.kind != "segmentation"]
        return dict(zip(names, torch.cat(values).tolist(), strict=True))

    def look(
        self, lesion_id: str, samples: Samples, method: str, about: str
    ) -> tuple[Floats, Floats | None]:
        """Where the model looks: one map, and the attention of each slice.

        `samples` are the lesion's own, changed or not; `method` is one of `methods`, `about` one
        of `about`.

        Returns:
            (z, y, x), NaN on slices where the map is not drawn; and (z,), or None.
        """
        of, exact = self.methods[method]
        images, *others = self._experiment.inputs(samples)
        how: dict[str, Any] = {**self.about[about], "inputs": tuple(others)}
        if exact:
            how["weights"] = "exact"
        seen: list[Any] = []

        def kept(output: Any) -> Any:
            seen.append(output)
            return output

        with self._lock:
            network = self._at(self.number(lesion_id)[0])
            found = activation_maps(network, images, (of,), select=kept, **how)[of]
        weights = getattr(seen[0], "slice_weights", None)
        return (
            _placed(found.maps.double(), len(_stack(samples.images))),
            None if weights is None else weights.detach().double().numpy(),
        )

    def _fed(self, crops: Iterable[Crop], number: int) -> Samples:
        of = self._experiment
        return self.folds[number].normalise(papers.get(of.name).prepare(iter(crops), of.variant))

    def _in_hu(self, samples: Samples, number: int, crop: Crop) -> Samples:
        """The values as HU; clipped where the preparation clips."""
        dark, bright = KNOWN_HU
        if number not in self._ends:
            even = [replace(crop, hu=np.full_like(crop.hu, value)) for value in KNOWN_HU]
            ends = self._fed(even, number).images.double().reshape(2, -1).mean(1)
            self._ends[number] = (float(ends[0]), float(ends[1]))
        low, high = self._ends[number]
        share = (samples.images.double() - low) / (high - low)
        return replace(samples, images=dark + share * (bright - dark))

    def _at(self, number: int) -> torch.nn.Module:
        """The network with the weights of a fold; only under the lock."""
        if self._loaded != number:
            self._network.load_state_dict(dict(self.folds[number].weights))
            self._loaded = number
        return self._network


def _first(crop: Crop, place: Footprint, axis: int) -> float:
    """Where the middle of the first row or column lies in the scan, mm; `place` has its edge."""
    step = crop.spacing[axis + 1]
    return (crop.corner[axis] - 0.5) * step + place.corner[axis] + place.pixel[axis] / 2


def _stack(images: torch.Tensor) -> torch.Tensor:
    """(z, y, x) of one lesion, whether its slices are packed samples or channels."""
    return images.reshape(-1, *images.shape[-2:])


def _placed(maps: torch.Tensor, depth: int) -> Floats:
    """(z, y, x) of the samples: a map without places along z lies on the middle slice."""
    values: Floats = maps.numpy()
    if values.ndim == 4:  # (1, z, y, x) of a volume with more slices on both sides
        first = (values.shape[1] - depth) // 2
        return values[0, first : first + depth]
    if len(values) == depth:
        return values
    flat = np.full((depth, *values.shape[1:]), np.nan)
    flat[depth // 2] = values[0]
    return flat
