"""How each data set is made: its lesions, its crops, and what decides over its voxels."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pandas as pd

from lesionlab import _names
from lesionlab._files import sha256
from lesionlab.crops import Crop, Tier
from lesionlab.crops._store_builds import MakeCrop
from lesionlab.sources import lidc, origins, phantom

if TYPE_CHECKING:
    from lesionlab.sources.dicom import CropMaker, Dicom
    from lesionlab.sources.slices import Slices


@dataclass(frozen=True)
class Make:
    """What `lesionlab.crops.stores.build` needs of an opened source."""

    crop: MakeCrop
    tier: Tier


class Recipe:
    """One data set.

    Attributes:
        name: What it is called.
        tier: Of its crops.
        on_error: What to do with a lesion that cannot be made.
        of_lidc: Whether its lesions are the nodules of `lesionlab.sources.lidc`.
        module: Makes the crops.
        seed: Of rendered data sets; None for others.
    """

    name: ClassVar[str]
    tier: ClassVar[Tier]
    on_error: ClassVar[Literal["raise", "exclude"]] = "raise"
    of_lidc: ClassVar[bool] = True
    module: ClassVar[str]

    def __init__(self, seed: int, source: str | Path | None) -> None:
        self.seed: int | None = None
        self._source = source

    @cached_property
    def code(self) -> str:
        """SHA-256 of the module that makes the crops and of all that it stands on in lesionlab."""
        return code_checksum(self.module)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What decides over the voxels; a store is only ever gone on with under the same."""
        return {"dataset": self.name, "code": self.code, **self._details()}

    @property
    def key(self) -> str:
        """SHA-256 of the provenance."""
        return hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode()).hexdigest()

    def lesion_ids(self) -> list[str]:
        """All its lesions, those included that the source may turn out not to have."""
        return phantom.lesions()

    def make(self, progress: bool) -> Make:
        """Open the source; `progress` shows a bar where that takes a while."""
        raise NotImplementedError

    def report(self, progress: bool) -> pd.DataFrame:
        """What of the source matched the database."""
        raise ValueError(
            f"report: expected slices or dicom, whose files are matched to the database, "
            f"got {self.name}"
        )

    def _details(self) -> dict[str, Any]:
        raise NotImplementedError


class _Rendered(Recipe):
    tier = "phantom"

    def __init__(self, seed: int, source: str | Path | None) -> None:
        super().__init__(seed, source)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={seed!r}: expected a whole number from 0")
        if source is not None:
            raise ValueError(f"source={str(source)!r}: {self.name} is rendered and has none")
        self.seed: int = seed


class _Phantom(_Rendered):
    name = "phantom"
    module = "lesionlab.sources.phantom"

    def make(self, progress: bool) -> Make:
        return Make(partial(phantom.make, seed=self.seed), self.tier)

    def _details(self) -> dict[str, Any]:
        return {"seed": self.seed, "database": lidc.default().checksum}


class _Li(_Rendered):
    """Li 2021's private data set is drawn anew: its lesions depend on the seed as well."""

    name = "phantom-li2021"
    of_lidc = False
    module = "lesionlab.sources.phantom.li2021"

    def lesion_ids(self) -> list[str]:
        from lesionlab.sources.phantom import li2021

        return li2021.lesions(seed=self.seed).index.tolist()

    def make(self, progress: bool) -> Make:
        from lesionlab.sources.phantom import li2021

        return Make(partial(li2021.phantom, seed=self.seed), self.tier)

    def _details(self) -> dict[str, Any]:
        return {"seed": self.seed}


class _Wang(_Rendered):
    """Wang 2021's private data set, drawn anew like Li's."""

    name = "phantom-wang2021"
    of_lidc = False
    module = "lesionlab.sources.phantom.wang2021"

    def lesion_ids(self) -> list[str]:
        from lesionlab.sources.phantom import wang2021

        return wang2021.nodules(seed=self.seed).index.tolist()

    def make(self, progress: bool) -> Make:
        from lesionlab.sources.phantom import wang2021

        return Make(partial(wang2021.phantom, seed=self.seed), self.tier)

    def _details(self) -> dict[str, Any]:
        return {"seed": self.seed}


