"""Download a public set: one archive of a pinned commit, checked file by file, kept as one zip.

    from lesionlab.sources import fetching, origins
    fetching.fetch(origins.SLICES)     # the path of lidc-idri-slices.zip

A download that was cut goes on where it ended, if the server can do that. The zip takes its name
only when the digest of all its files is right, so what has the name is whole.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from lesionlab import __version__
from lesionlab._files import replacing
from lesionlab.sources import origins
from lesionlab.sources.origins import Mirror, Origin

__all__ = ["FetchError", "digest", "fetch", "place"]

logger = logging.getLogger(__name__)

TIMEOUT = 60
"""Seconds that a server may be silent."""

BLOCK = 1 << 20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error)


class FetchError(RuntimeError):
    """A set could not be downloaded, or is not the one that was expected."""


def fetch(
    origin: Origin,
    folder: str | Path | None = None,
    source: str | None = None,
    *,
    progress: bool = False,
) -> Path:
    """Download a set and keep it as one zip; one that is there already is checked and kept.

    Args:
        origin: The set, of `lesionlab.sources.origins`.
        folder: Where the zip goes; the user's data folder if None.
        source: Another address of the archive, or the archive itself, downloaded by hand.
        progress: Show bars.

    Returns:
        The zip. Until it is whole, `….zip.download.part` or `….zip.download` lies in its place.

    Raises:
        ValueError: The set cannot be downloaded, or `source` is no address and no file.
        FileExistsError: Something else has the zip's name; it is left as it is.
        FetchError: The address cannot be reached, the download was cut, or what came is not
            the set. Nothing then has the zip's name.
    """
    mirror = origin.mirror
    if mirror is None:
        raise ValueError(f"{origin.name} cannot be downloaded from here. {origin.next_step()}")
    target = place(mirror, folder)
    if target.exists():
        _check_existing(target, mirror)
        return target
    url = source or mirror.url
    remote = urlsplit(url).scheme in ("http", "https")
    if not remote and not Path(url).is_file():
        raise ValueError(f"from={url!r}: expected an address (https://…) or a tar.gz file")
    target.parent.mkdir(parents=True, exist_ok=True)
    # not ….tar.gz, which may be a file of the user's
    archive = target.with_name(f"{target.name}.download") if remote else Path(url)
    if not archive.exists():
        by_hand = (
            "By hand: download it elsewhere, then run: lesionlab data fetch "
            f"{origin.name} --from FILE; or look at {' or '.join(origin.addresses)}"
        )
        _download(url, archive, by_hand, progress)
    try:
        with replacing(target) as temporary:
            _repack(archive, temporary, mirror, progress)
    except FetchError:
        if remote:  # or the next try would meet it again
            archive.unlink()
        raise
    if remote:
        archive.unlink()
    return target


def place(mirror: Mirror, folder: str | Path | None = None) -> Path:
    """The zip that `fetch` makes in a folder; in the user's data folder if None."""
    parent = origins.data_folder() if folder is None else Path(folder).expanduser()
    return parent.absolute() / mirror.target


def digest(files: Iterable[tuple[str, bytes]]) -> str:
    """One SHA-256 of names and contents, as `lesionlab.sources.origins.Mirror` describes it."""
    lines = [(name, hashlib.sha256(content).hexdigest()) for name, content in files]
    text = "".join(f"{checksum}  {name}\n" for name, checksum in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_existing(path: Path, mirror: Mirror) -> None:
    try:
        with zipfile.ZipFile(path) as made:
            names = [n for n in made.namelist() if not n.endswith("/")]
            found = digest(
                (name.removeprefix(f"{mirror.root}/"), made.read(name)) for name in names
            )
    except (OSError, *_BROKEN):
        found = ""
    if found != mirror.digest:
        raise FileExistsError(
            f"{path} is there already and is something else than the set: move it away, or name "
            "another folder with --to"
        )


def _download(url: str, archive: Path, by_hand: str, progress: bool) -> None:
    """Write what lies at an address; what an earlier try left in `….part` is gone on with."""
    partial = archive.with_name(f"{archive.name}.part")
    have = partial.stat().st_size if partial.exists() else 0
    host = urlsplit(url).netloc
    cut = f"the download of {url} was cut ({{}}): run the same command again to go on"
    with _open(url, have, by_hand) as answer:
        resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise FetchError(f"{url} answers with another part of the file than was asked for")
        if have and not resumed:
            logger.warning("%s cannot go on where it was cut, and starts again", host)
            have = 0
        total = have + int(answer.headers["Content-Length"] or 0)
        with (
            partial.open("ab" if resumed else "wb") as file,
            tqdm(desc="download", initial=have, total=total if total > have else None, unit="B",
                 unit_scale=True, disable=not progress) as bar,
        ):  # fmt: skip
            try:
                while block := answer.read1(BLOCK):  # what has come, or a cut would lose it
                    file.write(block)
                    bar.update(len(block))
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                raise FetchError(cut.format(error)) from error
            size = file.tell()
    if size < total:
        raise FetchError(cut.format(f"after {size:,} of {total:,} bytes"))
    os.replace(partial, archive)


def _open(url: str, have: int, by_hand: str) -> Any:
    headers = {"User-Agent": f"lesionlab/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        # the scheme is one of two
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        return urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(url, 0, by_hand)  # what is there already is no part of it
        raise FetchError(f"{url} answers {error.code} {error.reason}. {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        host = urlsplit(url).netloc
        raise FetchError(f"{host} cannot be reached ({reason}): {url}. {by_hand}") from error


def _repack(archive: Path, path: Path, mirror: Mirror, progress: bool) -> None:
    """Write the files of the set into a zip, and check that they are the right ones.

    They go from one archive into the other, so no name in it ever becomes a path on the disk.
    """
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as made:
            bar = tqdm(
                _members(archive, mirror), "unpack", mirror.n_files, unit="file",
                disable=not progress,
            )  # fmt: skip

            def copied() -> Iterator[tuple[str, bytes]]:
                for name, content in bar:
                    # without a date and not compressed: the same zip on every machine
                    made.writestr(zipfile.ZipInfo(f"{mirror.root}/{name}"), content)
                    yield name, content

            found = digest(copied())
            n_files = len(made.namelist())
        file.flush()
        os.fsync(file.fileno())
    if found != mirror.digest:
        raise FetchError(
            f"{archive.name} is not the set: it holds {n_files:,} files with the digest "
            f"{found[:12]}…; expected {mirror.n_files:,} with {mirror.digest[:12]}…"
        )


def _members(archive: Path, mirror: Mirror) -> Iterator[tuple[str, bytes]]:
    """Names, relative to the set's folder, and contents of its files."""
    left = mirror.n_bytes
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if ".." in parts or member.name.startswith("/"):
                    raise FetchError(f"{archive.name}: {member.name!r} leads out of the archive")
                # the first folder is that of the repository and its commit
                inside = "/".join(parts[1:])
                if not inside.startswith(f"{mirror.folder}/") or member.isdir():
                    continue
                left -= member.size
                if not (opened := tar.extractfile(member) if member.isreg() else None):
                    raise FetchError(f"{archive.name}: {member.name!r} is a link or no file")
                if left < 0:
                    raise FetchError(
                        f"{archive.name} holds more than the set's {mirror.n_bytes:,} bytes"
                    )
                yield inside[len(mirror.folder) + 1 :], opened.read()
    except _BROKEN as error:
        raise FetchError(f"{archive.name} is broken or cut ({error}): download it again") from error
