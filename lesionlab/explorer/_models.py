"""A trained model on the workbench: what it is given of a crop, what it says, where it looks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from lesionlab import papers
from lesionlab.attention import METHODS, activation_map
from lesionlab.attributes import title
from lesionlab.crops import Crop
from lesionlab.crops.footprint import footprint
from lesionlab.crops.sampling import Samples, locate
from lesionlab.explorer._scene import Bools, Floats
from lesionlab.training.loop import in_batches
from lesionlab.training.studies import Trained
from lesionlab.training.targets import Target, by_target

KNOWN_HU = (-900, 300)
"""Two values that no preparation clips; what they become tells HU from the values of a sample."""


def classes(target: Target, *, among: bool = False) -> tuple[str, ...]:
    """The names of a classifier's classes, in the order of its outputs; none for a rating.

    `among` several classifiers, whose classes may be called alike, they begin with the target's.
    """
    if target.kind == "binary":
        return target.classes or (f"not {target.name}", target.name)
    first = f"{title(target.name)}: " if among else ""
    return tuple(first + target.classes[code] for code in target.codes)


def columns(target: Target, *, among: bool = False) -> list[str]:
    """What the predicted numbers are called: of two classes, the second one's is predicted."""
    names = classes(target, among=among)[1 if target.kind == "binary" else 0 :]
    return [f"probability of {name}" for name in names] or [target.name]


@dataclass(frozen=True, eq=False)
class Look:
    """One lesion as a model is given it, what the model says of it, and where it looks.

    Attributes:
        hu: (z, y, x) the values of the prepared and normalised `samples` as HU.
        masks: (reader, z, y, x) the readers' outlines at these places.
        spacing: `(z, y, x)` mm between values; of z the median.
        z, corner: Position of each slice and `(y, x)` of the first value in the scan, mm.
        predicted: By `columns` of the targets.
        map: (z, y, x), NaN where it has no value: a map without places along z lies on the middle
            slice.
        weights: (z,) attention of each slice; None for a model without.
        what_if: As `Experiment.what_if`, for a model whose class rests on scores.
    """

    samples: Samples
    hu: Floats
    masks: Bools
    spacing: tuple[float, float, float]
    z: Floats
    corner: tuple[float, float]
    notes: tuple[str, ...]
    predicted: Mapping[str, float] = field(default_factory=dict)
    map: Floats = field(default_factory=lambda: np.empty((0, 0, 0)))
    weights: Floats | None = None
    what_if: tuple[pd.DataFrame, list[float]] | None = None


