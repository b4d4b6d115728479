"""Which series lie in a tree of folders, from the headers alone."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from lesionlab.sources.dicom._files import (
    PHANTOM,
    BadFileError,
    DicomError,
    numbers,
    open_file,
    quiet,
    uid,
    value,
    words,
)
from lesionlab.sources.dicom._series import is_companion

logger = logging.getLogger(__name__)

_TAGS: list[Any] = [
    "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality",
    "SliceThickness", "PixelSpacing", "Rows", "Columns", "SeriesDescription",
]  # fmt: skip

COLUMNS = [
    "series_uid", "study_uid", "patient", "modality", "n_files", "rows", "columns",
    "slice_thickness", "pixel_spacing", "synthetic", "n_folders", "path",
]  # fmt: skip


@dataclass(frozen=True)
class Located:
    """Where the files of one series lie.

    Attributes:
        row: The first file's header, by the names of `COLUMNS`.
        folders: Folders that hold files of this series and, as far as is known, of no other.
        files: Further files, in folders that are shared with other series.
        n_files: All of them.
    """

    row: dict[str, Any]
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    n_files: int


def find_series(root: str | Path, *, progress: bool = True, processes: int = 1) -> pd.DataFrame:
    """List the DICOM series of a tree of folders, of every modality, reading headers only.

    Hidden files and folders, links to folders, and files that do not claim to be DICOM by their
    ending are passed over.

    Args:
        root: The folder to search, at every depth.
        progress: Show a bar.
        processes: How many to read with.

    Returns:
        One row per series, by path: `series_uid`, `study_uid`, `patient` (PatientID), `modality`,
        `n_files`, `rows`, `columns`, `slice_thickness` and `pixel_spacing` (in y; both mm),
        `synthetic` (written by `write_series`), `n_folders` that hold it, and `path` of these
        folders, or of the deepest one above them, relative to `root`. What a header does not say
        is NaN or an empty text. `attrs["excluded"]` is a list of files that could not be read,
        each with the reason.

    Raises:
        NotADirectoryError: `root` is not a folder.
        ValueError: `processes` is below 1.
    """
    located, excluded = locate_series(root, progress=progress, processes=processes, thorough=True)
    return as_table(located, excluded, Path(root))


def as_table(located: dict[str, Located], excluded: list[BadFileError], root: Path) -> pd.DataFrame:
    """The table of `find_series`."""
    rows = []
    for found in located.values():
        folders = {*found.folders, *(file.parent for file in found.files)}
        path = Path(os.path.commonpath(folders)).relative_to(root).as_posix()
        rows.append(
            {**found.row, "n_files": found.n_files, "n_folders": len(folders), "path": path}
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.sort_values(["path", "series_uid"], ignore_index=True)
    table.attrs["excluded"] = [(str(error.path), error.reason) for error in excluded]
    return table


def locate_series(
    root: str | Path, *, progress: bool, processes: int, thorough: bool
) -> tuple[dict[str, Located], list[BadFileError]]:
    """Find the files of every series of a tree.

    Args:
        root: As in `find_series`.
        progress: As in `find_series`.
        processes: As in `find_series`.
        thorough: Read the header of every file. Otherwise a folder whose first and last file, by
            name, are of one series is taken to hold that series and no other.

    Returns:
        The series by SeriesInstanceUID, and the files that could not be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{str(root)!r} is not a folder")
    check_processes(processes)
    from tqdm.auto import tqdm

    excluded: list[BadFileError] = []
    folders = list(_walk(root, excluded))
    bar = tqdm(total=len(folders), desc="series", unit="folder", disable=not progress)
    owned: dict[str, list[Path]] = defaultdict(list)
    shared: dict[str, list[Path]] = defaultdict(list)
    first: dict[str, dict[str, Any]] = {}
    count: dict[str, int] = defaultdict(int)
    with bar, mapper(processes) as run:
        tasks = ((folder, files, thorough) for folder, files in folders)
        for (folder, files), (headers, bad, by_file) in zip(
            folders, run(_read_folder, tasks), strict=True
        ):
            bar.update()
            excluded += bad
            for series, header in headers.items():
                first.setdefault(series, header)
                mine = [files[k] for k, owner in by_file.items() if owner == series]
                if len(headers) == 1:
                    owned[series].append(folder)
                    # a folder that was not read whole counts whole
                    count[series] += len(mine) if thorough else len(files)
                else:
                    shared[series] += mine
                    count[series] += len(mine)
    if excluded:
        logger.warning(
            "%d files are not readable as DICOM, the first is %s", len(excluded), excluded[0]
        )
    return {
        series: Located(header, tuple(owned[series]), tuple(shared[series]), count[series])
        for series, header in first.items()
    }, excluded


