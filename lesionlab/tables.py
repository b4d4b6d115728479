"""Tables for readers: the paper's number beside ours, and one look for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from lesionlab import attributes

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def beside(
    printed: Mapping[str, float] | pd.Series,
    ours: Mapping[str, float] | pd.Series,
    *,
    paper: str = "paper",
) -> pd.DataFrame:
    """A paper's values beside ours, row by row, with the difference.

    Args:
        printed: The paper's values by name; they decide which rows there are.
        ours: Our values under the same names.
        paper: Heading of the paper's column.

    Returns:
        Columns `paper`, `lesionlab`, `difference` (ours minus the paper's).

    Raises:
        LookupError: We have no value for a name of the paper's.
    """
    theirs, mine = pd.Series(dict(printed)), pd.Series(dict(ours))
    if missing := [name for name in theirs.index if name not in mine.index]:
        raise LookupError(f"ours has no value for {missing}; it has {mine.index.tolist()}")
    mine = mine.reindex(theirs.index)
    return pd.DataFrame({paper: theirs, "lesionlab": mine, "difference": mine - theirs})


def show(table: pd.DataFrame, *, caption: str, decimals: int | Mapping[str, int] = 2) -> Styler:
    """A table with a caption, full names of attributes, aligned numbers and escaped text.

    Args:
        table: What to show; whole numbers get thousands separators.
        caption: One sentence that says what the numbers are and which tier they come from.
        decimals: Of all floats, or by column.
    """
    named = table.rename(index=_title, columns=_title)
    if named.index.name in ("attribute", "feature"):  # a header row that says nothing new
        named = named.rename_axis(index=None)
    formats: dict[Any, Any] = {}
    for column in named.columns:
        if pd.api.types.is_bool_dtype(named[column]):
            formats[column] = lambda value: "yes" if value else "no"
        elif pd.api.types.is_integer_dtype(named[column]):
            formats[column] = "{:,}"
        elif pd.api.types.is_float_dtype(named[column]):
            wanted = decimals if isinstance(decimals, int) else decimals.get(str(column), 2)
            sign = "+" if column == "difference" else ""
            formats[column] = f"{{:{sign},.{wanted}f}}"
    style = named.style.format(formats, na_rep="–", escape="html")
    style = style.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    # sentences read from the left and may break; numbers stay aligned on the right
    left = "text-align: left; white-space: normal; min-width: 9em"
    style = style.set_table_styles(
        [
            {"selector": f"td.col{i}, th.col_heading.col{i}", "props": left}
            for i in range(named.shape[1])
            if any(isinstance(value, str) for value in named.iloc[:, i])
        ]
    )
    return style.set_caption(caption).set_table_attributes('class="dataframe"')


def _title(name: Any) -> Any:
    return attributes.title(name) if isinstance(name, str) else name
