"""How a crop lies in files: Zarr 3 documents, chunks of raw voxels, a row, and their SHA-256.

The documents are written out by hand from the Zarr 3 specification, a dozen lines; the tests read
them back with zarr-python.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lesionlab._parquet import read_parquet
from lesionlab.crops import Crop, Tier

Row: TypeAlias = dict[str, Any]
Voxels: TypeAlias = npt.NDArray[np.int16]
Bits: TypeAlias = npt.NDArray[np.uint8]

ROOT = "zarr.json"
LESIONS = "lesions.parquet"
EXCLUSIONS = "exclusions.parquet"
COMPLETE = "complete.json"
GROUPS = ("hu", "masks")
SUMMED = (ROOT, LESIONS, EXCLUSIONS)  # whose SHA-256 stands in complete.json
VERSION = 1
FIELDS = {
    "lesion_id": pa.string(),
    "tier": pa.string(),
    "shape": pa.list_(pa.int64()),
    "readers": pa.int64(),
    "spacing": pa.list_(pa.float64()),
    "slice_index": pa.list_(pa.int64()),
    "corner": pa.list_(pa.int64()),
    "calibrated": pa.list_(pa.bool_()),
    "sha256": pa.string(),
}
KINDS = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
EXCLUSION_FIELDS = {"lesion_id": pa.string(), "reason": pa.string()}
# a file name on every system, Windows' devices too, and nothing that leads out of the folder
LESION_ID = re.compile(
    r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$))"
    r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?"
)


def checked_ids(lesion_ids: Iterable[str]) -> list[str]:
    """The ids as a list.

    Raises:
        ValueError: There is none, one cannot be a file name, or two would be the same file on a
            system that does not tell capitals apart.
    """
    if isinstance(lesion_ids, str):
        raise ValueError(f"lesion_ids={lesion_ids!r}: expected several ids, got one text")
    ids = list(lesion_ids)
    for lesion_id in ids:
        checked_id(lesion_id)
    first: dict[str, str] = {}
    for lesion_id in ids:
        if (other := first.setdefault(lesion_id.lower(), lesion_id)) != lesion_id:
            raise ValueError(f"lesion ids {other!r} and {lesion_id!r} differ in capitals only")
    if not ids:
        raise ValueError("lesion ids: expected at least one, got none")
    if len(first) < len(ids):
        raise ValueError(f"lesion ids: {next(i for i in ids if ids.count(i) > 1)!r} stands twice")
    return ids


def checked_id(lesion_id: str) -> str:
    """The id itself; ValueError where it cannot be a file name."""
    if (
        not isinstance(lesion_id, str)
        or not LESION_ID.fullmatch(lesion_id)
        or lesion_id.lower() == "zarr.json"  # the name of the group's own document
    ):
        raise ValueError(
            f"lesion_id={lesion_id!r}: expected up to 200 letters, digits, '_', '-' and '.', "
            "with a letter or digit first and no '.' last, and no name that Windows keeps"
        )
    return lesion_id


def encode(crop: Crop, columns: Mapping[str, Any]) -> tuple[Row, Voxels, Bits]:
    """A crop's row with its SHA-256, its voxels, and its masks in bits.

    Raises:
        ValueError: A column has a reserved name or is not a scalar that JSON and Parquet can hold.
    """
    row: Row = {
        "lesion_id": checked_id(crop.lesion_id),
        "tier": crop.tier,
        "shape": list(crop.hu.shape),
        "readers": len(crop.masks),
        "spacing": [float(mm) for mm in crop.spacing],
        "slice_index": [int(k) for k in crop.slice_index],
        "corner": [int(k) for k in crop.corner],
        "calibrated": [bool(known) for known in crop.calibrated],
    }
    for name, value in columns.items():
        if name in FIELDS:
            raise ValueError(f"column {name!r} of {crop.lesion_id}: the store writes it itself")
        row[name] = _scalar(value, f"column {name!r} of {crop.lesion_id}")
    hu = np.ascontiguousarray(crop.hu, dtype="<i2")
    bits = np.packbits(crop.masks, axis=-1)
    row["sha256"] = digest(row, hu, bits)
    return checked_row(row, f"crop of {crop.lesion_id}"), hu, bits


def _scalar(value: Any, what: str) -> str | bool | int | float | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    for kind in KINDS:
        if isinstance(value, kind):
            break
    else:
        raise ValueError(f"{what}: expected text, a number, a bool or None, got {value!r}")
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int | float) and not abs(value) < 2**63:
        raise ValueError(f"{what}: expected a finite number of 64 bits, got {value!r}")
    made: str | bool | int | float = kind(value)
    return made


def digest(row: Row, hu: Voxels, bits: Bits) -> str:
    """SHA-256 of a lesion: its row as JSON, a line end, the voxels, the mask bits.

    The row's keys are sorted; empty values and the sum itself are left out.
    """
    told = {name: value for name, value in known(row).items() if name != "sha256"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)
    sum_ = hashlib.sha256(text.encode() + b"\n")
    sum_.update(np.ascontiguousarray(hu, dtype="<i2").data)
    sum_.update(np.ascontiguousarray(bits).data)
    return sum_.hexdigest()


def checksum(rows: Iterable[Row]) -> str:
    """SHA-256 over `sha256  lesion_id` lines, sorted by id."""
    lines = sorted((row["lesion_id"], row["sha256"]) for row in rows)
    return hashlib.sha256("".join(f"{sum_}  {i}\n" for i, sum_ in lines).encode()).hexdigest()


def kinds(row: Row) -> dict[str, type]:
    """Kind of each further column that has a value."""
    return {name: type(value) for name, value in known(row).items() if name not in FIELDS}


def known(row: Row) -> Row:
    """The row without empty values: Parquet fills in those of columns that a lesion lacks."""
    return {name: value for name, value in row.items() if value is not None}


def decode(row: Row, arrays: Mapping[str, Bits], where: str) -> Crop:
    """The crop again, from its row and the bytes of its `chunks`.

    Raises:
        ValueError: There are more or fewer bytes than the row says.
    """
    hu, bits = views(row, arrays, where)
    return Crop(
        lesion_id=row["lesion_id"],
        hu=hu,
        masks=np.unpackbits(bits, axis=-1, count=row["shape"][2]).view(np.bool_),
        spacing=tuple(row["spacing"]),
        slice_index=np.array(row["slice_index"], dtype=np.int64),
        corner=tuple(row["corner"]),
        calibrated=np.array(row["calibrated"], dtype=np.bool_),
        tier=row["tier"],
    )


def views(row: Row, arrays: Mapping[str, Bits], where: str) -> tuple[Voxels, Bits]:
    """Voxels and mask bits in their shapes, without a copy; see `decode`."""
    for name, size in chunks(row).items():
        if arrays[name].nbytes != size:
            raise ValueError(
                f"{where}/{name} is damaged: expected {size:,} bytes, got {arrays[name].nbytes:,}"
            )
    hu, *masks = arrays.values()
    bits = masks[0] if masks else np.empty(0, np.uint8)
    # astype copies nothing where this machine is little-endian as the files are
    voxels = hu.view("<i2").reshape(row["shape"]).astype(np.int16, copy=False)
    return voxels, bits.reshape(bits_shape(row))


def bits_shape(row: Row) -> tuple[int, int, int, int]:
    """`(reader, z, y, bytes)`: eight columns to a byte, the last byte filled up with zeros."""
    z, y, x = row["shape"]
    return row["readers"], z, y, (x + 7) // 8


def chunks(row: Row) -> dict[str, int]:
    """Name of each chunk, voxels first, and its size in bytes; no masks where nobody read."""
    name, sizes = row["lesion_id"], {}
    sizes[f"hu/{name}/c.0.0.0"] = 2 * math.prod(row["shape"])
    if row["readers"]:
        sizes[f"masks/{name}/c.0.0.0.0"] = math.prod(bits_shape(row))
    return sizes


def documents(row: Row) -> dict[str, bytes]:
    """`zarr.json` of each array of a lesion; the one with the row, which is to be written last."""
    name, made = row["lesion_id"], {}
    if row["readers"]:
        about = {"packed": "x", "bit_order": "big", "columns": row["shape"][2]}
        axes = ["reader", "z", "y", "x_byte"]
        made[f"masks/{name}/zarr.json"] = _array("uint8", bits_shape(row), axes, about)
    made[f"hu/{name}/zarr.json"] = _array("int16", tuple(row["shape"]), ["z", "y", "x"], row)
    return made


def _array(dtype: str, shape: tuple[int, ...], axes: list[str], about: Row) -> bytes:
    # the specification wants an order of bytes exactly where a number has more than one
    codec: dict[str, Any] = {"name": "bytes"}
    if dtype != "uint8":
        codec["configuration"] = {"endian": "little"}
    return to_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0,
            "codecs": [codec],
            "attributes": {"lesionlab": about},
            "dimension_names": axes,
        }
    )


def group(about: Mapping[str, Any]) -> bytes:
    """`zarr.json` of a group."""
    return to_json(
        {"zarr_format": 3, "node_type": "group", "attributes": {"lesionlab": dict(about)}}
    )


def from_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object; ValueError where it is none."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{where} is damaged, not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} is damaged: expected a JSON object, got {found!s:.80}")
    return found


def about(data: bytes, where: str) -> dict[str, Any]:
    """What lesionlab wrote into a `zarr.json`; ValueError where it is not ours."""
    attributes = from_json(data, where).get("attributes")
    found = attributes.get("lesionlab") if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is damaged or not from lesionlab: no attributes of ours")
    return found


def make_header(
    tier: str, expected: Iterable[str], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What a store's `zarr.json` is to say; ValueError where an argument is wrong."""
    if tier not in get_args(Tier):
        raise ValueError(f"tier={tier!r}: expected one of {', '.join(get_args(Tier))}")
    return {
        "format": "crops",
        "version": VERSION,
        "tier": tier,
        "expected": checked_ids(expected),
        "provenance": jsonable(provenance, "provenance"),
    }


