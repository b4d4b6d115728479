"""Sums and softmaxes over the slices of each nodule in a packed batch.

Nodules have different numbers of slices. A batch of them is *packed*: all slices one after the
other on axis 0, and `nodule[i]` is the number of the nodule that slice i belongs to (as in
`lesionlab.crops.sampling.Samples`). Nothing is padded, so a batch gives what its nodules give one
at a time, forward and backward.
"""

from __future__ import annotations

import torch


def segment_sum(values: torch.Tensor, nodule: torch.Tensor, n: int) -> torch.Tensor:
    """Sum the slices of each nodule.

    Args:
        values: (slice, …).
        nodule: (slice,) int64, from 0 to `n` − 1.
        n: How many nodules.

    Returns:
        (nodule, …); zero for a nodule without slices.

    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 1]), 2)
    tensor([3., 4.])
    """
    return values.new_zeros(n, *values.shape[1:]).index_add(0, nodule, values)


def segment_softmax(scores: torch.Tensor, nodule: torch.Tensor, n: int) -> torch.Tensor:
    """Softmax over the slices of each nodule: positive, and of sum 1 in every nodule.

    The nodule's highest score is subtracted first, so that no score overflows. `scores` and the
    result are (slice,); `nodule` and `n` as in `segment_sum`.

    >>> segment_softmax(torch.tensor([0.0, 0.0, 7.0]), torch.tensor([0, 0, 1]), 2)
    tensor([0.5000, 0.5000, 1.0000])
    """
    # detached: a constant for each nodule cancels, and so has no gradient
    highest = scores.detach().new_full((n,), -torch.inf)
    highest = highest.scatter_reduce(0, nodule, scores.detach(), "amax")
    powers = (scores - highest[nodule]).exp()
    return powers / segment_sum(powers, nodule, n)[nodule]
