"""The index of a tree of `.anno` files against the loop that a user would write.

The tree is made up: headers without pixels, contours of 120 points, 120 slices a series.
The loop reads one file after the other with `json` and `pydicom`, and checks nothing.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from benchmarks._table import Row, seconds
from lesionlab.sources.anno import Anno
from lesionlab.sources.anno._files import COLUMNS
from lesionlab.sources.dicom import write_series

N_SLICES, SLICES, MARKS, POINTS, SIZE = 120, 40, 4, 120, 512
SPACING = (2.0, 0.7, 0.7)


def rows(*, n_series: int = 200, n_lesions: int = 1400) -> list[Row]:
    """Index a new tree with both."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "tree")
        make_tree(root, n_series, n_lesions)
        peer_s, theirs = seconds(lambda: plain(root))
        ours_s, ours = seconds(lambda: Anno(root, progress=False).lesions())
    same = np.allclose(ours["diameter"].sort_values(), sorted(theirs.values()))
    equal = f"{len(ours):,} lesions, diameters {'equal' if same else 'DIFFER'}"
    peer = "json and pydicom, one file at a time"
    return [Row(f".anno tree of {n_series} series", peer, ours_s, peer_s, 2, equal)]


def plain(root: Path) -> dict[tuple[str, int], float]:
    """Diameter in mm by series and lesion, of lesions with attributes."""
    points: dict[Any, Any] = defaultdict(list)
    spacing = {}
    for folder in root.glob("*/*/*/*/*/*/SE01"):
        found = [pydicom.dcmread(f, stop_before_pixels=True) for f in sorted(folder.iterdir())]
        places = {float(one.SliceLocation) for one in found}
        spacing[folder.parent.name] = float(found[0].PixelSpacing[0])
        for file in folder.parent.glob("SE01_*/*.anno"):
            anno = json.loads(file.read_text())
            if anno["InstanceNumber"] in places:
                points[folder.parent.name, anno["LesionID"]] += anno["Coords"]
    with (root / "attributes.csv").open() as table:
        rated = {(row["subject"], int(row["lesion"])) for row in csv.DictReader(table)}
    sizes = {key: np.ptp(np.array(all_of_it), axis=0).max() for key, all_of_it in points.items()}
    return {key: size * spacing[key[0]] for key, size in sizes.items() if key in rated}


def make_tree(root: Path, n_series: int, n_lesions: int, n_slices: int = N_SLICES) -> None:
    """Headers alike in all series but for UID and place; slices beyond 40 are links to the last."""
    rng = np.random.default_rng(0)
    pattern = write_series(
        np.zeros((SLICES, 2, 2)), root.with_name("pattern"), patient_id="P", spacing=SPACING
    )
    headers = [pydicom.dcmread(file) for file in sorted(pattern.iterdir())]
    for header in headers:
        del header.PixelData
        header.Rows = header.Columns = SIZE
    turn = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    around = np.column_stack((np.cos(turn), np.sin(turn)))
    table = [",".join(COLUMNS)]
    for s in range(n_series):
        subject = root / "CT/H01/2000/01/01" / f"{s:04d}"
        for name in ("SE01", "SE01_01_01"):
            (subject / name).mkdir(parents=True)
        uid = generate_uid(entropy_srcs=[str(s)])
        for k, header in enumerate(headers):
            header.SeriesInstanceUID = uid
            header.save_as(subject / "SE01" / f"{k:04d}.dcm")
        for k in range(SLICES, n_slices):
            os.link(subject / "SE01" / f"{SLICES - 1:04d}.dcm", subject / "SE01" / f"{k:04d}.dcm")
        common: dict[str, Any] = {"SeriesID": uid, "Origin": [0.0, 0.0, 0.0]}
        common |= {"Dimension": [SIZE, SIZE, n_slices], "Spacing": [*SPACING[:0:-1], SPACING[0]]}
        aid = 0
        for lesion in range(n_lesions * s // n_series, n_lesions * (s + 1) // n_series):
            middle, radius = rng.uniform(100, 400, 2), rng.uniform(5, 40)
            for mark in range(MARKS):
                aid += 1
                z, reach = SPACING[0] * 3 * mark, radius * (1 - 0.1 * mark)
                points = np.round(middle + reach * around, 2)
                (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
                told = common | {"NoduleSerialNumber": aid, "InstanceNumber": z, "LesionID": lesion}
                told |= {"Coords": points.tolist(), "XMin": x0, "XMax": x1, "YMin": y0, "YMax": y1}
                (subject / "SE01_01_01" / f"{aid}_{z}.anno").write_text(json.dumps(told))
            table.append(f"{subject.name},SE01,{lesion},1,2,1,1,1,1,1,1,1,1")
    (root / "attributes.csv").write_text("\n".join(table))
