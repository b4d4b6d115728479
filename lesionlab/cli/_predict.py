"""The command `lesionlab predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lesionlab._files import check_new_folder
from lesionlab.cli._errors import aligned, plain_errors


def predict(
    scan: Annotated[Path, typer.Argument(help="A folder of DICOM files, or a .nii.gz or .nrrd.")],
    mask: Annotated[
        Path | None,
        typer.Option(help="The lesion: NIfTI, NRRD, DICOM-SEG, RTSTRUCT, or a folder of .anno."),
    ] = None,
    point: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="In place of a mask: x, y and z of its middle in the patient, mm."),
    ] = None,
    diameter: Annotated[float | None, typer.Option(help="With --point: mm.")] = None,
    model: Annotated[
        str, typer.Option(help="A kept model; a wrong name lists all.")
    ] = "fu2021/full",
    data: Annotated[str, typer.Option(help="What it was trained on; slices if kept.")] = "",
    label: Annotated[int | None, typer.Option(help="Take only this label of the mask.")] = None,
    series: Annotated[
        int | None, typer.Option(help="Which CT series, where the folder has several.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Take models of your own in here.")] = None,
    out: Annotated[Path, typer.Option(help="A new folder.")] = Path("prediction"),
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write DICOM objects, which name the patient.")
    ] = False,
) -> None:
    """Ask a kept model about lesions of your own, and write a report.

    For research and teaching: this is no medical device. The folder gets report.html, ratings.csv,
    prediction.json and, for each lesion, its voxels, mask and maps as NIfTI. None of them says who
    the scan is of, unless --dicom is given.
    """
    from lesionlab import predicting
    from lesionlab import weights as kept
    from lesionlab.sources import masks

    with plain_errors():
        if (mask is None) == (point is None) or (point is None) != (diameter is None):
            raise ValueError("expected either --mask, or --point with --diameter")
        check_new_folder(out)  # before minutes go into it
        lesion = mask if point is None or diameter is None else masks.Ball(point, diameter)
        progress = sys.stderr.isatty()
        found = predicting.predict(
            scan, lesion, model=model, data=data, label=label, series=series,
            folder=weights or kept.FOLDER, progress=progress,
        )  # fmt: skip
        written = predicting.write(found, out, dicom=dicom, progress=progress)
        lines = [["lesion", "of", "model", "interval", "scale"]]
        for row in found.table().to_dict("records"):
            of = ": ".join(filter(None, (row["title"], row["class"])))
            between = "" if row["low"] != row["low"] else f"{row['low']:.1f} to {row['high']:.1f}"
            lines.append([row["lesion"], of, f"{row['value']:.2f}", between, row["scale"]])
        typer.echo(aligned(lines))
        for note in [
            *found.notes,
            *(f"{o.crop.lesion_id}: {n}" for o in found.lesions for n in o.notes),
        ]:
            typer.echo(f"note: {note}")
        typer.echo(predicting.NO_DEVICE)
        typer.echo(f"written to {written}: open {written / 'report.html'}")
