"""Learning rates, against torch's own schedulers and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from lesionlab.training.schedules import Constant, Plateau, Step, WarmRestarts


def by_torch(make: Callable[[Any], Any], times: int, *arguments: float) -> list[float]:
    """Learning rates of a torch scheduler over the epochs, from 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for epoch in range(times):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*arguments[epoch : epoch + 1])
    return found


def test_steps_are_those_of_torch() -> None:
    ours = [Step(7, 0.5).scale(t, [], lower_is_better=True) for t in range(40)]
    assert ours == pytest.approx(by_torch(lambda o: lr_scheduler.StepLR(o, 7, 0.5), 40))
    assert [Step().scale(t, [], lower_is_better=True) for t in (0, 29.9, 30, 89)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )


@pytest.mark.parametrize("grow", [1, 2, 3])
def test_warm_restarts_are_those_of_torch(grow: int) -> None:
    ours = [WarmRestarts(10, grow).scale(t, [], lower_is_better=True) for t in range(160)]
    theirs = by_torch(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, grow), 160)
    assert ours == pytest.approx(theirs)


def test_warm_restarts_by_hand_within_an_epoch() -> None:
    # three quarters of the second period, which has 20 epochs from 10 on
    assert WarmRestarts().scale(25.0, [], lower_is_better=True) == pytest.approx((1 - 0.5**0.5) / 2)
    assert WarmRestarts().scale(29.999, [], lower_is_better=True) < 1e-6
    assert WarmRestarts().scale(30.0, [], lower_is_better=True) == 1


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_plateaus_are_those_of_torch(lower: bool, seed: int) -> None:
    metrics = torch.rand(60, generator=torch.Generator().manual_seed(seed)).tolist()
    options = {"mode": "min" if lower else "max", "factor": 0.8, "threshold": 0.0, "eps": 0.0}
    # torch lowers the rate when *more* than `patience` epochs were no better
    theirs = by_torch(
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=3, **options), 60, *metrics
    )
    ours = [Plateau(4).scale(t, metrics[:t], lower_is_better=lower) for t in range(60)]
    assert ours == pytest.approx(theirs)
    assert min(ours) < 0.8


def test_the_constant_is_constant() -> None:
    assert {Constant().scale(t, [1.0] * t, lower_is_better=True) for t in range(99)} == {1.0}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Step(0), "every=0: expected 1 or more"),
        (lambda: Step(3, 1.0), "factor=1.0: expected between 0 and 1"),
        (lambda: WarmRestarts(0), "first=0"),
        (lambda: WarmRestarts(3, 0), "grow=0"),
        (lambda: Plateau(0), "patience=0"),
        (lambda: Plateau(1, 0.0), r"factor=0\.0"),
    ],
)
def test_what_makes_no_schedule_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
