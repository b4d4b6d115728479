"""What a model learns of a lesion: a rating, one of two classes, one of several, or a mask.

Labels are a tensor (lesion, target): the rating, 0 or 1, or the code of the class; NaN where a
label is missing. Predictions are a tensor (lesion, column), whose columns follow from the targets
(`Target.columns`). A target that is missing counts neither in a loss nor in a score of its own; the
lesion's other targets do.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from lesionlab import _files, _names
from lesionlab.training.checkpoints import CheckpointError

Kind = Literal["regression", "binary", "multiclass", "segmentation"]

COUNTS = ("intersection", "predicted", "reference")
"""What a segmentation is scored by: voxels in both masks, in the predicted one, in the readers'."""

LOWER_IS_BETTER = {"loss": True, "mae": True, "auc": False, "accuracy": False, "dice": False}
"""Numbers that an epoch can be selected by, and whether the lower one is better."""


@dataclass(frozen=True)
class Target:
    """One thing that a model says of a lesion; `ValueError` if the attributes do not go together.

    Attributes:
        name: As in the table of lesions: `"spiculation"`.
        kind: `"regression"`: a number on its scale. `"binary"`: 0 or 1, predicted as the
            probability of 1. `"multiclass"`: a code from 0, predicted as a probability for each.
            `"segmentation"`: the mask in `Samples.masks`; its label is 1 where there is a mask.
        classes: The names of the classes, by code; for several classes, or for two.
        ignored: A code that this target does not learn, as Li 2021 leaves location 0 to the other
            heads. Lesions with this code count as missing here.
        complete: Whether a training part without one of the classes is refused. Where it is not, a
            class that is too rare for all parts is scored and never called.
    """

    name: str
    kind: Kind = "regression"
    classes: tuple[str, ...] = ()
    ignored: int | None = None
    complete: bool = True

    def __post_init__(self) -> None:
        _names.one_of("kind", self.kind, get_args(Kind))
        n, several = len(self.classes), self.kind == "multiclass"
        if self.ignored is not None and not (several and 0 <= self.ignored < n):
            raise ValueError(f"ignored={self.ignored!r}: expected the code of one of its classes")
        if not (len(self.codes) > 1 if several else n in (0, 2 * (self.kind == "binary"))):
            raise ValueError(f"classes={self.classes!r}: a {self.kind} target cannot have {n}")

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes that are learned, in the order of the columns."""
        return tuple(code for code in range(len(self.classes)) if code != self.ignored)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of its predictions."""
        if self.kind == "multiclass":
            return tuple(f"{self.name}: {self.classes[code]}" for code in self.codes)
        if self.kind == "segmentation":
            return tuple(f"{self.name}: {count}" for count in COUNTS)
        return (self.name,)

    def known(self, labels: torch.Tensor) -> torch.Tensor:
        """(lesion,) which lesions have a label that this target learns."""
        known = labels.isfinite()
        return known if self.ignored is None else known & (labels != self.ignored)

    def positions(self, labels: torch.Tensor) -> torch.Tensor:
        """(lesion,) int64, the column of each lesion's class; -1 where it is not known."""
        found = torch.full(labels.shape, -1, dtype=torch.int64, device=labels.device)
        for position, code in enumerate(self.codes):
            found[labels == code] = position
        return found


Targets = Sequence[Target]


def columns(targets: Targets) -> list[str]:
    """The columns of the predictions of several targets, one target after the other."""
    return [name for target in targets for name in target.columns]


def by_target(targets: Targets, predictions: torch.Tensor) -> list[torch.Tensor]:
    """(lesion, column) predictions, or logits, cut into a part for each target."""
    return list(torch.split(predictions, [len(target.columns) for target in targets], dim=1))


def labelled(targets: Targets, labels: torch.Tensor) -> torch.Tensor:
    """(lesion,) which lesions have a label of at least one target."""
    known = [target.known(label) for target, label in zip(targets, labels.unbind(1), strict=True)]
    return torch.stack(known).any(dim=0)


# --- losses and metrics -------------------------------------------------------------------------


