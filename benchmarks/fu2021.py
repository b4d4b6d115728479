"""Training steps of Fu 2021: packed batches, against the paper's one nodule at a time.

The peer is what the paper describes, written plainly in torch: the nine branches one after the
other, one nodule in a step, Adam. Ours is `fu2021.Network` with the recipe `packed`. Both have the
same weights and the same nodules, as deep as LIDC-IDRI's, and the scores and the gradients of an
epoch are compared. A row in between feeds our network one nodule at a time: what packing alone
does, and what the branches and the convolutions do, can be told apart.

In single precision arithmetic is the limit: the third row sets our steps against as many
multiply-adds in products of large matrices, which is as quick as a processor gets. That row is
judged. Where the hardware multiplies in bfloat16, `lesionlab train` does, and the row for that is
judged against the paper's recipe.

The learning rate is as good as zero, so that the weights stay equal. They take turns, and the
fastest of some runs counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._table import Row, seconds
from lesionlab.crops.sampling import Samples
from lesionlab.papers import fu2021
from lesionlab.sources import lidc
from lesionlab.training.devices import Precision, autocast, quickest
from lesionlab.training.recipes import Recipe, make_optimizer

TARGET, GPU_TARGET = 3, 30
NEAR = 0.8
"""How near to the speed of large products our steps must come."""

GPU_BATCH = 256
EXPERIMENT = fu2021.Fu2021("full")
STILL = 1e-30
"""A learning rate that moves nothing."""

Step = Callable[[Samples], torch.Tensor]


def rows(*, n_nodules: int = 32, turns: int = 4) -> Iterator[Row]:
    """Compare with one thread, with all, and on a GPU where there is one."""
    threads = torch.get_num_threads()
    for n in sorted({1, threads}):
        with _threads(n):
            where = f"CPU, {n} thread{'s' * (n > 1)}"
            yield from _compare("cpu", where, fu2021.packed(), n_nodules, turns, TARGET)
    if torch.cuda.is_available():
        where, many = torch.cuda.get_device_name(), 8 * GPU_BATCH
        recipe = fu2021.packed(GPU_BATCH)
        yield from _compare("cuda", where, recipe, many, turns, GPU_TARGET)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compare(
    device: str, where: str, recipe: Recipe, n: int, turns: int, target: float
) -> list[Row]:
    samples, targets = synthetic(n, device)
    torch.manual_seed(0)
    ours = EXPERIMENT.model(0).to(device)
    plain = Plain().to(device)
    plain.take(ours)
    threads, precision = torch.get_num_threads(), quickest(device)
    torch.set_num_threads(threads)  # of which this row is
    ways: list[tuple[nn.Module, int, Precision]] = [
        (ours, recipe.batch_size, "32-true"),
        (ours, recipe.batch_size, precision),
        (ours, 1, "32-true"),
        (plain, 1, "32-true"),
    ]
    runs = [
        partial(
            _epoch, network, samples.split(size), targets, replace(recipe, batch_size=size), how
        )
        for network, size, how in ways
    ]
    timed = [[seconds(run) for run in runs] for _ in range(turns)]
    packed, quick, alone, paper = (
        min(of_one, key=lambda r: r[0]) for of_one in zip(*timed, strict=True)
    )
    equal = []
    for (_, scores), network in ((alone, ours), (paper, plain)):
        gap = float((packed[1] - scores).abs().max())
        slope = _gradient_gap(ours, samples, network, targets)
        assert gap < 1e-5, f"{where}: scores differ by {gap}"
        assert slope < 1e-6, f"{where}: gradients differ by {slope} of the largest"
        equal.append(f"scores to {gap:.0e}, gradients to {slope:.0e} of the largest")
    what = f"Fu 2021: training steps of {n} nodules, packed by {recipe.batch_size} ({where})"
    peer = "the paper's recipe, one nodule a step"
    least = _as_products(runs[0], device)
    products = "the same multiply-adds as products of large matrices"
    speed = f"; {n / packed[0]:.0f} nodules/s against {n / paper[0]:.0f}"
    found = [
        Row(what, peer, packed[0], paper[0], 0, equal[1] + speed),
        Row(what, "the same network, one nodule a step", packed[0], alone[0], 0, equal[0]),
        Row(what, products, packed[0], least, NEAR if device == "cpu" else 0, "counted by torch"),
    ]
    if precision != "32-true":
        gap = float((quick[1] - paper[1]).abs().max())
        assert gap < 0.02, f"{where}: scores in bfloat16 differ by {gap}"
        words = f"scores to {gap:.0e}; {n / quick[0]:.0f} nodules/s"
        found.append(Row(f"{what}, bfloat16", peer, quick[0], paper[0], target, words))
    return found


def _as_products(run: Callable[[], torch.Tensor], device: str, size: int = 2048) -> float:
    """Seconds for the multiply-adds of a run, if all were products of large matrices.

    The products of a convolution are smaller, so this is the least that the arithmetic can take.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    one = torch.randn(size, size, device=device)
    products = [seconds(lambda: (one @ one)[0, 0].item())[0] for _ in range(5)]
    return float(counter.get_total_flops() / (2 * size**3) * min(products))


