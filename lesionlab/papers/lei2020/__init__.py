"""Lei et al. 2020: soft activation maps for benign and malignant nodules.

    samples = prepare(crops, channels=11)               # 4.1, Table 1: D11C
    experiment = Lei2020("hesam")                       # the model, its loss, its metric
    fit(experiment, samples, Lei2020.labels(table), recipe=PRESETS["paper"].recipe, …)

    maps = network.trunk(images)                        # feature maps g, and high-level maps
    network.head(maps)                                  # what network(images) gives: logits, …

Equations and sections are those of the paper. `samples` has the images, `model` the paper's
network, `comparators` the networks of others, `maps` the activation maps, `analyses` the tables.
What the paper leaves open:

- The widths 32-64-128-256 of the U-Net, its padding and the residual blocks' strides follow from
  the sizes that it prints: 256 × 4 × 4, 64 maps out, 256 × 16 × 16. "The last Conv layer" is read
  as the output of the last residual block, after its ReLU.
- Eq. 13 has its two symbols the wrong way round, and no minus: cross-entropy as usual.
- HESAM's part of a logit that no map shows is in `Outputs.high_level`.
- "Baseline" of Table 2 is not described. It is here the same network with a linear classifier of
  all values of its maps (`baseline`); "U+SAM (Baseline)" of Table 4 is `unet_sam`.
- PN-SAMP is here what the paper says of it: a U-Net whose pooled deepest and last maps are
  concatenated and classified, with the same loss on the same slices (4.1). As published (Wu et al.
  2018) it is in 3D, with segmentation and attributes.
- No augmentation ("without conventional data augmentation"), and no normalisation but that of
  `prepare`.

Nine heads on one trunk (`…_ratings`) and networks in three axes (`…_3d`) are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from lesionlab import _names, cohorts
from lesionlab.attributes import RATING_NAMES
from lesionlab.papers import _shared
from lesionlab.papers.lei2020 import comparators
from lesionlab.papers.lei2020.model import HESAM, PN_SAMP
from lesionlab.papers.lei2020.model import Design as Design
from lesionlab.papers.lei2020.model import Outputs as Outputs
from lesionlab.papers.lei2020.samples import IMAGE_SETS as IMAGE_SETS
from lesionlab.papers.lei2020.samples import N_CHANNELS as N_CHANNELS
from lesionlab.papers.lei2020.samples import WINDOW as WINDOW
from lesionlab.papers.lei2020.samples import Outline as Outline
from lesionlab.papers.lei2020.samples import lidc_crops as lidc_crops
from lesionlab.papers.lei2020.samples import masks_of as masks_of
from lesionlab.papers.lei2020.samples import outlines as outlines
from lesionlab.papers.lei2020.samples import pasted as pasted
from lesionlab.papers.lei2020.samples import pixel_of as pixel_of
from lesionlab.papers.lei2020.samples import prepare as prepare
from lesionlab.training.paper import Paper, Preset
from lesionlab.training.recipes import Recipe, Schedule
from lesionlab.training.studies import library_data
from lesionlab.training.targets import Target


def variant_on(variant: str, images: str) -> str:
    """The name of a variant on one of the paper's image sets.

    >>> variant_on("hesam", "D11C"), variant_on("hesam", "d1c")
    ('hesam', 'hesam_d1c')
    """
    if images.upper() not in N_CHANNELS:
        _names.one_of("images", images, N_CHANNELS)
    return variant if images.upper() == "D11C" else f"{variant}_{images.lower()}"


OTHER_SETS = [images for images in N_CHANNELS if images != "D11C"]
"""The paper's image sets besides the one that most of its tables are on."""

_OURS = ("hesam", "sam", "cam")
_COMPARED = {
    f"{network}{row}": Design(trunk=network.lower(), head=head)
    for row, head in {"": "own", "-CAM": "cam", "-SAM": "sam"}.items()
    for network in ("ResNet18", "ResNet34", "VGG16", "DenseNet121")
}
_WIDE = Design(outputs=256)  # Table 4 has so many "for fair comparisons"

