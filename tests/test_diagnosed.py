"""The readers' malignancy against diagnoses: six patients whose numbers can be counted by hand."""

import os

import numpy as np
import pandas as pd
import pytest

from lesionlab import _files, diagnosed
from lesionlab.attributes import RATING_NAMES
from lesionlab.chapters import notebooks, shipped
from lesionlab.sources import diagnoses, lidc, origins

QUICK = {"n_resamples": 40}
real = pytest.mark.skipif(
    "LESIONLAB_LIDC_DIAGNOSES" not in os.environ, reason="LESIONLAB_LIDC_DIAGNOSES is not set"
)


@pytest.fixture
def nodules():
    """Patient d has two nodules; the readings of nodule e make another label by each rule."""
    readings = {
        "a": [4, 5],
        "b": [1, 2],
        "c": [3, 3],
        "d1": [2, 2],
        "d2": [5, 4],
        "e": [1, 3, 5, 5],
    }
    table = pd.DataFrame({"malignancy_readings": readings})
    table["malignancy"] = [float(np.mean(v)) for v in readings.values()]
    table["patient"] = [name[0] for name in readings]
    table["diameter"] = [20.0, 4.0, 8.0, 5.0, 6.0, 10.0]
    return table.assign(**{n: 3.0 for n in RATING_NAMES if n != "malignancy"})


@pytest.fixture
def known():
    """The diagnoses: a and e cancer, b and c benign, d metastasis (not of which nodule), f none."""
    code = {"a": 2, "b": 1, "c": 1, "d": 3, "e": 2, "f": 0}
    table = pd.DataFrame({"diagnosis": code, "method": 2, "n_nodules": 1})
    return table.assign(nodule_1=table["diagnosis"], method_1=3).astype("Int64")


def malignant(table):
    return table.assign(malignant=table["diagnosis"] > 1)


def test_a_case_is_a_certain_nodule_or_a_patient_with_his_maximum(nodules, known):
    of = diagnosed.cases(nodules, known)
    assert of["nodule"].index.tolist() == ["a", "b", "c", "e"]
    assert of["nodule"]["method"].unique() == [3]
    patients = of["patient"].set_index("patient")
    assert patients.index.tolist() == ["a", "b", "c", "d", "e"]
    d = patients.loc["d", ["mean", "diameter", "nodules", "diagnosis", "method"]]
    assert d.tolist() == [4.5, 6.0, 2, 3, 2]
    assert patients.loc["e", list(diagnosed.RULES)].tolist() == [3.5, 4.0, 5.0]
    some = pd.DataFrame({"model": [0.2, 0.9, 0.4]}, index=["a", "d1", "e"])
    of = diagnosed.cases(nodules, known, some)
    assert of["nodule"]["model"].to_dict() == {"a": 0.2, "e": 0.4}, "d has two nodules, not one"
    assert of["patient"].set_index("patient")["model"].to_dict() == {"a": 0.2, "d": 0.9, "e": 0.4}


def test_every_rule_by_hand(nodules, known):
    found = diagnosed.by_rule(malignant(diagnosed.cases(nodules, known)["patient"]), **QUICK)
    counts = ["n", "hits", "false_alarms", "misses", "rejections"]
    assert found.loc[("mean", "left out"), counts].tolist() == [4, 3, 0, 0, 1]
    assert found.loc[("mean", "benign"), counts].tolist() == [5, 3, 0, 0, 2]
    assert found.loc[("mean", "malignant"), counts].tolist() == [5, 3, 1, 0, 1]
    row = found.loc[("median", "malignant")]
    assert (row["accuracy"], row["always"], row["auc"]) == (0.8, 0.6, 1.0)
    assert (round(row["low"], 3), round(row["high"], 3)) == (0.376, 0.964)  # Wilson of 4 of 5
    assert len(found) == 9


