"""Viewer and workbench as widgets in JupyterLab: shown, moved from Python, read by Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

TOYS = Path(__file__).parents[1] / "explorer"
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
crops = [Crop(i, hu, masks, (1.0, 1.0, 1.0), at, (0, 0), at >= 0, "phantom") for i in "ab"]
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
bench = explorer.workbench({{"HESAM": toys.lei()}}, toys.crops())
bench
"""
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

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


def run_all(page: Any) -> None:
    """Run the notebook in front, when its kernel is there."""
    # the toolbar says idle too early: running then asks for a kernel
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=60_000)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")


@pytest.fixture(scope="module")
def lab(
    browser: Any, listen: Any, lab_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The page of a notebook whose one cell has been run."""
    pytest.importorskip("jupyterlab")
    pytest.importorskip("anywidget")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name, cell in (("viewer", CELL), ("game", GAME), ("bench", BENCH_CELL)):
        notebook = new_notebook(cells=[new_code_cell(cell)], metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    with lab_server(folder, folder / "notebooks") as address_of:
        address = address_of("viewer.ipynb")
        context = browser.new_context(viewport={"width": 1300, "height": 1300})
        page = context.new_page()
        page.wrong = listen(page, address.partition("/lab")[0])
        page.goto(address)
        run_all(page)
        page.wait_for_function(VIEWER, timeout=60_000)
        page.evaluate(f"{VIEWER}.ready")
        yield page
        context.close()


def wait_for_text(page: Any, code: str, text: str) -> None:
    """Ask the kernel until it says so: what the browser sends arrives a little later."""
    for _ in range(50):
        if (said := page.evaluate(RUN, code)) == text:
            return
        page.wait_for_timeout(100)
    assert said == text


def test_python_moves_what_is_shown(lab: Any) -> None:
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


def test_python_reads_what_was_moved(lab: Any) -> None:
    lab.get_by_label("Slice", exact=True).fill("1")
    wait_for_text(lab, "print(viewer.slice)", "1")
    lab.get_by_label("Attention map", exact=True).first.select_option("a")
    lab.get_by_label("Output", exact=True).first.select_option("t")
    wait_for_text(lab, "print(viewer.method, viewer.head)", "a t")
    canvas = lab.locator("[data-plane=axial]").first
    box = canvas.bounding_box()
    # the middle of row 9, column 10
    canvas.click(
        position={"x": 10.5 / 24 * box["width"], "y": 9.5 / 20 * box["height"]},
    )
    code = (
        "p = viewer.probe; print((p['z'], p['y'], p['x']) == (1, 9, 10), "
        "p['hu'] == hu[1, 9, 10], abs(p['map'] + hu[1, 9, 10] / 1000) < 1e-4, p['mm'])"
    )
    wait_for_text(lab, code, "True True True [2.5, 6.3, 7]")


def test_keys_go_to_the_viewer_not_to_the_notebook(lab: Any) -> None:
    lab.evaluate(RUN, "viewer.slice = 2")
    lab.wait_for_function(f"{VIEWER}.model.get('slice') === 2")
    lab.locator("[data-plane=axial]").first.click()
    for key in ("PageUp", "c", "ArrowUp", "m"):
        lab.keyboard.press(key)
    wait_for_text(lab, "print(viewer.slice, viewer.show_contours)", "4 False")
    assert lab.evaluate("jupyterapp.shell.currentWidget.content.widgets.length") == 1
    assert lab.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex") == 0


def test_the_saved_notebook_carries_html_and_a_picture(lab: Any) -> None:
    lab.evaluate("jupyterapp.commands.execute('docmanager:save')")
    lab.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    data = lab.evaluate(
        "jupyterapp.shell.currentWidget.context.model.toJSON().cells[0].outputs[0].data"
    )
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "image/png"} <= set(data)
    assert (
        lab.evaluate("document.querySelectorAll('.jp-OutputArea-output .lesionlab-volume').length")
        == 0
    )
    assert lab.wrong == []


def test_a_game_is_played_in_the_lab_and_read_by_python(lab: Any) -> None:
    """Opens another notebook beside the viewer's, so it comes last."""
    lab.evaluate("jupyterapp.commands.execute('docmanager:open', { path: 'game.ipynb' })")
    lab.wait_for_function("jupyterapp.shell.currentWidget?.context?.path === 'game.ipynb'")
    lab.evaluate("jupyterapp.shell.currentWidget.sessionContext.ready")
    lab.wait_for_function("jupyterapp.shell.currentWidget.sessionContext.session?.kernel")
    lab.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
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

IDS = ("LIDC-IDRI-0005-S0016-N02", "LIDC-IDRI-0006-S0017-N04")
"""The first two of `bench_toys.IDS`."""

BENCH = (
    "[...jupyterapp.shell.currentWidget.node.querySelectorAll('.jp-OutputArea-output div')]"
    ".find(e => e.viewer)?.viewer"
)
BENCH_PIXELS = f"{BENCH}.root.querySelector('[data-plane=axial]').toDataURL()"


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


def test_a_workbench_chooses_changes_and_complains(lab: Any) -> None:
    lab.evaluate("jupyterapp.commands.execute('docmanager:open', {path: 'bench.ipynb'})")
    lab.wait_for_function("jupyterapp.shell.currentWidget.context?.path === 'bench.ipynb'")
    run_all(lab)
    first, second = IDS
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
    assert lab.wrong == []
