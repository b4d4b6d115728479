"""Recipes: what they refuse, and the optimisers that they make."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

from lesionlab.training.recipes import (
    Recipe,
    Schedule,
    begin_step,
    end_epoch,
    make_optimizer,
    make_scheduler,
    set_training,
)


def model() -> nn.Module:
    parts = {name: nn.Linear(1, 1) for name in ("backbone", "backbone2", "heads")}
    return nn.ModuleDict(parts)


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"epochs": 2, "batch_size": 3, "lr": 3e-3} | changes)


def test_parts_of_a_model_have_their_own_rates() -> None:
    made = make_optimizer(model(), recipe(lr_by_prefix={"backbone": 3e-5}, weight_decay=1e-4))
    rates = {group["lr"]: len(group["params"]) for group in made.param_groups}
    # "backbone2" is not a part of "backbone"
    assert rates == {3e-5: 2, 3e-3: 4}
    assert {group["weight_decay"] for group in made.param_groups} == {1e-4}


def test_the_longest_prefix_counts() -> None:
    made = make_optimizer(model(), recipe(lr_by_prefix={"heads": 1.0, "heads.bias": 2.0}))
    rates = {group["lr"]: len(group["params"]) for group in made.param_groups}
    assert rates == {3e-3: 4, 1.0: 1, 2.0: 1}


def test_frozen_parts_are_left_out_and_stay_as_in_evaluation() -> None:
    some = model()
    frozen = recipe(frozen=("backbone",))
    made = make_optimizer(some, frozen)
    assert [len(group["params"]) for group in made.param_groups] == [4]
    set_training(some, frozen)
    parts = {name: part.training for name, part in some.named_children()}
    assert parts == {"backbone": False, "backbone2": True, "heads": True}
    with pytest.raises(ValueError, match="expected parameters to train, found none"):
        make_optimizer(model().requires_grad_(False), recipe())
    with pytest.raises(ValueError, match=r"no parameter under \['bakbone'\]; the model has"):
        make_optimizer(model(), recipe(lr_by_prefix={"bakbone": 1.0}))


def test_optimisers_are_as_asked() -> None:
    adam = make_optimizer(model(), recipe(betas=(0.5, 0.9)))
    sgd = make_optimizer(model(), recipe(optimizer="sgd", momentum=0.09))
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["betas"] == (0.5, 0.9)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.09


def test_recipes_compare_hash_and_pickle() -> None:
    one = recipe(schedule=Schedule("step"), lr_by_prefix={"heads": 1.0})
    assert one == recipe(schedule=Schedule("step"), lr_by_prefix={"heads": 1.0}) != recipe()
    assert len({one, pickle.loads(pickle.dumps(one))}) == 1  # noqa: S301


@pytest.mark.parametrize(
    ("schedule", "of_run"),
    [
        (Schedule("step", 30), 3),  # Lei 2020's rate falls three times, in 100 epochs or in 10
        (Schedule("warm_restarts", 100), 10),
        (Schedule("plateau", 4), 1),
        (Schedule(epochs=30), 30),
    ],
)
def test_a_shorter_run_changes_its_rate_at_the_same_shares(schedule: Schedule, of_run: int) -> None:
    short = recipe(epochs=100, schedule=schedule).lasting(10)
    assert (short.epochs, short.schedule.epochs) == (10, of_run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs=0: "),
        ({"batch_size": 1.5}, "batch_size=1.5: "),
        ({"patience": True}, "patience=True: "),
        ({"lr": 0.0}, "lr=0.0: "),
        ({"lr_by_prefix": {"a": float("nan")}}, r"lr_by_prefix\['a'\]=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: "),
        ({"momentum": 1.0}, "momentum=1.0: "),
        ({"betas": (0.9, 1.0)}, r"betas=1\.0"),
        ({"optimizer": "adamw"}, "optimizer='adamw': "),
        ({"select_by": "f1"}, "select_by='f1': "),
        ({"select_on": "last", "patience": 3}, "stopping early needs"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe(**changes)


def rates(
    schedule: Schedule, metrics: list[float], *, past: int = 0, lower: bool = True
) -> list[float]:
    """The rate of each epoch, from 1, as a run finds them that is begun anew after some."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make_scheduler(schedule, optimizer, metrics[:past], lower=lower), []
    for epoch, metric in enumerate(metrics[past:], past):
        begin_step(scheduler, epoch)
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        end_epoch(scheduler, metric)
    return found


def test_schedules_by_hand() -> None:
    assert rates(Schedule(), [0.0] * 4) == [1.0] * 4
    steps = rates(Schedule("step", 2, 0.5), [0.0] * 5)
    assert steps == pytest.approx([1, 1, 0.5, 0.5, 0.25])
    cosine = rates(Schedule("warm_restarts", 2, grow=2), [0.0] * 7)
    half = 0.5**0.5
    assert cosine == pytest.approx([1, 0.5, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 1])
    # two epochs without a better one, twice
    plateau = rates(Schedule("plateau", 2, 0.8), [3.0, 4, 3, 5, 5, 1, 1])
    assert plateau == pytest.approx([1, 1, 1, 0.8, 0.8, 0.64, 0.64])
    higher = rates(Schedule("plateau", 2, 0.8), [3.0, 2, 3, 5, 5], lower=False)
    assert higher == pytest.approx([1, 1, 1, 0.8, 0.8])


@pytest.mark.parametrize("kind", ["step", "warm_restarts", "plateau"])
def test_a_schedule_that_is_begun_anew_goes_on_as_it_would_have(kind: Any) -> None:
    schedule, metrics = Schedule(kind, 3, 0.5, 2), [3.0, 2, 4, 4, 4, 1, 2, 3, 4, 5]
    assert rates(schedule, metrics, past=6) == pytest.approx(rates(schedule, metrics)[6:])


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"factor": 1.0}, {"grow": 0}, {"kind": "cosine"}]
)
def test_what_makes_no_schedule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"expected epochs and grow|expected one of constant, step"
    ):
        Schedule(**{"kind": "step"} | changes)
