from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import metrics

from lesionlab import published
from lesionlab.attributes import LI_CATEGORIES
from lesionlab.papers import li2021
from lesionlab.papers.li2021 import ATTRIBUTES, Li2021, lidc, tables
from lesionlab.sources.phantom import li2021 as phantoms
from lesionlab.statistics.association import chi_square_matrix, conditional_probability
from lesionlab.training.outcomes import score
from lesionlab.training.targets import to_frame

TARGETS = Li2021().targets
QUICK = {"n_resamples": 40}


def predicted(n=400, *, right=0.6, seed=0):
    """Phantoms' categories, and calls that are right so often."""
    table = phantoms.lesions(n, seed=seed)
    labels, drawn = Li2021.labels(table), np.random.default_rng(seed)
    parts = []
    for target, label in zip(TARGETS, labels.unbind(1), strict=True):
        said = drawn.random((n, len(target.codes)))
        hit = (drawn.random(n) < right) & target.known(label).numpy()
        said[hit, target.positions(label).numpy()[hit]] = 2.0
        parts.append(said / said.sum(1, keepdims=True))
    rows = table[["patient"]].reset_index().assign(fold=np.arange(n) % 2)
    frame = to_frame(TARGETS, rows, torch.from_numpy(np.concatenate(parts, axis=1)), labels)
    return frame, table, labels


@pytest.fixture(scope="module")
def run():
    return predicted()


@pytest.fixture(scope="module")
def scores(run):
    return score(*run, TARGETS, **QUICK)


# measures


def test_measures_of_a_class_are_scikit_learns(run):
    found = tables.by_class(run[0], TARGETS, **QUICK)["value"].unstack("measure")
    for target in TARGETS:
        truth = run[0][f"{target.name}_truth"]
        rows = run[0][truth > 0]  # several lobes are no class
        called = rows[list(target.columns)].to_numpy().argmax(1) + 1
        for code in target.codes:
            yes, said = rows[f"{target.name}_truth"] == code, called == code
            expected = {
                "recall": metrics.recall_score(yes, said),
                "precision": metrics.precision_score(yes, said),
                "npv": metrics.precision_score(~yes, ~said),
                "specificity": metrics.recall_score(~yes, ~said),
                "accuracy": metrics.accuracy_score(yes, said),
            }
            got = found.loc[(target.name, target.classes[code])].to_dict()
            assert got == pytest.approx(expected, abs=1e-12)


def test_means_are_over_judged_classes_then_attributes(run):
    every, judged = (tables.by_class(run[0], TARGETS, least=n, **QUICK) for n in (0, 20))
    assert not judged.loc[("lesion_type", "Pleural effusion", "recall"), "judged"]
    assert every["judged"].all()
    # 18 cavities: one class is left, whose recall is no mean
    assert np.isnan(judged.loc[("cavity", "mean", "recall"), "value"])
    assert not judged.loc[("cavity", "mean", "recall"), "judged"]
    recall = every.xs("recall", level="measure")["value"]
    classes = recall.drop("mean", level="category").groupby(level="attribute").mean()
    means = recall.xs("mean", level="category")
    assert means[list(ATTRIBUTES)].to_dict() == pytest.approx(classes[list(ATTRIBUTES)].to_dict())
    assert means["all"] == pytest.approx(classes.mean())
    low = [a.name for a in LI_CATEGORIES if a.level == "low"]
    assert len(low) == 3
    assert means["low"] == pytest.approx(classes[low].mean())
    values = judged["value"]
    expected = values.loc["lesion_type"].xs("recall", level="measure")
    counts = judged["lesions"].loc["lesion_type"].xs("recall", level="measure").drop("mean")
    assert values["lesion_type", "mean", "recall"] == pytest.approx(
        expected[counts.index[counts >= 20]].mean()
    )
    assert judged.loc[("lesion_location", "mean", "recall"), "lesions"] == (
        (run[1]["lesion_location"] > 0).sum()
    )


