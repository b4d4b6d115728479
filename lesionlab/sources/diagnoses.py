"""What became of 157 patients of LIDC-IDRI, as TCIA published it in 2012.

The sheet has a diagnosis of each patient, and of up to five nodules, *without* saying which of the
outlined nodules they are. So a diagnosis belongs to a nodule for certain only where the patient has
one nodule in the database, and one in the sheet: `unambiguous`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from lesionlab.sources import archives, origins

DIAGNOSES = {0: "unknown", 1: "benign", 2: "primary lung cancer", 3: "metastasis"}
METHODS = {
    0: "unknown", 1: "stable for two years", 2: "biopsy", 3: "resection",
    4: "progression or response",
}  # fmt: skip

MAX_BYTES = 2_000_000
_COLUMNS = 14
_NODULES = 5


class DiagnosesError(ValueError):
    """The file is damaged, or is not the sheet of diagnoses. It never quotes a cell."""


def read(path: str | Path | None = None) -> pd.DataFrame:
    """The sheet of diagnoses.

    Args:
        path: The xls file; `LESIONLAB_LIDC_DIAGNOSES` if None.

    Returns:
        Index patient; columns diagnosis and method, codes of `DIAGNOSES` and `METHODS`, for the
        patient; n_nodules in the sheet; and nodule_1 to nodule_5 with method_1 to method_5, Int64.
        What it says in words of the primary tumour is left out.

    Raises:
        FileNotFoundError: It is not set up; the message says what to do.
        DiagnosesError: See there.
    """
    import xlrd

    found = archives.locate(origins.DIAGNOSES, path)
    size = found.stat().st_size
    if size > MAX_BYTES:
        raise DiagnosesError(f"{found} has {size:,} bytes, expected at most {MAX_BYTES:,}")
    try:
        sheet = xlrd.open_workbook(found, logfile=None).sheet_by_index(0)
        rows = [sheet.row_values(i) for i in range(1, sheet.nrows)]
    except Exception as error:  # xlrd raises whatever the damage leads to
        raise DiagnosesError(
            f"{found} cannot be read as xls ({type(error).__name__}); expected "
            f"{origins.DIAGNOSES.expected}"
        ) from None
    if sheet.ncols != _COLUMNS or not rows:
        raise DiagnosesError(
            f"{found} has {len(rows)} rows of {sheet.ncols} columns, expected rows of {_COLUMNS}"
        )
    table = pd.DataFrame([_row(found, i, cells) for i, cells in enumerate(rows, 2)])
    if table["patient"].duplicated().any():
        at = int(table["patient"].duplicated().to_numpy().argmax()) + 2
        raise DiagnosesError(f"{found}, row {at}: the patient is there twice")
    return table.set_index("patient").astype("Int64")


def _row(path: Path, number: int, cells: list[Any]) -> dict[str, Any]:
    patient = str(cells[0]).strip()
    if not re.fullmatch(r"LIDC-IDRI-\d{4}", patient):
        raise DiagnosesError(f"{path}, row {number}: the patient is not called LIDC-IDRI-xxxx")

    def code(column: int, known: dict[int, str]) -> int | None:
        value = cells[column]
        if not str(value).strip():
            return None
        if value not in known:
            raise DiagnosesError(
                f"{path}, row {number}, column {column + 1}: expected a code of {list(known)}"
            )
        return int(float(value))

    row: dict[str, Any] = {"patient": patient}
    row |= {"diagnosis": code(1, DIAGNOSES), "method": code(2, METHODS)}
    of = range(1, _NODULES + 1)
    nodules = {k: code(2 + 2 * k, DIAGNOSES) for k in of}
    row["n_nodules"] = sum(value is not None for value in nodules.values())
    row |= {f"nodule_{k}": nodules[k] for k in of}
    return row | {f"method_{k}": code(3 + 2 * k, METHODS) for k in of}


def unambiguous(nodules: pd.DataFrame, known: pd.DataFrame | None = None) -> pd.DataFrame:
    """The nodules whose diagnosis is certain to be theirs.

    Their patient has one nodule in the database, `nodules` as of `lidc.nodules()`, and one row in
    the sheet, `known` as of `read()`. Nodules of unknown diagnosis are left out of `malignant`.

    Returns:
        Index lesion_id; columns diagnosis, method (codes), and malignant: 0 benign, 1 cancer or
        metastasis, missing where it is not known.
    """
    known = read() if known is None else known
    patient = nodules["patient"]
    alone = patient[~patient.duplicated(keep=False)]
    one = known[known["n_nodules"] == 1]
    alone = alone[alone.isin(one.index)]
    found = one.loc[alone, ["nodule_1", "method_1"]].set_axis(["diagnosis", "method"], axis=1)
    found.index = pd.Index(alone.index, name="lesion_id")
    code = found["diagnosis"]
    return found.assign(malignant=(code > 1).astype("Int64").where(code > 0))
