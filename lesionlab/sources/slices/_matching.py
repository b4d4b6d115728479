"""Which nodule of the database a folder of the slices set shows, where, and on which slices.

The set's masks were rasterised from the same contours as ours, so nearly every one of them equals
one of ours pixel by pixel, cut out at some place. Its shape, cropped to its bounding box, is
looked up among the shapes of the patient's nodules; each hit is a vote for a nodule and a place.
Only folders that no shape explains are laid over the nodules left, by correlation, and then must
fit closely: shapes alone do not tell one round nodule from another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve

from lesionlab.sources.slices._archive import SIZE

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Place = tuple[int, int, int]  # position of the lesion in the list; y and x of the corner

MIN_OVERLAP = 0.5
"""Least IoU at which a mask that equals none of ours, of a nodule known by its other masks, still
counts as one of ours."""

MIN_RESEMBLANCE = 0.9
"""Least IoU at which a folder without a single equal mask counts as a nodule.

Laid over the other nodules of their patient, 1 nodule in 355 (every sixth patient) fits one of them
so closely by chance. At 0.8 it is 1 in 44, at 0.5 more than half: nothing would be gained but wrong
labels. In the public set no folder needs it.
"""

MIN_SHARE = 0.5
"""Least share of a folder's marked slices that its nodule must explain."""


@dataclass(frozen=True)
class Lesion:
    """A nodule of the database: its masks in the box around all its contours.

    Attributes:
        lesion_id: As in `lesionlab.sources.lidc.nodules`.
        rank: Position among the nodules of its scan, from 0.
        readers: (reader, z, y, x).
        origin: `(z, y, x)` index of the first voxel in the scan.
    """

    lesion_id: str
    rank: int
    readers: BoolArray
    origin: tuple[int, int, int]

    @property
    def slices(self) -> npt.NDArray[np.int64]:
        """Indices in the scan from the first to the last contour; some have no voxel inside."""
        return self.origin[0] + np.arange(self.readers.shape[1])

    def window(self, corner: tuple[int, int], slices: npt.NDArray[np.int64]) -> BoolArray:
        """Masks (reader, slice, y, x) in the frame of a folder whose corner is known."""
        out = np.zeros((len(self.readers), len(slices), SIZE, SIZE), dtype=bool)
        y, x = (o - c for o, c in zip(self.origin[1:], corner, strict=True))
        height, width = self.readers.shape[2:]
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, SIZE), min(x + width, SIZE)
        if top < bottom and left < right:
            part = self.readers[:, slices - self.origin[0]]
            out[..., top:bottom, left:right] = part[..., top - y : bottom - y, left - x : right - x]
        return out


@dataclass(frozen=True)
class Folder:
    """The masks of one `nodule-k`: (4, slice, y, x), with the numbers of its slices, ascending."""

    nodule: int
    numbers: npt.NDArray[np.int64]
    masks: BoolArray


@dataclass
class Match:
    """What was found for one folder.

    Attributes:
        nodule: The k of `nodule-k`.
        lesion_id: The nodule of the database, None if there is none.
        reason: Why there is none.
        method: `exact` (equal shapes) or `overlap`.
        corner: `(y, x)` index in the scan of the pictures' first pixel.
        used: Slice numbers that belong to the nodule, ascending.
        slice_index: Their indices in the scan.
        excluded: Slice number to the reason why it is left out.
        leftovers: Another lesion's id to the slice numbers of it that stand in this folder.
        iou: Of the 50 % consensus of the set's masks and of ours, on `used`; NaN if both empty.
        reader_iou: Of each reader's masks; at most four.
        cut_voxels: Voxels of our masks on `used` outside the window.
        missing: Indices in the scan of slices between the nodule's first and last contour that
            the folder does not show.
    """

    nodule: int
    lesion_id: str | None = None
    reason: str = ""
    method: str = ""
    corner: tuple[int, int] = (0, 0)
    used: list[int] = field(default_factory=list)
    slice_index: list[int] = field(default_factory=list)
    excluded: dict[int, str] = field(default_factory=dict)
    leftovers: dict[str, list[int]] = field(default_factory=dict)
    iou: float = np.nan
    reader_iou: list[float] = field(default_factory=list)
    cut_voxels: int = 0
    missing: list[int] = field(default_factory=list)


