"""What is stored: stripped notebooks, modules of a readable size, nothing of this machine."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell

from lesionlab.chapters import SOLUTION, notebooks, parameters

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"

sizes = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "sizes.py")))

ABBREVIATIONS = {
    "ASCMM", "CAAM", "DICOM", "HESAM", "IDRI", "JSON", "LIDC", "MTMR", "NRRD", "PACS", "RTSTRUCT",
    "TCIA",
}  # fmt: skip
SECTIONS = ("What you will be able to do", "What you need", "What was found", "What to doubt")
SETS = {"smoke", "book", "paper"}
# what the book hides, JupyterLab folds
FOLDED = {
    "hide-input": {"source_hidden": True},
    "hide-output": {"outputs_hidden": True},
    "hide-cell": {"source_hidden": True, "outputs_hidden": True},
}


MOST_CELLS, MOST_LINES = 59, 12  # of a notebook, of a cell with code


def tags_of(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


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
    if len(notebook.cells) > MOST_CELLS:
        yield f"more than {MOST_CELLS} cells"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    yield from code_faults(code)
    after = next((i for i, cell in enumerate(code, 1) if "parameters" in tags_of(cell)), len(code))
    if f'chapters.begin("{path.stem}")' not in "".join(cell.source for cell in code[after:][:1]):
        yield "the cell after the parameters does not check them (chapters.begin)"
    yield from parameter_faults(path, code)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"(?m)^## +(.+?) *$", text)
    yield from (f"no section {name!r}" for name in SECTIONS if name not in headings)
    spoken = re.findall(r"\b[A-Z]{4,}\b", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S))
    yield from (f"a word left for later: {word}" for word in sorted({*spoken} - ABBREVIATIONS))
    if "{cite" in text:  # a link to the paper can be read everywhere
        yield "a citation of which JupyterLab shows the key"
    yield from exercise_faults(notebook.cells)


def code_faults(code: list[Any]) -> Iterator[str]:
    for cell in code:
        if cell.outputs or cell.execution_count is not None:
            yield "outputs or execution counts"
        if cell.source.count("\n") >= MOST_LINES:
            yield f"a cell of more than {MOST_LINES} lines"
        if re.search(r"\b(pip|conda|mamba) +install\b", cell.source):
            yield "installs packages"
        calls = re.findall(r"datasets\.crops\((?:[^()]|\([^()]*\))*\)", cell.source)
        if any("progress=" not in call for call in calls):
            yield "crops with a bar, which a page shows where they are made for the first time"
        wanted: dict[str, bool] = {}
        for tag in tags_of(cell) & FOLDED.keys():
            wanted |= FOLDED[tag]
        if cell.metadata.get("jupyter", {}) != wanted:
            yield "folded in the book and not in JupyterLab, or the other way round"


def parameter_faults(path: Path, code: list[Any]) -> Iterator[str]:
    tagged = [cell for cell in code if "parameters" in tags_of(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells tagged parameters"
        return
    declared = parameters.declared(path)
    rest = "\n".join(cell.source for cell in code if cell is not tagged[0])
    if re.search(r"\bseed\b|\bdefault_rng\b|\bmanual_seed\b", rest) and "seed" not in declared:
        yield "randomness without a parameter called seed"
    yield from (
        f"parameter {name} is not used"
        for name in declared
        if name != "solutions" and not re.search(rf"\b{name}\b", rest)
    )


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
def test_a_notebook_has_its_sets(name: str) -> None:
    sets = yaml.safe_load((FOLDER / "sets.yml").read_text(encoding="utf-8"))[name]
    assert sets.keys() >= SETS
    assert sets["book"] == {"solutions": True}, "the defaults are what the book shows"
    for chosen in sets:
        notebooks.plan(name, set_name=chosen, folder=FOLDER)


def tagged(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


def test_every_fault_is_found(project: Any) -> None:
    cells = [
        new_markdown_cell("# One\n\nLATER {cite}`a`"),
        tagged("n = 1", "parameters"),
        new_code_cell("default_rng()", execution_count=1),
        new_code_cell("%pip install x" + "\n" * 12),
        new_code_cell("#" * 100_000),
        new_markdown_cell("{exercise}"),
        tagged("%%solution\n2", "solution"),
        tagged("2", "hide-cell", "solution"),
        *(new_markdown_cell(f"{i}") for i in range(52)),
    ]
    assert list(faults(project.write_cells("one", cells))) == [
        "100 KB or more", "more than 59 cells", "outputs or execution counts",
        "a cell of more than 12 lines", "installs packages",
        "folded in the book and not in JupyterLab, or the other way round",
        "the cell after the parameters does not check them (chapters.begin)",
        "randomness without a parameter called seed", "parameter n is not used",
        *(f"no section {section!r}" for section in SECTIONS), "a word left for later: LATER",
        "a citation of which JupyterLab shows the key", "an exercise without a cell to work in",
        "an exercise without a hint", "a solution that is not hidden",
        "a solution that Run All runs",
    ]  # fmt: skip
    cells[5:] = [new_markdown_cell("{exercise}"), tagged("1", "exercise", "remove-cell")]
    cells.insert(1, tagged("n = 1", "parameters"))
    found = list(faults(project.write_cells("one", cells)))
    assert {"2 cells tagged parameters", "an exercise without a hidden solution"} <= {*found}


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
    models = [file for file in stored_files() if file.suffix == ".safetensors"]
    large = [file for file in stored_files() if file.stat().st_size > 800_000]
    assert set(large) <= set(models)
    sizes = [file.stat().st_size for file in models]
    assert max(sizes) < 10_000_000
    assert sum(sizes) < 50_000_000


MACHINE = re.compile(r"(?<![\w.:-])/(?:home|Users|root|work|mnt)/[\w.-]+|\b[A-Z]:\\\\?Users\\")


def test_no_file_names_a_folder_of_this_machine() -> None:
    guilty = []
    for file in stored_files():
        text = file.read_bytes().decode("utf-8", errors="ignore")
        if MACHINE.search(text) or str(ROOT) in text:
            guilty.append(str(file.relative_to(ROOT)))
    assert guilty == []


def test_modules_can_be_read_in_a_sitting_and_the_budget_is_kept(tmp_path: Path) -> None:
    assert sizes.long_modules(ROOT / "lesionlab") == {}
    (tmp_path / "lesionlab").mkdir()
    for name, lines in {"a.py": 501, "b.py": 500}.items():
        (tmp_path / "lesionlab" / name).write_text("\n" * lines, encoding="utf-8")
    assert sizes.long_modules(tmp_path / "lesionlab") == {"a.py": 501}
    project = tmp_path / "pyproject.toml"
    for budget, status in ((1001, 0), (1000, 1)):
        project.write_text(f"[tool.lesionlab.budget]\nlesionlab = {budget}\n", encoding="utf-8")
        assert sizes.main(tmp_path) == status


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter(imports(ROOT / "lesionlab")).prepare()  # an error names the circle


def imports(package: Path) -> dict[str, set[str]]:
    """What each module of a package imports of it, also inside functions, but not for types only.

    `from package import name` imports the module `name` where there is one, and else the package.
    """
    paths = {}
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        paths[name.removesuffix(".__init__")] = path
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


def test_a_test_is_skipped_without_the_variable_and_fails_with_a_wrong_one(
    request, root, monkeypatch
):
    variable = "LESIONLAB_LIDC_SLICES"
    shared = request.config.pluginmanager.get_plugin(str(root / "tests" / "conftest.py"))
    monkeypatch.setenv(variable, "")
    with pytest.raises(pytest.skip.Exception, match=f"{variable} is not set"):
        shared.find(variable)
    monkeypatch.setenv(variable, "/no/such/file")
    with pytest.raises(pytest.fail.Exception, match=f"{variable}='/no/such/file': expected"):
        shared.find(variable)


def test_workflows_run_what_there_is():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", makefile))
    whole = ""
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        steps = [step for job in jobs.values() for step in job["steps"]]
        whole += "\n".join(step.get("run", "") for step in steps) + "\n"
        for step in steps:
            assert set(step) & {"run", "uses"}, path.name
    assert set(re.findall(r"make ([a-z0-9-]+)", whole)) <= targets
    assert all((ROOT / name).exists() for name in re.findall(r"(?:tests/|\.ci/)\w+", whole))
    quick = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    pythons = quick["jobs"]["quick"]["strategy"]["matrix"]["python-version"]
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pythons == named
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).is_file()
    assert container["postCreateCommand"].removeprefix("make ") in targets
