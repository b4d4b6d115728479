"""A kept model on lesions of your own: ratings, classes, maps, and a report.

    from lesionlab import predicting
    found = predicting.predict("my-scan", "lesion.nii.gz", model="fu2021/full")
    found.table()                            # what the model says of each lesion
    predicting.write(found, "prediction")    # report.html, CSV, JSON, maps

These models are published for research and teaching. They are no medical device, and nothing that
they say may be used to decide about a person. Nothing written says who the scan is of, but for the
DICOM objects that are asked for (`dicom=True`): those belong to the patient's study.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.interpolate import RegularGridInterpolator
from tqdm.auto import tqdm

from lesionlab import _files, _names, attributes, reports, weights
from lesionlab.crops import Crop
from lesionlab.explorer._models import Look, Model, classes
from lesionlab.reports import NO_DEVICE as NO_DEVICE
from lesionlab.results import jsonable
from lesionlab.sources import lidc, masks
from lesionlab.sources.dicom import Volume
from lesionlab.sources.dicom._objects import write_map
from lesionlab.sources.dicom._segments import write_segmentation
from lesionlab.sources.nifti import write_volume
from lesionlab.training.studies import Trained
from lesionlab.training.targets import by_target
from lesionlab.weights import calibration
from lesionlab.weights.calibration import LEVEL as LEVEL
from lesionlab.weights.calibration import N_SIMILAR as N_SIMILAR

Floats = npt.NDArray[np.float64]

MODEL = "fu2021/full"
MEASURES = {
    "slice_thickness": "slice thickness",
    "slice_spacing": "distance of slices",
    "pixel_spacing": "pixel size",
    "diameter": "diameter of the lesion",
}
LUNG_HU = (-500, -300)  # a crop of lung in HU goes below the one and above the other


@dataclass(frozen=True, eq=False)
class Lesion:
    """What a model says of one lesion.

    Attributes:
        crop: Its voxels.
        values: A row for each rating or class: target, title, class (empty for a rating), value,
            scale, words; low and high of the interval; readers_low, readers_median, readers_high
            of the readers' ratings of similar lesions. NaN where something is not known.
        maps: By method and head, (z, y, x) on the crop's voxels, NaN where a map has no value.
        slice_weights: (z,) the model's attention to each slice; None for a model without.
        similar: Lesions of LIDC-IDRI that look most alike to the model, the nearest first.
        notes: What a user should know, in sentences.
    """

    crop: Crop
    values: pd.DataFrame
    maps: Mapping[tuple[str, str], Floats]
    slice_weights: Floats | None
    similar: tuple[str, ...]
    notes: tuple[str, ...]

    def shown(self) -> dict[str, Any]:
        """Arguments for the explorer: `explorer.view(lesion.crop, **lesion.shown())`."""
        overlays: dict[str, dict[str, Floats]] = {}
        for (method, head), values in self.maps.items():
            overlays.setdefault(method, {})[head] = values
        rows = self.values
        names = rows["target"].where(rows["class"] == "", "probability of " + rows["class"])
        predicted = dict(zip(names, rows["value"], strict=True))
        return {
            "overlays": overlays, "slice_weights": self.slice_weights, "predicted": predicted
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of the lesions of a scan.

    Attributes:
        model, data: Which, and what it was trained on.
        about: How it was trained and how well it does, as `weights.about`.
        scan: The scan.
        lesions: One for each crop.
        notes: What a user should know of scan, mask and model, in sentences.
    """

    model: str
    data: str
    about: dict[str, Any]
    scan: Volume
    lesions: tuple[Lesion, ...]
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """All values, a row for each lesion and rating or class."""
        every = [one.values.assign(lesion=one.crop.lesion_id) for one in self.lesions]
        table = pd.concat(every, ignore_index=True)
        return table[["lesion", *table.columns.drop("lesion")]]


