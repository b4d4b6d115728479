"""Which header fields of DICOM files hold what may identify a person; never what they hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import Tag

from lesionlab.sources.dicom._files import BadFileError, Header, quiet
from lesionlab.sources.dicom._series import files_below, tell_bad

_KINDS = {"PN": "name", "UI": "UID"} | dict.fromkeys(("DA", "DT", "TM"), "date or time")
_KINDS |= dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UR", "UT"), "text")
# texts about machine and method, and the codes of terms
_HARMLESS = {
    "CodeMeaning", "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
    "ConvolutionKernel", "DeidentificationMethod", "Manufacturer", "ManufacturerModelName",
    "RescaleType", "SoftwareVersions",
}  # fmt: skip
_PATIENT = 0x0010  # the group of what is said of the patient, such as sex and weight
DEEPEST = 20  # a sequence in a sequence …


@quiet()
def identity(root: str | Path) -> pd.DataFrame:
    """Count the header fields that hold something of a kind that may identify a person.

    These are names, dates and times, UIDs but those of the standard, all about the patient, free
    texts, and private fields, at any depth. Whether a value that stands there identifies anybody is
    not judged, and no value is returned. What pictures show is not looked at.

    Returns:
        Index `field`, the keyword; `kind`, and `n_files` that hold it, most first.
        `attrs["n_read"]` is how many files were read, `attrs["excluded"]` as of `find_series`.
    """
    if not os.path.isdir(root):
        raise NotADirectoryError(f"{str(root)!r} is not a folder")
    counts: Counter[tuple[str, str]] = Counter()
    bad: list[BadFileError] = []
    n_read = 0
    for file in (file for _, files in files_below(Path(root)) for file in files):
        try:
            header = Header(file, None)
            counts.update(set(_fields(header, header.dataset, DEEPEST)))
            n_read += 1
        except BadFileError as error:
            bad.append(error)
    rows = [(*what, n) for what, n in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    table = pd.DataFrame(rows, columns=["field", "kind", "n_files"]).set_index("field")
    table.attrs["n_read"] = n_read
    tell_bad(table, bad)
    return table


def _fields(header: Header, dataset: Dataset, depth: int) -> Iterator[tuple[str, str]]:
    if not depth:
        raise header.error(f"its sequences are nested more than {DEEPEST} deep")
    for number in list(dataset.keys()):
        tag, raw = Tag(number), dataset.get_item(number)
        keyword, vr = keyword_for_tag(tag), raw.VR if raw is not None else None
        if vr in (None, "UN") and keyword:
            vr = dictionary_VR(tag)
        for item in header.items(dataset, number) if vr == "SQ" else ():
            yield from _fields(header, item, depth - 1)
        value: Any = getattr(raw, "value", None)
        text = value.strip(b" \0") if isinstance(value, bytes) else str(value or "").encode()
        if vr == "SQ" or not text or keyword in _HARMLESS:
            continue
        if tag.is_private:
            if not tag.is_private_creator:
                yield "private fields", "private"
        elif vr != "UI" or not text.startswith(b"1.2.840.10008."):
            kind = "patient" if tag.group == _PATIENT else _KINDS.get(str(vr), "")
            if kind or not keyword:
                yield (keyword or "unknown fields"), (kind or "unknown")