def header(data: bytes, url: str) -> dict[str, Any]:
    """What a store's `zarr.json` says of it, every part of the right kind.

    Raises:
        ValueError: It is not a store of crops, of another version, or damaged.
    """
    found = about(data, f"{url}/zarr.json")
    if found.get("format") != "crops" or found.get("version") != VERSION:
        raise ValueError(
            f"{url}: expected a store of crops of version {VERSION}, got "
            f"{found.get('format')!r} of version {found.get('version')!r}"
        )
    if found.get("tier") not in get_args(Tier) or not isinstance(found.get("provenance"), dict):
        raise ValueError(f"{url}/zarr.json is damaged: tier {found.get('tier')!r}")
    try:
        checked_ids(found.get("expected", ()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{url}/zarr.json is damaged: {error}") from error
    return found


def checked_row(row: Row, where: str) -> Row:
    """The row itself; ValueError where a crop could not have given it."""
    try:
        z, y, x = row["shape"]
        fits = (
            min(z, y, x) > 0 <= row["readers"]
            and len(row["spacing"]) == 3
            and len(row["corner"]) == 2
            and len(row["slice_index"]) == len(row["calibrated"]) == z
            and row["tier"] in get_args(Tier)
            and len(row["sha256"]) == 64
            and checked_id(row["lesion_id"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is damaged: {error!r} in {row!s:.200}") from error
    if not fits:
        raise ValueError(f"{where} is damaged: {row!s:.200}")
    return row


def to_json(value: Any) -> bytes:
    """Strict JSON."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()


def jsonable(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What JSON makes of it; ValueError for what it cannot hold."""
    try:
        return from_json(to_json(dict(value)), what)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: expected what JSON can hold: {error}") from error


def to_parquet(rows: list[Row], fields: Mapping[str, pa.DataType]) -> bytes:
    """A table with the `fields` first and then every other column of the rows."""
    schema = dict(fields)
    kinds: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if name not in schema and (value is not None or name not in kinds):
                kinds[name] = KINDS[float if value is None else type(value)]
    schema |= kinds
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items()))), file)
    return file.getvalue()


def from_parquet(data: bytes, where: str, fields: Mapping[str, pa.DataType]) -> list[Row]:
    """The rows again.

    Raises:
        ValueError: It is no whole Parquet file, or a column is missing or of another kind.
    """
    try:
        table = read_parquet(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{where} is damaged or not Parquet: {error}") from error
    for name, kind in fields.items():
        if name not in table.column_names or table.schema.field(name).type != kind:
            raise ValueError(f"{where}: expected a column {name!r} of {kind}")
    rows: list[Row] = table.to_pylist()
    return rows


def to_frame(rows: list[Row]) -> pd.DataFrame:
    """The rows as a table by `lesion_id`."""
    table = read_parquet(io.BytesIO(to_parquet(rows, FIELDS)))
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    return frame.set_index("lesion_id")
