"""JupyterLab: widgets that Python moves and reads, and chapters as a reader meets them, Run All."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lesionlab import chapters
from lesionlab.chapters import notebooks

ROOT = Path(__file__).resolve().parents[2]
TOYS = ROOT / "tests" / "explorer"
CHAPTERS = notebooks.available(ROOT / "notebooks")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELL = """
import numpy as np
from lesionlab import explorer
hu = np.random.default_rng(0).integers(-1000, 300, (6, 20, 24)).astype(np.int16)
maps = {"a": {"m": hu / 1000, "t": -hu / 1000}, "b": hu[0] / 1000}
viewer = explorer.view(hu, overlays=maps, spacing=(2.5, 0.7, 0.7), title="in the lab")
viewer
"""
GAME = """
import numpy as np
import pandas as pd
from lesionlab import explorer
from lesionlab.crops import Crop
rng, at = np.random.default_rng(0), np.arange(4)
hu = rng.integers(-1000, 300, (4, 12, 12)).astype(np.int16)
masks = np.ones((2, 4, 12, 12), bool)
crops = [Crop(i, hu, masks, (1.0, 1.0, 1.0), at, (0, 0), 0 * at, "phantom") for i in "ab"]
ratings = {"margin": [1, 2, 5, 5], "texture": [5, 5, 4, 4]}
readings = pd.DataFrame({"lesion_id": list("aabb")} | ratings)
game = explorer.be_the_reader(crops, readings, attributes=["margin", "texture"])
game
"""
BENCH_CELL = f"""
import sys
sys.path.insert(0, {str(TOYS)!r})
import bench_toys as toys
from lesionlab import explorer
models = {{"HESAM": toys.lei(), "MTMR-Net": toys.liu()}}
bench = explorer.workbench(models, toys.crops())
bench
"""
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

FRONT = "window.jupyterapp?.shell.currentWidget"

RUN = """async (code) => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  const future = kernel.requestExecute({ code });
  let text = '';
  future.onIOPub = ({ content }) => { text += content.text ?? content.evalue ?? ''; };
  await future.done;
  return text.trim();
}"""

# JupyterLab's windowed notebook keeps what is out of view out of the page
VIEWER = "[...document.querySelectorAll('.jp-OutputArea-output div')].find(e => e.viewer)?.viewer"
PIXELS = f"{VIEWER}.root.querySelector('[data-plane=axial]').toDataURL()"


def run_all(page: Any, file: str) -> None:
    """Run a notebook when it is in front and its kernel is there; ends when all cells have run.

    JupyterLab first shows what was open before, and then the file that it was asked for.
    """
    page.wait_for_function(
        f"{FRONT}?.context?.path === '{file}' && {FRONT}.context.isReady &&"
        f"{FRONT}.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=60_000,
    )
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")


def run_beside(page: Any, file: str) -> None:
    """Open and run another notebook in front of the viewer's."""
    page.evaluate("path => jupyterapp.commands.execute('docmanager:open', { path })", file)
    run_all(page, file)