def test_the_better_of_two_models_is_told_on_the_same_lesions(run):
    better = predicted(right=0.9)[0].sample(frac=1, random_state=0)
    found = tables.compare(better, run[0], TARGETS, **QUICK)
    one, other = (tables.by_class(frame, TARGETS, **QUICK)["value"] for frame in (better, run[0]))
    pd.testing.assert_series_equal(found["value"], one - other, check_names=False)
    assert found.loc[("all", "mean", "recall"), "low"] > 0.1
    same = tables.compare(better, better, TARGETS, **QUICK)
    assert (same[["value", "low", "high"]].dropna() == 0).all(axis=None)
    with pytest.raises(ValueError, match="predictions of the same lesions"):
        tables.compare(better, run[0][1:], TARGETS, **QUICK)


def test_kept_runs_are_told_apart_by_name_and_on_the_lesions_that_both_have(run, scores):
    more, about = predicted(right=0.9)[0], {"plan": {"paper": "li2021"}}
    one, other = (SimpleNamespace(predictions=p, about=about) for p in (more, run[0][40:]))
    gap = tables.recall_gap(one, other, **QUICK)
    expected = tables.compare(more[40:], run[0][40:], TARGETS, **QUICK)
    assert gap.index.tolist() == [*ATTRIBUTES, "all"]
    assert gap.loc["all"].equals(expected.loc[("all", "mean", "recall")])
    kept = SimpleNamespace(folds=[{}, {}], predictions=more, scores=scores)
    runs = {("self_2d", "slices"): kept, ("soft_2d_narrow", "volumes"): kept}
    table = tables.of_kept(runs)
    names = ["Self-att, 2D, slices, all channels", "Soft-att, 2D, volumes"]
    blind = [
        f"{who} alone, {of}" for of in ("slices", "volumes") for who in ("Majority", "Diameter")
    ]
    assert table.index.tolist() == [*names, *blind]
    assert table.loc[names[0], ["folds", "lesions"]].tolist() == [2, 400]
    assert table.loc["Majority alone, slices", "cavity"] == 0.5
    assert table["mean"].equals(table[list(ATTRIBUTES)].mean(axis=1))


def test_heads_against_the_majority_and_the_diameter(scores):
    found = tables.against_baselines(scores)
    assert found.index.tolist() == list(ATTRIBUTES)
    assert found.loc["cavity", "majority"] == 0.5
    assert found.loc["margin_clarity", "above"]
    assert (found["low"] > found["majority"]).equals(found["above"])
    # phantoms' masses and nodules differ by diameter
    assert found.loc["lesion_type", "diameter"] > found.loc["lesion_type", "majority"] + 0.05
    accuracy = tables.against_baselines(scores, metric="accuracy")
    assert accuracy.loc["cavity", "majority"] > 0.9


# the paper's tables


@pytest.mark.parametrize(("holds", "named"), [
    (tables.HELD, ("recall", "precision", "npv")),
    (tables.EQUATIONS, ("accuracy", "recall", "specificity")),
])  # fmt: skip
def test_tables_3_and_4_beside_ours(run, scores, holds, named):
    found = tables.beside(4, {"self_2d": scores}, tier="phantom", holds=holds)
    assert len(found) == 28
    measured = tables.by_class(run[0], TARGETS, least=0, **QUICK)["value"]
    for head, measure in zip(("accuracy", "sensitivity", "specificity"), named, strict=True):
        column = f"{head} ({measure}), Self-att"
        row = found.loc["Spiculation: Long", column]
        assert row["lesionlab (phantom)"] == measured["spiculation_length", "Long", measure]
        average = found.loc["Average", column]["lesionlab (phantom)"]
        assert average == pytest.approx(measured["all", "mean", measure])
    column = f"accuracy ({named[0]}), Self-att"
    assert found.loc["Spiculation: Long", (column, "Li 2021")] == 0.4667
    assert found.loc["Average", (column, "Li 2021")] == 0.7763
    other = found[f"accuracy ({named[0]}), Soft-att"]
    assert "lesionlab (phantom)" not in other or other["lesionlab (phantom)"].isna().all()


