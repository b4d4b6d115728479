"""Makes pylidc 0.2.3 importable on Python 3.11 to 3.13 with NumPy 2, for those who go on with it.

pylidc uses names that are gone: `np.int`, `np.float`, `configparser.SafeConfigParser`,
`pkg_resources`, `scipy.ndimage.morphology`. They are given back to pylidc's modules alone.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

_GONE_FROM_NUMPY = {"int": int, "float": float, "bool": bool, "object": object}


def import_pylidc(*, dicom_path: str | Path | None = None) -> Any:
    """Import pylidc and return the module; the same one for every call.

    `dicom_path` is the folder that holds the `LIDC-IDRI-xxxx` folders. It takes the place of
    `~/.pylidcrc`, which is neither read nor written. Without it, pylidc works for everything that
    needs no images and says so where it needs them.
    """
    if dicom_path is not None and not Path(dicom_path).is_dir():
        raise NotADirectoryError(f"dicom_path={str(dicom_path)!r} is not a folder")
    with warnings.catch_warnings(action="ignore"), _stand_ins():
        pylidc = importlib.import_module("pylidc")
    old_numpy = types.ModuleType("numpy")
    vars(old_numpy).update(_GONE_FROM_NUMPY, __getattr__=lambda name: getattr(np, name))
    for name, module in list(sys.modules.items()):
        if name.startswith("pylidc.") and getattr(module, "np", None) is np:
            vars(module)["np"] = old_numpy

    def path() -> str:
        if dicom_path is None:
            raise RuntimeError(
                "pylidc was asked for images but not told where they are: "
                "call import_pylidc(dicom_path=…) with the folder of the LIDC-IDRI-xxxx folders"
            )
        return str(dicom_path)

    scan_module = vars(sys.modules["pylidc.Scan"])
    if dicom_path is not None or "_lesionlab_dicom_path" not in scan_module:  # keep an earlier one
        scan_module["_lesionlab_dicom_path"] = dicom_path
        scan_module["_get_dicom_file_path_from_config_file"] = path
    return pylidc


@contextmanager
def _stand_ins() -> Iterator[None]:
    """While pylidc is imported, give it the modules that newer libraries have dropped."""
    packages = types.ModuleType("pkg_resources")
    vars(packages)["resource_filename"] = lambda package, name: str(resources.files(package) / name)
    stand_ins = {"pkg_resources": packages, "scipy.ndimage.morphology": scipy.ndimage}
    added = []
    for name, module in stand_ins.items():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = module
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
