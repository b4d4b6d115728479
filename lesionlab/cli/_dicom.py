"""The commands `lesionlab dicom …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesionlab.cli._data import first
from lesionlab.cli._errors import FAILED, aligned, plain_errors, stop

if TYPE_CHECKING:
    import pandas as pd

dicom_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

Scans = Annotated[Path, typer.Argument(metavar="FOLDER", help="Search here and in subfolders.")]


@dicom_app.command("list")
def list_series(folder: Scans) -> None:
    """List the DICOM series of a folder, each with its number; no value of a patient is shown."""
    with plain_errors():
        series = _series(folder)
    rows = [("series", "kind", "files", "where", "")]
    for k, one in enumerate(series.itertuples(), start=1):
        what = "phantom" if one.synthetic else ""
        rows.append((str(k), _kind(one), f"{one.n_files:,}", str(one.path), what))
    typer.echo(aligned(rows))


@dicom_app.command("check")
def check(folder: Scans) -> None:
    """Read every CT series, and say what is odd about it; the exit status is then 1."""
    from lesionlab.sources import dicom

    with plain_errors():
        series = _series(folder)
    n_odd = 0
    for k, one in enumerate(series.itertuples(), start=1):
        if _kind(one) != "CT":
            continue
        places, uid = series["places"][k - 1], series["series_uid"][k - 1]
        try:
            volume = dicom.read_series(places, series_uid=uid, strict=False)
            told, odd = f"{len(volume.hu):,} slices", list(volume.warnings)
        except (dicom.DicomError, OSError) as error:
            told, odd = "cannot be read", [str(error)]
        n_odd += bool(odd)
        typer.echo(f"series {k}, {one.path}: {told}" + ("" if odd else ", nothing is odd"))
        for text, more in first((text, "") for text in odd):
            typer.echo(f"    {text} {more}".rstrip())
    if n_odd:
        stop(f"{folder}: something is odd about {n_odd:,} series", FAILED)


@dicom_app.command("identity")
def identity(folder: Scans) -> None:
    """List the header fields that hold what may identify a person, and never what they hold.

    Each line has a field, the kind of what it holds, and the number of files that hold it.
    """
    from lesionlab.sources import dicom

    with plain_errors():
        fields = dicom.identity(folder)
    n_read = fields.attrs["n_read"]
    rows = [(str(one.Index), str(one.kind), f"{one.n_files:,}") for one in fields.itertuples()]
    typer.echo(aligned([("field", "kind", f"files of {n_read:,}"), *rows]))


def _series(folder: Path) -> pd.DataFrame:
    from lesionlab.sources import dicom

    return dicom.find_series(folder, progress=sys.stderr.isatty())


def _kind(one: Any) -> str:
    """The modality, if it is a word that can be shown."""
    return str(one.modality) if str(one.modality).isalpha() and len(one.modality) < 9 else "?"
