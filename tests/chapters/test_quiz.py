"""Questions on the chapters: five each, one right answer, and a reason for every answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from lesionlab.chapters import Chapter, quiz

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
CONTENTS = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))["chapters"]
# a page below a chapter, such as that of its tables, asks nothing
CHAPTERS = [Path(one["file"]).name for one in CONTENTS if one["file"].startswith("notebooks/")]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_asks_five_questions_with_a_reason_for_each_answer(name: str) -> None:
    asked = quiz.questions(name)
    assert len(asked) == len({question["ask"] for question in asked}) == 5
    for question in asked:
        assert question.keys() == {"ask", "right", "answers"}
        assert question["right"] in (1, 2, 3)
        says, why = zip(*question["answers"], strict=True)
        assert len(set(says)) == len(set(why)) == 3
        texts = [question["ask"], *says, *why]
        assert all(text == text.strip() and len(text) > 3 for text in texts)
        assert not re.search(r"[`*_$\\]|\]\(", "".join(texts)), "plain text has no marks"
        assert min(map(len, why)) > 30


@pytest.mark.parametrize("name", CHAPTERS)
def test_right_answers_cannot_be_told_from_their_place_or_length(name: str) -> None:
    asked = quiz.questions(name)
    assert {question["right"] for question in asked} == {1, 2, 3}
    longest = 0
    for question in asked:
        lengths = [len(says) for says, _ in question["answers"]]
        longest += lengths.index(max(lengths)) + 1 == question["right"]
    assert longest <= 3


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_shows_its_questions_once_before_what_to_doubt(name: str) -> None:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources.count("chapter.quiz()") == 1
    rest = "\n".join(sources[sources.index("chapter.quiz()") :])
    assert "## What to doubt" in rest


def test_text_is_escaped_and_only_one_answer_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = "</legend><script>&"
    answers = [[f"{nasty}{i}", f"{nasty}why"] for i in range(3)]
    asked = [{"ask": nasty, "right": 2, "answers": answers}]
    monkeypatch.setattr(quiz, "questions", lambda name: asked)
    html = str(quiz.quiz("atlas").data)
    assert "<script" not in html
    assert html.count("&lt;/legend&gt;&lt;script&gt;&amp;") == 7
    words = re.findall(r"<strong>(Right|Not quite)\.", html)
    assert words == ["Not quite", "Right", "Not quite"]


def test_a_page_without_questions_says_which_have_some() -> None:
    expected = r"unknown chapter with questions 'lei2020_tables'; did you mean 'lei2020'\?"
    with pytest.raises(ValueError, match=expected):
        Chapter("lei2020_tables", progress=False).quiz()
