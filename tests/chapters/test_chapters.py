"""A chapter checks its parameters and finds its files, wherever it is opened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lesionlab import chapters
from lesionlab.chapters import notebooks

ROOT = Path(__file__).resolve().parents[2]
NAME = "phantoms"
CHECK = f'from lesionlab import chapters\n\nchapter = chapters.begin("{NAME}")'
SOLVE = "%%solution\nsolved = True\nprint('solved', seed)"


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """The first cells of a chapter, alone in a folder far from any checkout."""
    stored = nbformat.read(ROOT / "notebooks" / f"{NAME}.ipynb", as_version=4)
    (declared,) = (c for c in stored.cells if "parameters" in c.metadata.get("tags", ()))
    seen = "print(chapter.results().name, seed, n_lesions, chapter.progress, 'solved' in globals())"
    cells = [declared, *map(new_code_cell, (CHECK, SOLVE, seen))]
    nbformat.write(new_notebook(cells=cells, metadata=stored.metadata), tmp_path / "one.ipynb")
    return tmp_path / "one.ipynb"


def run(notebook: Path, **parameters: Any) -> list[str]:
    """What the cells print, run by plain papermill in the folder of the notebook."""
    done = papermill.execute_notebook(
        notebook, notebook.with_name("out.ipynb"), parameters, cwd=notebook.parent,
        progress_bar=False, log_output=False,
    )  # fmt: skip
    return [
        output["text"].strip()
        for cell in done.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    ]


def test_a_notebook_alone_in_a_folder_finds_its_results(opened):
    told, printed = run(opened, seed=3)
    assert "holds a solution and was not run" in told
    assert printed == f"{NAME} 3 200 False False"
    assert run(opened, solutions=True) == ["solved 0", f"{NAME} 0 200 False True"]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"sead": 1}, "unknown parameter 'sead' of phantoms; did you mean 'seed'"),
        ({"n_lesions": 2.5}, "parameter n_lesions of phantoms takes a value of type int, got 2.5"),
    ],
)
def test_wrong_parameters_stop_the_run_at_the_second_cell(opened, parameters, complaint):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        run(opened, **parameters)
    assert complaint in str(caught.value)
    assert caught.value.exec_count == 3, "papermill's cell comes between the two"


def test_a_set_can_be_chosen_by_the_environment(opened, monkeypatch):
    monkeypatch.setenv(chapters.SET, "smoke")
    monkeypatch.setenv("JPY_SESSION_NAME", "one.ipynb")  # JupyterLab sets it: somebody watches
    assert run(opened, n_lesions=7, seed=4)[1] == f"{NAME} 4 7 True False", "what is injected stays"
    assert run(opened)[1] == f"{NAME} 0 40 True False"
    monkeypatch.setenv(chapters.SET, "smok")
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'smoke'"):
        run(opened)


def test_outside_a_notebook_there_is_no_chapter():
    with pytest.raises(RuntimeError, match="no notebook is running"):
        chapters.begin(NAME)


def test_results_of_the_book_or_of_ones_own_or_none(tmp_path):
    chapter = chapters.Chapter(NAME, progress=False)
    assert (chapter.results() / "realism.json").is_file()
    assert chapters.Chapter(f"{NAME}_tables", progress=False).results() == chapter.results()
    assert chapter.results(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"no folder 'nowhere' of results"):
        chapter.results("nowhere")


def test_the_predictions_of_kept_runs_are_linked(tmp_path):
    chapter = chapters.Chapter("liu2020", progress=False)
    html = chapter.downloads().data
    links = re.findall(r'href="([^"]+)"', html)
    files = sorted(chapter.results().rglob("*.csv*"))
    assert [ROOT.joinpath("notebooks", link).resolve() for link in links] == files
    assert f"{len(files)} runs" in html
    (tmp_path / "a&b.csv").touch()
    assert "a&amp;b.csv" in chapter.downloads(tmp_path).data
    with pytest.raises(FileNotFoundError, match=r"book/x did not come with lesionlab .*wheel"):
        chapters.shipped("book", "x")


def test_copies_go_where_nothing_is(tmp_path):
    written = chapters.copy(tmp_path / "mine")
    names = {path.relative_to(tmp_path / "mine").as_posix() for path in written}
    assert {"notebooks/fu2021.ipynb", "notebooks/sets.yml", "book/notation.md"} <= names
    mine = tmp_path / "mine" / "notebooks" / "fu2021.ipynb"
    assert mine.read_bytes() == (ROOT / "notebooks" / "fu2021.ipynb").read_bytes()
    mine.write_text("my own work")
    with pytest.raises(FileExistsError, match=r"\.ipynb is there already"):
        chapters.copy(tmp_path / "mine")
    assert mine.read_text() == "my own work"


def test_links_of_chapters_lead_to_files(tmp_path):
    """In JupyterLab a link is a path; in the book, Sphinx finds the page from the same path."""
    chapters.copy(tmp_path)
    for name in notebooks.available(tmp_path / "notebooks"):
        notebook = nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4)
        text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
        absent = [link for link in links if not (tmp_path / "notebooks" / link).is_file()]
        assert absent == [], name
