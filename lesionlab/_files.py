"""Files that appear whole or not at all.

Everything that lesionlab writes goes through here: the text is written to a
temporary file in the same folder and then renamed over the target, which POSIX
and Windows both do in one step. A reader, or a run that is killed half way,
never meets half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["read_json", "replacing", "sha256", "sha256_tree", "write_json", "write_text"]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` when the block ends well.

    Args:
        path: the file to write; its folder is made when it is missing.

    Yields:
        A path in the same folder, so that the final rename stays on one file
        system. If the block raises, the temporary file is removed and whatever
        stood at ``path`` before is left as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # not tempfile.mkstemp: its files are readable by their owner alone, and stay so
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8 with Unix line ends, atomically.

    Args:
        path: the file to write.
        text: its whole content.

    Returns:
        The path written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        # or a power cut can leave the new name on an empty file
        os.fsync(file.fileno())
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as indented, strictly standard JSON, atomically.

    Args:
        path: the file to write.
        value: what ``json`` can hold; see :func:`lesionlab.results.jsonable`
            for everything else.

    Returns:
        The path written.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
        TypeError: for an object that JSON has no form for.
    """
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON; the message names the file and the line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, as ``sha256sum`` prints it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(folder: str | Path, suffixes: Iterable[str]) -> str:
    """One SHA-256 for the names and contents of all files of some kinds under a folder.

    Args:
        folder: where to look, at every depth.
        suffixes: endings that count, e.g. ``[".py", ".csv"]``.

    Returns:
        A hexadecimal digest that changes when such a file is added, removed,
        renamed or edited, and does not depend on where the folder lies.
    """
    folder, wanted = Path(folder), frozenset(suffixes)
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        # a dot in front: an editor's or our own temporary file
        if path.suffix in wanted and not path.name.startswith(".") and path.is_file()
    }
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{sha256(found[name])}  {name}\n".encode())
    return digest.hexdigest()
