"""The workbench as a widget; needs ipywidgets and anywidget, which the extra `lab` installs."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import partial
from html import escape
from typing import Any

import ipywidgets as w
import pandas as pd

from lesionlab import attributes
from lesionlab.explorer._html import Saved
from lesionlab.explorer._scene import output_word
from lesionlab.explorer._widgets import VolumeViewer, WhatIf
from lesionlab.explorer.bench import (
    AS_IS,
    AS_IT_IS,
    FILLS,
    LABELS,
    RELATIONS,
    UNCHANGED,
    Bench,
    Filter,
    Request,
    Result,
    matching,
)  # fmt: skip
from lesionlab.explorer.volume import VolumePage
from lesionlab.tables import show

log = logging.getLogger(__name__)

MOST_LISTED = 200

NEEDS_KERNEL = (
    "This page has no kernel: it shows one lesion as it was computed. Choosing a lesion, a model "
    "and a map, and changing what the model sees, needs Python: run this notebook in JupyterLab."
)

ALERT = "border-left:4px solid #d55e00;padding:.3rem .7rem;margin:0;white-space:pre-wrap"


class Superseded(BaseException):
    """Ends the computation of a request that a newer one has replaced; nothing went wrong."""


class _Silent(threading.local):
    """While it is entered, controls are set; by thread, as another may click what one sets."""

    now = False

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, *_: Any) -> None:
        self.now = False


class Controls:
    """Widgets by what they are for, those that ask by the fields of a `Request`."""

    def __init__(self) -> None:
        self.model = _field(w.Dropdown, "Model")
        self.method = _field(w.Dropdown, "Map")
        self.about = _field(w.Dropdown, "Rating")
        self.lesion_id = _field(w.Text, "Lesion id", min_width="19rem", continuous_update=False)
        self.column = _field(w.Dropdown, "Filter by")
        self.relation = _field(w.Dropdown, "that is", options=list(RELATIONS))
        self.value = _field(w.Text, "value")
        self.add = _button("Add filter")
        self.filters = w.HBox(layout=w.Layout(flex_flow="row wrap"))
        self.listed = _field(w.Select, "Lesions", flex="none", rows=5)
        self.surroundings = _field(w.Dropdown, LABELS["surroundings"])
        fills = [(f"{name} (−{-hu:g} HU)", name) for name, hu in FILLS.items()]
        self.surroundings.options = [(AS_IS, None), *fills]
        beyond: dict[str, Any] = {"min": 0, "max": 100, "step": 0.5}
        self.margin = _field(w.BoundedFloatText, LABELS["margin"], **beyond)
        self.duplicate = _field(w.Dropdown, LABELS["duplicate"])
        self.reverse = _field(w.Checkbox, LABELS["reverse"], flex="none", indent=False)
        self.mask = _field(w.Dropdown, LABELS["mask"])
        self.undo = _button(LABELS["undo"])
        self.count, self.status, self.alert, self.values = (w.HTML() for _ in range(4))
        seen = [self.surroundings, self.margin, self.duplicate, self.reverse, self.mask, self.undo]
        self.rows = [
            _row("Lesion", self.lesion_id, self.column, self.relation, self.value, self.add),
            self.filters,
            self.count,
            self.listed,
            _row("Model", self.model, self.method, self.about),
            _row("What the model sees", *seen),
            self.status,
            self.alert,
        ]


class Workbench(Saved, w.VBox):  # type: ignore[misc]
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
        for name, table in errors.items():
            rows = table[~table.index.duplicated()].reindex(self.table.index)
            self.table = self.table.assign(**{f"{column}, {name}": rows[column] for column in rows})
        self.filters: tuple[Filter, ...] = ()
        self.error = ""
        self.viewer = VolumeViewer(first)
        self._silent = _Silent()
        self._computing = threading.Lock()  # one request at a time
        self._passing_on = threading.RLock()
        self._newest: threading.Thread | None = None
        self._controls = c = Controls()
        c.model.options = list(bench.models)
        c.column.options = _titled(self.table)
        asks = {one.name: getattr(c, one.name) for one in fields(Request)}
        for name, widget in [*asks.items(), ("lesion_id", c.listed)]:
            widget.observe(partial(self._changed, name), "value")
        c.undo.on_click(lambda _: self._try(lambda: self.ask(**UNCHANGED)))
        c.add.on_click(lambda _: self._try(self._add_filter))
        self._set_controls()
        self._list()
        self._rest("")
        c.values.value = values_html(result)
        self.viewer.layout = w.Layout(flex="1 1 34rem", min_width="0")
        # beside the picture, and where there is no room for that above it
        side = w.Layout(flex_flow="row wrap-reverse", align_items="flex-end")
        self._sliders = w.VBox()
        self._show_sliders()
        super().__init__([*c.rows, w.HBox([self.viewer, c.values], layout=side), self._sliders])

    # -- from Python -------------------------------------------------------------------

    def ask(self, **changes: Any) -> None:
        """Ask for something else; it is computed in the background, and then shown.

        `changes` are fields of a `bench.Request`. Another lesion or model begins with all slices
        in their places. What does not exist raises an error at once. A newer request abandons
        the older ones.
        """
        asked, before = replace(self.request, **changes), self.request
        if asked.model != before.model:
            named = {name: changes.get(name, "") for name in ("method", "about")}
            asked = replace(asked, **named, mask=changes.get("mask"))
        moved = (asked.lesion_id, asked.model) != (before.lesion_id, before.model)
        if moved and "duplicate" not in changes:
            asked = replace(asked, duplicate=None)
        self.request = self.bench.filled(asked)
        self._set_controls()
        arguments: Any = {"args": [self.request], "daemon": True, "name": "workbench"}
        with self._passing_on:
            self._newest = threading.Thread(target=self._compute, **arguments)
            self._newest.start()

    def filter(self, *filters: Filter) -> pd.DataFrame:
        """List the lesions that fulfil all filters, each a column, a relation and a value.

        `("malignancy", "at least", 4)` is one. Returned are the rows of `table`.
        """
        found = matching(self.table, filters)
        self.filters = filters
        self._list()
        return found

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that was asked for is shown; False if that takes longer."""
        if self._newest is None:
            return True
        self._newest.join(timeout)
        return not self._newest.is_alive()

    # -- from the thread ---------------------------------------------------------------

    def _compute(self, request: Request) -> None:
        with self._computing, contextlib.suppress(Superseded):
            try:
                result = self.bench.compute(request, partial(self._pass_on, self._say))
                self._pass_on(self._show, result)
            except Exception as error:  # in showing a result, too
                self._pass_on(self._fail, request, error)

    def _pass_on(self, what: Callable[..., None], *values: Any) -> None:
        """Only what the newest thread says is shown."""
        with self._passing_on:
            if threading.current_thread() is not self._newest:
                raise Superseded
            what(*values)

    def _say(self, words: str) -> None:
        self._controls.status.value = f'<span role="status">{escape(words)}</span>'

    def _show(self, result: Result) -> None:
        request, before, self.result = result.request, self.result.request, result
        place = (request.lesion_id, request.model) == (before.lesion_id, before.model)
        self.viewer.replace(VolumePage(result.scenes), keep_place=place)
        self._controls.values.value = values_html(result)
        self._show_sliders()
        self._set_controls()
        self._rest("")

    def _show_sliders(self) -> None:
        before, page = self._sliders.children, self.result.what_if()
        self._sliders.children = () if page is None else (WhatIf(page),)
        for shown in before:
            shown.close()

    def _fail(self, task: Any, error: Exception) -> None:
        log.info("%s failed", task, exc_info=error)
        words = str(error)
        if not (isinstance(error, ValueError) and words):  # others' words say too little
            words = ": ".join(filter(None, [type(error).__name__, words]))
        self._rest(words)

    def _rest(self, error: str) -> None:
        self.error = error
        shown = self.result.request
        left = f"not computed; shown is still {shown.lesion_id}, {shown.change or 'as it is'}"
        self._say(left if error else "ready")
        alert = f'<p role="alert" style="{ALERT}">{escape(error)}</p>'
        self._controls.alert.value = alert if error else ""

    # -- from the controls -------------------------------------------------------------

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
        self.filter(*self.filters, (c.column.value, c.relation.value, c.value.value))

    # -- to the controls ---------------------------------------------------------------

    def _set_controls(self) -> None:
        c, request = self._controls, self.request
        model = self.bench.models[request.model]
        # as many slices as there are in what is shown
        n = max(len(self.result.before.hu), (request.duplicate or 0) + 1)
        slices = [(f"slice {k + 1} of {n}", k) for k in range(n)]
        with self._silent:
            c.model.value = request.model
            _offer(c.method, _titled(model.methods), request.method)
            _offer(c.about, _titled(model.about), request.about)
            has_classes = any(target.kind != "regression" for target in model.targets)
            c.about.description = "Class" if has_classes else output_word(model.about)
            c.lesion_id.value = request.lesion_id
            _offer(c.listed, list(c.listed.options), request.lesion_id, must=False)
            _offer(c.duplicate, [("no", None), *slices], request.duplicate)
            _offer(c.surroundings, list(c.surroundings.options), request.surroundings)
            edits = [(AS_IT_IS, None), *((name, name) for name in model.edits)]
            _offer(c.mask, edits, request.mask)
            c.mask.disabled = not model.edits
            c.margin.value, c.reverse.value = request.margin, request.reverse
            c.undo.disabled = not request.change

    def _list(self) -> None:
        c, rows = self._controls, matching(self.table, self.filters)
        if self.filters:
            column, relation, _ = self.filters[-1]
            rows = rows.sort_values(column, ascending=relation != "at least", kind="stable")
        options = []
        columns = dict.fromkeys(column for column, *_ in self.filters)
        for lesion, row in rows.head(MOST_LISTED)[list(columns)].iterrows():
            said = (f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in row.items())
            options.append((" · ".join([str(lesion), *said]), str(lesion)))
        with self._silent:
            _offer(c.listed, options, self.request.lesion_id, must=False)
        first = f", the first {MOST_LISTED} listed" if len(rows) > MOST_LISTED else ""
        c.count.value = f"<span>{len(rows):,} of {len(self.table):,} lesions{first}</span>"
        before, made = c.filters.children, []
        for one in self.filters:
            column, relation, value = one
            made.append(_button(f"Remove: {_title(column)} {relation} {value}"))
            others = [other for other in self.filters if other is not one]
            made[-1].on_click(lambda _, others=others: self.filter(*others))
        c.filters.children = made
        for button in before:
            button.close()

    # -- without a kernel --------------------------------------------------------------

    def to_html(self) -> str:
        """What is shown now as one self-contained piece of HTML, without what needs Python."""
        return (
            f'<div class="lesionlab-workbench"><p>{escape(NEEDS_KERNEL)}</p>'
            f'<div style="display:flex;flex-wrap:wrap;gap:0 1rem">'
            f'<div style="flex:1 1 34rem;min-width:0">{self.viewer.to_html()}</div>'
            f'<div style="overflow-x:auto">{values_html(self.result)}</div></div>'
            f"{''.join(shown.to_html() for shown in self._sliders.children)}</div>"
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


def _title(name: str) -> str:
    """A column's name as it is shown: `malignancy, range` is “Malignancy, range”."""
    first, comma, rest = name.partition(",")
    return attributes.title(first).replace("_", " ") + comma + rest


def _titled(names: Iterable[Any]) -> list[tuple[str, str]]:
    """What is shown of each name, and the name."""
    return [(_title(str(name)), str(name)) for name in names]


def _offer(widget: Any, options: list[tuple[str, Any]], value: Any, *, must: bool = True) -> None:
    """Give a list other options, and a value: the first option if it is not among them.

    Nothing is chosen then if `must` is False.
    """
    if list(widget.options) != options:
        widget.options = options
    known = [v for _, v in options]
    # by index: for ipywidgets the value None is no choice, also where it is one of the options
    widget.index = known.index(value) if value in known else 0 if must and known else None


def _field(
    kind: type[Any], name: str, *, flex: str = "1 1 13rem", min_width: str = "11rem", **options: Any
) -> Any:
    layout = w.Layout(width="auto", flex=flex, min_width=min_width)
    return kind(description=name, style={"description_width": "initial"}, layout=layout, **options)


def _row(name: str, *fields: Any) -> Any:
    head = w.HTML(f"<b>{escape(name)}</b>", layout=w.Layout(width="100%"))
    return w.HBox([head, *fields], layout=w.Layout(flex_flow="row wrap", align_items="center"))


def _button(words: str) -> Any:
    return w.Button(description=words, layout=w.Layout(width="auto"))
