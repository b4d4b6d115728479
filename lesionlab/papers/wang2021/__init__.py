"""Wang et al. 2021: pathology of ground-glass nodules, the classifier behind a segmentation.

    samples = prepare(crops)                           # 3.1: patches of 32³ voxels, and masks
    experiment = Wang2021("joint_2")                   # the model, its loss, its metric
    fit(experiment, (samples, labels), recipe=experiment.stages(PRINTED), …)

`samples` prepares crops and masks, `model` has the networks; here are the five models on each task,
their loss, and the recipe in stages; `analyses` is what is made of trained models, `tables` are
Tables 1 to 6. What the paper leaves open, or prints otherwise:

- A stage is measured on validation lesions: the segmentation by its Dice, a classifier by its AUC,
  as the paper says "performance". It is the test lesions there, and the best of five runs: that is
  the preset `paper_literal`, with `tables.over_runs(…, best=True)`.
- Model (e) is trained in one stage, with the numbers of the classifier's, as none are printed.
- The classifier of (c) learns with the segmentation frozen, its batch normalisation included.
- All tasks are learned with a softmax over their classes. Nodules without a class of a task still
  teach a segmentation; task 4 leaves those other than AIS and MIA out altogether.
- LIDC-IDRI has no pathology. Its two tasks are ours: `type`, by the readers' mean texture (below),
  and `malignancy`, by their impression, on nodules of all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionlab import cohorts, published
from lesionlab.cohorts import Cohort, malignancy_label
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples
from lesionlab.papers import _shared
from lesionlab.papers.wang2021.model import Design as Design
from lesionlab.papers.wang2021.model import Network as Network
from lesionlab.papers.wang2021.model import Outputs as Outputs
from lesionlab.papers.wang2021.model import dice_loss as dice_loss
from lesionlab.papers.wang2021.samples import EDITS as EDITS
from lesionlab.papers.wang2021.samples import SPACING as SPACING
from lesionlab.papers.wang2021.samples import WINDOW as WINDOW
from lesionlab.papers.wang2021.samples import Augmentation as Augmentation
from lesionlab.papers.wang2021.samples import MaskFill as MaskFill
from lesionlab.papers.wang2021.samples import apply as apply
from lesionlab.papers.wang2021.samples import apply_mask as apply_mask
from lesionlab.papers.wang2021.samples import draw as draw
from lesionlab.papers.wang2021.samples import normalise as normalise
from lesionlab.papers.wang2021.samples import prepare as prepare
from lesionlab.training.paper import Paper, Preset
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import library_data
from lesionlab.training.targets import Target, misfit, overlap, probabilities

# --- tasks --------------------------------------------------------------------------------------

TYPES = ("AAH", "AIS", "MIA", "IAC")

TASKS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "1": (("AAH", "AIS"), ("MIA",), ("IAC",)),
    "2": (("AAH", "AIS"), ("MIA", "IAC")),
    "3": (("AAH", "AIS", "MIA"), ("IAC",)),
    "4": (("AIS",), ("MIA",)),
    "types": (("AAH",), ("AIS",), ("MIA",), ("IAC",)),  # Table 6
}
"""The types of pathology in each class of a task (3.3)."""

GLASS, SOLID = 2.0, 4.0
"""Mean texture up to which a nodule of LIDC is pure ground glass, and from which on it is solid."""

LIDC_TASKS: Mapping[str, tuple[str, ...]] = {
    "type": ("pure ground glass", "part-solid", "solid"),
    "malignancy": ("benign", "malignant"),
}

CLASSES: Mapping[str, tuple[str, ...]] = {
    **{task: tuple("+".join(types) for types in some) for task, some in TASKS.items()},
    **LIDC_TASKS,
}
"""By task, the names of its classes."""


def codes(table: pd.DataFrame, task: str) -> pd.Series[float]:
    """The class of each nodule, NaN without one; `table` has what the task rests on.

    That is `pathology`; or of LIDC-IDRI the mean `texture`, at most `GLASS` for pure ground glass
    and at least `SOLID` for solid; or the mean `malignancy`, of which 3 is neither.
    """
    if task in TASKS:
        of = {kind: code for code, kinds in enumerate(TASKS[task]) for kind in kinds}
        return table["pathology"].map(of).astype(float)
    if task == "malignancy":
        return malignancy_label(table).astype(float)
    texture = table["texture"]
    return ((texture > GLASS).astype(float) + (texture >= SOLID)).where(texture.notna())


# --- models -------------------------------------------------------------------------------------

_MODELS: dict[Any, tuple[str, str]] = {
    "raw": ("a", "Raw CT"),
    "masked": ("b", "Readers' masks"),
    "cascade": ("c", "Predicted masks"),
    "joint": ("d", "Joint training"),
    "branches": ("e", "Two branches"),
}
LAMBDAS = (0.5, 0.7, 1.0, 1.3, 1.5)
"""λ of Table 5."""

_CHANGES: Mapping[str, tuple[str, tuple[str, ...], Mapping[str, Any]]] = {
    "": ("", tuple(_MODELS), {}),
    "_air": (", air around", ("masked", "cascade", "joint"), {"mask_fill": "air"}),
    "_hard": (", hard masks", ("cascade", "joint"), {"hard": True}),
    **{
        f"_lambda{weight}": (f", λ = {weight}", ("joint",), {"weight": weight})
        for weight in LAMBDAS
        if weight != 1
    },
}
_WIDTHS: Mapping[str, tuple[str, int]] = {"": ("", 1), "_narrow": (", half as wide", 2)}
_PARTS: list[tuple[str, str, Design]] = [
    ("segmentation" + end, "Segmentation" + words, Design(cascade="segmentation", narrow=narrow))
    for end, (words, narrow) in _WIDTHS.items()
] + [
    (
        f"{model}_{task}{change}{end}",
        f"({letter}) {name}, {' | '.join(CLASSES[task])}{words}{width}",
        Design(cascade=model, task=task, narrow=narrow, **parts),
    )
    for task in ("2", "1", "3", "4", "types", *LIDC_TASKS)
    for end, (width, narrow) in _WIDTHS.items()
    for change, (words, models, parts) in _CHANGES.items()
    for model, (letter, name) in reversed(_MODELS.items())
    if model in models
]

VARIANTS: Mapping[str, Design] = dict(
    sorted(((name, design) for name, _, design in _PARTS), key=lambda of: of[0] != "joint_2")
)
"""By name: a model, its task, what is changed, and `_narrow` with half the channels, for a CPU."""

NAMES: Mapping[str, str] = {name: words for name, words, _ in _PARTS}
"""By variant, for `lesionlab.tables.show`: the paper's letter, the model, the classes."""

