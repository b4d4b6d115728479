"""Liu 2020's networks, their weights from ImageNet, the losses, and the kept features."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import skimage
import sklearn
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from lesionlab.attention import activation_map
from lesionlab.papers import liu2020
from lesionlab.papers.liu2020 import ATTRIBUTES, Liu2020, backbones, imagenet, ranking
from lesionlab.papers.liu2020.backbones import WeightsError
from lesionlab.papers.liu2020.model import Design, Heads
from lesionlab.training.loop import fit
from lesionlab.training.recipes import Schedule
from lesionlab.training.targets import columns

installed = pytest.mark.skipif(
    imagenet.locate("lite0") is None, reason="the extra imagenet is not installed"
)


@pytest.fixture(scope="module")
def resnet50():
    """A ResNet-50 whose normalisations have something to do, as torchvision names its weights."""
    torch.manual_seed(3)
    net = backbones.resnet(50)
    for name, values in net.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            values.copy_(torch.rand(values.shape) + 0.5)
    return net.state_dict() | {"fc.weight": torch.rand(1000, 2048), "fc.bias": torch.rand(1000)}


# --- backbones ----------------------------------------------------------------------------------


def plain_resnet(w, x):
    """ResNet-50 in functions, by the names of torchvision's weights."""

    def unit(x, conv, bn, stride=1, padding=0):
        x = functional.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=padding)
        of = [w[f"{bn}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *of, eps=1e-5)

    x = functional.max_pool2d(unit(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    for layer, n in enumerate((3, 4, 6, 3), 1):
        for block in range(n):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = unit(x, f"{at}.conv1", f"{at}.bn1").relu()
            y = unit(y, f"{at}.conv2", f"{at}.bn2", stride, 1).relu()
            y = unit(y, f"{at}.conv3", f"{at}.bn3")
            if block == 0:
                x = unit(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = (x + y).relu()
    return x


@pytest.mark.parametrize("other", ["functions", "torchvision"])
def test_resnet_50_is_torchvisions(resnet50, tmp_path, monkeypatch, other):
    torch.save(resnet50, tmp_path / "resnet50.pth")
    monkeypatch.setenv(imagenet.VARIABLE, str(tmp_path))
    ours = backbones.Backbone("resnet50", imagenet.weights_of("resnet50")).eval()
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = ours(x)
        if other == "functions":
            expected = plain_resnet(resnet50, x)
        else:
            try:
                from torchvision.models import resnet50 as make
            except (ImportError, RuntimeError) as error:  # RuntimeError: of another torch
                pytest.skip(f"torchvision cannot be imported: {error}")
            net = make(weights=None).eval()
            net.load_state_dict(resnet50)
            parts = [net.conv1, net.bn1, net.relu, net.maxpool]
            parts += [net.layer1, net.layer2, net.layer3, net.layer4]
            expected = torch.nn.Sequential(*parts)(x)
    assert found.shape == (2, 2048, 2, 3)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_all_backbones_have_their_number_of_parameters():
    with torch.device("meta"):
        sizes = {kind: backbones.Backbone(kind) for kind in ("resnet50", "resnet152", "lite0")}
    count = {kind: sum(p.numel() for p in net.parameters()) for kind, net in sizes.items()}
    # as published, less the 1,000 classes
    assert count == {
        "resnet50": 25_557_032 - 2_049_000,
        "resnet152": 60_192_808 - 2_049_000,
        "lite0": 4_652_008 - 1_281_000,
    }


PICTURES = {  # ImageNet's classes that are right
    "skimage/data/chelsea.png": {281, 282, 285},  # cats
    "skimage/data/coffee.png": {967},
    "skimage/data/motorcycle_left.png": {665, 670},
    "skimage/data/rocket.jpg": {657, 744, 812},
    "sklearn/datasets/images/china.jpg": {698},
    "sklearn/datasets/images/flower.jpg": {985},
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": {652},
}


def photograph(name):
    """The middle 224 × 224 of a picture whose shorter side is 256, (1, 3, y, x), 0 to 255."""
    packages = {p.__name__: Path(p.__file__).parents[1] for p in (skimage, sklearn, matplotlib)}
    image = Image.open(packages[name.split("/")[0]] / name).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(n * scale) for n in image.size], Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    return liu2020.centre_crop(torch.from_numpy(pixels)[None])


@installed
def test_lite0_names_at_least_six_of_seven_pictures():
    net = backbones.Lite0(classes=True).eval()
    weights = imagenet.read(imagenet.locate("lite0"), imagenet.LITE0_SHA256)
    backbones.fill(net, weights, "lite0")
    right = 0
    for name, classes in PICTURES.items():
        with torch.no_grad():
            top = net((photograph(name) - 127) / 128)[0].topk(5).indices.tolist()
        right += bool(classes.intersection(top))
    assert right >= 6


def test_a_stride_of_two_is_padded_at_the_far_ends():
    layer = backbones.Convolution(1, 1, 3, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()[..., 1, 1] = 1
        x = torch.arange(16.0).reshape(1, 1, 4, 4)
        assert torch.equal(layer(x), x[..., 1::2, 1::2])


def test_images_are_normalised_as_the_backbone_was_given_photographs():
    grey = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert backbones.normalised(grey, "lite0")[0, 2, 0].tolist() == [-127 / 128, 1.0]
    assert torch.equal(backbones.normalised(grey, "resnet152"), liu2020.to_rgb(grey))


# --- weights that are no good -------------------------------------------------------------------


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_bad_weights_are_refused(resnet50, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = Path("good.safetensors")
    save_file(resnet50, good)
    net = backbones.resnet(50)
    backbones.fill(net, imagenet.read(good), "resnet50")
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        imagenet.read("none.pth")
    torch.save(resnet50, "resnet50-0676ba61.pth")  # a name of torch's hub says the checksum
    with pytest.raises(WeightsError, match=r"has the SHA-256 .* expected 0676ba61"):
        imagenet.read("resnet50-0676ba61.pth")
    torch.save(resnet50, "whole.pth")
    for name in ("whole.pth", str(good)):
        cut = Path(f"cut{Path(name).suffix}")
        cut.write_bytes(Path(name).read_bytes()[:-1000])
        with pytest.raises(WeightsError, match="cannot be read"):
            imagenet.read(cut)
    Path("harm.pth").write_bytes(pickle.dumps({"conv1.weight": Harm()}, protocol=2))
    with pytest.raises(WeightsError, match="holds more than weights, or is damaged"):
        imagenet.read("harm.pth")
    assert not Path("harmed").exists()
    torch.save([1, 2], "list.pth")
    with pytest.raises(WeightsError, match="no mapping of names to weights"):
        imagenet.read("list.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer4.2.conv3.weight": None}, "layer4.2.conv3.weight is missing"),
        ({"layer5.weight": torch.ones(1)}, "has no layer5.weight"),
        ({"bn1.bias": torch.ones(32)}, r"bn1.bias is \(32,\), expected \(64,\)"),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias has values that are not finite"),
    ],
)
def test_weights_of_another_network_are_refused(resnet50, change, message):
    weights = {k: v for k, v in (resnet50 | change).items() if v is not None}
    with pytest.raises(WeightsError, match=message):
        backbones.fill(backbones.resnet(50), weights, "resnet50")


def test_two_files_are_no_answer_and_none_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(imagenet.VARIABLE, str(tmp_path))
    assert imagenet.weights_of("resnet50") is None
    assert "no ImageNet weights for resnet50: it begins with random ones" in caplog.text
    assert Liu2020("resnet50").settings()["start"] == "random"
    for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth", "resnet152.pth"):
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match="several files of resnet50"):
        imagenet.locate("resnet50")
    assert imagenet.locate("resnet152").name == "resnet152.pth"


# --- the losses ---------------------------------------------------------------------------------

P = torch.tensor([0.9, 0.2, 0.3, 0.6, 0.5, 0.55, 0.7, 0.1])
T = torch.tensor([0.8, 0.1, 0.9, 0.2, 0.5, 0.75, 0.5, 0.5])


def test_the_ranking_meant_by_hand_on_four_pairs():
    p = P.clone().requires_grad_()
    # parted by more than 0.1; the wrong way round by 0.3; by 0.05 only; tied
    loss = ranking(p, T, gamma=0.1)
    assert loss.item() == pytest.approx((0 + 0.4 + 0.05 + 0) / 8)
    loss.backward()
    assert p.grad.tolist() == pytest.approx([0, 0, -1 / 8, 1 / 8, 1 / 8, -1 / 8, 0, 0])


def test_the_printed_ranking_has_no_gradient():
    p = P.clone().requires_grad_()
    loss = ranking(p, T, gamma=0.1, ranked="printed")
    assert loss.item() == pytest.approx((0 + 0.8 + 0 + 0.1) / 8)  # 0.1 − 0.7, 0.1 + 0.7, …
    loss.backward()
    assert p.grad.tolist() == [0.0] * 8


def test_a_packed_batch_of_pairs_is_pair_by_pair():
    together = ranking(P, T)
    alone = [ranking(P[i : i + 2], T[i : i + 2]) for i in range(0, 8, 2)]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("ranked", ["meant", "printed"])
def test_nothing_to_rank(ranked):
    for p, t in ((P[:1], T[:1]), (P, torch.full_like(P, torch.nan))):
        p = p.clone().requires_grad_()
        loss = ranking(p, t, ranked=ranked)
        assert loss.isfinite()
        loss.backward()
        assert p.grad.tolist() == [0.0] * len(p)
    assert ranking(P, torch.full_like(P, 0.5)).item() == 0  # all tied


def lesions(lengths=(3, 1, 2, 4), variant="features"):
    """Features of slices, and labels: two benign and two malignant; a score is missing."""
    torch.manual_seed(0)
    n = len(lengths)
    nodule = torch.arange(n).repeat_interleave(torch.tensor(lengths))
    malignancy = torch.tensor([1.5, 4.0, 2.0, 5.0] * n)[:n]
    table = pd.DataFrame({"malignancy": malignancy} | dict.fromkeys(ATTRIBUTES, 2.0))
    table.loc[1, "texture"] = np.nan
    zeros = torch.zeros(n)
    samples = liu2020.Samples(
        torch.rand(len(nodule), 1280), nodule, tuple(f"n{i}" for i in range(n)),
        zeros, zeros.long(), zeros,
    )  # fmt: skip
    return samples, Liu2020.labels(table, variant)


@pytest.mark.parametrize("variant", ["", "_reg", "_rank", "_ce", "_parallel", "_no_l2"])
def test_each_term_of_the_loss_is_switched_by_the_variant(variant):
    experiment = Liu2020(f"features{variant}")
    samples, labels = lesions(variant=experiment.variant)
    torch.manual_seed(1)
    model = experiment.model(0)
    outputs = experiment.forward(model, samples)
    total, parts = experiment.loss(outputs, labels)
    terms = {"cls", "reg", "rank", "l2"}
    terms -= {"_reg": {"rank"}, "_rank": {"reg"}, "_ce": {"reg", "rank"}, "_no_l2": {"l2"}}.get(
        variant, set()
    )
    assert set(parts) == terms
    weights = {"cls": 1, "reg": 1, "rank": 0.5, "l2": 1e-3}
    assert total.item() == pytest.approx(sum(weights[k] * v.item() for k, v in parts.items()))
    # eq. 1, 2, 6, nodule by nodule
    logits, scores = outputs.logits["malignancy"], outputs.scores
    of = [samples.nodule == k for k in range(4)]
    cls = [
        functional.cross_entropy(logits[k], torch.full((k.sum(),), i % 2)) for i, k in enumerate(of)
    ]
    assert parts["cls"].item() == pytest.approx(torch.stack(cls).mean().item(), rel=1e-5)
    if "reg" in parts:
        truth = (torch.tensor(2.0) - 1) / torch.tensor([4.0, 3, 5, 4, 4, 4, 4, 4])
        errors = (scores - truth).square()
        errors[of[1].nonzero(), -1] = 0  # its texture has no rating
        reg = torch.stack([errors[k].sum(1).mean() for k in of]).mean()
        assert parts["reg"].item() == pytest.approx(reg.item(), rel=1e-5)
    if "l2" in parts:
        squares = sum(p.square().sum() for n, p in model.named_parameters() if "weight" in n)
        assert parts["l2"].item() == pytest.approx(squares.item(), rel=1e-5)
    predicted = experiment.predict(outputs)
    assert predicted.shape == (4, len(columns(experiment.targets)))
    p = logits.softmax(1)[:, 1]
    expected = torch.stack([p[k].mean() for k in of])
    torch.testing.assert_close(predicted[:, 0], expected)
    torch.testing.assert_close(predicted[:, -1], 1 + 4 * expected)


def test_parallel_heads_keep_the_class_from_the_attributes():
    for cause in (True, False):
        heads = Heads(Design(backbone="lite0", cause=cause))
        outputs = heads(torch.rand(4, 1280), torch.arange(4), 4)
        outputs.logits["malignancy"].sum().backward()
        grad = heads.attributes.weight.grad
        assert (grad is not None and bool(grad.abs().sum() > 0)) == cause


def test_an_intervention_gives_the_wanted_scores_and_moves_the_call():
    heads, x = Heads(Design(backbone="lite0")), torch.rand(5, 1280)
    nodule = torch.tensor([0, 0, 1, 1, 1])
    with torch.no_grad():
        outputs = heads(x, nodule, 2)
        wanted = torch.full((2, 8), torch.nan)
        wanted[:, 3], wanted[1, 6] = 0.9, 0.1
        found = heads.intervene(outputs, wanted)
        scores, before = found.means(found.scores), outputs.means(outputs.scores)
        asked = wanted.isfinite()
        torch.testing.assert_close(scores, wanted.where(asked, before), atol=1e-5, rtol=0)
        # the moved features do give these scores, and the logits
        again = heads.scores(found.attributes)
        torch.testing.assert_close(again, found.scores, atol=1e-5, rtol=0)
        logits = heads.classifier(torch.cat([x, found.attributes], dim=1))
        torch.testing.assert_close(logits, found.logits["malignancy"], atol=1e-4, rtol=0)
        assert not torch.allclose(logits, outputs.logits["malignancy"], atol=1e-4)
        nothing = heads.intervene(outputs, torch.full((2, 8), torch.nan))
        assert torch.equal(nothing.logits["malignancy"], outputs.logits["malignancy"])


# --- samples in training ------------------------------------------------------------------------


def test_order_and_slices_of_an_epoch():
    labels = torch.zeros(30, 10)
    labels[:6, 0] = 1
    drawn = torch.Generator().manual_seed(0)
    rows = Liu2020("features").order(labels, drawn)
    assert labels[rows, 0].mean() == 0.5
    pairs = labels[Liu2020("features_classes").order(labels, drawn), 0].reshape(-1, 2)
    assert pairs.unique(dim=0).tolist() == [[0, 1]]
    samples, _ = lesions()
    seen = {
        tuple(Liu2020("features").augment(samples, drawn).images[:, 0].tolist()) for _ in range(99)
    }
    assert len(seen) == 3 * 1 * 2 * 4  # one of each nodule's slices, every one in its turn
    assert Liu2020("features").augment(samples, drawn).nodule.tolist() == [0, 1, 2, 3]


def test_two_rates_and_frozen_stages(make_crop):
    experiment = Liu2020("resnet50_random_small")
    samples = liu2020.PAPER.prepare([make_crop("a"), make_crop("b", seed=1)], experiment.variant)
    assert samples.images.shape[1:] == (1, 128, 128)
    assert experiment.inputs(samples)[0].shape[1:] == (3, 112, 112)
    labels = lesions((1, 1))[1]
    recipe = replace(
        liu2020.PRESETS["late"].recipe, epochs=1, select_on="last", schedule=Schedule()
    )
    still = replace(recipe, lr=1e-30, lr_by_prefix={"heads": 1e-30})
    how = {"progress": False, "device": "cpu"}
    fitted, start = (fit(experiment, (samples, labels), recipe=r, **how) for r in (recipe, still))
    moved = dict.fromkeys(("backbone.early", "backbone.late", "heads"), 0.0)
    for name, values in fitted.state.items():
        part = next(part for part in moved if name.startswith(part))
        if name.endswith("weight"):
            gap = float((values - start.state[name]).abs().max())
            moved[part] = max(moved[part], gap)
    assert moved["backbone.early"] == 0
    assert moved["backbone.late"] == pytest.approx(3e-5, rel=0.1)  # Adam's first step
    assert moved["heads"] == pytest.approx(3e-3, rel=0.1)


# --- kept features ------------------------------------------------------------------------------


def test_features_are_computed_once_and_again_where_damaged(some_crops, tmp_path, monkeypatch):
    calls = []
    forward = backbones.Backbone.forward

    def counted(self, images):
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(backbones.Backbone, "forward", counted)
    how = {"pretrained": False, "folder": tmp_path}
    found = imagenet.features(some_crops[5:], **how)  # the last is on a single slice
    prepared = liu2020.prepare(some_crops[5:])
    assert torch.equal(found.nodule, prepared.nodule)
    assert found.lesion_ids == prepared.lesion_ids
    assert found.images.shape == (len(prepared.nodule), 1280)
    assert found.images.std() > 0.1  # random ones neither vanish nor explode through 50 layers
    n = len(calls)
    assert torch.equal(imagenet.features(some_crops[5:], **how).images, found.images)
    assert len(calls) == n
    damaged = sorted(tmp_path.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert torch.equal(imagenet.features(some_crops[5:], **how).images, found.images)
    assert len(calls) > n
    other = [replace(crop, hu=crop.hu + np.int16(1)) for crop in some_crops[6:]]
    imagenet.features(other, **how)
    assert len(list(tmp_path.iterdir())) == 3
    # heads on features are heads on the backbone, which has maps
    experiment = Liu2020("features_random")
    heads = experiment.model(0).eval()
    whole = liu2020.with_backbone(heads, experiment.design)
    images = Liu2020("lite0_random").inputs(prepared)
    with torch.no_grad():
        said, expected = whole(*images), heads(*experiment.inputs(found))
    torch.testing.assert_close(said.probability, expected.probability, atol=1e-4, rtol=0)
    maps = activation_map(whole, images[0], "grad-cam", inputs=images[1:], head="texture")
    assert maps.maps.shape[-2:] == images[0].shape[-2:]
