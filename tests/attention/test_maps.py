"""Activation maps: the equations, other libraries, and that a model is left as it was."""

from __future__ import annotations

import copy
import re
from typing import Any

import attention_toys as toys
import pytest
import torch
from torch import nn

from lesionlab.attention import activation_map, activation_maps
from lesionlab.papers.lei2020.model import CAMHead, Design, SAMHead

KINDS = ("cam", "sam", "he-cam", "hesam")
EVERY = [(kind, axes) for kind in KINDS for axes in (2, 3)]


# --- The equations ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "axes"), EVERY)
def test_the_printed_map_is_the_classifiers_weights_by_the_feature_maps(kind, axes):
    network, images = toys.told(kind, axes), toys.images(axes)
    found = activation_map(network, images, kind, head=None, upsample=False)
    g = network.trunk(images).features
    expected = torch.stack(  # eq. 2, 7, 11, term by term
        [sum(w * g[:, k] for k, w in enumerate(row)) for row in network.head.classifier.weight]
    )
    assert found.maps.shape == (toys.HEADS, len(images), *toys.size(axes))
    assert toys.close(found.maps, expected)


@pytest.mark.parametrize(("kind", "axes"), EVERY)
def test_the_exact_map_and_the_rest_make_up_the_logit(kind, axes):
    network, images = toys.told(kind, axes), toys.images(axes)
    found = activation_map(network, images, kind, head=None, upsample=False, weights="exact")
    total = found.maps.flatten(2).sum(2) + found.bias + found.high_level
    assert toys.close(total, network(images).T)
    head, trunk = network.head, network.trunk(images)
    constant = head.classifier.bias
    if kind.endswith("sam"):
        constant = constant + head.classifier.weight @ head.local.bias
    assert toys.close(found.bias, constant[:, None].expand_as(found.bias), 1e-4)
    if kind.startswith("he"):
        d = trunk.high_level.flatten(2).amax(2)
        assert toys.close(found.high_level, (d @ head.classifier.weight.T).T, 1e-4)
        share = found.high_level.abs() / (
            found.high_level.abs() + found.maps.flatten(2).sum(2).abs()
        )
        assert torch.allclose(found.high_level_share, share, atol=1e-3)
        assert 0 < float(share.mean()) < 1
    else:
        assert not found.high_level.any()
        assert not found.high_level_share.any()


def test_a_map_by_hand():
    """One channel, 6 × 6, pooled by 5 every 2 to one place: 25 pixels count β/25, the rest 0."""
    network = toys.Told(nn.Identity(), SAMHead(Design(), 1, (6, 6), 2))
    with torch.no_grad():
        network.head.classifier.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        network.head.classifier.bias.copy_(torch.tensor([0.25, 0.0]))
        network.head.local.weight.fill_(5.0)
        network.head.local.bias.fill_(0.5)
    images = torch.ones(1, 1, 6, 6)
    printed = activation_map(network, images, "sam", head=0, upsample=False)
    assert torch.allclose(printed.maps, torch.tensor(2.0))
    exact = activation_map(network, images, "sam", head=0, upsample=False, weights="exact")
    assert torch.allclose(exact.maps[0, :5, :5], torch.tensor(2 * 5 / 25))
    assert not exact.maps[0, 5].any()
    assert not exact.maps[0, :, 5].any()
    assert float(exact.scores) == pytest.approx(2 * (5 + 0.5) + 0.25)
    assert float(exact.bias) == pytest.approx(2 * 0.5 + 0.25)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("kind", ["cam", "he-cam"])
def test_grad_cam_is_cam_by_a_positive_factor_on_a_global_average(kind, axes):
    network, images = toys.told(kind, axes), toys.images(axes)
    by_gradient = kind.replace("cam", "grad-cam")
    found = activation_maps(network, images, (kind, by_gradient), head=None, relu=False)
    places = torch.zeros(toys.size(axes)).numel()
    assert toys.close(found[by_gradient].maps * places, found[kind].maps)
    rectified = activation_map(network, images, by_gradient, head=None)
    assert toys.close(rectified.maps, found[by_gradient].maps.relu())
    assert (found[by_gradient].maps < 0).any()


@pytest.mark.parametrize("axes", [2, 3])
def test_grad_cam_by_definition(axes):
    """On a head with a ReLU, whose gradients differ from lesion to lesion (eq. 3)."""
    network, images = toys.made(lambda: toys.Plain(axes, hidden=True)), toys.images(axes)
    found = activation_map(
        network, images, "grad-cam", head=None, layer="body", relu=False, upsample=False
    )
    for lesion in range(len(images)):
        g = network.body(images[lesion : lesion + 1]).detach().requires_grad_()
        logits = network.classifier(network.hidden(network.pool(g).flatten(1)))[0]
        for head, logit in enumerate(logits):
            (slope,) = torch.autograd.grad(logit, g, retain_graph=True)
            alpha = slope[0].flatten(1).mean(1)
            expected = torch.einsum("k,k...->...", alpha, g[0].detach())
            assert toys.close(found.maps[head, lesion], expected, 1e-4)


