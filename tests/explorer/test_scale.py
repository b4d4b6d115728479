"""An attribute's scale without a browser: what goes into the page, and what is refused."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from lesionlab import atlas, explorer

SAID = {"a": [1, 1, 1, 1], "b": [1, 2, 5, 5], "c": [2, 2, 2, 3], "d": [5, 5, 5, 5]}


@pytest.fixture
def scale(noise: Any) -> Any:
    def make(name: str = "margin", ids: str = "abcd", said: Any = SAID, **options: Any) -> Any:
        rows = [(i, v) for i, values in said.items() for v in values]
        given = pd.DataFrame(rows, columns=["lesion_id", name])
        crops = {i: noise(i) for i in ids}
        examples, coverage = atlas.examples(given, name), atlas.coverage(given, name)
        return explorer.atlas(name, examples, coverage, crops, **options)

    return make


@pytest.fixture
def steps(payload: Any) -> Any:
    return lambda shown: {step["code"]: step for step in payload(shown)["data"]["steps"]}


def test_every_step_is_there_with_its_words_and_counts(scale, steps):
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


def test_examples_name_nodule_readers_and_what_was_rendered(scale, steps):
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
    for name, words in (("malignancy", "only the outlines and"), ("sphericity", "shape of the")):
        notes = steps(scale(name, rendered=drawn))[1]["examples"][0]["notes"]
        assert words in notes[1], "never rendered"


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
def test_a_heading_never_says_more_than_the_readers_did(scale, steps, said, name, step, headings):
    given = dict(zip("abcd", said, strict=False))
    shown = steps(scale(name, "".join(given), given))
    assert [example["title"][:-3] for example in shown[step]["examples"]] == headings


def test_nodules_are_stored_once_and_names_have_another_window(scale, payload):
    data = payload(scale())["data"]
    used = [e["volume"] for step in data["steps"] for e in step["examples"]]
    assert len(used) > len(data["volumes"]) == len(set(used)) == 4
    titles = [e["title"] for step in data["steps"] for e in step["examples"]]
    assert sum(title.endswith(": b") for title in titles) == 3, "b stands for 1, 2 and 5"
    assert data["state"]["window_centre"] == -600
    nominal = payload(scale("calcification"))["data"]
    assert nominal["meaning"].endswith("The codes are names without an order.")
    assert nominal["state"] == {"window_centre": 40, "window_width": 400}


def test_an_example_without_voxels_is_left_out_and_told(scale, steps, payload):
    shown = steps(scale(ids="ac"))
    assert [e["title"][-1] for e in shown[1]["examples"]] == ["a"]
    assert shown[1]["text"].endswith("1 of its examples have no voxels here.")
    assert payload(scale(ids="c"))["data"]["first"] == 2, "the first step that shows something"
    with pytest.raises(ValueError, match="crops: expected one for some example of margin, got no"):
        scale(ids="")
