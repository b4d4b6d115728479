"""The data sets by name: crops of any of them, built when first asked for and kept.

    from lesionlab.crops import datasets
    store = datasets.crops("phantom", seed=0)             # a CropStore, in the cache folder
    store = datasets.crops("slices", cohorts.fu2021(lidc.nodules()).table.index)
    datasets.report("slices")                             # what of the set matched

Whatever the source, the rest of the library gets a `CropStore` with the crops by `lesion_id`. A
store carries in its provenance what decides over its voxels: data set, seed, checksums of the
database, of the public set and of the code that makes the crops. The place in the cache follows
from these, so that an old store is never taken for a new one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lesionlab import _files, _names, cohorts
from lesionlab.crops import stores
from lesionlab.crops._recipes import RECIPES, Recipe, recipe, unknown
from lesionlab.crops._recipes import Basis as Basis
from lesionlab.crops.stores import CropStore, Url
from lesionlab.sources import lidc
from lesionlab.sources.lidc._tables import cache_folder

logger = logging.getLogger(__name__)

NAMES = tuple(RECIPES)  # the data sets
COHORTS = ("fu2021", "liu2020", "lei2020")  # that `choose` knows, as in `lesionlab.cohorts`
FEW = 100  # crops that are made in one process: starting others takes longer
MOST_PROCESSES = 3  # taken unasked: each needs 0.35 GB, and a build is to stay below 1.5 GB


@dataclass(frozen=True)
class Built:
    """What came of a build."""

    store: CropStore  # complete, to read
    made: int  # crops that were made now; the others had been there
    seconds: float


def table(name: str, *, seed: int = 0) -> pd.DataFrame:
    """All lesions of a data set: one row each, index `lesion_id`, with `patient` and labels.

    For LIDC-IDRI it is `lesionlab.sources.lidc.nodules()`, for the phantoms of a private data set
    the table that their generator draws for the seed.
    """
    return recipe(name, seed=seed).table()


def rests_on(name: str, *, seed: int = 0) -> tuple[Basis, ...]:
    """What a result on a data set rests on: (name in words, tier, checksum) of each thing.

    A tree of DICOM files can turn out to be phantoms; that is known once a crop of it was made.
    """
    of = recipe(name, seed=seed)
    store = _existing(_place(of), of)
    return of.rests_on(of.tier if store is None else store.tier)


def report(name: str, *, source: str | Path | None = None, progress: bool = False) -> pd.DataFrame:
    """What matched and what did not: for `slices` a row per nodule, for `dicom` one per scan.

    See `lesionlab.sources.slices.Slices.report` and `lesionlab.sources.dicom.Dicom.report`.
    """
    return recipe(name, source=source).report(progress)


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
        seed: For phantoms; other data sets have none.
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
    """
    made_by = recipe(name, seed=seed, source=source)
    wanted = _wanted(made_by, lesion_ids)
    place = _place(made_by) if url is None else url
    store = _existing(place, made_by)
    if store is not None and all(i in store or i in store.exclusions for i in wanted):
        return store
    begun = time.monotonic()
    while True:
        try:
            return build(
                name, wanted, seed=seed, source=source, url=place, processes=processes,
                retry_excluded=False, progress=progress,
            ).store  # fmt: skip
        except _files.BusyError as busy:
            if time.monotonic() - begun >= patience:
                raise
            logger.warning("waiting: %s", busy)
            time.sleep(1)


def build(
    name: str,
    lesion_ids: Iterable[str] | None = None,
    *,
    seed: int = 0,
    source: str | Path | None = None,
    url: Url | None = None,
    processes: int | None = None,
    retry_excluded: bool = True,
    progress: bool = True,
) -> Built:
    """Build a store, or go on with it; lesions that it holds already stay in it, asked for or not.

    Arguments and errors are those of `crops`; `retry_excluded` tries lesions again that an earlier
    build had to leave out. A store that another process writes is an error at once.
    """
    begun = time.monotonic()
    made_by = recipe(name, seed=seed, source=source)
    asked = set(_wanted(made_by, lesion_ids))
    place = _place(made_by) if url is None else url
    make_crop, tier = made_by.make(progress)
    store = _existing(place, made_by)
    here = set(store or ())
    left_out = set(store.exclusions) if store is not None else set()
    if processes is None:
        n_new = len(asked - (here if retry_excluded else here | left_out))
        # on a shared machine fewer than os.cpu_count() may be ours
        ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        processes = 1 if n_new <= FEW else min(ours or 1, MOST_PROCESSES)
    asked |= here | left_out
    built = stores.build(
        place,
        [i for i in made_by.table().index if i in asked],  # a store has one order only
        make_crop,
        tier=tier,
        provenance=made_by.provenance,
        processes=processes,
        on_error=made_by.on_error,
        retry_excluded=retry_excluded,
        progress=progress,
    )
    return Built(built, len(set(built) - here), time.monotonic() - begun)


