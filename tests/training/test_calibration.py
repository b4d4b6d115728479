"""What is kept beside a model: it goes with one file of weights, and finds lesions again."""

from __future__ import annotations

import numpy as np
import pytest

from lesionlab import weights
from lesionlab.training.checkpoints import CheckpointError
from lesionlab.weights import calibration

NAME = "fu2021/full"


def test_a_model_is_calibrated_on_patients_unseen(small_plan, done, dataset, tmp_path):
    weights.keep(small_plan, done, tmp_path, dataset=dataset)
    assert calibration.read(NAME, data="phantom", folder=tmp_path) is None
    path = calibration.make(NAME, data="phantom", folder=tmp_path, progress=False)
    assert weights.names(tmp_path) == [(NAME, "phantom")]
    kept = calibration.read(NAME, data="phantom", folder=tmp_path)
    assert kept is not None
    fold, _ = weights.evaluate(NAME, folder=tmp_path, n_resamples=1)
    assert list(kept.errors.index) == list(fold.table.index)
    features = calibration.features(fold, batch_size=3)
    np.testing.assert_allclose(features, kept.features, atol=2e-3, rtol=2e-3)
    # each lesion is the most similar to itself
    assert [row[0] for row in kept.nearest(features)] == list(kept.errors.index)
    counts = kept.intervals[["n_calibrated", "n_tested"]].sum(axis=1)
    assert set(counts) == {len(fold.table)}

    other = path.parents[1] / "full-phantom.safetensors"
    other.write_bytes(other.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="is of other weights than full-phantom"):
        calibration.read(NAME, data="phantom", folder=tmp_path)
