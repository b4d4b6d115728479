"""Lei 2020, the models that it compares: see `lesionlab.papers.lei2020`, which offers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

Trunk = Literal["unet", "resnet18", "resnet34", "vgg16", "densenet121", "attention_gate"]
Head = Literal["cam", "sam", "fully_connected", "flat", "own"]
Pooling = Literal["max", "average"]
Fusion = Literal["sum", "concatenate"]
Images = Literal["D1C", "D3C", "D11C", "D21C"]

N_CHANNELS: Mapping[str, int] = MappingProxyType({"D1C": 1, "D3C": 3, "D11C": 11, "D21C": 21})
"""Of the paper's four image sets (Table 1): slices, or for D3C scales of one slice."""


EXACT = ", exact"
"""What the name of a map ends in that has all weights of the logit (`weights="exact"`)."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which parts a model has.

    Attributes:
        trunk: All that comes before the head. `"unet"` is the paper's (figure 3).
        head: `"cam"` (eq. 1), `"sam"` (eq. 5–10), `"fully_connected"` (one layer for all feature
            maps in place of one for each, Appendix C), `"flat"` (a linear classifier of all
            values), `"own"` (that of the compared network, which then is left as published).
        high_level: How the U-Net's deepest maps become d of eq. 12 (HF in Table 3); None without.
        fusion: How d joins the head's values; `"concatenate"` in 4.5.2.
        pool: In the soft activation head (FCF in Table 3).
        residual: Residual blocks after the U-Net (RB in Table 4).
        outputs: Maps that the U-Net ends in.
        width: Maps of its first block; each next one has twice as many, four in all.
        axes: 2 has the slices as channels (the paper), 3 as a third axis (ours).
        roll: By how many places d is rolled before it joins (4.5.1).
        images: Which of the paper's image sets it is given (Table 1).
        ratings: Nine heads for the readers' nine ratings on one trunk (ours), not two classes.

    Raises:
        ValueError: A part does not exist, or the parts do not go together.
    """

    trunk: Trunk = "unet"
    head: Head = "sam"
    high_level: Pooling | None = None
    fusion: Fusion = "sum"
    pool: Pooling = "average"
    residual: bool = True
    outputs: int = 64
    width: int = 32
    axes: int = 2
    roll: int = 0
    images: Images = "D11C"
    ratings: bool = False

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "trunk": get_args(Trunk),
            "head": get_args(Head),
            "high_level": (None, *get_args(Pooling)),
            "fusion": get_args(Fusion),
            "pool": get_args(Pooling),
            "axes": (2, 3),
            "images": tuple(N_CHANNELS),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(
                    f"{name}={value!r}: expected one of {', '.join(map(str, allowed))}"
                )
        for name in ("outputs", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected 1 or more")
        unet_only = ("high_level", "residual", "outputs", "width", "axes")
        default = {f.name: f.default for f in fields(self)}
        if self.trunk != "unet":
            for name in unet_only:
                if getattr(self, name) != default[name]:
                    raise ValueError(f"{name}: belongs to trunk='unet', not {self.trunk!r}")
        if self.axes == 3 and self.images == "D3C":
            raise ValueError("images='D3C': has scales, not slices, which axes=3 needs")
        if self.head == "own" and self.trunk == "unet":
            raise ValueError("head='own': the U-Net has none")
        if self.trunk == "attention_gate" and self.head != "own":
            raise ValueError(f"head={self.head!r}: the attention gates have their own")
        if self.high_level is None and (self.fusion != "sum" or self.roll):
            raise ValueError("fusion, roll: need high_level")
        if self.high_level is not None:
            if self.head not in ("cam", "sam"):
                raise ValueError(f"head={self.head!r}: high_level goes with 'cam' or 'sam'")
            if self.fusion == "sum" and self.features != self.deepest:
                raise ValueError(
                    f"outputs={self.outputs!r}: eq. 12 adds up as many maps as the U-Net has at "
                    f"its deepest, {self.deepest}"
                )

    @property
    def deepest(self) -> int:
        """Maps of the U-Net's deepest block: 256."""
        return 8 * self.width

    @property
    def features(self) -> int:
        """Maps that the paper's own trunk gives its head: 256 in all but `pn_samp`."""
        return self.deepest if self.residual else self.outputs

    def maps(self) -> dict[str, tuple[str, bool]]:
        """The maps that a model has: name to the method of `attention`, and whether it is exact.

        The model's own maps come first, and then Grad-CAM, which is there for all. The printed
        maps of eq. 2, 7 and 11 need the head that they are for; exact ones are given for average
        pooling with local weights, as for CAM they are the printed ones divided by the number of
        places.
        """
        high = "" if self.high_level is None else "HE"
        found = {}
        if self.head == "cam":
            name = f"{high}-CAM" if high else "CAM"
            found[name] = (name.lower(), False)
        if self.head == "sam":
            name = f"{high}SAM"
            found[name] = (name.lower(), False)
            if self.pool == "average":
                found[name + EXACT] = (name.lower(), True)
        name = f"{high}-Grad-CAM" if high else "Grad-CAM"
        return found | {name: (name.lower(), False)}


_SAM = Design()
_HESAM = Design(high_level="max")
_COMPARED: tuple[Trunk, ...] = ("resnet18", "resnet34", "vgg16", "densenet121")
# table 4 has 256 maps at the end of the U-Net "for fair comparisons"
_WIDE = Design(outputs=256)
_OURS = {"cam": replace(_SAM, head="cam"), "sam": _SAM, "hesam": _HESAM}

_DESIGNS: dict[str, Design] = {
    # Table 2
    "hesam": _HESAM,
    "sam": _SAM,
    "cam": _OURS["cam"],
    "baseline": Design(head="flat"),
    "pn_samp": Design(head="cam", high_level="average", fusion="concatenate", residual=False),
    "sag_c": Design(trunk="attention_gate", head="own"),
    **{name: Design(trunk=name, head="own") for name in _COMPARED},
    **{f"{name}_cam": Design(trunk=name, head="cam") for name in _COMPARED},
    **{f"{name}_sam": Design(trunk=name, head="sam") for name in _COMPARED},
    # Figure 6
    "hecam": replace(_HESAM, head="cam"),
    # Table 3: pooling of the high-level features, then of the final ones
    "hesam_average_average": Design(high_level="average"),
    "hesam_average_max": Design(high_level="average", pool="max"),
    "hesam_max_max": Design(high_level="max", pool="max"),
    # 4.5.1, 4.5.2
    "hesam_rolled": replace(_HESAM, roll=50),
    "hesam_concatenated": replace(_HESAM, fusion="concatenate"),
    # Table 4
    "unet_sam": replace(_WIDE, residual=False),
    "unet_residual_sam": _WIDE,
    "unet_gmp_sam": replace(_WIDE, residual=False, high_level="max"),
    "unet_gmp_residual_sam": replace(_WIDE, high_level="max"),
    # Appendix C
    "fully_connected": Design(head="fully_connected"),
    # ours: nine ratings; three axes, with half as many maps
    **{f"{name}_ratings": replace(design, ratings=True) for name, design in _OURS.items()},
    **{f"{name}_3d": replace(design, axes=3, width=16) for name, design in _OURS.items()},
}

TABLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "2": {
            "PN-SAMP": "pn_samp",
            "SAG-C": "sag_c",
            "ResNet18": "resnet18",
            "ResNet34": "resnet34",
            "VGG16": "vgg16",
            "DenseNet121": "densenet121",
            "ResNet18-CAM": "resnet18_cam",
            "ResNet34-CAM": "resnet34_cam",
            "VGG16-CAM": "vgg16_cam",
            "DenseNet121-CAM": "densenet121_cam",
            "ResNet18-SAM": "resnet18_sam",
            "ResNet34-SAM": "resnet34_sam",
            "VGG16-SAM": "vgg16_sam",
            "DenseNet121-SAM": "densenet121_sam",
            "Baseline": "baseline",
            "Ours-CAM": "cam",
            "Ours-SAM": "sam",
            "Ours-HESAM": "hesam",
        },
        "3": {
            "GAP / GAP": "hesam_average_average",
            "GAP / GMP": "hesam_average_max",
            "GMP / GMP": "hesam_max_max",
            "GMP / GAP": "hesam",
        },
        "4": {
            "U+SAM (Baseline)": "unet_sam",
            "U+RB+SAM": "unet_residual_sam",
            "U+GMP+SAM": "unet_gmp_sam",
            "U+GMP+RB+SAM": "unet_gmp_residual_sam",
        },
    }
)
"""By table and row of the paper, as in `lesionlab.published`: the variant, on D11C.

The rows of Table 3 are its two columns, high-level / final. "Baseline" of Table 2 is not the "U+SAM
(Baseline)" of Table 4: their numbers differ, and the paper does not say what the former is."""

VARIANTS: Mapping[str, Design] = MappingProxyType(
    _DESIGNS
    | {
        f"{name}_{images.lower()}": replace(_DESIGNS[name], images=images)
        for images in get_args(Images)
        if images != "D11C"
        for table in ("2", "4")
        for name in TABLES[table].values()
    }
)
"""By name. Those of Tables 2 and 4 are there for each image set: `hesam` is on D11C, `hesam_d1c`,
`hesam_d3c` and `hesam_d21c` are the same on the others."""

_ROWS = {variant: row for table in ("4", "3", "2") for row, variant in TABLES[table].items()}
NAMES: Mapping[str, str] = MappingProxyType(
    _ROWS
    | {
        f"{variant}_{images.lower()}": f"{row}, {images}"
        for variant, row in _ROWS.items()
        for images in get_args(Images)
        if f"{variant}_{images.lower()}" in VARIANTS
    }
)
"""By variant, for `lesionlab.tables.show`: what the paper calls its row, in Table 2 if it is there.

`hesam` is both "Ours-HESAM" of Table 2 and "GMP / GAP" of Table 3."""