def synthetic(n: int, device: str = "cpu") -> tuple[Samples, torch.Tensor]:
    """Nodules of noise, as deep as LIDC-IDRI's are, and ratings."""
    depths = np.sort(lidc.nodules()["n_slices"].to_numpy())
    lengths = torch.from_numpy(depths[((np.arange(n) + 0.5) / n * len(depths)).astype(int)]).long()
    generator = torch.Generator().manual_seed(0)
    lengths = lengths[torch.randperm(n, generator=generator)]
    samples = Samples(
        images=torch.randn(int(lengths.sum()), 1, 64, 64, generator=generator),
        nodule=torch.repeat_interleave(torch.arange(n), lengths),
        lesion_ids=tuple(f"n{i}" for i in range(n)),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        hu_error=torch.zeros(n),
    )
    targets = 1 + 3 * torch.rand(n, len(EXPERIMENT.targets), generator=generator)
    return samples.to(device), targets.to(device)


def _epoch(
    network: nn.Module,
    batches: list[Samples],
    targets: torch.Tensor,
    recipe: Recipe,
    precision: Precision,
) -> torch.Tensor:
    """Forward, backward and the optimiser's step, batch by batch; the scores."""
    optimizer = make_optimizer(network, replace(recipe, lr=STILL))
    found = []
    for batch, wanted in zip(batches, targets.split(recipe.batch_size), strict=True):
        optimizer.zero_grad()
        with autocast(batch.images.device, precision):
            outputs = EXPERIMENT.forward(network, batch)
        EXPERIMENT.loss(outputs, wanted)[0].backward()
        optimizer.step()
        found.append(outputs.predictions.detach().float())
    return torch.cat(found).cpu()  # waits for a GPU


def _gradient_gap(
    ours: nn.Module, samples: Samples, other: nn.Module, targets: torch.Tensor
) -> float:
    """How far the mean gradients of some nodules are apart, as a share of the largest.

    In double precision: in single, two orders of the same sums are apart by as much as some
    mistakes would be.
    """
    ours, other = (copy.deepcopy(network).double() for network in (ours, other))
    few = samples.select(list(range(8)))
    few, targets = replace(few, images=few.images.double()), targets.double()
    outputs = EXPERIMENT.forward(ours, few)
    ours.zero_grad()
    EXPERIMENT.loss(outputs, targets[:8])[0].backward()
    packed = _gradients(ours)
    other.zero_grad()
    for one, wanted in zip(few.split(1), targets[:8].split(1), strict=True):
        (EXPERIMENT.loss(EXPERIMENT.forward(other, one), wanted)[0] / 8).backward()
    largest = max(float(g.abs().max()) for g in packed.values())
    alone = _gradients(other)
    return max(float((packed[k] - alone[k]).abs().max()) for k in packed) / largest


