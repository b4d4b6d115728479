"""Small networks of each kind, with the heads of Lei et al. 2020 where they tell of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lesionlab.papers.lei2020.model import CAMHead, Design, FeatureMaps, Head, SAMHead

HEADS = 9
CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


class Body(nn.Module):
    """Two convolutions with batch normalisation and dropout, which the mode decides about."""

    def __init__(self, channels: int, features: int, axes: int) -> None:
        super().__init__()
        self.first = CONV[axes](channels, 4, 3, padding=1)
        self.norm = (nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d)(4)
        self.drop = nn.Dropout(0.5)
        self.second = CONV[axes](4, features, 3, padding=1)
        self.saw_gradients: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.saw_gradients.append(torch.is_grad_enabled())
        return self.second(self.drop(self.norm(self.first(images)).relu())).relu()


class Told(nn.Module):
    """A network that tells where its feature map is."""

    def __init__(self, body: nn.Module, head: Head, deep: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.head, self.deep = body, head, deep

    def trunk(self, images: torch.Tensor) -> FeatureMaps:
        return FeatureMaps(
            self.body(images), None if self.deep is None else self.deep(images).relu()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images)).logits


class Plain(nn.Module):
    """A network that tells nothing; `hidden` puts layers that are not linear before its last."""

    def __init__(self, axes: int = 2, channels: int = 3, *, hidden: bool = False) -> None:
        super().__init__()
        self.body = Body(channels, 6, axes)
        self.pool = nn.AdaptiveAvgPool2d(1) if axes == 2 else nn.AdaptiveAvgPool3d(1)
        self.hidden: nn.Module = nn.Identity()
        if hidden:
            self.hidden = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh())
        self.classifier = nn.Linear(8 if hidden else 6, HEADS)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.hidden(self.pool(self.body(images)).flatten(1)))


def made(make: Any, seed: int = 0) -> Any:
    """A network by a seed, in evaluation mode, with statistics that are not the first ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def size(axes: int) -> tuple[int, ...]:
    return (16, 16) if axes == 2 else (7, 12, 12)


def told(kind: str, axes: int = 2, channels: int = 3) -> Told:
    """`cam`, `sam`, `he-cam` or `hesam`."""
    design = Design(high_level="max" if kind.startswith("he") else None)
    head = CAMHead if kind.endswith("cam") else SAMHead

    def make() -> Told:
        deep = CONV[axes](channels, 6, 3, stride=3)
        return Told(Body(channels, 6, axes), head(design, 6, size(axes), HEADS), deep)

    return made(make)


def images(axes: int = 2, n: int = 4, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, *size(axes), generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, share: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= share * b.abs().max().clamp(min=1e-6))


def state(model: nn.Module) -> dict[str, Any]:
    """All that using a model might change, for `torch.testing.assert_close`."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(getattr(module, h)) for module in model.modules() for h in hooks],
        "values": copy.deepcopy(model.state_dict()),
        "needs": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad.clone() for p in model.parameters() if p.grad is not None],
        "enabled": torch.is_grad_enabled(),
    }
