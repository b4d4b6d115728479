"""Metrics that choose an epoch; what is reported is in `lesionlab.statistics`."""

from __future__ import annotations

import torch


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Area under the ROC curve: the share of pairs in the right order, ties counting one half.

    Args:
        scores: (lesion,), higher for the positive class.
        positive: (lesion,) boolean.

    Returns:
        0 to 1; NaN where a class is missing.

    >>> auc(torch.tensor([0.9, 0.5, 0.5]), torch.tensor([True, True, False]))
    0.75
    """
    gaps = scores[positive][:, None] - scores[~positive]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
