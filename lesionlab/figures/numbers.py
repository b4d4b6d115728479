"""Printed numbers as pictures."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from lesionlab.figures import _draw


@_draw.styled
def between(rows: Mapping[str, tuple[float, float, float]]) -> Figure:
    """Each row's accuracy as a dot, on the line from its specificity to its sensitivity.

    Args:
        rows: By the name of the row: accuracy, sensitivity and specificity, in %. A dot is empty
            where the accuracy is not between the other two.
    """
    figure, (ax,) = _draw.row(1, 6.5, 0.9 + 0.3 * len(rows))
    for i, (accuracy, sensitivity, specificity) in enumerate(rows.values()):
        low, high = sorted((sensitivity, specificity))
        ax.plot([low, high], [i, i], color="0.6", linewidth=4, solid_capstyle="butt")
        inside = low <= accuracy <= high
        ax.plot(accuracy, i, "o", color="black", fillstyle="full" if inside else "none")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlabel="%", ylim=(len(rows) - 0.5, -0.5))
    return figure
