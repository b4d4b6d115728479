"""Grad-CAM as captum has it, to 1e-4."""

from __future__ import annotations

import attention_toys as toys
import pytest

from lesionlab.attention import activation_map

REFERENCES = {
    "means": lambda axes: (toys.told("cam", axes), {}),
    "soft, high-level": lambda axes: (toys.told("hesam", axes), {}),
    "hidden layer": lambda axes: (
        toys.made(lambda: toys.Plain(axes, hidden=True)),
        {"layer": "body"},
    ),
}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", REFERENCES)
def test_captum_finds_the_same(name: str, axes: int) -> None:
    captum = toys.captum()
    network, options = REFERENCES[name](axes)
    images = toys.images(axes)
    ours = activation_map(
        network, images, "grad-cam", head=None, relu=False, upsample=False, **options
    )
    theirs = captum.LayerGradCam(network, network.body)
    for head in range(toys.HEADS):
        expected = theirs.attribute(images, head)[:, 0].detach()
        assert (ours.maps[head] - expected).abs().max() < 1e-4
        assert toys.close(ours.maps[head], expected, 1e-4)
