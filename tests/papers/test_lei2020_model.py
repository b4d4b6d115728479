import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from lesionlab.attributes import RATING_NAMES
from lesionlab.papers import lei2020
from lesionlab.papers.lei2020 import VARIANTS, Design, Lei2020, Network, comparators
from lesionlab.papers.lei2020.model import CAMHead, SAMHead, UNet

QUICK = {"hesam", "cam", "baseline", "pn_samp", "sag_c", "hesam_concatenated", "cam_ratings"}
DESIGNS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in VARIANTS
    if not name.endswith(("_d1c", "_d3c", "_d21c"))
]


def side(name):
    """Pixels for tests: the networks of others need 32, ours learn in a quarter of the time."""
    return 16 if VARIANTS[name].trunk == "unet" else 32


def count(module):
    return sum(p.numel() for p in module.parameters())


def draw(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(design, *, seed=0, dtype=torch.float32, **options):
    """Not as it starts: biases are not 0, and running statistics not 0 and 1."""
    torch.manual_seed(seed)
    design = VARIANTS[design] if isinstance(design, str) else design
    model = Network(design, **options).to(dtype)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("bias") or "running_mean" in name:
                value.add_(0.1 * torch.randn_like(value))
            elif "running_var" in name:
                value.mul_(0.5 + torch.rand_like(value))
    return model.eval()


def test_parameters():
    def pair(a, b):
        return 9 * a * b + b + 9 * b * b + b

    model = Network()
    down = pair(11, 32) + pair(32, 64) + pair(64, 128) + pair(128, 256)
    up = sum(4 * a * b + b + pair(a, b) for a, b in [(256, 128), (128, 64), (64, 32)])
    first = 9 * 64 * 256 + 9 * 256 * 256 + 64 * 256 + 3 * 512
    second = 2 * 9 * 256 * 256 + 2 * 512
    assert count(model.trunk) == down + up + (32 * 64 + 64) + first + second
    assert count(model.head.local) == 256 * 36 + 256
    assert count(model.head.classifier) == 2 * 256 + 2
    assert count(model) == 3_875_842


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("hesam_d21c", 3_875_842 + 10 * 9 * 32),
        ("baseline", 3_875_842 - 256 * 37 + 2 * 256 * 255),
        ("hesam_ratings", 3_875_842 + 7 * 257),
        ("fully_connected", 3_875_842 - 9_472 + 2_359_552),  # Appendix C
        # 192 maps more from the U-Net, into the first residual block and its way around
        ("unet_residual_sam", 3_875_842 + 192 * 33 + 192 * 256 * 10),
        # 14 × 14 places, no residual blocks
        ("unet_sam", 1_936_320 + 256 * 197 + 514),
    ],
)
def test_parameters_of_variants(variant, expected):
    with torch.device("meta"):  # sizes without values
        assert count(Network(VARIANTS[variant])) == expected


@pytest.mark.parametrize(
    ("name", "published_parameters", "last"),
    [
        ("resnet18", 11_689_512, 513_000),
        ("resnet34", 21_797_672, 513_000),
        ("vgg16", 138_357_544, 123_642_856),
        ("densenet121", 7_978_856, 1_025_000),
    ],
)
def test_compared_networks_have_the_published_parameters(name, published_parameters, last):
    """For photographs, three channels, and 1,000 classes; strides and pools have none."""
    with torch.device("meta"):
        for large_maps in (False, True):
            design = Design(trunk=name, head="cam" if large_maps else "own")
            assert count(comparators.trunk(design, 3)) == published_parameters - last


@pytest.mark.parametrize("part", ["trunk", "head"])
def test_an_unknown_part_is_named(part):
    with pytest.raises(ValueError, match=rf"{part}='x': expected one of .*own|{part}='x': .*unet"):
        Network(Design(**{part: "x"}))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hesam_d3c", (256, 16, 16)),
        ("vgg16", (512, 1, 1)),
        ("densenet121", (1024, 1, 1)),
        ("resnet18_sam", (512, 16, 16)),
        ("vgg16_cam", (512, 16, 16)),
        pytest.param("densenet121_sam", (1024, 16, 16), marks=pytest.mark.slow),
        ("sag_c", (128, 2, 2)),
        ("pn_samp", (64, 32, 32)),
    ],
)
def test_maps_of_the_compared_networks(name, size):
    images = draw(1, lei2020.N_CHANNELS[VARIANTS[name].images], 32, 32)
    with torch.no_grad():
        assert make(name).trunk(images).features.shape[1:] == size


