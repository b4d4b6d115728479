"""What a classifier would say if the scores that it rests on were other ones: a slider for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionlab import attributes
from lesionlab.explorer import _html, _scene
from lesionlab.figures import _draw as draw
from lesionlab.statistics.scoring import check_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False, repr=False)
class WhatIfPage(_html.Page):
    """The sliders as HTML, which need no kernel, and a picture of each score's effect alone."""

    scores: pd.DataFrame
    log_odds: tuple[float, ...]
    title: str
    outcome: str
    tier: str | None
    state: dict[str, Any] = field(default_factory=dict)
    NAME, ENTRY, MORE = "what-if", "mountWhatIfPage", ("choice.js", "sliders.js")
    BUDGET = 0  # it shows no volume

    def probability(self, **values: float) -> float:
        """What the model says where some scores, by name, have other values."""
        scores = self.scores
        now = scores["predicted"].copy()
        for name, value in values.items():
            now[name] = value
        shift = float((scores["slope"] * (now - scores["predicted"])).sum())
        return float(np.mean(1 / (1 + np.exp(-np.array(self.log_odds) - shift))))

    def data(self, budget: float = inf) -> dict[str, Any]:
        """As `Page.data`."""
        rows = self.scores.assign(title=[attributes.title(str(name)) for name in self.scores.index])
        columns = ["title", "low", "high", "predicted", "readers", "slope"]
        values = rows[columns].astype(object).where(rows[columns].notna(), None)
        return {
            "title": self.title,
            "outcome": self.outcome,
            "tier": _scene.TIERS[self.tier],
            "scores": values.to_dict("records"),
            "log_odds": list(self.log_odds),
        }

    def to_png(self) -> bytes:
        """A picture of the probability where one score after the other has other values."""
        figure, axes = draw.row(len(self.scores), 1.25 * len(self.scores), 2.1, sharey=True)
        for ax, (name, row) in zip(axes, self.scores.iterrows(), strict=True):
            values = np.linspace(row["low"], row["high"], 50)
            ax.plot(values, [self.probability(**{str(name): v}) for v in values], color=draw.BLUE)
            now = row["predicted"]
            ax.plot([now], [self.probability()], "D", color=draw.BLUE)
            if isfinite(row["readers"]):
                ax.axvline(row["readers"], color=draw.ORANGE)
            ax.set_title(attributes.title(str(name)), fontsize=7)
            ax.set(ylim=(0, 1), xticks=[row["low"], row["high"]])
        axes[0].set_ylabel(f"probability of {self.outcome}")
        figure.suptitle(self.title, fontsize=9)
        return draw.png(figure, dpi=100)

    def __repr__(self) -> str:
        return f"WhatIfPage({self.title!r}, {len(self.scores)} scores)"


def what_if(
    scores: pd.DataFrame,
    log_odds: Sequence[float],
    *,
    title: str,
    outcome: str = "malignant",
    tier: str | None = None,
) -> WhatIfPage:
    """Change a model's scores, and watch the class that it concludes from them.

    The model's log odds have to be linear in its scores; the page computes them itself, also where
    there is no kernel.

    Args:
        scores: Index name of a score; columns low and high (ends of its scale), predicted, readers
            (NaN where they gave none) and slope: by how much one step of the score raises the log
            odds.
        log_odds: Those of the model as it is; of several, such as one for each slice, the mean of
            the probabilities counts.
        title: Of whom they are.
        outcome: Whose probability it is.
        tier: What the voxels were.
    """
    check_columns(scores, ["low", "high", "predicted", "readers", "slope"])
    given = tuple(float(odds) for odds in log_odds)
    needed = scores[["low", "high", "predicted", "slope"]].to_numpy(dtype=float)
    if not given or not all(map(isfinite, given)) or not np.isfinite(needed).all():
        raise ValueError("scores, log_odds: expected finite numbers, and one of log_odds or more")
    return WhatIfPage(scores, given, title, outcome, tier)