# the paper's tables with variants on D11C: table, row, variant, its parts
_ROWS: list[tuple[str, str, str, Design]] = [
    ("2", "PN-SAMP", "pn_samp", PN_SAMP),
    ("2", "SAG-C", "sag_c", Design(trunk="attention_gate", head="own")),
    *(("2", row, row.lower().replace("-", "_"), design) for row, design in _COMPARED.items()),
    ("2", "Baseline", "baseline", Design(head="flat")),
    ("2", "Ours-CAM", "cam", Design(head="cam")),
    ("2", "Ours-SAM", "sam", Design()),
    ("2", "Ours-HESAM", "hesam", HESAM),
    # pooling of the high-level features / of the final ones
    ("3", "GAP / GAP", "hesam_average_average", Design(high_level="average")),
    ("3", "GAP / GMP", "hesam_average_max", Design(high_level="average", pool="max")),
    ("3", "GMP / GMP", "hesam_max_max", Design(high_level="max", pool="max")),
    ("3", "GMP / GAP", "hesam", HESAM),
    ("4", "U+SAM (Baseline)", "unet_sam", replace(_WIDE, residual=False)),
    ("4", "U+RB+SAM", "unet_residual_sam", _WIDE),
    ("4", "U+GMP+SAM", "unet_gmp_sam", replace(_WIDE, residual=False, high_level="max")),
    ("4", "U+GMP+RB+SAM", "unet_gmp_residual_sam", replace(_WIDE, high_level="max")),
]
_ELSEWHERE = [(images, *row[1:]) for images in OTHER_SETS for row in _ROWS if row[0] != "3"]

TABLES: Mapping[str, Mapping[str, str]] = {
    table: {row: variant for number, row, variant, _ in _ROWS if number == table}
    for table in ("2", "3", "4")
}
"""By table and row of the paper, as in `lesionlab.published`: the variant, on D11C."""

_ON_D11C = {"hesam": HESAM} | {variant: design for _, _, variant, design in _ROWS}

VARIANTS: Mapping[str, Design] = {
    **_ON_D11C,
    # Figure 6
    "hecam": replace(HESAM, head="cam"),
    # 4.5.1, 4.5.2
    "hesam_rolled": replace(HESAM, roll=50),
    "hesam_concatenated": replace(HESAM, fusion="concatenate"),
    # Appendix C
    "fully_connected": Design(head="fully_connected"),
    # ours: nine ratings; three axes, with half as many maps
    **{f"{name}_ratings": replace(_ON_D11C[name], ratings=True) for name in _OURS},
    **{f"{name}_3d": replace(_ON_D11C[name], axes=3, width=16) for name in _OURS},
    **{variant_on(v, images): replace(d, images=images) for images, _, v, d in _ELSEWHERE},
}
"""By name; those of Tables 2 and 4 are there for each image set: `hesam`, `hesam_d1c` and so on."""

NAMES: Mapping[str, str] = {
    # hesam is in two tables
    **{variant: row for _, row, variant, _ in reversed(_ROWS)},
    **{variant_on(v, images): f"{row}, {images}" for images, row, v, _ in _ELSEWHERE},
}
"""By variant, for `lesionlab.tables.show`: what the paper calls its row, in Table 2 if there."""

EXACT = ", exact"
"""What the name of a map ends in that has all weights of the logit (`weights="exact"`)."""


