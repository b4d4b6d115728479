"""The randomisation test tells a map of the model from a map of the image."""

from __future__ import annotations

import copy
import math

import attention_toys as toys
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from lesionlab.attention import activation_map, randomisation_test, similarity


def sam(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return activation_map(model, images, "sam").maps


def test_a_map_of_the_model_fails_on_random_weights_and_an_edge_detector_does_not() -> None:
    network, images = toys.told("sam"), toys.images(n=8)
    before = copy.deepcopy(network.state_dict())
    found = randomisation_test(network, images, sam)
    assert found.iloc[-1].abs().mean() < 0.5
    edges = randomisation_test(network, images, lambda _, x: x.mean(1).diff(dim=-1).abs())
    assert np.allclose(edges, 1), "an edge detector never asks the model"
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_layers_lose_their_weights_from_the_output_back() -> None:
    network, images = toys.told("sam"), toys.images()
    seen: list[dict[str, torch.Tensor]] = []

    def look(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append({k: v.clone() for k, v in model.named_parameters()})
        return sam(model, images)

    found = randomisation_test(network, images, look)
    assert list(found.index[-2:]) == ["body.norm", "body.first"]
    assert "head.classifier" in found.index[:3]
    assert found.shape[1] == len(images)
    original, *steps = seen
    done: set[str] = set()
    for layer, values in zip(found.index, steps, strict=True):
        done.add(layer)
        for name, value in values.items():
            # shuffled: the same values in another order
            assert torch.equal(value.flatten().sort()[0], original[name].flatten().sort()[0])
            if name.rpartition(".")[0] not in done:
                assert torch.equal(value, original[name])
            elif value.numel() > 100:
                assert not torch.equal(value, original[name])
    once = randomisation_test(network, images, sam, cascade=False)
    assert np.allclose(once, found.iloc[[-1]])
    other = randomisation_test(network, images, sam, cascade=False, seed=1)
    assert not np.allclose(other, once)


def test_similarity_is_spearmans() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 5, 6, generator=generator), torch.randn(3, 5, 6, generator=generator)
    b[0] = b[0].round()  # ties
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b)]  # noqa: B905
    assert np.allclose(similarity(a, b), expected)
    assert np.allclose(similarity(a, a.exp()), 1)
    assert np.allclose(similarity(a, -a), -1)
    a[1], b[2, 0, 0] = 7.0, math.nan
    assert np.isnan(similarity(a, b)).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="one shape"):
        similarity(a, b[:2])