def misfit(target: Target, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(lesion,) the squared error or the cross-entropy of one target, 0 where its label is missing.

    Args:
        target: Any but a segmentation, whose loss needs the masks (see `dice_loss`).
        outputs: (lesion, column): a regression's prediction, a binary target's logit, the logits
            of several classes.
        labels: (lesion,).
    """
    known = target.known(labels)
    safe = labels.where(known, torch.zeros_like(labels))
    if target.kind == "multiclass":
        positions = target.positions(labels)
        losses = functional.cross_entropy(outputs, positions, ignore_index=-1, reduction="none")
    elif target.kind == "binary":
        losses = functional.binary_cross_entropy_with_logits(outputs[:, 0], safe, reduction="none")
    else:
        losses = (outputs[:, 0] - safe).square()
    return losses.where(known, torch.zeros_like(losses))


def probabilities(targets: Targets, outputs: torch.Tensor) -> torch.Tensor:
    """(lesion, column) predictions from outputs as `misfit` takes them."""
    parts = []
    for target, part in zip(targets, by_target(targets, outputs.float()), strict=True):
        if target.kind == "multiclass":
            part = part.softmax(1)
        elif target.kind == "binary":
            part = part.sigmoid()
        parts.append(part)
    return torch.cat(parts, dim=1)


def overlap(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """(lesion, 3) the `COUNTS` of a segmentation, cut at a probability of one half.

    Args:
        logits: (lesion, 1, …, y, x).
        masks: The same shape, 0 and 1; NaN marks voxels that are missing and do not count.
    """
    known = masks.isfinite()
    predicted, reference = (logits > 0) & known, (masks > 0.5) & known
    counts = [predicted & reference, predicted, reference]
    return torch.stack([count.flatten(1).sum(1) for count in counts], dim=1).float()


def dice_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """(lesion,) `1 - 2 Σ p m / (Σ p + Σ m)` over the voxels that are known, p the probability."""
    known = masks.isfinite()
    p = (logits.float().sigmoid() * known).flatten(1)
    m = masks.nan_to_num(0.0).flatten(1)
    return 1 - (2 * (p * m).sum(1) + 1) / (p.sum(1) + m.sum(1) + 1)


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Area under the ROC curve; NaN where a class is missing.

    >>> auc(torch.tensor([0.9, 0.5, 0.5]), torch.tensor([True, True, False]))
    0.75
    """
    if not positive.any() or positive.all():
        return float("nan")
    return float(roc_auc_score(positive.cpu().numpy(), scores.cpu().double().numpy()))


def measure(
    metric: str, targets: Targets, predictions: torch.Tensor, labels: torch.Tensor
) -> float:
    """One number for the predictions of a part of the lesions, to select an epoch by.

    Args:
        metric: `"mae"`: the mean absolute error over all known ratings. `"auc"`: the mean area
            under the ROC curve, of one class against the others where there are several.
            `"accuracy"`: the mean over the classifying targets. `"dice"`: the mean over lesions.
        targets: What the columns are. It is a `ValueError` if none has this metric.
        predictions: (lesion, column).
        labels: (lesion, target).

    Returns:
        NaN where nothing can be measured.
    """
    found: list[torch.Tensor] = []
    parts = by_target(targets, predictions)
    for target, part, label in zip(targets, parts, labels.unbind(1), strict=True):
        known = target.known(label)
        part, label = part[known], label[known]
        match metric, target.kind:
            case "mae", "regression":
                found.append((part[:, 0] - label).abs())
            case "dice", "segmentation":
                found.append(2 * part[:, 0] / (part[:, 1] + part[:, 2]).clamp(min=1))
            case "auc", "binary":
                found.append(torch.tensor([auc(part[:, 0], label == 1)]))
            case "auc", "multiclass":
                at = target.positions(label)
                each = [auc(part[:, k], at == k) for k in sorted(set(at.tolist()))]
                found.append(torch.tensor([sum(each) / len(each) if each else math.nan]))
            case "accuracy", "binary":
                found.append(((part[:, 0] >= 0.5) == (label == 1)).float().mean()[None])
            case "accuracy", "multiclass":
                found.append((part.argmax(1) == target.positions(label)).float().mean()[None])
    if not found:
        kinds = ", ".join(sorted({target.kind for target in targets}))
        raise ValueError(f"metric={metric!r}: none of the targets ({kinds}) can be measured by it")
    return float(torch.cat(found).mean())


def check_labels(
    part: str, targets: Targets, labels: torch.Tensor, everywhere: torch.Tensor
) -> None:
    """Refuse a part of the lesions that a target cannot be learned from, or scored on.

    Both classes of a binary target must be in every part (called `"training part of fold 0"`), and
    in a training part each class of a complete multiclass target that the labels `everywhere` have.
    """
    for target, label, every in zip(targets, labels.unbind(1), everywhere.unbind(1), strict=True):
        found = set(label[target.known(label)].tolist())
        words = f"{part}: none of its {len(labels)} lesions has"
        if not found:
            raise ValueError(f"{words} a label of {target.name}")
        if target.kind not in ("binary", "multiclass"):
            continue
        codes = {0, 1} if target.kind == "binary" else set(target.codes)
        if not found <= codes:
            raise ValueError(f"{target.name}: expected {sorted(codes)}, got {sorted(found)[:9]}")
        if target.kind == "multiclass":
            learns = target.complete and part.startswith("training")
            codes = {code for code in codes if learns and bool((every == code).any())}
        if missing := sorted(codes - found):
            name = target.classes[missing[0]] if target.classes else missing[0]
            raise ValueError(f"{words} {target.name} {name}; use fewer folds, or stratify by it")


# --- predictions on disk ------------------------------------------------------------------------

KEYS = ["lesion_id", "patient", "fold"]
TRUTH = "_truth"  # ends the name of a column of labels


def to_frame(
    targets: Targets, rows: pd.DataFrame, predictions: torch.Tensor, labels: torch.Tensor
) -> pd.DataFrame:
    """Predictions (lesion, column) and labels (lesion, target) as a wide table.

    To the `rows` (lesion_id, patient, fold) comes a column for each of `columns(targets)`, and the
    label of each target under `…_truth`.
    """
    values = dict(zip(columns(targets), predictions.double().T.numpy(), strict=True))
    truths = {
        target.name + TRUTH: label.double().numpy()
        for target, label in zip(targets, labels.unbind(1), strict=True)
    }
    return rows.assign(**values, **truths)


def write_predictions(path: Path, frame: pd.DataFrame) -> dict[str, str]:
    """Write a table of `to_frame` as CSV, as `long`; compressed if the path ends in `.gz`.

    Gives what `read_predictions` needs to find the file again.
    """
    return write_csv(path, long(frame))


def long(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of `to_frame` with a row for each lesion and prediction.

    Its columns are `KEYS`, target, class (empty but for several classes), value and truth.
    """
    parts = []
    for column in frame.columns.drop(KEYS):
        if not column.endswith(TRUTH):
            target, _, name = column.partition(": ")
            part = frame[KEYS].assign(target=target, **{"class": name}, value=frame[column])
            parts.append(part.assign(truth=frame[target + TRUTH]))
    return pd.concat(parts)


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """The table of `to_frame` that `long` was made from."""
    values, truths = {}, {}
    for (target, of_class), part in rows.groupby(["target", "class"], sort=False):
        part = part.reset_index(drop=True)
        values[f"{target}: {of_class}" if of_class else f"{target}"] = part["value"]
        truths[f"{target}{TRUTH}"] = part["truth"]
    return part[KEYS].assign(**values, **truths)


def write_csv(path: Path, rows: pd.DataFrame, digits: str | None = None) -> dict[str, str]:
    """Write a table, compressed if the path ends in `.gz`; gives its file and SHA-256.

    `digits` is a format of its numbers, `"%.4g"`; exact if None.
    """
    content = rows.to_csv(index=False, lineterminator="\n", float_format=digits).encode()
    with _files.replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return {"file": path.name, "sha256": _files.sha256(path)}


def read_csv(folder: Path, entry: Mapping[str, str]) -> pd.DataFrame:
    """Read a table of predictions as `write_csv` wrote it, in whatever form.

    Raises:
        CheckpointError: It is not the one that was written.
        ValueError: The file is no table of predictions.
    """
    path = folder / Path(entry["file"]).name  # a name with a path in it leads nowhere else
    if not path.exists() or _files.sha256(path) != entry["sha256"]:
        raise CheckpointError(f"{path} is not what the JSON file beside it was written with")
    # as text, and then by Python's float: what pandas makes of numbers is not exact in all versions
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in KEYS if name not in found]:
        raise ValueError(f"{path} is no table of predictions: it has no {', '.join(missing)}")
    for name in found.columns.drop(["lesion_id", "patient", "target", "class"], errors="ignore"):
        found[name] = [float(text) if text else math.nan for text in found[name]]
    return found.astype({"fold": "int64"})


def read_predictions(folder: Path, entry: Mapping[str, str]) -> pd.DataFrame:
    """Read predictions back, number for number, as `to_frame` made them.

    Files of earlier versions, which have a column for each prediction, are read as well. It raises
    what `read_csv` does.
    """
    found = read_csv(folder, entry)
    return wide(found) if "target" in found else found
