"""What is stored: stripped notebooks, modules of a readable size, nothing of this machine."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell
from scipy.sparse.csgraph import connected_components

from lesionlab.chapters import SOLUTION, notebooks

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"

_spec = importlib.util.spec_from_file_location("sizes", ROOT / "tests" / "sizes.py")
assert _spec is not None
assert _spec.loader is not None
sizes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sizes)

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


def test_modules_can_be_read_in_a_sitting_and_the_budget_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sizes.long_modules(ROOT / "lesionlab") == {}
    for name, lines in {"a/__init__.py": 501, "b/__init__.py": 500, "c.py": 501}.items():
        path = tmp_path / "lesionlab" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("\n" * lines, encoding="utf-8")
    assert sizes.long_modules(tmp_path / "lesionlab") == {"a/__init__.py": 501, "c.py": 501}
    project = tmp_path / "pyproject.toml"
    for budget, status in ((1502, 0), (1501, 1)):
        project.write_text(f"[tool.lesionlab.budget]\nlesionlab = {budget}\n", encoding="utf-8")
        assert sizes.main(tmp_path) == status
    told = [line.split() for line in capsys.readouterr().out.splitlines()][:4]
    assert told[:3] == [["501", "lesionlab/a"], ["500", "lesionlab/b"], ["501", "lesionlab/"]]
    assert told[3] == ["1,502", "lesionlab,", "budget", "1,502"]


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(imports(ROOT / "lesionlab")) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import box.b", [["box.a", "box.b"]]),
        ("from box import b", [["box.a", "box.b"]]),
        ("def later():\n    from box.b import thing", [["box.a", "box.b"]]),
        ("from box import thing", []),
        ("if TYPE_CHECKING:\n    from box import b", []),
    ],
)
def test_a_circle_of_imports_is_found(code: str, found: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    for name, text in {"__init__": "thing = 1", "a": code, "b": "import box.a"}.items():
        (tmp_path / "box" / f"{name}.py").write_text(text, encoding="utf-8")
    assert circles(imports(tmp_path / "box")) == found


def imports(package: Path) -> dict[str, set[str]]:
    """What each module of a package imports of it, also inside functions, but not for types only.

    `from package import name` imports the module `name` where there is one, and else the package.
    """
    paths = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path
        for path in package.rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph = {}
    for module, path in paths.items():
        found = {part if part in paths else whole for whole, part in imported(path)}
        graph[module] = found & paths.keys() - {module}
    return graph


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module, and the name of what is taken out of it as if it were a module, too."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from ((node.module, f"{node.module}.{alias.name}") for alias in node.names)
        else:
            nodes += ast.iter_child_nodes(node)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which leads to all others of its group (strong components)."""
    matrix = np.array([[other in graph[name] for other in graph] for name in graph])
    _, labels = connected_components(matrix, directed=True, connection="strong")
    groups = (np.flatnonzero(labels == label) for label in np.unique(labels))
    names = list(graph)
    return sorted(sorted(names[i] for i in group) for group in groups if len(group) > 1)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("lesionlab", {"numpy", "pandas", "scipy", "matplotlib", "torch", "pylidc"}),
        ("lesionlab.cli", {"numpy", "pandas", "scipy", "matplotlib", "torch", "papermill"}),
        ("lesionlab.doctor", {"numpy", "pandas", "torch", "pylidc"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
