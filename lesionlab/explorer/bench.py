"""A lesion, a model, and what the model is given of it, changed: does it still say the same?"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt

from lesionlab import _names
from lesionlab.crops import Crop
from lesionlab.crops.resampling import AIR, LUNG
from lesionlab.explorer import _html, _scene
from lesionlab.explorer._models import Look, Model
from lesionlab.explorer._scene import Scene
from lesionlab.explorer.sliders import WhatIfPage, what_if
from lesionlab.explorer.volume import VolumePage
from lesionlab.training.studies import Trained
from lesionlab.training.targets import Targets, columns

if TYPE_CHECKING:
    from lesionlab.explorer._workbench import Workbench

RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "at least": operator.ge,
    "at most": operator.le,
    "equal to": operator.eq,
    "not equal to": operator.ne,
}
"""How a column's value may stand to a filter's; words are ordered by their letters."""

MEASURES = ("n_readers", "n_slices", "diameter")
"""Columns of a table of lesions that can be filtered by, beside the readers' ratings."""


Filter = tuple[str, str, float | str]
"""Column, one of `RELATIONS`, and a value (for a column of numbers a number), as typed or not."""

FILLS: Mapping[str, float] = {"lung": LUNG, "air": AIR}
"""What surroundings can be replaced by, HU."""

AS_IS = "as they are"
"""What surroundings are called where nothing replaces them."""

AS_IT_IS = "as it is"
"""What a lesion, and a mask, is called that nothing has changed."""

LABELS: Mapping[str, str] = {
    "surroundings": "Surroundings",
    "margin": "Surroundings beyond (mm)",
    "duplicate": "One slice in all places",
    "reverse": "Reverse the slices",
    "mask": "Mask",
    "undo": "Undo the changes",
}
"""What the controls are called that change fields of a `Request`, here and in a page."""


@dataclass(frozen=True)
class Request:
    """What is to be computed: of which lesion, by which of the models, after which change.

    Attributes:
        method: One of the model's maps, its first one if "".
        about: The rating or class that the map is about, if "" malignancy, where there is one.
        surroundings: One of `FILLS` replaces all that is not lesion; None leaves it.
        margin: What is within so many mm of the readers' consensus counts as lesion.
        duplicate: The slice (from 0, of what the model is given) that replaces all others.
        reverse: Whether the slices come in reverse order.
        mask: What is done to the mask that the classifier is given: one of the model's `edits`.
    """

    lesion_id: str
    model: str
    method: str = ""
    about: str = ""
    surroundings: str | None = None
    margin: float = 0.0
    duplicate: int | None = None
    reverse: bool = False
    mask: str | None = None

    def __post_init__(self) -> None:
        if (name := self.surroundings) is not None and name not in FILLS:
            raise ValueError(f"surroundings={name!r}: expected None or one of {', '.join(FILLS)}")
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin={self.margin!r}: expected mm, 0 or more")

    @property
    def change(self) -> str:
        """What is changed, in words; "" for nothing."""
        words = []
        if self.surroundings is not None:
            words.append(f"{self.surroundings} beyond {self.margin:g} mm of the consensus")
        if self.duplicate is not None:
            words.append(f"slice {self.duplicate + 1} in all places")
        if self.reverse:
            words.append("slices reversed")
        if self.mask is not None:
            words.append(f"mask {self.mask}")
        return ", ".join(words)


