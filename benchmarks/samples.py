"""One epoch's samples of Fu 2021 and Lei 2020, against MONAI's transforms, cache and loader.

The peer does what a MONAI user would write: the steps that never change go into a `CacheDataset`,
augmentation follows on the fly, a `DataLoader` makes the shuffled batches. It is helped where that
is possible: cropping and resizing are one `Affine` instead of a crop, a pad and a resize; metadata
are not tracked; masks are counted in whole numbers; the loader has as many workers as make it
fastest. Both sides get the same draws, so that every batch is compared. They take turns, with one
thread for torch (more of them wait for each other where the machine has other work), and the
fastest of some runs counts.

MONAI is needed for this comparison only: `pip install --no-deps monai==1.6.1` (torch and NumPy,
which it stands on, are there).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks._table import Row, seconds
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples
from lesionlab.papers import fu2021, lei2020
from lesionlab.sources import lidc

N_CROPS = 300
BATCH_SIZE = 32
TARGET = 5
LOW, HIGH = -1024.0, 400.0
NORMALISE = fu2021.Normalisation(-500.0, 400.0)
INSTALL = "pip install --no-deps monai==1.6.1"

Batches = list[torch.Tensor]


def rows(*, n_crops: int = N_CROPS) -> Iterator[Row]:
    """Compare on `n_crops` crops; without MONAI, say so and compare nothing."""
    try:
        monai = importlib.import_module("monai")
    except ImportError:
        print(f"samples: left out, MONAI is not installed ({INSTALL})", file=sys.stderr)
        return
    crops = synthetic_crops(n_crops)
    peer = f"MONAI {monai.__version__}"
    with _fair_settings():
        yield from _fu(crops, peer)
        yield from _lei(crops, peer)


@contextmanager
def _fair_settings() -> Iterator[None]:
    """One thread for torch, and MONAI's quicker plain tensors; both put back."""
    data = importlib.import_module("monai.data")
    threads, tracked = torch.get_num_threads(), data.get_track_meta()
    torch.set_num_threads(1)
    data.set_track_meta(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        data.set_track_meta(tracked)


def _fu(crops: list[Crop], peer: str) -> list[Row]:
    order = _order(len(crops))
    drawn = fu2021.draw(len(crops), torch.Generator().manual_seed(0))

    def epoch(samples: Samples) -> Batches:
        moved = fu2021.apply(samples.select(order), drawn)
        return [part.images for part in moved.split(BATCH_SIZE)]

    return _compare(
        "Fu 2021",
        peer,
        (lambda: NORMALISE(fu2021.prepare(crops)), epoch),
        (partial(_cached, _cut_fu, crops), partial(_loader, _FuDraws(drawn, order), _stack_slices)),
        # what is left to do for a later epoch: augmentation
        ("samples of a later epoch", TARGET),
    )


def _lei(crops: list[Crop], peer: str) -> list[Row]:
    order = _order(len(crops))
    return _compare(
        "Lei 2020, D11C",
        peer,
        (
            partial(lei2020.prepare, crops),
            lambda samples: [part.images for part in samples.select(order).split(BATCH_SIZE)],
        ),
        (partial(_cached, _cut_lei, crops), partial(_loader, _image, torch.stack)),
        # Lei's samples have no augmentation, so both only copy them: nothing to be faster at
        ("handing out kept samples", 1),
    )


def _compare(what: str, peer: str, ours: Any, theirs: Any, later: tuple[str, float]) -> list[Row]:
    """From crops to batches, and the batches of a later epoch from what was kept."""
    (prepare, epoch), (cache, loader) = ours, theirs
    kept, peer_kept = prepare(), cache()
    loaders: list[Callable[[], Batches]] = [
        partial(list, loader(peer_kept, workers)) for workers in _workers()
    ]
    whole = _fastest(lambda: epoch(prepare()), lambda: list(loader(cache(), 0)))
    again = _fastest(lambda: epoch(kept), *loaders)
    done: list[Row] = []
    for name, target, (mine, *others) in (
        ("samples of an epoch, from crops", TARGET, whole),
        (*later, again),
    ):
        gap = max(_gap(mine[1], other[1]) for other in others)
        assert gap < 1e-4, f"{what}: samples differ by {gap}"
        best = min(seconds for seconds, _ in others)
        equal = f"{sum(map(len, mine[1])):,} images, to {gap:.0e}"
        done.append(Row(f"{what}: {name}", peer, mine[0], best, target, equal))
    return done


def _gap(mine: Batches, other: Batches) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(mine, other, strict=True))


def _fastest(*works: Callable[[], Any], turns: int = 9) -> list[tuple[float, Any]]:
    """The shortest wall time of each, and what it gave; they take turns."""
    runs = [[seconds(work) for work in works] for _ in range(turns)]
    return [min(of_one, key=lambda run: run[0]) for of_one in zip(*runs, strict=True)]


def _workers() -> list[int]:
    """How many processes the loader may have; they start by forking, with the cache filled."""
    fork = "fork" in multiprocessing.get_all_start_methods()
    return [0, os.cpu_count() or 1] if fork else [0]


