"""Precision and threads that the library takes, beside every other choice.

`quickest` tries both for a second. Training steps of both networks, packed as the preset `book` has
them, are timed for each precision and each number of threads. The choice may take up to 15 % longer
than the best of them. The choices take turns, and the fastest of some runs counts, so that other
work falls on all, though not evenly: judge a machine that rests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

import torch

from benchmarks._table import Row, seconds
from benchmarks.fu2021 import STILL, synthetic
from lesionlab._processes import usable_cores
from lesionlab.crops.sampling import Samples
from lesionlab.papers import fu2021, lei2020
from lesionlab.training.devices import Precision, autocast, quickest
from lesionlab.training.paper import Experiment
from lesionlab.training.recipes import Recipe, make_optimizer

TARGET = 1 / 1.15


def rows(*, n_nodules: int = 32, turns: int = 4) -> Iterator[Row]:
    """Compare on this machine's CPU."""
    chosen = (quickest("cpu"), torch.get_num_threads())  # in this order: it sets the threads
    threads = sorted({1, *range(2, usable_cores() + 1, max(1, usable_cores() // 8)), chosen[1]})
    choices = [(precision, n) for precision in get_args(Precision) for n in threads]
    for name, epoch in (("Fu 2021", _fu(n_nodules)), ("Lei 2020", _lei(8 * n_nodules))):
        least = dict.fromkeys(choices, float("inf"))
        for turn in range(turns + 1):  # the first one is slow for all
            for precision, n in choices:
                if least[precision, n] > 5 * min(least.values()) and turn > 1:
                    continue
                torch.set_num_threads(n)
                try:
                    taken = seconds(partial(epoch, precision))[0]
                finally:
                    torch.set_num_threads(chosen[1])
                if turn:
                    least[precision, n] = min(least[precision, n], taken)
        best = min(least, key=least.__getitem__)
        every = "; ".join(f"{_words(*c)} {s:.2f} s" for c, s in least.items())
        yield Row(
            f"{name}: training steps as chosen, {_words(*chosen)}",
            f"the best of {len(choices)} choices, {_words(*best)}",
            least[chosen],
            least[best],
            TARGET,
            every,
        )


def _words(precision: Precision, n: int) -> str:
    return f"{precision} with {n} thread{'s' * (n > 1)}"


def _fu(n: int) -> Callable[[Precision], None]:
    samples, targets = synthetic(n)
    return partial(_epoch, fu2021.Fu2021("full"), fu2021.packed(), samples, targets)


def _lei(n: int) -> Callable[[Precision], None]:
    generator = torch.Generator().manual_seed(0)
    samples = Samples(
        images=torch.rand(n, 11, 32, 32, generator=generator),
        nodule=torch.arange(n),
        lesion_ids=tuple(f"n{i}" for i in range(n)),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        hu_error=torch.zeros(n),
    )
    labels = torch.arange(n)[:, None] % 2 + 0.0
    return partial(_epoch, lei2020.Lei2020("hesam"), lei2020.scaled_recipe(16), samples, labels)


def _epoch(
    experiment: Experiment,
    recipe: Recipe,
    samples: Samples,
    labels: torch.Tensor,
    precision: Precision,
) -> None:
    """Forward, backward and the optimiser's step, batch by batch, of a new model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = experiment.model(0)
    optimizer = make_optimizer(model, replace(recipe, lr=STILL))
    size = recipe.batch_size
    for batch, wanted in zip(samples.split(size), labels.split(size), strict=True):
        optimizer.zero_grad()
        with autocast(batch.images.device, precision):
            outputs = experiment.forward(model, batch)
        experiment.loss(outputs, wanted)[0].backward()
        optimizer.step()
