import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lesionlab.papers.fu2021 import _winograd
from lesionlab.papers.fu2021._winograd import convolve_relu, winograd


def filters(channels, inputs, dtype=torch.float32):
    generator = torch.Generator().manual_seed(channels)
    weight = torch.randn(channels, inputs, 3, 3, generator=generator, dtype=dtype)
    bias = torch.randn(channels, generator=generator, dtype=dtype)
    return (weight / (3 * inputs**0.5)).requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 5, 8, 16), (1, 2, 12, 8), (4, 1, 16, 16)])
def test_is_the_convolution(shape):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images.requires_grad_()
    weight, bias = filters(6, shape[1], torch.float64)
    upstream = torch.randn(shape[0], 6, *shape[2:], dtype=torch.float64)
    ours = winograd(images, weight, bias)
    theirs = conv2d(images, weight, bias, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    every = (images, weight, bias)
    for a, b in zip(
        torch.autograd.grad(ours, every, upstream),
        torch.autograd.grad(theirs, every, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_rounding_in_single_precision():
    images = torch.randn(6, 128, 16, 16, generator=torch.Generator().manual_seed(1)).relu_()
    weight, bias = filters(64, 128)
    exact = conv2d(images.double(), weight.double(), bias.double(), padding=1)
    gap = (winograd(images, weight, bias) - exact).abs().max() / exact.abs().max()
    assert gap < 2e-5


@pytest.mark.parametrize(
    ("shape", "used"),
    [
        ((8, 64, 8, 8), True),
        ((1, 64, 16, 4), True),  # a batch or one image: the same algorithm
        ((8, 32, 8, 8), False),
        ((8, 64, 32, 32), False),
        ((8, 64, 10, 10), False),  # no whole number of tiles
    ],
)
def test_where_it_is_used(shape, used):
    images, layer = torch.randn(shape), nn.Conv2d(shape[1], 8, 3, padding=1)
    assert _winograd._pays(images, layer) == used
    assert not _winograd._pays(images.double(), layer.double())
    layer.float()
    with torch.no_grad():
        found, expected = convolve_relu(images, layer), layer(images).relu()
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert not _winograd._pays(images, layer)


def test_arguments_stay_as_they_are():
    images, layer = torch.randn(8, 64, 8, 8), nn.Conv2d(64, 8, 3, padding=1)
    before = images.clone()
    convolve_relu(images, layer)
    convolve_relu(images.repeat(1, 1, 4, 4), layer)
    assert torch.equal(images, before)