def _gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    """By name of our network's parameters."""
    if isinstance(network, Plain):
        return network.named("grad")
    return {k: v.grad.clone() for k, v in network.named_parameters() if v.grad is not None}


class Plain(nn.Module):
    """The paper's model as one would write it down: no packing, branch by branch."""

    def __init__(self) -> None:
        super().__init__()
        widths, inputs = (32, 32, 64, 64, 128, 128, 128, 256, 256, 256), 1
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [nn.MaxPool2d(2)] * (i in (2, 4, 7))
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.slices = _two(256, 128)
        k = len(fu2021.ATTRIBUTES)
        self.modulation = nn.ModuleList(nn.Linear(256, 256) for _ in range(k))
        self.auxiliary = nn.ModuleList(nn.Linear(256, 1, bias=False) for _ in range(k))
        self.attention = nn.ModuleList(_two(256, 128) for _ in range(k))
        self.heads = nn.ModuleList(_two(256, 256, bias=False) for _ in range(k))

    def forward(self, images: torch.Tensor, nodule: torch.Tensor, n: int) -> fu2021.Outputs:
        features = self.backbone(images)
        content = (self.slices(features).softmax(0) * features).sum(0, keepdim=True)
        own = [layer(content) for layer in self.modulation]
        auxiliary = [layer(v) for layer, v in zip(self.auxiliary, own, strict=True)]
        vectors, scores = torch.cat(own), []
        for attention, head in zip(self.attention, self.heads, strict=True):
            scores.append(head((attention(vectors) * vectors).sum(0, keepdim=True)))
        return fu2021.Outputs(torch.cat(scores, 1).sigmoid(), torch.cat(auxiliary, 1).sigmoid())

    def take(self, ours: nn.Module) -> None:
        """Have the weights of our network."""
        theirs = dict(ours.named_parameters())
        with torch.no_grad():
            for name, parameters in self._places().items():
                values = theirs[name] if len(parameters) > 1 else theirs[name][None]
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value)

    def named(self, what: str) -> dict[str, torch.Tensor]:
        """Parameters' gradients by the names that our network's have."""
        found = {k: [getattr(p, what) for p in ps] for k, ps in self._places().items()}
        return {k: torch.stack(v) if len(v) > 1 else v[0] for k, v in found.items()}

    def _places(self) -> dict[str, list[Any]]:
        convolutions = [layer for layer in self.backbone if isinstance(layer, nn.Conv2d)]
        places = [(i, j) for i, n in enumerate((2, 2, 3, 3)) for j in range(n)]
        found: dict[str, list[Any]] = {}
        for (i, j), layer in zip(places, convolutions, strict=True):
            found |= _parameters(f"backbone.blocks.{i}.{j}", [layer])
        for i, name in ((0, "w0"), (2, "w1")):
            found |= _parameters(f"slices.{name}", [self.slices[i]])
            found |= _parameters(f"attention.{name}", [_part(two, i) for two in self.attention])
        for i, name in ((0, "first"), (2, "last")):
            found |= _parameters(f"heads.{name}", [_part(two, i) for two in self.heads])
        found |= _parameters("modulation.specialise", [*self.modulation])
        return found | _parameters("modulation.score", [*self.auxiliary])


def _two(inputs: int, hidden: int, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=bias))


def _part(two: nn.Module, i: int) -> nn.Module:
    assert isinstance(two, nn.Sequential)
    return two[i]


def _parameters(name: str, layers: list[Any]) -> dict[str, list[Any]]:
    found = {f"{name}.weight": [layer.weight for layer in layers]}
    if layers[0].bias is not None:
        found[f"{name}.bias"] = [layer.bias for layer in layers]
    return found