MODELS: Mapping[str, str] = {letter: model for model, (letter, _) in _MODELS.items()}
"""By the paper's letter: the beginning of a variant's name."""

TABLES: Mapping[str, Mapping[str, str]] = {
    "2": {f"{k}, task {t}": f"{m}_{t}" for t in ("1", "2", "3", "4") for k, m in MODELS.items()},
    "5": {f"λ = {w}": "joint_2" if w == 1 else f"joint_2_lambda{w}" for w in LAMBDAS},
}
"""By table and row of the paper: the variant."""

# --- recipes ------------------------------------------------------------------------------------

SEGMENTATION, CLASSIFICATION, JOINT = "segmentation", "classification", "joint"

_FIRST = Recipe(
    epochs=150,
    batch_size=24,
    lr=1e-4,
    weight_decay=1e-4,
    schedule=Schedule("plateau", 10, 0.8),
    patience=50,
    stage=SEGMENTATION,
    select_by="dice",
)
_SECOND = replace(_FIRST, epochs=120, stage=CLASSIFICATION, select_by="auc")
_THIRD = replace(_SECOND, lr=1e-5, schedule=Schedule("step", 30, 0.5), stage=JOINT)

PRINTED = (_FIRST, _SECOND, _THIRD)
"""Section 3.2, Adam; see the head of this module. `Wang2021.stages` picks those of a model."""


