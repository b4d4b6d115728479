"""What is said of the public sets is said the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from lesionlab.sources import origins

ROOT = Path(__file__).resolve().parents[2]
ALL = pytest.mark.parametrize("origin", origins.ORIGINS.values(), ids=lambda origin: origin.name)


@ALL
def test_the_readme_says_the_same(origin):
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


@ALL
def test_where_a_set_lies(origin, tmp_path, monkeypatch):
    monkeypatch.delenv(origin.variable, raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path)
    assert origins.named(origin) is None
    if origin.mirror:
        (tmp_path / origin.mirror.target).touch()
        assert origins.named(origin) == tmp_path / origin.mirror.target
    monkeypatch.setenv(origin.variable, "~/there")
    assert origins.named(origin) == Path.home() / "there"