def match_patient(folders: Sequence[Folder], lesions: Sequence[Lesion]) -> list[Match]:
    """Match each folder of a patient to at most one nodule, and each nodule to at most one folder.

    A folder may hold slices of two nodules: where a patient has two scans, the k-th nodule of
    one overwrote the k-th of the other, and the longer one's last slices stayed. The nodule that
    explains more slices has the folder; the other slices are left out.
    """
    known = _shapes(lesions)
    votes = [_votes(folder, known) for folder in folders]
    claims = sorted(
        (
            (n_slices, n_planes, folders[f].nodule == lesions[place[0]].rank, -f, place)
            for f, per_slice in enumerate(votes)
            for place, (n_slices, n_planes) in _tally(per_slice).items()
        ),
        reverse=True,
    )
    marked = [int(folder.masks.any(axis=(0, 2, 3)).sum()) for folder in folders]
    found: dict[int, Match] = {}
    taken: dict[int, int] = {}
    known_by_shape = set()
    for n_slices, _, _, minus, place in claims:
        f = -minus
        if n_slices < MIN_SHARE * marked[f]:
            continue
        known_by_shape.add(f)
        if f not in found and place[0] not in taken:
            found[f] = _placed(folders[f], votes[f], lesions, place)
            taken[place[0]] = f
    unknown = [f for f in range(len(folders)) if f not in known_by_shape and marked[f]]
    _overlapping(unknown, folders, lesions, found, taken)
    for f, folder in enumerate(folders):
        if f not in found:
            found[f] = Match(folder.nodule, reason=_why(f, marked[f], claims, lesions))
            found[f].leftovers = _leftovers(votes[f], folder, lesions, None)
    return [found[f] for f in range(len(folders))]


# --- Equal shapes -------------------------------------------------------------------------------


def _shape(plane: BoolArray) -> tuple[tuple[int, int, bytes], int, int]:
    """A mask cropped to its bounding box, as a key, and where the box begins."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    tight = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (*tight.shape, np.packbits(tight).tobytes()), int(rows[0]), int(columns[0])


def _shapes(lesions: Sequence[Lesion]) -> dict[tuple[int, int, bytes], set[Place]]:
    known = defaultdict(set)
    for position, lesion in enumerate(lesions):
        _, top, left = lesion.origin
        for plane in lesion.readers.reshape(-1, *lesion.readers.shape[2:]):
            if plane.any():
                key, y, x = _shape(plane)
                known[key].add((position, top + y, left + x))
    return known


def _votes(folder: Folder, known: dict[tuple[int, int, bytes], set[Place]]) -> list[Counter[Place]]:
    """For each slice, how many of its masks equal one of ours, by nodule and corner."""
    out = []
    for planes in folder.masks.swapaxes(0, 1):
        votes: Counter[Place] = Counter()
        for plane in planes[planes.any(axis=(1, 2))]:
            key, y, x = _shape(plane)
            votes.update({(p, top - y, left - x) for p, top, left in known.get(key, ())})
        out.append(votes)
    return out


def _tally(per_slice: list[Counter[Place]]) -> dict[Place, tuple[int, int]]:
    slices: Counter[Place] = Counter()
    planes: Counter[Place] = Counter()
    for votes in per_slice:
        slices.update(votes.keys())
        planes.update(votes)
    return {place: (n, planes[place]) for place, n in slices.items()}


def _placed(
    folder: Folder, votes: list[Counter[Place]], lesions: Sequence[Lesion], place: Place
) -> Match:
    lesion, corner = lesions[place[0]], place[1:]
    own = np.array([place in v for v in votes])
    match = Match(folder.nodule, lesion.lesion_id, method="exact", corner=corner)
    match.leftovers = _leftovers(votes, folder, lesions, place)
    foreign = {n: other for other, numbers in match.leftovers.items() for n in numbers}
    # a tiny mask may equal another nodule's by chance: only a slice that fits nothing of ours
    usable = own | ~np.isin(folder.numbers, list(foreign))
    _assign(match, folder, lesion, usable, own)
    for number, other in foreign.items():
        match.excluded[number] = f"shows another nodule, {other}"
    return match


def _leftovers(
    votes: list[Counter[Place]], folder: Folder, lesions: Sequence[Lesion], place: Place | None
) -> dict[str, list[int]]:
    """Slices that show another nodule than the one at `place`, by that nodule's id."""
    out: dict[str, list[int]] = {}
    for number, v in zip(folder.numbers.tolist(), votes, strict=True):
        others = [p for p in v if place is None or p[0] != place[0]]
        if place not in v and others:
            best = max(others, key=lambda p: (v[p], lesions[p[0]].rank == folder.nodule))
            out.setdefault(lesions[best[0]].lesion_id, []).append(number)
    return out


# --- Which slice is which -----------------------------------------------------------------------


