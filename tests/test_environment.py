"""pyproject.toml, constraints.txt, environment.yml and the Makefile say the same."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
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


NOT_IMPORTED = {
    "setuptools": "pylidc imports its pkg_resources",
    "jupyterlab": "the application in which the chapters are opened",
    "jupyterlab-myst": "shows exercises, citations and admonitions in it",
    "jupyter-book": "the command that builds the book",
    "sphinx-book-theme": "named in _config.yml",
    "sphinx-exercise": "named in _config.yml",
    "sphinx-mathjax-offline": "named in _config.yml",
}
"""Requirements of a user that no code of ours imports, and what they are for."""


def sources(root: Path) -> Iterator[str]:
    """The library, module by module, and the chapters, cell by cell."""
    for module in (root / "lesionlab").rglob("*.py"):
        yield module.read_text(encoding="utf-8")
    for chapter in (root / "notebooks").glob("*.ipynb"):
        for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield re.sub(r"(?m)^%.*", "", "".join(cell["source"]))


def imported(code: str) -> Iterator[str]:
    """The packages that a piece of code imports, by name or with `import_module("name")`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def test_what_a_user_installs_is_used() -> None:
    """Except `test` and `bench`, which serve those who work on the library."""
    lines = [*PROJECT["dependencies"]]
    lines += [line for extra in EXTRAS.keys() - {"test", "bench"} for line in EXTRAS[extra]]
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    assert required >= NOT_IMPORTED.keys()
    ours = {name.partition(".")[0] for code in sources(ROOT) for name in imported(code)}
    used, installed = set(), set()
    for package, distributions in metadata.packages_distributions().items():
        names = {canonicalize_name(name) for name in distributions}
        installed |= names
        used |= names if package in ours else set()
    assert (required & installed) - used == NOT_IMPORTED.keys() & installed


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
    # peers are large, and only measured against
    assert re.search(r"(?m)^bench: .*\n\t.*--constraint constraints.txt .*'\.\[bench\]'$", makefile)


def assert_installs_every_extra(found: re.Match[str] | None) -> None:
    assert found
    assert set(found[1].split(",")) == set(EXTRAS) - {"bench"}


def test_the_named_extensions_of_the_book_are_required() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    book = {canonicalize_name(Requirement(line).name) for line in EXTRAS["book"]}
    for extension in [*config["sphinx"]["extra_extensions"], "sphinx-mathjax-offline"]:
        assert canonicalize_name(extension) in book, f"the extra book must require {extension}"
