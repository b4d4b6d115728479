"""From crops to batches of samples: where a lesion is, and what a prepared batch carries.

What the sample preparation of all five papers shares; `lesionlab.crops.resampling` reads voxels at
given places, `lesionlab.crops.augmentation` flips and rotates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lesionlab.crops import Crop, votes_needed

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Box = Literal["consensus", "union", "outlines"]


@dataclass(frozen=True)
class Samples:
    """A batch of prepared samples: what a model is fed, and what had to be made up for it.

    A lesion is one sample (Li, Wang, Lei) or one sample per slice, packed (Fu, Liu): then
    `images` has all slices of all lesions one after the other, and `nodule[i]` is the number of
    the lesion that slice i belongs to.

    Attributes:
        images: (sample, channel, …, y, x) float32.
        nodule: (sample,) int64, position in `lesion_ids`; never descending.
        lesion_ids: The lesions, in the order of the crops.
        padded: (lesion,) share of the values that lie beyond the crop.
        missing: (lesion,) slices absent from the crop between the first and last one used.
        calibrated: (lesion,) False where some slice of the crop is not known in HU.
        masks: (sample, 1, …, y, x) float32 of 0 and 1, where the paper needs them.
    """

    images: torch.Tensor
    nodule: torch.Tensor
    lesion_ids: tuple[str, ...]
    padded: torch.Tensor
    missing: torch.Tensor
    calibrated: torch.Tensor
    masks: torch.Tensor | None = None

    @property
    def lengths(self) -> torch.Tensor:
        """(lesion,) how many samples each lesion has."""
        return torch.bincount(self.nodule, minlength=len(self.lesion_ids))

    def report(self) -> dict[str, int | float]:
        """How many lesions and samples there are, and how many of the lesions are not whole."""
        return {
            "lesions": len(self.lesion_ids),
            "samples": len(self.images),
            "padded": int((self.padded > 0).sum()),
            "largest_padded": float(self.padded.max()),
            "with_missing_slices": int((self.missing > 0).sum()),
            "uncalibrated": int((~self.calibrated).sum()),
        }

    def select(self, lesions: Sequence[int] | torch.Tensor) -> Samples:
        """The samples of some lesions, in the order asked for: a mini-batch, a shuffled epoch."""
        pick = torch.as_tensor(lesions, dtype=torch.int64, device=self.images.device)
        n = len(self.lesion_ids)
        if pick.ndim != 1 or bool(((pick < 0) | (pick >= n)).any()):
            raise IndexError(f"lesions={lesions!r}: expected a list of positions from 0 to {n - 1}")
        lengths = self.lengths
        start = lengths.cumsum(0) - lengths
        nodule = torch.repeat_interleave(torch.arange(len(pick), device=pick.device), lengths[pick])
        taken = lengths[pick].cumsum(0) - lengths[pick]
        rows = torch.arange(len(nodule), device=pick.device) + (start[pick] - taken)[nodule]
        return self._part(rows, pick, nodule, [self.lesion_ids[i] for i in pick.tolist()])

    def _part(self, rows: Any, lesions: Any, nodule: torch.Tensor, names: Iterable[str]) -> Samples:
        return Samples(
            images=self.images[rows],
            nodule=nodule,
            lesion_ids=tuple(names),
            padded=self.padded[lesions],
            missing=self.missing[lesions],
            calibrated=self.calibrated[lesions],
            masks=None if self.masks is None else self.masks[rows],
        )

    def split(self, size: int) -> list[Samples]:
        """Mini-batches of `size` lesions, in order; the last one may be smaller.

        They are views of these samples and cost nothing: shuffle (`select`) and augment an epoch
        as a whole, then split it.
        """
        if size < 1:
            raise ValueError(f"size={size!r}: expected 1 lesion or more")
        n = len(self.lesion_ids)
        ends = [0, *self.lengths.cumsum(0).tolist()]
        parts = []
        for low in range(0, n, size):
            high = min(low + size, n)
            rows, lesions = slice(ends[low], ends[high]), slice(low, high)
            nodule = self.nodule[rows] - low
            parts.append(self._part(rows, lesions, nodule, self.lesion_ids[lesions]))
        return parts

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]

    @staticmethod
    def join(parts: Sequence[Samples]) -> Samples:
        """Put batches one after the other."""
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(len(part.lesion_ids) for part in parts)]).tolist()
        masks = [part.masks for part in parts if part.masks is not None]
        return Samples(
            images=torch.cat([part.images for part in parts]),
            nodule=torch.cat([p.nodule + n for p, n in zip(parts, before, strict=False)]),
            lesion_ids=tuple(name for part in parts for name in part.lesion_ids),
            padded=torch.cat([part.padded for part in parts]),
            missing=torch.cat([part.missing for part in parts]),
            calibrated=torch.cat([part.calibrated for part in parts]),
            masks=torch.cat(masks) if masks else None,
        )


@dataclass(frozen=True)
class Lesion:
    """A crop and where its lesion is, in indices of the crop.

    `centroid` is the mean position `(z, y, x)` of the consensus' voxels; its z is a slice index of
    the scan.
    """

    crop: Crop
    area: IntArray  # (z,) voxels of the consensus in each slice
    low: IntArray  # first (z, y, x) index of the lesion's box
    high: IntArray  # last (z, y, x) index of the lesion's box, plus one
    centroid: FloatArray
    level: float  # share of the readers that make the consensus

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """(z, y, x), the readers' consensus."""
        return self.crop.consensus(self.level)

    @property
    def slices(self) -> IntArray:
        """Which slices of the crop have voxels of the consensus."""
        return np.flatnonzero(self.area)

    @property
    def equivalent_diameter(self) -> float:
        """Diameter in mm of the sphere with the consensus' volume, `(6 V / π)^(1/3)`."""
        volume = float(self.area.sum()) * float(np.prod(self.crop.spacing))
        return float((6 * volume / np.pi) ** (1 / 3))


