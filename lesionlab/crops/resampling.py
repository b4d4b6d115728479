"""Reading windows of crops of any size: interpolation in plane and along z, batched.

A voxel is a little box, and its index is its centre. A window of `side` voxels around `centre` is
cut into `size` equal cells and read at the middle of each, `centre + ((j + 1/2) / size - 1/2) ·
side`, as `torch.nn.functional.interpolate` does with `align_corners=False`. There is no low-pass
filter before shrinking, as in the bilinear resizing of torch and OpenCV. What lies beyond a crop is
`"edge"` (the nearest voxel goes on) or a number of HU, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Mode = Literal["linear", "nearest"]
Outside = float | Literal["edge"]

AIR = -1024.0  # HU, the lowest value of a CT scanner's usual scale
LUNG = -850.0  # HU that stands for inflated lung, where something is taken out of an image


def planes(
    stacks: Sequence[npt.NDArray[Any]],
    centre: npt.ArrayLike,
    side: npt.ArrayLike,
    *,
    size: int,
    mode: Mode = "linear",
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, FloatArray]:
    """Resample windows of slices in plane; slices stay what they are.

    Args:
        stacks: One (slice, y, x) array per lesion, of any sizes.
        centre: (lesion, 2), `(y, x)` centre of each lesion's window, voxel indices.
        side: (lesion, 2), `(y, x)` side of each lesion's window, voxels.
        size: Rows and columns of the result.
        mode: Interpolation.
        outside: What lies beyond a stack, further than half a voxel from its last centres.
        device: To compute on.

    Returns:
        All slices of all lesions `(sum of slices, size, size)`, float32, and per lesion the share
        of the window that lies in its stack.
    """
    centre, side = np.asarray(centre, float), np.asarray(side, float)
    if size < 1:
        raise ValueError(f"size={size!r}: expected 1 or more")
    if not (np.isfinite(side).all() and (side > 0).all() and np.isfinite(centre).all()):
        raise ValueError("side and centre of a window: expected finite voxels, side above 0")
    cells = (np.arange(size) + 0.5) / size - 0.5
    at = centre[:, :, None] + side[:, :, None] * cells  # (lesion, 2, size)
    shape = np.array([stack.shape[1:] for stack in stacks])[:, :, None]
    within = ((at >= -0.5) & (at <= shape - 0.5)).astype(float)
    at = np.clip(at, 0, shape - 1)
    if mode == "nearest":
        at = np.floor(at + 0.5)
    # the part of each stack that is read, and in it the two voxels around each position
    below = np.floor(at).astype(int)
    low, share = below[:, :, :1], at - below
    high = np.minimum(below[:, :, -1:] + 2, shape)
    below, above = below - low, np.minimum(below + 1, high - 1) - low
    weights = np.stack([1 - share, share]) * (1 if outside == "edge" else within)
    fill = 0.0 if outside == "edge" else float(outside)
    depth = np.array([len(stack) for stack in stacks])
    out = torch.empty((int(depth.sum()), size, size), device=device)
    rows, parts = np.arange(size), torch.split(out, depth.tolist())
    for i, (stack, part) in enumerate(zip(stacks, parts, strict=True)):
        w_y, w_x = (np.zeros((size, n), np.float32) for n in (high - low)[i, :, 0])
        for axis, matrix in enumerate((w_y, w_x)):
            matrix[rows, above[i, axis]] = weights[1, i, axis]
            # after `above`, which is the same voxel at the last one
            matrix[rows, below[i, axis]] = weights[0, i, axis]
        (top, left), (bottom, right) = low[i, :, 0], high[i, :, 0]
        cut = stack[:, top:bottom, left:right].astype(np.float32)
        if fill:
            cut -= fill
        along_x = torch.from_numpy(cut).to(device) @ torch.from_numpy(w_x).to(device).T
        torch.matmul(torch.from_numpy(w_y).to(device), along_x, out=part)
    return (out.add_(fill) if fill else out), within.mean(axis=2).prod(axis=1)


def volumes(
    stacks: Sequence[npt.NDArray[Any]],
    slice_index: Sequence[IntArray],
    z: npt.ArrayLike,
    centre: npt.ArrayLike,
    side: npt.ArrayLike,
    *,
    size: int,
    mode: Mode = "linear",
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, FloatArray, IntArray]:
    """Resample along z too: `planes` of the slices that are needed, then between them.

    A slice that is missing is interpolated from its neighbours, and counted. Arguments are those of
    `planes`; `slice_index` has that of each lesion's slices, ascending, and `z`, (lesion, depth),
    where to read, in slice indices, ascending.

    Returns:
        `(lesion, depth, size, size)` float32; per lesion the share of it beyond the stack; per
        lesion how many slices were missing between the first and the last one that were read.
    """
    z = np.asarray(z, float)
    parts, below, above, share, within, missing = [], [], [], [], [], []
    start = 0
    for stack, index, wanted in zip(stacks, slice_index, z, strict=True):
        at = np.interp(wanted, index, np.arange(len(index)))  # clipped to the first and last slice
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, len(index) - 1)
        if mode == "nearest":
            at = low = np.where(index[high] - wanted <= wanted - index[low], high, low)
        high = np.where(at > low, high, low)
        begin, end = int(low.min()), int(high.max()) + 1
        parts.append(stack[begin:end])
        missing.append(index[end - 1] - index[begin] - (end - 1 - begin))
        below.append(low - begin + start)
        above.append(high - begin + start)
        share.append(at - low)
        within.append((wanted >= index[0] - 0.5) & (wanted <= index[-1] + 0.5))
        start += end - begin
    packed, flat = planes(parts, centre, side, size=size, mode=mode, outside=outside, device=device)
    lower, upper = (
        packed.index_select(0, torch.from_numpy(np.concatenate(i)).to(device))
        for i in (below, above)
    )
    t = torch.from_numpy(np.concatenate(share)).float().to(device)[:, None, None]
    out = lower.lerp_(upper, t).reshape(*z.shape, size, size)
    if outside != "edge":
        out[torch.from_numpy(~np.stack(within)).to(device)] = float(outside)
    return out, 1 - flat * np.mean(within, axis=1), np.array(missing)