class Network(nn.Module):
    """The model of figure 3, or another one of `VARIANTS`: a `trunk`, and a `head` on its maps.

    The side of its images, `size`, is a multiple of 8 pixels.
    """

    def __init__(self, design: Design = HESAM, *, size: int = 32) -> None:
        super().__init__()
        least = 16 if design.trunk in ("unet", "attention_gate") else 32
        if size < least or size % 8:
            raise ValueError(
                f"size={size!r}: expected a multiple of 8, {least} or more for {design.trunk!r}"
            )
        n, outputs = N_CHANNELS[design.images], len(RATING_NAMES) if design.ratings else 2
        self.shape = (n, size, size)
        self.trunk = comparators.trunk(design, n)
        side = size // self.trunk.stride
        places = (side, side) if design.axes == 2 else (n, side, side)
        self.head = comparators.head(design, self.trunk.features, places, outputs)

    def forward(self, images: torch.Tensor) -> Outputs:
        """Score lesions, (lesion, slice, y, x) as `prepare` makes them; in three axes the same."""
        if images.ndim != 4 or images.shape[1:] != self.shape or not images.is_floating_point():
            raise ValueError(
                f"images: expected floating point (lesion, {', '.join(map(str, self.shape))}), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        outputs: Outputs = self.head(self.trunk(images))
        return outputs


@dataclass(frozen=True)
class Lei2020(_shared.Designed):
    """One of the paper's models, for the training loop, on images of `size` pixels.

    Malignancy is learned by cross-entropy and selected by AUC. The variants `…_ratings` learn the
    nine ratings by squared error, each scale brought to 0 to 1, and are selected by the mean
    absolute error.
    """

    variant: str = "hesam"
    size: int = 32
    name = "lei2020"
    designs = VARIANTS

    @property
    def targets(self) -> tuple[Target, ...]:  # type: ignore[override]
        """Benign or malignant, or the nine ratings."""
        if self.design.ratings:
            return tuple(map(Target, RATING_NAMES))
        return (Target("malignancy", "binary", ("benign", "malignant")),)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The AUC of malignancy, or the mean absolute error over lesions and ratings."""
        return "mae" if self.design.ratings else "auc"

    @property
    def stacked(self) -> bool:  # type: ignore[override]
        """Whether the channels are neighbouring slices; those of D3C are scales."""
        return bool(self.design.images != "D3C")

    def maps(self) -> dict[str, tuple[str, bool]]:
        """The maps that the model has: name to the method of `attention`, and whether it is exact.

        CAM has no exact one, as it would be the printed one, scaled.
        """
        head, high_level = self.design.head, self.design.high_level is not None
        names = {"cam": "HE-CAM", "sam": "HESAM"} if high_level else {"cam": "CAM", "sam": "SAM"}
        found = {}
        if head in names:
            found[names[head]] = (names[head].lower(), False)
        if head == "sam" and self.design.pool == "average":
            found[names[head] + EXACT] = (names[head].lower(), True)
        gradient = "HE-Grad-CAM" if high_level else "Grad-CAM"
        return found | {gradient: (gradient.lower(), False)}

    def model(self, seed: int) -> Network:
        """A new model, by torch's global generator."""
        return Network(self.design, size=self.size)

    def loss(
        self, outputs: Outputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy (eq. 13), or squared errors summed over the ratings; mean of lesions."""
        if self.design.ratings:
            low, span = self.scale(labels)
            unit = outputs.logits.float().sigmoid()
            return _shared.squared_errors(unit, (labels - low) / span).sum(1).mean(), {}
        entropy = functional.cross_entropy(outputs.logits.float(), labels[:, 0].long())  # eq. 13
        return entropy, {}

    def predict(self, outputs: Outputs) -> torch.Tensor:
        """(lesion, 1) probability of malignant, or (lesion, rating) in rating steps."""
        logits = outputs.logits.float()  # never in half precision
        if self.design.ratings:
            low, span = self.scale(logits)
            return logits.sigmoid() * span + low
        return logits.softmax(1)[:, 1:]


PRINTED = Recipe(
    epochs=100,
    batch_size=32,
    lr=5e-4,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=1e-4,
    schedule=Schedule("step", 30, 0.1),
)
"""Section 4.1. Momentum and the number of epochs are ours, the paper prints neither; nor does it
say which epoch it tests: here the best on validation lesions."""


def scaled_recipe(batch_size: int = 32, *, epochs: int = 100, lr: float = PRINTED.lr) -> Recipe:
    """The paper's recipe over fewer epochs, or with more nodules to a step.

    The rate is `lr` for 32 nodules, and grows with the batch (Goyal et al. 2017, for SGD). It falls
    at the same shares of a shorter run.
    """
    rate = lr * batch_size / PRINTED.batch_size
    return replace(PRINTED.lasting(epochs), batch_size=batch_size, lr=rate)


# A short run does not get anywhere at the paper's rate. The short presets have ten times the rate
# for 32 nodules; with their 16 nodules to a step that is 0.0025, five times the printed 0.0005.
PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(recipe=scaled_recipe(16, epochs=2, lr=5e-3), n_lesions=48),
    "book": Preset(recipe=scaled_recipe(16, epochs=10, lr=5e-3), n_lesions=50),
    "laptop": Preset(recipe=scaled_recipe(16, epochs=20, lr=5e-3)),
    "gpu": Preset(recipe=scaled_recipe(128), n_folds=5),
    "paper": Preset(recipe=PRINTED, n_folds=5),
}
"""How to train and on how many nodules."""


PAPER = Paper(
    name="lei2020",
    title="Lei et al. 2020",
    variants=VARIANTS,
    presets=PRESETS,
    experiment=Lei2020,
    prepare=lambda crops, variant: prepare(crops, **IMAGE_SETS[VARIANTS[variant].images]),
    labels=Lei2020.labels,
    cohort=lambda nodules, _: cohorts.lei2020(nodules),
    data=library_data("phantom", "slices", "dicom"),
    tables=TABLES,
    analyse="lesionlab.papers.lei2020.maps:analyse",
)
