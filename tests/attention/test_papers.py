"""Maps of the papers' own networks."""

from __future__ import annotations

import attention_toys as toys
import pytest
import torch

from lesionlab.attention import activation_map
from lesionlab.papers import fu2021, lei2020


def test_fu2021_packed() -> None:
    network = toys.made(lambda: fu2021.Network())
    images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    nodule = torch.tensor([0, 0, 0, 1, 1])
    before = toys.state(network)
    found = activation_map(network, images, "grad-cam", head=None, inputs=(nodule, 2), relu=False)
    assert found.maps.shape == (9, 5, 32, 32)
    assert found.scores.shape == (9, 2)
    torch.testing.assert_close(toys.state(network), before, rtol=0, atol=0)
    scores = network(images, nodule, 2).predictions
    assert torch.allclose(found.scores, scores.T)
    # the same by hand, through the vectors that the feature maps are averaged to
    small = activation_map(
        network, images, "grad-cam", head=3, inputs=(nodule, 2), relu=False, upsample=False
    ).maps
    assert small.shape == (5, 4, 4)
    g = network.trunk(images).detach().requires_grad_()
    (slope,) = torch.autograd.grad(network.head(g, nodule, 2).predictions[:, 3].sum(), g)
    assert toys.close(small, (slope.mean((2, 3), keepdim=True) * g).sum(1), 1e-4)
    with pytest.raises(ValueError, match="linear in the feature map"):
        activation_map(network, images, "cam", inputs=(nodule, 2))


@pytest.mark.parametrize(("variant", "method"), [
    ("sam", "sam"), ("cam", "cam"), ("hesam", "hesam"), ("hecam", "he-cam"),
    ("sam_ratings", "sam"), ("cam_3d", "cam"), ("sam_3d", "sam"), ("resnet18_sam", "sam"),
    ("hesam_concatenated", "hesam"),
])  # fmt: skip
def test_lei2020(variant: str, method: str) -> None:
    network = toys.made(lambda: lei2020.Lei2020(variant).model(0))
    images = torch.rand(2, 11, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = network(images).logits
    exact = activation_map(network, images, method, head=None, weights="exact", upsample=False)
    total = exact.maps.flatten(2).sum(2) + exact.bias + exact.high_level
    assert (total - logits.T).abs().max() < 1e-5
    offset = network(images).high_level
    if offset is not None:
        assert toys.close(exact.high_level, offset.T, 1e-4)
    printed = activation_map(network, images, method, head=None, upsample=False).maps
    g = network.trunk(images).features
    assert toys.close(printed, torch.einsum("ck,nk...->cn...", network.head.map_weights, g))
    large = activation_map(network, images, method, target=1).maps
    axes = g.ndim - 2
    assert large.shape[1:] == images.shape[-axes:]


def test_lei2020_heads_without_a_map() -> None:
    images = torch.rand(2, 11, 32, 32, generator=torch.Generator().manual_seed(0))
    for variant in ("fully_connected", "baseline"):
        network = toys.made(lambda v=variant: lei2020.Lei2020(v).model(0))
        with pytest.raises(ValueError, match="more in some places"):
            activation_map(network, images, "cam")
        assert activation_map(network, images, "grad-cam").maps.shape == (2, 32, 32)
    network = toys.made(lambda: lei2020.Lei2020("hesam_max_max").model(0))
    assert activation_map(network, images, "hesam").maps.shape == (2, 32, 32)
    with pytest.raises(ValueError, match="linear in the feature map"):
        activation_map(network, images, "hesam", weights="exact")
