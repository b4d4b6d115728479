"""Tables for readers: the paper's numbers beside ours, and one look for all of them."""

from __future__ import annotations

import html
import re
import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lesionlab import attributes

if TYPE_CHECKING:
    from IPython.display import HTML
    from pandas.io.formats.style import Styler

WORDS: Mapping[str, str] = tomllib.loads(
    resources.files("lesionlab").joinpath("tables.toml").read_text(encoding="utf-8")
)
"""What a reader reads in place of the name of a column (or of a row): data, in `tables.toml`."""

_SAYS_NOTHING = {"attribute", "doctor", "feature", "index", "method", "target", "variant"}
_SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
_P_VALUE = re.compile(r"p|p_.*|.*_p")
_DIFFERENCE = re.compile(r"(.*_)?difference")

# The page's own colours, in the book, in JupyterLab and in VS Code; what scrolls passes beneath.
_GROUND = "white"
for _theme in ("--vscode-editor-background", "--pst-color-background", "--jp-layout-color0"):
    _GROUND = f"var({_theme}, {_GROUND})"
_GREY = "rgba(128, 128, 128, 0.5)"
_SCROLLS = (
    "display: block; width: fit-content; max-width: 100%; overflow-x: auto; border: 0;"
    # a shadow at each edge where there is more; at the end, a cover scrolls over it
    f"background: linear-gradient(to right, {_GROUND} 50%, transparent) left / 3em 100% local,"
    f" linear-gradient(to left, {_GROUND} 50%, transparent) right / 3em 100% local,"
    f" linear-gradient(to right, {_GREY}, transparent) left / 1em 100% scroll,"
    f" linear-gradient(to left, {_GREY}, transparent) right / 1em 100% scroll;"
    "background-repeat: no-repeat"
)
_STAYS = (
    f"position: sticky; left: 0; z-index: 1; background: {_GROUND};"
    f"box-shadow: inset -1px 0 {_GREY}"  # a border would scroll away
)
# as wide as can be read at once, whatever the table's width, and always in view
_CAPTION = (
    "caption-side: top; position: sticky; left: 0; width: max-content;"
    "max-width: min(42rem, calc(100vw - 3rem)); padding: 0 0 0.4rem;"
    "color: inherit; font-weight: 600; text-align: left; white-space: normal"
)
_WHOLE_WORDS = "word-break: normal; overflow-wrap: normal; hyphens: manual"
_BUTTONS = (
    "#KEY fieldset {border: 0; margin: 0 0 0.3rem; padding: 0; display: flex; flex-wrap: wrap;"
    " gap: 0 1.2em} #KEY legend {font-weight: 600; font-size: inherit; float: left; width: 9em;"
    " margin: 0} #KEY label {white-space: nowrap} @media print {#KEY fieldset {display: none}}"
)
_LONGEST_UNBROKEN = 30  # characters of a row's name


def beside(
    printed: Mapping[str, float] | pd.Series | pd.DataFrame,
    ours: Mapping[str, float] | pd.Series | pd.DataFrame,
    *,
    paper: str = "paper",
    here: str = "lesionlab",
) -> pd.DataFrame:
    """A paper's values beside ours, row by row, with the difference.

    Args:
        printed: The paper's values by row name: one column, or a table such as
            `published.table(paper, number).set_index("method")`.
        ours: Our values under the same names of rows and columns. A single column beside a
            table is put beside the column of its name.
        paper: Heading of the paper's values.
        here: Heading of ours.

    Returns:
        The paper's rows in its order, then those that only we have; NaN where one side has no
        value. For one column the columns `paper`, `here` and `difference` (ours minus the
        paper's). For tables the same three under the name of each column, as a header of two
        levels; without a difference where only one side has the column or holds no numbers.
    """
    single = not isinstance(printed, pd.DataFrame)
    theirs, mine = (v if isinstance(v, pd.DataFrame) else pd.Series(v).to_frame()
                    for v in (printed, ours))  # fmt: skip
    if single:
        theirs, mine = theirs.set_axis([""], axis=1), mine.set_axis([""], axis=1)
    for name, table in (("printed", theirs), ("ours", mine)):
        if not table.index.is_unique:
            twice = table.index[table.index.duplicated()].unique().tolist()
            raise ValueError(f"{name}: the rows {twice} are there twice, expected names of rows")
    if len(theirs) and len(mine) and not mine.index.isin(theirs.index).any():
        raise LookupError(
            f"ours has the rows {mine.index.tolist()}, expected some of {theirs.index.tolist()}"
        )
    rows = theirs.index.append(mine.index.difference(theirs.index, sort=False))
    parts: dict[tuple[Any, str], pd.Series] = {}
    for name in [*theirs, *(name for name in mine if name not in theirs)]:
        sides = {head: side[name].reindex(rows) for head, side in ((paper, theirs), (here, mine))
                 if name in side}  # fmt: skip
        parts |= {(name, head): values for head, values in sides.items()}
        if len(sides) == 2 and all(map(_is_number, sides.values())):
            parts[name, "difference"] = sides[here] - sides[paper]
    table = pd.DataFrame(parts, index=rows)
    return table.droplevel(0, axis=1) if single else table


