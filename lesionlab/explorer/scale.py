"""One attribute's scale: a row of steps to choose from, each with examples in the viewer.

    from lesionlab import atlas, explorer
    examples = atlas.examples(readings, "margin")
    coverage = atlas.coverage(readings, "margin")
    explorer.atlas("margin", examples, coverage, crops)     # crops by lesion_id

Like `lesionlab.explorer.view` it is a widget in a kernel, and self-contained HTML without one. Of
all examples only those of the step shown are unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lesionlab import colours
from lesionlab.attributes import Attribute, rating
from lesionlab.crops import Crop
from lesionlab.explorer import _html, _scene, _sheet, volume
from lesionlab.explorer._optional import widget
from lesionlab.explorer._scene import Scene

if TYPE_CHECKING:
    import pandas as pd

    from lesionlab.explorer._built import ScaleViewer

__all__ = ["ScalePage", "atlas"]

MORE = ("choice.js", "scale.js")
"""The JavaScript that stands on the viewer's."""

EXAMPLE_KB = 20
"""What one example may add to a page, KB, unless `atlas` is told otherwise."""

MOST_SLICES = 16
"""An example with more shows every second, third … slice."""


@dataclass(frozen=True)
class Example:
    """A nodule in the place that it has on a scale.

    Attributes:
        lesion_id: Which nodule.
        title: Why it stands there.
        notes: What its readers said, and what a phantom was rendered from.
    """

    lesion_id: str
    title: str
    notes: tuple[str, ...]


class ScalePage:
    """A scale without a kernel: HTML and a PNG; what `atlas` gives where anywidget is missing.

    Attributes:
        attribute: Whose scale.
        scenes: The examples' voxels by `lesion_id`; one nodule may stand for several steps.
        steps: Code of the step to its examples.
        texts: Code to what is said about the step.
        shares: Code to the share of readings, as text.
        state: Where the viewer's controls stand at first.
        step: The step shown.
        example_kb: As in `atlas`.
    """

    def __init__(
        self,
        attribute: Attribute,
        scenes: Mapping[str, Scene],
        steps: Mapping[int, tuple[Example, ...]],
        *,
        texts: Mapping[int, str],
        shares: Mapping[int, str],
        state: Mapping[str, Any],
        example_kb: float | None,
    ) -> None:
        self.attribute = attribute
        self.scenes = dict(scenes)
        self.steps = dict(steps)
        self.texts = dict(texts)
        self.shares = dict(shares)
        self.state = dict(state)
        self.step = next((code for code, shown in steps.items() if shown), attribute.minimum)
        self.example_kb = example_kb
        self._packed: dict[Any, Any] = {}  # what a kernel and a page both take

    def data(self, *, exact: bool = False) -> dict[str, Any]:
        """All that the JavaScript shows, JSON-ready; `exact` rounds nothing to keep it small."""
        budget = float("inf") if exact or self.example_kb is None else 1000 * self.example_kb
        order = list(self.scenes)
        names = "" if self.attribute.kind == "ordinal" else " The codes are names without an order."
        return {
            "title": self.attribute.title,
            "meaning": self.attribute.meaning + names,
            "first": self.step,
            "state": {k: self.state[k] for k in ("window_centre", "window_width")},
            "steps": [
                {
                    "code": code,
                    "word": self.attribute.words[code],
                    "share": self.shares[code],
                    "text": self.texts[code],
                    "examples": [
                        {"volume": order.index(e.lesion_id), "title": e.title, "notes": e.notes}
                        for e in shown
                    ],
                }
                for code, shown in self.steps.items()
            ],
            "volumes": [_html.fitted(s, budget, self._packed) for s in self.scenes.values()],
        } | colours.palette()

    def to_html(self) -> str:
        """One self-contained piece of HTML; text from outside is escaped."""
        waiting = (
            f"The steps of {self.attribute.title.lower()}, with nodules to scroll through, come "
            "here, in a browser that runs JavaScript."
        )
        content = {"data": self.data(), "state": {"step": self.step}}
        return _html.piece("lesionlab-scale", waiting, content, more=MORE, entry="mountScalePage")

    def to_png(self) -> bytes:
        """A picture of the first example of each step."""
        first = []
        for code, shown in self.steps.items():
            if shown:
                lines = [f"{code} {self.attribute.words[code]}", *shown[0].title.split(": ", 1)]
                scene = self.scenes[shown[0].lesion_id]
                first.append(replace(scene, title="\n".join(lines)))
        return _sheet.sheet(first, self.state, title=self.attribute.title, columns=3)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "image/png": self.to_png(), "text/plain": repr(self)}

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
    window: str | tuple[float, float] | None = None,
    example_kb: float | None = EXAMPLE_KB,
) -> ScaleViewer | ScalePage:
    """Show the steps of an attribute's scale, each with its examples side by side.

    Args:
        attribute: One of LIDC's nine ratings.
        examples: As `lesionlab.atlas.examples` gives them. Steps without one are shown as such.
        coverage: As `lesionlab.atlas.coverage` gives it: what is said about each step.
        crops: `lesion_id` to crop, best trimmed (`lesionlab.atlas.trimmed`): a page grows with
            every voxel. An example without a crop is left out, and the step says so.
        rendered: For phantoms: `lesion_id` to the ratings that the voxels were rendered from
            (`lesionlab.sources.phantom.drawn_ratings`).
        window: As in `lesionlab.explorer.view`; soft tissue for calcification and internal
            structure and lung for the others, if None.
        example_kb: KB of the page for each example; HU outside the outlines are rounded no more
            than that needs, and the viewer says so. None stores every value exactly.

    Returns:
        A widget, or a `ScalePage` where anywidget is not installed.

    Raises:
        LookupError: LIDC has no such rating.
        ValueError: No example has a crop, or an argument has the wrong kind or range.
    """
    known = rating(attribute)
    if example_kb is not None and not example_kb > 0:
        raise ValueError(f"example_kb={example_kb!r}: expected KB above 0, or None")
    counts: dict[Any, dict[Any, Any]] = coverage.to_dict("index")
    steps: dict[int, tuple[Example, ...]] = {}
    texts: dict[int, str] = {}
    for code in known.codes:
        rows = examples[examples["step"] == code].to_dict("records")
        steps[code] = tuple(
            _example(row, known, (rendered or {}).get(row["lesion_id"]))
            for row in rows
            if row["lesion_id"] in crops
        )
        n_shown = len(steps[code])
        texts[code] = _said(counts[code], n_shown, len(rows) - n_shown)
    ids = dict.fromkeys(e.lesion_id for shown in steps.values() for e in shown)
    if not ids:
        raise ValueError(f"crops: expected one for some example of {known.name}, got none")
    scenes = {i: _scene.thinned(_scene.of(crops[i]), MOST_SLICES) for i in ids}
    first = next(iter(scenes.values()))
    if window is None:
        window = "soft tissue" if known.kind == "nominal" else "lung"
    centre, width = volume.window_of(window, first)
    page = ScalePage(
        known,
        scenes,
        steps,
        texts=texts,
        shares={code: _percent(counts[code]["share"]) for code in known.codes},
        state=volume.state_of((first,)) | {"window_centre": centre, "window_width": width},
        example_kb=example_kb,
    )
    made_of: type[ScaleViewer] | None = widget("_built", "ScaleViewer")
    return page if made_of is None else made_of(page)