def test_the_printed_average_is_that_of_what_the_columns_hold():
    """The mean over attributes of the mean over classes, as our last row is."""
    printed = published.table("li2021", 3).query("mode == '2D'")
    classes = printed[printed["attribute"] != "average"]
    mean = classes.groupby("attribute")["accuracy"].mean().mean()
    assert mean == pytest.approx(0.7816, abs=1e-3)


def test_tables_1_and_2_beside_phantoms():
    lesions = phantoms.lesions()
    counts = tables.data_beside(2, lesions, tier="phantom")
    assert (counts["lesions", "difference"].dropna() == 0).all()
    without = counts.loc["Vessel convergence: Without", ("lesions", "lesionlab (phantom)")]
    assert without == 2014 - 553
    sizes = tables.data_beside(1, lesions, tier="phantom").loc["Ours"]
    assert sizes["lesions", "lesionlab (phantom)"] == 2014
    assert sizes["lesions", "Li 2021"] == 5113
    assert sizes["lesion_size_max", "lesionlab (phantom)"] == lesions["diameter"].max()


# association


def test_27_categories_without_location_0():
    lesions = phantoms.lesions()
    words = tables.named(lesions)
    assert words["lesion_location"].isna().sum() == (lesions["lesion_location"] == 0).sum() > 0
    found = conditional_probability(words, ATTRIBUTES)
    assert found.shape == (27, 27)
    assert list(found.index[:2]) == [("lesion_type", "Placeholder"), ("lesion_type", "Nodule")]
    air = lesions["lesion_type"] == 4
    expected = (lesions.loc[air, "margin_clarity"] == 1).mean()
    column = ("lesion_type", "Air containing space")
    assert found.loc[("margin_clarity", "Clear"), column] == pytest.approx(expected)
    np.testing.assert_allclose(found.groupby(level="attribute").sum(), 1)
    tests = chi_square_matrix(words, ATTRIBUTES, n_resamples=99)
    assert len(tests) == 36
    row = tests.set_index(["first", "second"]).loc["lesion_type", "lesion_location"]
    seen = lesions[lesions["lesion_location"] > 0]
    seen = pd.crosstab(seen["lesion_type"], seen["lesion_location"])
    statistic, p, df, _ = stats.chi2_contingency(seen, correction=False)
    assert (row["statistic"], row["df"]) == (pytest.approx(statistic), df)
    assert row["df"] == 5 * 4
    assert row["p"] == pytest.approx(p, abs=0.2)  # by permutation where few are expected


# training


def test_competition_by_hand():
    names = [f"loss_{name}" for name in ATTRIBUTES[:3]]
    rows = [[3.0, 1, 1, 1], [2.5, 0.5, 1.2, 0.8], [2.5, 0.7, 1.0, 0.8]]
    history = pd.DataFrame(rows, index=[1, 2, 3], columns=["loss", *names])
    found = tables.competition(history)
    assert found["n_rising"].tolist() == [1, 1]
    np.testing.assert_allclose(found[["change", "falling", "rising"]],
                               [[-0.5, -0.7, 0.2], [0, -0.2, 0.2]], atol=1e-9)  # fmt: skip


# LIDC


def nodule(**changes):
    row = {"diameter": 9.0, "texture": 5.0, "margin": 5.0, "lobulation": 1.0, "spiculation": 1.0,
           "calcification_readings": [6.0], "internal_structure_readings": [1.0]}  # fmt: skip
    return row | changes


