import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lesionlab.papers import _winograd
from lesionlab.papers._winograd import convolve_relu, winograd


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


def test_where_it_is_used(monkeypatch):
    called = []

    def spy(images, weight, bias):
        called.append(images.shape)
        return winograd(images, weight, bias)

    monkeypatch.setattr(_winograd, "winograd", spy)
    layer, thin = nn.Conv2d(64, 8, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)
    with torch.no_grad():
        for images, by, expected in [
            (torch.randn(8, 64, 8, 8), layer, True),
            (torch.randn(1, 64, 8, 8), layer, False),  # too few to pay for the filters
            (torch.randn(8, 32, 8, 8), thin, False),
            (torch.randn(8, 64, 32, 32), layer, False),
            (torch.randn(40, 64, 10, 10), layer, False),  # no whole number of tiles
        ]:
            called.clear()
            found = convolve_relu(images, by)
            assert bool(called) == expected
            torch.testing.assert_close(found, by(images).relu(), rtol=0, atol=5e-5)
        called.clear()
        with torch.autocast("cpu", torch.bfloat16):
            convolve_relu(torch.randn(8, 64, 8, 8), layer)
        assert not called


def test_arguments_stay_as_they_are():
    images, layer = torch.randn(8, 64, 8, 8), nn.Conv2d(64, 8, 3, padding=1)
    before = images.clone()
    convolve_relu(images, layer)
    convolve_relu(images[:1], layer)
    assert torch.equal(images, before)
