from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from lesionlab import published
from lesionlab.attention import activation_map
from lesionlab.attributes import RATING_NAMES
from lesionlab.papers import fu2021
from lesionlab.papers.fu2021 import Fu2021, Network
from lesionlab.papers.fu2021 import model as model_parts
from lesionlab.papers.fu2021.model import Backbone, SliceMean

LENGTHS = (3, 1, 6, 2)
DISTINCT = ["full", "no_attention", "slice_attention", "cross_attribute", "volume",
            "malignancy_class", "only_margin"]  # fmt: skip


def make(variant="full", *, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Fu2021(variant).model(seed).to(dtype)


def wanted(experiment, n, *, seed=2):
    ratings = 1 + 3 * torch.rand(
        n, len(experiment.targets), generator=torch.Generator().manual_seed(seed)
    )
    if experiment.design.classes:
        ratings[:, -1] = torch.arange(n) % 2
    return ratings


def gradients(model):
    return {k: v.grad.clone() for k, v in model.named_parameters() if v.grad is not None}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters():
    model = Network()
    assert count(model.backbone) == 1_909_344
    assert count(model.slices) == 33_025
    assert count(model.modulation.specialise) == 9 * 65_792
    assert count(model.modulation.score) == 9 * 256
    assert count(model.attention) == 9 * 33_025
    assert count(model.heads) == 9 * (65_792 + 256)
    assert count(model) == 3_428_458


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("no_attention", 1_909_344 + 594_432),
        ("cross_attribute", 3_428_458 - 33_025 - 2_304),
        ("cross_attribute_auxiliary", 3_428_458 - 33_025),
        ("volume", 3 * 1_908_000 + 1_344 + 594_432),
        ("only_margin", 1_909_344 + 33_025 + (592_128 + 2_304 + 297_225 + 594_432) // 9),
    ],
)
def test_parameters_of_variants(variant, expected):
    assert count(make(variant)) == expected


@pytest.mark.parametrize("variant", DISTINCT)
def test_packed_equals_one_by_one(make_packed, variant):
    """In double precision to 1e-10: nothing but rounding is left for single precision."""
    experiment = replace(Fu2021(variant), depth=8)
    model, samples = make(variant, dtype=torch.float64), make_packed(LENGTHS, dtype=torch.float64)
    targets = wanted(experiment, 4).double()
    outputs = experiment.forward(model, samples)
    experiment.loss(outputs, targets)[0].backward()
    packed = gradients(model)
    model.zero_grad()
    parts = []
    for one, its in zip(samples.split(1), targets.split(1), strict=True):
        parts.append(experiment.forward(model, one))
        (experiment.loss(parts[-1], its)[0] / 4).backward()
    for name, value in vars(outputs).items():
        if value is not None:
            alone = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(value, alone, rtol=0, atol=1e-10)
    alone = gradients(model)
    assert packed.keys() == alone.keys()
    largest = max(g.abs().max() for g in packed.values())
    for name, gradient in packed.items():
        assert (gradient - alone[name]).abs().max() < 1e-10 * largest, name


def one_nodule(model, images):
    """Sections 2.1 to 2.3, written attribute by attribute with plain functions."""
    p = dict(model.named_parameters())

    def linear(x, name, t):
        y = p[f"{name}.weight"][t] @ x
        return y + p[f"{name}.bias"][t] if f"{name}.bias" in p else y

    vectors = []
    for image in images:
        x = image[None]
        for i, n in enumerate((2, 2, 3, 3)):
            x = functional.max_pool2d(x, 2) if i else x
            for j in range(n):
                name = f"backbone.blocks.{i}.{j}"
                x = functional.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1).relu()
        vectors.append(x.mean((2, 3))[0])
    scores = []
    for x in vectors:
        hidden = (p["slices.w0.weight"] @ x + p["slices.w0.bias"]).relu()
        scores.append((p["slices.w1.weight"] @ hidden + p["slices.w1.bias"])[0])
    alpha = torch.stack(scores).exp() / sum(s.exp() for s in scores)
    content = sum(a * x for a, x in zip(alpha, vectors, strict=True))
    own = [linear(content, "modulation.specialise", t) for t in range(9)]
    auxiliary = torch.stack([linear(own[t], "modulation.score", t)[0].sigmoid() for t in range(9)])
    q = torch.empty(9, 9, dtype=images.dtype)
    for t in range(9):
        for k in range(9):
            q[t, k] = linear(linear(own[k], "attention.w0", t).relu(), "attention.w1", t)[0]
    mixed = [sum(q[t, k] * own[k] for k in range(9)) for t in range(9)]
    final = torch.stack(
        [linear(linear(mixed[t], "heads.first", t).relu(), "heads.last", t)[0] for t in range(9)]
    ).sigmoid()
    return final, auxiliary, alpha, q


