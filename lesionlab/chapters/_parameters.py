"""What a notebook takes: the values it declares, the sets it has, what is typed by hand."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lesionlab._files import read_json
from lesionlab.cli import _names

__all__ = ["check", "known", "parameters", "parse_parameter", "sets", "title"]


def title(path: str | Path) -> str:
    """The first level-one heading of a notebook, or its name if it has none."""
    for cell in _cells(path):
        found = cell["cell_type"] == "markdown" and re.search(r"(?m)^# +(.+)$", _source(cell))
        if found:
            return found[1].strip()
    return Path(path).stem


def parameters(path: str | Path) -> dict[str, Any]:
    """The parameters a notebook declares, with their default values.

    Args:
        path: the notebook. Its one cell tagged ``parameters`` holds lines
            ``name = literal`` and comments, nothing else.

    Returns:
        Name to default, in the order of the cell; empty without such a cell.

    Raises:
        ValueError: if there are several such cells, or one that holds something
            other than literals. Papermill would take both and go on.
    """
    tagged = [c for c in _cells(path) if "parameters" in c["metadata"].get("tags", ())]
    if len(tagged) > 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged 'parameters', one is allowed")
    source = _source(tagged[0]) if tagged else ""
    declared: dict[str, Any] = {}
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(
            f"{path}: the cell tagged 'parameters' is not Python, see its line {error.lineno}"
        ) from None
    for node in statements:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with contextlib.suppress(ValueError):
                    declared[name] = ast.literal_eval(value)
                    continue
        raise ValueError(
            f"{path}: the cell tagged 'parameters' takes lines like 'seed = 0', "
            f"not {ast.unparse(node)!r}"
        )
    return declared


def sets(folder: str | Path, name: str) -> dict[str, dict[str, Any]]:
    """The named sets of parameters of one notebook.

    Args:
        folder: the folder that holds ``sets.yml``.
        name: the notebook.

    Returns:
        Name of the set to its values. ``book`` is always there, and empty unless
        the file says more, since a notebook's defaults are what the book shows.

    Raises:
        ValueError: if the file is not a mapping of notebooks to sets to values.
    """
    file = Path(folder) / "sets.yml"
    try:
        content = _load_yaml(file.read_text(encoding="utf-8")) if file.exists() else None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    named = (content or {}).get(name) or {} if isinstance(content or {}, dict) else None
    if not isinstance(named, dict) or not all(isinstance(v or {}, dict) for v in named.values()):
        raise ValueError(f"{file}: {name} must map sets to parameters, e.g. smoke: {{seed: 1}}")
    found: dict[str, dict[str, Any]] = {"book": {}}
    for chosen, values in named.items():
        found[str(chosen)] = dict(values or {})
    return found


class _Scalars(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, as everywhere else, and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Scalars.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Scalars)  # noqa: S506 - a SafeLoader


def parse_parameter(text: str) -> tuple[str, Any]:
    """Read ``name=value`` as it is given on the command line.

    Args:
        text: the value is YAML: ``seed=3``, ``lr=1e-3``, ``weights=[1, 2]``,
            ``name='03'``.

    Returns:
        Name and value.

    Raises:
        ValueError: if it has another form.

    >>> parse_parameter("weights=[1, 2e-3]")
    ('weights', [1, 0.002])
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ValueError(f"a parameter is given as name=value, got {text!r}")
    try:
        return name.strip(), _load_yaml(value)
    except yaml.YAMLError:
        raise ValueError(f"the value of {name.strip()} is not YAML: {value!r}") from None


def known(kind: str, name: str, names: Iterable[str], where: str) -> None:
    """Refuse a name that does not exist.

    Raises:
        ValueError: naming it, the name that comes closest, and all there are.
    """
    names = list(names)
    if name in names:
        return
    there = f"there are {_names.listed(sorted(names))}" if names else "there are none"
    raise ValueError(f"unknown {kind} {name!r} {where}{_names.close(name, names)}; {there}")


def check(name: str, values: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Check values against the parameters that a notebook declares.

    Args:
        name: the notebook, for the message.
        values: parameter to value.
        declared: parameter to default value.

    Raises:
        ValueError: if a parameter is unknown, or a value is not of its default's type.
    """
    for key, value in values.items():
        known("parameter", key, declared, f"of {name}")
        if not _fits(value, declared[key]):
            kind = type(declared[key]).__name__
            raise ValueError(
                f"parameter {key} of {name} takes a value of type {kind}, got {value!r}"
            )


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind that a parameter's default has.

    An integer fits a float, a list a tuple, and everything fits None; a truth
    value fits nothing but another one.
    """
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple))
    return isinstance(value, type(default))


def _cells(path: str | Path) -> list[dict[str, Any]]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError(f"{path} is not a notebook of format 4")
    return list(content["cells"])


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])  # a string or a list of lines: both are allowed