class _Read(Recipe):
    on_error = "exclude"

    def __init__(self, seed: int, source: str | Path | None) -> None:
        super().__init__(seed, source)
        if seed != 0:
            raise ValueError(f"seed={seed!r}: {self.name} is not rendered and has no seed")


class _Slices(_Read):
    name = "slices"
    tier = "slices"
    module = "lesionlab.sources.slices"

    @cached_property
    def opened(self) -> Slices:
        """The set."""
        from lesionlab.sources.slices import Slices

        return Slices(self._source)

    def make(self, progress: bool) -> Make:
        self.report(progress)  # the matching, with a bar if it has to be done
        return Make(self.opened.make, self.tier)

    def report(self, progress: bool) -> pd.DataFrame:
        return self.opened.report(progress=progress)

    def _details(self) -> dict[str, Any]:
        return {
            "database": lidc.default().checksum,
            "set": self.opened.checksum,
            "intensity": self.opened.intensity_checksum,
        }


class _Dicom(_Read):
    name = "dicom"
    tier = "dicom"
    module = "lesionlab.sources.dicom"
    parameters: ClassVar[dict[str, Any]] = {"size": 128, "margin_mm": 12.0}

    def _open(self, progress: bool) -> Dicom:
        root = self._source if self._source is not None else origins.named(origins.DICOM)
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

    def make(self, progress: bool) -> Make:
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
        return Make(_OfTier(found.maker(**self.parameters), tier), tier)

    def report(self, progress: bool) -> pd.DataFrame:
        return self._open(progress).report().reset_index()

    def _details(self) -> dict[str, Any]:
        return {"database": lidc.default().checksum, **self.parameters}


class _OfTier:
    """Cuts crops and lets none pass that is of another tier than the store."""

    def __init__(self, maker: CropMaker, tier: Tier) -> None:
        self.maker, self.tier = maker, tier

    def __call__(self, lesion_id: str) -> Crop:
        crop = self.maker(lesion_id)
        if crop.tier != self.tier:
            raise ValueError(f"{lesion_id}: its scan is {crop.tier}, the others are {self.tier}")
        return crop


_RECIPES: dict[str, type[Recipe]] = {r.name: r for r in (_Phantom, _Slices, _Dicom, _Li, _Wang)}

NAMES = tuple(_RECIPES)
"""The data sets."""


def open_recipe(name: str, *, seed: int = 0, source: str | Path | None = None) -> Recipe:
    """The recipe of a data set; opens no file.

    Raises:
        ValueError: There is no such data set, or it has no seed or source and one is given.
    """
    if name not in _RECIPES:
        raise ValueError(unknown(name))
    return _RECIPES[name](seed, source)


def report(name: str, *, source: str | Path | None = None, progress: bool = False) -> pd.DataFrame:
    """What matched and what did not: for `slices` a row per nodule, for `dicom` one per scan.

    See `lesionlab.sources.slices.Slices.report` and `lesionlab.sources.dicom.Dicom.report`.

    Raises:
        ValueError: It is no such data set, or one that is rendered.
        FileNotFoundError: The source is not set up.
    """
    return open_recipe(name, source=source).report(progress)


def unknown(name: str) -> str:
    """What to say of a name that no data set has."""
    return f"unknown data set {name!r}{_names.close(name, NAMES)}; there are {', '.join(NAMES)}"


@cache
def code_checksum(module: str) -> str:
    """SHA-256 of a module and of those of lesionlab that it imports when it is loaded."""
    digest = hashlib.sha256()
    for name, path in sorted(modules_behind(module).items()):
        digest.update(f"{sha256(path)}  {name}\n".encode())
    return digest.hexdigest()


def modules_behind(module: str) -> dict[str, Path]:
    """Files of a module of lesionlab and of all those of lesionlab that it imports, by name.

    Found in the source text, as a loaded module does not tell what it imports. What is imported
    inside functions, and for type checkers only, does not count.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or (path := _file_of(name)) is None:
            continue
        found[name] = path
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                # "from package import module" as well as "from module import name"
                waiting += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [one.name for one in node.names]
    return found


def _file_of(module: str) -> Path | None:
    """Where a module of lesionlab lies; None for anything else."""
    package, *parts = module.split(".")
    if package != "lesionlab" or not parts:
        return None
    path = Path(__file__).parents[1].joinpath(*parts)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)
