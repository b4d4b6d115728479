"""A lesion, a model, and what the model is given of it, changed: does it still say the same?

    bench = Bench({"Fu 2021": studies.trained(plan)}, store)
    found = bench.compute(Request(lesion_id, "Fu 2021", about="malignancy"))
    air = Change(surroundings="air", margin=2.0)
    bench.compute(Request(lesion_id, "Fu 2021", about="malignancy", change=air)).after.predicted

`lesionlab.explorer.workbench` puts controls around this; here is what they do, without any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt

from lesionlab import attributes
from lesionlab.crops import Crop
from lesionlab.crops.resampling import AIR, LUNG
from lesionlab.explorer import _filters, _scene
from lesionlab.explorer._bench_models import Bools, Floats, Given, Model
from lesionlab.explorer._scene import Scene
from lesionlab.sources import lidc
from lesionlab.training.studies import Trained

__all__ = ["FILLS", "Bench", "Change", "Look", "Request", "Result", "masked", "reordered"]

FILLS: Mapping[str, float] = MappingProxyType({"lung": LUNG, "air": AIR})
"""What surroundings can be replaced by, HU."""

Tell = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to a lesion before a model is given it.

    Attributes:
        surroundings: One of `FILLS` replaces all that is not lesion; None leaves it.
        margin: What is within so many mm of the readers' consensus counts as lesion.
        duplicate: The slice (from 0, of what the model is given) that replaces all others.
        reverse: Whether the slices come in reverse order.

    Raises:
        ValueError: A field is out of range.
    """

    surroundings: str | None = None
    margin: float = 0.0
    duplicate: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.surroundings is not None and self.surroundings not in FILLS:
            raise ValueError(
                f"surroundings={self.surroundings!r}: expected None or one of {', '.join(FILLS)}"
            )
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin={self.margin!r}: expected mm, 0 or more")

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return self.surroundings is not None or self.duplicate is not None or self.reverse

    def __str__(self) -> str:
        words = []
        if self.surroundings is not None:
            words.append(f"{self.surroundings} beyond {self.margin:g} mm of the consensus")
        if self.duplicate is not None:
            words.append(f"slice {self.duplicate + 1} in all places")
        if self.reverse:
            words.append("slices reversed")
        return ", ".join(words) or "as it is"


@dataclass(frozen=True)
class Request:
    """What is to be computed.

    Attributes:
        lesion_id: Which lesion.
        model: Name of one of the models.
        method: Name of one of the model's maps; its first one if "".
        about: The head or class that the map is about; if "" malignancy, where there is one.
        change: What is done to the lesion.
    """

    lesion_id: str
    model: str
    method: str = ""
    about: str = ""
    change: Change = field(default_factory=Change)