UNCHANGED: dict[str, Any] = {
    name: getattr(Request, name)
    for name in ("surroundings", "margin", "duplicate", "reverse", "mask")
}
"""Fields of a `Request` that leave the lesion as it is."""


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a request, whose method and `about` are filled in.

    `after` is None if nothing was changed; `scenes` are one, or before and after side by side.
    """

    request: Request
    before: Look
    after: Look | None
    readings: Mapping[str, tuple[float, ...]]
    scenes: tuple[Scene, ...]

    def table(self) -> pd.DataFrame:
        """Index target; readers (mean), before, and if changed after and difference."""
        means = {name: np.mean(values) for name, values in self.readings.items()}
        rows = pd.DataFrame({"before": self.before.predicted}, dtype=float).rename_axis("target")
        rows.insert(0, "readers", pd.Series(means, dtype=float))
        if self.after is None:
            return rows
        rows["after"] = pd.Series(self.after.predicted)
        return rows.assign(difference=rows["after"] - rows["before"])

    def what_if(self) -> WhatIfPage | None:
        """Sliders for the scores that the class rests on, of what is shown last; None for most."""
        now = self.after or self.before
        if now.what_if is None:
            return None
        scores, log_odds = now.what_if
        scores = scores.assign(readers=self.table()["readers"])
        return what_if(scores, log_odds, title=self.scenes[-1].title, tier=self.scenes[-1].tier)


class Bench:
    """Lesions and models, as those of `workbench`, without controls.

    bench = Bench({"Fu 2021": studies.trained(plan)}, store)
    bench.compute(Request(lesion_id, "Fu 2021", surroundings="air", margin=2.0)).after.predicted
    """

    def __init__(
        self,
        models: Mapping[str, Trained | Iterable[Trained]],
        crops: Mapping[str, Crop],
        *,
        ratings: pd.DataFrame | None = None,
    ) -> None:
        self.models = {name: Model(name, folds) for name, folds in models.items()}
        self._crops = crops
        self.lesion_ids = tuple(map(str, crops))
        if not self.models or not self.lesion_ids:
            raise ValueError("models, crops: expected at least one of each")
        if ratings is None:
            ratings = pd.concat([f.table for model in self.models.values() for f in model.folds])
        self.ratings = ratings[~ratings.index.duplicated()]
        self._last: tuple[Request, Look] | None = None

    def table(self) -> pd.DataFrame:
        """What lesions can be chosen by, as `lesion_table`; without a model's errors."""
        tier: Any = getattr(self._crops, "tier", None)  # a store has one
        if tier is None and isinstance(self._crops, dict):
            tier = [crop.tier for crop in self._crops.values()]
        table = lesion_table(self.lesion_ids, self.ratings)
        return table if tier is None else table.assign(tier=tier)

    def filled(self, request: Request) -> Request:
        """The request with a method and head where it names none; `ValueError` for what is not."""
        if request.lesion_id not in self.lesion_ids:
            n = len(self.lesion_ids)
            raise ValueError(f"lesion_id={request.lesion_id!r}: not among the {n} lesions here")
        _names.one_of("model", request.model, self.models)
        model = self.models[request.model]
        usual = [name for name in model.about if name in ("malignancy", "malignant")]
        method = request.method or next(iter(model.methods))
        about = request.about or [*usual, *model.about][0]
        _names.one_of("method", method, model.methods)
        _names.one_of("about", about, model.about)
        if request.mask is not None:
            if not model.edits:
                raise ValueError(f"mask={request.mask!r}: {request.model} is given no mask")
            _names.one_of("mask", request.mask, model.edits)
        return replace(request, method=method, about=about)

    def compute(self, request: Request, tell: Callable[[str], None] = lambda _: None) -> Result:
        """Predict (as `Trained.predict`) and look, before and after the change.

        `tell` is told before each step what comes; what it raises ends the computation.
        """
        request = self.filled(request)
        model = self.models[request.model]
        tell("reading the lesion")
        crop = self._crops[request.lesion_id]
        plain = replace(request, **UNCHANGED)
        asked = request.lesion_id, request.method, request.about
        if self._last is None or self._last[0] != plain:
            tell("preparing it for the model")
            given = model.given(crop)
            tell("predicting and looking")
            self._last = plain, model.asked(given, *asked)
        _, before = self._last
        after, looks = None, [(before, AS_IT_IS if request.change else "")]
        if request.change:
            tell("changing what the model sees")
            samples, hu = model.voxels(masked(crop, request))
            other = reordered(replace(before, samples=samples, hu=hu), request)
            tell("predicting and looking again")
            after = model.asked(other, *asked, request.mask)
            looks.append((after, request.change))
        said = _readings(self.ratings.reindex([request.lesion_id])).iloc[0]
        readings = {str(name): tuple(given.tolist()) for name, given in said.items() if len(given)}
        # only what is predicted, be it as a rating or as classes that are made of it
        rated = {t.name: readings[t.name] for t in model.targets if t.name in readings}
        scenes = tuple(_shown(*look, request, crop.tier, rated) for look in looks)
        return Result(request, before, after, readings, scenes)


def masked(crop: Crop, change: Request) -> Crop:
    """The crop with other surroundings; what is near the consensus stays, by voxels' centres."""
    if change.surroundings is None:
        return crop
    away = distance_transform_edt(~crop.consensus(), sampling=crop.spacing)
    fill = np.int16(FILLS[change.surroundings])
    return replace(crop, hu=np.where(away <= change.margin, crop.hu, fill))


