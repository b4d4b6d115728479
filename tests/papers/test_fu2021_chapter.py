"""The chapter on Fu 2021 beside its paper, and the drawing that it shows."""

import os
import re
from pathlib import Path

import nbformat
import pytest

from lesionlab.chapters import shipped
from lesionlab.papers.fu2021 import Network
from lesionlab.papers.fu2021.analyses import architecture


def prose():
    notebook = nbformat.read(shipped("notebooks", "fu2021.ipynb"), as_version=4)
    return " ".join(
        " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").split()
    )


def test_what_the_chapter_quotes_is_in_the_paper():
    quoted = re.findall(r'"([^"]+)"', prose())
    # how the nodules were divided is told in the paper's own words
    assert "The nodules were randomly divided into training and testing sets" in quoted
    assert "no nodule was in both the training and test sets of a fold" in quoted
    folder = os.environ.get("LESIONLAB_PAPERS")
    if not folder:
        pytest.skip("LESIONLAB_PAPERS names no folder with the papers as text")
    paper = (Path(folder) / "fu2021.txt").read_text(encoding="utf-8")
    paper = " ".join(re.sub(r"[*$]", "", paper).split())
    assert [words for words in quoted if words not in paper] == []


def test_each_name_of_the_papers_rows_is_explained():
    told = prose()
    for name, here in (
        ("SAM, slice attention module", "SliceAttention"),
        ("ASCMM, attribute-specific content modulation module", "AttributeModulation"),
        ("CAAM, cross-attribute attention module", "CrossAttributeAttention"),
    ):
        assert f"| {name} | `{here}` |" in told
    assert [n for n in range(1, 9) if f"\\tag{{{n}}}" not in told] == []


def test_the_drawing_has_the_parts_of_the_network_and_their_parameters():
    network = Network()
    texts = [text.get_text() for text in architecture(network).axes[0].texts]
    assert {"CNN", "SAM", "ASCMM", "CAAM", "output"} <= set(texts)
    boxes = [text for text in texts if re.search(r"[A-Z][a-z]+\n[\d,]+$", text)]
    assert boxes[1] == "Slice\nAttention\n33,025"
    counts = [int(text.split("\n")[-1].replace(",", "")) for text in boxes]
    assert sum(counts) == 3_428_458
