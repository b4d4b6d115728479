"""A lesion, a model, and what the model is given of it, changed: does it still say the same?

    bench = Bench({"Fu 2021": studies.trained(plan)}, store)
    found = bench.compute(Request(lesion_id, "Fu 2021", about="malignancy"))
    air = Change(surroundings="air", margin=2.0)
    bench.compute(Request(lesion_id, "Fu 2021", about="malignancy", change=air)).after.predicted

`lesionlab.explorer.workbench` puts controls around this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt

from lesionlab.crops import Crop
from lesionlab.crops.resampling import AIR, LUNG
from lesionlab.explorer import _filters, _html, _scene
from lesionlab.explorer._models import Floats, Given, Model
from lesionlab.explorer._scene import Scene
from lesionlab.explorer.volume import VolumePage
from lesionlab.training.studies import Trained

if TYPE_CHECKING:
    from lesionlab.explorer._workbench import Workbench

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
    """

    surroundings: str | None = None
    margin: float = 0.0
    duplicate: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if (name := self.surroundings) is not None and name not in FILLS:
            raise ValueError(f"surroundings={name!r}: expected None or one of {', '.join(FILLS)}")
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
    """What is to be computed: of which lesion, by which of the models, after which change.

    `method` is one of the model's maps, its first one if ""; `about` the output or class that the
    map is about, if "" malignancy, where there is one.
    """

    lesion_id: str
    model: str
    method: str = ""
    about: str = ""
    change: Change = field(default_factory=Change)


@dataclass(frozen=True, eq=False)
class Look:
    """What a model was given, with the readers' outlines, what it said, and what it looked at.

    Attributes:
        predicted: Name of a target, or of a probability, to value.
        map: (z, y, x), NaN where the map has no value: a map without places along z lies on the
            middle slice.
        weights: (z,) attention of each slice; None for a model without.
    """

    given: Given
    predicted: Mapping[str, float]
    map: Floats
    weights: Floats | None


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a request, with its method and `about` filled in.

    Attributes:
        before: The look at the lesion as it is.
        after: The look at the changed lesion; None if nothing was changed.
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

    The arguments are those of `workbench`.
    """

    def __init__(
        self,
        models: Mapping[str, Trained | Iterable[Trained]],
        crops: Mapping[str, Crop],
        *,
        ratings: pd.DataFrame | None = None,
    ) -> None:
        self.models = {name: Model(name, folds) for name, folds in models.items()}
        if not self.models:
            raise ValueError("models: expected at least one, got none")
        if ratings is None:
            tables = [fold.table for model in self.models.values() for fold in model.folds]
            ratings = pd.concat(tables)
            ratings = ratings[~ratings.index.duplicated()]
        self.ratings = ratings
        self._crops = crops
        self.lesion_ids = tuple(map(str, crops))
        if not self.lesion_ids:
            raise ValueError("crops: expected at least one, got none")
        self._known = frozenset(self.lesion_ids)
        self._last: tuple[Request, Look] | None = None

    def table(self) -> pd.DataFrame:
        """What lesions can be chosen by, as `_filters.lesion_table`; without a model's errors."""
        tier: Any = getattr(self._crops, "tier", None)  # a store has one
        if tier is None and isinstance(self._crops, dict):
            tier = {name: crop.tier for name, crop in self._crops.items()}
        return _filters.lesion_table(self.lesion_ids, self.ratings, tier=tier)

    def filled(self, request: Request) -> Request:
        """The request with a method and head where it names none; `ValueError` for what is not."""
        if request.lesion_id not in self._known:
            raise ValueError(
                f"lesion_id={request.lesion_id!r}: not among the {len(self._known)} lesions here"
            )
        if request.model not in self.models:
            raise ValueError(f"model={request.model!r}: expected one of {', '.join(self.models)}")
        model = self.models[request.model]
        methods, about = list(model.methods), list(model.about)
        usual = next((n for n in about if n in ("malignancy", "malignant")), about[0])
        filled = replace(request, method=request.method or methods[0], about=request.about or usual)
        for name, among in (("method", methods), ("about", about)):
            if (value := getattr(filled, name)) not in among:
                raise ValueError(f"{name}={value!r}: {request.model} has {', '.join(among)}")
        return filled

    def compute(self, request: Request, tell: Tell = lambda *_: None) -> Result:
        """Predict (as `Trained.predict`) and look, before and after the change.

        `tell` is called before each step; what it raises ends the computation.
        """
        request = self.filled(request)
        model, change = self.models[request.model], request.change
        n_steps = 5 if change else 3
        tell("reading the lesion", 0, n_steps)
        crop = self._crops[request.lesion_id]
        plain = replace(request, change=Change())
        if self._last is None or self._last[0] != plain:
            tell("preparing it for the model", 1, n_steps)
            given = model.given(crop)
            tell("predicting and looking", 2, n_steps)
            self._last = (plain, _answer(model, plain, given))
        _, before = self._last
        after, looks = None, [(before, str(Change()) if change else "")]
        if change:
            tell("changing what the model sees", 3, n_steps)
            samples, hu = model.voxels(masked(crop, change))
            other = reordered(replace(before.given, samples=samples, hu=hu), change)
            tell("predicting and looking again", 4, n_steps)
            after = _answer(model, request, other)
            looks.append((after, str(change)))
        readings = self._readings(request.lesion_id)
        # only what is predicted, be it as a rating or as classes that are made of it
        rated = {out.name: readings[out.name] for out in model.outputs if out.name in readings}
        scenes = tuple(_shown(*look, request, crop.tier, rated) for look in looks)
        return Result(request, before, after, readings, scenes)

    def _readings(self, lesion_id: str) -> dict[str, tuple[float, ...]]:
        found = {}
        for name in _filters.rated(self.ratings) if lesion_id in self.ratings.index else ():
            values = np.asarray(self.ratings.loc[lesion_id, f"{name}_readings"], dtype=float)
            if len(values := values[~np.isnan(values)]):
                found[name] = tuple(values.tolist())
        return found