@dataclass(frozen=True, eq=False)
class Look:
    """What a model was given, said, and looked at.

    Attributes:
        hu: (z, y, x) what it was given, in HU.
        masks: (reader, z, y, x) the readers' outlines in the same places.
        predicted: Name of a target, or of a probability, to value.
        map: (z, y, x), NaN where the map has no value: it has no z in Lei 2020, whose figures
            show it on the middle slice.
        weights: (z,) attention of each slice; None for a model without.
        z: (z,) where the slices come from, mm over the scan's first slice.
    """

    hu: Floats
    masks: Bools
    predicted: Mapping[str, float]
    map: Floats
    weights: Floats | None
    z: Floats


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a request.

    Attributes:
        request: The request, its method and head filled in.
        before: Of the lesion as it is.
        after: Of the lesion as it was changed; None if it was not.
        readings: Target to the readers' values.
        scenes: The same for a viewer: one, or before and after side by side.
    """

    request: Request
    before: Look
    after: Look | None
    readings: Mapping[str, tuple[float, ...]]
    scenes: tuple[Scene, ...]

    def table(self) -> pd.DataFrame:
        """Index target; readers (mean), before, and if changed after and difference."""
        names = list(self.before.predicted)
        means = [float(np.mean(self.readings[n])) if self.readings.get(n) else None for n in names]
        columns: dict[str, Any] = {"readers": means, "before": self.before.predicted.values()}
        rows = pd.DataFrame(columns, index=pd.Index(names, name="target"), dtype=float)
        if self.after is None:
            return rows
        rows["after"] = pd.Series(self.after.predicted)
        return rows.assign(difference=rows["after"] - rows["before"])


class Bench:
    """Lesions and models, and one function that brings them together.

    Attributes:
        models: By name.
        lesion_ids: Which lesions there are.
        ratings: One row per lesion.

    Args:
        models: Name to a trained fold, or to several folds of one variant; of these the one that
            has not seen a lesion is asked about it.
        crops: lesion_id to crop, such as a `CropStore`; or a function that makes one.
        ratings: As `lesionlab.sources.lidc.nodules`, which it is if None.

    Raises:
        ValueError: There is no model or no lesion, or as `_bench_models.Model`.
    """

    def __init__(
        self,
        models: Mapping[str, Trained | Iterable[Trained]],
        crops: Mapping[str, Crop] | Callable[[str], Crop],
        *,
        ratings: pd.DataFrame | None = None,
    ) -> None:
        self.models = {name: Model(name, folds) for name, folds in models.items()}
        self.ratings = lidc.nodules() if ratings is None else ratings
        self._crops = crops
        there = crops if isinstance(crops, Mapping) else self.ratings.index
        self.lesion_ids: tuple[str, ...] = tuple(map(str, there))
        for name, found in (("models", self.models), ("crops", self.lesion_ids)):
            if not found:
                raise ValueError(f"{name}: expected at least one, got none")
        self._known = frozenset(self.lesion_ids)
        self._last: tuple[Request, Given, Look] | None = None

    def table(self) -> pd.DataFrame:
        """What lesions can be chosen by, as `_filters.lesion_table`; without a model's errors."""
        tier: Any = getattr(self._crops, "tier", None)  # a store has one
        if tier is None and isinstance(self._crops, dict):
            tier = {name: crop.tier for name, crop in self._crops.items()}
        return _filters.lesion_table(self.lesion_ids, self.ratings, tier=tier)

    def tested(self, model: str, lesion_id: str) -> bool:
        """Whether one of a model's folds was tested on the lesion, and so has not seen it."""
        return self.models[model].number(lesion_id)[1]

    def filled(self, request: Request) -> Request:
        """The request with its method and head, where it names none.

        Raises:
            ValueError: There is no such lesion, model, method or head.
        """
        if request.lesion_id not in self._known:
            raise ValueError(
                f"lesion_id={request.lesion_id!r}: not among the {len(self._known)} lesions here"
            )
        if request.model not in self.models:
            raise ValueError(f"model={request.model!r}: expected one of {', '.join(self.models)}")
        model = self.models[request.model]
        about = model.classes or model.heads
        usual = next((n for n in about if n in ("malignancy", "malignant")), about[0])
        first = model.methods[0]
        filled = replace(request, method=request.method or first, about=request.about or usual)
        for name, among in (("method", model.methods), ("about", about)):
            if (value := getattr(filled, name)) not in among:
                raise ValueError(f"{name}={value!r}: {request.model} has {', '.join(among)}")
        return filled

    def compute(self, request: Request, tell: Tell = lambda *_: None) -> Result:
        """Predict and look, before and after the change.

        Predictions are those of `Trained.predict`.

        Args:
            request: What.
            tell: Called before each step; what it raises ends the computation.

        Raises:
            ValueError: Something in the request does not exist; or as the paper's `prepare`.
            KeyError: There is no crop of the lesion.
        """
        request = self.filled(request)
        model, change = self.models[request.model], request.change
        of = 5 if change else 3
        tell("reading the lesion", 0, of)
        crop = self._crop(request.lesion_id)
        plain = replace(request, change=Change())
        if self._last is None or self._last[0] != plain:
            tell("preparing it for the model", 1, of)
            given = model.given(crop)
            tell("predicting and looking", 2, of)
            self._last = (plain, given, _answer(model, plain, given))
        _, given, before = self._last
        after = None
        if change:
            tell("changing what the model sees", 3, of)
            samples, hu = model.voxels(masked(crop, change))
            other = reordered(replace(given, samples=samples, hu=hu), change)
            tell("predicting and looking again", 4, of)
            after = _answer(model, request, other)
        readings = self._readings(request.lesion_id)
        looks = [(before, str(Change()) if change else "")]
        if after is not None:
            looks.append((after, str(change)))
        scenes = tuple(_shown(look, words, request, crop, given, readings) for look, words in looks)
        return Result(request, before, after, readings, scenes)

    def _crop(self, lesion_id: str) -> Crop:
        crops = self._crops
        return crops[lesion_id] if isinstance(crops, Mapping) else crops(lesion_id)

    def _readings(self, lesion_id: str) -> dict[str, tuple[float, ...]]:
        if lesion_id not in self.ratings.index:
            return {}
        row = self.ratings.loc[lesion_id]
        found = {}
        for name in attributes.RATING_NAMES:
            values = np.asarray(row.get(f"{name}_readings", ()), dtype=float)
            if len(values := values[~np.isnan(values)]):
                found[name] = tuple(values.tolist())
        return found


