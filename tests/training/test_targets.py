"""Targets: what is masked, losses by hand, metrics against scikit-learn, predictions on disk."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from lesionlab import _files
from lesionlab.training import targets
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.training.targets import Target

NAN = float("nan")
RATING = Target("spiculation")
CLASS = Target("malignancy", "binary", ("benign", "malignant"))
# Li 2021: location 0 is ignored by the location head, and by no other
LOCATION = Target("location", "multiclass", ("none", "left", "right"), ignored=0)
MASK = Target("mask", "segmentation")


def test_columns_are_named_and_ignored_codes_have_none():
    found = targets.columns([RATING, CLASS, LOCATION, MASK])
    assert found[:2] == ["spiculation", "malignancy"]
    assert found[2:4] == ["location: left", "location: right"]
    assert found[4:] == ["mask: intersection", "mask: predicted", "mask: reference"]
    assert LOCATION.known(torch.tensor([0.0, 1, NAN, 2])).tolist() == [False, True, False, True]
    assert LOCATION.positions(torch.tensor([0.0, 1, NAN, 2])).tolist() == [-1, 0, -1, 1]


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "ordinal"},
        {"kind": "multiclass"},
        {"kind": "multiclass", "classes": ("a", "b"), "ignored": 0},
        {"classes": ("a",)},
        {"kind": "binary", "classes": ("a", "b", "c")},
        {"ignored": 0},
        {"kind": "multiclass", "classes": ("a", "b", "c"), "ignored": 3},
    ],
)
def test_what_is_no_target_is_refused(given):
    with pytest.raises(ValueError, match=r"kind=|classes=|ignored="):
        Target("x", **given)


def test_losses_by_hand_and_none_where_a_label_is_missing():
    squared = targets.misfit(RATING, torch.tensor([[2.0], [5.0]]), torch.tensor([3.0, NAN]))
    assert squared.tolist() == [1, 0]
    entropy = targets.misfit(CLASS, torch.tensor([[0.0], [2.0]]), torch.tensor([1.0, 0.0]))
    assert entropy.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(2))])
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    several = targets.misfit(LOCATION, logits, torch.tensor([2.0, 0.0, NAN]))
    assert several.tolist() == pytest.approx([math.log(1 + math.e), 0, 0])
    outputs = torch.zeros(2, 1, requires_grad=True)
    targets.misfit(RATING, outputs, torch.tensor([NAN, 2.0])).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad[:, 0].tolist() == [0, -4]


def test_a_mask_is_scored_where_it_is_known():
    logits = torch.tensor([[[[1.0, 1, -1, 1]]]])
    mask = torch.tensor([[[[1.0, 0, 1, NAN]]]])
    assert targets.overlap(logits, mask).tolist() == [[1, 2, 2]]
    p = torch.sigmoid(logits[..., :3]).flatten()
    dice = (2 * (p[0] + p[2]) + 1) / (p.sum() + 2 + 1)
    assert float(targets.dice_loss(logits, mask)) == pytest.approx(float(1 - dice))


def test_metrics_are_those_of_scikit_learn():
    drawn = torch.Generator().manual_seed(0)
    n, goals = 90, [RATING, CLASS, LOCATION, MASK]
    labels = torch.stack(
        [
            torch.randint(1, 6, (n,), generator=drawn).float(),
            torch.randint(0, 2, (n,), generator=drawn).float(),
            torch.randint(0, 3, (n,), generator=drawn).float(),
            torch.ones(n),
        ],
        dim=1,
    )
    labels[5:9, 0] = NAN
    said = torch.rand(n, 7, generator=drawn).round(decimals=1)  # with ties
    known, placed = labels[:, 0].isfinite(), labels[:, 2] > 0
    gaps = (said[known, 0] - labels[known, 0]).abs()
    assert targets.measure("mae", goals, said, labels) == pytest.approx(float(gaps.mean()))
    two = metrics.roc_auc_score(labels[:, 1], said[:, 1])
    left = metrics.roc_auc_score(labels[placed, 2] == 1, said[placed, 2])
    right = metrics.roc_auc_score(labels[placed, 2] == 2, said[placed, 3])
    expected = (two + (left + right) / 2) / 2
    assert targets.measure("auc", goals, said, labels) == pytest.approx(expected)
    calls = np.where(said[placed, 3] > said[placed, 2], 2, 1)
    accuracy = (
        metrics.accuracy_score(labels[:, 1], said[:, 1] >= 0.5)
        + metrics.accuracy_score(labels[placed, 2], calls)
    ) / 2
    assert targets.measure("accuracy", goals, said, labels) == pytest.approx(accuracy)
    dice = (2 * said[:, 4] / (said[:, 5] + said[:, 6]).clamp(min=1)).mean()
    assert targets.measure("dice", goals, said, labels) == pytest.approx(float(dice))
    with pytest.raises(ValueError, match="metric='dice': none of the targets"):
        targets.measure("dice", [RATING], said[:, :1], labels[:, :1])


def test_probabilities_follow_from_logits():
    logits = torch.tensor([[3.0, 0.0, 1.0, 1.0]])
    found = targets.probabilities([RATING, CLASS, LOCATION], logits)
    assert found.tolist() == [[3, 0.5, 0.5, 0.5]]
    assert torch.equal(functional.softmax(logits[:, 2:], 1), found[:, 2:])


def test_a_class_that_training_lacks_is_refused():
    labels = torch.tensor([[1.0], [2.0], [0.0], [1.0]])
    targets.check_labels("training part of fold 0", [LOCATION], labels[:3], labels)
    targets.check_labels("test part of fold 0", [LOCATION], labels[3:], labels)
    with pytest.raises(ValueError, match="training part of fold 1: none of its 2 lesions has loc"):
        targets.check_labels("training part of fold 1", [LOCATION], labels[2:], labels)
    rare = dataclasses.replace(LOCATION, complete=False)
    targets.check_labels("training part of fold 1", [rare], labels[3:], labels)
    with pytest.raises(ValueError, match="none of its 1 lesions has a label of location"):
        targets.check_labels("test part of fold 0", [LOCATION], labels[2:3], labels)
    with pytest.raises(ValueError, match=r"location: expected \[1, 2\], got \[1.0, 1.5"):
        targets.check_labels("training part", [LOCATION], labels / 2 + 1, labels)


def frame() -> pd.DataFrame:
    keys = pd.DataFrame({"lesion_id": ["a", "b"], "patient": ["p", "007"], "fold": [0, 1]})
    said = torch.tensor([[1 / 3, 0.1, 0.7, 0.3], [1e-9, 2.5, 0.5, 0.5]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0, 2], [NAN, 1, 0]])
    return targets.to_frame([RATING, CLASS, LOCATION], keys, said, labels)


def test_predictions_are_long_on_disk_and_come_back_exactly(tmp_path):
    path = tmp_path / "p.csv"
    entry = targets.write_predictions(path, frame())
    rows = pd.read_csv(path)
    assert [*rows] == [*targets.KEYS, "target", "class", "value", "truth"]
    assert len(rows) == 8
    found = targets.read_predictions(tmp_path, {**entry, "file": f"../{tmp_path.name}/p.csv"})
    pd.testing.assert_frame_equal(found[frame().columns], frame(), check_exact=True)
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"p\.csv is not what the JSON file beside it"):
        targets.read_predictions(tmp_path, entry)
    with pytest.raises(ValueError, match="is no table of predictions: it has no lesion_id"):
        targets.read_predictions(tmp_path, {"file": "p.csv", "sha256": _files.sha256(path)})


def test_predictions_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("lesion_id,patient,fold,x,x_truth\na,007,2,0.1,3.0\n", encoding="utf-8")
    found = targets.read_predictions(tmp_path, {"file": "old.csv", "sha256": _files.sha256(path)})
    row = {"lesion_id": "a", "patient": "007", "fold": 2, "x": 0.1, "x_truth": 3.0}
    assert found.to_dict("records") == [row]