def predict(
    scan: Volume | str | Path,
    mask: Any,
    *,
    model: str = MODEL,
    data: str = "",
    label: int | None = None,
    series: int | None = None,
    folder: str | Path = weights.FOLDER,
    progress: bool = False,
) -> Prediction:
    """Ask a kept model about the lesions of a scan.

    Args:
        scan: A folder of DICOM files, a NIfTI or NRRD file, or what `masks.read_scan` gave.
        mask: A file, an array on the scan's voxels, or a `masks.Ball`: see `masks.crops`.
        model: A kept model, paper and variant: `weights.names()` lists them.
        data: What the model was trained on. If empty: real slices if such a model is kept.
        label: Take only this label of the mask.
        series: Which CT series of the folder, if there are several.
        folder: Where the model is kept.
        progress: Show a bar.

    Raises:
        ValueError: There is no such model, or the mask does not fit the scan.
        CheckpointError: The model's file is damaged.
        DicomError, BadVolumeError: A file of the scan or the mask cannot be read.
    """
    kept = [of for name, of in weights.names(folder) if name == model]
    if not kept:
        known = {name for name, _ in weights.names(folder)}
        _names.one_of("model", model, sorted(known))
    data = data or ("slices" if "slices" in kept else kept[0])
    about = weights.about(model, data=data, folder=folder)  # refused before the scan is read
    known_of = calibration.read(model, data=data, folder=folder)
    with (
        tqdm(total=4, desc="read scan", disable=not progress, unit="step") as bar,
        _heard() as told,
    ):
        if not isinstance(scan, Volume):
            scan = masks.read_scan(scan, series=series)
        bar.update()
        bar.set_description("read mask")
        crops, notes = masks.crops(scan, mask, label=label)
        bar.update()
        bar.set_description("ask model")
        fold = weights.given(model, crops, data=data, folder=folder)
        values = _values(fold, known_of)
        bar.update()
        bar.set_description("make maps")
        lesions = []
        for k, (crop, (rows, similar)) in enumerate(zip(crops, values, strict=True)):
            maps, slice_weights = _maps(model, fold, crop)
            own = _differences(scan, crop, about, fold)
            if share := float(fold.samples.padded[k]):
                own.append(
                    f"{share:.0%} of what the model saw lies beyond the crop, and is filled in"
                )
            lesions.append(Lesion(crop, rows, maps, slice_weights, similar, tuple(own)))
        bar.update()
    said = [*scan.warnings, *notes, *told, *_of_model(fold, scan, data, known_of)]
    return Prediction(model, data, about, scan, tuple(lesions), tuple(dict.fromkeys(said)))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What lesionlab warns of meanwhile, such as a backbone without its weights."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.startswith("lesionlab.sources.lidc"):
                heard.append(record.getMessage())

    logger, ear = logging.getLogger("lesionlab"), Ear(logging.WARNING)
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)


# --- numbers ------------------------------------------------------------------------------------


def _values(
    fold: Trained, known: calibration.Calibration | None
) -> list[tuple[pd.DataFrame, tuple[str, ...]]]:
    """Of each lesion, the rows of `Lesion.values` and the similar lesions."""
    said, targets = fold.predict(device="cpu").double(), fold.experiment.targets
    n = len(fold.table)
    similar = known.nearest(calibration.features(fold), N_SIMILAR) if known else [[]] * n
    reach = {}
    if known is not None and len(known.intervals):
        at = known.intervals[known.intervals["level"] == LEVEL]
        reach = dict(zip(at["target"], at["reach"], strict=True))
    found = []
    for k in range(n):
        readings = lidc.nodules().loc[similar[k]]
        rows: list[dict[str, Any]] = []
        for target, part in zip(targets, by_target(targets, said[k : k + 1]), strict=True):
            if target.kind == "segmentation":
                continue
            about = {"target": target.name, "title": attributes.title(target.name)}
            if target.kind == "regression":
                rows.append(about | _rating(fold, target, float(part), reach, readings))
                continue
            # of two classes the second one's probability is predicted
            names = classes(target)[1 if target.kind == "binary" else 0 :]
            for name, p in zip(names, part[0].tolist(), strict=True):
                rows.append(about | {"class": name, "value": p, "scale": "0–1", "words": ""})
        columns = [
            "target", "title", "class", "value", "scale", "words", "low", "high",
            "readers_low", "readers_median", "readers_high",
        ]  # fmt: skip
        found.append((pd.DataFrame(rows).reindex(columns=columns), tuple(similar[k])))
    return found


def _rating(
    fold: Trained, target: Any, value: float, reach: Mapping[str, float], similar: pd.DataFrame
) -> dict[str, Any]:
    """A rating with its interval and with what readers said of similar lesions."""
    rated = getattr(fold.experiment, "rated", lambda t: attributes.rating(t.name))(target)
    ends = rated.minimum, rated.maximum
    near = min(rated.codes, key=lambda code: abs(code - value))
    row = {"title": rated.title, "class": "", "value": value, "words": rated.words[near]}
    row["scale"] = f"{ends[0]}–{ends[1]}"
    if target.name in reach:
        away = reach[target.name]
        row["low"], row["high"] = np.clip([value - away, value + away], *ends).tolist()
    if len(similar):
        said = np.concatenate([np.asarray(r, float) for r in similar[f"{rated.name}_readings"]])
        names = ("readers_low", "readers_median", "readers_high")
        quantiles = np.nanquantile(said, [0.1, 0.5, 0.9])
        row |= zip(names, quantiles.tolist(), strict=True)
    return row


