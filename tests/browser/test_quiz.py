"""Questions in a page: each answer says at once whether it is right, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lesionlab.chapters import quiz

pytestmark = pytest.mark.browser

NAME = "atlas"


def said(question: int, answer: int) -> str:
    asked = quiz.questions(NAME)[question]
    word = "Right." if answer + 1 == asked["right"] else "Not quite."
    return f"{word} {asked['answers'][answer][1]}"


@pytest.mark.parametrize("java_script", [True, False])
def test_an_answer_has_its_reason_below_it(show: Callable[..., Any], java_script: bool) -> None:
    """The first question's second answer is right, the second question's third."""
    html = quiz.quiz(NAME).data
    options = {"served": False, "ready": False, "java_script_enabled": java_script}
    with show(html, **options) as page:
        answers = page.get_by_role("group").first.get_by_role("radio")
        reasons = page.locator(".lesionlab-quiz div > p")
        shown = lambda: [p.inner_text() for p in reasons.all() if p.is_visible()]  # noqa: E731
        assert shown() == []
        page.get_by_text(quiz.questions(NAME)[0]["answers"][0][0]).click()
        assert shown() == [said(0, 0)]
        assert shown()[0].startswith("Not quite.")
        answers.nth(1).click()
        assert shown() == [said(0, 1)]
        assert shown()[0].startswith("Right.")
        # on to the next question, and from answer to answer in it
        for key in ("Tab", "Space", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        assert shown() == [said(0, 1), said(1, 2)]
        # JupyterLab asks first what has the focus, and only then what it lies in
        assert page.locator(":focus").get_attribute("data-lm-suppress-shortcuts") == "true"
        page.emulate_media(media="print")
        assert len(shown()) == 15, "on paper nobody can choose"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_questions_can_be_read_by_all_on_a_phone(
    show: Callable[..., Any], accessible: Callable[..., None], theme: str
) -> None:
    with show(quiz.quiz(NAME).data, theme=theme, width=390, ready=False) as page:
        page.get_by_role("radio").first.check()
        accessible(page, ".lesionlab-quiz")
