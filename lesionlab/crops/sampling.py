"""From crops to batches of samples: where a lesion is, and what a prepared batch carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from lesionlab import _names
from lesionlab.crops import Crop, votes_needed

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Box = Literal["consensus", "union", "outlines"]


@dataclass(frozen=True)
class Samples:
    """A batch of prepared samples: what a model is fed, and what had to be made up for it.

    A lesion is one sample (Li, Wang, Lei) or one sample per slice, packed (Fu, Liu): then
    `images` has all slices of all lesions one after the other.
    """

    images: torch.Tensor  # (sample, channel, …, y, x) float32
    nodule: torch.Tensor  # (sample,) int64, its lesion's place in `lesion_ids`; never descending
    lesion_ids: tuple[str, ...]
    padded: torch.Tensor  # (lesion,) share of the values that lie beyond the crop
    missing: torch.Tensor  # (lesion,) slices absent between the first and the last one used
    hu_error: torch.Tensor  # (lesion,) HU, of the worst slice of the crop; see `Crop.hu_error`
    masks: torch.Tensor | None = None  # (sample, 1, …, y, x) float32 of 0 and 1, where needed

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
            "uncalibrated": int(self.hu_error.isinf().sum()),
        }

    def select(self, lesions: Sequence[int] | torch.Tensor) -> Samples:
        """The samples of some lesions, by position, in the order asked for: a shuffled epoch."""
        pick = torch.as_tensor(lesions, dtype=torch.int64, device=self.images.device)
        n = len(self.lesion_ids)
        if pick.ndim != 1 or bool(((pick < 0) | (pick >= n)).any()):
            raise IndexError(f"lesions={lesions!r}: expected a list of positions from 0 to {n - 1}")
        lengths = self.lengths
        ends, taken = lengths.cumsum(0), lengths[pick]
        nodule = torch.arange(len(pick), device=pick.device).repeat_interleave(taken)
        shift = ends[pick] - taken.cumsum(0)  # of each lesion's samples, from their old place
        rows = torch.arange(len(nodule), device=pick.device) + shift[nodule]
        return self._part(rows, pick, nodule, [self.lesion_ids[i] for i in pick.tolist()])

    def _part(self, rows: Any, lesions: Any, nodule: torch.Tensor, names: Iterable[str]) -> Samples:
        return Samples(
            images=self.images[rows],
            nodule=nodule,
            lesion_ids=tuple(names),
            padded=self.padded[lesions],
            missing=self.missing[lesions],
            hu_error=self.hu_error[lesions],
            masks=None if self.masks is None else self.masks[rows],
        )

    def split(self, size: int) -> list[Samples]:
        """Mini-batches of `size` lesions, in order, as views; the last one may be smaller."""
        if size < 1:
            raise ValueError(f"size={size!r}: expected 1 lesion or more")
        n = len(self.lesion_ids)
        ends = [0, *self.lengths.cumsum(0).tolist()]
        parts = []
        for low in range(0, n, size):
            lesions, rows = slice(low, low + size), slice(ends[low], ends[min(low + size, n)])
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
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name, value in vars(parts[0]).items()
            if isinstance(value, torch.Tensor)
        }
        lengths = torch.cat([part.lengths for part in parts])
        joined["nodule"] = torch.arange(len(lengths)).to(lengths).repeat_interleave(lengths)
        return Samples(lesion_ids=sum((part.lesion_ids for part in parts), ()), **joined)


@dataclass(frozen=True)
class Lesion:
    """A crop and where its lesion is, in indices of the crop."""

    crop: Crop
    level: float  # share of the readers that make the consensus
    area: IntArray  # (z,) voxels of the consensus in each slice
    low: IntArray  # first (z, y, x) index of the lesion's box
    high: IntArray  # last (z, y, x) index of the lesion's box, plus one
    centroid: FloatArray  # mean (z, y, x) of the consensus' voxels; z is a slice index of the scan

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """(z, y, x), the readers' consensus."""
        return self.crop.consensus(self.level)

    @property
    def slices(self) -> IntArray:
        """Which slices of the crop have voxels of the consensus."""
        return np.flatnonzero(self.area)

    @property
    def stack(self) -> npt.NDArray[Any]:
        """(slice, y, x) HU of these slices; not copied where no slice between them is left out."""
        slices = self.slices
        whole = slices[-1] - slices[0] + 1 == len(slices)
        return self.crop.hu[slices[0] : slices[-1] + 1] if whole else self.crop.hu[slices]

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
    _names.one_of("box", box, get_args(Box))
    index = crop.slice_index
    if (index[1:] <= index[:-1]).any():
        raise ValueError(f"slice_index of {crop.lesion_id}: expected ascending, each slice once")
    corner, votes = _votes(crop.masks)
    voxels = np.argwhere(votes >= votes_needed(len(crop.masks), level)) + corner
    if not len(voxels):
        raise ValueError(
            f"masks of {crop.lesion_id}: no voxel with {level:.0%} of {len(crop.masks)} readers"
        )
    area = np.bincount(voxels[:, 0], minlength=len(index))
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    centroid = np.array([area @ index / len(voxels), *voxels[:, 1:].mean(axis=0)])
    if box != "consensus":
        rim = int(box == "outlines")
        low[1:], high[1:] = corner[1:] - rim, (corner + votes.shape)[1:] + rim
    return Lesion(crop, level, area, low, high, centroid)


def _votes(masks: npt.NDArray[np.bool_]) -> tuple[IntArray, npt.NDArray[np.uint16]]:
    """First `(z, y, x)` of the box around all readers' voxels, and the votes in it.

    The box is a small part of a crop, so counting there alone takes half the time.
    """
    z = _span(masks.any(axis=(0, 2, 3)))
    plane = np.asarray(masks[:, z].any(axis=(0, 1)))
    y, x = _span(plane.any(axis=1)), _span(plane.any(axis=0))
    votes = masks[:, z, y, x].sum(axis=0, dtype=np.uint16)
    return np.array([z.start, y.start, x.start]), votes


def _span(marked: Any) -> slice:
    """From the first True to the last one."""
    at = np.flatnonzero(marked)
    return slice(at[0], at[-1] + 1) if len(at) else slice(0, 0)


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
    lengths = [1] * len(lesions) if lengths is None else lengths
    return Samples(
        images=images,
        nodule=torch.from_numpy(np.repeat(np.arange(len(lesions)), lengths)),
        lesion_ids=tuple(lesion.crop.lesion_id for lesion in lesions),
        padded=torch.from_numpy(padded).float(),
        missing=torch.from_numpy(missing),
        hu_error=torch.tensor([lesion.crop.hu_error.max() for lesion in lesions]).float(),
        masks=masks,
    ).to(images.device)


def in_chunks(
    crops: Iterable[Crop],
    prepare: Callable[[list[Lesion]], Samples],
    *,
    level: float,
    box: Box = "consensus",
    chunk: int = 128,
) -> Samples:
    """Locate and prepare some crops at a time: a whole store need not fit into memory."""
    stream, parts = iter(crops), []
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
