"""What is built on the viewer, as widgets; needs anywidget, which the extra `lab` installs."""

from __future__ import annotations

from typing import Any

import anywidget
import pandas as pd
import traitlets

from lesionlab.explorer import _html
from lesionlab.explorer.game import MORE as GAME
from lesionlab.explorer.game import STATE, GamePage, check
from lesionlab.explorer.scale import MORE as SCALE
from lesionlab.explorer.scale import ScalePage


class _Built(anywidget.AnyWidget):
    """A widget whose output carries HTML and a picture of where it stands now."""

    _data = traitlets.Dict().tag(sync=True)
    _page: Any

    def to_html(self) -> str:
        """One self-contained piece of HTML that starts where this widget stands now."""
        html: str = self._now().to_html()
        return html

    def to_png(self) -> bytes:
        """A picture of what this widget is about."""
        png: bytes = self._page.to_png()
        return png

    def _now(self) -> Any:
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        shown = super()._repr_mimebundle_(**kwargs)
        data, metadata = shown if shown else ({}, {})
        own = {"text/html": self.to_html(), "image/png": self.to_png(), "text/plain": repr(self)}
        return data | own, metadata

    def __repr__(self) -> str:
        return repr(self._page).replace(type(self._page).__name__, type(self).__name__, 1)


class ScaleViewer(_Built):
    """What `lesionlab.explorer.atlas` gives in a kernel.

    Attributes:
        step: The step whose examples are shown; can be set, and read after the reader has moved.
    """

    step = traitlets.Int().tag(sync=True)

    def __init__(self, page: ScalePage) -> None:
        self._page = page
        self._esm = _html.script(*SCALE)
        super().__init__(_data=page.data(exact=True), step=page.step)

    @traitlets.validate("step")
    def _check_step(self, proposal: Any) -> int:
        attribute = self._page.attribute
        value = int(proposal["value"])
        if value not in attribute.codes:
            raise ValueError(f"step={value}: expected {attribute.minimum} to {attribute.maximum}")
        return value

    def _now(self) -> ScalePage:
        self._page.step = self.step
        page: ScalePage = self._page
        return page


class ReaderGame(_Built):
    """What `lesionlab.explorer.be_the_reader` gives in a kernel.

    Traits can be set, and read while somebody plays.

    Attributes:
        answers: `lesion_id` to attribute to code, what was given so far.
        chosen: Attributes that are asked for.
        reveal: Whether the readers are shown after each nodule, or at the end only.
        phase: `start`, `rate` or `result`.
        at: Index of the nodule that is rated.
        seen: Ids of nodules whose readers have been shown; their answers stand.
    """

    answers = traitlets.Dict().tag(sync=True)
    chosen = traitlets.List(traitlets.Unicode()).tag(sync=True)
    reveal = traitlets.Bool().tag(sync=True)
    phase = traitlets.Enum(["start", "rate", "result"]).tag(sync=True)
    at = traitlets.Int().tag(sync=True)
    seen = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, page: GamePage) -> None:
        self._page = page
        self._esm = _html.script(*GAME)
        state = {name: page.state[name] for name in STATE}
        super().__init__(_data=page.data(exact=True), **state)

    def score(self) -> pd.DataFrame:
        """The result of the answers so far, as `lesionlab.explorer.game.score` gives it."""
        page: GamePage = self._page
        return page.score(self.answers)

    @traitlets.validate("answers")
    def _check_answers(self, proposal: Any) -> Any:
        check(proposal["value"], set(self._page.scenes))
        return proposal["value"]

    @traitlets.validate("chosen")
    def _check_chosen(self, proposal: Any) -> Any:
        if unknown := [n for n in proposal["value"] if n not in self._page.names]:
            known = ", ".join(self._page.names)
            raise ValueError(f"chosen={unknown}: expected some of {known}")
        return proposal["value"]

    @traitlets.validate("at")
    def _check_at(self, proposal: Any) -> int:
        value, last = int(proposal["value"]), len(self._page.scenes) - 1
        if not 0 <= value <= last:
            raise ValueError(f"at={value}: expected 0 to {last}")
        return value

    def _now(self) -> GamePage:
        page: GamePage = self._page
        page.state |= {name: getattr(self, name) for name in STATE}
        return page
