"""A drawing of the network of Fu 2021 (its figure 2), from the network itself."""

from __future__ import annotations

import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from lesionlab.figures.readers import BLUE, GREEN, ORANGE, _figure
from lesionlab.papers.fu2021 import Network

PLAIN = "#666666"
PARTS = (
    ("CNN", "backbone", PLAIN, "256\nper slice", ""),
    ("SAM", "slices", BLUE, "256", "one weight\nper slice"),
    ("ASCMM", "modulation", GREEN, "9 ×\n256", "9 auxiliary scores\n(training only)"),
    ("CAAM", "attention", ORANGE, "9 ×\n256", "9 × 9 weights"),
    ("output", "heads", PLAIN, "9\nscores", ""),
)
"""The paper's name, ours in `Network`, a colour, what comes out for one nodule, and what beside."""


def architecture(network: Network) -> Figure:
    """The parts of the full network in the order in which a nodule passes them.

    Args:
        network: Whose classes and numbers of parameters are written into the boxes.

    Raises:
        ValueError: It is not the full network.
    """
    figure = _figure(7.2, 2.1)
    ax: Axes = figure.subplots()
    ax.set(xlim=(-0.78, 5.05), ylim=(-1.25, 0.85))
    ax.axis("off")
    arrow = {"arrowstyle": "->", "color": PLAIN}
    ax.annotate("", (0, 0), (-0.75, 0), arrowprops=arrow)
    ax.text(-0.42, 0.12, "64 × 64\nper slice", ha="center", fontsize=8)
    for x, (name, attribute, colour, out, beside) in enumerate(PARTS):
        part = getattr(network, attribute)
        if not isinstance(part, nn.Module):
            raise ValueError(f"network: expected the full one, got one without {name}")
        ours = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", type(part).__name__)
        count = sum(p.numel() for p in part.parameters())
        ax.text(x + 0.3, 0.62, name, ha="center", fontsize=10, fontweight="bold", color=colour)
        ax.text(x + 0.3, 0, f"{ours}\n{count:,}", ha="center", va="center", fontsize=8,
                bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": colour})  # fmt: skip
        ax.annotate("", (x + 1, 0), (x + 0.62, 0), arrowprops=arrow)
        ax.text(x + 0.82, 0.12, out, ha="center", fontsize=8)
        if beside:
            ax.annotate("", (x + 0.3, -0.82), (x + 0.3, -0.5), arrowprops=arrow)
            ax.text(x + 0.3, -0.87, beside, ha="center", va="top", fontsize=8)
    return figure
