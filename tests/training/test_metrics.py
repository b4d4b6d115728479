import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lesionlab.training.metrics import auc


def test_auc_by_hand():
    positive = torch.tensor([True, True, False, False])
    assert auc(torch.tensor([0.9, 0.4, 0.5, 0.1]), positive) == 0.75
    assert auc(torch.tensor([0.9, 0.5, 0.5, 0.1]), positive) == 0.875
    assert auc(torch.full((4,), 0.3), positive) == 0.5


def test_auc_against_scikit_learn():
    drawn = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (80,), generator=drawn) / 12  # many ties
    positive = torch.rand(80, generator=drawn) < 0.3
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-6)


def test_auc_of_one_class_is_not_a_number():
    assert math.isnan(auc(torch.rand(3), torch.ones(3, dtype=torch.bool)))