def reference(model, images):
    """Figure 3 and eq. 5, 6, 12 for one batch, written with plain functions from named weights."""
    p = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def conv(x, name, stride=1):
        weight = p[f"{name}.weight"]
        return functional.conv2d(
            x, weight, p.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2
        )

    def norm(x, name):
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        scale = (p[f"{name}.weight"] / (var + 1e-5).sqrt())[:, None, None]
        return (x - mean[:, None, None]) * scale + p[f"{name}.bias"][:, None, None]

    def pair(x, name):
        return conv(conv(x, f"{name}.0").relu(), f"{name}.2").relu()

    def up(x, name):  # each pixel becomes 2 × 2, without overlap
        weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        tiles = torch.einsum("nchw,cdij->ndhiwj", x, weight) + bias[:, None, None, None, None]
        n, d, h, _, w, _ = tiles.shape
        return tiles.reshape(n, d, 2 * h, 2 * w)

    a = pair(images, "trunk.down.0")
    b = pair(functional.max_pool2d(a, 2), "trunk.down.1")
    c = pair(functional.max_pool2d(b, 2), "trunk.down.2")
    deepest = pair(functional.max_pool2d(c, 2), "trunk.down.3")
    x = pair(torch.cat([c, up(deepest, "trunk.up.0")], 1), "trunk.join.0")
    x = pair(torch.cat([b, up(x, "trunk.up.1")], 1), "trunk.join.1")
    x = pair(torch.cat([a, up(x, "trunk.up.2")], 1), "trunk.join.2")
    g = conv(x, "trunk.last")
    for i, stride in ((0, 2), (1, 1)):
        name = f"trunk.residual.{i}"
        inner = norm(conv(g, f"{name}.first", stride), f"{name}.first_norm").relu()
        inner = norm(conv(inner, f"{name}.second"), f"{name}.second_norm")
        around = norm(conv(g, f"{name}.around.0", 2), f"{name}.around.1") if i == 0 else g
        g = (inner + around).relu()
    sums = []
    for k in range(g.shape[1]):
        windows = [
            g[:, k, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5].mean((1, 2))
            for i in range(6)
            for j in range(6)
        ]
        h = sum(w * v for w, v in zip(p["head.local.weight"][k].flatten(), windows, strict=True))
        sums.append(h + p["head.local.bias"][k] + deepest[:, k].amax((1, 2)))
    gamma = p["head.classifier.weight"]
    scores = [sum(gamma[c, k] * s for k, s in enumerate(sums)) for c in range(2)]
    return g, torch.stack(scores, 1) + p["head.classifier.bias"]


def test_against_plain_functions():
    model, x = make("hesam", dtype=torch.float64), draw(2, 11, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        outputs = model(x)
        g, logits = reference(model, x)
    torch.testing.assert_close(outputs.features, g, rtol=0, atol=1e-10)
    torch.testing.assert_close(outputs.logits, logits, rtol=0, atol=1e-10)


def test_hesam_is_sam_and_an_offset():
    hesam, sam, x = make("hesam"), make("sam", seed=5), draw(3, 11, 32, 32)
    sam.load_state_dict(hesam.state_dict())
    with torch.no_grad():
        both, alone = hesam(x), sam(x)
        torch.testing.assert_close(both.logits, alone.logits + both.high_level)
        assert alone.high_level is None
        # eq. 12, d the maxima
        d = hesam.trunk(x).high_level.amax((2, 3))
        torch.testing.assert_close(both.high_level, d @ hesam.head.classifier.weight.T)
    assert both.high_level.abs().min() > 1e-4


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"high_level": "max"}, [4, 2, -1]),
        ({"high_level": "average"}, [2, 1.5, -2]),
        ({"high_level": "max", "roll": 1}, [-1, 4, 2]),
    ],
)
def test_high_level_values_by_hand(parts, expected):
    deepest = torch.tensor([[[[0.0, 4.0]], [[1.0, 2.0]], [[-3.0, -1.0]]]])
    head = CAMHead(Design(**parts), 3, (5, 5), 1)
    assert head.high_level(deepest).tolist() == [expected]


def test_pooling_modes_of_table_3():
    """A map with one bright pixel: the maximum of a window, a 25th of it on average."""
    features = torch.zeros(1, 1, 5, 5)
    features[..., 2, 3] = 50.0
    values = {}
    for pool in ("average", "max"):
        head = SAMHead(Design(pool=pool), 1, (5, 5), 1)
        with torch.no_grad():
            head.local.weight.fill_(1)
            head.local.bias.zero_()
            values[pool] = head.values(features).item()
    assert values == {"average": pytest.approx(2.0), "max": 50.0}


