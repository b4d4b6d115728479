"""Crops with a known lesion: an ellipsoid in noise, at a known place, in mm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples


def fabricate(
    name: str = "lesion",
    *,
    shape: tuple[int, int, int] = (15, 64, 60),
    spacing: tuple[float, float, float] = (2.0, 0.7, 0.7),
    radii: tuple[float, float, float] = (6.0, 5.0, 4.0),
    centre: tuple[float, float, float] | None = None,
    slice_index: Sequence[int] | None = None,
    first_slice: int = 40,
    readers: int = 4,
    seed: int = 0,
) -> Crop:
    """An ellipsoid of 30 HU in lung of -850 HU and noise; `radii` mm, `centre` voxel indices.

    Each next reader marks an ellipsoid a little smaller. `slice_index` leaves slices out: the
    crop holds only those of slices `first_slice`, `first_slice + 1`, …
    """
    rng = np.random.default_rng(seed)
    middle = np.array([(n - 1) / 2 for n in shape] if centre is None else centre)
    grid = np.indices(shape).reshape(3, -1).T.reshape(*shape, 3)
    r = np.sqrt((((grid - middle) * spacing / np.array(radii)) ** 2).sum(-1))
    masks = np.stack([r <= 1 - 0.05 * reader for reader in range(readers)])
    hu = np.where(masks[0], 30, -850) + rng.normal(0, 20, shape)
    index = np.arange(first_slice, first_slice + shape[0])
    kept = np.isin(index, index if slice_index is None else slice_index)
    return Crop(
        lesion_id=name,
        hu=hu.round().astype(np.int16)[kept],
        masks=masks[:, kept],
        spacing=spacing,
        slice_index=index[kept],
        corner=(100, 120),
        steps=np.zeros(kept.sum(), np.int64),
        tier="phantom",
    )


@pytest.fixture(scope="session")
def make_crop() -> Callable[..., Crop]:
    return fabricate


@pytest.fixture(scope="session")
def some_crops() -> list[Crop]:
    """Seven lesions of all sizes, spacings and depths, one of them on a single slice."""
    rng = np.random.default_rng(3)
    crops = []
    for i in range(6):
        spacing = (float(rng.choice([0.6, 1.0, 1.25, 2.5])), *([float(rng.uniform(0.5, 0.9))] * 2))
        radii = rng.uniform(2.5, 11, 3)
        depth = int(2 * (radii[0] + rng.uniform(3, 14)) / spacing[0])
        side = [int(n) for n in rng.integers(60, 129, 2)]
        options: dict[str, Any] = {"spacing": spacing, "radii": tuple(radii.tolist())}
        crops.append(fabricate(f"l{i}", shape=(depth, *side), seed=i, **options))
    flat = fabricate("flat", shape=(1, 64, 64), spacing=(5.0, 0.7, 0.7), radii=(3, 4, 5))
    return [*crops, flat]


def pack(lengths: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Samples:
    """Packed noise, 16 × 16 pixels, of lesions n0, n1, …."""
    n = len(lengths)
    generator = torch.Generator().manual_seed(1)
    return Samples(
        images=torch.randn(sum(lengths), 1, 16, 16, generator=generator, dtype=dtype),
        nodule=torch.repeat_interleave(torch.arange(n), torch.tensor(lengths)),
        lesion_ids=tuple(f"n{i}" for i in range(n)),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        hu_error=torch.zeros(n),
    )


@pytest.fixture(scope="session")
def make_packed() -> Callable[..., Samples]:
    return pack
