"""A kept model that the reader of a page can wake, to change what it is given of a lesion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import pandas as pd
import torch

from lesionlab import colours
from lesionlab import live as kept_models
from lesionlab.crops import Crop
from lesionlab.explorer import _encoding, _html, _png, _scene
from lesionlab.explorer.bench import AS_IS, FILLS, LABELS, Bench, Request, masked
from lesionlab.explorer.volume import VolumePage

MARGINS = (0.0, 2.0, 5.0)
"""Beyond so many mm of the consensus a page can replace the surroundings."""

FINENESS = 8
"""Steps of a HU in what the model is fed; what the viewer shows is whole HU."""


@dataclass(eq=False, repr=False)
class LivePage(_html.Page):
    """The page's HTML and picture; `scene` is the lesion as it is, with what Python's model says.

    `stacks` are (slice, y, x) HU by surroundings, that of "" as they are. With NaN among them the
    page is a viewer alone, and `asleep` says why.
    """

    scene: _scene.Scene
    model: dict[str, Any]
    stacks: dict[tuple[str, str], _scene.Floats]
    asleep: str = ""
    NAME, ENTRY, MORE = "live", "mountLivePage", ("choice.js", "wake.js", "live.js")
    BUDGET = 0  # always exact

    def __post_init__(self) -> None:
        if n := sum(int((~np.isfinite(values)).sum()) for values in self.stacks.values()):
            self.stacks = {}
            self.asleep = f"{n} voxels that it would be given have no value (NaN or infinite)"
        self.state = VolumePage((self.scene,)).state
        usual = [head for head in self.model["heads"] if head == "malignancy"]
        self.state["head"] = [*usual, self.state["head"]][0]

    def data(self, budget: float = inf) -> dict[str, Any]:
        """As `Page.data`."""
        (panel,) = _html.fitted([self.scene], inf)
        whole = {key: np.rint(values * FINENESS) for key, values in self.stacks.items()}
        ends = [f(values) for f in (np.min, np.max) for values in whole.values()] or [0]
        return colours.palette() | {
            "title": self.scene.title,
            "panel": panel,
            "model": self.model,
            "asleep": self.asleep,
            "hu": {"step": 1 / FINENESS, "low": min(ends) / FINENESS, "high": max(ends) / FINENESS},
            "stacks": [
                {"name": name, "text": text, "values": _encoding.whole_numbers(values)}
                for (name, text), values in whole.items()
            ],
            "fills": list(FILLS.items()),
            "controls": LABELS,
        }

    def to_png(self) -> bytes:
        """As `Page.to_png`."""
        return _png.picture((self.scene,), self.state)

    def __repr__(self) -> str:
        return f"LivePage({self.scene.title!r}, {self.model['name']!r})"


def be_the_attention(
    name: str,
    crop: Crop,
    ratings: pd.DataFrame,
    *,
    data: str = "phantom",
    label: str | None = None,
) -> LivePage:
    """One lesion with what a kept model says of it, and a button that wakes the model in the page.

        explorer.be_the_attention("fu2021/full", store[lesion_id], ratings, label="Fu 2021")

    Woken, the model runs in the reader's browser, where the site has it (`lesionlab.live.build`).
    The reader drops, repeats and reorders slices, paints over a region, cuts HU and replaces the
    surroundings; scores, weights and maps follow. Without it the page is a viewer.

    Args:
        name: Paper and variant, of those in `lesionlab.live.MODELS`.
        crop: The lesion.
        ratings: One row per lesion, as `workbench` takes it.
        data: What the model was trained on.
        label: What the model is called; `name` if None.

    Raises:
        ValueError: There is no such kept model, or it has no form that a page can run.
    """
    kept = kept_models.kept(name, data=data)
    parts, lesion, label = kept.live, crop.lesion_id, label or name
    rows = ratings.loc[[lesion]]
    fold = kept.fold(crop, rows)
    bench = Bench({label: fold}, {lesion: crop}, ratings=rows)
    model, request = bench.models[label], Request(lesion, label)
    card: dict[str, Any] = {"key": kept.key, "name": label, "heads": list(model.about)}
    title = f"{lesion}, {label}"
    result = bench.compute(request)
    with torch.no_grad():
        said = parts.head(parts.trunk(fold.samples.images))
    found = dict(zip(parts.outputs, said, strict=True))["maps"].double().numpy()
    maps = {(result.request.method, h): m for h, m in zip(model.about, found, strict=True)}
    stacks = {("", AS_IS): result.before.hu}
    for fill in FILLS:
        for margin in MARGINS:
            change = replace(request, surroundings=fill, margin=margin)
            stacks[f"{fill}-{margin:g}", change.change] = model.voxels(masked(crop, change))[1]
    scene = replace(result.scenes[0], maps=maps, title=title)
    return LivePage(scene, card | {"columns": list(result.before.predicted)}, stacks)
