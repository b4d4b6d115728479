"""Verdicts follow from intervals, and every claim is settled by the chapter of its paper."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from lesionlab import chapters, published, results
from lesionlab.chapters import verdicts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nothing_recorded(monkeypatch):
    monkeypatch.setattr(results, "_values", {})


def ends(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high, "n_groups": 90}


@pytest.mark.parametrize(
    ("sign", "low", "high", "said"),
    [
        ("+", 0.01, 0.02, "holds"),
        ("+", -0.01, 0.02, "undecided"),
        ("+", -0.02, -0.01, "does not hold"),
        ("-", -0.02, -0.01, "holds"),
        ("-", -0.02, 0.01, "undecided"),
        ("-", 0.01, 0.02, "does not hold"),
        ("+", float("nan"), float("nan"), "undecided"),
        ("+", None, None, "not run"),
        ("", None, None, "cannot be tested"),
    ],
)
def test_the_interval_decides(sign, low, high, said):
    claim = verdicts.Claim("lei2020.x", "Table 1", "It works.", "AUC", sign, "")
    assert claim.verdict(None if low is None else {"low": low, "high": high}) == said


def test_a_claim_that_a_chapter_settles_is_in_its_results(nothing_recorded):
    row = pd.Series(ends(0.01, 0.03)).rename({"value": "difference"})
    found = verdicts.settle("lei2020.sam_cam", row)
    assert results.collected()["results"]["claim.lei2020.sam_cam"]["value"] == 0.02
    page = found._repr_html_()
    assert 'id="claim-lei2020-sam-cam"' in page
    assert "Verdict: holds" in page
    assert "+0.020 [+0.010, +0.030], 90 patients" in page
    told = verdicts.verdicts(paper="lei2020")
    assert told.loc["lei2020.sam_cam", "verdict"] == "holds"
    assert told.loc["lei2020.hesam_cam", "verdict"] == "not run"
    assert told.loc["lei2020.doctors", "measured"].startswith("The twenty nodules")


def test_an_edited_result_changes_the_verdict():
    found = {"claim.fu2021.attention": ends(-0.02, -0.01)}
    assert verdicts.verdicts(found).loc["fu2021.attention", "verdict"] == "holds"
    found["claim.fu2021.attention"]["high"] = 0.01
    assert verdicts.verdicts(found).loc["fu2021.attention", "verdict"] == "undecided"


def test_only_claims_of_the_file_that_can_be_tested_are_settled(nothing_recorded):
    with pytest.raises(
        ValueError, match=r"unknown claim 'lei2020\.sam_cma' that can be tested; did you mean"
    ):
        verdicts.settle("lei2020.sam_cma", ends(0, 1))
    with pytest.raises(ValueError, match=r"unknown claim 'lei2020\.doctors'"):
        verdicts.settle("lei2020.doctors", ends(0, 1))


def test_each_claim_is_of_a_paper_and_says_what_would_confirm_it():
    papers = set(published.tables()["paper"])
    for name, claim in verdicts.claims().items():
        assert name.partition(".")[0] in papers
        assert claim.place
        assert claim.words.endswith(".")
        assert bool(claim.number) == bool(claim.sign) != bool(claim.why)


def test_each_chapter_settles_the_claims_of_its_paper():
    settled = {}
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            for name in re.findall(r'settle\(\s*"([^"]+)"', "".join(cell["source"])):
                assert name not in settled, f"{name} is settled twice"
                settled[name] = file.stem
    there = chapters.shipped("notebooks")
    wanted = {
        name: paper
        for name, claim in verdicts.claims().items()
        if claim.sign and (there / f"{(paper := name.partition('.')[0])}.ipynb").exists()
    }
    assert settled == wanted
