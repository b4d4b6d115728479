"""What of lesionlab works on this machine: packages, data, cache and device; and what to do next.

    from lesionlab import doctor
    print(doctor.to_text(doctor.examine()))

Nothing is downloaded and nothing is written.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata

from lesionlab import __version__

DISK_FOR_BUILD = 3e9  # bytes: a full store of phantoms, and as much again beside it


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, in words, with what to do where it is not `ok`.

    Phantoms, which need no download, do not work without what is `needed`.
    """

    what: str
    ok: bool
    found: str
    next: str = ""
    needed: bool = False

    @property
    def state(self) -> str:
        """One word: ok, missing (can be added) or broken (is needed)."""
        return "ok" if self.ok else "broken" if self.needed else "missing"


def examine() -> list[Finding]:
    """Look at everything, in a few seconds."""
    return [found for check in (packages, data, own, cache, device) for found in check()]


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether everything works that phantoms need."""
    return all(f.state != "broken" for f in findings)


def to_text(findings: list[Finding]) -> str:
    """A report to read: a line for each finding, and below it what to do."""
    width = max(len(f.what) for f in findings)
    lines = [f"lesionlab {__version__}, Python {platform.python_version()}", ""]
    for f in findings:
        lines.append(f"{f.state:<7}  {f.what:<{width}}  {f.found}")
        if not f.ok and f.next:
            lines.append(f"{'':<7}  {'':<{width}}  → {f.next}")
    return "\n".join(lines)


def packages() -> Iterator[Finding]:
    """What is installed of the requirements, and of each extra."""
    from packaging.requirements import Requirement

    required = [Requirement(line) for line in metadata.requires("lesionlab") or []]
    for extra in ("", *metadata.metadata("lesionlab").get_all("Provides-Extra", [])):
        faults = []
        for one in required:
            # a requirement of an extra has a marker that says so
            if one.marker.evaluate({"extra": extra}) if one.marker else not extra:
                try:
                    version = metadata.version(one.name)
                    if not one.specifier.contains(version, prereleases=True):
                        faults.append(f"{one.name} {version}, expected {one.specifier}")
                except metadata.PackageNotFoundError:
                    faults.append(f"{one.name} is not installed")
        what, option = (f"extra {extra}", f"[{extra}]") if extra else ("packages", "")
        told = "; ".join(faults) or "all in the versions required"
        fix = f"Run in the checkout: pip install -e '.{option}'"
        yield Finding(what, not faults, told, fix, needed=not extra)


def data() -> Iterator[Finding]:
    """The public sets: whether a variable names them, or they were fetched, and are there."""
    from lesionlab.sources import origins

    for origin in origins.ORIGINS.values():
        path = origins.named(origin)
        there = path is not None and path.exists()
        about = (origin.size, origins.LICENCE, origin.addresses[0])
        told = f"{origin.variable} is not set; optional, {', '.join(about)}"
        if path is not None:
            told = str(path) if there else f"{path} does not exist; expected {origin.expected}"
        if there and path is not None and origin is origins.DICOM:
            from lesionlab.sources.dicom._lidc import SEARCHED, holds_lidc  # needs an extra

            if not (there := holds_lidc(path)):
                told = f"{path} has no scan of LIDC-IDRI in its first {SEARCHED} folders with files"
        yield Finding(origin.title, there, told, origin.next_step())


def own() -> Iterator[Finding]:
    """Data of the user's own."""
    from lesionlab.sources import origins

    kinds = {
        "anno": (origins.ANNO, ".anno files and DICOM scans"),
        "nifti": (origins.NIFTI, "NIfTI or NRRD images, masks and labels.csv"),
    }
    for form, (variable, what) in kinds.items():
        path = origins.own(variable)
        there = path is not None and path.is_dir()
        told = f"{variable} is not set; optional, a folder of your own with {what}"
        if path is not None:
            told = str(path) if there else f"{path} is no folder"
        fix = f"To see one: lesionlab data export {form} FOLDER; then: export {variable}=FOLDER"
        yield Finding(f"lesions of your own, {form}", there, told, fix)


def cache() -> Iterator[Finding]:
    """The cache folder, and the disk that it lies on."""
    from lesionlab.crops import datasets

    folder = datasets.stores_folder()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    writable, free = os.access(place, os.W_OK), shutil.disk_usage(place).free
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    told = f"{folder}, {'' if writable else 'cannot be written, '}{stored / 1e9:.1f} GB of crops"
    fix = "Run: export LESIONLAB_CACHE=/a/folder/that/can/be/written"
    yield Finding("cache", writable, told, fix, needed=True)
    told = f"{free / 1e9:.1f} GB free; building a store can need {DISK_FOR_BUILD / 1e9:.0f} GB"
    yield Finding("cache, room", free >= DISK_FOR_BUILD, told, f"Free some. {fix}")


def device() -> Iterator[Finding]:
    """What torch can compute on."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA is not there
        fix = "Run in the checkout: pip install -e '.[models]'"
        yield Finding("torch", False, f"cannot be loaded: {error}", fix)
        return
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    told = f"{torch.__version__}, GPU: {', '.join(found) or 'none'}"
    usable = bool(found) or shutil.which("nvidia-smi") is None
    fix = "There is an NVIDIA driver: install torch as pytorch.org says for your version of CUDA"
    yield Finding("torch", usable, told, fix)
