import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from lesionlab import attention
from lesionlab.papers import li2021
from lesionlab.papers.li2021 import ChannelAttention, Li2021, SoftAttention, tables

CLASSES = (6, 5, 2, 3, 2, 3, 2, 2, 2)
ATTENTIONS = ("basic", "soft", "self")

PARAMETERS = {
    "2d": (4_836_827, 8_382_692, 5_131_739),
    "2.5d": (4_839_131, 8_384_996, 5_134_043),
    "2.5d11": (4_842_587, 8_388_452, 5_137_499),
    "3d": (14_127_707, 17_673_572, 14_422_619),
    "3d32": (14_127_707, 17_673_572, 14_422_619),
    "2d_narrow": (306_059, 528_980, 324_491),
    "2.5d_narrow": (306_635, 529_556, 325_067),
    "3d32_narrow": (886_955, 1_109_876, 905_387),
}


def make(variant="self_2d", seed=0):
    torch.manual_seed(seed)
    experiment = Li2021(variant)
    return experiment, experiment.model(seed).eval()


def images(variant, n=3, size=32):
    design = li2021.VARIANTS[variant]
    drawn = torch.Generator().manual_seed(1)
    return torch.rand(n, design.n_slices, *[size] * design.axes, generator=drawn)


def codes(n=4, seed=0):
    drawn = np.random.default_rng(seed)
    return torch.from_numpy(
        np.stack([drawn.integers(1, k + 1, n) for k in CLASSES], axis=1).astype(np.float32)
    )


def test_parameters():
    found = tables.parameters()
    expected = {
        f"{a}_{mode}": n for mode, counts in PARAMETERS.items()
        for a, n in zip(ATTENTIONS, counts, strict=True)
    }  # fmt: skip
    assert found.to_dict() == expected
    assert next(iter(li2021.VARIANTS)) == "self_2d"
    # by hand: convolutions and three batch normalisations of each residual block, linear layers
    blocks = 9 * 64 + 2 * 64
    blocks += sum((9 + 1) * a * 2 * a + 9 * 4 * a * a + 6 * 2 * a for a in (64, 128, 256))
    assert found["basic_2d"] == blocks + sum(CLASSES) * 513
    narrow = 9 * 16 + 2 * 16
    narrow += sum((9 + 1) * a * 2 * a + 9 * 4 * a * a + 6 * 2 * a for a in (16, 32, 64))
    assert found["basic_2d_narrow"] == narrow + sum(CLASSES) * 129
    assert found["self_2d"] - found["basic_2d"] == 9 * 2 * 512 * 32
    gate = 256 * 512 + 512 * 512 + 2 * 512 + 513
    assert found["soft_2d"] == blocks + 9 * gate + sum(CLASSES) * 257
    assert found["basic_2.5d"] - found["basic_2d"] == 4 * 9 * 64  # four channels more


def soft(p, x, x_g):
    """5.2.1 by plain functions: one product over channels for each 1 × 1 convolution."""

    def one_by_one(name, maps):
        return torch.einsum("oi,ni...->no...", p[f"{name}.weight"].flatten(1), maps) + p[
            f"{name}.bias"
        ].reshape(1, -1, *[1] * (maps.ndim - 2))

    mode = "bilinear" if x.ndim == 4 else "trilinear"
    x_g = functional.interpolate(x_g, x.shape[2:], mode=mode)
    mixed = (one_by_one("of_x", x) + one_by_one("of_gate", x_g)).clamp(min=0)
    x_m = 1 / (1 + (-one_by_one("fuse", mixed)).exp())
    return x_m * x, x_m


def channel(p, x):
    """5.2.2 by plain functions."""
    z = torch.stack([maps.mean() for lesion in x for maps in lesion]).reshape(x.shape[:2])
    hidden = torch.einsum("oi,ni->no", p["w2.weight"], z).clamp(min=0)
    x_m = 1 / (1 + (-torch.einsum("oi,ni->no", p["w1.weight"], hidden)).exp())
    return torch.einsum("nc...,nc->nc...", x, x_m), x_m


@pytest.mark.parametrize("axes", [2, 3])
def test_attentions_are_their_formulas(axes):
    torch.manual_seed(3)
    x, x_g = torch.randn(2, 32, *[6] * axes), torch.randn(2, 48, *[3] * axes)
    gate, weights = SoftAttention(32, 48, axes), ChannelAttention(32)
    for made, expected in (
        (gate(x, x_g), soft(dict(gate.named_parameters()), x, x_g)),
        (weights(x), channel(dict(weights.named_parameters()), x)),
    ):
        for one, other in zip(made, expected, strict=True):
            assert one.shape == other.shape
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["basic_2d", "soft_2.5d", "self_2.5d11", "soft_3d", "self_3d"])
def test_what_a_network_says(variant):
    experiment, network = make(variant)
    given = images(variant)
    found = network(given)
    assert tuple(found.logits) == experiment.attributes == li2021.ATTRIBUTES
    assert [scores.shape for scores in found.logits.values()] == [(3, k) for k in CLASSES]
    said = experiment.predict(found)
    assert said.shape == (3, 27)
    torch.testing.assert_close(said.sum(1), torch.full((3,), 9.0))
    kind = variant.split("_")[0]
    assert (found.gates is None, found.channels is None) == (kind != "soft", kind != "self")
    maps = network.trunk(given)
    assert maps.shape[1:] == (256, *[4] * (given.ndim - 2))
    weights = found.gates if kind == "soft" else found.channels
    if weights is not None:
        # a head with these weights alone gives the logits, so that they are those that counted
        head, name = network.heads["margin_clarity"], "margin_clarity"
        deep = network.last_block(maps)
        own = weights[:, li2021.ATTRIBUTES.index(name)]
        features = (
            maps * own[:, None]
            if kind == "soft"
            else deep * own.reshape(*own.shape, *[1] * (deep.ndim - 2))
        )
        torch.testing.assert_close(
            head.classifier(features.flatten(2).mean(2)), found.logits[name], rtol=0, atol=1e-5
        )
    with pytest.raises(ValueError, match=r"images: expected \(lesion, \d+, (z, )?y, x\), got"):
        network(given[:, :, None])


