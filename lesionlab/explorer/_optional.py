"""Widgets where there is a kernel for them: the extra `lab` installs what they need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

LAB = ("anywidget", "ipywidgets", "traitlets")


def widget(module: str, name: str) -> Any:
    """A widget's class by its module in this room; None where the extra `lab` is not installed.

    Raises:
        ModuleNotFoundError: Something else is missing.
    """
    try:
        found = import_module(f"lesionlab.explorer.{module}")
    except ModuleNotFoundError as error:
        if error.name not in LAB:
            raise
        return None
    return getattr(found, name)
