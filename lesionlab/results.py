"""What a notebook found, kept as JSON with where it came from.

`lesionlab notebooks run` puts the values into a file beside the executed copy, with the commit, the
versions, the parameters and the data they rest on. In JupyterLab they are only kept in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lesionlab import _names
from lesionlab._files import read_json, write_json

ENVIRONMENT = "LESIONLAB_RESULTS"  # the variable that names the file to collect into
ROOT = Path(__file__).resolve().parents[1]  # where this package lies: a checkout, if at all
TIERS = ("real", "phantom", "private")  # measured and public, rendered, measured and not public

_values: dict[str, Any] = {}
_data: dict[str, dict[str, str | None]] = {}


def record(name: str, value: Any) -> None:
    """Keep one result of the running notebook, in the form that `jsonable` gives it.

    A name such as `"kappa.malignancy"` is lower-case words, digits and underscores, in groups
    separated by dots.

    Raises:
        ValueError: The name has another form; or, while results go to a file, it was recorded with
            another value before. In JupyterLab, where cells are run again, the last value stays.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*", name):
        raise ValueError(f"name must look like 'kappa.malignancy', got {name!r}")
    _keep(_values, name, jsonable(value, name))


def record_data(name: str, *, tier: str, checksum: str | None = None) -> None:
    """Keep the name of a data set that the running notebook rests on, in words with its version.

    `tier` is one of `TIERS`, `checksum` the SHA-256 of the file that was read.
    """
    _names.one_of("tier", tier, TIERS)
    _keep(_data, name, {"tier": tier, "checksum": checksum})


def _keep(store: dict[str, Any], name: str, value: Any) -> None:
    file = os.environ.get(ENVIRONMENT)
    if file and name in store and store[name] != value:
        raise ValueError(f"{name!r} was recorded as {store[name]!r} before, now as {value!r}")
    store[name] = value
    if file:
        # after every value, so that a notebook that fails leaves what it had
        write_json(file, collected())


def collected() -> dict[str, Any]:
    """What this process has recorded: `{"data": [...], "results": {...}}`."""
    return {"data": [{"name": n, **facts} for n, facts in _data.items()], "results": dict(_values)}


def jsonable(value: Any, name: str = "value") -> Any:
    """Put a value into the types that JSON has: dict, list, str, int, float, bool and None.

    NaN and pandas' NA become None, infinities the words `"Infinity"` and `"-Infinity"`. Arrays
    become (nested) lists, dataclasses mappings. A Series becomes a mapping from label to value, a
    DataFrame a list of rows, each a mapping from column to value, its index first unless it only
    numbers the rows.

    Raises:
        TypeError: There is no such form. Paths have none on purpose: they say something about a
            machine, not about a result.
        ValueError: Two keys or labels become the same text.

    >>> import numpy as np
    >>> jsonable({"mae": np.float32(0.5), "curve": np.array([1.0, np.nan])})
    {'mae': 0.5, 'curve': [1.0, None]}
    """
    match value:
        case None | bool():
            return value
        case str():  # also numpy's own
            return str(value)
        case int():
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case float():
            return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case Mapping():
            return _mapping(value.items(), name)
        case list() | tuple():
            return [jsonable(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return _mapping(((field.name, getattr(value, field.name)) for field in fields), name)
    return _from_numpy_or_pandas(value, name)


def _mapping(items: Iterable[tuple[Any, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in items:
        if (text := _label(key)) in found:
            raise ValueError(f"{name} has two entries called {text!r}")
        found[text] = jsonable(item, f"{name}.{text}")
    return found


def _label(key: Any) -> str:
    # several header rows or index levels are a tuple
    return " / ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _from_numpy_or_pandas(value: Any, name: str) -> Any:
    # here, not above: the command line reads results and needs neither
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        # plain labels first, as reset_index refuses categorical columns (pd.crosstab)
        rows = value.set_axis([_label(column) for column in value.columns], axis=1)
        if not isinstance(value.index, pd.RangeIndex) or value.index.name is not None:
            rows = rows.reset_index()
        every = enumerate(rows.itertuples(index=False))
        return [_mapping(zip(rows, row, strict=True), f"{name}[{i}]") for i, row in every]
    if isinstance(value, pd.Series):
        return _mapping(value.items(), name)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufUSO":
        return jsonable(value.tolist(), name)
    if value is pd.NA:
        return None
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise TypeError(f"{name} is of type {kind}, which has no form in JSON")


def provenance(root: str | Path = ROOT, *more: str) -> dict[str, Any]:
    """Say which code and which packages are at work, and nothing about the machine.

    `commit` of the checkout `root` (None outside of git), `dirty` (whether files differ from it or
    are not in it), `platform` and `versions`: of Python, lesionlab, what it depends on, torch, and
    `more` packages; none of one that is not installed.
    """
    told, git = "", shutil.which("git")
    # unpacked inside somebody else's repository, that one's commit would be a lie
    if git and Path(root, ".git").exists():
        command = [git, "-C", str(root), "status", "--porcelain=v2", "--branch"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = re.match(r"# branch\.oid ([0-9a-f]+)\n", told)
    required = [line for line in metadata.requires("lesionlab") or () if "extra ==" not in line]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required]
    versions = {"python": platform.python_version()}
    for name in sorted(["lesionlab", "torch", *names, *more], key=str.lower):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "commit": found and found[1],
        "dirty": any(not line.startswith("#") for line in told.splitlines()) if found else None,
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def read(path: str | Path) -> dict[str, Any]:
    """Read back a results file that `lesionlab notebooks run` wrote; a ValueError if it is none."""
    found = read_json(path)
    # of no notebook is what a command measured
    wanted: dict[str, Any] = {"notebook": (str, type(None)), "set": str, "parameters": dict}
    wanted |= {"data": list, "results": (dict, list)}
    if not isinstance(found, dict) or not wanted.keys() <= found.keys():
        raise ValueError(f"{path} is not a results file: it must have {', '.join(sorted(wanted))}")
    for key, kind in [*wanted.items(), ("seconds", (int, float))]:
        if key in found and not isinstance(found[key], kind):
            got = json.dumps(found[key])[:60]
            raise ValueError(f"{path} is not a results file: it has {key}={got}")
    return found
