"""Small crops for the tests of stores, importable by name in other processes.

As a script, it builds a store of slow ones: `python crop_makers.py URL LESION_ID …`.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from lesionlab.crops import Crop, stores


def crop(lesion_id: str) -> Crop:
    """Noise, the same for the same id; depth and number of readers differ from id to id."""
    rng = np.random.default_rng(zlib.crc32(lesion_id.encode()))
    z, n_readers, start = (int(rng.integers(*ends)) for ends in ((1, 7), (1, 5), (-3, 200)))
    hu = rng.integers(-1024, 3071, (z, 20, 20)).astype(np.int16)
    masks, steps = rng.random((n_readers, z, 20, 20)) < 0.3, rng.integers(-1, 9, z)
    at, corner = np.arange(start, start + z), (int(rng.integers(-9, 9)), start)
    return Crop(lesion_id, hu, masks, (2.5, 0.703125, 0.703125), at, corner, steps, "phantom")


def slow(lesion_id: str) -> Crop:
    """Leaves the id of its process in a folder, so that a test can look after it."""
    Path(os.environ["CROP_MAKERS"], str(os.getpid())).touch()
    time.sleep(0.03)
    return crop(lesion_id)


class StrangeError(Exception):
    """Cannot be sent to another process: it wants two arguments when it is made again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def failing(lesion_id: str) -> Crop:
    if lesion_id.endswith("3"):
        raise StrangeError("no contour in", lesion_id)
    return crop(lesion_id)


def dying(lesion_id: str) -> Crop:
    os._exit(9)


def hungry(lesion_id: str) -> Crop:
    raise MemoryError


def other(lesion_id: str) -> Crop:
    return crop(f"{lesion_id}-other")


if __name__ == "__main__":
    stores.build(sys.argv[1], sys.argv[2:], slow, tier="phantom", processes=2, progress=False)
