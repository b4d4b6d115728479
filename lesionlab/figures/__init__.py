"""Every plot that a chapter shows.

`from lesionlab import figures` gives `figures.maps`, `figures.models` and the others, each loaded
when it is first used.
"""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"lesionlab.figures.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"lesionlab.figures.{name}":
            raise
        raise AttributeError(f"lesionlab.figures has no module {name!r}") from None
