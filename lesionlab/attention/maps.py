"""Activation maps: CAM, Grad-CAM, SAM, and the three with high-level features.

Equations are those of Lei et al. 2020. g_k is feature map k, γ_k^c its weight in the classifier
for output c, β_k the weights of its own fully connected layer over pooled regions, p a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lesionlab.attention._scores import HeadChoice, Name, Select, Target
from lesionlab.attention._split import Forward, look, untouched
from lesionlab.attention._work import METHODS, Weights, Work


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """Maps, and the scores that they are about.

    Every tensor begins with an axis for heads where several were asked for.

    Attributes:
        maps: (row, …) of the image's size, or of the feature map's. A row is a lesion, or a slice
            where the model takes packed slices. Not normalised: see `normalised`.
        scores: (lesion,) the model's scores.
        bias: (lesion,) what of a score comes from the biases; with `layer`, from all that is not
            the feature map. None where the head is not linear in the feature map, or where that
            was not looked at (Grad-CAM with `layer`).
        high_level: (lesion,) what of a score comes from the high-level features (eq. 12),
            `Σ_k γ_k d_k`, which no map shows; 0 without them, None as `bias`.
        method: One of `METHODS`.
        heads: Whose maps they are.
    """

    maps: torch.Tensor
    scores: torch.Tensor
    bias: torch.Tensor | None
    high_level: torch.Tensor | None
    method: str
    heads: tuple[Name, ...]

    @property
    def high_level_share(self) -> torch.Tensor | None:
        """(lesion,) 0 to 1: the high-level features' part of a score, and not the map's.

        `|h| / (|h| + |m|)`, h being `high_level` and m the sum of the exact map. Magnitudes, as
        the two may cancel; biases are left out, as they are the same for all lesions. 0 where both
        are 0.
        """
        if self.high_level is None or self.bias is None:
            return None
        high = self.high_level.abs()
        both = high + (self.scores - self.bias - self.high_level).abs()
        return torch.where(both > 0, high / both.clamp(min=torch.finfo(both.dtype).tiny), 0.0)


def activation_map(
    model: nn.Module,
    images: torch.Tensor,
    method: str = "sam",
    *,
    head: HeadChoice = 0,
    target: Target = None,
    layer: str | None = None,
    weights: Weights = "paper",
    relu: bool | None = None,
    upsample: bool = True,
    inputs: Sequence[Any] = (),
    forward: Forward | None = None,
    select: Select | None = None,
) -> ActivationMaps:
    """Where a model looks for one of its scores, or for each of them.

    - `"cam"`: `M_c(p) = Σ_k γ_k^c g_k(p)` (eq. 2; Zhou et al. 2016). Needs a head that is one
      value for each feature map and then a linear classifier.
    - `"grad-cam"`: `ReLU(Σ_k α_k^c g_k(p))`, α the mean over all positions of the gradient of the
      score by g_k (eq. 3, 4; Selvaraju et al. 2017). For any head.
    - `"sam"`: `M'_c(p) = Σ_k γ_k^c g_k(p)` (eq. 7). Needs a head with local weights β. It is
      eq. 2 again: the networks differ, by how γ is learned, and not the formula, so that on one
      network with local weights CAM and the printed SAM are the same map.
    - `"hesam"`: the same with the γ of a head that adds high-level features (eq. 11). Those add
      `Σ_k γ_k d_k` to the score (eq. 12), an amount that changes with the lesion and has no place
      in the image: `ActivationMaps.high_level`.
    - `"he-cam"`, `"he-grad-cam"`: CAM and Grad-CAM of a network with high-level features (4.4). d
      counts as given: no gradient goes through it.

    Eq. 7 leaves β out. `weights="exact"` has it: `Σ_k γ_k^c B_k(p) g_k(p)`, with B_k the weights
    β_k brought back through the average pooling. Its sum over p, `bias` and `high_level` make up
    the score. On a head with a global average it is CAM divided by the number of positions.

    The part before the feature map runs once for all lesions, heads and methods, without a graph.
    The model is evaluated in evaluation mode; its modes, gradients and statistics and torch's
    random state are the same afterwards, and no hook stays. A lesion's map must not depend on the
    other lesions of the batch, as is so for every network in evaluation mode.

    What is a head: of an output (lesion, output), each column, or all columns as the classes of
    one head if `target` is given; of (lesion, head, class), each slice of the second axis; of a
    mapping or a list of (lesion, class), each member. Of an object, its `logits` or `predictions`.

    Args:
        model: One with `trunk` and `head` (`lesionlab.attention.Split`), as Lei 2020's; one of
            Fu 2021's; or any, with `layer`.
        images: (lesion, channel, y, x) or (lesion, channel, z, y, x), in the model's type and on
            its device. Slices as channels make one map of (y, x).
        method: One of `METHODS`.
        head: Number or name; several, or None for all, make an axis of heads in front.
        target: Class of the head, or an int64 class of each lesion; None if it has one score.
        layer: Name, as in `model.named_modules()`, of the layer whose output is the feature map.
            It must run once. CAM by `layer` runs the model twice, to see that the rest is linear.
        weights: `"exact"` for all but the methods by gradient.
        relu: Whether negative values become 0; None for eq. 4's, which is the methods by gradient.
        upsample: Bring maps to the image's size, bilinear or trilinear.
        inputs: What the model takes after the images, such as the index of each slice's nodule.
        forward: Called as `forward(model, images, *inputs)` in place of the model.
        select: From the model's output to scores.

    Returns:
        The maps. A map may be constant, and after ReLU zero everywhere.

    Raises:
        ValueError: The method, layer, head or class does not exist; the model has not the head
            that the method needs; or the model cannot take the images.
    """
    return activation_maps(
        model,
        images,
        (method,),
        head=head,
        target=target,
        layer=layer,
        weights=weights,
        relu=relu,
        upsample=upsample,
        inputs=inputs,
        forward=forward,
        select=select,
    )[method]


def activation_maps(
    model: nn.Module,
    images: torch.Tensor,
    methods: Sequence[str],
    *,
    head: HeadChoice = 0,
    target: Target = None,
    layer: str | None = None,
    weights: Weights = "paper",
    relu: bool | None = None,
    upsample: bool = True,
    inputs: Sequence[Any] = (),
    forward: Forward | None = None,
    select: Select | None = None,
) -> dict[str, ActivationMaps]:
    """Maps by several methods from one pass of the model; see `activation_map`.

    With `weights="exact"`, methods by gradient are as they always are if others are asked for too.

    Returns:
        By method.

    Raises:
        ValueError: As `activation_map`.
    """
    _check(methods, weights)
    with untouched(model):
        seen = look(model, images, layer=layer, inputs=inputs, forward=forward)
        work = Work(model, seen, select, head, target)
        by_name = {}
        for name in methods:
            maps = work.maps(name, weights)
            if METHODS[name].by_gradient if relu is None else relu:
                maps = maps.relu()  # eq. 4
            if upsample:
                maps = _upsampled(maps, images.shape[-(maps.ndim - 2) :])
            by_name[name] = maps
        bias, high_level = work.parts() or (None, None)
        chosen = work.chosen
        first = 0 if chosen.single else slice(None)
        return {
            name: ActivationMaps(
                maps=maps[first],
                scores=chosen.values.detach()[first],
                bias=None if bias is None else bias[first],
                high_level=None if high_level is None else high_level[first],
                method=name,
                heads=chosen.heads,
            )
            for name, maps in by_name.items()
        }


def normalised(maps: torch.Tensor, axes: int = 2) -> torch.Tensor:
    """Each map brought to 0 to 1 by its own least and greatest value, for display.

    A constant map, which shows no place more than another, becomes 0 everywhere.

    Args:
        maps: (…, y, x) or (…, z, y, x).
        axes: How many axes a map has, 2 or 3.

    >>> normalised(torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]]))
    tensor([[[0., 1.]], [[0., 0.]]])
    """
    if axes not in (2, 3) or maps.ndim < axes:
        raise ValueError(f"axes={axes!r}: expected 2 or 3, of a map of shape {tuple(maps.shape)}")
    which = tuple(range(-axes, 0))
    low = maps.amin(which, keepdim=True)
    span = maps.amax(which, keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def _check(methods: Sequence[str], weights: str) -> None:
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"method={name!r}: expected one of {', '.join(METHODS)}")
    if weights not in ("paper", "exact"):
        raise ValueError(f"weights={weights!r}: expected 'paper' or 'exact'")
    if weights == "exact" and methods and all(METHODS[name].by_gradient for name in methods):
        raise ValueError(f"weights='exact': method={methods[0]!r} has no exact form")


def _upsampled(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    mode = "bilinear" if len(size) == 2 else "trilinear"
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size=tuple(size), mode=mode, align_corners=False)
