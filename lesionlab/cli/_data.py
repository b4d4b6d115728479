"""The commands `lesionlab data …` and `lesionlab doctor`."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesionlab.cli._errors import FAILED, WRONG_USE, plain_errors, stop

if TYPE_CHECKING:
    from lesionlab.crops.stores import CropStore

data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

SHOWN = 20
"""Lines of a list of faults that are printed."""


class Cohort(StrEnum):
    """As in `lesionlab.crops.datasets.COHORTS`, without importing it for the help."""

    fu2021 = "fu2021"
    liu2020 = "liu2020"
    lei2020 = "lei2020"


class PublicSet(StrEnum):
    """As in `lesionlab.sources.origins.ORIGINS`, without importing it for the help."""

    slices = "slices"
    volumes = "volumes"
    diagnoses = "diagnoses"
    dicom = "dicom"


Name = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="phantom, slices, dicom, phantom-li2021 or phantom-wang2021."
    ),
]
What = Annotated[
    str, typer.Argument(metavar="STORE", help="A folder or URL, or the name of a data set.")
]
SeedOf = Annotated[int | None, typer.Option(help="Which store of phantoms, by its seed.")]
Source = Annotated[
    Path | None,
    typer.Option(
        help="The slices set or the folder above the DICOM scans.",
        show_default="LESIONLAB_LIDC_SLICES or LESIONLAB_LIDC_DICOM",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@data_app.command("fetch")
def fetch(
    wanted: Annotated[
        PublicSet, typer.Argument(metavar="SET", help="slices, volumes, diagnoses or dicom.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where it goes.", show_default="the user's data folder"
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Another address of the archive, or its file."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
) -> None:
    """Download the slices or the volumes, or say where the diagnoses and the scans lie.

    Shows what it is, its licence and its size first. A download that was cut goes on when the
    command is given again.
    """
    from lesionlab.sources import fetching, origins

    origin = origins.find(wanted.value)
    _table(origin.rows())
    if origin.mirror is None:
        typer.echo(f"Nothing is downloaded: {origin.addresses[0]}. {origin.next_step()}")
        return
    if not (yes or fetching.place(origin.mirror, to).exists()):
        if not _can_ask():
            stop("yes: nobody can be asked here; give --yes to download without asking", WRONG_USE)
        if not typer.confirm("Download it?"):
            stop("nothing was downloaded", FAILED)
    with plain_errors():
        path = fetching.fetch(origin, to, source, progress=sys.stderr.isatty())
    typer.echo(f"{path}: {origin.mirror.n_files:,} files, all as they should be")
    typer.echo(f"Run: export {origin.variable}={shlex.quote(str(path))}")


def _can_ask() -> bool:
    return sys.stdin.isatty()


@data_app.command("build")
def build(
    dataset: Name,
    out: Annotated[
        str | None, typer.Option(metavar="URL", help="Folder or URL.", show_default="in the cache")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="How many at a time.", show_default="one a core, up to 3"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the phantoms.")] = 0,
    lesions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A lesion_id on each line.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    cohort: Annotated[Cohort | None, typer.Option(help="The nodules of a paper.")] = None,
    source: Source = None,
) -> None:
    """Make the crops of all lesions or of some, and keep them in a store.

    What is stored already stays; an interrupted build goes on where it ended, and lesions that
    were left out are tried again.
    """
    from lesionlab.crops import datasets
    from lesionlab.crops._dataset_checks import by_reason

    with plain_errors():
        built = datasets.build(
            dataset,
            datasets.choose(dataset, file=lesions, cohort=cohort, limit=limit, seed=seed),
            seed=seed,
            source=source,
            url=out,
            processes=processes,
            progress=sys.stderr.isatty(),
        )
        store = built.store
        _table(
            [
                ("lesions", f"{len(store):,}, {built.made:,} of them made now"),
                *_exclusions(by_reason(store.exclusions)),
                ("size", _size(store.info()["bytes"])),
                ("took", f"{built.seconds:.1f} s"),
                ("store", store.url),
            ]
        )


@data_app.command("info")
def info(
    store: What,
    seed: SeedOf = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without the range of HU, which needs all voxels.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is in a store, complete or not."""
    from lesionlab.crops import datasets
    from lesionlab.crops._dataset_checks import describe
    from lesionlab.crops.stores import CropStore

    with plain_errors():
        opened = CropStore.open(datasets.locate(store, seed), allow_incomplete=True)
        told = describe(opened, voxels=not quick, progress=sys.stderr.isatty())
        if as_json:
            typer.echo(_json(told | {"exclusions": opened.exclusions}))
        else:
            _table(_description(told))


def _description(told: dict[str, Any]) -> list[tuple[str, str]]:
    state = "complete" if told["complete"] else "INCOMPLETE: build it again to go on"
    rows = [
        ("tier", told["tier"]),
        ("lesions", f"{told['lesions']:,} of {told['expected']:,} expected, {state}"),
        *_exclusions(told["excluded_by_reason"]),
    ]
    if "depth" in told:
        in_plane = f"{_span(told['rows'])} × {_span(told['columns'])} pixels"
        mm = [_span(told[f"spacing_{axis}"]) for axis in "zyx"]
        rows += [
            ("readers", f"{_span(told['readers'])} a lesion, {told['masks']:,} masks"),
            ("size", f"{_span(told['depth'])} slices of {in_plane}, {told['slices']:,} slices"),
            ("spacing", f"z {mm[0]}, y {mm[1]}, x {mm[2]} mm"),
            ("intensity", _intensity(told)),
        ]
    rows += [("on disk", _size(told["bytes"])), ("checksum", told["checksum"])]
    rows += [(name, _short(value)) for name, value in told["provenance"].items()]
    return [*rows, ("store", told["url"])]