def reordered(given: Look, change: Request) -> Look:
    """One slice in all places, and then all in reverse; the outlines go along."""
    depth = len(given.hu)
    order = np.arange(depth)
    if change.duplicate is not None:
        if not 0 <= change.duplicate < depth:
            raise ValueError(f"duplicate={change.duplicate!r}: expected a slice, 0 to {depth - 1}")
        order[:] = change.duplicate
    if change.reverse:
        order = order[::-1].copy()

    def moved(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(given.hu.shape)[torch.from_numpy(order)].reshape(values.shape)

    samples = replace(given.samples, images=moved(given.samples.images))
    if samples.masks is not None:
        samples = replace(samples, masks=moved(samples.masks))
    masks, z = given.masks[:, order], given.z[order]
    return replace(given, samples=samples, hu=given.hu[order], masks=masks, z=z)


def _shown(
    look: Look, words: str, request: Request, tier: str, readings: Mapping[str, tuple[float, ...]]
) -> Scene:
    scene = _scene.of(
        look.hu,
        spacing=look.spacing,
        masks=look.masks,
        overlays={request.method: {request.about: look.map}},
        slice_weights=look.weights,
        predicted=look.predicted,
        readings=readings,
        title=", ".join(filter(None, [request.lesion_id, request.model, words])),
        tier=tier,
    )
    notes = [*scene.notes, "shown is what the model is given", *look.notes]
    if np.isnan(look.map).all(axis=(1, 2)).any():
        notes.append("the map has no place along z: it lies on the middle slice")
    return replace(
        scene, z_mm=look.z, corner_mm=look.corner, frame=_scene.IN_SCAN, notes=tuple(notes)
    )


def matching(table: pd.DataFrame, filters: Iterable[Filter]) -> pd.DataFrame:
    """The rows that fulfil every filter; a missing value fulfils none.

    Raises:
        ValueError: There is no such column or relation, or a number is needed.

    >>> rows = pd.DataFrame({"margin": [1.0, 4.5, np.nan], "tier": ["phantom", "dicom", "dicom"]})
    >>> matching(rows, [("margin", "at least", 2), ("tier", "equal to", "dicom")])
       margin   tier
    1     4.5  dicom
    """
    kept = np.ones(len(table), np.bool_)
    for column, relation, typed in filters:
        _names.one_of("column", column, map(str, table))
        _names.one_of("relation", relation, RELATIONS)
        values, value = table[column], str(typed).strip()
        known = values.notna().to_numpy()
        if pd.api.types.is_numeric_dtype(values):
            try:
                found = RELATIONS[relation](values, float(value.replace(",", ".")))
            except ValueError:
                raise ValueError(f"{column}: expected a number, got {value!r}") from None
        else:
            found = RELATIONS[relation](values.astype(str), value)
        kept &= known & found.to_numpy(dtype=np.bool_, na_value=False)
    return table[kept]


def _readings(rows: pd.DataFrame) -> pd.DataFrame:
    """What readers gave: a column NAME of arrays without gaps for each column `NAME_readings`."""
    given = rows.filter(regex="_readings$").rename(columns=lambda n: n.removesuffix("_readings"))
    return given.map(lambda values: (x := np.atleast_1d(np.asarray(values, float)))[~np.isnan(x)])


def lesion_table(lesion_ids: Sequence[str], ratings: pd.DataFrame) -> pd.DataFrame:
    """What lesions can be chosen by, as far as it is known.

    `ratings` has one row per lesion, as `lesionlab.sources.lidc.nodules`; lesions that are not in
    it have gaps. The columns are the readers' mean ratings under their names, `…, range` (the
    largest minus the smallest of at least two readings), and those of `MEASURES` that are there.
    """
    rows = ratings.reindex(pd.Index(lesion_ids, name="lesion_id"))
    said = _readings(rows)
    ranges = said.map(lambda x: np.ptp(x) if len(x) > 1 else np.nan).add_suffix(", range")
    sizes = rows.filter(items=MEASURES)
    return pd.concat([rows.filter(items=list(said)), ranges, sizes], axis=1).astype(float)


def errors(predictions: pd.DataFrame, targets: Targets) -> pd.DataFrame:
    """|prediction − truth| of each target, and their mean as `error`; index lesion_id.

    Of several classes, it is what the probability of the true one lacks to 1. `predictions` are as
    `lesionlab.training.outcomes.Outcome.predictions`, one row per lesion.
    """
    needed = ["lesion_id", *columns(targets), *(f"{t.name}_truth" for t in targets)]
    if missing := [name for name in needed if name not in predictions]:
        raise ValueError(f"predictions: no column {', '.join(missing)}")
    rows, off = predictions.set_index("lesion_id"), {}
    for target in targets:
        truth, said = rows[f"{target.name}_truth"], rows[list(target.columns)].to_numpy()
        if target.kind == "multiclass":
            is_true = truth.to_numpy()[:, None] == np.array(target.codes)
            lacks = 1 - (said * is_true).sum(axis=1)
            off[target.name] = pd.Series(lacks, rows.index).where(is_true.any(axis=1))
        else:
            off[target.name] = (truth - said[:, 0]).abs()
    table = pd.DataFrame(off).add_suffix(", error").assign(error=pd.DataFrame(off).mean(axis=1))
    return table if len(targets) > 1 else table[["error"]]


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
    own = {}
    for name, frame in (predictions or {}).items():
        _names.one_of("predictions", name, bench.models)
        own[name] = errors(frame, bench.models[name].targets)
    name, first = next(iter(bench.models.items()))
    if lesion_id is None:
        tested = (i for i in bench.lesion_ids if first.fold(i)[1])
        lesion_id = next(tested, bench.lesion_ids[0])
    result = bench.compute(Request(lesion_id, name))
    page = VolumePage(result.scenes)
    made = _html.in_kernel(page, "_workbench", "Workbench", bench, result, own)
    return made  # type: ignore[no-any-return]