def locate(crop: Crop, *, level: float = 0.5, box: Box = "consensus") -> Lesion:
    """Find the lesion in a crop.

    Args:
        crop: The crop.
        level: Share of the readers that must include a voxel of the consensus.
        box: Around what the in-plane box goes. `"consensus"`: its voxels. `"union"`: the voxels of
            any reader. `"outlines"`: the readers' outlines themselves, one pixel around the union,
            because LIDC's readers drew on the first pixels *outside* of a nodule. Along z the box
            is always the consensus'.
    """
    if box not in ("consensus", "union", "outlines"):
        raise ValueError(f"box={box!r}: expected 'consensus', 'union' or 'outlines'")
    index = crop.slice_index
    if (index[1:] <= index[:-1]).any():
        raise ValueError(f"slice_index of {crop.lesion_id}: expected ascending, each slice once")
    n = len(crop.masks)
    corner, votes = _votes(crop.masks)
    z, y, x = (votes >= votes_needed(n, level)).nonzero()  # counted from `corner`
    if not len(z):
        raise ValueError(f"masks of {crop.lesion_id}: no voxel with {level:.0%} of {n} readers")
    area = np.bincount(z + corner[0], minlength=len(index))
    mean = (area @ index / len(z), y.sum() / len(y) + corner[1], x.sum() / len(x) + corner[2])
    # voxels come in order of z
    low = corner + np.array([z[0], y.min(), x.min()])
    high = corner + np.array([z[-1], y.max(), x.max()]) + 1
    if box != "consensus":
        rim = int(box == "outlines")
        low[1:], high[1:] = corner[1:] - rim, (corner + votes.shape)[1:] + rim
    return Lesion(crop, area, low, high, np.array(mean), level)


def _votes(masks: npt.NDArray[np.bool_]) -> tuple[IntArray, npt.NDArray[np.uint16]]:
    """The box around all readers' voxels: its first `(z, y, x)`, and in it how many say so."""
    n, depth, height, width = masks.shape
    marked = masks.reshape(n * depth, height * width).any(axis=1).reshape(n, depth)
    z = np.flatnonzero(marked.any(axis=0))
    if not len(z):
        return np.zeros(3, np.int64), np.zeros((1, 1, 1), np.uint16)
    cut = masks[:, z[0] : z[-1] + 1]  # a few slices of many: only these are looked at closely
    plane = np.asarray(cut.any(axis=(0, 1)))
    y, x = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    votes = cut[:, :, y[0] : y[-1] + 1, x[0] : x[-1] + 1].sum(axis=0, dtype=np.uint16)
    return np.array([z[0], y[0], x[0]]), votes


def batch(
    lesions: Sequence[Lesion],
    images: torch.Tensor,
    *,
    padded: FloatArray,
    missing: IntArray,
    lengths: Sequence[int] | None = None,
    masks: torch.Tensor | None = None,
) -> Samples:
    """Put images and the lesions they come from together; `lengths` samples each, else one."""
    device = images.device
    lengths = [1] * len(lesions) if lengths is None else lengths
    whole = [bool(lesion.crop.calibrated.all()) for lesion in lesions]
    return Samples(
        images=images,
        nodule=torch.from_numpy(np.repeat(np.arange(len(lesions)), lengths)).to(device),
        lesion_ids=tuple(lesion.crop.lesion_id for lesion in lesions),
        padded=torch.from_numpy(padded).float().to(device),
        missing=torch.from_numpy(missing).to(device),
        calibrated=torch.tensor(whole, device=device),
        masks=masks,
    )


def in_chunks(
    crops: Iterable[Crop],
    prepare: Callable[[list[Lesion]], Samples],
    *,
    level: float,
    box: Box = "consensus",
    chunk: int = 128,
) -> Samples:
    """Locate and prepare some crops at a time: a whole store need not fit into memory."""
    stream: Iterator[Crop] = iter(crops)
    parts = []
    while some := list(islice(stream, chunk)):
        parts.append(prepare([locate(crop, level=level, box=box) for crop in some]))
    if not parts:
        raise ValueError("crops: expected at least one, got none")
    return Samples.join(parts)


def to_unit(hu: torch.Tensor, window: tuple[float, float]) -> torch.Tensor:
    """Clip HU to a window and scale it to [0, 1]."""
    low, high = window
    if not low < high:
        raise ValueError(f"window={window!r}: expected (low, high) HU, high above low")
    return hu.clamp(low, high).sub_(low).div_(high - low)


def from_unit(values: torch.Tensor, window: tuple[float, float]) -> torch.Tensor:
    """HU of what `to_unit` made; what was clipped stays at the window's ends."""
    low, high = window
    return values * (high - low) + low