def _changed(epochs: Sequence[int], **changes: Any) -> tuple[Recipe, ...]:
    """The printed stages over other numbers of epochs."""
    some = zip(PRINTED, epochs, strict=True)
    return tuple(replace(stage.lasting(n), **changes) for stage, n in some)


def _short(*epochs: int) -> tuple[Recipe, ...]:
    """For few steps: smaller batches, and ten times the printed rates."""
    return tuple(replace(s, lr=10 * s.lr) for s in _changed(epochs, batch_size=8))


def _few(*epochs: int) -> tuple[Recipe, ...]:
    """For few nodules, too: more steps, and so few validate that there may be no AUC."""
    first, *others = (replace(s, batch_size=4) for s in _short(*epochs))
    return (replace(first, lr=3 * first.lr), *(replace(s, select_by="loss") for s in others))


HOLDOUT = (0.56, 0.14, 0.30)

PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(recipe=_few(1, 1, 1), n_lesions=24),
    "book": Preset(recipe=_few(5, 4, 2), n_lesions=60),
    "laptop": Preset(recipe=_short(10, 12, 4)),
    "gpu": Preset(recipe=PRINTED, n_folds=5),
    "paper": Preset(recipe=PRINTED, holdout=HOLDOUT),
    "paper_literal": Preset(
        recipe=tuple(replace(stage, select_on="test") for stage in PRINTED), holdout=HOLDOUT
    ),
}
"""How to train and on how many nodules; `laptop` and `gpu` are five folds of all. With `--folds 1`
the last two take the second split."""


