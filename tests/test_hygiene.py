"""What is stored: stripped notebooks, modules of a readable size, nothing of this machine."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell

from lesionlab.chapters import SOLUTION, notebooks

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"

SECTIONS = ("What you will be able to do", "What you need", "What was found", "What to doubt")
SETS = {"smoke", "book", "paper"}


def faults(path: Path) -> Iterator[str]:
    """Everything that a stored notebook must not be, in words."""
    notebook = nbformat.read(path, as_version=4)
    try:
        nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    except nbformat.ValidationError as error:
        yield f"invalid: {error.message}"
    if path.stat().st_size >= 100_000:
        yield "100 KB or more"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "kernel is not python3"
    if extra := notebook.metadata.keys() - {"kernelspec", "language_info"}:
        yield f"metadata: {', '.join(sorted(extra))}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    yield from code_faults(code)
    yield from folding_faults(code)
    yield from beginning_faults(path, code)
    yield from parameter_faults(path, code)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"(?m)^## +(.+?) *$", text)
    yield from (f"no section {name!r}" for name in SECTIONS if name not in headings)
    if "{cite" in text:  # a link to the paper can be read everywhere
        yield "a citation of which JupyterLab shows the key"
    yield from exercise_faults(notebook.cells)


def code_faults(code: list[Any]) -> Iterator[str]:
    for cell in code:
        if cell.outputs or cell.execution_count is not None:
            yield "outputs or execution counts"
        if cell.source.count("\n") >= 20:
            yield "a cell of more than 20 lines"
        if re.search(r"\b(pip|conda|mamba) +install\b", cell.source):
            yield "installs packages"


def beginning_faults(path: Path, code: list[Any]) -> Iterator[str]:
    after = next((i for i, cell in enumerate(code, 1) if "parameters" in tags_of(cell)), len(code))
    if f'chapters.begin("{path.stem}")' not in "".join(cell.source for cell in code[after:][:1]):
        yield "the cell after the parameters does not check them (chapters.begin)"


def parameter_faults(path: Path, code: list[Any]) -> Iterator[str]:
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells tagged parameters"
        return
    declared = notebooks.parameters(path)
    rest = "\n".join(cell.source for cell in code if cell is not tagged[0])
    if re.search(r"\bseed\b|\bdefault_rng\b|\bmanual_seed\b", rest) and "seed" not in declared:
        yield "randomness without a parameter called seed"
    yield from (
        f"parameter {name} is not used"
        for name in declared
        if name != "solutions" and not re.search(rf"\b{name}\b", rest)
    )


# what the book hides, JupyterLab folds
FOLDED = {
    "hide-input": {"source_hidden": True},
    "hide-output": {"outputs_hidden": True},
    "hide-cell": {"source_hidden": True, "outputs_hidden": True},
}


def tags_of(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def folding_faults(code: list[Any]) -> Iterator[str]:
    for cell in code:
        wanted: dict[str, bool] = {}
        for tag in tags_of(cell) & FOLDED.keys():
            wanted |= FOLDED[tag]
        if cell.metadata.get("jupyter", {}) != wanted:
            yield "folded in the book and not in JupyterLab, or the other way round"


def exercise_faults(cells: list[Any]) -> Iterator[str]:
    for index, cell in enumerate(cells):
        is_code = cell.cell_type == "code"
        if is_code and ("solution" in tags_of(cell)) != cell.source.startswith(f"{SOLUTION}\n"):
            yield "a solution that Run All runs"
        if "solution" in tags_of(cell) and "hide-cell" not in tags_of(cell):
            yield "a solution that is not hidden"
        if cell.cell_type == "markdown" and re.search(r"\{exercise(-start)?\}", cell.source):
            after = [c for c in cells[index + 1 :] if c.cell_type == "code"][:2]
            if not after or not {"exercise", "remove-cell"} <= tags_of(after[0]):
                yield "an exercise without a cell to work in"
            elif len(after) < 2 or not {"hide-cell", "solution"} <= tags_of(after[1]):
                yield "an exercise without a hidden solution"
            if "{hint}" not in cell.source:
                yield "an exercise without a hint"


@pytest.mark.parametrize("name", notebooks.available(FOLDER))
def test_a_stored_notebook_has_no_faults(name: str) -> None:
    assert list(faults(FOLDER / f"{name}.ipynb")) == []


@pytest.mark.parametrize("name", notebooks.available(FOLDER))
def test_a_notebook_is_in_the_book_and_has_its_sets(name: str) -> None:
    entries = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^[ -]*file: +notebooks/{re.escape(name)} *$", entries)
    sets = yaml.safe_load((FOLDER / "sets.yml").read_text(encoding="utf-8"))[name]
    assert sets.keys() >= SETS
    assert sets["book"] == {"solutions": True}, "the defaults are what the book shows"
    for chosen in sets:
        notebooks.plan(name, set_name=chosen, folder=FOLDER)


def test_sets_belong_to_notebooks() -> None:
    sets = yaml.safe_load((FOLDER / "sets.yml").read_text(encoding="utf-8")) or {}
    assert sets.keys() <= set(notebooks.available(FOLDER))


GOOD = [
    new_markdown_cell("# One\n\n" + "\n\n".join(f"## {section}" for section in SECTIONS)),
    new_code_cell("seed = 1", metadata={"tags": ["parameters"]}),
    new_code_cell('chapters.begin("one")\nprint(seed)'),
    new_markdown_cell("````{exercise}\nAdd.\n```{hint}\nCount.\n```\n````"),
    new_code_cell("# your answer", metadata={"tags": ["exercise", "remove-cell"]}),
    new_code_cell(
        "%%solution\n1 + 1",
        metadata={"tags": ["hide-cell", "solution"], "jupyter": FOLDED["hide-cell"]},
    ),
]
UNFOLDED = new_code_cell("%%solution\n1 + 1", metadata={"tags": ["hide-cell", "solution"]})


def tagged(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda cells: cells, None),
        (lambda cells: cells[1:], "no section 'What you need'"),
        (lambda cells: [*cells, new_markdown_cell("{cite}`a`")], "a citation"),
        (lambda cells: [*cells, new_code_cell("1", execution_count=1)], "outputs or execution"),
        (lambda cells: [*cells, new_code_cell("\n" * 20)], "a cell of more than 20 lines"),
        (lambda cells: [*cells, new_code_cell("%pip install x")], "installs packages"),
        (lambda cells: [cells[0], *cells[2:]], "0 cells tagged parameters"),
        (lambda cells: [*cells, cells[1]], "2 cells tagged parameters"),
        (lambda cells: [*cells, new_code_cell("#" * 100_000)], "100 KB or more"),
        (lambda cells: cells[:-1], "an exercise without a hidden solution"),
        (lambda cells: [*cells[:-1], new_code_cell("2")], "an exercise without a hidden solution"),
        (
            lambda cells: [*cells, tagged("%%solution\n2", "solution")],
            "a solution that is not hidden",
        ),
        (lambda cells: [*cells, tagged("2", "solution")], "a solution that Run All runs"),
        (lambda cells: [*cells[:-1], UNFOLDED], "folded in the book and not in JupyterLab"),
        (lambda cells: [*cells[:-2], cells[-1]], "an exercise without a cell to work in"),
        (lambda cells: [*cells[:2], *cells[3:]], "does not check them"),
        (
            lambda cells: [*cells[:3], new_markdown_cell("{exercise}"), *cells[4:]],
            "an exercise without a hint",
        ),
        (
            lambda cells: [cells[0], tagged("n = 1", "parameters"), *cells[2:]],
            "without a parameter",
        ),
        (
            lambda cells: [cells[0], tagged("seed = 1\nn = 1", "parameters"), *cells[2:]],
            "n is not used",
        ),
    ],
)
def test_every_fault_is_found(
    project: Any, change: Callable[[list[Any]], list[Any]], fault: str | None
) -> None:
    # copies: a cell that occurs twice has another id in each place
    cells = [nbformat.from_dict({**cell, "id": f"c{i}"}) for i, cell in enumerate(change(GOOD))]
    found = list(faults(project.write_cells("one", cells)))
    assert fault in " ".join(found) if fault else found == []


def test_faults_of_the_file_itself_are_found(project: Any) -> None:
    path = project.write_cells("one", [nbformat.from_dict(cell) for cell in GOOD])
    content = json.loads(path.read_text(encoding="utf-8"))
    content["metadata"] = {"kernelspec": {"name": "py312", "display_name": "x"}, "widgets": {}}
    content["cells"][2]["rubbish"] = True
    path.write_text(json.dumps(content), encoding="utf-8")
    found = " ".join(faults(path))
    assert "kernel is not python3" in found
    assert "metadata: widgets" in found
    assert "invalid: Additional properties" in found


# -- the checkout ----------------------------------------------------------------------


def stored_files() -> list[Path]:
    """What git has or would take."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = (ROOT / name for name in done.stdout.decode().split("\0") if name)
    return [file for file in files if file.is_file()]