def masked(crop: Crop, change: Change) -> Crop:
    """The crop with other surroundings; what is near the consensus stays, by voxels' centres."""
    if change.surroundings is None:
        return crop
    away = distance_transform_edt(~crop.consensus(), sampling=crop.spacing)
    fill = np.int16(FILLS[change.surroundings])
    return replace(crop, hu=np.where(away <= change.margin, crop.hu, fill))


def reordered(given: Given, change: Change) -> Given:
    """One slice in all places, and then all in reverse; the outlines go along."""
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
    return Look(given, predicted, seen, weights)


def _shown(
    look: Look, words: str, request: Request, tier: str, readings: Mapping[str, tuple[float, ...]]
) -> Scene:
    given = look.given
    scene = _scene.of(
        given.hu,
        spacing=given.spacing,
        masks=given.masks,
        overlays={request.method: {request.about: look.map}},
        slice_weights=look.weights,
        predicted=look.predicted,
        readings=readings,
        title=", ".join(filter(None, [request.lesion_id, request.model, words])),
        tier=tier,
    )
    notes = [*scene.notes, "shown is what the model is given", *given.notes]
    if np.isnan(look.map).any():
        notes.append("the map has no place along z: it lies on the middle slice")
    return replace(
        scene, z_mm=given.z, corner_mm=given.corner, frame=_scene.IN_SCAN, notes=tuple(notes)
    )


def workbench(
    models: Mapping[str, Trained | Iterable[Trained]],
    crops: Mapping[str, Crop],
    *,
    lesion_id: str | None = None,
    ratings: pd.DataFrame | None = None,
    predictions: Mapping[str, pd.DataFrame] | None = None,
) -> Workbench | VolumePage:
    """Choose lesions, models and maps, change what a model sees, and watch what it says.

        folds = {"Fu 2021": studies.trained(plan), "Lei 2020": studies.trained(other_plan)}
        explorer.workbench(folds, store)

    The first lesion is computed before this returns, all others in the background: a new request
    cancels the pending one. The notebook's outputs keep what is shown as a page and as a picture,
    without the controls that need Python.

    Args:
        models: Name to a trained fold, or to several folds of one variant, of
            `lesionlab.training.studies.trained`. Of several, the one that has not seen a lesion
            is asked about it; where there is none, the viewer says so.
        crops: lesion_id to crop, such as a `CropStore`.
        lesion_id: Where to begin; at the first lesion that the first model was tested on if None.
        ratings: One row per lesion, as `lesionlab.sources.lidc.nodules`: readers' means in
            columns by name, and their values in `NAME_readings`. The lesions that the models were
            tested on if None.
        predictions: Model's name to `Outcome.predictions`, to choose lesions by its error.

    Returns:
        A widget, or where ipywidgets or anywidget is not installed
        (`pip install 'lesionlab[lab]'`) the page of what it would show first.
    """
    bench = Bench(models, crops, ratings=ratings)
    errors = {}
    for name, frame in (predictions or {}).items():
        if name not in bench.models:
            raise ValueError(f"predictions of {name!r}: expected of {', '.join(bench.models)}")
        errors[name] = _filters.errors(frame, [out.name for out in bench.models[name].outputs])
    name, first = next(iter(bench.models.items()))
    if lesion_id is None:
        tested = (i for i in bench.lesion_ids if first.number(i)[1])
        lesion_id = next(tested, bench.lesion_ids[0])
    result = bench.compute(Request(lesion_id, name))
    page = VolumePage(result.scenes)
    shown: Any = _html.in_kernel(page, "_workbench", "Workbench", bench, result, errors)
    return shown  # type: ignore[no-any-return]
