"""What a model learns of a lesion: a rating, one of two classes, one of several, or a mask.

Labels are a tensor (lesion, target): the rating, 0 or 1, or the code of the class; NaN where a
label is missing. Predictions are a tensor (lesion, column), whose columns follow from the targets
(`Target.columns`). A target that is missing counts neither in a loss nor in a score of its own; the
lesion's other targets do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from lesionlab import _files

Kind = Literal["regression", "binary", "multiclass", "segmentation"]

COUNTS = ("intersection", "predicted", "reference")
"""What a segmentation is scored by: voxels in both masks, in the predicted one, in the readers'."""

LOWER_IS_BETTER: Mapping[str, bool] = {
    "loss": True,
    "mae": True,
    "auc": False,
    "accuracy": False,
    "dice": False,
}
"""Numbers that an epoch can be selected by, and whether the lower one is better."""


@dataclass(frozen=True)
class Target:
    """One thing that a model says of a lesion.

    Attributes:
        name: As in the table of lesions: `"spiculation"`.
        kind: `"regression"`: a number on its scale. `"binary"`: 0 or 1, predicted as the
            probability of 1. `"multiclass"`: a code from 0, predicted as a probability for each.
            `"segmentation"`: the mask in `Samples.masks`; its label is 1 where there is a mask.
        classes: The names of the classes, by code; for several classes, or for two.
        ignored: A code that this target does not learn, as Li 2021 leaves location 0 to the other
            heads. Lesions with this code count as missing here.

    Raises:
        ValueError: The attributes do not go together.
    """

    name: str
    kind: Kind = "regression"
    classes: tuple[str, ...] = ()
    ignored: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind={self.kind!r}: expected one of {', '.join(get_args(Kind))}")
        most = {"multiclass": None, "binary": 2}.get(self.kind, 0)
        if (self.kind == "multiclass" and len(self.codes) < 2) or (
            most is not None and len(self.classes) not in (0, most)
        ):
            raise ValueError(
                f"classes={self.classes!r}: a {self.kind} target cannot have {len(self.classes)}"
            )
        if self.ignored is not None and not (
            self.kind == "multiclass" and 0 <= self.ignored < len(self.classes)
        ):
            raise ValueError(f"ignored={self.ignored!r}: expected the code of one of its classes")

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
    """(lesion,) the loss of one target, 0 where its label is missing.

    Args:
        target: Any but a segmentation, whose loss needs the masks (see `dice_loss`).
        outputs: (lesion, column): a regression's prediction, a binary target's logit, the logits
            of several classes.
        labels: (lesion,).

    Returns:
        The squared error, or the cross-entropy.
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
        targets: What the columns are.
        predictions: (lesion, column).
        labels: (lesion, target).

    Returns:
        NaN where nothing can be measured.

    Raises:
        ValueError: No target has this metric.
    """
    found: list[torch.Tensor] = []
    parts = by_target(targets, predictions)
    for target, part, label in zip(targets, parts, labels.unbind(1), strict=True):
        known = target.known(label)
        part, label = part[known], label[known]
        if metric == "mae" and target.kind == "regression":
            found.append((part[:, 0] - label).abs())
        elif metric == "dice" and target.kind == "segmentation":
            found.append(2 * part[:, 0] / (part[:, 1] + part[:, 2]).clamp(min=1))
        elif metric == "auc" and target.kind == "binary":
            found.append(torch.tensor([auc(part[:, 0], label == 1)]))
        elif metric == "auc" and target.kind == "multiclass":
            at = target.positions(label)
            each = [auc(part[:, k], at == k) for k in range(part.shape[1]) if (at == k).any()]
            found.append(torch.tensor([sum(each) / len(each) if each else float("nan")]))
        elif metric == "accuracy" and target.kind == "binary":
            found.append(((part[:, 0] >= 0.5) == (label == 1)).float().mean()[None])
        elif metric == "accuracy" and target.kind == "multiclass":
            found.append((part.argmax(1) == target.positions(label)).float().mean()[None])
    if not found:
        kinds = ", ".join(sorted({target.kind for target in targets}))
        raise ValueError(f"metric={metric!r}: none of the targets ({kinds}) can be measured by it")
    return float(torch.cat(found).mean())


# --- what is refused ----------------------------------------------------------------------------


