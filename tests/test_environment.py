"""pyproject.toml, constraints.txt, environment.yml and the Makefile say the same."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CONDA: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

REQUIREMENTS = [
    pytest.param(extra, Requirement(line), id=f"{extra}: {line}")
    for extra, lines in {"core": PROJECT["dependencies"], **EXTRAS}.items()
    for line in lines
]


def pins() -> dict[str, Version]:
    found: dict[str, Version] = {}
    for number, line in enumerate((ROOT / "constraints.txt").read_text("utf-8").splitlines(), 1):
        bare = re.sub(r"(^|\s)#.*", "", line).strip()
        if bare:
            name, equals, version = bare.partition("==")
            assert equals, f"constraints.txt:{number}: {line!r} is not NAME==VERSION"
            assert canonicalize_name(name) not in found, f"constraints.txt:{number}: {name} again"
            found[canonicalize_name(name)] = Version(version)
    return found


PINS = pins()


@pytest.mark.parametrize(("extra", "requirement"), REQUIREMENTS)
def test_a_requirement_is_met_by_its_pin_and_by_what_is_installed(
    extra: str, requirement: Requirement
) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(pin, prereleases=True)
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        if extra in ("core", "test"):
            raise
        pytest.skip(f"the extra {extra} is not installed")
    assert requirement.specifier.contains(installed, prereleases=True)


def test_conda_brings_a_supported_python_and_pip_the_rest() -> None:
    *plain, pip = CONDA["dependencies"]
    assert sorted(re.split(r"[=<> ]", entry)[0] for entry in plain) == ["pip", "python"]
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    assert CONDA["name"] == PROJECT["name"]
    (python,) = (entry for entry in plain if entry.startswith("python"))
    supported = SpecifierSet(PROJECT["requires-python"])
    assert supported.contains(python.partition("=")[2].strip("="))
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert named == {f"3.{minor}" for minor in range(8, 30) if supported.contains(f"3.{minor}")}
    constraint, editable = pip["pip"]
    assert constraint == "-c constraints.txt"
    assert_installs_every_extra(re.fullmatch(r"-e \.\[([\w,]+)\]", editable))


def test_make_installs_every_extra_at_our_pins() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert_installs_every_extra(re.search(r"(?m)^EXTRAS := (.+)$", makefile))
    assert "--constraint constraints.txt" in makefile


def assert_installs_every_extra(found: re.Match[str] | None) -> None:
    assert found
    assert set(found[1].split(",")) == set(EXTRAS) - {"bench"}
