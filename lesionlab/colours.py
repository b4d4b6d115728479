"""Colours that stay apart for colour-blind eyes."""

from __future__ import annotations

import numpy as np

# Okabe and Ito's colours, then greys: 14 groups of readings in LIDC-IDRI have more than four
# members.
READER_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#BFBFBF",
)  # fmt: skip

MAP = "viridis"
"""For what is never below zero: lightness rises evenly, in greys too."""

SIGNED_MAP = "PuOr_r"
"""For maps with both signs: purple below zero, orange above, nothing at zero."""


def reader_colours(n_readers: int) -> list[str]:
    """One colour for each reader; the greys repeat after the eighth."""
    return [READER_COLOURS[i % len(READER_COLOURS)] for i in range(n_readers)]


def palette() -> dict[str, object]:
    """What the JavaScript needs: the readers' colours, and maps of one and of both signs.

    A map is a text of 256 × 6 hexadecimal digits.
    """
    from matplotlib import colormaps

    maps = {"map": MAP, "signed": SIGNED_MAP}
    steps = {k: colormaps[name](np.arange(256), bytes=True)[:, :3] for k, name in maps.items()}
    return {"colours": list(READER_COLOURS)} | {k: v.tobytes().hex() for k, v in steps.items()}
