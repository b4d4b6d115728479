"""An attribute's scale without a browser: what goes into the page, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lesionlab import atlas, explorer
from lesionlab.crops import Crop
from lesionlab.explorer import _html, _scene

WIDGET = "application/vnd.jupyter.widget-view+json"
SAID = {"a": [1, 1, 1, 1], "b": [1, 2, 5, 5], "c": [2, 2, 2, 3], "d": [5, 5, 5, 5]}


def readings(name: str = "margin") -> pd.DataFrame:
    rows = [(i, v) for i, values in SAID.items() for v in values]
    return pd.DataFrame(rows, columns=["lesion_id", name])


def crop(lesion_id: str, size: int = 12) -> Crop:
    rng = np.random.default_rng(ord(lesion_id[0]))
    hu = rng.integers(-1000, 300, (4, size, size)).astype(np.int16)
    masks = np.zeros((4, *hu.shape), np.bool_)
    masks[:, 1:3, 3:7, 4:8] = True
    at = np.arange(4) + 40
    return Crop(lesion_id, hu, masks, (2.5, 0.7, 0.7), at, (100, 90), at > 0, "phantom")


def scale(name: str = "margin", ids: str = "abcd", **options: Any) -> Any:
    given = readings(name)
    crops = {i: crop(i) for i in ids}
    examples, coverage = atlas.examples(given, name), atlas.coverage(given, name)
    return explorer.atlas(name, examples, coverage, crops, **options)


def payload(shown: Any) -> dict[str, Any]:
    (text,) = re.findall(
        r'<script type="application/json">(.*?)</script>', shown.to_html(), re.DOTALL
    )
    return json.loads(text)  # type: ignore[no-any-return]


def steps(shown: Any) -> dict[int, dict[str, Any]]:
    return {step["code"]: step for step in payload(shown)["data"]["steps"]}


def test_every_step_is_there_with_its_words_and_counts() -> None:
    shown = steps(scale())
    assert [step["word"] for step in shown.values()] == [
        "Poorly defined", "Near poorly defined", "Medium", "Near sharp", "Sharp",
    ]  # fmt: skip
    assert [step["share"] for step in shown.values()] == ["31 %", "25 %", "6.2 %", "never", "38 %"]
    assert shown[1]["text"] == (
        "Given 5 times, in 2 nodules. Of 4 readers of one nodule, at most 4 gave it."
    )
    assert shown[3]["text"].startswith("Given once, in one nodule.")
    assert (shown[4]["text"], shown[4]["examples"]) == ("Nobody gave this step.", [])


def test_examples_name_nodule_readers_and_what_was_rendered() -> None:
    drawn = {i: {"margin": values[1]} for i, values in SAID.items()}
    agree, apart = steps(scale(rendered=drawn))[1]["examples"]
    assert agree["title"] == "All 4 readers gave this step: a"
    assert apart["title"] == "Furthest apart: readers gave 1 to 5: b"
    assert apart["notes"] == [
        "reader 1: 1 Poorly defined · reader 2: 2 Near poorly defined · reader 3: 5 Sharp · "
        "reader 4: 5 Sharp",
        "rendered from one reader's ratings: 2 Near poorly defined, which is not this step",
    ]
    assert agree["notes"][1] == "rendered from one reader's ratings: 1 Poorly defined"
    assert len(steps(scale())[1]["examples"][0]["notes"]) == 1


@pytest.mark.parametrize(
    ("said", "name", "step", "headings"),
    [
        ([[2, 2, 2, 3]], "margin", 2, ["Best agreement found: 3 of 4 readers gave this step"]),
        ([[1, 2, 3, 5]], "margin", 3, ["No agreement: 1 of 4 readers gave this step"]),
        ([[4]], "margin", 4, ["Its only reader gave this step"]),
        ([[3, 3], [3, 3]], "margin", 3, ["All 2 readers gave this step"] * 2),
        (
            [[6, 6, 6, 3], [6, 6, 3, 1]],
            "calcification",
            3,
            ["No agreement: 1 of 4 readers gave this step", "Furthest apart: readers gave 1 3 6"],
        ),
    ],
)
def test_a_heading_never_says_more_than_the_readers_did(
    said: list[list[int]], name: str, step: int, headings: list[str]
) -> None:
    rows = [("abcd"[i], value) for i, values in enumerate(said) for value in values]
    given = pd.DataFrame(rows, columns=["lesion_id", name])
    crops = {"abcd"[i]: crop("abcd"[i]) for i in range(len(said))}
    shown = explorer.atlas(name, atlas.examples(given, name), atlas.coverage(given, name), crops)
    titles = [example["title"][:-3] for example in steps(shown)[step]["examples"]]
    assert titles == headings


@pytest.mark.parametrize(
    ("name", "words"),
    [("malignancy", "only the outlines and the other ratings"), ("sphericity", "shape of the out")],
)
def test_what_is_never_rendered_is_said(name: str, words: str) -> None:
    drawn = {i: {"margin": 3} for i in SAID}
    notes = steps(scale(name, rendered=drawn))[1]["examples"][0]["notes"]
    assert words in notes[1]


def test_a_nodule_of_several_steps_is_stored_once() -> None:
    data = payload(scale())["data"]
    used = [e["volume"] for step in data["steps"] for e in step["examples"]]
    assert len(used) > len(data["volumes"]) == len(set(used)) == 4
    # b stands for 1, 2 and 5
    titles = [e["title"] for step in data["steps"] for e in step["examples"]]
    assert sum(title.endswith(": b") for title in titles) == 3
    assert all(panel["tier"]["name"] == "phantom" for panel in data["volumes"])


def test_names_without_an_order_say_so_and_start_in_another_window() -> None:
    data = payload(scale("calcification"))["data"]
    assert data["meaning"].endswith("The codes are names without an order.")
    assert data["state"] == {"window_centre": 40, "window_width": 400}
    assert payload(scale("margin"))["data"]["state"]["window_centre"] == -600
    assert payload(scale("margin", window=(0, 10)))["data"]["state"]["window_width"] == 10


def test_an_example_without_voxels_is_left_out_and_told() -> None:
    shown = steps(scale(ids="ac"))
    assert [e["title"][-1] for e in shown[1]["examples"]] == ["a"]
    assert shown[1]["text"].endswith("1 of its examples have no voxels here.")
    assert shown[5]["text"].endswith("2 of its examples have no voxels here.")
    assert payload(scale(ids="c"))["data"]["first"] == 2, "the first step that shows something"


def test_an_example_keeps_to_its_share_of_the_page_and_says_what_was_rounded() -> None:
    given = readings()
    crops = {i: crop(i, size=60) for i in SAID}
    arguments = ("margin", atlas.examples(given, "margin"), atlas.coverage(given, "margin"), crops)
    exact = explorer.atlas(*arguments, example_kb=None)
    small = explorer.atlas(*arguments, example_kb=16)
    for panel in payload(small)["data"]["volumes"]:
        assert len(json.dumps(panel, ensure_ascii=False)) < 17_000
        assert panel["hu"]["step"] > 1
        assert "HU are rounded to multiples of" in panel["notes"][0]
    assert {p["hu"]["step"] for p in payload(exact)["data"]["volumes"]} == {1}
    assert len(small.to_html()) < len(exact.to_html())


def test_of_many_slices_some_are_shown_where_they_lie() -> None:
    hu = np.arange(45 * 4, dtype=np.int16).reshape(45, 2, 2)
    masks = np.zeros((2, *hu.shape), np.bool_)
    masks[:, 9] = True
    weights = np.arange(45.0)
    maps = {"a": {"m": hu / 7, "flat": hu[0]}}
    scene = _scene.of(hu, spacing=(0.5, 1, 2), masks=masks, overlays=maps, slice_weights=weights)
    few = _scene.thinned(scene, 16)
    assert len(few.hu) == 15
    for thin, whole in ((few.hu, hu), (few.maps["a"]["m"], hu / 7), (few.weights, weights)):
        assert np.array_equal(thin, whole[::3])
    assert few.maps["a"]["flat"].shape == (1, 2, 2)
    assert np.array_equal(few.masks, masks[:, ::3])
    assert (few.spacing, few.stride) == ((1.5, 1, 2), (3, 1, 1))
    assert few.z_mm[2] == scene.z_mm[6] == 3.0
    assert few.notes == ("shown is 1 slice of 3, to keep the page small",)
    assert _scene.thinned(scene, 45) is scene


def test_a_widget_brings_html_and_a_picture_of_where_it_stands() -> None:
    pytest.importorskip("anywidget")
    viewer = scale()
    shown, _ = viewer._repr_mimebundle_()
    assert set(shown) == {WIDGET, "text/html", "image/png", "text/plain"}
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"] == "ScaleViewer('margin', 5 steps, 4 nodules)"
    viewer.step = 5
    assert payload(viewer)["state"] == {"step": 5}
    with pytest.raises(ValueError, match="step=6: expected 1 to 5"):
        viewer.step = 6
    assert {p["hu"]["step"] for p in viewer._data["volumes"]} == {1}


def test_without_anywidget_html_and_picture_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "lesionlab.explorer._built", raising=False)
    shown = scale()
    assert isinstance(shown, explorer.ScalePage)
    assert set(shown._repr_mimebundle_()) == {"text/html", "image/png", "text/plain"}


def test_text_from_outside_is_never_markup() -> None:
    nasty = "</script><!--<img src=x onerror=alert(1)>"
    given = readings().replace({"lesion_id": {"a": nasty}})
    crops = {i: crop(i) for i in (nasty, "b", "c", "d")}
    shown = explorer.atlas(
        "margin", atlas.examples(given, "margin"), atlas.coverage(given, "margin"), crops
    )
    page = shown.to_html()
    assert "<!--" not in page
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert payload(shown)["data"]["steps"][0]["examples"][0]["title"].endswith(nasty)
    assert shown.to_png().startswith(b"\x89PNG")


def test_one_module_has_one_default_export_and_fetches_nothing() -> None:
    for more in ((), ("choice.js", "scale.js"), ("choice.js", "game.js")):
        script = _html.script(*more)
        assert len(re.findall(r"(?m)^export default", script)) == 1
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script
        )
        assert not re.search(r"https?://|fetch\(|XMLHttpRequest|sendBeacon|WebSocket", script)
        assert "</script" not in script


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example_kb": 0}, "example_kb=0: expected KB above 0"),
        ({"window": "liver"}, "window='liver': expected one of"),
        ({"ids": ""}, "crops: expected one for some example of margin, got none"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        scale(**options)
