"""What DICOM files still say about a person: which attributes are filled, never what they say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom.datadict import keyword_for_tag
from pydicom.sequence import Sequence

from lesionlab.sources.dicom._files import BadFileError, open_file, quiet
from lesionlab.sources.dicom._profile import kind_of
from lesionlab.sources.dicom._series import list_files

COLUMNS = ["tag", "keyword", "kind", "n_files", "n_values", "shortest", "longest"]


@dataclass
class _Finding:
    tag: str
    keyword: str
    kind: str
    files: set[Path] = field(default_factory=set)
    lengths: list[int] = field(default_factory=list)


def identity(source: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """What files still say about a person, without ever showing it.

    Looks for what the de-identification profile of DICOM (PS3.15, table E.1-1) removes or
    replaces: names, numbers, dates, addresses, institutions, devices, free text, UIDs and private
    attributes, at every depth of nested sequences. To that table it adds whatever has the value
    representation of a name, date, age or long text, and what the data dictionary does not know.
    It cannot tell a pseudonym or a shifted date from a real one, and it does not look at pixels,
    so it lists what a person has to judge.

    Args:
        source: A folder (its subfolders are not searched), one file, or a list of files.

    Returns:
        One row per filled attribute, by kind and tag: `tag`, `keyword`, `kind`, `n_files` that
        have it, `n_values` (with nested ones), `shortest` and `longest` (characters, or bytes).
        Values are not in the table. Private attributes are one row for each of their groups.
        Further rows, without a tag of their own: files with something in the 128 bytes before
        the header, files that do not say that identity was removed or that nothing is burned in,
        and files that could not be read.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    files, _ = list_files(source)
    found: dict[tuple[str, str, str], _Finding] = {}

    def note(file: Path, tag: str, keyword: str, kind: str, length: int) -> None:
        finding = found.setdefault((kind, tag, keyword), _Finding(tag, keyword, kind))
        finding.files.add(file)
        finding.lengths.append(length)

    for file in files:
        try:
            with quiet():
                for finding in _look(file):
                    note(file, *finding)
        except (BadFileError, RecursionError):  # sequences of a stated length are parsed here
            note(file, "", "", "not readable as DICOM, so not checked", 0)
    rows = [
        (f.tag, f.keyword, f.kind, len(f.files), len(f.lengths), min(f.lengths), max(f.lengths))
        for _, f in sorted(found.items())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _look(file: Path) -> Iterator[tuple[str, str, str, int]]:
    try:
        dataset = open_file(file, pixels=True)  # signatures and padding stand behind the pixels
    except BadFileError:
        dataset = open_file(file)
        yield "", "", "not readable to its end, so not checked whole", 0
    preamble = getattr(dataset, "preamble", None) or b""
    if any(preamble):
        yield "", "", "bytes before the header", len(preamble.strip(b"\0"))
    yield from _elements(getattr(dataset, "file_meta", None) or ())
    yield from _elements(dataset)
    for keyword, wanted, kind in (
        ("BurnedInAnnotation", "NO", "does not say that no text is burned into the pixels"),
        ("PatientIdentityRemoved", "YES", "does not say that identity was removed"),
    ):
        if _text(dataset, keyword) != wanted:
            yield "", keyword, kind, 0


def _text(dataset: Any, keyword: str) -> str:
    try:
        return str(dataset.get(keyword, "")).strip().upper()
    except Exception:
        return ""


def _elements(dataset: Any) -> Iterator[tuple[str, str, str, int]]:
    """Every filled attribute that can identify, at every depth."""
    tags = dataset.keys() if dataset else ()
    private: dict[int, int] = defaultdict(int)
    for tag in list(tags):
        if tag.is_private:
            private[tag.group] += 1
            continue
        name = f"({tag.group:04X},{tag.element:04X})"
        try:
            element = dataset[tag]
            vr, content = element.VR, element.value
            length = 0 if content is None else _length(content)
        except Exception:
            # a value that cannot be parsed can still be read by a person
            yield name, keyword_for_tag(tag), "cannot be parsed, so not judged", 0
            continue
        keyword = keyword_for_tag(tag)
        kind = kind_of(keyword, vr)
        if kind and length:
            yield name, keyword, kind, length
        if isinstance(content, Sequence):
            for item in content:
                yield from _elements(item)
    for group, count in private.items():
        for _ in range(count):
            yield f"({group:04X},xxxx)", "", "private", 0


def _length(content: Any) -> int:
    if isinstance(content, (bytes, Sequence)):
        return len(content)
    return len(str(content).strip("\0 "))