PEERS = {
    "means": lambda axes: (toys.told("cam", axes), {}),
    "soft, high-level": lambda axes: (toys.told("hesam", axes), {}),
    "hidden": lambda axes: (toys.made(lambda: toys.Plain(axes, hidden=True)), {"layer": "body"}),
}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", PEERS)
def test_captum_finds_the_same(name, axes):
    captum = pytest.importorskip("captum.attr", reason="captum: pip install captum==0.9.0")
    network, options = PEERS[name](axes)
    images = toys.images(axes)
    options |= {"head": None, "relu": False, "upsample": False}
    ours = activation_map(network, images, "grad-cam", **options).maps
    theirs = captum.LayerGradCam(network, network.body)
    for head in range(toys.HEADS):
        expected = theirs.attribute(images, head)[:, 0].detach()
        assert (ours[head] - expected).abs().max() < 1e-4
        assert toys.close(ours[head], expected, 1e-4)


def test_a_layer_says_what_a_network_tells():
    network, images = toys.told("cam"), toys.images()
    told = activation_map(network, images, "grad-cam", head=None)
    named = activation_map(network, images, "grad-cam", head=None, layer="body")
    assert toys.close(named.maps, told.maps)
    assert torch.allclose(named.scores, told.scores)
    assert named.bias is named.high_level is named.high_level_share is None


@pytest.mark.parametrize(("kind", "axes"), EVERY)
def test_heads_and_lesions_one_at_a_time_and_in_one_pass(kind, axes):
    network, images = toys.told(kind, axes), toys.images(axes)
    by_gradient = "he-grad-cam" if kind.startswith("he") else "grad-cam"
    network.body.saw_gradients.clear()
    found = activation_maps(network, images, (kind, by_gradient), head=None, relu=False)
    assert network.body.saw_gradients == [False]
    for method, every in found.items():
        assert every.heads == tuple(range(9))
        for head in range(0, 9, 4):
            alone = activation_map(network, images[1:2], method, head=head, relu=False)
            assert toys.close(alone.maps[0], every.maps[head, 1])
            assert torch.allclose(alone.scores[0], every.scores[head, 1], atol=1e-5)
            assert not toys.close(every.maps[head], every.maps[1], 0.05)
        some = activation_map(network, images, method, head=[7, 2], relu=False)
        assert toys.close(some.maps, every.maps[[7, 2]])


def test_upsampling_is_to_the_image():
    def make() -> toys.Told:
        body = nn.Sequential(toys.Body(3, 6, 2), nn.AvgPool2d(2))
        return toys.Told(body, CAMHead(Design(), 6, (8, 8), 2))

    network = toys.made(make)
    images = toys.images()
    small = activation_map(network, images, "cam", upsample=False).maps
    large = activation_map(network, images, "cam").maps
    assert small.shape[1:] == (8, 8)
    assert large.shape[1:] == (16, 16)
    assert torch.allclose(large[:, 0, 0], small[:, 0, 0])  # the corner has one neighbour
    # pixel 1 lies a quarter of the way from the middle of small pixel 0 to that of 1
    assert torch.allclose(large[:, 0, 1], 0.75 * small[:, 0, 0] + 0.25 * small[:, 0, 1], atol=1e-5)


# --- Heads and classes --------------------------------------------------------------------------