def test_aucs_beside_one_of_them(nodules, known):
    patients = malignant(diagnosed.cases(nodules, known)["patient"])
    # malignant 20, 6, 10 mm against benign 4, 8: 5 of 6 pairs; the ratings: all 6; margin: ties
    found = diagnosed.aucs(patients, ["malignancy", "margin"], than="diameter", **QUICK)
    assert found["auc"].tolist() == [1.0, 0.5]
    assert found["difference"].tolist() == pytest.approx([1 / 6, -1 / 3])
    assert found[["n", "n_malignant"]].to_numpy().tolist() == [[5, 3]] * 2
    # within folds: of 20 and 10 against 4 all, of 6 against 8 none
    folds = patients.assign(fold=[0, 0, 1, 1, 0])
    assert diagnosed.aucs(folds, ["diameter"], than="mean", **QUICK)["auc"].tolist() == [0.5]
    alone = diagnosed.aucs(patients[patients["malignant"]], ["mean"], than="mean", **QUICK)
    assert alone["auc"].isna().all()
    assert alone["n"].tolist() == [3]


@pytest.fixture
def set_up(nodules, known, tmp_path, monkeypatch):
    """A database and a sheet of these patients, and no kept run."""
    sheet = tmp_path / "sheet.xls"
    sheet.write_text("a sheet", encoding="utf-8")
    monkeypatch.setattr(lidc, "nodules", lambda: nodules)
    monkeypatch.setattr(diagnoses, "read", lambda path: known)
    monkeypatch.delenv(origins.SLICES.variable, raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path)
    return sheet


def test_what_is_measured_is_kept_without_a_row_of_a_patient(set_up, tmp_path):
    found = diagnosed.measure(tmp_path, set_up, **QUICK)
    assert found["flow"]["n"].tolist() == [6, 5, 5, 4, 4]
    steps = found["steps"].set_index(["unit", "diagnosis", "step"])["n"]
    assert steps["patient"].to_dict() == {(1, 2): 1, (1, 3): 1, (2, 4): 1, (2, 5): 1, (3, 5): 1}
    rules = found["rules"].set_index(["against", "unit", "rule", "threes"])["n"]
    assert rules["primary cancer", "patient", "mean", "benign"] == 4
    assert found["models"].empty
    path = diagnosed.write(found, tmp_path / "kept.json", set_up)
    again = diagnosed.read(path)
    assert again.keys() == found.keys()
    pd.testing.assert_frame_equal(again["scores"], found["scores"], check_dtype=False)
    checksum = _files.read_json(path)["data"][1]["checksum"]
    assert checksum == _files.sha256(set_up)


def test_other_results_are_refused():
    with pytest.raises(ValueError, match="expected the tables flow, methods, "):
        diagnosed.read(shipped("book", "results", "phantoms", "transfer.json"))


def test_no_patient_is_in_the_books_results():
    text = shipped("book", "results", "diagnoses", "results.json").read_text(encoding="utf-8")
    assert "LIDC-IDRI-" not in text


@real
def test_the_books_results_are_those_of_the_sheet():
    kept = diagnosed.read(shipped("book", "results", "diagnoses", "results.json"))
    of = diagnosed.cases(lidc.nodules(), diagnoses.read())
    assert kept["flow"]["n"].tolist()[2::2] == [len(of["patient"]), len(of["nodule"])]
    rules = kept["rules"].query("against == 'cancer or metastasis' and unit == 'patient'")
    found = diagnosed.by_rule(malignant(of["patient"]), n_resamples=1)
    for name in ("n", "hits", "false_alarms", "misses", "rejections", "accuracy", "auc"):
        assert rules[name].tolist() == pytest.approx(found[name].tolist()), name


@pytest.mark.slow
def test_sentences_of_the_chapter_follow_the_results(tmp_path):
    """Another kept accuracy is another sentence, and another table."""
    found = _files.read_json(shipped("book", "results", "diagnoses", "results.json"))
    row = next(r for r in found["results"]["rules"] if r["unit"] == "nodule")
    assert (row["against"], row["rule"], row["threes"]) == (
        "cancer or metastasis",
        "mean",
        "left out",
    )
    row |= {"accuracy": 0.123, "low": 0.101, "high": 0.145}
    changed = _files.write_json(tmp_path / "changed.json", found)
    task = notebooks.plan(
        "diagnoses", parameters={"measured": str(changed)}, out=tmp_path, set_name="smoke"
    )
    notebooks.carry_out(task, timeout=120, progress=False)
    cells = {cell["id"]: cell for cell in _files.read_json(task.path)["cells"]}
    for name in ("diagnoses-agreement-said", "diagnoses-found-said"):
        (output,) = cells[name]["outputs"]
        assert "0.12 [0.10, 0.14]" in "".join(output["data"]["text/markdown"]), name
