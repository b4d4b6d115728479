"""Which series lie in a tree of folders, from the headers alone."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from lesionlab.sources.dicom._files import BadFileError, Header, quiet
from lesionlab.sources.dicom._series import may_be_dicom

logger = logging.getLogger(__name__)


def find_series(root: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """List the DICOM series of a tree of folders, of every modality, reading headers only.

    A folder whose first and last file, by name, are of one series is taken to hold that series and
    no other, which is quick to find out. Hidden files and folders, links to folders, and files that
    do not claim to be DICOM by their ending are passed over.

    Returns:
        One row per series, by path: `series_uid`, `modality`, `synthetic` (written by
        `write_series`), `n_files`, `places` (its files, or whole folders; `read_series` takes
        both), and `path` of the deepest folder above them, relative to `root`.
        `attrs["excluded"]` is a list of files that could not be read, each with the reason.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{str(root)!r} is not a folder")
    bad: list[BadFileError] = []

    def failed(error: OSError) -> None:
        bad.append(BadFileError(Path(error.filename), f"cannot be opened: {error.strerror}"))

    folders: dict[Path, list[Path]] = {}
    for name, subfolders, names in os.walk(root, onerror=failed):
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        if files := [file for n in sorted(names) if may_be_dicom(file := Path(name, n))]:
            folders[Path(name)] = files
    rows: list[dict[str, Any]] = []
    for folder, files in tqdm(folders.items(), "series", unit="folder", disable=not progress):
        found, faults = _read(list(dict.fromkeys([files[0], files[-1]])))
        if not faults and found[0]["series_uid"] == found[-1]["series_uid"]:
            found = [found[0] | {"n_files": len(files), "place": folder}]
        else:
            found, faults = _read(files)
        rows += [row | {"folder": folder} for row in found]
        bad += faults
    columns = ["series_uid", "modality", "synthetic", "n_files", "place", "folder"]
    series = pd.DataFrame(rows, columns=columns).groupby("series_uid", as_index=False)
    table = series.agg(
        modality=("modality", "first"),
        synthetic=("synthetic", "first"),
        n_files=("n_files", "sum"),
        places=("place", list),
        path=("folder", lambda of_one: os.path.commonpath(set(of_one))),
    )
    relative = [Path(path).relative_to(root).as_posix() for path in table["path"]]
    table["path"] = pd.array(relative, dtype="str")
    if bad:
        logger.warning("%d files are not readable as DICOM, the first is %s", len(bad), bad[0])
    table = table.sort_values(["path", "series_uid"], ignore_index=True)
    table.attrs["excluded"] = [(str(error.path), error.reason) for error in bad]
    return table


@quiet()
def _read(files: list[Path]) -> tuple[list[dict[str, Any]], list[BadFileError]]:
    """A row for every file that is DICOM, and the others."""
    found, bad = [], []
    for file in files:
        try:
            header = Header(file, tags=["SeriesInstanceUID", "Modality", "SeriesDescription"])
            row = {"series_uid": header.uid("SeriesInstanceUID"), "synthetic": header.synthetic}
            row |= {"modality": header.words("Modality")[0], "n_files": 1, "place": file}
            found.append(row)
        except BadFileError as error:
            bad.append(error)
    return found, bad
