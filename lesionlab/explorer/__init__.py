"""Pictures that can be moved, in JupyterLab and in the published page, by the same JavaScript."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesionlab.explorer.volume import VolumePage, view

__all__ = ["VolumePage", "view"]


def __getattr__(name: str) -> Any:
    # numpy and matplotlib load only where something is shown
    if name in __all__:
        from lesionlab.explorer import volume

        return getattr(volume, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