@contextlib.contextmanager
def jupyterlab(browser: Any, folder: Path, root: Path, **environment: str) -> Iterator[Any]:
    """A page for JupyterLab with settings of its own; `page.address_of` a file under root."""
    pytest.importorskip("jupyterlab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    own = {
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "IPYTHONDIR": folder / "ipython",
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser",
        "--allow-root", f"--port={port}", "--ServerApp.port_retries=0", "--ip=127.0.0.1",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {name: str(path) for name, path in own.items()} | environment,
            cwd=root,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            if server.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()  # noqa: S310
                break
            time.sleep(0.2)
        context = browser.new_context(viewport={"width": 1300, "height": 1300})
        page = context.new_page()
        page.address_of = lambda file: f"{address}/lab/tree/{file}?token={token}"
        yield page
        context.close()
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def lab(browser: Any, listen: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of a notebook whose one cell has been run."""
    pytest.importorskip("anywidget")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name, cell in (("viewer", CELL), ("game", GAME), ("bench", BENCH_CELL)):
        notebook = new_notebook(cells=[new_code_cell(cell)], metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    with jupyterlab(browser, folder, folder / "notebooks") as page:
        address = page.address_of("viewer.ipynb")
        page.wrong = listen(page, address.partition("/lab")[0])
        page.goto(address)
        run_all(page, "viewer.ipynb")
        page.wait_for_function(VIEWER, timeout=60_000)
        page.evaluate(f"{VIEWER}.ready")
        yield page


def wait_for_text(page: Any, code: str, text: str) -> None:
    """Ask the kernel until it says so: what the browser sends arrives a little later."""
    for _ in range(50):
        if (said := page.evaluate(RUN, code)) == text:
            return
        page.wait_for_timeout(100)
    assert said == text


def test_python_moves_what_is_shown(lab):
    before = lab.evaluate(PIXELS)
    assert lab.evaluate(RUN, "viewer.slice = 5") == ""
    lab.wait_for_function(f"{VIEWER}.model.get('slice') === 5")
    lab.evaluate(f"{VIEWER}.settled()")
    after = lab.evaluate(PIXELS)
    assert after != before
    lab.evaluate(RUN, "viewer.method = ''; viewer.window_width = 300")
    lab.wait_for_function(f"{VIEWER}.model.get('window_width') === 300")
    lab.evaluate(f"{VIEWER}.settled()")
    assert lab.evaluate(PIXELS) not in (before, after)
    assert lab.get_by_label("Width (HU)").input_value() == "300"
    dark = f"{VIEWER}.root.classList.contains('dark')"
    assert lab.evaluate(dark) is False
    lab.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    lab.wait_for_function(dark)


def test_python_reads_what_was_moved(lab):
    lab.get_by_label("Slice", exact=True).fill("1")
    wait_for_text(lab, "print(viewer.slice)", "1")
    lab.get_by_label("Attention map", exact=True).first.select_option("a")
    lab.get_by_label("Output", exact=True).first.select_option("t")
    wait_for_text(lab, "print(viewer.method, viewer.head)", "a t")
    canvas = lab.locator("[data-plane=axial]").first
    box = canvas.bounding_box()
    # the middle of row 9, column 10
    canvas.click(position={"x": 10.5 / 24 * box["width"], "y": 9.5 / 20 * box["height"]})
    code = (
        "p = viewer.probe; print((p['z'], p['y'], p['x']) == (1, 9, 10), "
        "p['hu'] == hu[1, 9, 10], abs(p['map'] + hu[1, 9, 10] / 1000) < 1e-4, p['mm'])"
    )
    wait_for_text(lab, code, "True True True [2.5, 6.3, 7]")


def test_keys_go_to_the_viewer_not_to_the_notebook(lab):
    lab.evaluate(RUN, "viewer.slice = 2")
    lab.wait_for_function(f"{VIEWER}.model.get('slice') === 2")
    lab.locator("[data-plane=axial]").first.click()
    for key in ("PageUp", "c", "ArrowUp", "m"):
        lab.keyboard.press(key)
    wait_for_text(lab, "print(viewer.slice, viewer.show_contours)", "4 False")
    assert lab.evaluate("jupyterapp.shell.currentWidget.content.widgets.length") == 1
    assert lab.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex") == 0


def test_the_saved_notebook_carries_html_and_a_picture(lab):
    lab.evaluate("jupyterapp.commands.execute('docmanager:save')")
    lab.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    data = lab.evaluate(
        "jupyterapp.shell.currentWidget.context.model.toJSON().cells[0].outputs[0].data"
    )
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "image/png"} <= set(data)
    assert lab.locator(".jp-OutputArea-output .lesionlab-volume").count() == 0
    assert lab.wrong == []


def test_a_game_is_played_in_the_lab_and_read_by_python(lab):
    """Opens another notebook beside the viewer's, so it comes last."""
    run_beside(lab, "game.ipynb")
    game = "[...document.querySelectorAll('.jp-OutputArea-output div')].find(e => e.game)?.game"
    lab.wait_for_function(game, timeout=60_000)
    lab.get_by_role("button", name="Start", exact=True).click()
    margin = lab.get_by_role("group", name="Margin")
    margin.get_by_role("radio", name="4 Near sharp").check()
    wait_for_text(lab, "print(game.phase, game.answers)", "rate {'a': {'margin': 4}}")
    # |4 - 1| and |4 - 2|
    assert lab.evaluate(RUN, "print(game.score().loc['margin', 'you'])") == "2.5"
    assert lab.evaluate(RUN, "game.answers = {'a': {'margin': 2}, 'b': {'texture': 5}}") == ""
    lab.wait_for_function(f"{game}.model.get('answers').b")
    assert margin.get_by_role("radio", name="2 Near poorly defined").is_checked()
    assert lab.evaluate(RUN, "game.phase = 'result'") == ""
    lab.get_by_text("You differ from a reader by 0.75 steps").wait_for()
    assert "expected 1 to 5, got 9" in lab.evaluate(RUN, "game.answers = {'a': {'margin': 9}}")
    assert lab.wrong == []


# -- the workbench, in a notebook of its own ------------------------------------------

BENCH = VIEWER.replace("document", "jupyterapp.shell.currentWidget.node")
BENCH_PIXELS = PIXELS.replace(VIEWER, BENCH)


def shown(page: Any, title: str, panels: int) -> str:
    """Wait for a title on the last panel; gives the pixels of the first."""
    page.wait_for_function(
        f"{BENCH}?.volumes.length === {panels} &&"
        f"{BENCH}.volumes.at(-1).panel.title === {title!r} && {BENCH}.volumes.at(-1).hu",
        timeout=30_000,
    )
    page.evaluate(f"{BENCH}.settled()")
    pixels: str = page.evaluate(BENCH_PIXELS)
    return pixels


def test_a_workbench_chooses_changes_and_complains(lab):
    run_beside(lab, "bench.ipynb")
    first, second = "LIDC-IDRI-0005-S0016-N02", "LIDC-IDRI-0006-S0017-N04"
    lab.wait_for_function(BENCH, timeout=60_000)
    before = shown(lab, f"{first}, HESAM", 1)

    lab.get_by_label("Lesions", exact=True).select_option(label=second)
    other = shown(lab, f"{second}, HESAM", 1)
    assert other != before
    values = lab.evaluate(f"[...{BENCH}.volumes[0].hu]")
    wait_for_text(lab, "print(bench.result.request.lesion_id)", second)

    lab.get_by_label("Surroundings", exact=True).select_option(label="air (−1024 HU)")
    left = shown(lab, f"{second}, HESAM, air beyond 0 mm of the consensus", 2)
    right = f"{BENCH}.root.querySelectorAll('[data-plane=axial]')[1].toDataURL()"
    assert lab.evaluate(right) != left
    assert lab.evaluate(f"[...{BENCH}.volumes[0].hu]") == values, "before is on the left"
    slices = lab.get_by_label("One slice in all places", exact=True)
    assert slices.locator("option:checked").inner_text() == "no"
    table = lab.get_by_role("table", name=f"Predicted for {second}")  # a game has tables, too
    table.wait_for()
    assert "after: air beyond 0 mm of the consensus" in table.inner_text()
    bars = lab.locator(".scale:visible")
    assert bars.nth(0).inner_text() == bars.nth(1).inner_text() != "", "one scale for both"
    assert lab.get_by_text("This page has no kernel").count() == 0, "here is one"
    picture = lab.get_by_role("application").last.bounding_box()
    assert table.bounding_box()["y"] < picture["y"] + 20, "beside the picture, or above it"

    # the viewer that shows something else is still the one that Python has
    lab.get_by_label("Slice", exact=True).last.fill("1")
    wait_for_text(lab, "print(bench.viewer.slice, bench.viewer.other_slice)", "1 1")

    lab.get_by_label("Lesion id", exact=True).fill("nobody")
    lab.keyboard.press("Enter")
    alert = lab.get_by_role("alert").filter(has_text="lesion_id='nobody'")
    alert.wait_for()
    assert "not among the 3 lesions here" in alert.inner_text()
    lab.get_by_role("button", name="Undo the changes").click()
    assert shown(lab, f"{second}, HESAM", 1)
    alert.wait_for(state="detached")

    lab.get_by_label("Model", exact=True).select_option(label="MTMR-Net")
    slider = lab.get_by_role("slider", name="Lobulation", exact=True)
    slider.wait_for(timeout=60_000)
    said = lab.get_by_text(re.compile(r"Probability of malignant: \d"))
    numbers = re.compile(r"0\.\d{3}")
    now, before = numbers.findall(said.inner_text())
    assert now == before
    slider.fill("5")
    now, before = numbers.findall(said.inner_text())
    assert now != before
    assert lab.wrong == []


# -- the chapters: the wheel installed, copied to an empty folder, Run All ---------------


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
def reader(installed, browser, tmp_path_factory):
    """A browser on a JupyterLab that was started in a folder with nothing but copied chapters."""
    folder = tmp_path_factory.mktemp("reader")
    environment = {"PYTHONPATH": str(installed), chapters.SET: "smoke"}
    command = [Path(sys.executable).with_name("lesionlab"), "notebooks", "copy", "mine"]
    subprocess.run(
        command, check=True, cwd=folder, env=os.environ | environment, capture_output=True
    )
    with jupyterlab(browser, folder, folder / "mine", **environment) as page:
        yield page


def html_of(cell: dict[str, Any]) -> str:
    shown = (output.get("data", {}).get("text/html", "") for output in cell.get("outputs", ()))
    return "".join("".join(html) for html in shown)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_is_run_by_run_all(reader, name, installed):
    file = f"notebooks/{name}.ipynb"
    reader.goto(reader.address_of(file))
    reader.set_default_timeout(400_000)
    run_all(reader, file)
    for _ in range(50):  # what the kernel has said last may still be on its way
        cells = reader.evaluate(f"{FRONT}.content.model.sharedModel.toJSON().cells")
        if all(c["execution_count"] for c in cells if c["cell_type"] == "code"):
            break
        reader.wait_for_timeout(100)
    hidden = reader.evaluate(f"{FRONT}.content.widgets.map(c => c.inputHidden)")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for cell in code:
        failed = [o for o in cell["outputs"] if o["output_type"] == "error"]
        assert not failed, f"{cell['source']}\n{failed[0]['ename']}: {failed[0]['evalue']}"
        for table in re.findall(r"<table.*?</table>", html_of(cell), re.DOTALL):
            assert "<td" in table, f"an empty table:\n{cell['source']}"
    assert [c["source"] for c in code if c["source"].strip() and not c["execution_count"]] == []
    tables = ["<table" in html_of(cell) for cell in code]
    pictures = [any("image/png" in o.get("data", ()) for o in cell["outputs"]) for cell in code]
    assert sum(pictures if name == "phantoms_variants" else tables) > 1

    for cell, source_hidden in zip(cells, hidden, strict=True):
        tags = cell["metadata"].get("tags", ())
        if "solution" in tags:
            assert source_hidden, "a solution lies open"
            assert "was not run" in cell["outputs"][0]["text"]
        if "hide-input" in tags:
            assert source_hidden
    reader.evaluate("jupyterapp.commands.execute('kernelmenu:shutdown')")


def test_what_was_run_is_the_wheel(installed):
    code = "import lesionlab; from lesionlab import chapters; print(chapters.shipped('notebooks'))"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    # elsewhere: a module of the current folder would come first
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed.parent, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(installed.resolve())
