"""What is said of the public sets is said the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from lesionlab.crops import datasets
from lesionlab.sources import origins, slices
from lesionlab.sources.origins import Origin
from lesionlab.sources.slices._archive import LAYOUT

ROOT = Path(__file__).resolve().parents[2]
ALL = pytest.mark.parametrize("origin", origins.ORIGINS.values(), ids=lambda origin: origin.name)


@ALL
def test_the_readme_says_the_same(origin: Origin) -> None:
    _, section = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("## Where the real data are")
    )
    section = section.split("\n## ")[0]
    (row,) = (line for line in section.splitlines() if line.startswith(f"| {origin.title} |"))
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert origin.addresses[0] in cells[2]
    assert cells[3:] == [origin.size, f"`{origin.variable}`"]
    assert origins.LICENCE in section
    command = f"`lesionlab data fetch {origin.name}`" if origin.mirror else f"`{origin.name}`"
    assert command in section


@pytest.mark.parametrize("path", ["README.md", "book/intro.md"])
def test_the_slices_are_found_from_the_first_pages(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    said = (origins.SLICES.addresses[0], origins.SLICES.size, origins.LICENCE)
    assert [one for one in (*said, "lesionlab data fetch slices") if one not in text] == []


@ALL
def test_the_error_about_missing_data_says_all(origin: Origin) -> None:
    told = origin.missing()
    for text in (*origin.addresses, origin.size, origin.variable, origins.LICENCE, origin.what):
        assert text in told
    assert ("lesionlab data fetch" in told) == bool(origin.mirror)
    assert "\n" not in told


@ALL
def test_where_a_set_lies(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(origin.variable, raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path)
    assert origins.named(origin) is None
    if origin.mirror:
        (tmp_path / origin.mirror.target).touch()
        assert origins.named(origin) == tmp_path / origin.mirror.target
    monkeypatch.setenv(origin.variable, "~/there")
    assert origins.named(origin) == Path.home() / "there"


def test_the_reader_of_the_slices_means_the_same_set() -> None:
    assert origins.SLICES.variable == slices.ENVIRONMENT
    assert LAYOUT in origins.SLICES.expected


def test_a_new_address_does_not_make_stores_anew() -> None:
    for name in ("slices", "dicom"):
        for package in datasets.recipe(name).packages:
            assert (ROOT / "lesionlab" / package).is_dir()
            assert ROOT / "lesionlab" / package not in Path(origins.__file__).parents


def test_there_is_no_such_set() -> None:
    with pytest.raises(
        ValueError, match="name='slice': expected one of slices, volumes, diagnoses"
    ):
        origins.find("slice")
