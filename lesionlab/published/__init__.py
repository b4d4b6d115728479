"""What the five papers printed: their tables and the numbers in their text, as data.

A chapter shows these beside its own results. One CSV per printed table stands in
`lesionlab/published/<paper>/`, with `papers.csv` and `index.csv` to say what each is and
`facts.csv` for numbers from running text and figures. Digits are kept as printed; where printed
numbers are not mutually consistent, the `note` of the table or fact says so. Conventions:

- `mean ± sd` becomes two columns, `accuracy` and `accuracy_sd`;
- a printed `<0.01` stands as `0.01` in a column whose name ends in `p_below`;
- `N/A` and `-` are empty cells; bold and colour (the papers' "best") are left out;
- headers of several levels become one row per combination (`task`, `model`, …);
- attributes have the names of `lesionlab.attributes`.

>>> fact("fu2021", "n_nodules")
2622.0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One of the five papers.

    `slug` is the name of its folder, module and chapter, `name` a short name for headings,
    `journal` with volume and pages or the preprint's number. `year` and `doi` are those of the
    version that was read: Fu 2021 and Lei 2020 as preprints.
    """

    slug: str
    name: str
    authors: str
    title: str
    journal: str
    year: int
    doi: str | None = None


_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?")
_LABEL = re.compile(r"(?:(table|tab|figure|fig)[.\s]*)?(s?\d+|[ivx]+)")
_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6"}


@cache
def _read(file: str) -> pd.DataFrame:
    """A CSV of this folder as text; shared, so callers copy before they change it."""
    source = resources.files("lesionlab.published").joinpath(*file.split("/"))
    with source.open("r", encoding="utf-8") as lines:
        # without keep_default_na=False, Li's category "None" would be read as missing
        return pd.read_csv(lines, dtype=str, keep_default_na=False)


PAPERS: Mapping[str, Paper] = {
    row["slug"]: Paper(**row | {"year": int(row["year"]), "doi": row["doi"] or None})
    for row in _read("papers.csv").to_dict("records")
}
"""The five papers by slug, in the order of the chapters."""


def table(paper: str, number: int | str) -> pd.DataFrame:
    """One printed table with its numbers parsed; `LookupError` if there is no such one.

    Args:
        paper: Slug of the paper, a key of `PAPERS`.
        number: The table as it is cited: `1`, `"S1"`, `"III"`, `"Table 3"`, `"Fig. 3"`.

    Returns:
        One row per printed row (or per combination of the levels of its header). Columns that
        hold numbers only are integer or float, NaN where nothing is printed; ✓ and × become
        True and False, an empty cell among them False; other columns stay text, "" where
        nothing is printed. `attrs` has paper, table, caption, unit, note and decimals (by column,
        the most that are printed).
    """
    printed = as_printed(paper, number)
    parsed = pd.DataFrame({column: _parse(printed[column]) for column in printed})
    parsed.attrs.update(printed.attrs)
    return parsed


def as_printed(paper: str, number: int | str) -> pd.DataFrame:
    """The same table as text, every digit as printed (`0.20` stays `0.20`), "" where empty."""
    known = tables(paper)
    match = _LABEL.fullmatch(str(number).strip().lower())
    kind, label = (match[1] or "", match[2]) if match else ("", "")
    kind = "figure" if kind.startswith("fig") else "table"
    row = known[known["file"] == f"{paper}/{kind}_{_ROMAN.get(label, label)}.csv"]
    if row.empty:
        raise LookupError(f"{paper} has no table {number!r}; there are {', '.join(known['table'])}")
    entry = row.iloc[0]
    content = _read(entry["file"]).copy()
    content.attrs.update({key: entry[key] for key in ("paper", "table", "caption", "unit", "note")})
    content.attrs["decimals"] = {
        name: max(len(cell.partition(".")[2]) for cell in content[name]) for name in content
    }
    return content


def tables(paper: str | None = None) -> pd.DataFrame:
    """The index: paper, table (as cited), file, caption (ours, then the paper's), unit, note."""
    return _of_paper(_read("index.csv"), paper)


def outside() -> pd.DataFrame:
    """Rows that other papers printed, as text: paper, accuracy, sensitivity, specificity (%)."""
    return _read("outside.csv").copy()


def since() -> pd.DataFrame:
    """What was printed from 2021 to 2026 on LIDC's malignancy: numbers that were read in `source`.

    Columns work, year, asks, measure, printed, split, source.
    """
    content = _read("since.csv")
    return content.assign(year=_parse(content["year"]), printed=_parse(content["printed"]))


def fact(paper: str, name: str) -> float:
    """One number from a paper's running text or figures; `facts(paper)` shows all of them."""
    known = facts(paper)
    value = known.loc[known["name"] == name, "value"]
    if value.empty:
        raise LookupError(f"{paper} has no fact {name!r}; there are {', '.join(known['name'])}")
    return float(value.iloc[0])


def facts(paper: str | None = None) -> pd.DataFrame:
    """Numbers from running text and figures, of one paper or of all.

    Columns paper, name, value (float), printed (the digits in the paper), unit, where (section or
    table), note.
    """
    known = _of_paper(_read("facts.csv"), paper).rename(columns={"value": "printed"})
    known.insert(2, "value", _parse(known["printed"]).astype("float64"))
    return known


def _of_paper(content: pd.DataFrame, paper: str | None) -> pd.DataFrame:
    """A copy of the rows of one paper (of all with None)."""
    if paper is None:
        return content.copy()
    if paper not in PAPERS:
        raise LookupError(f"there is no paper {paper!r}; there are {', '.join(PAPERS)}")
    return content[content["paper"] == paper].reset_index(drop=True)


def _parse(column: pd.Series[str]) -> pd.Series[float] | pd.Series[bool] | pd.Series[str]:
    """Text to numbers or truth values, if every printed cell allows it."""
    filled = column[column != ""]
    if filled.empty:
        return column
    if filled.isin(["✓", "×"]).all():
        return column == "✓"
    if not all(_NUMBER.fullmatch(cell) for cell in filled):
        return column
    # reindexing puts NaN where nothing is printed, which also makes whole numbers float
    return pd.to_numeric(filled.str.replace(",", "")).reindex(column.index)