def check_labels(
    part: str, targets: Targets, labels: torch.Tensor, everywhere: torch.Tensor
) -> None:
    """Refuse a part of the lesions that a target cannot be learned from, or scored on.

    Args:
        part: Which, in words: `"training part of fold 0"`.
        targets: What the columns are.
        labels: (lesion, target) of the part.
        everywhere: (lesion, target) of all lesions: each class that occurs there must occur in a
            training part, and both classes of a binary target in every part.

    Raises:
        ValueError: A target has no label, a label is none of its codes, or a class is missing.
    """
    for column, target in enumerate(targets):
        known = target.known(labels[:, column])
        if not known.any():
            raise ValueError(
                f"{part}: none of its {len(labels)} lesions has a label of {target.name}"
            )
        if target.kind not in ("binary", "multiclass"):
            continue
        found = set(labels[known, column].tolist())
        codes = {0, 1} if target.kind == "binary" else set(target.codes)
        if not found <= codes:
            raise ValueError(f"{target.name}: expected {sorted(codes)}, got {sorted(found)[:9]}")
        every = everywhere[:, column]
        wanted = codes if target.kind == "binary" else set(every[target.known(every)].tolist())
        if target.kind == "multiclass" and not part.startswith("training"):
            continue
        if missing := sorted(wanted - found):
            name = target.classes[int(missing[0])] if target.classes else f"{missing[0]:g}"
            raise ValueError(
                f"{part}: none of its {len(labels)} lesions has {target.name} {name}; "
                "use fewer folds, or stratify them by it"
            )


# --- predictions on disk ------------------------------------------------------------------------


def to_frame(
    targets: Targets, rows: pd.DataFrame, predictions: torch.Tensor, labels: torch.Tensor
) -> pd.DataFrame:
    """Predictions as a wide table.

    Args:
        targets: What the columns are.
        rows: lesion_id, patient, fold.
        predictions: (lesion, column).
        labels: (lesion, target).

    Returns:
        `rows`, a column for each of `columns(targets)`, and the label of each target under
        `…_truth`.
    """
    values = dict(zip(columns(targets), predictions.double().T.numpy(), strict=True))
    truths = {
        f"{target.name}_truth": label.double().numpy()
        for target, label in zip(targets, labels.unbind(1), strict=True)
    }
    return rows.assign(**values, **truths)


KEYS = ["lesion_id", "patient", "fold"]


def write_predictions(path: str | Path, frame: pd.DataFrame) -> Path:
    """Write predictions in long form: lesion_id, patient, fold, target, class, value, truth.

    Args:
        path: A CSV file.
        frame: As `to_frame` makes it.

    Raises:
        OSError: It cannot be written.
    """
    parts = []
    for column in frame.columns.drop(KEYS):
        if column.endswith("_truth"):
            continue
        target, _, name = column.partition(": ")
        part = frame[KEYS].assign(target=target, value=frame[column])
        part["truth"] = frame[f"{target}_truth"]
        part.insert(4, "class", name)
        parts.append(part)
    long = pd.concat(parts, ignore_index=True)
    return _files.write_text(path, long.to_csv(index=False, lineterminator="\n"))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read predictions back, number for number, as `to_frame` made them.

    Files of versions before 0.2, a column for each target, are read as well.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table of predictions.
    """
    # as text, and then by Python's float: what pandas makes of numbers is not exact in all versions
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in KEYS if name not in found]:
        raise ValueError(f"{path} is no table of predictions: it has no {', '.join(missing)}")
    found["fold"] = found["fold"].astype("int64")
    if {"target", "class", "value", "truth"} <= set(found.columns):
        found["value"], found["truth"] = (_floats(found[name]) for name in ("value", "truth"))
        wide = None
        truths = {}
        for (target, name), part in found.groupby(["target", "class"], sort=False):
            part = part.reset_index(drop=True)
            wide = part[KEYS].copy() if wide is None else wide
            wide[f"{target}: {name}" if name else str(target)] = part["value"]
            truths[f"{target}_truth"] = part["truth"]
        return pd.DataFrame() if wide is None else wide.assign(**truths)
    numbers = found.columns.drop(KEYS)
    return found.assign(**{name: _floats(found[name]) for name in numbers})


def _floats(texts: pd.Series[str]) -> list[float]:
    return [float(text) if text else float("nan") for text in texts]
