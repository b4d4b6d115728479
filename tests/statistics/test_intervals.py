import dataclasses

import numpy as np
import pandas as pd
import pytest

from lesionlab.statistics.intervals import (
    Estimate,
    bootstrap_many_over_groups,
    bootstrap_over_groups,
    bootstrap_weights_over_groups,
    wilson,
)


def clustered(n_groups=12, seed=0):
    """Rows of groups of 1 to 4, alike within their group."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 5, n_groups)
    patient = np.repeat([f"p{i}" for i in range(n_groups)], size)
    value = np.repeat(rng.normal(size=n_groups), size) + 0.3 * rng.normal(size=size.sum())
    order = rng.permutation(len(patient))  # groups need not lie together
    return pd.DataFrame({"patient": patient[order], "value": value[order]})


def mean(rows):
    return rows["value"].mean()


# Newcombe (1998), Statistics in Medicine 17, table I, method 3
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(k, n, low, high):
    share = wilson(k, n)
    assert share.value == k / n
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)
    assert (share.n, share.n_groups, share.method) == (n, n, "Wilson score")


def test_wilson_is_symmetric_and_reaches_the_ends():
    yes, no = wilson(3, 17, level=0.9), wilson(14, 17, level=0.9)
    assert (yes.low, yes.high) == pytest.approx((1 - no.high, 1 - no.low))
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0


@pytest.mark.parametrize(
    ("k", "n", "level", "message"),
    [
        (0, 0, 0.95, "n must be at least 1, got 0"),
        (5, 4, 0.95, "k must be between 0 and n = 4, got 5"),
        (-1, 4, 0.95, "k must be between 0 and n = 4, got -1"),
        (1, 4, 95, r"level must be inside \(0, 1\), got 95"),
    ],
)
def test_wilson_refuses(k, n, level, message):
    with pytest.raises(ValueError, match=message):
        wilson(k, n, level=level)


def test_an_estimate_prints_itself_and_cannot_be_changed():
    estimate = Estimate(
        value=0.8449, low=-0.001, high=0.861, level=0.95, n=9, n_groups=3, method="by hand"
    )
    assert str(estimate) == "0.84 [0.00, 0.86]"
    assert f"{estimate:.1f}" == "0.8 [-0.0, 0.9]"
    assert f"{estimate:.1%}" == "84.5% [-0.1%, 86.1%]"
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 1.0


def test_the_bootstrap_equals_one_written_with_loops():
    frame = clustered()
    estimate = bootstrap_over_groups(mean, frame, n_resamples=300, level=0.9, seed=7)

    rng = np.random.default_rng(7)
    parts = [rows for _, rows in frame.groupby("patient", sort=False)]
    draws = [
        pd.concat([parts[i] for i in rng.integers(len(parts), size=len(parts))])["value"].mean()
        for _ in range(300)
    ]
    assert estimate.value == frame["value"].mean()
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert (estimate.level, estimate.n, estimate.n_groups) == (0.9, len(frame), 12)
    assert estimate.method == "percentile bootstrap over patient, 300 resamples"


def test_a_group_comes_whole_or_not_at_all():
    frame = pd.DataFrame({"patient": ["a", "b", "b", "b"], "row": [0, 1, 2, 3]})
    seen = set()

    def statistic(rows):
        seen.add(tuple(sorted(rows["row"])))
        return 0.0

    bootstrap_over_groups(statistic, frame, n_resamples=100)
    assert seen == {(0, 0), (0, 1, 2, 3), (1, 1, 2, 2, 3, 3)}


def test_copying_rows_within_patients_adds_no_information():
    frame = clustered()
    tripled = pd.concat([frame] * 3, ignore_index=True)
    once, thrice = (bootstrap_over_groups(mean, f, n_resamples=400) for f in (frame, tripled))
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))
    # taking each row for a patient, as if rows were independent, is what one must not do
    naive = bootstrap_over_groups(
        mean, tripled.assign(patient=range(len(tripled))), n_resamples=400
    )
    assert naive.high - naive.low < 0.8 * (thrice.high - thrice.low)


def test_with_one_row_per_patient_it_is_the_usual_interval_of_a_mean():
    value = np.random.default_rng(1).normal(size=400)
    frame = pd.DataFrame({"patient": np.arange(400), "value": value})
    estimate = bootstrap_over_groups(mean, frame, n_resamples=2000)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(
        1.96 * value.std(ddof=1) / 20, rel=0.08
    )


def test_the_seed_decides_and_the_frame_stays_as_it_was():
    frame = clustered()
    before = frame.copy()

    def meddler(rows):
        rows["value"] = rows["value"] * 2
        return rows["value"].mean()

    bootstrap_over_groups(meddler, frame, n_resamples=10)
    a, b, c = (bootstrap_over_groups(mean, frame, n_resamples=50, seed=s) for s in (0, 0, 1))
    assert a == b
    assert (a.low, a.high) != (c.low, c.high)
    pd.testing.assert_frame_equal(frame, before)


def test_distinct_keeps_copies_of_a_patient_apart():
    frame = pd.DataFrame({"patient": list("aabbcc"), "lesion_id": list("uvwxyz")})
    sizes, merged = [], []
    bootstrap_over_groups(
        lambda rows: sizes.append(rows.groupby("lesion_id").size().max()) or 0.0,
        frame,
        n_resamples=50,
        distinct=["lesion_id"],
    )
    bootstrap_over_groups(
        lambda rows: merged.append(rows.groupby("lesion_id").size().max()) or 0.0,
        frame,
        n_resamples=50,
    )
    assert max(sizes) == 1
    assert max(merged) == 3  # a patient drawn three times


def test_distinct_keeps_rows_of_one_lesion_together():
    frame = pd.DataFrame({"patient": list("aaab"), "lesion_id": list("uuvw")})
    seen = set()

    def statistic(rows):
        seen.update(rows.groupby("lesion_id").size())
        return float(rows["lesion_id"].nunique())

    estimate = bootstrap_over_groups(statistic, frame, n_resamples=50, distinct=["lesion_id"])
    assert seen == {1, 2}
    assert (estimate.value, estimate.low, estimate.high) == (3.0, 2.0, 4.0)


def test_several_statistics_share_their_resamples():
    frame = clustered()
    both = bootstrap_many_over_groups(
        lambda rows: {"mean": rows["value"].mean(), "n": len(rows)}, frame, n_resamples=80, seed=3
    )
    assert list(both) == ["mean", "n"]
    assert both["mean"] == bootstrap_over_groups(mean, frame, n_resamples=80, seed=3)


def sometimes_nan(every):
    calls = iter(range(10_000))
    return lambda rows: float("nan") if next(calls) % every == 1 else rows["value"].mean()


def test_a_few_undefined_resamples_are_counted():
    estimate = bootstrap_over_groups(sometimes_nan(50), clustered(), n_resamples=200)
    assert estimate.method.endswith("200 resamples, 4 undefined")
    assert np.isfinite([estimate.low, estimate.high]).all()


def test_many_undefined_resamples_are_refused_or_leave_no_interval():
    with pytest.raises(ValueError, match="'value' is NaN in 20 of 200 resamples; at most 5%"):
        bootstrap_over_groups(sometimes_nan(10), clustered(), n_resamples=200)
    estimate = bootstrap_over_groups(
        sometimes_nan(10), clustered(), n_resamples=200, undefined="nan"
    )
    assert np.isfinite(estimate.value)
    assert np.isnan([estimate.low, estimate.high]).all()
    assert estimate.method.endswith("20 undefined")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"group": "scan"}, KeyError, r"no column \['scan'\]"),
        ({"distinct": ["lesion_id"]}, KeyError, r"no column \['lesion_id'\]"),
        ({"n_resamples": 0}, ValueError, "n_resamples must be at least 1, got 0"),
        ({"level": 1.0}, ValueError, r"level must be inside \(0, 1\), got 1.0"),
        ({"undefined": "drop"}, ValueError, "undefined must be 'refuse' or 'nan', got 'drop'"),
        ({"statistic": lambda rows: np.nan}, ValueError, "NaN on the data themselves"),
        ({"frame": clustered().iloc[:0]}, ValueError, "at least two groups in 'patient', got 0"),
        (
            {"frame": pd.DataFrame({"patient": ["a", "a"], "value": [1, 2]})},
            ValueError,
            "at least two groups in 'patient', got 1",
        ),
        (
            {"frame": pd.DataFrame({"patient": ["a", None, "b"], "value": [1, 2, 3]})},
            ValueError,
            "column 'patient' of frame has 1 gaps",
        ),
    ],
)
def test_the_bootstrap_refuses(change, error, message):
    arguments = {"statistic": mean, "frame": clustered()} | change
    statistic, frame = arguments.pop("statistic"), arguments.pop("frame")
    with pytest.raises(error, match=message):
        bootstrap_over_groups(statistic, frame, **arguments)


@pytest.mark.slow
def test_the_interval_covers_the_truth_where_rows_hang_together():
    """60 patients of 5 rows each, half of the variance between patients; the true mean is 0."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 5)
    covered = naive = 0
    for seed in range(150):
        value = rng.normal(size=60)[patient] + rng.normal(size=300)
        frame = pd.DataFrame({"patient": patient, "row": np.arange(300), "value": value})
        by_patient = bootstrap_over_groups(mean, frame, n_resamples=200, seed=seed)
        by_row = bootstrap_over_groups(mean, frame, group="row", n_resamples=200, seed=seed)
        covered += by_patient.low <= 0 <= by_patient.high
        naive += by_row.low <= 0 <= by_row.high
    assert covered / 150 > 0.88
    assert naive / 150 < 0.85


def test_weights_are_the_resampled_tables():
    # the quick way draws the same patients, and so gives the same interval
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"patient": rng.integers(20, size=60), "error": rng.normal(size=60)})
    by_table = bootstrap_over_groups(lambda rows: rows["error"].mean(), frame, n_resamples=230)
    error = frame["error"].to_numpy()
    by_weight = bootstrap_weights_over_groups(
        lambda weights: {"value": weights @ error / weights.sum(1)},
        frame["patient"],
        n_resamples=230,
    )["value"]
    assert by_weight.method == by_table.method
    assert [by_weight.value, by_weight.low, by_weight.high] == pytest.approx(
        [by_table.value, by_table.low, by_table.high], abs=1e-12
    )


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        (["a", "a"], {}, "two groups"),
        (["a", None], {}, "1 gaps"),
        (["a", "b"], {"level": 1.0}, "level"),
        (["a", "b"], {"n_resamples": 0}, "at least 1"),
        (["a", "b"], {"undefined": "maybe"}, "undefined"),
        (["a", "b"], {}, "NaN on the data"),
    ],
)
def test_weights_bad_input(groups, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_weights_over_groups(
            lambda weights: {"x": weights[:, 0] * np.nan}, pd.Series(groups, name="p"), **options
        )
