"""Activation maps of nine heads and of three methods, against captum and pytorch-grad-cam.

Lei 2020's network with nine ratings on one trunk, its 229 test nodules of 11 × 32 × 32 (Table 1).
A peer makes one map a call, so nine heads are nine calls, each with all nodules at once. captum
stops its backward pass at the feature map, as ours does; pytorch-grad-cam goes back through the
whole network. Then CAM, Grad-CAM and SAM of one head together, against a peer's Grad-CAM alone.

captum gives the maps before ReLU and at their own size, pytorch-grad-cam after ReLU, enlarged and
brought to 0 to 1: each is compared with ours in the same form. They take turns, with one thread
(more of them wait for each other where the machine has other work), and the fastest of some runs
counts.

Both are needed for this comparison only: `pip install captum==0.9.0 opencv-python-headless` and
`pip install --no-deps grad-cam==1.5.7 ttach==0.0.3`. grad-cam asks for torchvision too, which it
uses to load pictures; where there is none, a stand-in takes its place.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks._table import Row, seconds
from lesionlab.attention import activation_map, activation_maps
from lesionlab.papers import lei2020

HEADS, N_NODULES = 9, 229
TARGET = 5
LAYER = "trunk.residual"
INSTALL = (
    "pip install captum==0.9.0 opencv-python-headless && "
    "pip install --no-deps grad-cam==1.5.7 ttach==0.0.3"
)

Peer = Callable[[int], torch.Tensor]
"""From a head to its Grad-CAM of all nodules."""


class Logits(nn.Module):
    """The network as the peers want it: a tensor comes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images).logits
        return found


def rows(*, n_nodules: int = N_NODULES, turns: int = 2) -> Iterator[Row]:
    """Compare with those peers that are installed, on a CPU and on a GPU where there is one."""
    network, images = synthetic(n_nodules)
    peers = dict(_peers(network, images))
    if not peers:
        print(f"attention: left out, no peer is installed ({INSTALL})", file=sys.stderr)
        return
    with _one_thread():
        yield from _compare("CPU, 1 thread", network, images, peers, turns)
    if torch.cuda.is_available():
        network, images = network.to("cuda"), images.to("cuda")
        peers = dict(_peers(network, images))
        yield from _compare(torch.cuda.get_device_name(), network, images, peers, turns)


