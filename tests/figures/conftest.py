"""What every figure must be."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture(scope="session")
def drawn() -> Callable[..., list[Axes]]:
    """Draw for real, and see that text can be read; gives the axes that show something.

    No text is smaller than 8 pixels where the book shows the figure in its column of 688.
    """

    def draw(figure: Figure) -> list[Any]:
        figure.savefig(io.BytesIO(), format="png", dpi=40)
        shrunk = min(1, 688 / (figure.get_figwidth() * figure.dpi))
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text().strip():
                pixels = text.get_fontsize() * figure.dpi / 72 * shrunk
                assert pixels >= 8, f"{text.get_text()!r} has {pixels:.1f} pixels"
        return [ax for ax in figure.findobj(lambda a: isinstance(a, Axes)) if ax.get_visible()]

    return draw
