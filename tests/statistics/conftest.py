"""Readings and ratings that several files test with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def readings() -> pd.DataFrame:
    """60 nodules of one to four readers who roughly agree, in no order."""
    rng = np.random.default_rng(0)
    k = rng.integers(1, 5, 60)
    truth = np.repeat(rng.uniform(1, 5, 60), k)
    rating = np.clip(np.round(truth + rng.normal(size=len(truth))), 1, 5).astype(int)
    frame = pd.DataFrame({"lesion_id": np.repeat(np.arange(60), k), "margin": rating})
    return frame.sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture
def ratings() -> pd.DataFrame:
    """Four ratings of 300 nodules, whole numbers with some association and some gaps."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(300, 1)) * np.array([0, 1, 2, 0])
    frame = pd.DataFrame(np.clip(np.round(3 + common + rng.normal(size=(300, 4))), 1, 5))
    return frame.rename(columns="a{}".format).mask(rng.random((300, 4)) < 0.05)