@dataclass(frozen=True)
class Wang2021(_shared.Designed):
    """One of the paper's models on one task, for the training loop."""

    variant: str = "joint_2"
    name = "wang2021"
    stacked = True
    designs = VARIANTS

    @property
    def metric(self) -> str:  # type: ignore[override]
        """AUC, or of a segmentation alone its Dice."""
        return "auc" if self.design.task else "dice"

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """The class of the task, and the mask, as far as the model says them."""
        design, found = self.design, []
        if design.task:
            name = design.task if design.task in LIDC_TASKS else "pathology"
            found.append(Target(name, "multiclass", CLASSES[design.task], complete=False))
        return (*found, *[Target("mask", "segmentation")] * design.segments)

    def stages(self, recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
        """Those of the three stages that this model goes through (2.3)."""
        cascade, (first, second, third) = self.design.cascade, recipes
        if cascade == "segmentation":
            return (first,)
        if not self.design.segments or cascade == "branches":
            return (replace(second, stage=""),)
        behind = replace(second, frozen=("unet",))
        return (first, behind, third) if cascade == "joint" else (first, behind)

    def stage(self, name: str) -> Wang2021:
        """The segmentation alone; (c), whose stage comes before that of (d); or the model itself.

        Models that begin alike so have the same stages, and can take them over from each other.
        """
        wanted = self.design
        if name == SEGMENTATION:
            wanted = Design(cascade="segmentation", narrow=wanted.narrow)
        elif name == CLASSIFICATION:
            wanted = replace(wanted, cascade="cascade", weight=1.0)
        return replace(self, variant=next(v for v, of in VARIANTS.items() if of == wanted))

    def model(self, seed: int) -> Network:
        """A new model, by torch's global generator."""
        return Network(self.design, len(CLASSES.get(self.design.task, ())))

    @property
    def edits(self) -> Mapping[str, Callable[[torch.Tensor], torch.Tensor]]:  # type: ignore[override]
        """What can be done to the mask, if the classifier is given one."""
        return EDITS if self.design.cascade in ("masked", "cascade", "joint") else {}

    def maps(self) -> dict[str, tuple[str, bool]]:
        """Grad-CAM, if there is a class."""
        return dict(super().maps()) if self.design.task else {}

    @classmethod
    def labels(cls, table: pd.DataFrame, variant: str = "") -> torch.Tensor:
        """(nodule, target) float32: the code of the class, NaN without one, and 1 for a mask."""
        design = VARIANTS[variant or cls.variant]
        found = [codes(table, design.task)] if design.task else []
        found += [pd.Series(1.0, table.index)] * design.segments
        return torch.from_numpy(np.stack(found, axis=1).astype(np.float32))

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        """Flip, rotate, and add noise (3.2)."""
        drawn = draw(len(samples.lesion_ids), generator, size=samples.images.shape[-1])
        return apply(samples, drawn)

    def inputs(self, samples: Samples) -> tuple[Any, ...]:
        """The images, and the masks as their second channel."""
        masks = [] if samples.masks is None else [samples.masks]
        return (torch.cat([samples.images, *masks], dim=1),)

    def loss(
        self, outputs: Outputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`L_cla + λ L_seg` (eq. 4), or the one that is learned; and each by itself."""
        design, parts = self.design, {}
        if design.task:  # eq. 1
            entropy = misfit(self.targets[0], outputs.logits[design.task].float(), labels[:, 0])
            parts["cla"] = entropy.mean()
        if outputs.segmentation is not None and design.cascade != "cascade":
            parts["seg"] = dice_loss(outputs.segmentation, outputs.masks).mean()  # eq. 2
        if len(parts) == 2:
            return parts["cla"] + design.weight * parts["seg"], parts  # eq. 4
        return next(iter(parts.values())), parts

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(nodule, column): probabilities of the classes, and voxels of the masks."""
        found = []
        if self.design.task:
            found.append(probabilities(self.targets[:1], outputs.logits[self.design.task]))
        if outputs.segmentation is not None:
            found.append(overlap(outputs.segmentation, outputs.masks))
        return torch.cat(found, dim=1)


# --- cohorts ------------------------------------------------------------------------------------


def cohort(nodules: pd.DataFrame, variant: str = "joint_2") -> Cohort:
    """The nodules of a task, with `label`, the class that the parts keep the shares of.

    Of the paper's four types: all, and `label` is the type (3.2), so that one segmentation serves
    several tasks; of task 4 only AIS and MIA. Of LIDC-IDRI: those with three or four readers and
    slices of at most 2.5 mm; `label` is the type by texture, whatever the task, and `subsolid`
    marks those that are not solid. A `ValueError` if the task is one of the others.
    """
    task, pathology = VARIANTS[variant].task, "pathology" in nodules
    if task and (task in TASKS) != pathology:
        known = TASKS if pathology else LIDC_TASKS
        raise ValueError(
            f"variant={variant!r}: these nodules have no classes of {task!r}; "
            f"expected a task of {', '.join(known)}"
        )
    if pathology:
        of_task = cohorts.Filter("AIS or MIA", lambda t: t["pathology"].isin(["AIS", "MIA"]))
        counts = {"nodules": int(published.fact("wang2021", "n_nodules"))}
        filters = [of_task] * (task == "4")
        printed = {} if filters else counts
        found = cohorts.build(nodules, filters, name="Wang 2021", published=printed)
        return replace(found, table=found.table.assign(label=codes(found.table, "types")))
    filters = [cohorts.readers_between(3, 4), cohorts.thickness_up_to(2.5)]
    words = f"of at most {GLASS:g} is pure ground glass, of {SOLID:g} or more solid."
    found = cohorts.build(
        nodules, filters, name="Wang's question on LIDC-IDRI", note=f"A mean texture {words}"
    )
    kind = codes(found.table, "type")
    return replace(found, table=found.table.assign(label=kind, subsolid=kind < 2))


def _prepare(crops: Iterable[Crop], variant: str) -> Samples:
    return prepare(crops)


PAPER = Paper(
    name="wang2021",
    title="Wang et al. 2021",
    variants=VARIANTS,
    presets=PRESETS,
    experiment=Wang2021,
    prepare=_prepare,
    labels=Wang2021.labels,
    cohort=cohort,
    data=library_data("phantom-wang2021", "nifti", "volumes", "phantom", "dicom"),
    tables=TABLES,
    analyse="lesionlab.papers.wang2021.analyses:summary",
)
