"""What several test files share: small projects, executed chapters, and the built book.

The expensive ones are made once a session, and only if a test asks for them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from hypothesis import settings
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

# Read once, when a library is loaded, hence before torch is: one thread to a process, here as in
# pytest's workers, kernels and commands that tests start. Models are tiny, and threads of several
# processes on the same cores wait for each other, spinning. Whoever sets them is heeded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lesionlab.chapters import notebooks
from lesionlab.crops import Crop
from lesionlab.sources import origins

# no test is timed: on a busy machine an example may take long
settings.register_profile("lesionlab", deadline=None)
settings.load_profile("lesionlab")

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


TOGETHER = {
    "tests/training/test_studies.py": {"dataset", "done"},
    "tests/chapters/test_notebooks.py": (book := {"smoke", "built_book", "hard_book"}),
    "tests/test_book.py": book,
    "tests/browser/test_pages.py": book,
}
"""Files that share fixtures which take long to make, and these fixtures; name others here."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes (`-n`), keep together what shares something expensive to make.

    A file stays in one process, as its fixtures do; and so do files that share one, or every
    process would execute the chapters and build the book again. `xdist_group` does not do it:
    xdist 3.8 writes the group into an attribute that pytest 9.2 no longer reads, and every test
    goes where there is room.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return " ".join(sorted(TOGETHER.get(file, {file})))

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def noise() -> Callable[..., Crop]:
    """A crop of noise with a box for every reader; each id has its own."""

    def make(lesion_id: str, shape: tuple[int, int, int] = (4, 12, 12), n_readers: int = 3) -> Crop:
        rng = np.random.default_rng(zlib.crc32(lesion_id.encode()))
        hu = rng.integers(-1000, 300, shape).astype(np.int16)
        depth, height, width = shape
        masks = np.zeros((n_readers, *shape), np.bool_)
        masks[:, 1:-1, height // 4 : 2 * height // 3, width // 4 : 2 * width // 3] = True
        at = np.arange(depth) + 40
        return Crop(lesion_id, hu, masks, (2.5, 0.7, 0.7), at, (100, 90), 0 * at, "phantom")

    return make


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def lidc_sources() -> Iterator[Any]:
    """`lidc_sources.py` beside this file: a slices set and a DICOM scan to write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        import lidc_sources

        yield lidc_sources


@pytest.fixture(scope="session")
def own_scans() -> Iterator[Any]:
    """`own_scans.py` beside this file: a scan as DICOM, and headers that name a person."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        import own_scans

        yield own_scans


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, where nothing is yet, and no data."""
    monkeypatch.setenv("LESIONLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    for origin in origins.ORIGINS.values():
        monkeypatch.delenv(origin.variable, raising=False)
    for variable in (origins.ANNO, origins.NIFTI):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


# -- real data: not part of the repository, named by variables, as in the library --


def find(variable: str) -> Path:
    """Where a data set lies. Without the variable its tests are skipped; with it they must run."""
    if not (name := os.environ.get(variable)):
        pytest.skip(f"{variable} is not set")
    if not os.access(name, os.R_OK):
        pytest.fail(f"{variable}={name!r}: expected a file or folder that can be read")
    return Path(name)


def _named_by(variable: str, what: str) -> Any:
    def path() -> Path:
        return find(variable)

    path.__doc__ = what
    return pytest.fixture(scope="session")(path)


real_slices = _named_by("LESIONLAB_LIDC_SLICES", "LIDC-IDRI slices, with a table of intensities.")
real_volumes = _named_by("LESIONLAB_LIDC_VOLUMES", "LIDC-IDRI volumes, a zip of NIfTI files.")
real_diagnoses = _named_by("LESIONLAB_LIDC_DIAGNOSES", "TCIA's sheet of the patients' diagnoses.")


@dataclasses.dataclass(frozen=True)
class Project:
    """A checkout in small: a folder with notebooks/ in it."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "notebooks"

    @property
    def executed(self) -> Path:
        return self.root / "_build" / "executed"

    def write(self, name: str, *cells: str, parameters: str | None = "seed = 1") -> Path:
        """Store a notebook; a cell that starts with ``#`` and a space is Markdown."""
        made = [
            new_markdown_cell(c) if c.startswith("# ") else new_code_cell(c)
            for c in (f"# {name.title()}", *cells)
        ]
        if parameters is not None:
            made.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        return self.write_cells(name, made)

    def write_cells(self, name: str, cells: list[nbformat.NotebookNode]) -> Path:
        metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
        path = self.folder / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
        return path


def _project(folder: Path) -> Project:
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "sets.yml").write_text("{}\n", encoding="utf-8")
    return Project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project of its own."""
    return _project(tmp_path / "project")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], notebooks.Plan]:
    """Execute a chapter with its smoke set, once however many tests ask."""
    out = tmp_path_factory.mktemp("executed")

    @functools.cache
    def executed(name: str) -> notebooks.Plan:
        solve = {"solutions": True}  # Run All with the set alone leaves them out
        where: dict[str, Any] = {"folder": ROOT / "notebooks", "out": out}
        task = notebooks.plan(name, set_name="smoke", parameters=solve, **where)
        return notebooks.carry_out(task, timeout=120, progress=False)

    return executed


@dataclasses.dataclass(frozen=True)
class Build:
    """What came of building a book."""

    html: Path
    status: int
    log: str

    @property
    def pages(self) -> list[Path]:
        every = sorted(self.html.rglob("*.html"))
        return [page for page in every if "_static" not in page.relative_to(self.html).parts]


def build_book(source: Path, out: Path, **environment: str) -> Build:
    """Build a book as `make book` does, warnings being errors."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", source]
    options = ["--toc", source / "book" / "_toc.yml", "--path-output", out, "-W", "-n"]
    clean = {k: v for k, v in os.environ.items() if k != "LESIONLAB_BOOK_SET"}
    done = subprocess.run(
        [*command, *options, "--keep-going"], capture_output=True, text=True, check=False,
        env=clean | {"NO_COLOR": "1"} | environment,
    )  # fmt: skip
    return Build(out / "_build" / "html", done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def built_book(smoke, tmp_path_factory):
    """The book itself, from smoke copies of its chapters."""
    executed = [smoke(name).path for name in notebooks.available(ROOT / "notebooks")]
    out = tmp_path_factory.mktemp("book")
    where = {"LESIONLAB_EXECUTED": str(executed[0].parent), "LESIONLAB_BOOK_SET": "smoke"}
    return build_book(ROOT, out, **where)


HEADINGS = "| " + " | ".join(f"a_long_heading_{i}" for i in range(20)) + " |"
WIDE_TABLE = f"{HEADINGS}\n{'|---' * 20}|\n{'| 1 ' * 20}|\n"
WIDE_FORMULA = "\\boldsymbol{x} = " + " + ".join(["\\mathbb{E}[\\alpha_i]"] * 30)

CAPTION = "Cubes of the first numbers, row by row, to see how fast they grow (phantom)"

NAMES = "# Names\n\n## Dice\n\nWhat two masks\nhave in *common*.\n\nIt is 1 for equal ones.\n"

HARD_CHAPTER = [
    new_markdown_cell(
        "# Hard\n\nWith $\\kappa = \\frac{p_o - p_e}{1 - p_e}$ and\n\n"
        f"$$ {WIDE_FORMULA} $$ (eq-wide)\n\nsee {{eq}}`eq-wide`.\n\n{WIDE_TABLE}\n"
        "The [Dice coefficient](../book/notation.md#dice) of [nothing](../book/intro.md)."
    ),
    new_code_cell("size = 5", metadata={"tags": ["parameters"]}),
    new_code_cell(
        "import numpy as np\nimport pandas as pd\n"
        "frame = pd.DataFrame(np.arange(size * 20.0).reshape(size, 20) ** 3)\n"
        "frame.columns = [f'attribute_{i}' for i in range(20)]\nframe"
    ),
    new_code_cell(f"frame.style.format('{{:.1f}}').set_caption({CAPTION!r})"),
    new_code_cell(
        "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(16, 3))\n"
        "ax.plot(frame['attribute_0'])\nplt.show()",
        metadata={"mystnb": {"image": {"alt": "The cubes rise."}}},
    ),
    new_code_cell("print('x' * 400)"),
    # a widget that brings its own HTML along
    new_code_cell(
        "from IPython.display import display\n"
        "view = {'model_id': '0', 'version_major': 2, 'version_minor': 0}\n"
        "html = '<p>shown without a kernel</p>'\n"
        "kind = 'application/vnd.jupyter.widget-view+json'\n"
        "display({'text/html': html, kind: view, 'text/plain': 'Widget()'}, raw=True)"
    ),
    new_markdown_cell("```{exercise}\n:label: ex-hard\nAdd them up.\n```"),
    new_code_cell("frame.to_numpy().sum()", metadata={"tags": ["hide-cell", "solution"]}),
]  # fmt: skip


@pytest.fixture(scope="session")
def hard_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A book with our own settings and one chapter of everything that is hard to lay out."""
    made = _project(tmp_path_factory.mktemp("hard") / "project")
    made.write_cells("hard", HARD_CHAPTER)
    shutil.copy(ROOT / "_config.yml", made.root)
    for part in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / part, made.root / "book" / part)
    shutil.copy(ROOT / "book" / "references.bib", made.root / "book")
    (made.root / "book" / "intro.md").write_text("# A book\n", encoding="utf-8")
    (made.root / "book" / "notation.md").write_text(NAMES, encoding="utf-8")
    (made.root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/hard\n"
        "  - file: book/notation\n",
        encoding="utf-8",
    )
    return made


@pytest.fixture(scope="session")
def hard_book(hard_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """That book, built."""
    notebooks.carry_out(notebooks.plan("hard", folder=hard_project.folder), progress=False)
    return build_book(hard_project.root, tmp_path_factory.mktemp("hard-book"))
