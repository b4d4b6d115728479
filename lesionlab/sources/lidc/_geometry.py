"""Geometry of LIDC contours, vectorised: who marked the same nodule, how large, which voxels.

Each function gives what pylidc 0.2.3 gives, with its quirks, which are named where they act.
Indices are pylidc's `(i, j, k)` = `(y, x, z)` turned to `(z, y, x)`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from lesionlab.sources.lidc._database import Database, FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

# Four radiologists read each scan, so a group of more is tried again with a smaller tolerance
MAX_READERS = 4


def _ranges(start: IntArray, which: IntArray) -> tuple[IntArray, IntArray]:
    """Concatenate the ranges `start[w]:start[w + 1]`; also which `w` each element came from."""
    lengths = start[which + 1] - start[which]
    owner = np.repeat(np.arange(len(which)), lengths)
    ends = np.cumsum(lengths)
    inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return start[which][owner] + inside, owner


def group_readings(db: Database) -> list[IntArray]:
    """Group the readings of every scan into nodules as `pylidc.Scan.cluster_annotations` does.

    Two readings are neighbours when the smallest distance between their contour vertices is at
    most a tolerance, and a nodule is a connected component. The tolerance is the slice thickness
    (pylidc's documentation says the pixel spacing) and is multiplied by 0.9 until no component
    has more than four readings or the tolerance falls below 0.1. Distances are between *indices*:
    one slice counts as much as one pixel, and the tolerance in mm is compared with them as it is.

    Returns one array per nodule with the positions of its readings in `db.readings`, ascending;
    nodules by scan, and within a scan by the mean slice index of their vertices.
    """
    points = np.column_stack((np.repeat(db.contour_slice, np.diff(db.contour_start)), db.points))
    first = db.contour_start[db.reading_start[:-1]]
    low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    depth = np.add.reduceat(points[:, 0], first) / np.diff(first, append=len(points))
    vertices = np.split(points, first[1:])  # of each reading
    numbered = np.ravel_multi_index(points.T, points.max(axis=0) + 1)
    as_sets = [set(numbers.tolist()) for numbers in np.split(numbered, first[1:])]
    thickness = db.scans["slice_thickness"].to_dict()
    nodules: list[IntArray] = []
    for scan_id, members in db.readings.groupby("scan_id").indices.items():
        tolerance = float(thickness[scan_id])
        gap = np.maximum(low[members, None] - high[members], low[members] - high[members, None])
        near = (gap.clip(0) ** 2).sum(axis=-1) <= tolerance**2  # between the boxes around them
        distance = np.full(near.shape, np.inf)
        for i, j in np.argwhere(np.triu(near, 1)).tolist():
            a, b = members[i], members[j]
            # nearly all readings of one nodule share a vertex, and a search in sets is quicker
            if as_sets[a].isdisjoint(as_sets[b]):
                distance[i, j] = cKDTree(vertices[b]).query(vertices[a])[0].min()
            else:
                distance[i, j] = 0
        while True:
            labels = connected_components(distance <= tolerance, directed=False)[1]
            if np.bincount(labels).max() <= MAX_READERS or (tolerance := tolerance * 0.9) < 0.1:
                break
        groups = [members[labels == label] for label in range(labels.max() + 1)]
        nodules += sorted(groups, key=lambda group: float(depth[group].mean()))
    return nodules


def diameters(db: Database) -> FloatArray:
    """Largest in-plane diameter of each reading, mm, as `pylidc.Annotation.diameter`.

    The largest distance between two vertices of one contour. Contours of a single point have
    none and are passed over; a reading with no others has diameter 0 (pylidc: minus infinity).
    """
    spacing = _spacing(db, "pixel_spacing")
    of_contour = np.zeros(len(db.contour_id))
    bounds = db.contour_start
    for c in np.flatnonzero(np.diff(bounds) > 1):
        of_contour[c] = pdist(db.points[bounds[c] : bounds[c + 1]] * spacing[c]).max()
    return np.maximum.reduceat(of_contour, db.reading_start[:-1])


def volumes(db: Database) -> FloatArray:
    """Volume of each reading, mm³, as `pylidc.Annotation.volume`.

    Area of each contour (shoelace formula) times half the distance to the slices below and above
    that hold a contour of this reading; at both ends the distance to the one neighbour. Holes are
    subtracted. With a single slice the slice thickness is used.
    """
    start, end = db.contour_start[:-1], db.contour_start[1:] - 1
    before = np.arange(-1, len(db.points) - 1)
    before[start] = end  # contours are closed
    (y0, x0), (y1, x1) = db.points[before].T, db.points.T
    cross = y1 * x0 - x1 * y0
    area = 0.5 * np.abs(np.add.reduceat(cross, start)) * _spacing(db, "pixel_spacing") ** 2
    thickness = _spacing(db, "slice_thickness")
    height = np.empty_like(area)
    for first, last in zip(db.reading_start[:-1], db.reading_start[1:], strict=True):
        z, which = np.unique(db.contour_z[first:last], return_inverse=True)
        if len(z) == 1:
            height[first:last] = thickness[first]
        else:
            padded = np.concatenate(([2 * z[0] - z[1]], z, [2 * z[-1] - z[-2]]))
            height[first:last] = 0.5 * (padded[2:] - padded[:-2])[which]
    signed = np.where(db.contour_inside, area, -area) * height
    return np.add.reduceat(signed, db.reading_start[:-1])


def _spacing(db: Database, column: str) -> FloatArray:
    """A column of the scan table for every contour."""
    per_reading = db.scans[column].reindex(db.readings["scan_id"]).to_numpy(dtype=np.float64)
    return np.repeat(per_reading, np.diff(db.reading_start))


def rasterise(db: Database, readings: IntArray, *, pad: int = 0) -> tuple[BoolArray, IntArray]:
    """Masks of some readings of one nodule in a common box, as `pylidc.utils.consensus`.

    The box is the smallest that holds all vertices (and `pad` voxels around, within the scan of
    512 × 512 pixels). The voxels inside a contour count, the vertices themselves do not: LIDC's
    readers drew just outside the nodule. Contours of one reading act one after the other, so a
    later inner region may fill what the border of an earlier one cut, and holes come last.

    Returns masks `(reader, z, y, x)` and the scan's `(z, y, x)` index of the box's first voxel.
    """
    contours, reader = _ranges(db.reading_start, readings)
    points, contour = _ranges(db.contour_start, contours)
    vertices = np.column_stack((db.contour_slice[contours][contour], db.points[points]))
    depth = len(db.slice_z[int(db.readings["scan_id"].iloc[readings[0]])])
    low = np.maximum(vertices.min(axis=0) - pad, 0)
    high = np.minimum(vertices.max(axis=0) + pad, (depth - 1, 511, 511))
    shape = tuple((high - low + 1).tolist())
    vertices -= low
    plane = reader * shape[0] + db.contour_slice[contours] - low[0]  # one per reader and slice
    masks = np.zeros((len(readings) * shape[0], *shape[1:]), dtype=bool)
    bounds = np.concatenate(([0], np.cumsum(np.diff(db.contour_start)[contours])))
    for turn, inside in _turns(plane, db.contour_inside[contours]):
        chosen, owner = _ranges(bounds, turn)
        y, x = vertices[chosen, 1], vertices[chosen, 2]
        filled = _fill(y, x, bounds[turn + 1] - bounds[turn], shape[1:])
        masks[plane[turn]] = masks[plane[turn]] | filled if inside else masks[plane[turn]] & ~filled
        masks[plane[turn][owner], y, x] = False
    return masks.reshape(len(readings), *shape), low


def _turns(plane: IntArray, inside: BoolArray) -> Iterator[tuple[IntArray, bool]]:
    """Contours in rounds of at most one per reader and slice: outlines first, then holes."""
    for kind in (True, False):
        members = np.flatnonzero(inside == kind)
        order = np.argsort(plane[members], kind="stable")
        members = members[order]
        _, first, count = np.unique(plane[members], return_index=True, return_counts=True)
        rank = np.arange(len(members)) - np.repeat(first, count)
        for turn in range(count.max(initial=0)):
            yield members[rank == turn], kind


def _fill(y: IntArray, x: IntArray, lengths: IntArray, shape: tuple[int, ...]) -> BoolArray:
    """Pixels inside each of several closed polygons: `(polygon, y, x)`.

    The crossing-number test of matplotlib's `Path.contains_points`, which pylidc calls with the
    row as first coordinate; here for all pixels at once. For each edge and each column that it
    spans, all pixels on its low-row side flip. Vertices are whole pixels, so integers decide
    pixels on an edge just as matplotlib does: an edge towards higher columns takes them along,
    one towards lower columns does not.
    """
    height, width = shape
    start = np.cumsum(lengths) - lengths
    following = np.arange(1, len(y) + 1)
    following[start + lengths - 1] = start  # closed
    y1, x1 = y[following], x[following]
    polygon = np.repeat(np.arange(len(lengths)), lengths)
    usable = x != x1
    y0, x0, y1, x1, polygon = (a[usable] for a in (y, x, y1, x1, polygon))
    span = np.abs(x1 - x0)
    edge = np.repeat(np.arange(len(span)), span)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(span) - span, span)
    column = np.minimum(x0, x1)[edge] + 1 + step
    # row of the crossing = y1 - (x1 - column) (y1 - y0) / (x1 - x0), kept as a fraction
    run = (x1 - x0)[edge]
    rise = ((x1[edge] - column) * (y1 - y0)[edge]) * np.sign(run)
    last = np.where(
        run > 0,
        y1[edge] - -(-rise // np.abs(run)),  # floor: pixels on the edge flip
        y1[edge] - rise // np.abs(run) - 1,  # below: they do not
    )
    flips = np.zeros((len(lengths), height + 1, width), dtype=np.int64)
    np.add.at(flips, (polygon[edge], last + 1, column), 1)
    crossings = np.cumsum(flips[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return crossings % 2 == 1  # type: ignore[no-any-return]
