"""One attribute's scale: a row of steps to choose from, each with examples in the viewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from lesionlab import colours
from lesionlab.attributes import Attribute, rating
from lesionlab.crops import Crop
from lesionlab.explorer import _html, _png, _scene
from lesionlab.explorer._scene import Scene

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.explorer._widgets import ScaleViewer

MOST_SLICES = 16
"""Of an example with more, every second, third … slice is shown."""


@dataclass(eq=False, repr=False)
class ScalePage(_html.Page):
    """A scale without a kernel: HTML and a PNG; what `atlas` gives where anywidget is missing.

    `scenes` are the examples' voxels by `lesion_id`; one nodule may stand for several steps.
    `steps` is what is shown and said about each step: `code`, `word`, `share` of the readings,
    `text`, and `examples`, each with its `volume` (index in `scenes`), `title`, `notes`.
    """

    attribute: Attribute
    scenes: dict[str, Scene]
    steps: list[dict[str, Any]]
    state: dict[str, Any]
    NAME, ENTRY, MORE = "scale", "mountScalePage", ("choice.js", "scale.js")
    BUDGET = 20_000  # for each example

    @property
    def window(self) -> dict[str, float]:
        """The window that the viewer starts with."""
        return _html.window("soft tissue" if self.attribute.kind == "nominal" else "lung")

    def data(self, budget: float = inf) -> dict[str, Any]:
        """As `Page.data`; `budget` is for each example."""
        names = "" if self.attribute.kind == "ordinal" else " The codes are names without an order."
        return {
            "title": self.attribute.title,
            "meaning": self.attribute.meaning + names,
            "first": self.state["step"],
            "state": self.window,
            "steps": self.steps,
            "volumes": [_html.fitted([s], budget)[0] for s in self.scenes.values()],
        } | colours.palette()

    def to_png(self) -> bytes:
        """A picture of the first example of each step."""
        first, scenes = [], list(self.scenes.values())
        for step in self.steps:
            for example in step["examples"][:1]:
                lines = [f"{step['code']} {step['word']}", *example["title"].split(": ", 1)]
                first.append(replace(scenes[example["volume"]], title="\n".join(lines)))
        state = self.window | {"show_contours": True}
        return _png.sheet(first, state, title=self.attribute.title, columns=3)

    def __repr__(self) -> str:
        name, n_steps, n_nodules = self.attribute.name, len(self.steps), len(self.scenes)
        return f"{type(self).__name__}({name!r}, {n_steps} steps, {n_nodules} nodules)"


def atlas(
    attribute: str,
    examples: pd.DataFrame,
    coverage: pd.DataFrame,
    crops: Mapping[str, Crop],
    *,
    rendered: Mapping[str, Mapping[str, int]] | None = None,
) -> ScaleViewer | ScalePage:
    """Show the steps of an attribute's scale, each with its examples side by side.

        examples, coverage = atlas.examples(readings, "margin"), atlas.coverage(readings, "margin")
        explorer.atlas("margin", examples, coverage, crops)

    HU of an example are rounded in a page where it would take more than 20 KB else, and the viewer
    says by how much.

    Args:
        attribute: One of LIDC's nine ratings.
        examples: As `lesionlab.atlas.examples` gives them. Steps without one are shown as such.
        coverage: As `lesionlab.atlas.coverage` gives it: what is said about each step.
        crops: `lesion_id` to crop, best trimmed (`lesionlab.atlas.trimmed`): a page grows with
            every voxel. An example without a crop is left out, and the step says so.
        rendered: For phantoms: `lesion_id` to the ratings that the voxels were rendered from
            (`lesionlab.sources.phantom.drawn_ratings`).

    Returns:
        A widget, or a `ScalePage` where anywidget is not installed.
    """
    known = rating(attribute)
    wanted = examples[examples["step"].isin(known.codes)].sort_values("step", kind="stable")
    ids = [i for i in dict.fromkeys(wanted["lesion_id"]) if i in crops]
    if not ids:
        raise ValueError(f"crops: expected one for some example of {known.name}, got none")
    scenes = {i: _scene.of(crops[i], most_slices=MOST_SLICES) for i in ids}
    counts: dict[Any, dict[Any, Any]] = coverage.to_dict("index")
    steps = []
    for code in known.codes:
        rows = wanted[wanted["step"] == code].to_dict("records")
        found = [
            {"volume": ids.index(row["lesion_id"]), "title": _title(row, known),
             "notes": _notes(row, known, (rendered or {}).get(row["lesion_id"]))}
            for row in rows if row["lesion_id"] in crops
        ]  # fmt: skip
        step = {"code": code, "word": known.words[code], "share": _percent(counts[code]["share"])}
        text = _said(counts[code], len(found), len(rows) - len(found))
        steps.append(step | {"text": text, "examples": found})
    first_step = next(step["code"] for step in steps if step["examples"])
    page = ScalePage(known, scenes, steps, {"step": first_step})
    return _html.in_kernel(page, "_widgets", "ScaleViewer")  # type: ignore[no-any-return]


def _notes(
    row: Mapping[Any, Any], attribute: Attribute, drawn: Mapping[str, int] | None
) -> list[str]:
    """What the readers of an example said, and what a phantom was rendered from."""
    said = (
        f"reader {i}: {'no rating' if code is None else f'{code} {attribute.words[code]}'}"
        for i, code in enumerate(row["readings"], 1)
    )
    notes = [" · ".join(said)]
    if drawn is None:
        return notes
    if attribute.name in drawn:
        code = drawn[attribute.name]
        other = "" if code == row["step"] else ", which is not this step"
        notes.append(f"rendered from one reader's ratings: {code} {attribute.words[code]}{other}")
    elif attribute.name == "sphericity":
        notes.append("the phantom has the shape of the outlines; the rating itself is not rendered")
    else:
        told = "only the outlines and the other ratings tell of it"
        notes.append(f"{attribute.title.lower()} is not rendered: {told}")
    return notes


def _title(row: Mapping[Any, Any], attribute: Attribute) -> str:
    """Why a nodule stands for a step: how far its readers agree on it, or how far they spread."""
    n, of = row["n_step"], row["n_readers"]
    if of == 1:
        why = "Its only reader gave this step"
    elif n == of:
        why = f"All {of} readers gave this step"
    elif row["kind"] == "agree":
        at_best = "Best agreement found" if n > 1 else "No agreement"
        why = f"{at_best}: {n} of {of} readers gave this step"
    else:
        codes = sorted({code for code in row["readings"] if code is not None})
        ends = codes if attribute.kind == "nominal" else [codes[0], "to", codes[-1]]
        why = f"Furthest apart: readers gave {' '.join(map(str, ends))}"
    return f"{why}: {row['lesion_id']}"


def _said(row: Mapping[Any, Any], n_shown: int, n_left_out: int) -> str:
    if not row["n_readings"]:
        return "Nobody gave this step."
    nodules = "one nodule" if row["n_nodules"] == 1 else f"{row['n_nodules']:,} nodules"
    times = "once" if row["n_readings"] == 1 else f"{row['n_readings']:,} times"
    n = row["n_readers"]
    most = f"Of {n} readers of one nodule, at most {row['most']} gave it."
    words = most if row["most"] else f"In no nodule that has {n} readers did one of them give it."
    if n_left_out:
        words += f" {n_left_out} of its examples have no voxels here."
    elif not n_shown:
        words += " No example was chosen for it."
    return f"Given {times}, in {nodules}. {words}"


def _percent(share: float) -> str:
    if share == 0:
        return "never"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"
