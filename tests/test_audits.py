"""The audit of the printed tables: it finds what a close reading found, and nothing by hand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from lesionlab import published
from lesionlab.cli import app
from lesionlab.published import audits
from lesionlab.statistics.audit_rows import Audit


@pytest.fixture(scope="module")
def every() -> list[Audit]:
    return audits.papers()


@pytest.fixture(scope="module")
def found(every: list[Audit]) -> pd.DataFrame:
    return audits.to_frame(every)


def of(found: pd.DataFrame, paper: str, table: str, check: str = "") -> pd.DataFrame:
    chosen = (found["paper"] == paper) & (found["table"] == table)
    chosen &= found["check"] == check if check else found["finding"]
    return found[chosen]


def test_every_printed_table_is_looked_at_or_said_to_have_nothing(every):
    printed = [(a.paper, a.table) for a in every if a.paper != audits.OUTSIDE and a.table != "text"]
    assert sorted(printed) == sorted(
        published.tables()[["paper", "table"]].itertuples(index=False, name=None)
    )
    assert len(printed) == 31
    assert sum(a.n_rows > 0 for a in every) > 20
    text = audits.report(every)
    assert text.count("nothing to audit") == sum(a.n_rows == 0 for a in every)


def test_a_row_from_outside(found):
    (row,) = of(found, "outside", "rows of other papers").to_dict("records")
    assert row["says"].endswith("98.09 is not between 98.73 and 98.96")
    assert row["cells"] == "accuracy 98.09, sensitivity 98.73, specificity 98.96"


@pytest.mark.parametrize("table", ["3", "4"])
def test_li_columns_have_other_names_and_rest_on_several_numbers_of_cases(found, table):
    (names,) = of(found, "li2021", table, "names")["says"]
    assert "read as sensitivity, precision, npv" in names
    said = " ".join(of(found, "li2021", table, "shared n")["says"])
    # without the lesions of several lobes (code 0), and with others in 3D
    assert set(re.findall(r"one of (\d+) cases", said)) == (
        {"150", "158", "171"} if table == "3" else {"150"}
    )
    clear = found[found["row"].str.contains("margin_clarity, Clear, (?:2D|Basic)")]
    assert clear["says"].str.contains("tp 76, fn 12, fp 16, tn 59").all()


def test_liu_accuracies_and_the_share_of_malignant_nodules(found):
    checks = of(found, "liu2020", "II").set_index("row")["check"]
    assert checks.to_dict() == {
        "Anand et al. 2015": "between", "MTMR-Net (w L_reg)": "prevalence",
        "MTMR-Net (w L_rank)": "between", "MTMR-Net": "between",
    }  # fmt: skip
    assert of(found, "fu2021", "5")["row"].tolist() == ["Liu et al. 2020"]  # the same row


def test_lei_is_of_102_and_127_with_some_digits_cut(found):
    for table in ("2", "3", "4"):
        said = of(found, "lei2020", table, "shared n")["says"].iloc[0]
        assert said.startswith("102 positive and 127 negative cases fit")
    hesam = of(found, "lei2020", "2").set_index("row").loc["Ours-HESAM"]
    assert hesam["says"].endswith(
        "99 of 102 and 126 of 127 are right, which makes 225 of 229 = 98.25 %"
    )
    # five accuracies are no share of 229
    off = of(found, "lei2020", "2", "k of n")["says"].str.extract(r"accuracy (\S+)")[0]
    assert sorted(off) == ["88.69", "95.36", "95.79", "96.69"]
    doctors = of(found, "lei2020", "6")
    assert doctors["row"].tolist() == ["Dr. 1"]


def test_wang_against_its_matrices(found):
    rows = of(found, "wang2021", "2", "matrix")
    assert rows[rows["finding"]]["row"].tolist() == [f"task 1, {m}" for m in "abcd"]
    (e,) = rows[~rows["finding"]].to_dict("records")
    assert (e["row"], e["says"]) == ("task 1, e", "F1 is the weighted one of the matrix of Fig. 4")


def test_sums_of_counts(found):
    sums = found[found["check"] == "sum"].set_index("paper")["says"].to_dict()
    assert sums == {
        "li2021": "1,847 + 163 = 2,010, and 2,014 is printed",
        "fu2021": "2,087 + 525 = 2,612, and 2,622 is printed",
        "liu2020": "250 + 250 + 250 + 250 + 250 = 1,250, and 1,422 is printed",
    }
    assert of(found, "li2021", "2")["row"].tolist() == ["lesion_location"]


def test_a_changed_digit_is_found_in_means_and_sums(monkeypatch):
    as_printed = published.as_printed

    def changed(paper: str, number: str) -> pd.DataFrame:
        content = as_printed(paper, number)
        for column, text in (("mean", "0.456"), ("testing", "12")):
            if column in content:
                content.loc[0, column] = text
        return content

    monkeypatch.setattr(published, "as_printed", changed)
    found = audits.to_frame(audits.papers("fu2021"))
    assert (
        of(found, "fu2021", "1", "mean")["says"].tolist()
        == ["the mean of 9 columns is 0.4543 to 0.4553"] * 1
    )
    found = audits.to_frame(audits.papers("wang2021"))
    assert of(found, "wang2021", "1", "sum")["row"].tolist() == ["AAH", "all rows"]


def test_what_the_audit_is_told_holds_no_finding():
    text = (Path(audits.__file__).parent / "audit.toml").read_text(encoding="utf-8")
    told = {key for entries in tomllib.loads(text).values() for entry in entries for key in entry}
    assert told == {
        "tables", "where", "without", "columns", "label", "pivot", "scales", "cases", "at_most",
        "positives", "runs", "classes", "matrix", "sum", "rows", "mean",
    }  # fmt: skip


# -- the command -------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["audit", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_prints_a_paper_or_a_table_of_ones_own(tmp_path):
    status, text, _ = command("liu2020")
    assert (status, text.splitlines()[0]) == (0, "Liu 2020, Table I: nothing to audit")
    assert "between: MTMR-Net [accuracy 93.5, sensitivity 93.0, specificity 89.4]" in text
    assert "A finding says that the printed numbers are not mutually consistent." in text
    assert "note, " not in text
    assert max(map(len, audits.report(audits.papers("liu2020"), width=60).splitlines())) <= 60
    assert "note, prevalence: Shen et al. 2017" in command("liu2020", "--notes")[1]
    file = tmp_path / "mine.csv"
    file.write_text("model;accuracy;recall\nA;91,3 %;\n", encoding="utf-8-sig")
    status, text, _ = command("--table", str(file), "--cases", "40")
    assert (status, text.splitlines()[0]) == (0, "mine.csv: 1 rows, 1 findings")
    assert "91,3 % is no whole number of 40 (36/40 = 90.0 %, 37/40 = 92.5 %)" in text


@pytest.mark.parametrize(("arguments", "message"), [
    (["lei2021"], "did you mean 'li2021'?"),
    (["--cases", "3"], "--cases 3 is for --table"),
    (["lei2020", "--table", "x.csv"], "give either a paper or --table"),
    (["--table", "nowhere.csv"], "No such file"),
])  # fmt: skip
def test_wrong_use_is_one_line(arguments, message):
    status, _, error = command(*arguments)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
