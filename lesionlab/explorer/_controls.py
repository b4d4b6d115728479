"""The controls of a workbench: what they are called and where they stand, not what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import ipywidgets as w

from lesionlab import attributes
from lesionlab.explorer._filters import RELATIONS, Filter
from lesionlab.explorer.bench import FILLS, Request


def title(name: str) -> str:
    """A column's name as it is shown: `malignancy, range` is “Malignancy, range”."""
    first, comma, rest = name.partition(",")
    return attributes.title(first).replace("_", " ") + comma + rest


def titled(names: Iterable[Any]) -> list[tuple[str, str]]:
    """What is shown of each name, and the name."""
    return [(title(str(name)), str(name)) for name in names]


def offer(widget: Any, options: list[tuple[str, Any]], value: Any, *, must: bool = True) -> None:
    """Give a list other options, and a value: the first option if it is not among them.

    Nothing is chosen then if `must` is False.
    """
    if list(widget.options) != options:
        widget.options = options
    known = [v for _, v in options]
    # by index: for ipywidgets the value None is no choice, also where it is one of the options
    widget.index = known.index(value) if value in known else 0 if must and known else None


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
        self._filters = w.HBox(layout=w.Layout(flex_flow="row wrap"))
        self.listed = _field(w.Select, "Lesions", flex="none", rows=5)
        fills = [(f"{name} (−{-hu:g} HU)", name) for name, hu in FILLS.items()]
        self.surroundings = _field(w.Dropdown, "Surroundings")
        self.surroundings.options = [("as they are", None), *fills]
        beyond: dict[str, Any] = {"min": 0, "max": 100, "step": 0.5}
        self.margin = _field(w.BoundedFloatText, "Surroundings beyond (mm)", **beyond)
        self.duplicate = _field(w.Dropdown, "One slice in all places")
        self.reverse = _field(w.Checkbox, "Reverse the slices", flex="none", indent=False)
        self.undo = _button("Undo the changes")
        self._count, self._status, self._alert, self.values = (w.HTML() for _ in range(4))
        self.say("ready")

    def rows(self) -> list[Any]:
        """All controls, from top to bottom."""
        seen = (self.surroundings, self.margin, self.duplicate, self.reverse, self.undo)
        return [
            _row("Lesion", self.lesion_id, self.column, self.relation, self.value, self.add),
            self._filters,
            self._count,
            self.listed,
            _row("Model", self.model, self.method, self.about),
            _row("What the model sees", *seen),
            self._status,
            self._alert,
        ]

    def set_change(self, request: Request, n_slices: int) -> None:
        """Show what is changed in a stack of so many slices."""
        slices = [(f"slice {k + 1} of {n_slices}", k) for k in range(n_slices)]
        offer(self.duplicate, [("no", None), *slices], request.duplicate)
        offer(self.surroundings, list(self.surroundings.options), request.surroundings)
        self.margin.value, self.reverse.value = request.margin, request.reverse
        self.undo.disabled = not request.change

    def say(self, words: str) -> None:
        """What is going on."""
        self._status.value = f'<span role="status">{escape(words)}</span>'

    def complain(self, words: str) -> None:
        """What went wrong; nothing if empty."""
        style = "border-left:4px solid #d55e00;padding:.3rem .7rem;margin:0;white-space:pre-wrap"
        shown = f'<p role="alert" style="{style}">{escape(words)}</p>'
        self._alert.value = shown if words else ""

    def count(self, found: int, of: int, shown: int) -> None:
        """How many lesions fulfil the filters."""
        first = f", the first {shown} listed" if shown < found else ""
        self._count.value = f"<span>{found:,} of {of:,} lesions{first}</span>"

    def show_filters(self, filters: Sequence[Filter], remove: Callable[[int], None]) -> None:
        """The filters, each with a button that removes it."""
        before, made = self._filters.children, []
        for number, one in enumerate(filters):
            button = _button(f"Remove: {title(one.column)} {one.relation} {one.value}")
            button.on_click(lambda _, number=number: remove(number))
            made.append(button)
        self._filters.children = made
        for button in before:
            button.close()


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
