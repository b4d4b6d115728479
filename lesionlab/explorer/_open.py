"""`lesionlab.explorer.workbench`: a bench with controls, or the page of its first result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from lesionlab.crops import Crop
from lesionlab.explorer import _filters, volume
from lesionlab.explorer._optional import widget
from lesionlab.explorer.bench import Bench, Request, Result
from lesionlab.explorer.volume import PAGE_KB, VolumePage
from lesionlab.training.studies import Trained

if TYPE_CHECKING:
    from lesionlab.explorer._workbench import Workbench


def workbench(
    models: Mapping[str, Trained | Iterable[Trained]],
    crops: Mapping[str, Crop] | Callable[[str], Crop],
    *,
    lesion_id: str | None = None,
    model: str | None = None,
    about: str = "",
    ratings: pd.DataFrame | None = None,
    predictions: Mapping[str, pd.DataFrame] | None = None,
    window: str | tuple[float, float] = "lung",
    page_kb: float | None = PAGE_KB,
) -> Workbench | VolumePage:
    """Choose lesions, models and maps, change what a model sees, and watch what it says.

        folds = {"Fu 2021": studies.trained(plan), "Lei 2020": studies.trained(other_plan)}
        explorer.workbench(folds, store)

    The first lesion is computed before this returns, all others in the background: a newer wish
    replaces an older one, and what goes wrong is said in the widget. The notebook's outputs keep
    what is shown as a page and as a picture, without the controls that need Python.

    Args:
        models: Name to a trained fold, or to several folds of one variant, of
            `lesionlab.training.studies.trained`. Of several, the one that has not seen a lesion
            is asked about it; where there is none, the viewer says so.
        crops: lesion_id to crop, such as a `CropStore`; or a function that makes any lesion's
            crop, such as `lesionlab.sources.phantom.make`.
        lesion_id: Where to begin; at the first lesion that the first model was tested on if None.
        model: Which model to begin with; the first if None.
        about: The rating or class that the first map is about; if "" malignancy, where there is
            one.
        ratings: One row per lesion; `lesionlab.sources.lidc.nodules()` if None.
        predictions: Model's name to `Outcome.predictions`, to choose lesions by its error. Of
            other models a button predicts the test lesions anew.
        window: As in `lesionlab.explorer.view`.
        page_kb: As in `lesionlab.explorer.view`.

    Returns:
        A widget, or where ipywidgets or anywidget is not installed
        (`pip install 'lesionlab[lab]'`) the page of what it would show first.

    Raises:
        ValueError: As `lesionlab.explorer.bench.Bench` and its `compute`; or predictions of a
            model that is not offered, or without its columns.
        KeyError: There is no crop of the first lesion.
    """
    bench = Bench(models, crops, ratings=ratings)
    known = dict(predictions or {})
    for name, frame in known.items():
        if name not in bench.models:
            raise ValueError(f"predictions of {name!r}: expected of {', '.join(bench.models)}")
        _filters.errors(frame, list(bench.models[name].experiment.tasks))  # has its columns
    name = next(iter(bench.models)) if model is None else model
    if lesion_id is None:
        tested = (i for i in bench.lesion_ids if name in bench.models and bench.tested(name, i))
        lesion_id = next(tested, bench.lesion_ids[0])
    result = bench.compute(Request(lesion_id, name, about=about))

    def page(result: Result) -> VolumePage:
        return volume.page(result.scenes, window=window, page_kb=page_kb)

    first = page(result)
    made_of: type[Workbench] | None = widget("_workbench", "Workbench")
    return first if made_of is None else made_of(bench, result, page, known)
