"""Which series lie in a tree of folders, from the headers alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from lesionlab.sources.dicom._files import BadFileError, Header, quiet
from lesionlab.sources.dicom._series import is_companion

logger = logging.getLogger(__name__)

_TAGS: list[Any] = ["SeriesInstanceUID", "Modality", "SeriesDescription"]
COLUMNS = ["series_uid", "modality", "n_files", "synthetic", "n_folders", "path"]


@dataclass
class Located:
    """Where the files of one series lie."""

    header: dict[str, Any]  # what the first file says, by the names of `COLUMNS`
    places: list[Path] = field(default_factory=list)  # folders of its own, and files in shared ones
    n_files: int = 0


def find_series(root: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """List the DICOM series of a tree of folders, of every modality, reading headers only.

    All folders under `root` are searched. Hidden files and folders, links to folders, and files
    that do not claim to be DICOM by their ending are passed over.

    Returns:
        One row per series, by path: `series_uid`, `modality`, `n_files`, `synthetic` (written by
        `write_series`), `n_folders` that hold it, and `path` of these folders, or of the deepest
        one above them, relative to `root`. `attrs["excluded"]` is a list of files that could not be
        read, each with the reason.

    Raises:
        NotADirectoryError: `root` is not a folder.
    """
    found, excluded = locate_series(root, progress=progress, thorough=True)
    return as_table(found, excluded, Path(root))


def as_table(found: dict[str, Located], excluded: list[BadFileError], root: Path) -> pd.DataFrame:
    """The table of `find_series`."""
    rows = []
    for series in found.values():
        folders = {place if place.is_dir() else place.parent for place in series.places}
        path = Path(os.path.commonpath(folders)).relative_to(root).as_posix()
        about = {"n_files": series.n_files, "n_folders": len(folders), "path": path}
        rows.append(series.header | about)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.sort_values(["path", "series_uid"], ignore_index=True)
    table.attrs["excluded"] = [(str(error.path), error.reason) for error in excluded]
    return table


def locate_series(
    root: str | Path, *, progress: bool, thorough: bool
) -> tuple[dict[str, Located], list[BadFileError]]:
    """The series of a tree by SeriesInstanceUID, and the files that could not be read.

    If not `thorough`, a folder whose first and last file, by name, are of one series is taken to
    hold that series and no other.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{str(root)!r} is not a folder")
    excluded: list[BadFileError] = []
    folders = list(_walk(root, excluded))
    found: dict[str, Located] = {}
    for folder, files in tqdm(folders, "series", unit="folder", disable=not progress):
        in_folder, bad = _read_folder(folder, files, thorough)
        excluded += bad
        for uid, series in in_folder.items():
            known = found.setdefault(uid, Located(series.header))
            known.places += series.places
            known.n_files += series.n_files
    if excluded:
        logger.warning(
            "%d files are not readable as DICOM, the first is %s", len(excluded), excluded[0]
        )
    return found, excluded


def _walk(root: Path, excluded: list[BadFileError]) -> Iterator[tuple[Path, list[Path]]]:
    """Folders that hold files which may be DICOM, with these files."""

    def failed(error: OSError) -> None:
        path = Path(str(error.filename))
        excluded.append(BadFileError(path, f"the folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, onerror=failed):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        if files := [file for file in files if not is_companion(file)]:
            yield Path(folder), files


def _read_folder(
    folder: Path, files: list[Path], thorough: bool
) -> tuple[dict[str, Located], list[BadFileError]]:
    """The series of one folder, and its bad files."""
    if not thorough:
        found, bad = _read_headers({files[0], files[-1]})
        if len(found) == 1 and not bad:
            return {uid: Located(s.header, [folder], len(files)) for uid, s in found.items()}, []
    found, bad = _read_headers(files)
    if len(found) == 1:
        next(iter(found.values())).places = [folder]
    return found, bad


def _read_headers(files: Iterable[Path]) -> tuple[dict[str, Located], list[BadFileError]]:
    found: dict[str, Located] = {}
    bad: list[BadFileError] = []
    for file in files:
        try:
            header = _header(file)
        except BadFileError as error:
            bad.append(error)
        else:
            series = found.setdefault(header["series_uid"], Located(header))
            series.places.append(file)
            series.n_files += 1
    return found, bad


@quiet()
def _header(path: Path) -> dict[str, Any]:
    header = Header(path, tags=_TAGS)
    return {
        "series_uid": header.uid("SeriesInstanceUID"),
        "modality": header.words("Modality")[0],
        "synthetic": header.synthetic,
    }
