"""Which nodule each folder of the public slices set shows, found from its masks.

The table `lidc-idri-slices-index.csv.gz`, which comes with lesionlab, was made by this file:

    python -m tests.sources.slices_index SET TABLE

The set's masks were rasterised from the same contours as ours, so nearly every one of them equals
one of ours pixel by pixel, cut out at some place. Its shape, cropped to its bounding box, is looked
up among the shapes of the patient's nodules; each hit is a vote for a nodule and a place.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from lesionlab.sources import lidc
from lesionlab.sources.slices._archive import IMAGES, MASKS, SIZE, Archive, Key

BoolArray = npt.NDArray[np.bool_]
Place = tuple[int, int, int]  # position of the lesion in the list; y and x of the corner

# least IoU at which a mask that equals none of ours still counts as one of ours, in a folder whose
# other masks say which nodule it shows
MIN_OVERLAP = 0.5
MIN_SHARE = 0.5  # least share of a folder's marked slices that its nodule must explain


class Shown(NamedTuple):
    """The masks of one `nodule-k`: (4, slice, y, x), with the numbers of its slices, ascending."""

    nodule: int
    numbers: npt.NDArray[np.int64]
    masks: BoolArray


def index(archive: Archive, source: lidc.Lidc) -> pd.DataFrame:
    """The whole index, a row per folder that shows a nodule; columns as in the table's README."""
    keys = pd.DataFrame(sorted(key for key in archive.names if key.part == IMAGES))
    nodules = source.nodules()
    rank = nodules.groupby("scan_id").cumcount()
    rows = []
    for patient, its_keys in keys.groupby("patient"):
        numbers = its_keys.groupby("nodule")["number"]
        folders = [_read(archive, patient, k, found.tolist()) for k, found in numbers]
        lesions = nodules.index[nodules["patient"] == patient]
        masks = [source.masks(lesion_id) for lesion_id in lesions]
        for row in match(folders, masks, rank[lesions].tolist()):
            rows.append({"patient": patient, **row})
    table = pd.DataFrame(rows)
    for column in ("slices", "slice_index", "missing_slices", "reader_iou"):
        table[column] = [" ".join(f"{value:.17g}" for value in values) for values in table[column]]
    return table


def _read(archive: Archive, patient: str, nodule: int, numbers: list[int]) -> Shown:
    masks = [[archive.read(Key(patient, nodule, part, n)) > 0 for n in numbers] for part in MASKS]
    return Shown(nodule, np.array(numbers), np.array(masks))


def match(
    folders: list[Shown], lesions: list[lidc.LesionMasks], rank: list[int]
) -> list[dict[str, Any]]:
    """Match each folder of a patient to at most one nodule, and each nodule to at most one folder.

    A folder may hold slices of two nodules: where a patient has two scans, the k-th nodule of
    one overwrote the k-th of the other, and the longer one's last slices stayed. The nodule that
    explains more slices has the folder; the other slices are left out.
    """
    known = _shapes(lesions)
    votes = [_votes(folder, known) for folder in folders]
    claims = []
    for f, per_slice in enumerate(votes):
        n_slices: Counter[Place] = Counter(p for of_slice in per_slice for p in of_slice)
        n_planes = sum(per_slice, Counter())
        marked = folders[f].masks.any(axis=(0, 2, 3)).sum()
        claims += [
            (n, n_planes[p], folders[f].nodule == rank[p[0]], -f, p)
            for p, n in n_slices.items()
            if n >= MIN_SHARE * marked
        ]
    found: dict[int, dict[str, Any]] = {}
    taken: set[int] = set()
    for _, _, _, minus_f, best in sorted(claims, reverse=True):
        if -minus_f not in found and best[0] not in taken:
            found[-minus_f] = _assign(folders[-minus_f], votes[-minus_f], lesions, best)
            taken.add(best[0])
    return [found[f] for f in sorted(found)]


