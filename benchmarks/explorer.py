"""The volume viewer in Chromium: how fast it redraws, how soon a page of six can be used.

There is no peer here but what a reader notices: a frame of 16 ms, and 1.5 s until a page answers.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._table import Row
from lesionlab import explorer

SIZE = 64
FRAME_S, READY_S = 0.016, 1.5
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOSTS = "[...document.querySelectorAll('.lesionlab-volume > div')]"

# from the slider to the pixel: reading one waits until all are drawn
REDRAW = f"""async ([repeats, upright]) => {{
  const {{ viewer }} = {HOSTS}[0];
  viewer.model.set('orthogonal', upright);
  await viewer.settled();
  const canvas = viewer.root.querySelector('[data-plane=axial]');
  const slider = viewer.root.querySelector('input.slice');
  const times = [];
  for (let i = 0; i < repeats; i++) {{
    const start = performance.now();
    slider.value = i % {SIZE};
    slider.dispatchEvent(new Event('input'));
    viewer.draw();
    canvas.getContext('2d').getImageData(0, 0, 1, 1);
    times.push((performance.now() - start) / 1000);
  }}
  return times;
}}"""

# from the start of the navigation until the first and the last viewer have answered their sliders
READY = f"""async () => {{
  const answered = [];
  while ({HOSTS}.length < 6 || !{HOSTS}.every((host) => host.viewer))
    await new Promise((next) => {{ setTimeout(next, 5); }});
  for (const {{ viewer }} of {HOSTS}) {{
    await viewer.ready;
    const slider = viewer.root.querySelector('input.slice');
    slider.value = 5;
    slider.dispatchEvent(new Event('input'));
    viewer.draw();
    answered.push(performance.now() / 1000);
  }}
  return [answered[0], answered.at(-1)];
}}"""


def cube() -> explorer.VolumePage:
    """A noisy lung with a ball in it, four maps and three readers."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    far = np.sqrt(z**2 + y**2 + x**2)
    hu = np.where(far < 9, 20, -780) + rng.normal(0, 30, far.shape)
    smooth = np.exp(-(far**2) / 200)
    cells = np.kron(rng.random((8, 8, 8)), np.ones((8, 8, 8)))
    overlays = {
        "Grad-CAM": {"malignancy": smooth, "texture": np.roll(smooth, 9, axis=1)},
        "SAM": {"malignancy": cells, "texture": smooth**2},
    }
    masks = np.stack([far < radius for radius in (8, 9, 10)])
    return explorer.view(
        hu.round().astype(np.int16),
        masks=masks,
        overlays=overlays,
        spacing=(1.0, 0.7, 0.7),
        slice_weights=smooth.mean(axis=(1, 2)),
        tier="phantom",
    )


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        raise SystemExit("benchmarks.explorer needs Chromium: apt-get install chromium")
    flags = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


def rows(n_redraws: int = 200, n_loads: int = 5) -> list[Row]:
    piece = cube().to_html()
    size = f"{SIZE}³ with four maps, {len(piece.encode()) / 1000:.0f} KB"
    print(f"  {size} (asked for: at most 300 KB)", file=sys.stderr)
    assert len(piece.encode()) <= 300_000
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>viewers</title>'
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder, "six.html")
        path.write_text(head + piece, encoding="utf-8")
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_function(f"{HOSTS}.length === 1 && {HOSTS}.every(host => host.viewer)")
        one = page.evaluate(REDRAW, [n_redraws, False])
        three = page.evaluate(REDRAW, [n_redraws, True])
        # an element's name may occur once on a page
        pieces = "".join(piece.replace('id="ll-', f'id="ll-{i}').replace(
            'ById("ll-', f'ById("ll-{i}') for i in range(6))  # fmt: skip
        path.write_text(head + pieces, encoding="utf-8")
        loads = []
        for _ in range(n_loads):
            page = browser.new_page()
            page.goto(path.as_uri())
            loads.append(page.evaluate(READY))
            page.close()
    median = statistics.median
    for name, times in (("one plane", one), ("three planes", three)):
        print(
            f"  redraw, {name}: median {1000 * median(times):.2f} ms of {len(times)}, "
            f"slowest {1000 * max(times):.1f} ms",
            file=sys.stderr,
        )
    first, last = zip(*loads, strict=True)
    spread = ", ".join(f"{a:.2f} and {b:.2f}" for a, b in loads)
    print(f"  six viewers, the first and the last of them: {spread} s", file=sys.stderr)
    pixels = "tests/browser/test_viewer.py"
    return [
        Row(f"redraw a slice, {size}", "a frame", median(one), FRAME_S, 1.0, pixels),
        Row("the same, three planes", "a frame", median(three), FRAME_S, 1.0, pixels),
        Row("six viewers, the first answers", "1.5 s", median(first), READY_S, 1.0, pixels),
        Row("six viewers, all answer", "1.5 s", median(last), READY_S, 0.0, pixels),
    ]
