"""The sheet of diagnoses: what it says, for which nodules it is certain, and files that are not it.

No test writes an xls file, which takes a package of its own: sheets are made up behind xlrd.
"""

import os
from types import SimpleNamespace

import pandas as pd
import pytest

from lesionlab.sources import diagnoses, lidc
from lesionlab.sources.diagnoses import DiagnosesError

xlrd = pytest.importorskip("xlrd")
real = pytest.mark.skipif(
    "LESIONLAB_LIDC_DIAGNOSES" not in os.environ, reason="LESIONLAB_LIDC_DIAGNOSES is not set"
)
HEAD = ["…"] * 14
ROW = ["LIDC-IDRI-0001", 2, 3.0, "words", 2.0, 2.0, *[""] * 8]


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    """A file that xlrd reads as these rows."""

    def make(*rows):
        lines = [HEAD, *rows]
        one = SimpleNamespace(nrows=len(lines), ncols=len(lines[-1]), row_values=lines.__getitem__)
        book = SimpleNamespace(sheet_by_index=lambda k: one)
        monkeypatch.setattr(xlrd, "open_workbook", lambda *a, **k: book)
        path = tmp_path / "sheet.xls"
        path.touch()
        return path

    return make


def test_a_row_is_read_without_its_words(sheet):
    two = ["LIDC-IDRI-0002", 0, "", "", 1, 1, 3, 4, *[""] * 6]
    found = diagnoses.read(sheet(ROW, two))
    assert found.loc[
        "LIDC-IDRI-0001", ["diagnosis", "method", "nodule_1", "method_1"]
    ].tolist() == [2, 3, 2, 2]
    assert found["n_nodules"].tolist() == [1, 2]
    assert found.loc["LIDC-IDRI-0002", "nodule_2"] == 3
    assert found.loc["LIDC-IDRI-0002"].isna().sum() == 7
    assert "words" not in found.to_string()


def test_only_patients_with_one_nodule_on_both_sides_are_certain():
    patients = ["a", "b", "b", "c", "d", "e"]
    nodules = pd.DataFrame({"patient": patients}, index=[f"n{i}" for i in range(6)])
    known = pd.DataFrame(
        {"n_nodules": [1, 1, 2, 1], "nodule_1": [3, 1, 1, 0], "method_1": [2, 2, 2, 0]},
        index=["a", "b", "c", "d"],
    ).astype("Int64")
    found = diagnoses.unambiguous(nodules, known)
    assert found.index.tolist() == ["n0", "n4"]
    assert found["malignant"].tolist() == [1, pd.NA]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW[:13]], "1 rows of 13 columns, expected rows of 14"),
        ([], "0 rows of 14 columns"),
        ([["John Doe", *ROW[1:]]], "row 2: the patient is not called"),
        ([ROW, ROW], "row 3: the patient is there twice"),
        ([[*ROW[:4], 7, *ROW[5:]]], "row 2, column 5: expected a code of"),
        ([[*ROW[:4], "John Doe", *ROW[5:]]], "row 2, column 5: expected a code of"),
    ],
)
def test_another_sheet_is_refused_and_never_quoted(sheet, rows, message):
    with pytest.raises(DiagnosesError, match=message) as error:
        diagnoses.read(sheet(*rows))
    assert "Doe" not in str(error.value)
    assert "LIDC-IDRI-0001" not in str(error.value)


def test_files_that_are_no_xls(tmp_path, monkeypatch):
    path = tmp_path / "sheet.xls"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        diagnoses.read(path)
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))  # the head of an xls alone
    with pytest.raises(DiagnosesError, match=r"cannot be read as xls \(.*Error\)"):
        diagnoses.read(path)
    path.write_bytes(bytes(diagnoses.MAX_BYTES + 1))
    with pytest.raises(DiagnosesError, match="2,000,001 bytes"):
        diagnoses.read(path)
    monkeypatch.delenv("LESIONLAB_LIDC_DIAGNOSES", raising=False)
    with pytest.raises(FileNotFoundError, match="LESIONLAB_LIDC_DIAGNOSES is not set"):
        diagnoses.read()


@real
def test_the_sheet_of_tcia():
    found = diagnoses.read()
    assert len(found) == 157
    assert found["diagnosis"].notna().all()
    certain = diagnoses.unambiguous(lidc.nodules())
    counts = certain["malignant"].fillna(-1).value_counts().to_dict()
    assert counts == {1: 15, -1: 15, 0: 12}
