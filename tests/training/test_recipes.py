"""Recipes: what they refuse, and the optimisers that they make."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

from lesionlab.training.recipes import Recipe, make_optimizer, parameter_groups, set_rates
from lesionlab.training.schedules import Plateau, Step


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
    set_rates(made, 0.1)
    set_rates(made, 0.5)
    assert {group["lr"] for group in made.param_groups} == {1.5e-5, 1.5e-3}


def test_the_longest_prefix_counts() -> None:
    groups = parameter_groups(model(), recipe(lr_by_prefix={"heads": 1.0, "heads.bias": 2.0}))
    assert {group["lr"]: len(group["params"]) for group in groups} == {3e-3: 4, 1.0: 1, 2.0: 1}


def test_biases_may_learn_faster_than_the_weights_beside_them() -> None:
    made = make_optimizer(model(), recipe(lr_by_prefix={"heads": 1e-3}, bias_factor=10.0))
    rates = {round(group["lr"], 6): len(group["params"]) for group in made.param_groups}
    assert rates == {3e-3: 2, 3e-2: 2, 1e-3: 1, 1e-2: 1}
    alike = make_optimizer(model(), recipe())
    assert [len(group["params"]) for group in alike.param_groups] == [6]


def test_frozen_parameters_are_left_out() -> None:
    some = model()
    some["backbone"].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(some, recipe())) == 4
    with pytest.raises(ValueError, match="expected parameters to train, found none"):
        parameter_groups(some.requires_grad_(False), recipe())


def test_a_prefix_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameter under \['bakbone'\]; the model has"):
        parameter_groups(model(), recipe(lr_by_prefix={"bakbone": 1.0}))


def test_optimisers_are_as_asked() -> None:
    adam = make_optimizer(model(), recipe(betas=(0.5, 0.9)))
    sgd = make_optimizer(model(), recipe(optimizer="sgd", momentum=0.09))
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["betas"] == (0.5, 0.9)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.09


def test_recipes_compare_hash_and_pickle() -> None:
    one = recipe(schedule=Step(), lr_by_prefix={"heads": 1.0})
    assert one == recipe(schedule=Step(), lr_by_prefix={"heads": 1.0}) != recipe()
    assert len({one, pickle.loads(pickle.dumps(one))}) == 1  # noqa: S301


def test_what_needs_a_metric_says_so() -> None:
    assert recipe().needs_metric
    assert recipe(select_on="last", schedule=Plateau()).needs_metric
    assert not recipe(select_on="last", schedule=Step()).needs_metric


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs=0: expected a whole number, 1 or more"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"epochs": True}, "epochs=True"),
        ({"patience": 0}, "patience=0"),
        ({"micro_batch": -1}, "micro_batch=-1"),
        ({"lr": 0.0}, r"lr=0\.0: expected a number above 0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr_by_prefix": {"a": -1.0}}, r"lr_by_prefix\['a'\]=-1"),
        ({"weight_decay": -1.0}, "weight_decay=-1"),
        ({"bias_factor": 0.0}, r"bias_factor=0\.0: expected a number above 0"),
        ({"momentum": 1.0}, r"momentum=1\.0"),
        ({"betas": (0.9, 1.0)}, r"betas=1\.0"),
        ({"optimizer": "adamw"}, "optimizer='adamw': expected one of 'adam', 'sgd'"),
        ({"select_on": "train"}, "select_on='train'"),
        ({"select_on": "last", "patience": 3}, "stopping early needs"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe(**changes)