def _example(
    row: Mapping[Any, Any], attribute: Attribute, drawn: Mapping[str, int] | None
) -> Example:
    lesion_id = str(row["lesion_id"])
    title = f"{_heading(row, attribute)}: {lesion_id}"
    said = " · ".join(
        f"reader {i}: {'no rating' if code is None else f'{code} {attribute.words[code]}'}"
        for i, code in enumerate(row["readings"], 1)
    )
    notes = [said]
    if drawn is not None and attribute.name in drawn:
        code = drawn[attribute.name]
        other = "" if code == row["step"] else ", which is not this step"
        notes.append(f"rendered from one reader's ratings: {code} {attribute.words[code]}{other}")
    elif drawn is not None and attribute.name == "sphericity":
        notes.append("the phantom has the shape of the outlines; the rating itself is not rendered")
    elif drawn is not None:
        told = "only the outlines and the other ratings tell of it"
        notes.append(f"{attribute.title.lower()} is not rendered: {told}")
    return Example(lesion_id, title, tuple(notes))


def _heading(row: Mapping[Any, Any], attribute: Attribute) -> str:
    """Why a nodule stands for a step: how far its readers agree on it, or how far they spread."""
    n, of = row["n_step"], row["n_readers"]
    if of == 1:
        return "Its only reader gave this step"
    if n == of:
        return f"All {of} readers gave this step"
    if row["kind"] == "agree":
        at_best = "Best agreement found" if n > 1 else "No agreement"
        return f"{at_best}: {n} of {of} readers gave this step"
    codes = sorted({code for code in row["readings"] if code is not None})
    ends = codes if attribute.kind == "nominal" else [codes[0], "to", codes[-1]]
    return f"Furthest apart: readers gave {' '.join(map(str, ends))}"


def _said(row: Mapping[Any, Any], n_shown: int, n_left_out: int) -> str:
    if not row["n_readings"]:
        return "Nobody gave this step."
    nodules = "one nodule" if row["n_nodules"] == 1 else f"{row['n_nodules']:,} nodules"
    times = "once" if row["n_readings"] == 1 else f"{row['n_readings']:,} times"
    n = row["n_readers"]
    words = [f"Given {times}, in {nodules}."]
    if row["most"]:
        words.append(f"Of {n} readers of one nodule, at most {row['most']} gave it.")
    else:
        words.append(f"In no nodule that has {n} readers did one of them give it.")
    if n_left_out:
        words.append(f"{n_left_out} of its examples have no voxels here.")
    elif not n_shown:
        words.append("No example was chosen for it.")
    return " ".join(words)


def _percent(share: float) -> str:
    if share == 0:
        return "never"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"
