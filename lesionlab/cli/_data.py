"""The commands `lesionlab data …`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from lesionlab.cli._errors import FAILED, aligned, plain_errors, stop

data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

SHOWN = 20  # faults or reasons

What = Annotated[
    str, typer.Argument(metavar="STORE", help="A folder or URL, or the name of a data set.")
]
SeedOf = Annotated[int, typer.Option(help="Take the phantoms that have this seed.")]
Seed = Annotated[int, typer.Option(help="Render phantoms with this seed.")]
Source = Annotated[
    Path | None, typer.Option(help="Read the slices, volumes, DICOM scans or own files here.")
]


@data_app.command("fetch")
def fetch(
    wanted: Annotated[str, typer.Argument(metavar="SET", help="The name of a public set.")],
    to: Annotated[Path | None, typer.Option(help="Keep it here, not in your data folder.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="Take this address or file.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
) -> None:
    """Download a public set or, where nobody may pass it on, say where it lies.

    The command first shows what the set is, its licence and its size. A download that was cut goes
    on when the command is given again.
    """
    from lesionlab import _names
    from lesionlab.sources import fetching, origins

    with plain_errors():
        _names.one_of("name", wanted, origins.ORIGINS)
    origin = origins.ORIGINS[wanted]
    table(origin.rows())
    if origin.mirror is None:
        typer.echo(f"Nothing is downloaded: {origin.addresses[0]}. {origin.next_step()}")
        return
    if not (yes or fetching.place(origin.mirror, to).exists()):
        typer.confirm("Download it? (--yes downloads without asking)", abort=True)
    with plain_errors():
        path = fetching.fetch(origin, to, source, progress=sys.stderr.isatty())
    typer.echo(f"{path}: {origin.mirror.n_files:,} files, all as they should be")
    typer.echo(f"Run: export {origin.variable}={shlex.quote(str(path))}")


@data_app.command("build")
def build(
    dataset: Annotated[str, typer.Argument(help="The name of a data set.")],
    out: Annotated[str | None, typer.Option(help="A folder or URL, not in the cache.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Use so many processes.")] = None,
    seed: Seed = 0,
    lesions: Annotated[Path | None, typer.Option(help="Take the lesion_id on each line.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first so many.")] = None,
    source: Source = None,
) -> None:
    """Make the crops of all lesions or of some, and keep them in a store.

    Crops that are stored already stay: an interrupted build goes on where it ended, and tries
    lesions again that were left out. By default one process works for each core, up to three.
    """
    from lesionlab.crops import datasets

    with plain_errors():
        of, begun = datasets.get(dataset, seed=seed, source=source), time.monotonic()
        chosen = datasets.choose(of, file=lesions, limit=limit)
        progress = sys.stderr.isatty()
        store, n_made = datasets.build(of, chosen, url=out, processes=processes, progress=progress)
        told = [
            ("lesions", f"{len(store):,}, {n_made:,} of them made now"),
            ("left out", len(store.exclusions)),
        ]
        reasons = first(datasets.by_reason(store.exclusions).items())
        told += [("", f"{n:,} × {why}") for why, n in reasons]
        told += [("bytes", store.info()["bytes"]), ("seconds", round(time.monotonic() - begun, 1))]
        table([*told, ("store", store.url)])


@data_app.command("info")
def info(store: What, seed: SeedOf = 0, source: Source = None) -> None:
    """Say what is in a store, complete or not."""
    from lesionlab.crops import datasets
    from lesionlab.crops.stores import CropStore

    with plain_errors():
        opened = CropStore(datasets.locate(store, seed, source), allow_incomplete=True)
        told, reasons = opened.info(), datasets.by_reason(opened.exclusions)
        provenance = told.pop("provenance")
        table([*told.items(), *provenance.items(), *((n, why) for why, n in reasons.items())])


@data_app.command("validate")
def validate(store: What, seed: SeedOf = 0, source: Source = None) -> None:
    """Check every file of a store or of a folder of your own, and list what is wrong."""
    from lesionlab.crops import datasets
    from lesionlab.crops.stores import ROOT, CropStore

    place = Path(store)
    if store not in datasets.DATASETS and place.is_dir() and not (place / ROOT).exists():
        from lesionlab.sources import anno, nifti

        own = nifti.validate if (place / nifti.LABELS).exists() else anno.validate
        with plain_errors():
            n_lesions, faults = own(store, progress=sys.stderr.isatty())
        for fault in faults:
            typer.echo(str(fault))
        if faults:
            stop(f"{store}: {len(faults):,} faults, {n_lesions:,} lesions can be used", FAILED)
        typer.echo(f"{store}: {n_lesions:,} lesions, nothing is wrong")
        return
    with plain_errors():
        opened = CropStore(datasets.locate(store, seed, source), allow_incomplete=True)
        wrong = datasets.validate(opened, source=source, progress=sys.stderr.isatty())
    for name, why in first(wrong.items()):
        typer.echo(f"{name}: {why}")
    if wrong:
        told = f"{len(wrong):,} things are wrong, {len(opened):,} lesions checked"
        stop(f"{opened.url}: {told}", FAILED)
    excluded = f", {len(opened.exclusions):,} left out" if opened.exclusions else ""
    typer.echo(f"{opened.url}: {len(opened):,} lesions{excluded}, complete, nothing is wrong")


@data_app.command("export")
def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="anno, nifti or dicom-seg.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    source: Annotated[
        str | None, typer.Option(help="A data set; for anno phantom (Li's lesions) or lidc.")
    ] = None,
    scans: Annotated[Path | None, typer.Option(help="The files of the data set are here.")] = None,
    seed: Seed = 0,
    lesions: Annotated[Path | None, typer.Option(help="Take the lesion_id on each line.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Write so many scans.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write these arrays too, by lesion_id: a NumPy .npz.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="anno: mark every so many slices.")] = 3,
    processes: Annotated[int, typer.Option(min=1, help="anno: use so many processes.")] = 1,
) -> None:
    """Write lesions for other programs, as .anno files, NIfTI cases or DICOM-SEG.

    anno writes a tree with DICOM scans. Subjects get new numbers; the mapping to the patients is
    written beside the folder. nifti writes image and masks of each lesion with labels.csv, and
    dicom-seg a segmentation for each mask. Both take any data set (phantom-wang2021 if none is
    named), and predictions on the crops' voxels: booleans are written as masks, floats as maps.
    """
    from itertools import islice

    from lesionlab import _names, exporting
    from lesionlab.crops import datasets
    from lesionlab.sources import origins
    from lesionlab.sources.anno import subjects_path, writing

    with plain_errors():
        _names.one_of("format", form, ["anno", "nifti", "dicom-seg"])
        progress = sys.stderr.isatty()
        if form != "anno":
            of = datasets.get(source or "phantom-wang2021", seed=seed, source=scans)
            some = datasets.choose(of, file=lesions, limit=limit) if lesions or limit else None
            arrays = exporting.read_predictions(predictions) if predictions else None
            root, left_out = exporting.export(
                "nifti" if form == "nifti" else "dicom-seg", out, of, some,
                predictions=arrays, progress=progress,
            )  # fmt: skip
            for lesion_id, why in first(left_out.items()):
                typer.echo(f"{lesion_id} is left out: {why}")
            typer.echo(f"{root}: written, {len(left_out):,} lesions left out")
        else:
            _names.one_of("source", source := source or "phantom", ["phantom", "lidc"])
            if source == "phantom":
                found = writing.phantoms(limit, seed=seed)
            else:
                if (place := scans or origins.named(origins.DICOM)) is None:
                    raise FileNotFoundError(origins.DICOM.missing())
                found = islice(writing.lidc_scans(place, progress=progress), limit)
            root = writing.write(out, found, every=every, processes=processes, progress=progress)
            typer.echo(f"{root}: written; patients: {subjects_path(root)}")
        if variable := {"anno": origins.ANNO, "nifti": origins.NIFTI}.get(form):
            typer.echo(f"Run: export {variable}={shlex.quote(str(root))}")


@data_app.command("realism")
def realism(
    out: Annotated[Path, typer.Option(help="Write here.")] = Path("book/results/phantoms"),
    processes: Annotated[int, typer.Option(min=1, help="Use so many processes.")] = 2,
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only so many nodules.")] = None,
    source: Source = None,
) -> None:
    """Measure how far phantoms are from the real slices, and draw both side by side.

    The command writes what the chapter "Phantoms beside real slices" shows: realism.json,
    transfer.json (what a network that learned on phantoms says of real slices) and
    side_by_side.png, over older ones.
    """
    from lesionlab import realism as measuring
    from lesionlab import results
    from lesionlab._files import replacing, write_json
    from lesionlab.figures import realism as figures_realism
    from lesionlab.papers.fu2021.analyses import learned_from_phantoms
    from lesionlab.sources.slices import Slices

    with plain_errors():
        slices = Slices(source)
        picture = figures_realism.png(figures_realism.examples(slices, seed=seed))
        found = measuring.measure(
            slices, seed=seed, n=limit, processes=processes, progress=sys.stderr.isatty()
        )
        written, drawn = out / "realism.json", out / "side_by_side.png"
        measuring.write(found, written)
        rows = results.jsonable(learned_from_phantoms(limit))
        kept = {"notebook": None, "set": "paper", "parameters": {}, "data": [], "results": rows}
        write_json(out / "transfer.json", kept | results.provenance())
        with replacing(drawn) as temporary:
            temporary.write_bytes(picture)
    told = [(f"AUC, {name}", f"{e.value:.3f}") for name, e in found.together.items()]
    table([("nodules", found.n_lesions), *told, ("written", f"files in {out}")])


@data_app.command("diagnoses")
def diagnoses(
    out: Annotated[Path, typer.Option(help="Write here.")] = Path("book/results/diagnoses"),
    kept: Annotated[Path, typer.Option(help="Take the kept runs in here.")] = Path("book/results"),
    sheet: Annotated[Path | None, typer.Option(help="Read this sheet of diagnoses.")] = None,
) -> None:
    """Hold the readers' malignancy, and kept models, against the diagnoses of 157 patients.

    The command writes what the chapter "What stands behind malignancy" shows: results.json, with
    counts and scores and no row of a patient.
    """
    from lesionlab import diagnosed

    with plain_errors():
        found = diagnosed.measure(kept, sheet)
        written = diagnosed.write(found, out / "results.json", sheet)
    table([*found["flow"].itertuples(index=False), ("written", written)])


def table(rows: Iterable[tuple[Any, Any]]) -> None:
    """Print names and values, a line for each; numbers with commas."""
    told = ((n, f"{v:,}" if type(v) in (int, float) else str(v)) for n, v in rows)
    typer.echo(aligned((str(name).replace("_", " "), value) for name, value in told))


def first(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The first `SHOWN` of them, and how many there are besides."""
    every = list(items)
    more = len(every) - SHOWN
    return every[:SHOWN] + ([("…", f"and {more:,} more")] if more > 0 else [])
