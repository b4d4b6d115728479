"""The command `lesionlab audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lesionlab.cli._errors import plain_errors


def audit(
    paper: Annotated[
        str | None, typer.Argument(help="One paper, such as lei2020, or outside; all by default.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Audit this CSV file in place of printed tables.")
    ] = None,
    cases: Annotated[
        int | None, typer.Option(min=1, help="Cases behind each row of --table, if no column n.")
    ] = None,
    notes: Annotated[bool, typer.Option("--notes", help="Also say what does fit.")] = False,
) -> None:
    """Say which printed numbers are not mutually consistent, with the arithmetic.

    The columns of a CSV file are named accuracy, sensitivity (or recall), specificity, precision
    (or ppv), npv, f1, mcc, tp, fn, fp, tn, n, positives, runs, accuracy_sd, as far as there are
    any; the columns before them name the row.
    """
    from lesionlab.published import audits
    from lesionlab.statistics import audit_rows

    with plain_errors():
        if table is None:
            if cases is not None:
                raise ValueError(f"--cases {cases} is for --table; papers say how many they have")
            found = audits.papers(paper)
        else:
            if paper is not None:
                raise ValueError(f"give either a paper or --table, not {paper} and {table}")
            cells = audit_rows.read(table.read_text(encoding="utf-8-sig"))
            found = [audit_rows.table(cells, cases=cases, name=table.name)]
        typer.echo(audits.report(found, notes=notes or table is not None))
