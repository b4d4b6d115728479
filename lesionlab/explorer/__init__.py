"""Pictures that can be moved, in JupyterLab and in the published page, by the same JavaScript."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesionlab.explorer.audit import audit_form
    from lesionlab.explorer.bench import workbench
    from lesionlab.explorer.game import be_the_reader
    from lesionlab.explorer.live import LivePage, be_the_attention
    from lesionlab.explorer.scale import atlas
    from lesionlab.explorer.sliders import what_if
    from lesionlab.explorer.volume import VolumePage, view

__all__ = [
    "LivePage", "VolumePage", "atlas", "audit_form", "be_the_attention", "be_the_reader", "view",
    "what_if", "workbench",
]  # fmt: skip

_FILES = ("live", "volume", "scale", "audit", "live", "game", "volume", "sliders", "bench")
_MODULES = dict(zip(__all__, _FILES, strict=True))


def __getattr__(name: str) -> Any:
    # numpy and matplotlib load only where something is shown, torch where a model is asked
    if name in _MODULES:
        return getattr(import_module(f"lesionlab.explorer.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