# --- maps ---------------------------------------------------------------------------------------


def _maps(name: str, fold: Trained, crop: Crop) -> tuple[dict[Any, Floats], Floats | None]:
    """Each method's map of each head on the crop's voxels, and the weights of its slices."""
    fold = fold.experiment.seeing(fold)
    if not fold.experiment.stacked or not fold.experiment.maps():
        return {}, None
    asked = Model(name, fold)
    look = asked.given(crop)
    asked_first = next(iter(asked.methods)), next(iter(asked.about))
    first = asked.asked(look, crop.lesion_id, *asked_first)
    heads: dict[str, tuple[float, str]] = {}  # of several classes the likeliest
    for about in asked.about:
        target = asked.target_of[about]
        p = first.predicted.get(f"probability of {about}", 0.0)
        if target.kind == "binary" and about != classes(target)[1]:
            continue
        if target.name not in heads or p > heads[target.name][0]:
            heads[target.name] = p, about
    maps = {}
    for method in asked.methods:
        for head, (_, about) in heads.items():
            again = (method, about) == asked_first
            seen = first if again else asked.asked(look, crop.lesion_id, method, about)
            maps[method, head] = on_crop(seen, seen.map, crop)
    weights_of = None
    if first.weights is not None and len(first.weights) == len(first.z):
        weights_of = np.zeros(len(crop.hu))
        weights_of[_slices(first, crop)] = first.weights
    return maps, weights_of


def _slices(look: Look, crop: Crop) -> npt.NDArray[np.int64]:
    """(z,) of what the model saw, the nearest slice of the crop."""
    at = crop.slice_index * crop.spacing[0]
    nearest: npt.NDArray[np.int64] = np.abs(at[:, None] - look.z).argmin(axis=0)
    return nearest


def on_crop(look: Look, values: Floats, crop: Crop) -> Floats:
    """A map (z, y, x) of what a model saw, on the voxels of the crop that it was cut out of.

    Linear in plane. Along z a slice of the crop takes the nearest that the model saw, if that is
    not further than either's spacing. NaN elsewhere.
    """
    y, x = (look.corner[a] + np.arange(values.shape[1 + a]) * look.spacing[1 + a] for a in (0, 1))
    to_y, to_x = (
        (crop.corner[a] + np.arange(crop.hu.shape[1 + a])) * crop.spacing[1 + a] for a in (0, 1)
    )
    at = np.stack(np.meshgrid(to_y, to_x, indexing="ij"), axis=-1)
    z = crop.slice_index * crop.spacing[0]
    known = np.flatnonzero(np.isfinite(values).any(axis=(1, 2)))
    away = np.abs(z[:, None] - look.z[known])
    # half of the wider step, and a little, as the middle may lie between two slices
    within = away.min(axis=1) <= 0.51 * max(crop.spacing[0], look.spacing[0])
    found = np.full(crop.hu.shape, np.nan)
    for k in np.flatnonzero(within).tolist():
        plane = values[known[away[k].argmin()]]
        between = RegularGridInterpolator((y, x), plane, bounds_error=False, fill_value=np.nan)
        found[k] = between(at)
    return found


# --- what differs -------------------------------------------------------------------------------


def _differences(scan: Volume, crop: Crop, about: Mapping[str, Any], fold: Trained) -> list[str]:
    """Where a lesion is unlike those that the model learned from."""
    notes = []
    low, high = int(crop.hu.min()), int(crop.hu.max())
    if low > LUNG_HU[0] or high < LUNG_HU[1] or not crop.calibrated.all():
        notes.append(f"values from {low} to {high}: are they HU of a lung?")
    table = lidc.nodules()
    table = table[table["patient"].isin(about["patients"]["seen"])]
    if table.empty:  # it learned from lesions that are private, or drawn
        return notes
    z, y, x = crop.spacing
    sides = np.ptp(np.argwhere(crop.masks.any(axis=0)), axis=0) + 1
    own = {"slice_thickness": scan.thickness, "slice_spacing": z, "pixel_spacing": y}
    own["diameter"] = float((sides * (z, y, x))[1:].max())
    for name, title in MEASURES.items():
        least, most = table[name].quantile([0.01, 0.99])
        if not least * 0.999 <= own[name] <= most * 1.001 and np.isfinite(own[name]):
            notes.append(
                f"{title} {own[name]:.3g} mm: 98 % of the lesions that the model learned from had "
                f"{least:.3g} to {most:.3g} mm"
            )
    return notes


