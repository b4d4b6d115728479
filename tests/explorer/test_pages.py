"""What the viewer, the scale and the game have in common, without a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lesionlab import atlas, explorer
from lesionlab.explorer import _html

WIDGET = "application/vnd.jupyter.widget-view+json"
NASTY = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\"'& $\\alpha$"


def made(kind: str, name: str, crop: Callable[..., Any], **options: Any) -> Any:
    if kind == "view":
        options |= {"title": name, "tier": name, "readings": {name: [1, 2]}}
        return explorer.view(crop(name), overlays={name: {name: np.eye(12)}}, **options)
    readings = pd.DataFrame({"lesion_id": [name, name, "b"], "margin": [1, 1, 5]})
    if kind == "game":
        crops = [crop(name), crop("b")]
        references = {name: {"margin": 1}}
        return explorer.be_the_reader(crops, readings, attributes=["margin"], references=references,
                                      **options)  # fmt: skip
    given = atlas.examples(readings, "margin"), atlas.coverage(readings, "margin")
    return explorer.atlas("margin", *given, {name: crop(name), "b": crop("b")}, **options)


KINDS = {
    "view": "VolumeViewer('a', 4×12×12)",
    "game": "ReaderGame(2 nodules, 1 attributes)",
    "scale": "ScaleViewer('margin', 5 steps, 2 nodules)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_widget_brings_html_and_a_picture(kind: str, crop: Any) -> None:
    pytest.importorskip("anywidget")
    shown, _ = made(kind, "a", crop)._repr_mimebundle_()
    assert set(shown) == {WIDGET, "text/html", "image/png", "text/plain"}
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"] == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_without_anywidget_html_and_picture_are_left(
    kind: str, crop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "lesionlab.explorer._widgets", raising=False)
    page = made(kind, "a", crop)
    assert isinstance(page, explorer.VolumePage | explorer.GamePage | explorer.ScalePage)
    assert set(page._repr_mimebundle_()) == {"text/html", "image/png", "text/plain"}


@pytest.mark.parametrize("kind", KINDS)
def test_text_from_outside_is_never_markup(kind: str, crop: Any, payload: Any) -> None:
    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    seen: list[str] = []
    viewer = made(kind, NASTY, crop)
    page = viewer.to_html()
    Tags().feed(page)
    assert seen == ["div", "p", "script", "script"]
    assert "<!--" not in page
    assert NASTY in str(payload(viewer)).replace('\\"', '"').replace("\\\\", "\\").replace(
        "\\'", "'"
    )
    assert viewer.to_png().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_fetched_and_no_markup_is_made_from_text(kind: str, crop: Any) -> None:
    viewer = made(kind, "a", crop)
    script = _html.script(*viewer._page.MORE)
    text = viewer.to_html() + script
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|sendBeacon|WebSocket", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert "</script" not in script
    assert len(re.findall(r"(?m)^export default", script)) == 1
    names = {re.search(r'id="([^"]+)"', viewer.to_html())[1] for _ in range(5)}  # type: ignore[index]
    assert len(names) == 5, "two on one page do not share an id"


def test_entering_the_room_loads_nothing_heavy() -> None:
    code = (
        "import sys, numpy; from lesionlab import explorer; explorer.view\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "scipy", "anywidget", "pylidc"} & set(done.stdout.split())