def test_no_file_is_large() -> None:
    assert [str(f) for f in stored_files() if f.stat().st_size > 600_000] == []


MACHINE = re.compile(r"(?<![\w.:-])/(?:home|Users|root|work|mnt)/[\w.-]+|\b[A-Z]:\\\\?Users\\")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/" + "home/jane/x", True),
        ('"/' + 'Users/jane"', True),
        ("(/" + "work/shared)", True),
        ("C:" + "\\Users\\jane", True),
        ("https://example.org/home/jane", False),
        ("src/work/x", False),
        ("/usr/bin/chromium", False),
    ],
)
def test_paths_of_a_machine_are_recognised(text: str, found: bool) -> None:
    assert bool(MACHINE.search(text)) is found


def test_no_file_names_a_folder_of_this_machine() -> None:
    guilty = []
    for file in stored_files():
        text = file.read_bytes().decode("utf-8", errors="ignore")
        if MACHINE.search(text) or str(ROOT) in text:
            guilty.append(str(file.relative_to(ROOT)))
    assert guilty == []


def test_modules_can_be_read_in_a_sitting() -> None:
    modules = sorted((ROOT / "lesionlab").rglob("*.py"))
    assert modules
    lines = {m.name: len(m.read_text(encoding="utf-8").splitlines()) for m in modules}
    assert {name: count for name, count in lines.items() if count >= 400} == {}


def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import lesionlab;"
        "print(time.perf_counter() - start, *{m.split('.')[0] for m in sys.modules})"
    )
    seconds = []
    for _ in range(3):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took, *loaded = done.stdout.split()
        seconds.append(float(took))
        assert not {"torch", "pylidc", "matplotlib", "pandas", "numpy", "scipy"} & set(loaded)
    assert statistics.median(seconds) < 0.3