def _intensity(told: dict[str, Any]) -> str:
    hu = f"{_span(told['hu'], 'to')} HU" if told["hu"] else "range of HU not read"
    n_unknown = told["uncalibrated"]
    return hu + (f", {n_unknown:,} slices are not in HU" if n_unknown else "")


@data_app.command("validate")
def validate(
    store: What,
    seed: SeedOf = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write what of the slices set or the scans matched, as CSV."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file.")] = False,
    source: Source = None,
) -> None:
    """Check every file of a store, and that it says what the LIDC-IDRI database says."""
    from lesionlab.crops import datasets
    from lesionlab.crops._dataset_checks import validate as check
    from lesionlab.crops.stores import CropStore

    with plain_errors():
        if report is not None and report.exists() and not (force and report.is_file()):
            raise ValueError(
                f"report: {report} is there already; give --force to replace it"
                if report.is_file()
                else f"report: {report} is a folder; expected a file to write"
            )
        url = datasets.locate(store, seed)
        try:
            opened = CropStore.open(url, allow_incomplete=True)
        except ValueError as error:
            stop(str(error), FAILED)
        if report is not None:
            _write_report(opened, report, source)
        wrong = check(opened, progress=sys.stderr.isatty())
    for name, why in list(wrong.items())[:SHOWN]:
        typer.echo(f"{name}: {why}")
    if len(wrong) > SHOWN:
        typer.echo(f"… and {len(wrong) - SHOWN:,} more")
    if wrong:
        stop(f"{url}: {len(wrong):,} things are wrong, {len(opened):,} lesions checked", FAILED)
    excluded = f", {len(opened.exclusions):,} left out" if opened.exclusions else ""
    typer.echo(f"{url}: {len(opened):,} lesions{excluded}, complete, nothing is wrong")


def _write_report(store: CropStore, file: Path, source: Path | None) -> None:
    from lesionlab._files import write_text
    from lesionlab.crops import datasets

    name = str(store.provenance.get("dataset", store.tier))
    table = datasets.report(name, source=source, progress=sys.stderr.isatty())
    write_text(file, table.to_csv(index=False))
    matched = table["matched"] if name == "slices" else table["n_files"] > 0
    rows = "nodules" if name == "slices" else "scans"
    typer.echo(f"matched {int(matched.sum()):,} of {len(table):,} {rows}, listed in {file}")


@data_app.command("realism")
def realism(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the two files go; replaced if there.")
    ] = Path("book/results/phantoms"),
    processes: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the phantoms.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many nodules.")] = None,
    source: Source = None,
) -> None:
    """Measure how far phantoms are from the real slices, and draw both side by side.

    Writes what the chapter "Phantoms beside real slices" shows: realism.json, side_by_side.png.
    """
    from lesionlab import realism as measuring
    from lesionlab._files import replacing
    from lesionlab.figures import realism as figures_realism
    from lesionlab.sources.slices import Slices

    with plain_errors():
        slices = Slices(source)
        slices.report(progress=sys.stderr.isatty())
        picture = figures_realism.png(figures_realism.examples(slices, seed=seed))
        found = measuring.measure(
            slices, seed=seed, n=limit, processes=processes, progress=sys.stderr.isatty()
        )
        written = measuring.write(found, out / "realism.json")
        drawn = out / "side_by_side.png"
        with replacing(drawn) as temporary:
            temporary.write_bytes(picture)
    rows = [("nodules", f"{found.n_lesions:,}")]
    rows += [(f"AUC, {name}", f"{e.value:.3f}") for name, e in found.together.items()]
    _table([*rows, ("written", f"{written}, {drawn}")])


def doctor(as_json: Json = False) -> None:
    """Say what data, device and browser are found, and what to do next.

    Exit status 1: something that the default way, phantoms with no download, needs is broken.
    """
    from lesionlab import doctor as examination

    with plain_errors():
        findings = examination.examine()
        healthy = examination.healthy(findings)
        if as_json:
            typer.echo(_json(examination.to_dict(findings)))
        else:
            typer.echo(examination.to_text(findings))
    if not healthy:
        raise typer.Exit(FAILED)


# --- Words --------------------------------------------------------------------------------------


def _table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def _exclusions(reasons: dict[str, int]) -> list[tuple[str, str]]:
    rows = [("left out", f"{sum(reasons.values()):,}")]
    rows += [("", f"{count:,} × {reason}") for reason, count in list(reasons.items())[:SHOWN]]
    if (n_more := len(reasons) - SHOWN) > 0:
        rows.append(("", f"… and {n_more:,} more reasons"))
    return rows


def _span(values: list[float], joined: str = "–") -> str:
    low, high = (f"{value:g}" for value in values)
    between = f" {joined} " if joined != "–" else joined
    return low if low == high else f"{low}{between}{high}"


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a checksum; --json tells it all


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
