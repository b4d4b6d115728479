"""Fu 2021, the models that it compares: see `lesionlab.papers.fu2021`, which offers them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from lesionlab.attributes import rating
from lesionlab.papers.fu2021._samples import ATTRIBUTES


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which parts a model has.

    Attributes:
        slice_attention: Weights for the slices of a nodule; a plain mean without (SAM).
        cross_attribute: Every score from a mixture of all attributes' vectors (CAAM).
        auxiliary: λ of eq. 8, the weight of the auxiliary loss; None for no auxiliary head (ASCMM).
        volumetric: One 3D network in place of all of these (3.3).
        classes: Malignancy is benign or malignant, not a rating (4.2).
        attributes: What is scored.

    Raises:
        ValueError: The parts do not go together.
    """

    slice_attention: bool = True
    cross_attribute: bool = True
    auxiliary: float | None = 0.1
    volumetric: bool = False
    classes: bool = False
    attributes: tuple[str, ...] = ATTRIBUTES

    def __post_init__(self) -> None:
        if self.auxiliary is not None and not self.cross_attribute:
            raise ValueError("auxiliary: belongs to the vectors that cross_attribute mixes")
        if self.auxiliary is not None and not 0 <= self.auxiliary < math.inf:
            raise ValueError(f"auxiliary={self.auxiliary!r}: expected 0 or more")
        if self.volumetric and (self.slice_attention or self.cross_attribute):
            raise ValueError("volumetric: the 3D network has no attention")
        if self.classes and self.attributes[-1:] != ("malignancy",):
            raise ValueError("classes: expected malignancy as the last of the attributes")


_PLAIN = Design(slice_attention=False, cross_attribute=False, auxiliary=None)

VARIANTS: Mapping[str, Design] = MappingProxyType(
    {
        "full": Design(),
        # Table 1; and Table 2
        "no_attention": _PLAIN,
        "slice_attention": replace(_PLAIN, slice_attention=True),
        "cross_attribute": replace(_PLAIN, cross_attribute=True),
        "cross_attribute_auxiliary": Design(slice_attention=False),
        "volume": replace(_PLAIN, volumetric=True),
        # Table 5
        "malignancy_class": Design(classes=True),
        # Table S1
        **{f"lambda_{value:g}": Design(auxiliary=value) for value in (0.01, 0.5, 1.0, 10.0)},
        # Table S2
        **{f"only_{name}": Design(attributes=(name,)) for name in ATTRIBUTES},
    }
)

TABLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "1": {
            "No Attention": "no_attention",
            "SAM": "slice_attention",
            "CAAM": "cross_attribute",
            "CAAM+ASCMM": "cross_attribute_auxiliary",
            "SAM+CAAM+ASCMM": "full",
        },
        "2": {
            "2D Slice-based": "no_attention",
            "2D Slice-based + SAM": "slice_attention",
            "3D Volume-based": "volume",
        },
        "S1": {
            "0.01": "lambda_0.01",
            "0.1": "full",
            "0.5": "lambda_0.5",
            "1": "lambda_1",
            "10": "lambda_10",
        },
    }
)
"""By table and row of the paper, as in `lesionlab.published`: the variant."""

NAMES: Mapping[str, str] = MappingProxyType(
    {variant: row for table in ("2", "1") for row, variant in TABLES[table].items()}
    | {variant: f"λ = {row}" for row, variant in TABLES["S1"].items() if variant != "full"}
    | {f"only_{name}": f"{rating(name).title} alone" for name in ATTRIBUTES}
)
"""By variant, for `lesionlab.tables.show`: the paper's name for its row, in Table 1 if there."""
