"""Stores of crops in the cache folder: what is there, and which one a name means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lesionlab.crops import _crop_files
from lesionlab.crops._dataset_recipes import NAMES, Recipe, open_recipe, unknown
from lesionlab.crops._folders import open_folder
from lesionlab.sources.lidc._tables import cache_folder


@dataclass(frozen=True)
class Cached:
    """A store in the cache folder, by what is seen without opening it.

    Attributes:
        path: Its folder.
        name: The data set, "" if the store is damaged.
        seed: Of the phantoms; None for other data sets.
        lesions: How many are stored.
        expected: How many it is to hold, with those left out.
        complete: Whether its build came to its end.
        bytes: On the disk.
        current: Whether this version of lesionlab would make the same.
        modified: When it was begun or changed last, seconds since 1970.
        problem: What is wrong with it, or "".
    """

    path: Path
    name: str = ""
    seed: int | None = None
    lesions: int = 0
    expected: int = 0
    complete: bool = False
    bytes: int = 0
    current: bool = False
    modified: float = 0.0
    problem: str = ""


def cached() -> list[Cached]:
    """All stores in the cache folder, by name; opens none of them."""
    folder = stores_folder()
    if not folder.is_dir():
        return []
    return [_look(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def _look(path: Path) -> Cached:
    folder = open_folder(path)
    try:
        names = folder.names()
        root = path / _crop_files.ROOT
        header = _crop_files.header(root.read_bytes(), str(path))
        told = header["provenance"]
        sizes = folder.sizes("hu") | folder.sizes("masks")
        lesions = {name.split("/")[1] for name in sizes if name.count("/") == 2}
        name = str(told.get("dataset", ""))
        return Cached(
            path=path,
            name=name,
            seed=told.get("seed"),
            lesions=len(lesions),
            expected=len(header["expected"]),
            complete=_crop_files.COMPLETE in names,
            bytes=sum(sizes.values()),
            current=name in NAMES and told.get("code") == open_recipe(name).code,
            modified=root.stat().st_mtime,
        )
    except (OSError, ValueError) as error:
        return Cached(path, problem=str(error))


def locate(what: str, seed: int | None = None) -> str:
    """The URL of a store: `what` itself, or, for the name of a data set, the store in the cache.

    Args:
        what: One of `NAMES`, or a folder or URL. A folder of that name is meant by `./phantom`.
        seed: Which of several stores of phantoms.

    Returns:
        Of several stores the one that this version of lesionlab makes, and the latest.

    Raises:
        FileNotFoundError: There is no store of that data set.
        ValueError: It is neither a data set nor something that could be a folder.
    """
    if what in NAMES:
        found = [c for c in cached() if c.name == what and seed in (None, c.seed)]
        if not found:
            of_seed = "" if seed is None else f" of seed {seed}"
            raise FileNotFoundError(
                f"there is no store of {what}{of_seed} in {stores_folder()}: "
                f"lesionlab data build {what}"
            )
        return str(max(found, key=lambda c: (c.current, c.modified)).path)
    plain = not any(sign in what for sign in "/\\:.")
    if plain and not Path(what).exists():
        raise ValueError(f"{unknown(what)}; or give the folder or URL of a store")
    return what


def stores_folder() -> Path:
    """The folder in the cache folder that holds them."""
    return cache_folder() / "stores"


def place_of(recipe: Recipe) -> str:
    """Where the store of a data set is kept."""
    seed = "" if recipe.seed is None else f"-seed{recipe.seed}"
    return str(stores_folder() / f"{recipe.name}{seed}-{recipe.key[:12]}")