@pytest.mark.parametrize(("changes", "name", "code"), [
    ({"diameter": 30.0}, "lesion_type", 2),
    ({"diameter": 30.1, "texture": 1.0}, "lesion_type", 1),
    ({"texture": 2.0}, "lesion_type", 3),
    ({"texture": 2.1}, "lesion_type", 2),
    ({"margin": 4.0}, "margin_clarity", 1),
    ({"margin": 3.9}, "margin_clarity", 2),
    ({"lobulation": 2.9}, "lobulation_presence", 1),
    ({"lobulation": 3.0}, "lobulation_presence", 2),
    ({"spiculation": 1.9}, "spiculation_length", 1),
    ({"spiculation": 2.0}, "spiculation_length", 3),  # short is Li's third code
    ({"spiculation": 4.0}, "spiculation_length", 2),
    ({"calcification_readings": [6.0, 6.0, 3.0]}, "calcification_extent", 1),
    ({"calcification_readings": [1.0, 2.0, 6.0]}, "calcification_extent", 3),  # two of them total
    ({"calcification_readings": [4.0, 5.0, 3.0]}, "calcification_extent", 2),
    ({"calcification_readings": [6.0, 3.0]}, "calcification_extent", 1),  # a tie
    ({"internal_structure_readings": [4.0, 4.0, 1.0]}, "cavity", 2),
    ({"internal_structure_readings": [2.0, 3.0, 4.0]}, "cavity", 1),
    ({"internal_structure_readings": [np.nan]}, "cavity", np.nan),
    ({"texture": np.nan, "margin": np.nan}, "margin_clarity", np.nan),
])  # fmt: skip
def test_thresholds(changes, name, code):
    found = lidc.categories(pd.DataFrame([nodule(), nodule(**changes)], index=["a", "b"]))
    assert found.loc["a"].tolist() == [2, 1, 1, 1, 1, 1]
    np.testing.assert_equal(found.loc["b", name], code)


def test_thresholds_are_arguments_and_are_printed():
    rows = pd.DataFrame([nodule(margin=3.0)], index=["a"])
    mild = lidc.Thresholds(clear=3.0)
    assert lidc.categories(rows)["margin_clarity"].item() == 2
    assert lidc.categories(rows, mild)["margin_clarity"].item() == 1
    assert "Margin clear from 3," in str(mild)
    assert str(lidc.Thresholds()) in lidc.cohort(lidc_nodules()).note


def lidc_nodules():
    from lesionlab.sources import lidc as source

    return source.nodules()


def test_no_lesion_of_lidc_is_dropped_between_two_categories():
    found = li2021.cohort(lidc_nodules())
    assert len(found.table) == 2622
    labels = Li2021.labels(found.table)
    assert labels.shape == (2622, 6)
    assert labels.isnan().sum() == 1  # one internal structure is out of range
    assert {int(n) for n in (labels[:, 5] == 2).sum()[None]} == {4}  # air, by most readers


def test_lis_cohort_is_thin_slices_and_folds_keep_the_types():
    lesions = phantoms.lesions(400)
    lesions.loc[lesions.index[:5], "slice_thickness"] = 5.0
    found = li2021.cohort(lesions)
    assert len(found.table) == 395
    shares = pd.crosstab(found.folds(), found.table["label"])
    assert (shares > 0).all(axis=None)


def test_a_type_of_a_single_patient_does_not_stop_the_folds():
    lesions = phantoms.lesions(400)
    effusions = lesions.index[lesions["lesion_type"] == 6]
    found = li2021.cohort(lesions.drop(effusions[1:]))
    assert found.folds().nunique() == 5
    assert found.table.loc[effusions[0], "lesion_type"] == 6


def test_seconds_of_a_step_by_variant():
    found = tables.seconds(["basic_2.5d", "soft_2d_narrow", "self_3d32_narrow"], n=2)
    assert list(found.index) == ["basic_2.5d", "soft_2d_narrow", "self_3d32_narrow"]
    assert (found > 0).all()
