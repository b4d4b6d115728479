"""Liu 2020, what comes before the heads: ResNet-50 and -152, and EfficientNet-Lite0.

The paper's is a ResNet-50 (Table I; its text has 152 layers). MONAI has it, with torchvision's
names, so that torchvision's files load as they are. Here it is with its strides on the 3 × 3
convolutions, as those weights were trained; Table I has them on the first ones. EfficientNet-Lite0
(Google 2020, after Tan and Le 2019) is ours, as its weights install with pip. Weights are in
`imagenet`.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from lesionlab import _names
from lesionlab.papers.liu2020 import samples

Kind = Literal["resnet50", "resnet152", "lite0"]

FEATURES = {"resnet50": 2048, "resnet152": 2048, "lite0": 1280}


class WeightsError(ValueError):
    """A file of weights is damaged, or is not what it should be."""


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow does ("SAME"): for a stride of 2 more at the far ends."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (…, y, x) to (…, ⌈y / stride⌉, ⌈x / stride⌉)."""
        pads: list[int] = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            lack = max((-(-n // s) - 1) * s + k - n, 0)
            pads += [lack // 2, lack - lack // 2]
        return super().forward(functional.pad(x, pads) if any(pads) else x)


def _unit(
    names: tuple[str, str], inputs: int, outputs: int, kernel: int = 1, stride: int = 1, **how: Any
) -> Iterator[tuple[str, nn.Module]]:
    """A convolution and its batch normalisation, under their names."""
    yield names[0], Convolution(inputs, outputs, kernel, stride, bias=False, **how)
    yield names[1], nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Sequential):
    """Wide, by channel, narrow; beside a shortcut where input and output are alike (MBConv)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        wide = inputs * expand
        layers: dict[str, nn.Module] = {}
        if expand > 1:
            layers |= dict(_unit(("expand_conv", "bn0"), inputs, wide))
            layers["relu0"] = nn.ReLU6(inplace=True)
        layers |= dict(_unit(("depthwise_conv", "bn1"), wide, wide, kernel, stride, groups=wide))
        layers["relu1"] = nn.ReLU6(inplace=True)
        layers |= dict(_unit(("project_conv", "bn2"), wide, outputs))
        super().__init__(OrderedDict(layers))
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (slice, input, y, x) to (slice, output, y / stride, x / stride)."""
        found: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return found + x if self.shortcut else found


# repeats, kernel, stride, expansion, outputs: EfficientNet-B0 (Tan and Le 2019, Table 1)
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
           (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


class Lite0(nn.Sequential):
    """EfficientNet-Lite0: B0 without squeeze-and-excitation, with ReLU6; layers as in its file.

    Takes (slice, 3, y, x), 0 to 255, normalised by (x − 127) / 128; the paper's are 224 × 224.
    Gives (slice, 1280, y / 32, x / 32), or logits of ImageNet's 1,000 classes if `classes`.
    """

    def __init__(self, *, classes: bool = False) -> None:
        blocks, inputs = [], 32
        for repeats, kernel, stride, expand, outputs in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, 1 if i else stride, expand))
                inputs = outputs
        layers: dict[str, nn.Module] = dict(_unit(("conv_stem", "bn0"), 3, 32, 3, 2))
        layers |= {"relu0": nn.ReLU6(inplace=True), "blocks": nn.Sequential(*blocks)}
        layers |= dict(_unit(("conv_head", "bn1"), 320, 1280))
        layers["relu1"] = nn.ReLU6(inplace=True)
        if classes:
            layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
            layers["fc"] = nn.Linear(1280, 1000)
        super().__init__(OrderedDict(layers))


def resnet(depth: int) -> Any:
    """ResNet-50 or -152 without its last layer, by MONAI, with torchvision's names of weights."""
    from monai.networks.nets.resnet import ResNet  # takes seconds to load

    blocks = {50: [3, 4, 6, 3], 152: [3, 8, 36, 3]}[depth]
    return ResNet(
        "bottleneck", blocks, [64, 128, 256, 512], spatial_dims=2, n_input_channels=3,
        conv1_t_stride=2, feed_forward=False, bias_downsample=False,
    )  # fmt: skip


class Backbone(nn.Module):
    """Feature maps of slices, (slice, feature, y / 32, x / 32), in an early and a late part.

    Late are the last stages, which may learn while the early part is frozen: the last residual
    block of a ResNet, the last five blocks of Lite0. Without weights it is drawn as He et al. do.
    """

    def __init__(self, kind: Kind, weights: dict[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        _names.one_of("backbone", kind, get_args(Kind))
        net: Any = Lite0() if kind == "lite0" else resnet(int(kind.removeprefix("resnet")))
        if weights is not None:
            fill(net, weights, kind)
        else:
            for module in net.modules():
                if isinstance(module, nn.Conv2d):  # torch's own takes one group for all of them
                    fan = module.out_channels * math.prod(module.kernel_size) / module.groups
                    nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
        if kind == "lite0":
            *first, _ = layers = list(net)
            blocks = list(net.blocks)
            early, late = [*first[:3], *blocks[:11]], [*blocks[11:], *layers[4:]]
        else:
            early = [net.conv1, net.bn1, net.act, net.maxpool, net.layer1, net.layer2, net.layer3]
            late = [net.layer4]
        self.early, self.late = nn.Sequential(*early), nn.Sequential(*late)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The maps of normalised images, (slice, 3, y, x)."""
        images = images.contiguous(memory_format=torch.channels_last)  # half the time, on a CPU
        maps: torch.Tensor = self.late(self.early(images))
        return maps


def normalised(images: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Grey images in [0, 1], (slice, 1, y, x), as the backbone was given photographs."""
    if kind == "lite0":
        return (255 * samples.to_rgb(images, imagenet=False) - 127) / 128
    return samples.to_rgb(images)


def fill(net: nn.Module, weights: dict[str, torch.Tensor], what: str) -> None:
    """Load weights into a network that has no `fc`, or has it; WeightsError for other ones.

    Lite0's file has a `_` before each name.
    """
    own = net.state_dict()
    found = {re.sub(r"(^|\.)_", r"\1", name): values for name, values in weights.items()}
    found = {name: v for name, v in found.items() if name in own or not name.startswith("fc.")}
    counts = {name for name in own if name.endswith("num_batches_tracked")}  # older files lack them
    if lacking := sorted(own.keys() - found.keys() - counts):
        raise WeightsError(f"weights: not those of {what}: {lacking[0]} is missing")
    if more := sorted(found.keys() - own.keys()):
        raise WeightsError(f"weights: not those of {what}, which has no {more[0]}")
    for name, values in found.items():
        if values.shape != own[name].shape:
            shapes = f"{tuple(values.shape)}, expected {tuple(own[name].shape)}"
            raise WeightsError(f"weights: not those of {what}: {name} is {shapes}")
        if not bool(values.isfinite().all()):
            raise WeightsError(f"weights of {what}: {name} has values that are not finite")
    net.load_state_dict(found, strict=False)
