"""3 × 3 convolutions on a CPU with a quarter of the multiplications.

Winograd's minimal filtering F(4 × 4, 3 × 3), after Lavin and Gray 2016 (arXiv:1509.09308): a tile
of 4 × 4 outputs needs 36 products for each pair of channels instead of 144. It pays where channels
are many and images small, as the additions before and after it cost memory traffic. GPU libraries
choose among such algorithms by themselves; torch's library for CPUs has only the direct one.

The result is the convolution's, to rounding: about 5e-6 of the largest value where the direct
algorithm has 5e-7.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn.functional import conv2d

TILE = 4
POINTS = 6
LARGEST = 16
"""Pixels on a side; larger images have fewer channels, and the direct algorithm is quicker."""

# Lavin and Gray 2016, section 4.3: B transposed, G, A transposed
INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
FILTER = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def convolve_relu(images: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """`layer(images).relu()`, by whichever algorithm is the quicker one here.

    Args:
        images: (image, channel, y, x).
        layer: 3 × 3, padding 1, with a bias.
    """
    if _pays(images, layer):
        # in place before it becomes a view: of a view, torch would keep a copy
        return _filter(images, layer.weight, _bias(layer)).relu_().permute(2, 3, 0, 1)
    return conv2d(images, layer.weight, layer.bias, padding=1).relu_()


def winograd(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Convolve 3 × 3 with padding 1; differentiable, as it is made of matrix products only.

    Args:
        images: (image, channel, y, x), sides divisible by 4. In memory the order (y, x, image,
            channel) is the quickest, and the result has it.
        weight: (channel out, channel, 3, 3).
        bias: (channel out,).

    Returns:
        (image, channel out, y, x).
    """
    return _filter(images, weight, bias).permute(2, 3, 0, 1)


def _filter(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """As `winograd`, in the order (y, x, image, channel out)."""
    n, c, height, width = images.shape
    k = len(weight)
    into_y, out_y = _along(height, images.dtype)
    into_x, out_x = _along(width, images.dtype)
    ny, nx = height // TILE, width // TILE  # tiles
    values = images.permute(2, 3, 0, 1).reshape(height, width * n * c)
    values = (into_y @ values).view(POINTS * ny, width, n * c)
    values = (into_x @ values).view(POINTS, ny, POINTS, nx * n * c)  # (point, tile) along y and x
    values = values.transpose(1, 2).reshape(POINTS**2, ny * nx * n, c)
    along = _points(images.dtype)
    filters = torch.einsum("pi,qj,kcij->pqck", along, along, weight).reshape(POINTS**2, c, k)
    products = values @ filters  # one matrix product for each pair of points
    products = products.view(POINTS, POINTS, ny, nx * n * k).transpose(1, 2)
    result = (out_x @ products.reshape(POINTS * ny, POINTS * nx, n * k)).view(POINTS * ny, -1)
    return (out_y @ result).view(height, width, n, k) + bias


def _pays(images: torch.Tensor, layer: nn.Conv2d) -> bool:
    # whatever the number of images: with one algorithm for a few of them and another for many,
    # rounding would turn some ReLU the other way, and a batch's gradients be off by 1e-4
    height, width = images.shape[-2:]
    return (
        images.device.type == "cpu"
        and images.dtype == layer.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and layer.in_channels >= 64
        and height % TILE == width % TILE == 0
        and max(height, width) <= LARGEST
    )


def _bias(layer: nn.Conv2d) -> torch.Tensor:
    return layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias


@cache
def _along(side: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What all tiles along an axis do, as one matrix in and one out; zeros around are left out."""
    tiles = side // TILE
    into = torch.zeros(POINTS, tiles, side + 2, dtype=torch.float64)
    out = torch.zeros(side, POINTS, tiles, dtype=torch.float64)
    for tile in range(tiles):
        first = tile * TILE
        into[:, tile, first : first + POINTS] = torch.tensor(INPUT, dtype=torch.float64)
        out[first : first + TILE, :, tile] = torch.tensor(OUTPUT, dtype=torch.float64)
    into = into[..., 1:-1].reshape(POINTS * tiles, side)
    return into.to(dtype), out.reshape(side, POINTS * tiles).to(dtype)


@cache
def _points(dtype: torch.dtype) -> torch.Tensor:
    """(6, 3), from a filter to its values at the points."""
    return torch.tensor(FILTER, dtype=torch.float64).to(dtype)