class Model:
    """The folds of one variant, of which each lesion gets the one that has not seen it.

    Attributes:
        targets: What it predicts, but for masks, which the viewer does not show.
        methods: Map's name to its method of `attention`, and whether its weights are exact; or to
            the field of the model's output with its own maps, (lesion, head, …).
        about: A rating or a class that a map can be about, to arguments of `activation_map`.
        target_of: A rating or a class to its target.
    """

    def __init__(self, name: str, folds: Trained | Iterable[Trained]) -> None:
        given = (folds,) if isinstance(folds, Trained) else folds
        self.folds = tuple(fold.experiment.seeing(fold) for fold in given)
        kinds = {(f.experiment.name, f.experiment.variant) for f in self.folds}
        if len(kinds) != 1:
            found = ", ".join(sorted(" ".join(kind) for kind in kinds)) or "none"
            raise ValueError(f"models[{name!r}]: expected folds of one variant, got {found}")
        self.name = name
        self._experiment = self.folds[0].experiment
        if not self._experiment.stacked:
            raise ValueError(f"models[{name!r}]: its channels are scales, not slices")
        self.targets = [t for t in self._experiment.targets if t.kind != "segmentation"]
        self.methods, self.edits = dict(self._experiment.maps()), self._experiment.edits
        self._several = sum(t.kind == "multiclass" for t in self.targets) > 1
        self.about: dict[str, dict[str, Any]] = {}
        self.target_of: dict[str, Target] = {}
        for target in self.targets:
            names, head = classes(target, among=self._several), self._experiment.head(target)
            named = {c: head | {"target": k} for k, c in enumerate(names)} or {target.name: head}
            self.about |= named
            self.target_of |= dict.fromkeys(named, target)
        self._lock = threading.Lock()  # one network for all folds, and more than one thread
        self._loaded: Trained | None = None
        self._said: tuple[Any, ...] = (None,) * 5  # samples, fold, mask, and what was said of them
        self._ends: dict[int, torch.Tensor] = {}  # by fold: what KNOWN_HU become
        # made here, as making one draws random numbers, which no other thread may
        self._network = self.folds[0].model()

    def fold(self, lesion_id: str) -> tuple[Trained, bool]:
        """The fold to ask about a lesion, and whether it was tested on that lesion."""
        tested = next((f for f in self.folds if lesion_id in f.table.index), None)
        return tested or self.folds[0], tested is not None

    def given(self, crop: Crop) -> Look:
        """What the model gets of a crop, not asked yet."""
        fold, tested = self.fold(crop.lesion_id)
        samples, hu = self.voxels(crop)

        def in_hu(crops: Iterable[Crop]) -> Samples:
            return self._in_hu(self._fed(crops, fold), fold, crop)

        place = footprint(crop, in_hu, unit=None)
        steps = [step for step in np.diff(place.z) if step > 1e-6]
        between = float(np.median(steps or [crop.spacing[0]]))
        # the masks go the way of the voxels, and so lie where these do
        dark, bright = KNOWN_HU
        drawn = (replace(crop, hu=np.where(m, bright, dark).astype(np.int16)) for m in crop.masks)
        masks = in_hu(drawn).images.numpy() >= (dark + bright) / 2
        # the middle of the first row and column in the scan; `place` has their edge in the crop
        edge = (np.array(crop.corner) - 0.5) * crop.spacing[1:]
        y, x = (edge + place.corner + np.array(place.pixel) / 2).tolist()
        notes = []
        if not tested:
            notes.append(
                f"{self.name}, fold {fold.fold}, was not tested on this lesion and may have been "
                "trained on it: what it says here proves nothing"
            )
        if (padded := float(samples.padded[0])) > 0.005:
            notes.append(f"{padded:.0%} of what the model sees lies beyond the crop")
        if missing := int(samples.missing[0]):
            notes.append(f"{missing} slices are missing between those shown")
        return Look(
            samples=samples,
            hu=hu,
            masks=masks.reshape(len(crop.masks), -1, *masks.shape[-2:]),
            spacing=(round(between, 6), round(place.pixel[0], 6), round(place.pixel[1], 6)),
            z=place.z + locate(crop).centroid[0] * crop.spacing[0],
            corner=(y, x),
            notes=tuple(notes),
        )

    def voxels(self, crop: Crop) -> tuple[Samples, Floats]:
        """What the model gets of a crop: the samples, and (z, y, x) their values as HU."""
        fold, _ = self.fold(crop.lesion_id)
        samples = self._fed([crop], fold)
        images = self._in_hu(samples, fold, crop).images
        # whether slices are packed samples or channels
        return samples, images.reshape(-1, *images.shape[-2:]).numpy()

    def asked(
        self, given: Look, lesion_id: str, method: str, about: str, mask: str | None = None
    ) -> Look:
        """What the lesion's fold predicts, as in a run, and where it looks.

        `given` is the lesion's, changed or not. `mask` is one of the experiment's `edits`.
        """
        of, exact = self.methods[method]
        fold, _ = self.fold(lesion_id)
        images, *others = self._experiment.inputs(given.samples)
        seen: list[Any] = []

        def kept(output: Any) -> Any:
            seen.append(output)
            return output

        options: dict[str, Any] = {"weights": "exact"} if exact else {}
        options |= {"inputs": others, "select": kept, **self.about[about]}
        with self._lock:
            if self._loaded is not fold:
                self._network.load_state_dict(dict(fold.weights))
                self._loaded = fold
            self._network.edit = self.edits[mask] if mask else None
            samples, of_fold, edited, found, what_if = self._said  # several maps are of the same
            if samples is not given.samples or of_fold is not fold or edited != mask:
                samples = given.samples
                found, _ = in_batches(self._experiment, self._network, samples, 32, fold.precision)
                what_if = self._experiment.what_if(self._network, samples)
                self._said = samples, fold, mask, found, what_if
            if of in METHODS:
                maps = activation_map(self._network, images, of, **options).maps.double()
            else:
                maps = self._own_maps(of, given.samples, self.about[about]["head"])
        said: dict[str, float] = {}
        all_targets = self._experiment.targets
        for target, part in zip(all_targets, by_target(all_targets, found), strict=True):
            if target.kind != "segmentation":
                names = columns(target, among=self._several)
                said |= zip(names, part[0].tolist(), strict=True)
        weights = getattr(seen[0], "slice_weights", None) if seen else None
        weights = None if weights is None else weights.detach().double().numpy()
        looked = replace(given, map=_placed(maps, given.hu.shape), what_if=what_if)
        if seen and self.edits:  # what the classifier is given: the patch times the mask
            hu = self._hu(seen[0].given.detach(), fold)[0, 0].numpy()
            looked = replace(looked, hu=hu)
        return replace(looked, predicted=said, weights=weights)

    def _own_maps(self, field: str, samples: Samples, head: int) -> torch.Tensor:
        """(lesion, …) the maps that the network itself made for a head, as large as the images."""
        with torch.no_grad():
            found = getattr(self._experiment.forward(self._network, samples), field)
        maps, sides = found[:, head, None].double(), samples.images.shape[2:]
        mode = "bilinear" if len(sides) == 2 else "trilinear"
        return functional.interpolate(maps, size=sides, mode=mode)[:, 0]

    def _fed(self, crops: Iterable[Crop], fold: Trained) -> Samples:
        of = self._experiment
        return fold.normalise(papers.get(of.name).prepare(iter(crops), of.variant))

    def _in_hu(self, samples: Samples, fold: Trained, crop: Crop) -> Samples:
        """The values as HU; clipped where the preparation clips."""
        if id(fold) not in self._ends:
            even = [replace(crop, hu=np.full_like(crop.hu, value)) for value in KNOWN_HU]
            images = self._fed(even, fold).images.double()
            # in the middle, as there may be other values beyond the crop
            middle: Any = (..., *(side // 2 for side in images.shape[2:]))
            self._ends[id(fold)] = images[middle].reshape(2, -1).median(1).values
        return replace(samples, images=self._hu(samples.images, fold))

    def _hu(self, images: torch.Tensor, fold: Trained) -> torch.Tensor:
        (dark, bright), (low, high) = KNOWN_HU, self._ends[id(fold)].tolist()
        share: torch.Tensor = (images.double() - low) / (high - low)
        return dark + share * (bright - dark)


def _placed(maps: torch.Tensor, shape: tuple[int, ...]) -> Floats:
    """(z, y, x) of the samples: a map without places along z lies on the middle slice.

    Around the map of a network that sees the middle of its samples there is no value.
    """
    values: Floats = maps.numpy()
    depth = shape[0]
    if values.ndim == 4:  # (1, z, y, x) of a volume with more slices on both sides
        first = (values.shape[1] - depth) // 2
        return values[0, first : first + depth]
    if len(values) != depth:
        flat = np.full((depth, *values.shape[1:]), np.nan)
        flat[depth // 2] = values[0]
        values = flat
    around = [n - m for n, m in zip(shape, values.shape, strict=True)]
    return np.pad(values, [(n // 2, n - n // 2) for n in around], constant_values=np.nan)