def test_three_axes_are_the_two_for_each_slice():
    """With filters that look at their own slice only."""
    torch.manual_seed(0)
    flat, deep = UNet(1, Design(width=4)).eval(), UNet(3, Design(width=4, axes=3)).eval()
    with torch.no_grad():
        for a, b in zip(flat.parameters(), deep.parameters(), strict=True):
            if a.ndim == 4:
                b.zero_()
                b[:, :, b.shape[2] // 2] = a
            else:
                b.copy_(a)
        images = draw(2, 3, 16, 24)
        volume = deep(images)
        for z in range(3):
            slices = flat(images[:, z : z + 1])
            torch.testing.assert_close(volume.features[:, :, z], slices.features)
            torch.testing.assert_close(volume.high_level[:, :, z], slices.high_level)


def test_attention_gate_is_a_weighted_mean():
    torch.manual_seed(0)
    gate, features = comparators.AttentionGate(3, 4), draw(2, 3, 8, 8)
    gating = draw(2, 4, 2, 2, seed=2)
    with torch.no_grad():
        # the same value everywhere: any weights of sum 1 give it back
        same = gate(torch.ones(2, 3, 8, 8), gating.new_tensor([[[[0.0]], [[1.0]]] * 2] * 2))
        assert same.isfinite().all()
        signal = functional.interpolate(gate.phi(gating), size=(8, 8), mode="bilinear")
        scores = gate.psi((gate.theta(features) + signal).relu())[:, 0]
        low = scores.amin((1, 2), keepdim=True)
        weights = (scores - low) / (scores - low).sum((1, 2), keepdim=True)
        expected = torch.einsum("nyx,ncyx->nc", weights, features)
        torch.testing.assert_close(gate(features, gating), expected)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_parameter_learns(name):
    experiment = Lei2020(name)
    model, design = make(name, size=side(name)).train(), VARIANTS[name]
    outputs = model(draw(2, lei2020.N_CHANNELS[design.images], side(name), side(name)))
    assert (outputs.high_level is None) == (design.high_level is None)
    experiment.loss(outputs, wanted(experiment, 2))[0].backward()
    still = [k for k, v in model.named_parameters() if v.grad is None or not v.grad.any()]
    # behind a max pool of maps of 1 × 1, or an attention gate, some may have nothing to do
    assert [k for k in still if "gates" not in k and "around" not in k] == []
    prediction = experiment.predict(outputs)
    low, high = (1, 6) if design.ratings else (0, 1)
    assert prediction.shape == (2, len(experiment.targets))
    assert ((prediction >= low) & (prediction <= high)).all()


def wanted(experiment, n):
    if experiment.design.ratings:
        return 1 + 3 * torch.rand(n, 9, generator=torch.Generator().manual_seed(2))
    return (torch.arange(n) % 2)[:, None].float()


def test_one_lesion_left_over_in_the_last_batch():
    """ResNet-18 ends in one pixel: batch normalisation has a single value to go by."""
    model = make("resnet18").train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    outputs = model(draw(1, 11, 32, 32))
    assert outputs.logits.isfinite().all()
    for name, value in model.named_buffers():  # the last stage has 1 × 1, the first 8 × 8
        if "running_mean" in name:
            assert torch.equal(value, before[name]) == (outputs.features.shape[1] == len(value))


def of(logits):
    return lei2020.Outputs(torch.tensor(logits), torch.zeros(len(logits), 1, 1, 1))


def test_loss_and_probability_by_hand():
    experiment = Lei2020()
    outputs = of([[0.0, float(np.log(3))], [5.0, 5.0]])  # malignant by 3/4, and 1/2
    torch.testing.assert_close(experiment.predict(outputs), torch.tensor([[0.75], [0.5]]))
    loss, _ = experiment.loss(outputs, torch.tensor([[1.0], [0.0]]))
    assert float(loss) == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)


def test_ratings_by_hand():
    experiment = Lei2020("sam_ratings")
    assert tuple(target.name for target in experiment.targets) == RATING_NAMES
    outputs = of([[-100.0] * 9, [0.0] * 9])
    low, middle = experiment.predict(outputs).tolist()
    assert low == pytest.approx([1] * 9)
    assert middle == pytest.approx([3, 2.5, 3.5, 3, 3, 3, 3, 3, 3])
    targets = torch.ones(2, 9)
    targets[0, 2] = 6.0
    loss, _ = experiment.loss(outputs, targets)
    assert float(loss) == pytest.approx((1 + 9 * 0.25) / 2)


def test_targets():
    table = pd.DataFrame({name: [1.0, 3.0, 4.25] for name in RATING_NAMES})
    found = Lei2020.labels(table)
    torch.testing.assert_close(found, torch.tensor([[0.0], [np.nan], [1.0]]), equal_nan=True)
    assert Lei2020.labels(table, "cam_ratings")[:, 8].tolist() == [1, 3, 4.25]


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(11, 32, 32),
        torch.zeros(2, 11, 32, 32, dtype=torch.int16),
        torch.zeros(2, 11, 32, 24),
    ],
)
def test_wrong_images(images):
    with pytest.raises(ValueError, match=r"expected floating point \(lesion, 11, 32, 32\), got "):
        make("sam")(images)


@pytest.mark.parametrize(("variant", "size", "least"), [
    ("sam", 8, 16), ("baseline", 20, 16), ("sag_c", -16, 16), ("resnet18_sam", 24, 32),
])  # fmt: skip
def test_wrong_sizes(variant, size, least):
    with pytest.raises(ValueError, match=f"size={size}: expected a multiple of 8, {least} or more"):
        Lei2020(variant, size=size).model(0)