def test_3d_of_one_slice_repeated_is_the_2d_network():
    """With 2D kernels in the middle slice of the 3D ones, places differ along z by padding only."""
    torch.manual_seed(0)
    flat = li2021.model.ConvolutionBlock(1, 4, 2).eval()
    solid = li2021.model.ConvolutionBlock(1, 4, 3).eval()
    with torch.no_grad():
        solid[0].weight.zero_()
        solid[0].weight[:, :, 1] = flat[0].weight
        image = torch.rand(2, 1, 8, 8)
        repeated = solid(image[:, :, None].expand(-1, -1, 8, -1, -1))
        torch.testing.assert_close(repeated[:, :, 2], flat(image), rtol=0, atol=1e-6)


# loss


def test_weights_are_inverse_frequencies_of_mean_1():
    labels = torch.tensor([[1.0], [1], [1], [2], [0], [torch.nan]])
    location = li2021.target(li2021.category("lesion_location"))
    # thirds and ones of the classes that are there: 1/3 and 1, of mean 2/3
    assert li2021.class_weights([location], labels) == (pytest.approx((0.5, 1.5, 0, 0, 0)),)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_torchs_weighted_cross_entropy_summed_over_heads(weighted):
    experiment, network = make()
    labels = codes(8)
    if weighted:
        experiment = experiment.balanced(codes(40, seed=1))
    outputs = network(images("self_2d", 8))
    total, parts = experiment.loss(outputs, labels)
    for head, (name, logits) in enumerate(outputs.logits.items()):
        weights = torch.tensor(experiment.weights[head]) if weighted else None
        truth = labels[:, head].long() - 1
        expected = functional.cross_entropy(logits, truth, weight=weights, reduction="sum") / 8
        torch.testing.assert_close(parts[name], expected)
    torch.testing.assert_close(total, sum(parts.values()))


def test_several_lobes_teach_the_location_nothing_and_the_other_heads_all():
    experiment, network = make()
    experiment = experiment.balanced(codes(40, seed=1))
    labels = codes(4)
    labels[:, 1] = torch.tensor([0.0, 2, 0, torch.nan])
    outputs = network(images("self_2d", 4))
    for logits in outputs.logits.values():
        logits.retain_grad()
    experiment.loss(outputs, labels)[0].backward()
    for name, logits in outputs.logits.items():
        learned = (logits.grad != 0).any(dim=1).tolist()
        assert learned == ([False, True, False, False] if name == "lesion_location" else [True] * 4)
    network.zero_grad()
    labels[:, 1] = 0
    experiment.loss(network(images("self_2d", 4)), labels)[0].backward()
    assert not network.heads["lesion_location"].classifier.weight.grad.any()


# recipes and labels


def test_the_printed_recipe():
    printed, literal = (li2021.PRESETS[name].recipe for name in ("paper", "paper_literal"))
    assert (printed.epochs, printed.batch_size, printed.lr) == (200, 64, 0.01)
    assert (printed.optimizer, printed.momentum, printed.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (printed.select_by, printed.select_on, literal.select_on) == (
        "loss",
        "validation",
        "test",
    )
    assert literal.momentum == 0.09
    assert dataclasses.replace(literal, momentum=0.9, select_on="validation") == printed
    laptop = li2021.PRESETS["laptop"].recipe
    assert (laptop.schedule.epochs, laptop.schedule.grow, laptop.epochs) == (10, 2, 10 + 20)


def test_heads_follow_from_the_labels_that_a_data_set_has():
    nine, six = Li2021("soft_2d").on("phantom-li2021"), Li2021("soft_2d").on("slices")
    assert (nine.attributes, nine.thresholds) == (li2021.ATTRIBUTES, None)
    assert six.attributes == li2021.lidc.ATTRIBUTES
    assert six.settings()["thresholds"] == li2021.Thresholds()
    assert "weights" not in six.balanced(torch.ones(2, 6)).settings()
    rows = pd.DataFrame({"cavity": [1, 2], "margin_clarity": [2, None], "diameter": [3.0, 4.0]})
    torch.testing.assert_close(
        Li2021.labels(rows), torch.tensor([[2.0, 1], [torch.nan, 2]]), equal_nan=True
    )


# maps


@pytest.mark.parametrize("variant", ["basic_2d", "soft_2.5d", "self_3d"])
def test_grad_cam_by_hand(variant):
    """The classifier's gradient by the third block's output, by autograd alone."""
    _, network = make(variant)
    given = images(variant, 2)
    found = attention.activation_map(
        network, given, "grad-cam", head="spiculation_length", target=1, upsample=False
    )
    maps = network.trunk(given).detach().requires_grad_()
    score = network.head(maps).logits["spiculation_length"][:, 1]
    (gradient,) = torch.autograd.grad(score.sum(), maps)
    weights = gradient.flatten(2).mean(2)
    expected = torch.einsum("nc,nc...->n...", weights, maps).clamp(min=0)
    assert expected.shape == (2, *[4] * (given.ndim - 2))
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.scores, score, rtol=1e-4, atol=1e-6)
    large = attention.activation_map(network, given, "grad-cam", head=5, target=1)
    assert large.maps.shape == (2, *given.shape[2:])