def test_against_a_loop_over_attributes(make_packed):
    model, samples = make(dtype=torch.float64), make_packed(LENGTHS, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which start at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
        outputs = model(samples.images, samples.nodule)
        for i in range(4):
            its = samples.nodule == i
            final, auxiliary, alpha, q = one_nodule(model, samples.images[its])
            for found, expected in [
                (outputs.predictions[i], final),
                (outputs.auxiliary[i], auxiliary),
                (outputs.slice_weights[its], alpha),
                (outputs.attribute_weights[i], q),
            ]:
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_cross_attribute_attention_by_hand():
    attention = model_parts.CrossAttributeAttention(2)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.w0.weight[0, 0, 0] = 1  # attribute 0: twice the first value, where positive
        attention.w1.weight[0, 0, 0] = 2
        attention.w1.bias[1, 0] = -3  # attribute 1: -3 for every vector
    vectors = torch.zeros(1, 2, 256)
    vectors[0, :, 0] = torch.tensor([5.0, -1.0])
    vectors[0, :, 1] = torch.tensor([1.0, 2.0])
    mixed, weights = attention(vectors)
    assert weights.tolist() == [[[10.0, 0.0], [-3.0, -3.0]]]
    assert mixed[0, :, :2].tolist() == [[50.0, 10.0], [-12.0, -9.0]]


def test_loss_by_hand():
    experiment = Fu2021("lambda_10")
    targets = torch.tensor([[1.0] * 9, [1.0] * 9])
    targets[1, 1], targets[1, 2] = 4.0, 6.0  # the upper ends of the two other scales: 1
    final, auxiliary = torch.zeros(2, 9), torch.zeros(2, 9)
    final[0, 0], auxiliary[0, 3] = 0.5, 1.0
    total, parts = experiment.loss(fu2021.Outputs(final, auxiliary), targets)
    assert float(parts["prediction"]) == pytest.approx((0.25 + 1 + 1) / 2)
    assert float(parts["auxiliary"]) == pytest.approx((1 + 1 + 1) / 2)
    assert float(total) == pytest.approx(10 * 1.5 + 1.125)


def test_loss_of_a_class_and_of_missing_labels_by_hand():
    experiment = Fu2021("malignancy_class")
    final = torch.full((2, 9), 0.5, requires_grad=True)
    labels = torch.full((2, 9), 3.0)
    labels[:, 1], labels[:, 2] = 2.5, 3.5  # the middles of the two other scales
    labels[:, -1] = torch.tensor([1.0, torch.nan])
    labels[0, 0], labels[1, 0] = torch.nan, 5.0
    total, _ = experiment.loss(fu2021.Outputs(final), labels)
    assert float(total.detach()) == pytest.approx((np.log(2) + 0.5**2) / 2, rel=1e-5)
    total.backward()
    assert final.grad.isfinite().all()


def test_the_auxiliary_loss_reaches_what_it_should(make_packed):
    samples, model = make_packed(LENGTHS), make()
    model(samples.images, samples.nodule).auxiliary.sum().backward()
    reached = {name.split(".")[0] for name in gradients(model)}
    assert reached == {"backbone", "slices", "modulation"}


def test_tables_name_variants_and_the_papers_rows():
    for table, rows in fu2021.TABLES.items():
        frame = published.table("fu2021", table)
        printed = [f"{v:g}" if isinstance(v, float) else v for v in frame.iloc[:, 0]]
        assert list(rows) == printed
        assert set(rows.values()) <= set(fu2021.VARIANTS)
    assert {f"only_{name}" for name in RATING_NAMES} <= set(fu2021.VARIANTS)


def test_predictions_are_in_rating_steps():
    experiment = Fu2021()
    scores = torch.tensor([[0.0] * 9, [1.0] * 9, [0.5] * 9])
    low, high, middle = experiment.predict(fu2021.Outputs(scores)).tolist()
    assert low == [1] * 9
    assert high == [5, 4, 6, 5, 5, 5, 5, 5, 5]
    assert middle == [3, 2.5, 3.5, 3, 3, 3, 3, 3, 3]
    probability = Fu2021("malignancy_class").predict(fu2021.Outputs(scores))[:, -1]
    assert probability.tolist() == [0, 1, 0.5]


def test_targets():
    rows = {name: [1.0, 3.5, 4.0] for name in RATING_NAMES} | {"malignancy": [1.5, 3.0, 4.5]}
    table = pd.DataFrame(rows, index=["a", "b", "c"])
    assert Fu2021.labels(table)[:, 0].tolist() == [1, 3.5, 4]
    assert Fu2021.labels(table, "only_margin").tolist() == [[1], [3.5], [4]]
    label = Fu2021.labels(table, "malignancy_class")[:, -1]
    torch.testing.assert_close(label, torch.tensor([0, torch.nan, 1]), equal_nan=True)


def test_initial_weights():
    model = make()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
    deep = model.backbone.blocks[3][2].weight
    assert float(deep.detach().std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    for branches in (model.modulation.specialise, model.attention.w0, model.heads.last):
        _, out, into = branches.weight.shape
        limit = (6 / (into + out)) ** 0.5
        assert 0.9 * limit < float(branches.weight.detach().abs().max()) <= limit


def test_half_precision_gives_scores_near_by(make_packed):
    samples, model = make_packed(LENGTHS), make()
    with torch.no_grad():
        exact = model(samples.images, samples.nodule)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(samples.images, samples.nodule)
            experiment = Fu2021("malignancy_class")
            assert experiment.loss(rough, wanted(experiment, 4))[0].isfinite()
    assert rough.predictions.dtype == torch.float32
    torch.testing.assert_close(rough.predictions, exact.predictions, rtol=0, atol=0.05)


IMAGES, NODULE = torch.zeros(3, 1, 16, 16), torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ("no_attention", (IMAGES[0], NODULE), r"expected \(slice, 1, y, x\).* \(1, 16, 16\)"),
        ("no_attention", (IMAGES[..., :7], NODULE), "8 or more along each side"),
        ("no_attention", (IMAGES, NODULE[:2]), "int64 index for each of 3 slices"),
        ("volume", (IMAGES,), r"expected \(nodule, 1, z, y, x\)"),
        ("volume", (IMAGES[:, :, None],), r"8 or more .* got shape \(3, 1, 1, 16, 16\)"),
    ],
)
def test_wrong_shapes(variant, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(variant)(*arguments)


def test_backbone_in_three_axes_is_the_one_in_two():
    """A volume of slices alike, with filters that look at their own slice only."""
    torch.manual_seed(0)
    flat, deep = Backbone(), Backbone(axes=3)
    deep.pool = nn.MaxPool3d((1, 2, 2))
    with torch.no_grad():
        for a, b in zip(flat.parameters(), deep.parameters(), strict=True):
            if a.ndim == 4:
                b.zero_()
                b[:, :, 1] = a
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(
        flat(images), deep(images[:, :, None].expand(-1, -1, 8, -1, -1)), rtol=0, atol=1e-5
    )


def test_slice_mean():
    content, weights = SliceMean()(torch.arange(6.0).view(3, 2), torch.tensor([0, 0, 1]), 2)
    assert content.tolist() == [[1, 2], [4, 5]]
    assert weights.tolist() == [0.5, 0.5, 1]


def test_the_written_out_chain_rule_is_the_gradient():
    """What a page runs has no gradients: LiveHead against autograd, for each of nine scores."""
    model = make(seed=3).eval().requires_grad_(False)
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    nodule = torch.zeros(4, dtype=torch.int64)
    live = Fu2021("full").live(model)
    scores, maps, weights, mixing = live.head(live.trunk(images))
    said = model(images, nodule, 1)
    expected = activation_map(model, images, "grad-cam", head=None, inputs=(nodule, 1)).maps
    assert torch.allclose(maps, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    assert torch.allclose(scores, Fu2021("full").predict(said)[0], atol=1e-5)
    assert torch.allclose(weights, said.slice_weights, atol=1e-6)
    assert torch.allclose(mixing, said.attribute_weights[0], atol=1e-5)
