"""What a store says of itself and of its lesions, made and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab import _names
from lesionlab.crops import Crop

Row = dict[str, Any]

HEADER: dict[str, Any] = {"tier": str, "provenance": dict, "expected": list, "exclusions": dict}
HEADER |= {"complete": str | None}
_ROW: dict[str, Any] = {"lesion_id": str, "tier": str, "readers": int, "sha256": str}
_ROW |= dict.fromkeys(["shape", "spacing", "slice_index", "corner", "steps"], list)


def typed(found: Any, kinds: Mapping[str, Any]) -> Row:
    """What was found; ValueError if it is no object, or a member is missing or of another kind."""
    if not isinstance(found, dict):
        raise ValueError(f"expected an object with {_names.listed(kinds)}, got {found!r:.40}")
    for name, kind in kinds.items():
        if not isinstance(found.get(name, ...), kind):
            got = f"{found[name]!r:.40}" if name in found else "none"
            raise ValueError(f"{name}: expected {getattr(kind, '__name__', kind)}, got {got}")
    return found


def checked_row(row: Row) -> Row:
    typed(row, _ROW)
    if [isinstance(n, int) and n > 0 for n in row["shape"]] != [True] * 3:
        raise ValueError(f"shape: expected three whole numbers above 0, got {row['shape']!r:.40}")
    return row


def attributes(node: str, data: bytes) -> Row:
    """The attributes in a `zarr.json`, of a group or an array."""
    document = typed(json.loads(data), {"zarr_format": int, "node_type": str, "attributes": dict})
    if (document["zarr_format"], document["node_type"]) != (3, node):
        raise ValueError(f"expected zarr_format 3 and node_type {node!r}")
    return dict(document["attributes"])


def row(crop: Crop, bits: npt.NDArray[np.uint8]) -> Row:
    """What the table says of a crop: all but its voxels, and a SHA-256 of everything.

    The masks are given in bits, as they are stored: to pack them takes a third of the time.
    """
    row: Row = {
        "lesion_id": crop.lesion_id,
        "tier": crop.tier,
        "shape": list(crop.hu.shape),
        "readers": len(crop.masks),
        "spacing": [float(mm) for mm in crop.spacing],
        "slice_index": crop.slice_index.tolist(),
        "corner": [int(k) for k in crop.corner],
        "steps": crop.steps.tolist(),
    }
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
    sha256 = hashlib.sha256(text.encode())
    for part in (crop.hu.astype("<i2", copy=False), bits):
        sha256.update(np.ascontiguousarray(part).data)
    return row | {"sha256": sha256.hexdigest()}
