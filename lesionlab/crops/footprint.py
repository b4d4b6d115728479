"""Where in a crop a preparation reads, measured from what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples, locate

LOW, HIGH = -1024.0, 400.0
"""HU that the papers' preparations map to the ends of their unit."""


@dataclass(frozen=True)
class Footprint:
    """Where in a crop a sample was read, measured from the sample itself, in mm."""

    z: npt.NDArray[np.float64]  # height of each slice or channel over the lesion's middle
    corner: tuple[float, float]  # (y, x) of the window's first corner in the crop
    side: tuple[float, float]  # height and width of the window
    pixel: tuple[float, float]  # height and width of a pixel of the sample


def footprint(
    crop: Crop,
    prepare: Callable[[list[Crop]], Samples],
    *,
    unit: tuple[float, float] | None = (0.0, 1.0),
) -> Footprint:
    """Find out where a preparation reads, by letting it prepare the coordinates themselves.

    The crop's values are replaced by a ramp along one axis, three times: what comes out are
    positions. What lies beyond the crop along z counts as its last slice, as for the preparation.

    Args:
        crop: A crop, large enough that the middle of the window lies in it.
        prepare: A paper's `prepare` with its options; in-plane size even.
        unit: Values of the sample that stand for -1024 and 400 HU; None if it is in HU.
    """
    places = []
    for axis, n in enumerate(crop.hu.shape):
        step = 1300 // max(n - 1, 1)
        ramp = (step * np.arange(n) - 950).reshape([-1 if a == axis else 1 for a in range(3)])
        given = np.broadcast_to(ramp, crop.hu.shape).astype(np.int16)
        values = prepare([replace(crop, hu=given)]).images.double().numpy()
        values = values.reshape(-1, *values.shape[-2:])  # slices and channels alike
        if unit is not None:
            values = (values - unit[0]) / (unit[1] - unit[0]) * (HIGH - LOW) + LOW
        places.append(np.where(values < -951, np.nan, values + 950) / step)  # nan: filled with air
    at_z, at_y, at_x = places
    middle = at_z.shape[1] // 2
    index = np.interp(at_z[:, middle, middle], np.arange(len(crop.hu)), crop.slice_index)
    z = (index - locate(crop).centroid[0]) * crop.spacing[0]
    whole = np.flatnonzero(np.isfinite(at_y[:, middle, middle]))[0]
    lines = np.stack([at_y[whole, :, middle], at_x[whole, middle]])  # voxels, along y and along x
    mm = np.array(crop.spacing[1:])
    pitch = lines[:, middle] - lines[:, middle - 1]
    corner = (lines[:, middle] + 0.5 - pitch * (middle + 0.5)) * mm
    side = lines.shape[1] * pitch * mm
    return Footprint(z, *(tuple(pair.tolist()) for pair in (corner, side, pitch * mm)))