def synthetic(n: int) -> tuple[nn.Module, torch.Tensor]:
    """A network and images by a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lei2020.Lei2020("sam_ratings").model(0).eval()
    return network, torch.rand(n, 11, 32, 32, generator=torch.Generator().manual_seed(0))


def _compare(
    where: str, network: nn.Module, images: torch.Tensor, peers: dict[str, Peer], turns: int
) -> Iterator[Row]:
    three = ("cam", "grad-cam", "sam")
    options: dict[str, Any] = {"weights": "exact", "relu": False, "upsample": False}
    ours: list[Callable[[], Any]] = [
        partial(_waited, lambda: _nine(network, images)),
        partial(_waited, lambda: activation_maps(network, images, three, head=4, **options)),
    ]
    theirs: list[Callable[[], Any]] = [
        partial(_waited, partial(work, peer)) for peer in peers.values() for work in (_each, _fifth)
    ]
    runs = [[seconds(work) for work in (*ours, *theirs)] for _ in range(turns)]
    fastest = [min(of_one, key=lambda run: run[0]) for of_one in zip(*runs, strict=True)]
    (nine, maps), (together, by_method) = fastest[:2]
    _assert_exact(network, images, by_method["sam"])
    for i, name in enumerate(peers):
        (nine_s, found), (alone_s, one) = fastest[2 + 2 * i : 4 + 2 * i]
        form = _as_pytorch_grad_cam if name.startswith("pytorch") else torch.Tensor.clone
        gap = _gap(form(maps), found, f"{where}, {name}")
        gap_one = _gap(form(by_method["grad-cam"].maps), one, f"{where}, {name}, one head")
        equal = f"{HEADS} × {len(images)} maps, to {gap:.0e} of the largest"
        yield Row(f"Lei 2020: Grad-CAM of nine heads ({where})", name, nine, nine_s, TARGET, equal)
        yield Row(
            f"Lei 2020: CAM, Grad-CAM and SAM of a head ({where})",
            f"{name}, Grad-CAM alone",
            together,
            alone_s,
            1,
            f"Grad-CAM to {gap_one:.0e} of the largest",
        )


def _nine(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return activation_map(network, images, "grad-cam", head=None, relu=False, upsample=False).maps


def _each(peer: Peer) -> torch.Tensor:
    return torch.stack([peer(head) for head in range(HEADS)])


def _fifth(peer: Peer) -> torch.Tensor:
    return peer(4)


def _waited(work: Callable[[], Any]) -> Any:
    """What a GPU was asked for has been done when this returns."""
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found


def _gap(mine: torch.Tensor, other: torch.Tensor, what: str) -> float:
    gap = float((mine.cpu() - other.cpu()).abs().max() / other.abs().max().cpu())
    assert gap < 1e-4, f"{what}: maps differ by {gap} of the largest"
    return gap


def _assert_exact(network: nn.Module, images: torch.Tensor, found: Any) -> None:
    with torch.no_grad():
        logits = network(images).logits[:, 4]
    gap = float((found.maps.flatten(1).sum(1) + found.bias - logits).abs().max())
    assert gap < 1e-5, f"the exact map and the bias differ from the logit by {gap}"


def _as_pytorch_grad_cam(maps: torch.Tensor) -> torch.Tensor:
    """ReLU, enlarged to the image, 0 to 1."""
    shape = maps.shape[:-2]
    enlarged = nn.functional.interpolate(
        maps.relu().flatten(0, -3)[:, None], size=(32, 32), mode="bilinear"
    )
    low, high = (end(enlarged, (1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    span = torch.where(high > low, high - low, 1.0)
    return ((enlarged - low) / span).view(*shape, 32, 32)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- The peers ----------------------------------------------------------------------------------


def _peers(network: nn.Module, images: torch.Tensor) -> Iterator[tuple[str, Peer]]:
    model = Logits(network)
    layer = network.get_submodule(LAYER)
    try:
        captum = importlib.import_module("captum")
        explain = importlib.import_module("captum.attr").LayerGradCam(model, layer)
        yield (
            f"captum {captum.__version__}",
            lambda head: explain.attribute(images, head)[:, 0].detach(),
        )
    except ImportError:
        print("attention: captum is not installed", file=sys.stderr)
    try:
        with stand_in_for_torchvision():
            library = importlib.import_module("pytorch_grad_cam")
    except ImportError:
        print("attention: pytorch-grad-cam is not installed", file=sys.stderr)
        return

    def pytorch_grad_cam(head: int) -> torch.Tensor:
        target = [lambda scores: scores[head]] * len(images)
        with library.GradCAM(model=model, target_layers=[layer]) as cam:
            return torch.from_numpy(cam(images, target))

    yield "pytorch-grad-cam 1.5", pytorch_grad_cam


@contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """Let pytorch-grad-cam be imported where torchvision cannot be; Grad-CAM does not call it."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    try:
        importlib.import_module(names[1])
    except (ImportError, RuntimeError):  # a build for another torch raises the latter
        before = {name: sys.modules.get(name) for name in names}
        made = {name: types.ModuleType(name) for name in names}
        for name in ("Compose", "Normalize", "ToTensor"):
            setattr(made[names[1]], name, None)
        setattr(made[names[2]], "resize", None)  # noqa: B010 - mypy knows no such attribute
        sys.modules.update(made)
        try:
            yield
        finally:
            for name, module in before.items():
                del sys.modules[name]
                if module is not None:
                    sys.modules[name] = module
    else:
        yield