def _assign(
    match: Match, folder: Folder, lesion: Lesion, usable: BoolArray, own: BoolArray
) -> None:
    """Give every usable slice of the folder its index in the scan, and measure the agreement.

    The order of slices is kept. In some folders single masks stand on a wrong slice (a reader
    whose first slice lies before the folder's is written to its last), so all readers' masks
    decide together, and among equals the slice that continues the count.
    """
    ours = lesion.window(match.corner, lesion.slices)
    readers = min(len(ours), len(folder.masks))
    overlap = np.stack([_overlaps(folder.masks[r], ours[r]) for r in range(readers)])
    score = overlap.sum(axis=0)  # (folder's slice, lesion's slice)
    shift = np.arange(score.shape[1]) - (folder.numbers - folder.numbers[0])[:, None]
    expected = shift == _heaviest(shift, score)
    empty: BoolArray = ~folder.masks.any(axis=(0, 2, 3)).reshape(-1, 1)
    both_empty = empty & ~ours.any(axis=(0, 2, 3))
    allowed = own[:, None] & (score > 0) | (overlap.max(axis=0) >= MIN_OVERLAP)
    allowed |= both_empty | ((empty | own[:, None]) & expected)
    score = np.where(allowed & usable[:, None], score + 0.5 * both_empty + 0.001 * expected, 0)
    pairs = _in_order(score)
    match.used = folder.numbers[[i for i, _ in pairs]].tolist()
    match.slice_index = lesion.slices[[j for _, j in pairs]].tolist()
    match.missing = np.setdiff1d(lesion.slices, match.slice_index).tolist()
    for number in np.setdiff1d(folder.numbers, match.used).tolist():
        match.excluded[number] = f"its masks fit no slice of {lesion.lesion_id}"
    if pairs:
        here, there = (np.array(index) for index in zip(*pairs, strict=True))
        theirs, mine = folder.masks[:readers, here], ours[:readers, there]
        match.iou = iou(theirs.mean(axis=0) >= 0.5, mine.mean(axis=0) >= 0.5)
        match.reader_iou = [iou(a, b) for a, b in zip(theirs, mine, strict=True)]
        whole = lesion.readers[:, np.array(match.slice_index) - lesion.origin[0]]
        match.cut_voxels = int(whole.sum() - ours[:, there].sum())


def iou(a: BoolArray, b: BoolArray) -> float:
    """Voxels in both over voxels in either; NaN if there are none."""
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else float("nan")


def _overlaps(a: BoolArray, b: BoolArray) -> FloatArray:
    """IoU of every plane of `a` with every plane of `b`; 0 where both are empty."""
    used = a.any(axis=0) | b.any(axis=0)  # a few hundred pixels of 16,384
    first, second = (m[:, used].astype(np.float32) for m in (a, b))
    both = (first @ second.T).astype(np.float64)
    either = first.sum(axis=1, dtype=np.float64)[:, None] + second.sum(axis=1) - both
    overlaps: FloatArray = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return overlaps


def _heaviest(shift: npt.NDArray[np.int64], score: FloatArray) -> int:
    """The shift between the two counts of slices that gathers most of the score."""
    weight = np.bincount((shift - shift.min()).ravel(), weights=score.ravel())
    return int(weight.argmax() + shift.min())


def _in_order(score: FloatArray) -> list[tuple[int, int]]:
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


# --- Similar shapes -----------------------------------------------------------------------------


def _overlapping(
    unknown: Sequence[int],
    folders: Sequence[Folder],
    lesions: Sequence[Lesion],
    found: dict[int, Match],
    taken: dict[int, int],
) -> None:
    """Lay the folders of unknown shape over the nodules that are left; keep what fits closely."""
    tries = []
    for f in unknown:
        folder = folders[f]
        marked = int(folder.masks.any(axis=(0, 2, 3)).sum())
        for position, lesion in enumerate(lesions):
            if position in taken or not lesion.readers.any():
                continue
            match = Match(folder.nodule, lesion.lesion_id, method="overlap")
            match.corner = _correlate(folder, lesion)
            nothing = np.zeros(len(folder.numbers), dtype=bool)
            _assign(match, folder, lesion, ~nothing, nothing)
            if match.iou >= MIN_RESEMBLANCE and len(match.used) >= MIN_SHARE * marked:
                tries.append((match.iou, folder.nodule == lesion.rank, -f, -position, match))
    for _, _, minus_f, minus_position, match in sorted(tries, key=lambda t: t[:4], reverse=True):
        if -minus_f not in found and -minus_position not in taken:
            found[-minus_f] = match
            taken[-minus_position] = -minus_f


def _correlate(folder: Folder, lesion: Lesion) -> tuple[int, int]:
    """The corner at which both projections along z and readers agree best."""
    theirs = folder.masks.sum(axis=(0, 1)).astype(np.float64)
    ours = lesion.readers.sum(axis=(0, 1)).astype(np.float64)
    strength = fftconvolve(theirs, ours[::-1, ::-1])
    y, x = np.unravel_index(int(strength.argmax()), strength.shape)
    _, top, left = lesion.origin
    return top - (int(y) - ours.shape[0] + 1), left - (int(x) - ours.shape[1] + 1)


def _why(
    f: int, marked: int, claims: list[tuple[int, int, bool, int, Place]], lesions: Sequence[Lesion]
) -> str:
    if not marked:
        return "no mask has a pixel"
    if not lesions:
        return "the database has no nodule of this patient"
    mine = [claim for claim in claims if -claim[3] == f]
    if not mine:
        return "its masks fit no nodule of this patient"
    n_slices, _, _, _, place = mine[0]
    lesion_id = lesions[place[0]].lesion_id
    if n_slices >= MIN_SHARE * marked:
        return f"its masks fit {lesion_id}, and those of another folder fit it better"
    return f"its masks fit {lesion_id} on {n_slices} of {marked} slices only"