def _shape(plane: BoolArray) -> tuple[tuple[int, int, bytes], int, int]:
    """A mask cropped to its bounding box, as a key, and where the box begins."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    tight = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (*tight.shape, np.packbits(tight).tobytes()), int(rows[0]), int(columns[0])


def _shapes(lesions: list[lidc.LesionMasks]) -> dict[tuple[int, int, bytes], set[Place]]:
    known = defaultdict(set)
    for position, lesion in enumerate(lesions):
        _, top, left = lesion.origin
        for plane in lesion.readers.reshape(-1, *lesion.readers.shape[2:]):
            if plane.any():
                key, y, x = _shape(plane)
                known[key].add((position, top + y, left + x))
    return known


def _votes(folder: Shown, known: dict[tuple[int, int, bytes], set[Place]]) -> list[Counter[Place]]:
    """For each slice, how many of its masks equal one of ours, by nodule and corner."""
    out = []
    for planes in folder.masks.swapaxes(0, 1):
        votes: Counter[Place] = Counter()
        for plane in planes[planes.any(axis=(1, 2))]:
            key, y, x = _shape(plane)
            votes.update({(p, top - y, left - x) for p, top, left in known.get(key, ())})
        out.append(votes)
    return out


def _assign(
    folder: Shown, votes: list[Counter[Place]], lesions: list[lidc.LesionMasks], best: Place
) -> dict[str, Any]:
    """Give every slice of the folder that shows the nodule its index in the scan.

    The order of slices is kept. In some folders single masks stand on a wrong slice (a reader
    whose first slice lies before the folder's is written to its last), so all readers' masks
    decide together, and among equals the slice that continues the count.
    """
    lesion, corner = lesions[best[0]], best[1:]
    own = np.array([best in of_slice for of_slice in votes])
    # a tiny mask may equal another nodule's by chance: only a slice that fits nothing of ours
    others = [_of_another(of_slice, best, lesions) for of_slice in votes]
    in_scan = lesion.origin[0] + np.arange(lesion.readers.shape[1])
    ours = lesion.window(in_scan, corner, SIZE)
    readers = min(len(ours), len(folder.masks))
    overlap = np.stack([_overlaps(folder.masks[r], ours[r]) for r in range(readers)])
    score = overlap.sum(axis=0)  # (folder's slice, lesion's slice)
    shift = np.arange(score.shape[1]) - (folder.numbers - folder.numbers[0])[:, None]
    heaviest = np.bincount((shift - shift.min()).ravel(), weights=score.ravel()).argmax()
    expected = shift == heaviest + shift.min()
    empty: BoolArray = ~folder.masks.any(axis=(0, 2, 3)).reshape(-1, 1)
    both_empty = empty & ~ours.any(axis=(0, 2, 3))
    allowed = own[:, None] & (score > 0) | (overlap.max(axis=0) >= MIN_OVERLAP)
    allowed |= both_empty | ((empty | own[:, None]) & expected)
    allowed &= np.array([other == "" for other in others])[:, None]
    pairs = _in_order(np.where(allowed, score + 0.5 * both_empty + 0.001 * expected, 0))
    here, there = (np.array(side) for side in zip(*pairs, strict=True))
    theirs, mine = folder.masks[:readers, here], ours[:readers, there]
    return {
        "nodule": folder.nodule,
        "lesion_id": lesion.lesion_id,
        "corner_y": corner[0],
        "corner_x": corner[1],
        "slices": folder.numbers[here].tolist(),
        "slice_index": in_scan[there].tolist(),
        "missing_slices": np.setdiff1d(in_scan, in_scan[there]).tolist(),
        "leftover": max(others),
        "iou": _iou(theirs.mean(axis=0) >= 0.5, mine.mean(axis=0) >= 0.5),
        "reader_iou": [_iou(a, b) for a, b in zip(theirs, mine, strict=True)],
    }


def _of_another(of_slice: Counter[Place], best: Place, lesions: list[lidc.LesionMasks]) -> str:
    """The nodule that a slice shows if it does not show the folder's own; else ""."""
    votes = {place: n for place, n in of_slice.items() if place[0] != best[0]}
    if best in of_slice or not votes:
        return ""
    return lesions[max(votes, key=votes.__getitem__)[0]].lesion_id


def _iou(a: BoolArray, b: BoolArray) -> float:
    """Voxels in both over voxels in either; NaN if there are none."""
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else float("nan")


def _overlaps(a: BoolArray, b: BoolArray) -> npt.NDArray[np.float64]:
    """IoU of every plane of `a` with every plane of `b`; 0 where both are empty."""
    first, second = (m.reshape(len(m), -1).astype(np.float32) for m in (a, b))
    both = (first @ second.T).astype(np.float64)
    either = first.sum(axis=1, dtype=np.float64)[:, None] + second.sum(axis=1) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def _in_order(score: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (i, j), both ascending, of largest total score; pairs of score 0 are never taken."""
    n, m = score.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        for j in range(m):
            taken = best[i, j] + score[i, j] if score[i, j] > 0 else 0.0
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], taken)
    pairs = []
    i, j = n, m
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


if __name__ == "__main__":
    made = index(Archive(Path(sys.argv[1])), lidc.default())
    compression = {"method": "gzip", "mtime": 0}
    made.to_csv(sys.argv[2], index=False, lineterminator="\n", compression=compression)
