import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from lesionlab.statistics.paired import paired, paired_auc

QUICK = {"n_resamples": 200}
NAMES = ["margin", "texture", "lobulation"]


def predictions(errors, copies=1):
    """A model whose error of `margin` is given patient by patient, for so many lesions of each."""
    n = len(errors) * copies
    return pd.DataFrame(
        {
            "lesion_id": [f"n{i:02}" for i in range(n)],
            "patient": [f"p{i // copies:02}" for i in range(n)],
            "margin": np.repeat(errors, copies) + 3.0,
            "margin_truth": 3.0,
        }
    )


def drawn(seed, *, n=60, shift=0.0):
    """Two models on the same lesions, three to a patient; the second is `shift` worse."""
    rng = np.random.default_rng(seed)
    base = pd.DataFrame({"lesion_id": [f"n{i:03}" for i in range(n)]})
    base["patient"] = [f"p{i // 3}" for i in range(n)]
    a, b = base.copy(), base.copy()
    for name in NAMES:
        truth = rng.uniform(1, 5, n)
        a[name], b[name] = truth + rng.normal(0, 0.5, n), truth + rng.normal(0, 0.5 + shift, n)
        a[f"{name}_truth"] = b[f"{name}_truth"] = truth
    return a, b


def test_by_hand():
    a, b = predictions([0.5, -0.5, 1.0]), predictions([1.0, -1.0, 1.0])
    found = paired(a, b, ["margin"], **QUICK).loc["margin"]
    assert (found["n"], found["n_groups"]) == (3, 3)
    assert found["mae_a"] == pytest.approx(2 / 3)
    assert found["mae_b"] == pytest.approx(1)
    assert found["difference"] == pytest.approx(-1 / 3)
    assert found["low"] == pytest.approx(-0.5)  # the two lesions that differ, thrice or more often
    assert found["high"] == 0
    assert found["p"] == 0.5  # ranks of −0.5 and −0.5: all four signs alike, two as extreme
    assert found["p_holm"] == 0.5
    constant = paired(predictions([0.5] * 5), predictions([1.0] * 5), ["margin"], test="t", **QUICK)
    assert constant.loc["margin", "p"] == 0


def test_tests_are_scipys_on_lesions_or_on_patients():
    a, b = drawn(3, shift=0.1)
    d = (a["margin"] - a["margin_truth"]).abs() - (b["margin"] - b["margin_truth"]).abs()
    of_patient = d.groupby(a["patient"]).mean()
    for values, unit in ((d, "lesion"), (of_patient, "patient")):
        for test, reference in (("wilcoxon", stats.wilcoxon), ("t", stats.ttest_1samp)):
            arguments = () if test == "wilcoxon" else (0,)
            found = paired(a, b, ["margin"], test=test, unit=unit, **QUICK).loc["margin", "p"]
            assert found == pytest.approx(reference(values, *arguments).pvalue)


def test_copies_of_a_lesion_are_no_evidence_by_patient():
    """Ten nodules of a patient with one and the same error count as one."""

    def p(copies, unit="patient"):
        a, b = (predictions(e, copies) for e in ([0.2, 0.4, 0.9, 0.1], [0.5, 0.9, 1.0, 0.4]))
        return paired(a, b, ["margin"], unit=unit, **QUICK).loc["margin", "p"]

    assert p(1) == pytest.approx(p(10))
    assert p(10, "lesion") < 1e-4 < p(1)


def test_holm_counts_the_attributes_and_not_their_mean():
    a, b = drawn(4, shift=0.05)
    found = paired(a, b, NAMES, **QUICK)
    assert list(found.index) == [*NAMES, "mean"]
    of_attributes = found.iloc[:-1]
    expected = multipletests(of_attributes["p"], method="holm")[1]
    np.testing.assert_allclose(of_attributes["p_holm"], expected)
    assert np.isnan(found.loc["mean", "p_holm"])
    for column in ("mae_a", "mae_b", "difference"):
        assert found.loc["mean", column] == pytest.approx(of_attributes[column].mean())
    turned = [frame.sample(frac=1, random_state=i) for i, frame in enumerate((a, b))]
    pd.testing.assert_frame_equal(paired(*turned, NAMES, **QUICK), found)


def classifiers(seed=0, n=120):
    """Two classifiers of malignancy in two folds; the second is the worse, and has other levels."""
    rng = np.random.default_rng(seed)
    base = pd.DataFrame({"lesion_id": [f"n{i:03}" for i in range(n)], "fold": np.arange(n) % 2})
    base["patient"] = [f"p{i // 2}" for i in range(n)]
    base["malignancy_truth"] = rng.integers(0, 2, n)
    signal = base["malignancy_truth"] + rng.normal(0, 1, n)
    return base.assign(malignancy=signal), base.assign(
        malignancy=signal + rng.normal(0, 1, n) + 5 * base["fold"]
    )


def test_aucs_are_compared_within_folds():
    a, b = classifiers()
    found = paired_auc(a, b.sample(frac=1, random_state=1), n_resamples=300)
    for name, frame in (("auc_a", a), ("auc_b", b)):
        each = [
            roc_auc_score(f["malignancy_truth"], f["malignancy"]) for _, f in frame.groupby("fold")
        ]
        assert found[name].value == pytest.approx(np.mean(each))
        difference = found["difference"]
    assert difference.value == pytest.approx(found["auc_a"].value - found["auc_b"].value)
    assert difference.low < difference.value < difference.high
    # paired: the interval is narrower than that of two AUCs that have nothing in common
    apart = np.hypot(*(found[k].high - found[k].low for k in ("auc_a", "auc_b")))
    assert difference.high - difference.low < apart
    same = paired_auc(a, a, n_resamples=50)["difference"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    turned = paired_auc(b, a, n_resamples=300)["difference"]
    assert (turned.low, turned.high) == pytest.approx((-difference.high, -difference.low))
    with pytest.raises(ValueError, match="patient or fold for some: 240 rows"):
        paired_auc(a, b.assign(fold=1 - b["fold"]))
    with pytest.raises(KeyError, match="fold"):
        paired_auc(a, b.drop(columns="fold"))


A, B = drawn(8, n=6)


@pytest.mark.parametrize(("b", "options", "message"), [
    (B.iloc[1:], {}, "other lesions, .*: 1 rows, such as 'n000'"),
    (B.assign(patient="p9"), {}, "another patient for some: 12 rows"),
    (B.assign(margin_truth=B["margin_truth"] + 0.1), {}, "other truths: margin of 6"),
    (pd.concat([B, B.iloc[:1]]), {}, "b: expected each lesion once, 'n000' is there twice"),
    (B.assign(margin=np.nan), {}, "column 'margin' has 6 gaps"),
    (B, {"attributes": []}, "a sequence of names"),
    (B, {"attributes": "margin"}, "a sequence of names"),
    (B, {"test": "sign"}, "test='sign'"),
])  # fmt: skip
def test_what_is_refused(b, options, message):
    with pytest.raises(ValueError, match=message):
        paired(A, b, **({"attributes": NAMES} | options | QUICK))
