"""Learning rates over a run: each a pure function of how far the run is and how it went.

None of them has a state, so there is nothing of theirs to save and nothing to restore.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Constant:
    """The same rate throughout (Fu 2021, 3.2)."""

    kind: Literal["constant"] = "constant"

    def scale(self, epoch: float, metrics: Sequence[float], *, lower_is_better: bool) -> float:
        """1, always."""
        return 1.0


@dataclass(frozen=True)
class Step:
    """`factor` times the rate after every `every` epochs.

    By default ×0.1 every 30 epochs (Lei 2020, section 4.2, which prints "1/t, t = 10").
    """

    every: int = 30
    factor: float = 0.1
    kind: Literal["step"] = "step"

    def __post_init__(self) -> None:
        _positive("every", self.every)
        _share("factor", self.factor)

    def scale(self, epoch: float, metrics: Sequence[float], *, lower_is_better: bool) -> float:
        """`factor ** (epoch // every)`.

        >>> Step().scale(65.5, [], lower_is_better=True) == 0.1**2
        True
        """
        return float(self.factor ** (int(epoch) // self.every))


@dataclass(frozen=True)
class WarmRestarts:
    """A cosine from 1 to 0 over `first` epochs, then over `grow` times as many, and so on.

    SGDR (Loshchilov and Hutter 2017, eq. 5), at every batch as there; used by Li 2021, which
    prints neither length: T0 = 10, Tmult = 2 are ours.
    """

    first: int = 10
    grow: int = 2
    kind: Literal["warm_restarts"] = "warm_restarts"

    def __post_init__(self) -> None:
        _positive("first", self.first)
        _positive("grow", self.grow)

    def scale(self, epoch: float, metrics: Sequence[float], *, lower_is_better: bool) -> float:
        """`(1 + cos(π t / T)) / 2`, t epochs into a period of T.

        >>> [WarmRestarts().scale(t, [], lower_is_better=True) for t in (0, 5, 10, 20, 30)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
        """
        since, period = epoch, self.first
        while since >= period:
            since, period = since - period, period * self.grow
        return (1 + math.cos(math.pi * since / period)) / 2


@dataclass(frozen=True)
class Plateau:
    """`factor` times the rate after `patience` epochs without a better metric, and again.

    By default ×0.8 after 10 epochs (Wang 2021, section 3.2, on its test set).
    """

    patience: int = 10
    factor: float = 0.8
    kind: Literal["plateau"] = "plateau"

    def __post_init__(self) -> None:
        _positive("patience", self.patience)
        _share("factor", self.factor)

    def scale(self, epoch: float, metrics: Sequence[float], *, lower_is_better: bool) -> float:
        """`factor` to the number of plateaus that `metrics`, one of each past epoch, went through.

        >>> Plateau(2, 0.5).scale(5, [3, 2, 2, 2, 1], lower_is_better=True)
        0.5
        """
        best, waited, plateaus = math.inf, 0, 0
        for metric in metrics:
            value = metric if lower_is_better else -metric
            best, waited = (value, 0) if value < best else (best, waited + 1)
            if waited == self.patience:
                waited, plateaus = 0, plateaus + 1
        return float(self.factor**plateaus)


Schedule = Constant | Step | WarmRestarts | Plateau


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value!r}: expected 1 or more")


def _share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r}: expected between 0 and 1")
