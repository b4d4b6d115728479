"""Five papers on the visual attributes of lung lesions in CT, read by running them.

Importing the package touches no file and loads none of torch, pylidc or
matplotlib: every room opens when it is entered, e.g. ``from lesionlab.sources
import lidc``. See ``book/notation.md`` for the names that are used throughout.
"""

__version__ = "0.1.0.dev0"

__all__ = ["__version__"]
