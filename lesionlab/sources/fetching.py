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
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path

from tqdm.auto import tqdm

from lesionlab import __version__
from lesionlab._files import replacing
from lesionlab.sources import origins
from lesionlab.sources.origins import Mirror, Origin

logger = logging.getLogger(__name__)

TIMEOUT = 60  # seconds that a server may be silent
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
        folder: Where the zip goes; the user's data folder if None. Until the zip is whole,
            `….zip.download.part` or `….zip.download` lies in its place.
        source: Another address of the archive, or the archive itself, downloaded by hand.
        progress: Show bars.

    Raises:
        ValueError: The set cannot be downloaded, or `source` is no address and no file.
        FileExistsError: Something else has the zip's name; it is left as it is.
        FetchError: The address cannot be reached, the download was cut, or what came is not
            the set. Nothing then has the zip's name.
    """
    mirror = origin.mirror
    if mirror is None:
        raise ValueError(f"{origin.name} cannot be downloaded from here. {origin.next_step()}")
    target, url = place(mirror, folder), source or mirror.url
    if target.exists():
        if _digest_of(target, mirror) == mirror.digest:
            return target
        raise FileExistsError(
            f"{target} is there already and is something else than the set: move it away, or name "
            "another folder with --to"
        )
    remote = url.startswith(("http://", "https://"))
    if not remote and not Path(url).is_file():
        raise ValueError(f"from={url!r}: expected an address (https://…) or a tar.gz file")
    target.parent.mkdir(parents=True, exist_ok=True)
    # not ….tar.gz, which may be a file of the user's
    archive = target.with_name(f"{target.name}.download") if remote else Path(url)
    if not archive.exists():
        try:
            _download(url, archive, progress)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(
                f"{url} was not downloaded to its end ({error}): run the same command again to go "
                f"on, or download it by hand and run: lesionlab data fetch {origin.name} --from "
                f"FILE; or look at {' or '.join(origin.addresses)}"
            ) from error
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


def _digest_of(path: Path, mirror: Mirror) -> str:
    """The digest of what is in a zip; empty if it is no zip, or is broken."""
    try:
        with zipfile.ZipFile(path) as made:
            names = [n for n in made.namelist() if not n.endswith("/")]
            return digest((n.removeprefix(f"{mirror.root}/"), made.read(n)) for n in names)
    except (OSError, *_BROKEN):
        return ""


def _download(url: str, archive: Path, progress: bool) -> None:
    """Write what lies at an address; what an earlier try left in `….part` is gone on with."""
    partial = archive.with_name(f"{archive.name}.part")
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": f"lesionlab/{__version__}", "Range": f"bytes={have}-"}
    # the scheme is one of two
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if not have or error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        partial.unlink()  # it is as long as the file or longer, so it is no part of it
        return _download(url, archive, progress)
    with answer:
        if have and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            logger.warning("%s cannot go on where it was cut, and starts again", url)
            have = 0
        total = have + int(answer.headers["Content-Length"] or 0)
        with partial.open("ab" if have else "wb") as file:
            with tqdm.wrapattr(file, "write", total, initial=have, disable=not progress) as shown:
                shutil.copyfileobj(answer, shown)
            size = file.tell()
    if size < total:
        raise ConnectionError(f"it was cut after {size:,} of {total:,} bytes")
    os.replace(partial, archive)


def _repack(archive: Path, path: Path, mirror: Mirror, progress: bool) -> None:
    """Write the files of the set into a zip, and check that they are the right ones.

    They go from one archive into the other, so no name in it ever becomes a path on the disk.
    """
    members = _members(archive, mirror)
    with zipfile.ZipFile(path, "w") as made:
        for name, content in tqdm(members, "unpack", mirror.n_files, disable=not progress):
            # without a date and not compressed: the same zip on every machine
            made.writestr(zipfile.ZipInfo(f"{mirror.root}/{name}"), content)
    if (found := _digest_of(path, mirror)) != mirror.digest:
        raise FetchError(
            f"{archive.name} is not the set: the digest of its files is {found[:12]}…, expected "
            f"{mirror.digest[:12]}…"
        )


def _members(archive: Path, mirror: Mirror) -> Iterator[tuple[str, bytes]]:
    """Names, relative to the set's folder, and contents of its files."""
    left = mirror.n_bytes
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                # the first folder is that of the repository and its commit
                inside = member.name.partition("/")[2]
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
