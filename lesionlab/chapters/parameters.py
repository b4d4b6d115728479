"""What a notebook takes: the parameters it declares, the sets it has, and values typed by hand."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lesionlab import _names, results
from lesionlab._files import read_json


def title(path: str | Path) -> str:
    """The first level-one heading of a notebook, or its name if it has none."""
    text = [_source(cell) for cell in _cells(path) if cell["cell_type"] == "markdown"]
    found = re.search(r"(?m)^# +(.+)$", "\n".join(text))
    return found[1].strip() if found else Path(path).stem


def declared(path: str | Path) -> dict[str, Any]:
    """The parameters a notebook declares, with their default values, in the order of the cell.

    Raises:
        ValueError: There are several cells tagged `parameters`, or one holds something other than
            comments and lines `name = literal`. Papermill would accept both and inject values that
            nothing reads.
    """
    tagged = [c for c in _cells(path) if "parameters" in c["metadata"].get("tags", ())]
    if len(tagged) > 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged 'parameters', one is allowed")
    found: dict[str, Any] = {}
    try:
        for node in ast.parse(_source(tagged[0]) if tagged else "").body:
            (target,) = node.targets  # type: ignore[attr-defined]
            found[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
        _check_form(found)
    # the last three: an unhashable key, and thousands of brackets or signs
    except (SyntaxError, AttributeError, ValueError, TypeError, RecursionError, MemoryError) as why:
        told = f"{path}: the cell tagged 'parameters' takes only lines like 'seed = 0'"
        raise ValueError(f"{told}: {why}") from None
    return found


def _cells(path: str | Path) -> list[dict[str, Any]]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError(f"{path} is not a notebook of format 4")
    for i, cell in enumerate(content["cells"], 1):
        if not _is_cell(cell):
            told = f"cell {i}: expected an object with cell_type, source and metadata"
            got = json.dumps(cell)[:60]
            raise ValueError(f"{path} is not a notebook of format 4: {told}, got {got}")
    return list(content["cells"])


def _is_cell(cell: Any) -> bool:
    match cell:
        case {"cell_type": str(), "source": str() | list() as source, "metadata": dict(about)}:
            tags = about.get("tags", [])
            return isinstance(tags, list) and all(isinstance(t, str) for t in [*source, *tags])
    return False


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])  # a string or a list of lines: the format allows both


def sets(folder: str | Path, name: str) -> dict[str, dict[str, Any]]:
    """The named sets of parameters of one notebook, from `sets.yml` in a folder.

    There is always a set `book`; it is empty unless the file says more, because the book shows a
    notebook's defaults.
    """
    file = Path(folder) / "sets.yml"
    found: dict[str, dict[str, Any]] = {"book": {}}
    try:
        content = _load(file.read_text(encoding="utf-8")) if file.exists() else None
        for chosen, values in ((content or {}).get(name) or {}).items():
            found[str(chosen)] = dict(values or {})
    except (AttributeError, TypeError, ValueError) as error:
        why = f"; {error}" if isinstance(error, ValueError) else ""
        told = f"{file}: expected YAML like {name}: {{smoke: {{seed: 1}}}}"
        raise ValueError(told + why) from None
    return found


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-3` is a number, as in Python; in YAML 1.1 it is text.

    There are no aliases: a line of them, each a list of the one before, stands for gigabytes.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            name = self.peek_event().anchor  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"an alias, *{name}, is not allowed")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _load(text: str) -> Any:
    """YAML that has a form in JSON; a ValueError says in a line what is wrong."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        _check_form(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # the last three: what yaml raises for a tag that does not fit, such as !!bool maybe
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        why = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(why) from None
    return value


def _check_form(value: Any) -> None:
    """Raise for a value that has no form in JSON, in which a run keeps it."""
    json.dumps(results.jsonable(value))


def parse(text: str) -> tuple[str, Any]:
    """Read `name=value` as it is given on the command line; the value is YAML.

    >>> parse("weights=[1, 2e-3]")
    ('weights', [1, 0.002])
    """
    name, equals, value = text.partition("=")
    told = f"a parameter is given as name=value, the value as YAML; got {text[:80]!r}"
    if not equals or not name.strip().isidentifier():
        raise ValueError(told)
    try:
        return name.strip(), _load(value)
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from None


def check(name: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check values against the parameters, with their defaults, that the notebook `name` declares.

    Raises:
        ValueError: A parameter is unknown, or a value is not of its default's type. An integer
            fits a float, a list fits a tuple, and everything fits None.
    """
    also: dict[type, Any] = {float: (int, float), list: (list, tuple), tuple: (list, tuple)}
    for key, value in values.items():
        _names.known("parameter", key, known, f"of {name}")
        kind = type(known[key])
        # to Python, a bool is an int
        fits = isinstance(value, bool) == (kind is bool) and isinstance(value, also.get(kind, kind))
        if known[key] is not None and not fits:
            raise ValueError(
                f"parameter {key} of {name} takes a value of type {kind.__name__}, got {value!r}"
            )