def _of_model(
    fold: Trained, scan: Volume, data: str, known: calibration.Calibration | None
) -> Iterator[str]:
    phantom = data.startswith("phantom")
    if phantom and not scan.synthetic:
        yield "the model was trained on phantoms, not on scans of people"
    if scan.synthetic and not phantom:
        yield "the scan is a phantom, and the model was trained on real pixels"
    yield "reconstruction kernels were not compared: LIDC-IDRI's are not at hand"
    if known is None:
        yield "no intervals and no similar lesions are kept for this model"
    if not fold.experiment.maps():
        yield "this model has no maps"


# --- files --------------------------------------------------------------------------------------


def write(
    found: Prediction, out: str | Path, *, dicom: bool = False, progress: bool = False
) -> Path:
    """Write a prediction: `report.html`, `ratings.csv`, `prediction.json`, a folder per lesion.

    A lesion's folder has `ct.nii.gz`, `mask.nii.gz` and its maps, on the scan's voxels and where
    they lie in the patient. A map is 0 where the model has no value.

    Args:
        found: What `predict` gives.
        out: A new or empty folder. It appears when all is written, or not at all.
        dicom: Also write the mask as DICOM-SEG and maps as Parametric Maps, which go with the
            scan's files and say what those say of the patient.
        progress: Show a bar.

    Raises:
        FileExistsError: There is something at `out`.
        ValueError: DICOM is asked for, and the scan is not.
        OSError: It cannot be written; of a full disk the message says so.
    """
    root = Path(out).expanduser()
    _files.check_new_folder(root)
    if dicom and not found.scan.files:
        raise ValueError("dicom=True: the scan was not read from DICOM files")
    with _files.plain_errors("the prediction", root), _files.replacing_folder(root) as folder:
        for one in tqdm(found.lesions, "write", disable=not progress, unit="lesion"):
            _write_lesion(folder / one.crop.lesion_id, found.scan, one, dicom)
        found.table().to_csv(folder / "ratings.csv", index=False, lineterminator="\n")
        _files.write_json(folder / "prediction.json", _as_json(found))
        _files.write_text(folder / "report.html", reports.page(found))
    return root


def _write_lesion(folder: Path, scan: Volume, one: Lesion, dicom: bool) -> None:
    folder.mkdir()
    crop, grid, synthetic = one.crop, masks.grid_of(scan, one.crop.origin), scan.synthetic
    inside = crop.masks[0]
    write_volume(folder / "ct.nii.gz", crop.hu, grid, synthetic=synthetic)
    write_volume(folder / "mask.nii.gz", inside.astype(np.uint8), grid, synthetic=synthetic)
    used = np.flatnonzero(inside.any(axis=(1, 2)))
    used = np.arange(used[0], used[-1] + 1)
    files = [scan.files[k] for k in crop.slice_index[used]] if dicom else []
    if dicom:
        write_segmentation(
            folder / "mask.dcm", inside[used], files, spacing_z=crop.spacing[0],
            corner=crop.corner, label=crop.lesion_id, by_reader=True, description="lesionlab mask",
        )  # fmt: skip
    for (method, head), values in one.maps.items():
        name = "map-" + "-".join(f"{method} {head}".lower().replace(",", "").split())
        shown = np.nan_to_num(values).astype(np.float32)  # ITK makes a NaN of NIfTI 0
        write_volume(folder / f"{name}.nii.gz", shown, grid, synthetic=synthetic)
        if dicom:
            at = [(k, *crop.corner) for k in crop.slice_index[used]]
            write_map(
                folder / f"{name}.dcm", shown[used], files, scan.patient_mm(at), crop.spacing,
                label=head, description=f"lesionlab {method}",
            )  # fmt: skip


def _as_json(found: Prediction) -> dict[str, Any]:
    about = found.about
    trained = {key: about[key] for key in ("plan", "commit", "versions")}
    scores = pd.DataFrame(about["scores"])
    return {
        "notice": NO_DEVICE,
        "model": {"name": found.model, "data": found.data, "trained": jsonable(trained)},
        "scores_on_unseen_patients": jsonable(scores),
        "notes": list(found.notes),
        "lesions": [
            {
                "lesion": one.crop.lesion_id,
                "spacing_mm": list(one.crop.spacing),
                "first_voxel": list(one.crop.origin),
                "shape": list(one.crop.hu.shape),
                "values": jsonable(one.values),
                "slice_weights": jsonable(one.slice_weights),
                "similar": list(one.similar),
                "notes": list(one.notes),
            }
            for one in found.lesions
        ],
    }
