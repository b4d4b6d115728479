"""What is kept beside a model: intervals of its ratings, and where unseen lesions lie for it.

    calibration.make("fu2021/full", data="slices")    # needs the data set; minutes
    kept = calibration.read("fu2021/full", data="slices")
    kept.intervals                                    # reach and coverage by rating and level
    kept.nearest(calibration.features(fold))          # the lesions that look alike to the model

Both come from the patients that the model has not seen. A file is `PAPER/calibration/VARIANT-DATA
.safetensors`, with a checksum, and goes with one file of weights only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lesionlab import _files, weights
from lesionlab.packing import segment_sum
from lesionlab.results import jsonable
from lesionlab.statistics import conformal
from lesionlab.training import checkpoints
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.studies import Trained

Floats = npt.NDArray[np.float64]

LEVEL = 0.9
"""The share of lesions that an interval is to hold."""

N_SIMILAR = 10
"""How many lesions are called similar."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is known of a kept model on patients that it has not seen.

    Attributes:
        intervals: What `conformal.calibrate` gives, of its ratings.
        errors: By `lesion_id`, the absolute errors of each rating, NaN where there is no label.
        features: (lesion, channel) what the model makes of each of these lesions.
    """

    intervals: pd.DataFrame
    errors: pd.DataFrame
    features: Floats

    def nearest(self, found: Floats, n: int = N_SIMILAR) -> list[list[str]]:
        """For each row of `features`, the n lesions that are nearest, the nearest first.

        Channels are divided by their spread over the lesions, so that none counts more.
        """
        spread = self.features.std(axis=0)
        spread[spread == 0] = np.inf
        away = [np.square((self.features - row) / spread).sum(axis=1) for row in found]
        return [
            [str(self.errors.index[k]) for k in np.argsort(row, kind="stable")[:n]] for row in away
        ]


def features(fold: Trained, *, batch_size: int = 32) -> Floats:
    """(lesion, channel) the mean of the model's feature map over positions and slices."""
    model: Any = fold.model()
    parts = []
    with torch.no_grad():
        for batch in fold.samples.split(batch_size):
            seen = model.trunk(fold.experiment.inputs(batch)[0])
            rows = getattr(seen, "features", seen).flatten(2).mean(2)  # (sample, channel)
            sums = segment_sum(rows, batch.nodule, len(batch.lesion_ids))
            parts.append(sums / batch.lengths[:, None])
    return torch.cat(parts).double().numpy()


def make(
    name: str,
    *,
    data: str,
    folder: str | Path = weights.FOLDER,
    n_lesions: int | None = None,
    progress: bool = True,
) -> Path:
    """Calibrate a kept model on the patients that it has not seen, and keep what was found.

    Arguments and errors are those of `weights.evaluate`. A file of the same model is replaced.
    """
    of: Any = {"data": data, "folder": folder, "n_lesions": n_lesions, "progress": progress}
    fold, outcome = weights.evaluate(name, n_resamples=1, **of)
    ratings = [t.name for t in fold.experiment.targets if t.kind == "regression"]
    found = conformal.calibrate(outcome.predictions, ratings) if ratings else pd.DataFrame()
    said = outcome.predictions.set_index("lesion_id").loc[list(fold.samples.lesion_ids)]
    errors = (said[ratings] - said[[f"{name}_truth" for name in ratings]].to_numpy()).abs()
    state = {
        "weights": _files.sha256(outcome.path),
        "intervals": jsonable(found),
        "lesion_ids": list(said.index),
        "ratings": ratings,
    }
    path = _path(name, data, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "features": torch.from_numpy(features(fold)).half(),
        "errors": torch.tensor(errors.to_numpy(), dtype=torch.float32).contiguous(),
    }
    checkpoints.write(path, state, {"calibration": tensors})
    return path


def read(name: str, *, data: str, folder: str | Path = weights.FOLDER) -> Calibration | None:
    """What is kept beside a model; None where nothing is.

    Raises:
        CheckpointError: The file is damaged, or of other weights.
    """
    path = _path(name, data, folder)
    if not path.is_file():
        return None
    state, groups = checkpoints.read(path)
    own = Path(folder, f"{name}-{data}.safetensors")
    if state.get("weights") != _files.sha256(own):
        raise CheckpointError(f"{path} is of other weights than {own.name}")
    try:
        tensors = groups["calibration"]
        lesion_ids = pd.Index(state["lesion_ids"], name="lesion_id")
        errors = tensors["errors"].double().numpy()
        return Calibration(
            intervals=pd.DataFrame(state["intervals"]),
            errors=pd.DataFrame(errors, index=lesion_ids, columns=state["ratings"]),
            features=tensors["features"].double().numpy(),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no calibration of this version: {error!r}") from error


def _path(name: str, data: str, folder: str | Path) -> Path:
    paper, _, variant = name.partition("/")
    return Path(folder, paper, "calibration", f"{variant}-{data}.safetensors")
