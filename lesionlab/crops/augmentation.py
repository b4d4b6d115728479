"""Flips, rotations and reversals of a batch, each sample by its own draw.

A paper's `draw` asks a `torch.Generator` for all that is random and returns it as tensors; its
`apply` has no randomness of its own, so a kept draw replays exactly, on any device. All operations
move values and never interpolate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch


def happens(shape: int | tuple[int, ...], p: float, generator: torch.Generator) -> torch.Tensor:
    """Draw booleans that are True with probability `p`."""
    if not 0 <= p <= 1:
        raise ValueError(f"p={p!r}: expected a probability, 0 to 1")
    return torch.rand(shape, generator=on_cpu(generator)) < p


def choose(shape: int | tuple[int, ...], n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw whole numbers from 0 to `n - 1`, all equally likely, int64."""
    size = (shape,) if isinstance(shape, int) else shape
    return torch.randint(n, size, generator=on_cpu(generator))


def on_cpu(generator: torch.Generator) -> torch.Generator:
    """The generator itself, refused on a GPU: the same seed must draw the same on every machine."""
    if generator.device.type != "cpu":
        raise ValueError(f"generator on {generator.device}: expected torch.Generator() on the CPU")
    return generator


def move(
    batch: torch.Tensor,
    *,
    flips: Mapping[int, torch.Tensor] | None = None,
    turns: torch.Tensor | None = None,
    axes: tuple[int, int] = (-2, -1),
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Reorder, mirror and then rotate each sample as drawn for it.

    Samples that move alike are moved together, so a batch costs a few steps only.

    Args:
        batch: (sample, …).
        flips: Per axis, (sample,) bool: which samples to mirror along it. Axes are negative:
            -1 is x, -2 is y, -3 is z.
        turns: (sample,) int64, quarter turns after the flips, as `torch.rot90`; 4 is none.
        axes: The plane of the turns, from the first axis towards the second; equally long.
        rows: (sample of the result,) int64, which sample of `batch` goes here; each where it is if
            None. The other draws are for the samples of the result.

    Example:
        >>> move(torch.tensor([[1, 2], [3, 4]]), flips={-1: torch.tensor([False, True])}).tolist()
        [[1, 2], [4, 3]]
    """
    rows = torch.arange(len(batch)) if rows is None else rows.cpu()
    n, flips = len(rows), flips or {}
    if max((*flips, *axes)) >= 0:
        raise ValueError(f"axes {(*flips, *axes)}: expected negative ones, -1 is x")
    turns = torch.zeros(n, dtype=torch.int64) if turns is None else turns.cpu()
    for name, drawn in {"turns": turns, **{f"flip {a}": f for a, f in flips.items()}}.items():
        if drawn.shape != (n,):
            raise ValueError(f"{name}: drawn for {tuple(drawn.shape)} samples, there are {n}")
    way = turns.remainder(4)  # a number for each way to move: the turn, and a bit for each flip
    for k, drawn in enumerate(flips.values()):
        way += drawn.cpu().long() << (k + 2)
    out = batch.new_empty((n, *batch.shape[1:]))
    for one in sorted(set(way.tolist())):
        here = (way == one).nonzero().squeeze(1)
        moved = batch.index_select(0, rows[here].to(batch.device))
        if along := [axis for k, axis in enumerate(flips) if one >> (k + 2) & 1]:
            moved = moved.flip(along)
        if one % 4:
            moved = moved.rot90(one % 4, axes)
        out.index_copy_(0, here.to(batch.device), moved)
    return out


def reversed_rows(where: torch.Tensor, nodule: torch.Tensor) -> torch.Tensor:
    """Rows of a packed batch in the order that reverses the slices of some nodules.

    Args:
        where: (nodule,) bool, which nodules.
        nodule: (slice,) int64, the nodule that each slice belongs to; never descending.

    Example:
        >>> packed, nodule = torch.tensor([1, 2, 3, 8, 9]), torch.tensor([0, 0, 0, 1, 1])
        >>> packed[reversed_rows(torch.tensor([True, False]), nodule)].tolist()
        [3, 2, 1, 8, 9]
    """
    if bool((nodule.diff() < 0).any()):
        raise ValueError("nodule: expected indices that never descend")
    lengths = torch.bincount(nodule, minlength=len(where))
    here = torch.arange(len(nodule), device=nodule.device)
    mirrored = (2 * lengths.cumsum(0) - lengths - 1)[nodule] - here
    return torch.where(where.to(nodule.device)[nodule], mirrored, here)
