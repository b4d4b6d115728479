"""The bootstrap over patients: against one written with loops, its laws, and its coverage."""

import numpy as np
import pandas as pd
import pytest

from lesionlab.statistics.intervals import Estimate, bootstrap_weights_over_groups, wilson


def clustered(n_groups=12, seed=0):
    """Rows of groups of 1 to 4, alike within their group."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 5, n_groups)
    patient = np.repeat([f"p{i}" for i in range(n_groups)], size)
    value = np.repeat(rng.normal(size=n_groups), size) + 0.3 * rng.normal(size=size.sum())
    order = rng.permutation(len(patient))  # groups need not lie together
    return pd.DataFrame({"patient": patient[order], "value": value[order]})


def mean(frame, group="patient", **how):
    value = frame["value"].to_numpy()
    return bootstrap_weights_over_groups(
        lambda weights: {"mean": weights @ value / weights.sum(1)}, frame[group], **how
    )["mean"]


def test_an_estimate_prints_itself():
    estimate = Estimate(
        value=0.8449, low=-0.001, high=0.861, level=0.95, n=9, n_groups=3, method="by hand"
    )
    assert str(estimate) == "0.84 [0.00, 0.86]"
    assert f"{estimate:.1f}" == "0.8 [-0.0, 0.9]"
    assert f"{estimate:.1%}" == "84.5% [-0.1%, 86.1%]"


def test_wilsons_interval():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20, by the score method
    assert f"{wilson(81, 263):.4f}" == "0.3080 [0.2553, 0.3662]"
    assert f"{wilson(0, 20):.4f}" == "0.0000 [0.0000, 0.1611]"
    narrow = wilson(12, 20, level=0.8)
    assert wilson(12, 20).low < narrow.low < 0.6 < narrow.high < wilson(12, 20).high
    assert (narrow.n, narrow.n_groups, narrow.level) == (20, 20, 0.8)
    for hits, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"hits={hits}, n={n}: expected one case or more"):
            wilson(hits, n)


def test_the_bootstrap_equals_one_written_with_loops():
    frame = clustered()
    estimate = mean(frame, n_resamples=330, level=0.9, seed=7)

    rng = np.random.default_rng(7)
    parts = [rows for _, rows in frame.groupby("patient", sort=False)]
    draws = [
        pd.concat([parts[i] for i in rng.integers(len(parts), size=len(parts))])["value"].mean()
        for _ in range(330)
    ]
    assert estimate.value == pytest.approx(frame["value"].mean())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert (estimate.level, estimate.n, estimate.n_groups) == (0.9, len(frame), 12)
    assert estimate.method == "percentile bootstrap over patient, 330 resamples"


def test_a_group_comes_whole_or_not_at_all():
    seen = set()

    def statistics(weights):
        seen.update(map(tuple, weights.tolist()))
        return {"nothing": np.zeros(len(weights))}

    bootstrap_weights_over_groups(statistics, pd.Series(["a", "b", "b"]), n_resamples=100)
    assert seen == {(0, 2, 2), (1, 1, 1), (2, 0, 0)}


def test_copying_rows_within_patients_adds_no_information():
    frame = clustered()
    tripled = pd.concat([frame] * 3, ignore_index=True)
    once, thrice = (mean(f, n_resamples=400) for f in (frame, tripled))
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))
    # taking each row for a patient, as if rows were independent, is what one must not do
    naive = mean(tripled.assign(patient=range(len(tripled))), n_resamples=400)
    assert naive.high - naive.low < 0.8 * (thrice.high - thrice.low)


def test_the_seed_decides_and_statistics_share_their_resamples():
    a, b, c = (mean(clustered(), n_resamples=50, seed=s) for s in (0, 0, 1))
    assert a == b
    assert (a.low, a.high) != (c.low, c.high)
    found = bootstrap_weights_over_groups(
        lambda w: {"one": w[:, 0], "same": w[:, 0] + 1}, clustered()["patient"], n_resamples=50
    )
    assert found["same"].high == found["one"].high + 1


def test_undefined_resamples_are_counted_or_leave_no_interval():
    def sometimes_nan(every):
        def statistics(weights):
            found = np.zeros(len(weights))
            found[1::every] = np.nan  # never on the data, the first row
            return {"x": found}

        patients = clustered()["patient"]
        return bootstrap_weights_over_groups(statistics, patients, n_resamples=200)["x"]

    few, many = sometimes_nan(50), sometimes_nan(10)
    assert few.method.endswith("200 resamples, 4 undefined")
    assert (few.low, few.high) == (few.value, many.value) == (0, 0)
    assert np.isnan([many.low, many.high]).all()
    nothing = bootstrap_weights_over_groups(
        lambda weights: {"x": 0 / (0 * weights.sum(1))}, clustered()["patient"], n_resamples=20
    )["x"]
    assert np.isnan([nothing.value, nothing.low]).all()


@pytest.mark.parametrize(("groups", "options", "message"), [
    (["a", "a"], {}, "two groups or more in 'p', got 1"),
    (["a", None], {}, "column 'p' has 1 gaps"),
    (["a", "b"], {"level": 1.0}, "level=1.0"),
    (["a", "b"], {"n_resamples": 0}, "n_resamples=0"),
])  # fmt: skip
def test_the_bootstrap_refuses(groups, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_weights_over_groups(
            lambda w: {"x": w.sum(1)}, pd.Series(groups, name="p"), **options
        )


@pytest.mark.slow
def test_the_interval_covers_the_truth_where_rows_hang_together():
    """60 patients of 5 rows each, half of the variance between patients; the true mean is 0."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 5)
    covered = naive = 0
    for seed in range(150):
        value = rng.normal(size=60)[patient] + rng.normal(size=300)
        frame = pd.DataFrame({"patient": patient, "row": np.arange(300), "value": value})
        by_patient = mean(frame, n_resamples=200, seed=seed)
        by_row = mean(frame, "row", n_resamples=200, seed=seed)
        covered += by_patient.low <= 0 <= by_patient.high
        naive += by_row.low <= 0 <= by_row.high
    assert covered / 150 > 0.88
    assert naive / 150 < 0.85
