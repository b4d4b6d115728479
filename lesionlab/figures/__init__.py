"""Every plot that a chapter shows.

`from lesionlab import figures` gives `figures.maps`, `figures.models` and the others, each loaded
when it is first used.
"""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name not in ("maps", "models", "numbers", "readers", "realism", "samples"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"lesionlab.figures.{name}")
