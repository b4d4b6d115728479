"""What the viewer, the scale and the game have in common, without a browser."""

from __future__ import annotations

import json
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
from lesionlab.explorer import _encoding, _html

WIDGET = "application/vnd.jupyter.widget-view+json"
NASTY = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\"'& $\\alpha$"


def made(kind: str, name: str, noise: Callable[..., Any], size: int = 12) -> Any:
    if kind == "view":
        maps = {name: {name: np.eye(size)}}
        readings: Any = {name: [1, 2]}
        return explorer.view(
            noise(name, (4, size, size)), overlays=maps, title=name, tier=name, readings=readings
        )
    readings = pd.DataFrame({"lesion_id": [name, name, "b"], "margin": [1, 1, 5]})
    crops = {i: noise(i, (4, size, size)) for i in (name, "b")}
    if kind == "game":
        return explorer.be_the_reader(
            list(crops.values()), readings, attributes=["margin"], references={name: {"margin": 1}}
        )
    given = atlas.examples(readings, "margin"), atlas.coverage(readings, "margin")
    return explorer.atlas("margin", *given, crops)


KINDS = {
    "view": ("VolumePage", "VolumeViewer", "('a', 4×12×12)"),
    "game": ("GamePage", "ReaderGame", "(2 nodules, 1 attributes)"),
    "scale": ("ScalePage", "ScaleViewer", "('margin', 5 steps, 2 nodules)"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widgets", [True, False])
def test_html_and_a_picture_come_with_a_widget_and_without(widgets, kind, noise, monkeypatch):
    if widgets:
        pytest.importorskip("anywidget")
        shown, _ = made(kind, "a", noise)._repr_mimebundle_()
    else:
        monkeypatch.setitem(sys.modules, "anywidget", None)
        monkeypatch.delitem(sys.modules, "lesionlab.explorer._widgets", raising=False)
        shown = made(kind, "a", noise)._repr_mimebundle_()
    assert set(shown) == {*[WIDGET] * widgets, "text/html", "image/png", "text/plain"}
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"] == KINDS[kind][widgets] + KINDS[kind][2]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("view", "slice", 3), ("scale", "step", 5), ("game", "answers", {"a": {"margin": 3}})],
)
def test_a_page_saved_now_starts_where_the_widget_stands(kind, name, value, noise, payload):
    pytest.importorskip("anywidget")
    viewer = made(kind, "a", noise)
    setattr(viewer, name, value)
    assert payload(viewer)["state"][name] == value


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("view", "slice", 4, "slice=4: expected 0 to 3"),
        ("view", "other_slice", -1, "other_slice=-1: expected 0 to 3"),
        ("view", "method", "CAM", "method='CAM': expected one of '', 'a'"),
        ("view", "opacity", 2, "opacity"),
        ("view", "window_width", float("inf"), "window_width=inf: expected numbers up to 1e+09"),
        ("view", "window_centre", float("nan"), "window_centre=nan: expected numbers up to 1e+09"),
        ("view", "pan", [0.0, 1e308], "pan=[0.0, 1e+308]: expected numbers up to 1e+09"),
        ("game", "answers", {"z": {"margin": 3}}, "there is no nodule 'z' here"),
        ("game", "chosen", ["texture"], "chosen=['texture']: expected some of"),
        ("game", "at", 2, "at=2: expected 0 to 1"),
        ("game", "phase", "over", "phase"),
        ("scale", "step", 6, "step=6: expected 1 to 5"),
    ],
)
def test_a_trait_out_of_range_is_refused(kind, name, value, message, noise):
    traitlets = pytest.importorskip("traitlets")
    viewer = made(kind, "a", noise)
    before = getattr(viewer, name)
    with pytest.raises((ValueError, traitlets.TraitError), match=re.escape(message)):
        setattr(viewer, name, value)
    assert getattr(viewer, name) == before


def test_what_cannot_be_packed_leaves_the_widget_as_it_was(noise, monkeypatch):
    pytest.importorskip("anywidget")
    viewer, page = made("view", "a", noise), made("view", "b", noise)._page
    before, scenes = viewer.get_state(), viewer.scenes

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(_html, "fitted", full)
    with pytest.raises(MemoryError):
        viewer.replace(page, keep_place=False)
    assert (viewer.get_state(), viewer.scenes) == (before, scenes)


def test_each_quality_of_a_part_is_packed_once(noise, monkeypatch):
    packed, pack = [], _encoding.pack
    monkeypatch.setattr(_encoding, "pack", lambda raw: packed.append(raw) or pack(raw))
    scenes = made("view", "a", noise).scenes
    _html.fitted(scenes, budget=0)
    _html.fitted(scenes, budget=0)
    assert len(packed) == 1 + 3 + 5, "outlines, maps of three levels, HU of five steps"


@pytest.mark.parametrize(("kind", "most"), [("scale", 21_000), ("game", 17_000)])
def test_a_nodule_keeps_to_its_share_of_the_page_and_says_what_was_rounded(
    kind, most, noise, payload
):
    viewer = made(kind, "a", noise, size=60)

    def panels(data: Any) -> Any:
        return data["volumes"] if kind == "scale" else [n["panel"] for n in data["nodules"]]

    for panel in panels(payload(viewer)["data"]):
        assert len(json.dumps(panel, ensure_ascii=False)) < most
        assert panel["hu"]["step"] > 1
        assert "HU are rounded to multiples of" in panel["notes"][0]
    assert {panel["hu"]["step"] for panel in panels(viewer._data)} == {1}, "in a kernel"


@pytest.mark.parametrize("nasty", [NASTY, "<!--<script>"])
@pytest.mark.parametrize("kind", KINDS)
def test_text_from_outside_is_never_markup_and_nothing_is_fetched(kind, nasty, noise, payload):
    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    seen: list[str] = []
    viewer = made(kind, nasty, noise)
    page = viewer.to_html()
    Tags().feed(page)
    assert seen == ["div", "p", "script", "script"]
    assert "<!--" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert nasty in str(payload(viewer)).replace('\\"', '"').replace("\\\\", "\\").replace(
        "\\'", "'"
    )
    assert viewer.to_png().startswith(b"\x89PNG")
    script = _html.script(*viewer._page.MORE)
    text = page + script
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|sendBeacon|WebSocket", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert "</script" not in script
    assert len(re.findall(r"(?m)^export default", script)) == 1
    names = {re.search(r'id="([^"]+)"', viewer.to_html())[1] for _ in range(5)}  # type: ignore[index]
    assert len(names) == 5, "two on one page do not share an id"


def test_entering_the_room_loads_nothing_heavy():
    code = (
        "import sys, numpy; from lesionlab import explorer; explorer.view\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "scipy", "anywidget", "pylidc"} & set(done.stdout.split())


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_saved_as_one_file(kind, noise, tmp_path):
    page = made(kind, NASTY, noise)
    path = page.save(tmp_path / "one & two.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "<title>one &amp; two</title>" in text
    assert "alert(1)</script>" not in text
    assert not re.search(r"(src|href)=.?https?:", text)
    with pytest.raises(FileExistsError, match="exists; choose another or overwrite=True"):
        page.save(path)
    assert page.save(path, overwrite=True).stat().st_size > 1000