def masked(crop: Crop, change: Change) -> Crop:
    """The crop with other surroundings; voxels within the margin of the consensus stay.

    Distances are those between the voxels' centres, in mm.
    """
    if change.surroundings is None:
        return crop
    away = distance_transform_edt(~crop.consensus(), sampling=crop.spacing)
    fill = np.int16(FILLS[change.surroundings])
    return replace(crop, hu=np.where(away <= change.margin, crop.hu, fill))


def reordered(given: Given, change: Change) -> Given:
    """One slice in all places, and then all in reverse; the outlines go along.

    Raises:
        ValueError: There is no such slice.
    """
    depth = len(given.hu)
    order = np.arange(depth)
    if change.duplicate is not None:
        if not 0 <= change.duplicate < depth:
            raise ValueError(f"duplicate={change.duplicate!r}: expected a slice, 0 to {depth - 1}")
        order[:] = change.duplicate
    if change.reverse:
        order = order[::-1].copy()
    images = given.samples.images
    stack = images.reshape(depth, *images.shape[-2:])[torch.from_numpy(order)]
    return replace(
        given,
        samples=replace(given.samples, images=stack.reshape(images.shape)),
        hu=given.hu[order],
        masks=given.masks[:, order],
        z=given.z[order],
    )


def _answer(model: Model, request: Request, given: Given) -> Look:
    predicted = model.predict(request.lesion_id, given.samples)
    seen, weights = model.look(request.lesion_id, given.samples, request.method, request.about)
    return Look(given.hu, given.masks, predicted, seen, weights, given.z)


def _shown(
    look: Look, words: str, request: Request, crop: Crop, given: Given,
    readings: Mapping[str, tuple[float, ...]],
) -> Scene:  # fmt: skip
    scene = _scene.of(
        look.hu,
        spacing=given.spacing,
        masks=look.masks,
        overlays={request.method: {request.about: look.map}},
        slice_weights=look.weights,
        predicted=look.predicted,
        # a rating that is not predicted is shown only for the class that is made of it
        readings={n: v for n, v in readings.items() if n in look.predicted or n == "malignancy"},
        title=", ".join(filter(None, [request.lesion_id, request.model, words])),
        tier=crop.tier,
    )
    notes = [*scene.notes, "shown is what the model is given", *given.notes]
    if np.isnan(look.map).any():
        notes.append("the map has no place along z: it lies on the middle slice")
    return replace(
        scene, z_mm=look.z, corner_mm=given.corner, frame=_scene.IN_SCAN, notes=tuple(notes)
    )