class Several(nn.Module):
    """Heads by name, with 2 and 3 classes."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.body = toys.Body(3, 6, 2)
        self.heads = nn.ModuleDict({"margin": nn.Linear(6, 3), "texture": nn.Linear(6, 3)})
        self.form = form

    def forward(self, images: torch.Tensor) -> Any:
        values = self.body(images).mean((2, 3))
        found = {name: head(values) for name, head in self.heads.items()}
        if self.form == "list":
            return list(found.values())
        return torch.stack(list(found.values()), 1) if self.form == "stacked" else found


def test_classes_of_several_heads():
    network, images = toys.made(lambda: Several("named")), toys.images()
    options = {"target": 2, "layer": "body", "relu": False}
    found = activation_map(network, images, "grad-cam", head="texture", **options)
    row, g = network.heads["texture"].weight[2], network.body(images)
    assert toys.close(found.maps, torch.einsum("k,nkyx->nyx", row, g) / 256)
    every = activation_map(network, images, "grad-cam", head=None, **options)
    assert every.heads == ("margin", "texture")
    for form in ("list", "stacked"):
        network.form = form
        again = activation_map(network, images, "grad-cam", head=1, **options)
        assert toys.close(again.maps, found.maps)


def test_columns_are_classes_when_a_target_is_given():
    network, images = toys.told("sam"), toys.images()
    by_head = activation_map(network, images, "sam", head=3)
    by_class = activation_map(network, images, "sam", target=3)
    torch.testing.assert_close(by_head.maps, by_class.maps)
    torch.testing.assert_close(by_head.scores, by_class.scores)


# --- Nothing is left behind ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"method": "hesam", "weights": "exact"},
    {"method": "he-grad-cam"},
    {"method": "grad-cam", "layer": "body.second"},
])  # fmt: skip
def test_a_model_is_left_as_it_was(options):
    network, images = toys.told("hesam"), toys.images().requires_grad_()
    network.train()
    network.body.norm.eval()  # a part that is frozen stays so
    network.body.first.weight.requires_grad_(False)
    network(images.detach()).sum().backward()  # gradients that a training loop may still need
    before = toys.state(network)
    network.body.saw_gradients.clear()
    found = activation_map(network, images, **options)
    assert not found.maps.requires_grad
    assert not found.scores.requires_grad
    torch.testing.assert_close(toys.state(network), before, rtol=0, atol=0)
    assert images.grad is None
    assert not any(network.body.saw_gradients), "the part before the feature map has no graph"


def test_a_layer_before_one_that_works_in_place():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
    network = toys.made(lambda: nn.Sequential(copy.deepcopy(body), nn.Flatten(), nn.Linear(4, 2)))
    images = toys.images()
    found = activation_map(network, images, "grad-cam", layer="0.0", relu=False, upsample=False)
    assert found.maps.min() < 0
    g = network[0][0](images)
    alpha = network[2].weight[0] * (g > 0).float().mean((2, 3)) / g[0, 0].numel()
    assert toys.close(found.maps, torch.einsum("nk,nkyx->nyx", alpha, g))


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options", "message"), [
    ("cam", {"method": "sam"}, "needs a head with local weights"),
    ("sam", {"method": "hesam"}, "adds no high-level features"),
    ("he-cam", {"method": "cam"}, "adds high-level features"),
    ("sam", {"method": "SAM"}, "method='SAM': expected one of cam, grad-cam"),
    ("sam", {"method": "sam", "head": "margin"}, "head='margin': the model has the heads 0, 1, 2"),
    ("sam", {"method": "sam", "head": []}, "expected one or more"),
    ("sam", {"method": "sam", "target": 9}, "target=9: head 0 has classes 0 to 8"),
    ("sam", {"method": "sam", "weights": "true"}, "weights='true'"),
    ("sam", {"method": "grad-cam", "weights": "exact"}, "no exact form"),
    ("sam", {"method": "grad-cam", "layer": "bodi"}, "layer='bodi': name the layer .* body.first"),
    ("sam", {"method": "grad-cam", "layer": "head"}, "layer: expected a feature map"),
    ("sam", {"method": "sam", "select": lambda x: x.logits[:, None, None]}, "expected a func"),
])  # fmt: skip
def test_bad_options(kind, options, message):
    with pytest.raises(ValueError, match=message):
        activation_map(toys.told(kind), toys.images(), **options)


def test_bad_images():
    images = toys.images()
    for bad in (images[:, :2], images.double(), images[0], images[:0]):
        with pytest.raises(ValueError, match=re.escape(f"shape {tuple(bad.shape)}")):
            activation_map(toys.told("sam"), bad, "sam")


def test_a_model_that_tells_nothing():
    network, images = toys.made(toys.Plain), toys.images()
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    twice.insert(1, twice[0])
    blocked = nn.Sequential(nn.Conv2d(3, 4, 3), NoGradients(), nn.Flatten(), nn.Linear(4, 2))
    for model, options, message in (
        (network, {"method": "cam"}, "method='cam', layer=None: needs a model with `trunk`"),
        (network, {"method": "grad-cam"}, "layer=None: name the layer"),
        (network, {"method": "grad-cam", "layer": "unused"}, "0 times"),
        (twice, {"method": "grad-cam", "layer": "0"}, "2 times"),
        (network, {"method": "cam", "layer": "body"}, "method='cam', layer='body': needs"),
        (
            toys.told("cam"),
            {"method": "cam", "select": lambda x: x.logits.sigmoid()},
            "linear",
        ),
        (blocked, {"method": "grad-cam", "layer": "0"}, "no gradient by the feature map"),
    ):
        with pytest.raises(ValueError, match=message):
            activation_map(model, images, **options)


class NoGradients(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.detach().mean((2, 3))
