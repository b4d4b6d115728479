"""The data sets by name: crops of any of them, built when first asked for and kept.

    from lesionlab.crops import datasets
    store = datasets.crops("phantom", seed=0)             # a CropStore, in the cache folder
    store = datasets.crops("slices", cohorts.fu2021(lidc.nodules()).table.index)
    datasets.report("slices")                             # what of the set matched

Whatever the source, the rest of the library gets a `CropStore` with the crops
by `lesion_id`. A store carries in its provenance what decides over its voxels: data set, seed,
checksums of the database, of the public set and of the code that makes the crops. The place in the
cache follows from these, so that an old store is never taken for a new one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionlab.crops import stores as stores
from lesionlab.crops._dataset_cache import Cached, cached, locate, place_of
from lesionlab.crops._dataset_recipes import NAMES, Recipe, open_recipe
from lesionlab.crops._dataset_recipes import report as report
from lesionlab.crops._folders import Url, open_folder
from lesionlab.crops.stores import CropStore

__all__ = [
    "COHORTS",
    "NAMES",
    "Built",
    "Cached",
    "build",
    "cached",
    "choose",
    "crops",
    "default_url",
    "locate",
    "report",
]

logger = logging.getLogger(__name__)

COHORTS = ("fu2021", "liu2020", "lei2020")
"""Cohorts that `choose` knows, as in `lesionlab.cohorts`."""

FEW = 100
"""Up to so many crops are made in one process: starting others takes longer."""

MOST_PROCESSES = 3
"""Processes taken unasked: each needs 0.35 GB, and a build is to stay below 1.5 GB."""


@dataclass(frozen=True)
class Built:
    """What came of a build.

    Attributes:
        store: The complete store, to read.
        made: Crops that were made now; the others had been there.
        seconds: How long it took.
    """

    store: CropStore
    made: int
    seconds: float


def default_url(name: str, seed: int = 0, *, source: str | Path | None = None) -> str:
    """Where the store of a data set is kept: a folder in the cache folder.

    Its name carries the seed, for rendered data sets, and a checksum of the provenance.

    Args:
        name: One of `NAMES`.
        seed: Of the phantoms; other data sets have none.
        source: As in `crops`.

    Raises:
        ValueError: There is no such data set, or an argument is wrong.
        FileNotFoundError: The source has to be read for its checksum, and is not set up.
    """
    return place_of(open_recipe(name, seed=seed, source=source))


def crops(
    name: str,
    lesion_ids: Iterable[str] | None = None,
    *,
    seed: int = 0,
    source: str | Path | None = None,
    url: Url | None = None,
    processes: int | None = None,
    progress: bool = True,
    patience: float = 300.0,
) -> CropStore:
    """A store that holds the lesions asked for; those that it lacks are made first.

    Args:
        name: One of `NAMES`.
        lesion_ids: Which lesions; all of the data set if None. The store can hold more, so go
            through `store.crops(lesion_ids)`.
        seed: Of the phantoms; other data sets have none.
        source: The slices set (a folder or its zip) or the folder above the DICOM scans; the
            environment says where if None (`LESIONLAB_LIDC_SLICES`, `LESIONLAB_LIDC_DICOM`).
        url: Where the store is or shall be; `default_url` if None.
        processes: How many make crops; by the number of crops and of cores if None.
        progress: Show a bar while crops are made.
        patience: Seconds to wait while another process writes to the store.

    Returns:
        The store, to read. A lesion that the source does not have, or that cannot be cut, is
        missing and stands in `store.exclusions` with the reason; it is not tried again here, but
        by `build`.

    Raises:
        ValueError: There is no such data set or lesion, or the store there was made otherwise.
        FileNotFoundError: The source is not set up.
        RuntimeError: Another process still writes, or a crop cannot be made (`BuildError`).
        OSError: The store cannot be written.
    """
    recipe = open_recipe(name, seed=seed, source=source)
    wanted = _wanted(recipe, lesion_ids)
    place = url if url is not None else place_of(recipe)
    store = _existing(place, recipe)
    if store is not None and all(i in store or i in store.exclusions for i in wanted):
        return store
    return _build(recipe, place, wanted, processes, False, progress, patience).store


def build(
    name: str,
    lesion_ids: Iterable[str] | None = None,
    *,
    seed: int = 0,
    source: str | Path | None = None,
    url: Url | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Built:
    """Build a store, or go on with it, and try again what an earlier build had to leave out.

    Lesions that the store holds already stay in it, asked for or not. Arguments and errors as in
    `crops`; a store that another process writes is an error at once.
    """
    recipe = open_recipe(name, seed=seed, source=source)
    place = url if url is not None else place_of(recipe)
    return _build(recipe, place, _wanted(recipe, lesion_ids), processes, True, progress, 0.0)


def choose(
    name: str,
    *,
    file: str | Path | None = None,
    cohort: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[str] | None:
    """Lesions of a data set by a list in a file, by a paper's cohort, or the first ones.

    Args:
        name: One of `NAMES`.
        file: Text or CSV, one `lesion_id` at the beginning of each line; empty lines, those that
            begin with `#` and a heading `lesion_id` are passed over.
        cohort: One of `COHORTS`.
        limit: No more than so many, the first in the order of the data set.
        seed: Of the phantoms.

    Returns:
        The ids in the order of the data set; None for all of them.

    Raises:
        ValueError: An id is not of the data set, or an argument is wrong.
        FileNotFoundError: There is no such file.
    """
    if file is not None and cohort is not None:
        raise ValueError("lesions and cohort: expected one of the two, got both")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r}: expected a whole number of at least 1")
    if file is None and cohort is None and limit is None:
        return None
    recipe = open_recipe(name, seed=seed)
    wanted: Iterable[str] | None = None
    if file is not None:
        wanted = _read_ids(Path(file))
    if cohort is not None:
        wanted = _cohort(recipe, cohort)
    return _wanted(recipe, wanted)[:limit]


def _cohort(recipe: Recipe, cohort: str) -> list[str]:
    from lesionlab import cohorts
    from lesionlab.sources import lidc

    if cohort not in COHORTS:
        raise ValueError(f"unknown cohort {cohort!r}; there are {', '.join(COHORTS)}")
    if not recipe.of_lidc:
        raise ValueError(f"cohort={cohort!r}: a cohort of LIDC-IDRI, and {recipe.name} is not")
    found: cohorts.Cohort = getattr(cohorts, cohort)(lidc.nodules())
    return found.table.index.tolist()


def _read_ids(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from None
    first = (line.partition(",")[0].strip().strip("\"'") for line in lines)
    ids = [i for i in first if i and not i.startswith("#") and i != "lesion_id"]
    if not ids:
        raise ValueError(f"{path}: expected a lesion_id on each line, got none")
    return ids


def _wanted(recipe: Recipe, lesion_ids: Iterable[str] | None) -> list[str]:
    """The ids asked for in the order of the data set, so that a store has one order only."""
    every = recipe.lesion_ids()
    if lesion_ids is None:
        return every
    if isinstance(lesion_ids, str):
        raise ValueError(f"lesion_ids={lesion_ids!r}: expected several ids, got one text")
    asked = list(lesion_ids)
    if not asked:
        raise ValueError("lesion_ids: expected at least one, got none")
    known = set(every)
    if unknown := [i for i in asked if i not in known]:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{recipe.name} has no lesion {unknown[0]!r}{others}; ids look like {every[0]}"
        )
    chosen = set(asked)
    return [i for i in every if i in chosen]


# --- Building -----------------------------------------------------------------------------------


def _build(
    recipe: Recipe,
    place: Url,
    wanted: list[str],
    processes: int | None,
    retry: bool,
    progress: bool,
    patience: float,
) -> Built:
    begun = time.monotonic()
    make = recipe.make(progress)  # opens the source, which may take a while: before the lock
    every, asked = recipe.lesion_ids(), set(wanted)
    told = False
    while True:
        store = _existing(place, recipe)
        here = set(store or ())
        kept = here | set(store.exclusions if store is not None else ())
        n_new = len(asked - (here if retry else kept))
        try:
            done = stores.build(
                place,
                [i for i in every if i in kept or i in asked],
                make.crop,
                tier=make.tier,
                provenance=recipe.provenance,
                processes=processes if processes is not None else _processes(n_new),
                on_error=recipe.on_error,
                retry_excluded=retry,
                progress=progress,
            )
        except stores.BuildError:
            raise
        except (RuntimeError, ValueError, FileExistsError) as error:
            waited = time.monotonic() - begun
            if waited >= patience or not _others_write(error, place, recipe, here):
                raise
            if not told:
                logger.warning("another process is writing %s: waiting for it", place)
            told = True
            time.sleep(0.5)
        else:
            return Built(done, len(set(done) - here), time.monotonic() - begun)


def _others_write(error: Exception, place: Url, recipe: Recipe, here: set[str]) -> bool:
    """Whether a build failed as another process writes there, or did since we looked."""
    if not isinstance(error, RuntimeError):
        return set(_existing(place, recipe) or ()) != here
    try:
        with open_folder(place).lock():
            return False
    except RuntimeError:
        return True
    except OSError:
        return False


def _processes(n_crops: int) -> int:
    if n_crops <= FEW:
        return 1
    # on a shared machine fewer than os.cpu_count() may be ours
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(ours or 1, MOST_PROCESSES)


def _existing(place: Url, recipe: Recipe) -> CropStore | None:
    """The store there, however far it is, if there is one.

    Raises:
        ValueError: It was made otherwise, or is damaged.
    """
    try:
        store = CropStore.open(place, allow_incomplete=True)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{error}; delete {os.fspath(place)} and build it again") from error
    before = {"tier": store.tier, **store.provenance}
    # a tree of DICOM phantoms makes a store of phantoms, which shows when it is opened
    now = {"tier": store.tier if recipe.name == "dicom" else recipe.tier, **recipe.provenance}
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        told = "; ".join(f"{k} was {_short(before, k)}, now {_short(now, k)}" for k in differing)
        raise ValueError(
            f"{store.url} was made otherwise: {told}: use another folder, or delete it"
        )
    return store


def _short(values: Mapping[str, Any], name: str) -> str:
    text = str(values.get(name, "not told"))
    return f"{text[:12]}…" if len(text) == 64 else text  # checksums
