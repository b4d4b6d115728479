"""Be the reader: rate some nodules, then see how far you are from their readers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import pandas as pd

from lesionlab import colours
from lesionlab.attributes import RATING_NAMES, Attribute, rating
from lesionlab.crops import Crop
from lesionlab.explorer import _html, _png, _scene
from lesionlab.explorer._scene import Scene
from lesionlab.statistics.agreement import pairwise_difference

if TYPE_CHECKING:
    from lesionlab.explorer._widgets import ReaderGame

Answers = Mapping[str, Mapping[str, int]]
"""`lesion_id` to attribute to code."""

MOST_SLICES = 20
"""Of a nodule with more, every second, third … slice is shown."""

CHOSEN = ("margin", "lobulation", "spiculation", "texture", "malignancy")
"""Attributes that are asked for unless the player chooses others."""

ALL_READERS = "one reader against another, all nodules"

UNSEEN = " Not rendered in phantoms: of it you see no more than size, shape and the other ratings."

HINT = (
    "The nodule is in the middle. The button “Outlines” shows what the readers drew, which says "
    "where its edge is: look without them first. Give what you can; “no answer” counts for nothing."
)


@dataclass(eq=False, repr=False)
class GamePage(_html.Page):
    """The game without a kernel: HTML and a PNG; what `be_the_reader` gives without anywidget.

    `scenes` are by `lesion_id`, in the order in which they are shown.
    """

    scenes: dict[str, Scene]
    readings: pd.DataFrame
    attributes: Sequence[Attribute]
    references: pd.DataFrame
    state: dict[str, Any]
    NAME, ENTRY, MORE = "game", "mountGamePage", ("choice.js", "game.js")
    BUDGET = 16_000  # for each nodule

    @property
    def names(self) -> list[str]:
        """What can be rated, by the names of the columns."""
        return [a.name for a in self.attributes]

    def data(self, budget: float = inf) -> dict[str, Any]:
        """As `Page.data`; `budget` is for each nodule."""
        said = dict(list(self.readings.groupby("lesion_id")))
        tiers = " · ".join(dict.fromkeys(s.tier_text for s in self.scenes.values()))
        unseen = UNSEEN if any(s.tier == "phantom" for s in self.scenes.values()) else ""
        key = zlib.crc32(repr((list(self.scenes), self.names, tiers)).encode())
        return {
            "key": f"{key:08x}",
            "title": f"Be the reader: {len(self.scenes)} nodules",
            "intro": f"What you will see: {tiers}.",
            "hint": HINT,
            "outro": f"What you saw: {tiers}.",
            "chosen": list(self.state["chosen"]),
            "state": _html.window("lung"),
            "references": list(self.references),
            "attributes": [
                {
                    "name": a.name,
                    "title": a.title,
                    "meaning": a.meaning + (unseen if a.name == "malignancy" else ""),
                    "nominal": a.kind == "nominal",
                    "words": list(a.words.items()),
                    "constant": _constant(self.readings, a.name),
                    "references": list(_gaps(self.references).loc[a.name]),
                }
                for a in self.attributes
            ],
            "nodules": [
                {
                    "id": i,
                    "panel": _html.fitted([scene], budget)[0],
                    "readings": _gaps(said[i][self.names].astype("Int64")).to_dict("list"),
                }
                for i, scene in self.scenes.items()
            ],
        } | colours.palette()

    def to_png(self) -> bytes:
        """A picture of the first nodules, and where the game can be played."""
        title = (
            f"Be the reader: {len(self.scenes)} nodules to rate.\n"
            "The game runs in JupyterLab and in the built page."
        )
        state = _html.window("lung") | {"show_contours": False}
        return _png.sheet(list(self.scenes.values())[:4], state, title=title, columns=4)

    def score(self, answers: Answers | None = None) -> pd.DataFrame:
        """`score` of some answers, or of those that the page starts with, and the references."""
        table = score(self.state["answers"] if answers is None else answers, self.readings)
        return table.join(self.references).loc[[n for n in self.names if n in table.index]]

    def check(self, answers: Answers) -> None:
        """Raise for answers about other nodules, or beyond the scale of an attribute."""
        _check(answers, self.scenes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.scenes)} nodules, {len(self.names)} attributes)"


def be_the_reader(
    crops: Sequence[Crop],
    readings: pd.DataFrame,
    *,
    attributes: Sequence[str] = RATING_NAMES,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> ReaderGame | GamePage:
    """Rate nodules one after the other, then see the difference from their readers.

        game = explorer.be_the_reader(crops, readings)
        game.answers          # what was given so far, by lesion and attribute
        game.score()          # the table that the result shows

    The page carries the readers' ratings: whoever looks into its source finds them at once.
    HU of a nodule are rounded in a page where it would take more than 16 KB else, and the viewer
    says by how much.

    Args:
        crops: The nodules in the order in which they are shown, best trimmed
            (`lesionlab.atlas.trimmed`): a page grows with every voxel.
        readings: One row per reading: `lesion_id` and the attributes
            (`lesionlab.sources.lidc.readings`). All of them, not only those of `crops`: what the
            readers' difference is at large, and which answer is given most, comes from here.
        attributes: What can be rated, of LIDC's nine ratings.
        references: More columns of the result, by what stands above them: attribute to a mean
            absolute difference in steps, such as a paper's.

    Returns:
        A widget, or a `GamePage` where anywidget is not installed.
    """
    known = [rating(name) for name in attributes]
    names = [a.name for a in known]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"attributes={list(attributes)}: expected one or more, each once")
    chosen = [n for n in CHOSEN if n in names] or names
    ids = [crop.lesion_id for crop in crops]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"crops: expected one or more, each nodule once, got {ids}")
    if unknown := [i for i in ids if i not in set(readings["lesion_id"])]:
        raise ValueError(f"crops: {unknown[0]} has no row in readings")
    scenes = {c.lesion_id: _scene.of(c, most_slices=MOST_SLICES) for c in crops}
    columns = {ALL_READERS: pairwise_difference(readings, names)["value"]}
    columns |= {str(name): pd.Series(values) for name, values in (references or {}).items()}
    state = {"phase": "start", "reveal": True, "chosen": chosen, "at": 0, "answers": {}, "seen": []}
    page = GamePage(scenes, readings, known, pd.DataFrame(columns, index=names), state)
    return _html.in_kernel(page, "_widgets", "ReaderGame")  # type: ignore[no-any-return]


def score(answers: Answers, readings: pd.DataFrame) -> pd.DataFrame:
    """How far somebody's answers are from the readers', as readers are from each other.

    The measure is the mean absolute difference over all pairs of all nodules (Fu 2021, Table 4,
    row "IB"). What was not answered is not in `answers`; `readings` are those of all nodules.

    Returns:
        Index attribute, only those answered; columns `you` (mean absolute difference from a
        reader, over all pairs of an answer and a reader), `n_nodules`, `n_pairs`, `readers` (the
        same between two readers of these nodules; NaN if none had two), `constant` (the same for
        somebody who always gives `answer`), `answer` (the median of all readings; the commonest
        one where the codes have no order).

        >>> readings = pd.DataFrame({"lesion_id": ["a", "a", "b", "b"], "margin": [1, 2, 5, 5]})
        >>> score({"a": {"margin": 3}, "b": {"margin": 5}}, readings).loc["margin", "you"]
        np.float64(0.75)
    """
    _check(answers, set(readings["lesion_id"]))
    names = [n for n in RATING_NAMES if any(n in own for own in answers.values())]
    rows = {}
    for name in names:
        mine = {i: own[name] for i, own in answers.items() if name in own}
        theirs = readings.loc[readings["lesion_id"].isin(mine), ["lesion_id", name]].dropna()
        constant = _constant(readings, name)
        rows[name] = [
            (theirs["lesion_id"].map(mine) - theirs[name]).abs().mean(),
            theirs["lesion_id"].nunique(),
            len(theirs),
            pairwise_difference(theirs, [name]).loc[name, "value"],
            (theirs[name] - constant).abs().mean(),
            constant,
        ]
    columns = ["you", "n_nodules", "n_pairs", "readers", "constant", "answer"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("attribute")


def _check(answers: Answers, lesion_ids: Any) -> None:
    for lesion_id, own in answers.items():
        if lesion_id not in lesion_ids:
            raise ValueError(f"answers: there is no nodule {lesion_id!r} here")
        for name, code in own.items():
            codes = rating(name).codes
            if code not in codes:
                span = f"{codes[0]} to {codes[-1]}"
                raise ValueError(f"answers: {name} of {lesion_id}: expected {span}, got {code!r}")


def _constant(readings: pd.DataFrame, name: str) -> int:
    """The answer that is best without looking: the median, or the commonest one of names."""
    if rating(name).kind == "nominal":
        return int(readings[name].mode().iloc[0])
    return int(readings[name].quantile(interpolation="lower"))


def _gaps(table: pd.DataFrame) -> pd.DataFrame:
    """None, which JSON knows, in place of what is missing."""
    return table.astype(object).where(table.notna(), None)
