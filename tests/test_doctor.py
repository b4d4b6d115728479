"""What the doctor finds on machines that lack this or that."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesionlab import doctor
from lesionlab.cli import app
from lesionlab.doctor import Finding
from lesionlab.sources import origins

pytestmark = pytest.mark.usefixtures("cache")


def find(findings: Iterable[Finding], what: str) -> Finding:
    (found,) = (f for f in findings if f.what == what)
    return found


def test_the_command_tells_all_and_leaves_nothing_behind(cache: Path, monkeypatch: Any) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "ok       packages " in done.stdout
    assert f"missing  {origins.SLICES.title} " in done.stdout
    assert "→ Run: lesionlab data fetch slices" in done.stdout
    assert not cache.exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, "broken   cache " in done.stdout) == (1, True)


def test_an_absent_extra_is_missing_and_an_absent_requirement_breaks(monkeypatch: Any) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("torch", "safetensors", "scipy"):
            raise metadata.PackageNotFoundError(name)
        return {"numpy": "1.26.4"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = list(doctor.packages())
    core, models = find(found, "packages"), find(found, "extra models")
    assert core.state == "broken"
    assert core.found == "numpy 1.26.4, expected >=2.0; scipy is not installed"
    assert not doctor.healthy(found)
    assert models.state == "missing"
    assert models.found == "safetensors is not installed; torch is not installed"
    assert models.next == "Run in the checkout: pip install -e '.[models]'"


def test_public_sets_that_are_absent_there_and_misnamed(tmp_path: Path, monkeypatch: Any) -> None:
    for found, origin in zip(doctor.data(), origins.ORIGINS.values(), strict=True):
        assert (found.what, found.state) == (origin.title, "missing")
        assert origin.addresses[0] in found.found
        assert f"export {origin.variable}=" in found.next
        monkeypatch.setenv(origin.variable, str(tmp_path / "here"))
        misnamed = find(doctor.data(), origin.title)
        assert (misnamed.ok, "here does not exist; expected" in misnamed.found) == (False, True)
        monkeypatch.setenv(origin.variable, str(tmp_path))
        if origin is origins.DICOM:
            continue  # looked into: tests/sources/test_dicom_as_found.py
        there = find(doctor.data(), origin.title)
        assert (there.ok, there.found) == (True, str(tmp_path))


@pytest.mark.parametrize("form", ["anno", "nifti"])
def test_a_folder_of_the_users_own(form: str, tmp_path: Path, monkeypatch: Any) -> None:
    variable, title = f"LESIONLAB_{form.upper()}", f"lesions of your own, {form}"
    monkeypatch.delenv(variable, raising=False)
    found = find(doctor.own(), title)
    assert (found.state, f"{variable} is not set" in found.found) == ("missing", True)
    for path, ok in ((tmp_path / "nowhere", False), (tmp_path, True)):
        monkeypatch.setenv(variable, str(path))
        found = find(doctor.own(), title)
        assert (found.ok, str(path) in found.found) == (ok, True)


def test_a_full_disk(monkeypatch: Any) -> None:
    assert find(doctor.cache(), "cache").ok
    usage = shutil.disk_usage("/")._replace(free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    folder, found = doctor.cache()
    # what is built already works, and so does what needs no store
    assert (folder.state, found.state) == ("ok", "missing")
    assert found.found.startswith("2.0 GB free")
    assert "export LESIONLAB_CACHE=" in found.next


@pytest.mark.parametrize(
    ("cards", "driver", "ok", "told"),
    [
        ([], None, True, "GPU: none"),
        ([], "nvidia-smi", False, "GPU: none"),
        (["A card", "Another"], "nvidia-smi", True, "GPU: A card, Another"),
    ],
)
def test_devices(cards: Any, driver: str | None, ok: bool, told: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: cards[i])
    monkeypatch.setattr(shutil, "which", lambda name: driver)
    (found,) = doctor.device()
    assert (found.ok, told in found.found) == (ok, True)
    monkeypatch.setitem(sys.modules, "torch", None)
    (found,) = doctor.device()
    assert (found.state, found.next[-11:]) == ("missing", "'.[models]'")
