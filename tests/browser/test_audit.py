"""The form in a page: the same findings as Python's, and nothing goes wrong while it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lesionlab import explorer
from lesionlab.statistics import audit_rows

pytestmark = pytest.mark.browser

NASTY = "</script><script>alert(1)</script><!--"
FORM = "document.querySelector('.lesionlab-audit > div').audit"


@pytest.fixture
def form(show: Callable[..., Any]) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    return lambda text="", **how: show(
        explorer.audit_form(text, cases=how.pop("cases", None)).to_html(), **how
    )


def by_python(text: str, cases: int | None) -> list[tuple[str, str]]:
    """Row and check of each finding, each row audited by itself."""
    cells = audit_rows.read(text)
    every = [audit_rows.table(cells.iloc[[i]], cases=cases).findings for i in range(len(cells))]
    return [(f"row {i}", item.check) for i, found in enumerate(every, 1) for item in found]


def drawn(rng: np.random.Generator, n: int) -> str:
    """A table in CSV, some rows of which have a wrong digit and some an empty cell."""
    lines = []
    for _ in range(60):
        tp, fn, fp, tn = rng.multinomial(n, rng.dirichlet([2] * 4))
        pairs = [(tp + tn, n), (tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn)]
        places = rng.integers(2, 5)
        texts = [f"{k / of:.{places}f}" if of else "" for k, of in pairs]
        if rng.random() < 0.3:  # cut, not rounded
            texts[0] = f"{(tp + tn) * 10**places // n / 10**places:.{places}f}"
        if rng.random() < 0.5:
            texts[rng.integers(5)] = f"{rng.random():.{places}f}"
        texts[rng.integers(1, 5)] = ""
        lines.append(",".join(texts))
    return "\n".join(["accuracy,recall,specificity,ppv,npv", *lines])


def test_the_page_finds_what_python_finds(form: Any) -> None:
    rng = np.random.default_rng(0)
    kinds: set[str] = set()
    with form() as page:
        for n in (7, 23, 229):
            text = drawn(rng, n)
            items = page.evaluate(f"([text, n]) => {FORM}(text, n)", [text, n])
            found = [(item["row"], item["check"]) for item in items if item["finding"]]
            assert found == by_python(text, n)
            kinds |= {check for _, check in found}
        # one table and its counts are named alike
        (item,) = page.evaluate(f"{FORM}('accuracy,recall,specificity\\n0.90,0.75,1.00', 10)")
        assert item["says"] == "one table of 10 cases fits: tp 3, fn 1, fp 0, tn 6"
    assert kinds == {"between", "k of n", "cut", "tables"}


@pytest.mark.parametrize("text", [
    "m;accuracy;sensitivity;specificity;n\na;93,5 %;93,0 %;89,4 %;\nb;;90;;10\nc;1,2;90;;10\nd;;;;",
    "accuracy\tn\n0.9000\t1,000,000\n0.90000001\t1000",
    "accuracy,sensitivity,specificity\n1.2,0.9,0.8\n0.9,-0.1,0.8",
])  # fmt: skip
def test_percent_signs_commas_gaps_and_a_million_cases_are_read_alike(form: Any, text: str) -> None:
    with form() as page:
        items = page.evaluate(f"text => {FORM}(text, null)", text)
    whole = audit_rows.table(audit_rows.read(text)).findings
    assert [item["check"] for item in items if item["finding"]] == [item.check for item in whole]


def test_pasting_and_pressing_the_button(form: Any) -> None:
    with form("model,accuracy,recall,tnr\narXiv,98.09,98.73,98.96") as page:
        page.get_by_role("button", name="Audit this table").click()
        assert "98.09 is not between 98.73 and 98.96" in page.locator("li.finding").inner_text()
        page.get_by_label("Your table").fill(f"model,accuracy\n{NASTY},0.95")
        page.get_by_label("Cases behind each row").fill("10")
        page.get_by_role("button").click()
        assert page.locator("li").inner_text().startswith(f"{NASTY}, k of n: accuracy 0.95 is no")
        page.get_by_label("Your table").fill("model,accuracy\na,abc")
        page.get_by_role("button").click()
        assert page.locator("li").inner_text() == (
            "not read: “abc” is not a number such as 0.84, 84.2 % or 84,2"
        )


def test_text_is_never_markup_and_the_form_can_be_used_by_all(form: Any, accessible: Any) -> None:
    assert explorer.audit_form(NASTY).to_html().count("<script") == 1
    with form(f"{NASTY},accuracy\na,0.5", width=390) as page:
        assert page.get_by_label("Your table").input_value().startswith(NASTY)
        page.get_by_role("button").click()
        accessible(page, ".lesionlab-audit")


def test_a_form_is_refused_no_cases() -> None:
    with pytest.raises(ValueError, match="cases=0: expected a whole number, 1 or more"):
        explorer.audit_form("accuracy\n1", cases=0)
    shown = explorer.audit_form("accuracy\n1")._repr_mimebundle_()
    assert set(shown) == {"text/html", "text/plain"}