def spell(ends: Iterable[float], decimals: int = 2) -> str:
    """A number with its interval, as a sentence has it: `0.91 [0.90, 0.93]`, “–” for no number.

    `ends` are the value, its lower and its upper end, or the value alone.
    """
    first, *others = (f"{float(end):z.{decimals}f}".replace("-", "−") for end in ends)
    return "–" if "nan" in first else f"{first} [{', '.join(others)}]" if others else first


def tell(ends: Mapping[str, Any] | pd.Series | None, better: str, worse: str) -> str:
    """What an interval says of a difference, and the numbers: `It helps: 0.02 [0.01, 0.03]`.

    `better` is said where the interval lies above 0, `worse` where it lies below; without `ends`
    (value, low, high) nothing was run.
    """
    if ends is None:
        return "not run"
    value, low, high = (float(ends[end]) for end in ("value", "low", "high"))
    said = better if low > 0 else worse if high < 0 else "No difference is shown"
    return f"{said}: {spell((value, low, high), 3)}"


def show(
    table: pd.DataFrame,
    *,
    caption: str,
    decimals: int | Mapping[str, int] = 2,
    first: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Styler:
    """A table with a caption, heads in words, aligned numbers and escaped text.

    A wide table scrolls sideways under its row names. p-values are printed to three decimals
    ("< 0.001" below), a difference with its sign, yes and no for truth values, "–" for no value.

    Args:
        table: What to show; whole numbers get thousands separators. Names of attributes and the
            names in `WORDS` are put into words.
        caption: One sentence that says what the numbers are and which tier they come from.
        decimals: Decimals of all floats but p-values, or by column; a column without an entry has
            2. Below a header of two levels, both the upper and the lower name count.
        first: Columns to move to the left, those that the text discusses. Of two levels, the upper.
        names: Further names of rows and columns in words, such as a paper's `NAMES` of variants.
    """
    heads = table.columns.get_level_values(0).tolist()
    if missing := [name for name in first if name not in heads]:
        known = list(dict.fromkeys(heads))
        raise LookupError(f"first: no column {missing}, expected some of {known}")
    rank = {name: i for i, name in enumerate(first)}
    order = sorted(range(len(heads)), key=lambda i: rank.get(heads[i], len(rank)))
    table = table.iloc[:, np.array(order, dtype=int)]

    own = names or {}
    named = table.rename(index=lambda n: _words(n, own), columns=lambda n: _head(n, own))
    said = None
    if named.index.nlevels == 1:  # in the corner, and not in a row of its own
        said = None if named.index.name in _SAYS_NOTHING else _head(named.index.name, {})
        named.index = named.index.rename(None)
    named.columns.names = [*[None] * (named.columns.nlevels - 1), said]

    levels = table.columns.to_frame().to_numpy()
    formats = [_formatter(of_column, decimals) for of_column in levels]
    style = named.style.format(dict(zip(named.columns, formats, strict=True)))
    for axis in (0, 1):
        style.format_index(escape="html", axis=axis).format_index_names(escape="html", axis=axis)
    style.set_table_styles([{"selector": s, "props": p} for s, p in _rules(named).items()])
    style.set_table_attributes('class="dataframe"')
    return style.set_caption(html.escape(caption, quote=False))


def choose(table: pd.DataFrame, *, caption: str, **how: Any) -> HTML:
    """A table as of `show` whose rows are chosen by buttons, without a kernel or a script.

    Each level of the index has a button for each of its values, and one for all; at first the
    first values are chosen. The style sheet hides the other rows (`:has`, in browsers since 2023);
    older browsers and paper show all rows.
    """
    from IPython.display import HTML

    whole = table.set_axis([" · ".join(map(str, row)) for row in table.index])
    key = f"ll-{zlib.crc32(f'{caption} {list(whole.index)}'.encode()):08x}"
    groups, conditions = "", [""] * len(table)
    for i, name in enumerate(table.index.names):
        values = list(table.index.unique(i))
        buttons = (
            f'<label><input type="radio" name="{key}-{i}" class="c{i}-{k}"{" checked" * (not k)}>'
            f" {html.escape(str(value))}</label>"
            for k, value in enumerate([*values, "all"])
        )
        legend = html.escape(str(name).replace("_", " "))
        groups += f"<fieldset><legend>{legend}</legend>{' '.join(buttons)}</fieldset>"
        for row, value in enumerate(table.index.get_level_values(i)):
            one, every = values.index(value), len(values)
            conditions[row] += f":has(.c{i}-{one}:checked, .c{i}-{every}:checked)"
    chosen = (f"#{key}{of} tbody tr:nth-child({row})" for row, of in enumerate(conditions, 1))
    hidden = f"#{key} tbody tr {{display: none}} {', '.join(chosen)} {{display: table-row}}"
    style = (
        f"{_BUTTONS.replace('KEY', key)} @supports selector(:has(*)) {{@media screen {{{hidden}}}}}"
    )
    shown = show(whole, caption=caption, **how).to_html()
    return HTML(  # type: ignore[no-untyped-call]
        f'<div id="{key}"><style>{style}</style>{groups}{shown}</div>'
    )


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _words(name: Any, names: Mapping[str, str]) -> Any:
    """A name in words, where there are any for it."""
    if not isinstance(name, str):
        return name
    return names.get(name) or WORDS.get(name) or attributes.title(name)


def _head(name: Any, names: Mapping[str, str]) -> Any:
    """As `_words`; what is left in snake case gets spaces. Rows may be names in code."""
    said = _words(name, names)
    is_code = said == name and isinstance(name, str) and _SNAKE_CASE.fullmatch(name)
    return said.replace("_", " ") if is_code else said


def _formatter(names: Iterable[Any], decimals: int | Mapping[str, int]) -> Callable[[Any], str]:
    """What prints a cell of the column with these names, those of a header's levels."""
    said = [str(name) for name in names]
    named = [] if isinstance(decimals, int) else [decimals[n] for n in said if n in decimals]
    is_p = any(_P_VALUE.fullmatch(name) for name in said)
    is_difference = _DIFFERENCE.fullmatch(said[-1]) is not None
    places = named[0] if named else 3 if is_p else decimals if isinstance(decimals, int) else 2

    def cell(value: Any) -> str:
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return "–"
        if isinstance(value, (bool, np.bool_)):
            return "yes" if value else "no"
        if not isinstance(value, Real):
            return html.escape(str(value))
        if "p_below" in said:
            return f"< {value:g}"
        if is_p and 0 <= float(value) < 10**-places:
            return f"< {10**-places:.{places}f}"
        text = f"{abs(value):,}" if isinstance(value, Integral) else f"{abs(value):,.{places}f}"
        if not re.search("[1-9]|inf", text):  # rounded to zero, which has no sign
            return text
        return ("−" if float(value) < 0 else "+" if is_difference else "") + text

    return cell


def _rules(named: pd.DataFrame) -> dict[str, str]:
    """Selector to style: all that a table has where the book's own style sheet is not."""
    last, lowest = named.index.nlevels - 1, named.columns.nlevels - 1
    names = map(str, named.index.get_level_values(-1))
    breaks = max(map(len, names), default=0) > _LONGEST_UNBROKEN
    width = "white-space: normal; min-width: 14em" if breaks else "white-space: nowrap"
    # on paper nothing scrolls: 18 cm are 510 pt, and a column of numbers is nearly 5 em wide
    points = min(8, 510 / (5 * named.shape[1] + 14))
    rules = {
        "": f"{_SCROLLS}; --print-size: {points:.1f}pt",
        "caption": _CAPTION,
        "th, td": f"vertical-align: baseline; {_WHOLE_WORDS}",
        "td": "text-align: right; white-space: nowrap",
        "tbody tr": "background: none",
        "th.col_heading": "text-align: right; white-space: normal; vertical-align: bottom",
        f"tbody th.level{last}, thead th:nth-child({last + 1})": f"{_STAYS}; text-align: left",
        f"tbody th.level{last}": width,
    }
    for i, column in enumerate(named.columns):
        # sentences read from the left and may break; numbers stay aligned on the right
        if any(isinstance(v, str) and re.search(r"[^\W\d_]", v) for v in named.iloc[:, i]):
            left = "text-align: left; white-space: normal; min-width: 9em"
            rules[f"td.col{i}, th.col_heading.level{lowest}.col{i}"] = left
        if lowest and i and column[0] != named.columns[i - 1][0]:
            rules[f"tr > .col{i}"] = f"border-left: 1px solid {_GREY}"
    if lowest:
        rules["thead tr:first-child th.col_heading"] = "text-align: center; white-space: nowrap"
    return rules