def choose(
    name: str,
    *,
    file: str | Path | None = None,
    cohort: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[str] | None:
    """Lesions of a data set by a list in a file, by one of `COHORTS`, or the first `limit` ones.

    A file is text or CSV with a `lesion_id` at the beginning of each line; empty lines, those that
    begin with `#` and a heading `lesion_id` are passed over. The ids come in the order of the data
    set; None stands for all of them.
    """
    if file is not None and cohort is not None:
        raise ValueError("lesions and cohort: expected one of the two, got both")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r}: expected a whole number of at least 1")
    if file is None and cohort is None and limit is None:
        return None
    of = recipe(name, seed=seed)
    wanted: Iterable[str] | None = None
    if file is not None:
        wanted = _read_ids(Path(file))
    elif cohort is not None:
        if cohort not in COHORTS or not of.of_lidc:
            raise ValueError(
                f"cohort={cohort!r}: expected one of {', '.join(COHORTS)}, and a data set of "
                f"LIDC-IDRI's lesions, got {name}"
            )
        found: cohorts.Cohort = getattr(cohorts, cohort)(lidc.nodules())
        wanted = found.table.index
    return _wanted(of, wanted)[:limit]


def _read_ids(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from None
    first = (line.partition(",")[0].strip().strip("\"'") for line in lines)
    return [i for i in first if i and not i.startswith("#") and i != "lesion_id"]


def _wanted(of: Recipe, lesion_ids: Iterable[str] | None) -> list[str]:
    """The ids asked for, in the order of the data set."""
    every = of.table().index.tolist()
    if lesion_ids is None:
        return every
    asked = {lesion_ids} if isinstance(lesion_ids, str) else set(lesion_ids)
    if (others := asked.difference(every)) or not asked:
        raise ValueError(
            f"lesion_ids: expected ids of {of.name} such as {every[0]}, got "
            f"{_names.listed(sorted(map(str, others)), at_most=3) or 'none'}"
        )
    return [i for i in every if i in asked]


def _existing(place: Url, made_by: Recipe) -> CropStore | None:
    """The store there, however far it is, if there is one."""
    try:
        store = CropStore.open(place, allow_incomplete=True)
    except FileNotFoundError:
        return None
    before, now = store.provenance, made_by.provenance
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        told = "; ".join(
            f"{k} was {before.get(k, 'not told')!s:.12}, now {now.get(k, 'not told')!s:.12}"
            for k in differing
        )
        raise ValueError(
            f"{store.url} was made otherwise: {told}: use another folder, or delete it"
        )
    return store


# --- The cache ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cached:
    """A store in the cache folder, by what is seen without opening it."""

    path: Path
    name: str = ""  # of the data set, "" if the store is damaged
    seed: int | None = None  # for phantoms
    lesions: int = 0  # how many are stored
    expected: int = 0  # how many it is to hold, with those left out
    complete: bool = False
    bytes: int = 0
    current: bool = False  # whether this version of lesionlab would make the same
    modified: float = 0.0  # when it was begun or changed last, seconds since 1970
    problem: str = ""  # what is wrong with it


def stores_folder() -> Path:
    """The folder of all stores, in the cache folder."""
    return cache_folder() / "stores"


def default_url(name: str, seed: int = 0, *, source: str | Path | None = None) -> str:
    """Where the store of a data set is kept: a folder in the cache folder; arguments as `crops`."""
    return _place(recipe(name, seed=seed, source=source))


def _place(made_by: Recipe) -> str:
    return str(stores_folder() / made_by.folder)


def cached() -> list[Cached]:
    """All stores in the cache folder, by name; opens none of them."""
    folder = stores_folder()
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [_look(path) for path in there if path.is_dir()]


def _look(path: Path) -> Cached:
    try:
        header = stores.Folder(path).header()
    except (OSError, ValueError) as error:
        return Cached(path, problem=str(error))
    told = header["provenance"]
    name = str(told.get("dataset", ""))
    return Cached(
        path=path,
        name=name,
        seed=told.get("seed"),
        lesions=len(list(path.glob("hu/*/zarr.json"))),
        expected=len(header["expected"]),
        complete=header["complete"] is not None,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        current=name in NAMES and told.get("code") == recipe(name).code,
        modified=(path / stores.ROOT).stat().st_mtime,
    )


def locate(what: str, seed: int | None = None) -> str:
    """The URL of a store: `what` itself, or, for the name of a data set, the store in the cache.

    Of several stores (of that `seed`) it is the one that this version of lesionlab makes, and the
    latest. A folder that is called like a data set is meant by `./phantom`.
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
    if not any(sign in what for sign in "/\\:.") and not Path(what).exists():
        raise ValueError(f"{unknown(what)}; or give the folder or URL of a store")
    return what