def _order(n: int) -> torch.Tensor:
    """An epoch's shuffled order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1))


def synthetic_crops(n: int) -> list[Crop]:
    """Ellipsoids in noise, 128 × 128, with the spacing, box, depth and readers of real nodules."""
    table = lidc.nodules()
    chosen = table.iloc[np.linspace(0, len(table) - 1, n).astype(int)]
    rng = np.random.default_rng(0)
    pool = rng.normal(-700, 200, 2**22).astype(np.int16)
    crops = []
    for name, nodule in chosen.iterrows():
        spacing = (nodule["slice_spacing"], nodule["pixel_spacing"], nodule["pixel_spacing"])
        depth = int(nodule["n_slices"] + 2 * np.ceil(12 / spacing[0]))
        z, y, x = np.ogrid[:depth, :128, :128]
        half = np.array([nodule["n_slices"], nodule["box_y"] - 2, nodule["box_x"] - 2]) / 2
        middle = np.array([(depth - 1) / 2, 63, 64])
        r = sum(((a - m) / h) ** 2 for a, m, h in zip((z, y, x), middle, half, strict=True))
        levels = 1 - 0.1 * np.arange(min(nodule["n_readers"], 4))
        start = rng.integers(len(pool) - depth * 128 * 128)
        crops.append(
            Crop(
                lesion_id=str(name),
                hu=pool[start : start + depth * 128 * 128].reshape(depth, 128, 128),
                masks=np.stack([r <= level for level in levels]),
                spacing=spacing,
                slice_index=np.arange(depth),
                corner=(0, 0),
                steps=np.zeros(depth, np.int64),
                tier="phantom",
            )
        )
    return crops


# --- The same steps in MONAI --------------------------------------------------------------------


def _transforms() -> Any:
    return importlib.import_module("monai.transforms")


def _data() -> Any:
    return importlib.import_module("monai.data")


def _window(centre: Any, side: Any, shape: Any, size: tuple[int, ...]) -> Any:
    """MONAI's `Affine` that reads `size` cells of a window; it counts from the image's middle."""
    n = len(size)
    matrix = np.eye(n + 1)
    matrix[range(n), range(n)] = np.asarray(side) / size
    matrix[:n, n] = np.asarray(centre) - (np.asarray(shape) - 1) / 2
    return _transforms().Affine(
        affine=matrix, spatial_size=size, mode="bilinear", padding_mode="border", image_only=True
    )


def _votes(crop: Crop) -> tuple[Any, Any]:
    """How many readers marked each voxel, and where half of them did."""
    votes = crop.masks.sum(axis=0, dtype=np.uint8)
    return votes, votes * 2 >= len(crop.masks)


def _cut_fu(crop: Crop) -> Any:
    votes, consensus = _votes(crop)
    (_, *first), (_, *last) = _transforms().generate_spatial_bounding_box(votes[None])
    low, high = np.array(first) - 1, np.array(last) + 1  # the outlines
    side = [(high - low).max() / 0.8] * 2
    slices = crop.hu[consensus.any(axis=(1, 2))].astype(np.float32)  # slices as channels
    window = _window((low + high - 1) / 2, side, slices.shape[1:], (64, 64))
    return _transforms().NormalizeIntensity(NORMALISE.mean, NORMALISE.sd)(window(slices))


def _cut_lei(crop: Crop) -> Any:
    _, consensus = _votes(crop)
    inside = np.flatnonzero(consensus.any(axis=(1, 2)))
    voxels = np.argwhere(consensus[inside[0] : inside[-1] + 1])
    voxels[:, 0] += inside[0]
    spacing = np.array(crop.spacing)
    diameter = (6 * len(voxels) * spacing.prod() / np.pi) ** (1 / 3)
    side = np.array([11.0, 2 * diameter, 2 * diameter]) / spacing
    window = _window(voxels.mean(axis=0), side, consensus.shape, (11, 32, 32))
    cut = window(crop.hu.astype(np.float32)[None])[0]
    return _transforms().ScaleIntensityRange(LOW, HIGH, 0.0, 1.0, clip=True)(cut)


def _image(item: dict[str, Any]) -> Any:
    return item["image"]


class _FuDraws:
    """Fu's augmentation of one nodule with MONAI's flips and turns, by kept draws."""

    def __init__(self, drawn: fu2021.Augmentation, order: torch.Tensor) -> None:
        back = order.argsort()  # the first draw is for the first nodule handed out
        self.flip_x, self.flip_y, self.turns, self.reverse = (
            getattr(drawn, name)[back].tolist() for name in ("flip_x", "flip_y", "turns", "reverse")
        )

    def __call__(self, item: dict[str, Any]) -> Any:
        monai, image, i = _transforms(), item["image"], item["index"]
        if self.flip_x[i]:
            image = monai.Flip(spatial_axis=1)(image)
        if self.flip_y[i]:
            image = monai.Flip(spatial_axis=0)(image)
        if self.turns[i]:
            image = monai.Rotate90(k=self.turns[i])(image)
        return image.flip(0) if self.reverse[i] else image


def _cached(cut: Callable[[Crop], Any], crops: list[Crop]) -> Any:
    """MONAI's cache of all samples as they are before augmentation."""
    transform: Any = _transforms().Transform

    class Cut(transform):  # type: ignore[misc]  # what is no Transform of theirs, they do not keep
        def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
            return {"index": item["index"], "image": cut(item["crop"])}

    data = [{"index": i, "crop": crop} for i, crop in enumerate(crops)]
    return _data().CacheDataset(data, Cut(), progress=False, num_workers=os.cpu_count())


def _loader(augment: Any, collate: Any, cache: Any, workers: int) -> Any:
    """MONAI's loader of an epoch's batches."""
    return _data().DataLoader(
        _data().Dataset(cache, augment),
        batch_size=BATCH_SIZE,
        sampler=_order(len(cache)).tolist(),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )


def _stack_slices(items: list[Any]) -> Any:
    return torch.cat(items)[:, None]
