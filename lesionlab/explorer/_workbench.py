"""The workbench as a widget; needs ipywidgets and anywidget, which the extra `lab` installs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from html import escape
from typing import Any

import ipywidgets
import pandas as pd

from lesionlab.explorer import _controls, _filters
from lesionlab.explorer._controls import Controls
from lesionlab.explorer._filters import Filter
from lesionlab.explorer._latest import Latest
from lesionlab.explorer._scene import output_word
from lesionlab.explorer._widgets import VolumeViewer
from lesionlab.explorer.bench import UNCHANGED, Bench, Request, Result
from lesionlab.explorer.volume import VolumePage
from lesionlab.tables import show

log = logging.getLogger(__name__)

MOST_LISTED = 200

NEEDS_KERNEL = (
    "This page has no kernel: it shows one lesion as it was computed. Choosing a lesion, a model "
    "and a map, and changing what the model sees, needs Python: run this notebook in JupyterLab."
)


class _Silent(threading.local):
    """While it is entered, controls are set; by thread, as another may click what one sets."""

    now = False

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, *_: Any) -> None:
        self.now = False


class Workbench(ipywidgets.VBox):  # type: ignore[misc]
    """What `lesionlab.explorer.workbench` gives in a kernel.

    Attributes:
        viewer: The `VolumeViewer` of what was computed last; it stays the same object.
        result, request: What was computed last, and what was asked for last.
        table: The lesions with all that they can be chosen by.
        filters: The conditions that the listed lesions fulfil; set by `filter`.
        error: Why what was asked for last cannot be shown, else "".
    """

    def __init__(
        self, first: VolumePage, bench: Bench, result: Result, errors: Mapping[str, pd.DataFrame]
    ) -> None:
        self.bench, self.result, self.request = bench, result, result.request
        self.table = bench.table()
        self.filters: tuple[Filter, ...] = ()
        self.error = ""
        self.viewer = VolumeViewer(first)
        self._controls = Controls()
        self._silent = _Silent()
        self._latest = Latest(
            bench.compute,
            tell=lambda words: self._controls.say(f"{words} …"),
            done=self._show,
            failed=self._fail,
        )
        self._listen()
        self._add_errors(errors)
        self._set_controls()
        self._list()
        self._controls.values.value = values_html(result)
        self.viewer.layout = ipywidgets.Layout(flex="1 1 34rem", min_width="0")
        # beside the picture, and where there is no room for that above it
        side = ipywidgets.Layout(flex_flow="row wrap-reverse", align_items="flex-end")
        beside = ipywidgets.HBox([self.viewer, self._controls.values], layout=side)
        super().__init__([*self._controls.rows(), beside])

    # -- from Python -------------------------------------------------------------------

    def ask(self, **changes: Any) -> None:
        """Ask for something else; it is computed in the background, and then shown.

        `changes` are fields of a `bench.Request`. Another lesion or model begins with all slices
        in their places. What does not exist raises an error at once.
        """
        asked, before = replace(self.request, **changes), self.request
        if asked.model != before.model:
            named = {name: changes.get(name, "") for name in ("method", "about")}
            asked = replace(asked, **named)
        moved = (asked.lesion_id, asked.model) != (before.lesion_id, before.model)
        if moved and "duplicate" not in changes:
            asked = replace(asked, duplicate=None)
        self.request = self.bench.filled(asked)
        self._set_controls()
        self._latest.submit(self.request)

    def filter(self, *filters: Filter) -> pd.DataFrame:
        """List the lesions that fulfil all of these; gives their rows of `table`."""
        found = _filters.matching(self.table, filters)
        self.filters = filters
        self._list()
        return found

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that was asked for is shown; False if that takes longer."""
        return self._latest.wait(timeout)

    # -- from the thread ---------------------------------------------------------------

    def _show(self, request: Request, result: Result) -> None:
        before, self.result = self.result.request, result
        place = (request.lesion_id, request.model) == (before.lesion_id, before.model)
        self.viewer.replace(VolumePage(result.scenes), keep_place=place)
        self._controls.values.value = values_html(result)
        self._offer_slices()
        self._rest("")

    def _fail(self, task: Any, error: Exception) -> None:
        log.info("%s failed", task, exc_info=error)
        words = str(error)
        # the words of other errors say too little
        self._rest(words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}")

    def _rest(self, error: str) -> None:
        self.error = error
        shown = self.result.request
        left = f"not computed; shown is still {shown.lesion_id}, {shown.change or 'as it is'}"
        self._controls.say(left if error else "ready")
        self._controls.complain(error)

    def _add_errors(self, errors: Mapping[str, pd.DataFrame]) -> None:
        for name, table in errors.items():
            rows = table[~table.index.duplicated()].reindex(self.table.index)
            self.table = self.table.assign(**{f"{column}, {name}": rows[column] for column in rows})
        column = self._controls.column
        _controls.offer(column, _controls.titled(self.table), column.value)

    # -- from the controls -------------------------------------------------------------

    def _listen(self) -> None:
        c = self._controls
        c.model.options = list(self.bench.models)
        asks = {one.name: getattr(c, one.name) for one in fields(Request)}
        for name, widget in [*asks.items(), ("lesion_id", c.listed)]:
            widget.observe(partial(self._changed, name), "value")
        c.undo.on_click(lambda _: self._try(lambda: self.ask(**UNCHANGED)))
        c.add.on_click(lambda _: self._try(self._add_filter))

    def _changed(self, name: str, change: Any) -> None:
        value = change["new"].strip() if isinstance(change["new"], str) else change["new"]
        if name != "lesion_id" or value:  # in the list of lesions nothing may be chosen
            self._try(lambda: self.ask(**{name: value}))

    def _try(self, act: Callable[[], Any]) -> None:
        """What a control asks for; what is wrong with it is said in the widget."""
        if self._silent.now:
            return
        if self.error:
            self._rest("")
        try:
            act()
        except Exception as error:
            self._fail("a control", error)

    def _add_filter(self) -> None:
        c = self._controls
        self.filter(*self.filters, Filter(c.column.value, c.relation.value, c.value.value))

    # -- to the controls ---------------------------------------------------------------

    def _set_controls(self) -> None:
        c, request = self._controls, self.request
        model = self.bench.models[request.model]
        with self._silent:
            c.model.value = request.model
            _controls.offer(c.method, _controls.titled(model.methods), request.method)
            _controls.offer(c.about, _controls.titled(model.about), request.about)
            has_classes = any(target.kind != "regression" for target in model.targets)
            c.about.description = "Class" if has_classes else output_word(model.about)
            c.lesion_id.value = request.lesion_id
            names = [value for _, value in c.listed.options]
            c.listed.value = request.lesion_id if request.lesion_id in names else None
        self._offer_slices()

    def _offer_slices(self) -> None:
        """As many as there are in what is shown."""
        n = max(len(self.result.before.hu), (self.request.duplicate or 0) + 1)
        with self._silent:
            self._controls.set_change(self.request, n)

    def _list(self) -> None:
        rows = _filters.matching(self.table, self.filters)
        if self.filters:
            last = self.filters[-1]
            rises = last.relation != "at least"
            rows = rows.sort_values(last.column, ascending=rises, kind="stable")
        options = []
        columns = dict.fromkeys(one.column for one in self.filters)
        for lesion, row in rows.head(MOST_LISTED)[list(columns)].iterrows():
            said = (f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in row.items())
            options.append((" · ".join([str(lesion), *said]), str(lesion)))
        with self._silent:
            here = self.request.lesion_id
            _controls.offer(self._controls.listed, options, here, must=False)
        self._controls.count(len(rows), len(self.table), min(len(rows), MOST_LISTED))
        self._controls.show_filters(self.filters, self._without)

    def _without(self, number: int) -> None:
        self.filter(*(one for i, one in enumerate(self.filters) if i != number))

    # -- without a kernel --------------------------------------------------------------

    def to_html(self) -> str:
        """What is shown now as one self-contained piece of HTML, without what needs Python."""
        return (
            f'<div class="lesionlab-workbench"><p>{escape(NEEDS_KERNEL)}</p>'
            f'<div style="display:flex;flex-wrap:wrap;gap:0 1rem">'
            f'<div style="flex:1 1 34rem;min-width:0">{self.viewer.to_html()}</div>'
            f'<div style="overflow-x:auto">{values_html(self.result)}</div></div></div>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        shown = super()._repr_mimebundle_(**kwargs) or {}
        own = {"text/html": self.to_html(), "image/png": self.viewer.to_png()}
        return {**shown, **own, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Workbench({', '.join(map(repr, self.bench.models))}, {len(self.table)} lesions)"


def values_html(result: Result) -> str:
    """The predictions before and after as an HTML table."""
    request = result.request
    about = f"after: {request.change}" if request.change else "nothing is changed"
    caption = f"Predicted for {request.lesion_id} by {request.model}; {about}"
    return str(show(result.table(), caption=caption, decimals=3).to_html())