def check_processes(processes: int) -> None:
    """Refuse what is not a whole number from 1."""
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes={processes!r}: expected a whole number from 1")


@contextmanager
def mapper(processes: int, start: Callable[..., None] | None = None, *given: Any) -> Iterator[Any]:
    """Give a `map` that works in this process or, in order and a little ahead, in several.

    Args:
        processes: How many.
        start: Called first in each of several, as `start(*given)`.
        *given: Its arguments.
    """
    if processes == 1:
        yield map
        return
    # not forked: a parent that has started threads (torch, BLAS) cannot be forked safely
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, start, given) as pool:

        def bounded(function: Any, tasks: Iterable[Any]) -> Iterator[Any]:
            # pool.map would compute all there is, however slowly the results are taken
            ahead: deque[Any] = deque()
            for task in tasks:
                ahead.append(pool.submit(function, task))
                if len(ahead) >= 4 * processes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        try:
            yield bounded
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _walk(root: Path, excluded: list[BadFileError]) -> Iterable[tuple[Path, list[Path]]]:
    def failed(error: OSError) -> None:
        path = Path(str(error.filename))
        excluded.append(BadFileError(path, f"the folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, onerror=failed):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        files = [file for file in files if not is_companion(file)]
        if files:
            yield Path(folder), files


def _read_folder(
    task: tuple[Path, list[Path], bool],
) -> tuple[dict[str, dict[str, Any]], list[BadFileError], dict[int, str]]:
    """Headers of the series of one folder, its bad files, and the series of each file by index."""
    _, files, thorough = task
    headers: dict[str, dict[str, Any]] = {}
    owner: dict[int, str] = {}
    bad: list[BadFileError] = []

    def read(which: Iterable[int]) -> None:
        for k in which:
            try:
                header = _header(files[k])
            except BadFileError as error:
                bad.append(error)
            else:
                headers.setdefault(header["series_uid"], header)
                owner[k] = header["series_uid"]

    if not thorough:
        ends = sorted({0, len(files) - 1})
        read(ends)
        if len(headers) == 1 and not bad:
            return headers, bad, owner
        headers, owner, bad = {}, {}, []
    read(range(len(files)))
    return headers, bad, owner


@quiet()
def _header(path: Path) -> dict[str, Any]:
    dataset = open_file(path, tags=_TAGS)

    def number(keyword: str, count: int = 1) -> float:
        try:
            return numbers(dataset, keyword, path, count, default=math.nan)[0]
        except DicomError:
            return math.nan

    def text(keyword: str) -> str:
        try:
            return str(value(dataset, keyword, path, default="")).strip("\0 ")
        except DicomError:
            return ""

    return {
        "series_uid": uid(dataset, "SeriesInstanceUID", path),
        "study_uid": text("StudyInstanceUID"),
        "patient": text("PatientID"),
        "modality": text("Modality"),
        "rows": number("Rows"),
        "columns": number("Columns"),
        "slice_thickness": number("SliceThickness"),
        "pixel_spacing": number("PixelSpacing", 2),
        "synthetic": words(dataset, "SeriesDescription", path) == [PHANTOM.upper()],
    }
