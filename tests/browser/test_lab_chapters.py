"""The chapters as a reader meets them: the wheel installed, copied to an empty folder, Run All."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lesionlab import chapters
from lesionlab.chapters import notebooks

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = notebooks.available(ROOT / "notebooks")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

PANEL = "jupyterapp.shell.currentWidget"
# resolves when the last cell has run, or one has failed
RUN_ALL = "jupyterapp.commands.execute('notebook:run-all-cells')"
CELLS = f"{PANEL}.content.model.sharedModel.toJSON().cells"
HIDDEN = f"{PANEL}.content.widgets.map(c => c.inputHidden)"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs; what it depends on is there already."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("lesionlab-*.whl")
    place = ["--no-deps", "--no-index", "--target", folder / "site", wheel]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *place]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    return folder / "site"


@pytest.fixture(scope="module")
def reader(
    installed: Path, browser: Any, lab_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A browser on a JupyterLab that was started in a folder with nothing but copied chapters."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("reader")
    environment = {"PYTHONPATH": str(installed), chapters.SET: "smoke"}
    command = [Path(sys.executable).with_name("lesionlab"), "notebooks", "copy", "mine"]
    subprocess.run(
        command, check=True, cwd=folder, env=os.environ | environment, capture_output=True
    )
    with lab_server(folder, folder / "mine", **environment) as address_of:
        context = browser.new_context(viewport={"width": 1300, "height": 1300})
        page = context.new_page()
        page.address_of = address_of
        yield page
        context.close()


def html_of(cell: dict[str, Any]) -> str:
    shown = (output.get("data", {}).get("text/html", "") for output in cell.get("outputs", ()))
    return "".join("".join(html) for html in shown)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_is_run_by_run_all(reader: Any, name: str, installed: Path) -> None:
    reader.goto(reader.address_of(f"notebooks/{name}.ipynb"))
    reader.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=60_000)
    reader.set_default_timeout(400_000)
    reader.evaluate(RUN_ALL)
    for _ in range(50):  # what the kernel has said last may still be on its way
        cells = reader.evaluate(CELLS)
        if all(c["execution_count"] for c in cells if c["cell_type"] == "code"):
            break
        reader.wait_for_timeout(100)
    hidden = reader.evaluate(HIDDEN)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for cell in code:
        failed = [o for o in cell["outputs"] if o["output_type"] == "error"]
        assert not failed, f"{cell['source']}\n{failed[0]['ename']}: {failed[0]['evalue']}"
        for table in re.findall(r"<table.*?</table>", html_of(cell), re.DOTALL):
            assert "<td" in table, f"an empty table:\n{cell['source']}"
    assert [c["source"] for c in code if c["source"].strip() and not c["execution_count"]] == []
    assert sum("<table" in html_of(cell) for cell in code) > 1

    for cell, source_hidden in zip(cells, hidden, strict=True):
        tags = cell["metadata"].get("tags", ())
        if "solution" in tags:
            assert source_hidden, "a solution lies open"
            assert "was not run" in cell["outputs"][0]["text"]
        if "hide-input" in tags:
            assert source_hidden
    reader.evaluate("jupyterapp.commands.execute('kernelmenu:shutdown')")


def test_what_was_run_is_the_wheel(installed: Path) -> None:
    code = "import lesionlab; from lesionlab import chapters; print(chapters.shipped('notebooks'))"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    # elsewhere: a module of the current folder would come first
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed.parent, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(installed.resolve())
