import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab import published
from lesionlab.chapters import shipped
from lesionlab.papers.fu2021 import ATTRIBUTES, VARIANTS, Fu2021, analyses, attention, tables
from lesionlab.statistics.baselines import diameter_regression
from lesionlab.statistics.correlation import correlation_matrix
from lesionlab.training import outcomes
from lesionlab.training.studies import Trained
from lesionlab.training.targets import Target

LENGTHS = (3, 1, 6, 2, 5, 4)
QUICK = {"n_resamples": 100}
K = len(ATTRIBUTES)


def described(packed, variant="full", *, parts=1, **options):
    """What one untrained model says of packed lesions, in one fold or several."""
    experiment = Fu2021(variant, depth=8)
    torch.manual_seed(0)
    weights = experiment.model(0).state_dict()
    folds = [
        Trained(fold=i, experiment=experiment, weights=weights, samples=part,
                labels=torch.zeros(0), table=pd.DataFrame())
        for i, part in enumerate(packed.split(-(-len(packed.lesion_ids) // parts)))
    ]  # fmt: skip
    return folds[0], attention.describe(folds, **options)


@pytest.fixture(scope="module")
def packed(make_packed):
    return make_packed(LENGTHS)


@pytest.fixture(scope="module")
def full(packed):
    return described(packed)


def weighted(stacks):
    """A table of slices from the weights of each nodule, scaled here to the sum 1."""
    flat = np.concatenate([np.array(s, dtype=float) / np.sum(s) for s in stacks])
    ids = [f"n{i}" for i in range(len(stacks))]
    return attention.slice_table(ids, list(map(len, stacks)), flat)


def patients(n, *, each=1):
    return pd.Series({f"n{i}": f"p{i // each}" for i in range(n)})


def run(seen=None, *, n=6, seed=0, noise=0.4, names=ATTRIBUTES):
    """Out-of-fold predictions with truths of any kind."""
    rng = np.random.default_rng(seed)
    ids = [f"n{i}" for i in range(n)]
    frame = pd.DataFrame({"lesion_id": ids, "patient": [f"p{i}" for i in range(n)], "fold": 0})
    truth = rng.uniform(1, 4, (n, len(names)))
    for i, name in enumerate(names):
        predicted = truth[:, i] + rng.normal(0, noise, n)
        frame[name] = predicted if seen is None else seen.final[:, i]
        frame[f"{name}_truth"] = truth[:, i]
    return frame


def test_a_refit_puts_a_squeezed_scale_right():
    frame = run(n=60, names=("margin",))
    truth = frame["margin_truth"]
    found = analyses.transfer(frame.assign(margin=0.3 * truth + 2), ["margin"], **QUICK)
    row = found.loc["margin"]
    assert row["rho"] == pytest.approx(1)
    assert row["mae"] == pytest.approx((2 - 0.7 * truth).abs().mean())
    assert row["refitted"] == pytest.approx(0, abs=1e-12)
    assert row["constant"] > 0.5
    noise = np.random.default_rng(3).normal(size=60)  # which nothing puts right
    row = analyses.transfer(frame.assign(margin=noise), ["margin"], **QUICK).loc["margin"]
    assert row["low"] < 0 < row["high"]
    assert row["refitted"] > 0.9 * row["constant"]


def scored(n=40, *, seed=0, noise=0.4, names=ATTRIBUTES):
    frame = run(n=n, seed=seed, noise=noise, names=names)
    index = pd.Index(frame["lesion_id"], name="lesion_id")
    truths = pd.DataFrame({k: frame[f"{k}_truth"].to_numpy() for k in names}, index=index)
    diameter = np.random.default_rng(1).uniform(3, 20, n)
    table = truths.assign(patient=frame["patient"].to_numpy(), diameter=diameter)
    labels = torch.tensor(truths.to_numpy())
    frame["fold"] = np.arange(n) % 4
    return outcomes.score(frame, table, labels, [Target(name) for name in names], n_resamples=20)


@pytest.fixture(scope="module")
def scores():
    return scored()


def test_scores_and_weights_are_the_models(packed, full):
    fold, seen = full
    with torch.no_grad():
        outputs = fold.experiment.forward(fold.model(), packed)
    np.testing.assert_allclose(seen.final, fold.predict(device="cpu").numpy(), atol=1e-5)
    np.testing.assert_allclose(seen.matrices, outputs.attribute_weights, atol=1e-5)
    assert (seen.matrices < 0).any()  # no softmax
    assert seen.auxiliary.shape == seen.final.shape == (6, K)
    assert (seen.auxiliary >= 1).all()  # in rating steps, not 0 to 1
    assert seen.auxiliary[:, ATTRIBUTES.index("calcification")].max() > 2
    slices = seen.slices
    assert slices.groupby("lesion_id", sort=False).size().tolist() == list(LENGTHS)
    np.testing.assert_allclose(slices["weight"], outputs.slice_weights, atol=1e-5)
    np.testing.assert_allclose(slices.groupby("lesion_id")["relative"].mean(), 1, atol=1e-6)
    assert slices["position"][:4].tolist() == [0, 0.5, 1, 0.5]  # of n0, and of n1
    assert slices["slice"][:6].tolist() == [0, 1, 2, 0, 0, 1]


def test_batches_and_folds_make_no_difference(packed, full):
    seen, other = full[1], described(packed, batch_size=2, parts=2)[1]
    assert other.lesion_ids == seen.lesion_ids
    for name in ("final", "auxiliary", "matrices"):
        np.testing.assert_allclose(getattr(other, name), getattr(seen, name), atol=1e-5)
    pd.testing.assert_frame_equal(other.slices, seen.slices, atol=1e-5)
    with pytest.raises(ValueError, match="expected different lesions, got 'n0' in several"):
        attention.describe([full[0]] * 2)
    with pytest.raises(ValueError, match="expected one or more, got none"):
        attention.describe([])


@pytest.mark.parametrize(
    ("variant", "auxiliary", "slices", "matrices"),
    [
        ("no_attention", False, True, False),
        ("cross_attribute", False, True, True),
        ("volume", False, False, False),
        ("malignancy_class", True, True, True),
        ("only_margin", True, True, True),
    ],
)
def test_variants_have_what_their_parts_give(packed, variant, auxiliary, slices, matrices):
    _, seen = described(packed, variant)
    assert (seen.auxiliary is not None) == auxiliary
    assert (seen.slices is not None) == slices
    assert (seen.matrices is not None) == matrices
    assert seen.final.shape == (6, len(VARIANTS[variant].attributes))
    if variant == "no_attention":
        np.testing.assert_allclose(seen.slices["relative"], 1, atol=1e-6)
    if variant == "malignancy_class":
        assert 0 <= seen.final[:, -1].min() <= seen.final[:, -1].max() <= 1


def test_ends_against_middle_by_hand():
    slices = weighted([[1, 4, 1], [1, 1, 1, 1], [1, 9]])  # the last one is too short
    found = attention.ends_against_middle(slices, patients(3), **QUICK)
    # relative: 0.5, 2, 0.5 and four times 1
    assert found.loc["end", "value"] == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    assert found.loc["inner", "value"] == pytest.approx((2 + 1 + 1) / 3)
    assert found.loc["ratio", "value"] == pytest.approx((4 / 3) / 0.75)
    assert found.loc["inner_above_end", "value"] == 0.5
    assert (found[["n", "n_groups"]] == 2).all(axis=None)
    assert found.loc["ratio", ["low", "high"]].tolist() == pytest.approx([1, 4])


def test_the_printed_weights_come_out_of_stacks_that_have_them():
    """0.28 and 1.32 mean 1 together at 6.5 slices, and 4.7 is their ratio."""
    end, inner, ratio = (
        published.fact("fu2021", f"{k}")
        for k in ("end_slice_weight", "inner_slice_weight", "inner_to_end_ratio")
    )
    stacks = [[end, *[inner] * (n - 2), end] for n in (6, 7) * 20]
    found = attention.ends_against_middle(weighted(stacks), patients(40), **QUICK)
    assert found.loc["end", "value"] == pytest.approx(end, abs=0.005)
    assert found.loc["inner", "value"] == pytest.approx(inner, abs=0.005)
    assert found.loc["ratio", "value"] == pytest.approx(ratio, abs=0.05)


def test_the_profile_by_position_by_hand():
    slices = weighted([[1, 4, 1], [1, 2, 3, 2, 1], [5, 1]])
    found = attention.position_profile(slices, patients(3), bins=5, **QUICK)
    assert found.index.tolist() == [0, 0.25, 0.5, 0.75, 1]
    # relative: 0.5, 2, 0.5 and 5/9, 10/9, 15/9, 10/9, 5/9
    expected = [(0.5 + 5 / 9) / 2, 10 / 9, (2 + 15 / 9) / 2, 10 / 9, (0.5 + 5 / 9) / 2]
    np.testing.assert_allclose(found["value"], expected)
    assert found["n"].tolist() == [2, 1, 2, 1, 2]


@pytest.mark.parametrize("analysis", [attention.ends_against_middle, attention.position_profile])
def test_slices_without_a_patient_or_a_middle_are_refused(analysis):
    with pytest.raises(ValueError, match="patients: none for 'n1'"):
        analysis(weighted([[1, 2, 1], [1, 2, 1]]), patients(1), **QUICK)
    with pytest.raises(ValueError, match="no nodule has 3 slices"):
        analysis(weighted([[1, 2], [1]]), patients(2), **QUICK)


def test_mean_weights_by_hand():
    two = np.array([[[3.0, -1.0], [1.0, 1.0]], [[1.0, 1.0], [-1.0, 3.0]]])
    mean = attention.mean_weights(two, ["margin", "texture"])
    np.testing.assert_allclose(mean, [[1, 0], [0, 1]])  # 4 and 0, 0 and 4: signs cancel out
    again = attention.mean_weights(-7 * two, ["margin", "texture"])
    np.testing.assert_allclose(again, mean)


def test_profiles_are_numpys_correlations_averaged():
    raw = np.random.default_rng(1).normal(size=(5, 4, 4))
    names = ATTRIBUTES[:4]
    expected = np.mean([np.corrcoef(one) for one in raw], axis=0)
    np.testing.assert_allclose(attention.profile_correlations(raw, names), expected)
    raw[0, 2] = 0.25  # the same weight for all in one nodule: that one does not count
    found = attention.profile_correlations(raw, names)
    expected = np.mean([np.corrcoef(one) for one in raw[1:]], axis=0)
    np.testing.assert_allclose(found.iloc[2], expected[2])
    raw[:, 2] = 0.25
    assert attention.profile_correlations(raw, names).iloc[2].isna().all()


def test_weights_that_are_the_readers_correlations_agree_and_others_do_not():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(200, 1)) * np.linspace(0, 2, K)
    ratings = pd.DataFrame(common + rng.normal(size=(200, K)), columns=ATTRIBUTES)
    ratings["margin"] *= -1  # Fig. 6a shows magnitudes
    readers = correlation_matrix(ratings, ATTRIBUTES)
    off = readers.abs().to_numpy() * (1 - np.eye(K))
    alike = np.repeat(off[None], 3, axis=0)
    found = attention.attention_agreement(alike, readers, ATTRIBUTES, n_resamples=999)
    assert found.loc["weights", "pearson"] > 0.85  # rows are normalised
    assert found.loc["weights", "pearson_p"] == 0.001
    assert found["n"].tolist() == [36, 36]
    noise = rng.normal(size=(50, K, K))
    none = attention.attention_agreement(noise, readers, ATTRIBUTES, n_resamples=999)
    assert none.loc["weights", "pearson_p"] > 0.05


def test_a_constant_rating_is_left_out_of_the_agreement():
    ratings = pd.DataFrame(np.random.default_rng(0).normal(size=(30, K)), columns=ATTRIBUTES)
    readers = correlation_matrix(ratings.assign(internal_structure=1.0), ATTRIBUTES)
    raw = np.random.default_rng(1).normal(size=(4, K, K))
    found = attention.attention_agreement(raw, readers, ATTRIBUTES, n_resamples=9)
    assert found["n_attributes"].tolist() == [8, 8]
    assert found["n"].tolist() == [28, 28]


def test_auxiliary_against_final(full):
    seen = full[1]
    frame = run(seen)
    found = analyses.auxiliary_against_final(seen, frame, **QUICK)
    truth = frame[[f"{name}_truth" for name in ATTRIBUTES]].to_numpy()
    for column, said in (("mae_auxiliary", seen.auxiliary), ("mae_final", seen.final)):
        expected = np.abs(said - truth).mean(axis=0)
        np.testing.assert_allclose(found.loc[list(ATTRIBUTES), column], expected)
    np.testing.assert_allclose(found["difference"], found["mae_auxiliary"] - found["mae_final"])
    others = {"Auxiliary": found["mae_auxiliary"], "Final": found["mae_final"]}
    table = tables.beside(3, {}, tier="phantom", others=others)
    ours = side(table, "lesionlab (phantom)")
    assert ours.loc["Auxiliary", "margin"] == found.loc["margin", "mae_auxiliary"]
    assert ours.loc["Final", "mean"] == found.loc["mean", "mae_final"]


def test_attention_of_another_run_is_refused(packed, full):
    seen = full[1]
    frame = run(seen)
    with pytest.raises(ValueError, match=r"final scores are up to .* other weights"):
        analyses.auxiliary_against_final(seen, frame.assign(margin=frame["margin"] + 0.1))
    with pytest.raises(ValueError, match="6 lesions and predictions 5"):
        analyses.auxiliary_against_final(seen, frame.iloc[1:])
    with pytest.raises(ValueError, match="no auxiliary heads"):
        analyses.auxiliary_against_final(described(packed, "cross_attribute")[1], frame)


def side(table, head):
    """All columns below one of the lower heads: the paper's, ours, or the differences."""
    return table.xs(head, axis=1, level=-1)


def test_errors_are_the_scores_with_skill(scores):
    table = tables.errors(scores)
    assert list(table.index) == [*ATTRIBUTES, "mean"]
    np.testing.assert_allclose(table["skill"], 1 - table["mae"] / table["constant"])
    assert table.loc["mean", "mae"] == pytest.approx(table["mae"].iloc[:-1].mean())
    assert ((table["low"] <= table["mae"]) & (table["mae"] <= table["high"])).all()
    assert (table["n"] == 40).all()


def test_errors_beside_the_readers(scores):
    two = pd.DataFrame([dict.fromkeys(ATTRIBUTES, 1.0), dict.fromkeys(ATTRIBUTES, 3.0)])
    readings = two.assign(lesion_id="n0")
    table = tables.errors(scores, readings=readings)
    assert (table["inter_observer"] == 2).all()
    assert (table["one_against_rest"] == 2).all()
    rows = tables.readers(readings)
    beside = tables.beside(4, {"full": scores}, tier="slices", others=rows)
    ours = side(beside, "lesionlab (slices)")
    assert ours.loc["IB", "mean"] == 2
    assert ours.loc["One reader against the others' mean", "margin"] == 2
    assert side(beside, "Fu 2021").loc["IB", "mean"] == 0.62
    assert beside.loc["IB", ("mean", "difference")] == pytest.approx(2 - 0.62)
    assert ours.loc["MTR"].isna().all()


@pytest.mark.parametrize("number", ["1", "2", "4", "S1"])
def test_each_row_is_the_run_of_its_variant(number, scores):
    """Errors that say by their size which variant they come from."""
    rows = tables.ROWS[number]
    results = {v: scores.assign(value=scores["value"] + i) for i, v in enumerate(VARIANTS)}
    ours = side(tables.beside(number, results, tier="phantom"), "lesionlab (phantom)")
    for row, variant in rows.items():
        expected = tables.errors(results[variant])["mae"]
        np.testing.assert_array_equal(ours.loc[row, list(expected.index)], expected)
        assert ours.loc[row, "lesions"] == 40
    # the baselines are there, and in no row of the paper's
    baselines = ["Constant (median)", "Diameter alone"]
    assert [row for row in ours.index if ours.loc[row].notna().any()] == [*rows, *baselines]


def test_attributes_alone_have_a_mean_when_all_nine_are_there(scores):
    results = {f"only_{name}": scores[scores["target"] == name] for name in ATTRIBUTES}
    results["full"] = scores
    ours = side(tables.beside("S2", results, tier="phantom"), "lesionlab (phantom)")
    np.testing.assert_allclose(ours.loc["Individual"], ours.loc["Proposed"], rtol=1e-12)
    del results["only_margin"]
    ours = side(tables.beside("S2", results, tier="phantom"), "lesionlab (phantom)")
    assert ours.loc["Individual", ["mean", "margin"]].isna().all()
    assert ours.loc["Individual", "texture"] > 0


def test_hostile_tables(scores):
    with pytest.raises(ValueError, match="not on the same lesions"):
        tables.beside(1, {"full": scores, "no_attention": scores.assign(n=24)}, tier="phantom")
    with pytest.raises(ValueError, match="tier='real'"):
        tables.beside(1, {}, tier="real")
    with pytest.raises(LookupError, match="a figure"):
        tables.beside("Fig. 7", {}, tier="phantom")
    with pytest.raises(ValueError, match="others: 'IB'"):
        tables.beside(4, {}, tier="phantom", others={"IB": {"size": 1.0}})
    with pytest.raises(ValueError, match="there twice"):
        tables.errors(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="no row with the metric 'mae'"):
        tables.errors(scores[scores["metric"] == "skill"])


def test_table_5_in_per_cent():
    rows = [
        {"target": "malignancy", "predictor": p, "metric": m, "value": v, "low": v, "high": v,
         "n": 6, "n_groups": 6}
        for p, v in (("model", 0.75), ("majority", 0.5))
        for m in ("auc", "accuracy", "sensitivity", "specificity", "precision")
    ]  # fmt: skip
    table = tables.beside(5, {"malignancy_class": pd.DataFrame(rows)}, tier="dicom")
    ours = side(table, "lesionlab (dicom)")
    assert ours.loc["Proposed", ["auc", "precision"]].tolist() == [75, 75]
    assert ours.loc["Constant (majority)", "accuracy"] == 50
    assert side(table, "Fu 2021").loc["Proposed", "accuracy"] == 94.7


def test_examples_are_picked_by_their_error():
    frame = run(n=5, names=("margin", "texture"))
    for i in range(5):
        for name in ("margin", "texture"):
            frame.loc[i, name] = frame.loc[i, f"{name}_truth"] + (-1) ** i * i
    for rows in (frame, frame.sample(frac=1, random_state=3)):
        found = analyses.examples(rows, ("margin", "texture"), quantiles=(0, 0.5, 1))
        assert found.index.tolist() == ["n0", "n2", "n4"]
        assert found["error"].tolist() == pytest.approx([0, 2, 4])


def test_the_scores_of_a_lesion():
    frame = run(n=3, names=("margin", "texture"))
    readings = pd.DataFrame({"lesion_id": ["n1", "n1", "n2"], "margin": [4, 2, 1],
                             "texture": [5, np.nan, 1]})  # fmt: skip
    table = analyses.lesion_scores(frame, "n1", readings=readings)
    assert table.index.tolist() == ["margin", "texture"]  # in the order of the papers
    assert table.loc["margin", "truth"] == frame.loc[1, "margin_truth"]
    assert table.loc["margin", "predicted"] == frame.loc[1, "margin"]
    assert table.loc["margin", "readers"] == [2, 4]
    assert table.loc["texture", "readers"] == [5]
    assert "readers" not in analyses.lesion_scores(frame, "n0")


def test_errors_that_are_kept_are_those_of_the_kept_predictions():
    for variant, run in outcomes.kept(shipped("book", "results", "fu2021")).items():
        model = run.scores[(run.scores["predictor"] == "model") & (run.scores["metric"] == "mae")]
        model = model.set_index("target")["value"]
        rows = run.predictions
        names = [name for name in model.index if name != "mean"]
        found = pd.Series({n: (rows[n] - rows[f"{n}_truth"]).abs().mean() for n in names})
        np.testing.assert_allclose(found, model[names], atol=1e-6, err_msg=variant)
        assert model["mean"] == pytest.approx(found.mean(), abs=1e-6)


def readings_of(*margins):
    """Lesions whose readers agree on all but the margin."""
    columns = {f"{name}_readings": [[3] * len(m) for m in margins] for name in ATTRIBUTES}
    columns["margin_readings"] = [list(m) for m in margins]
    columns |= {name: [3.0] * len(margins) for name in ATTRIBUTES}
    columns["margin"] = [float(np.mean(m)) for m in margins]
    columns["patient"] = [f"p{i}" for i in range(len(margins))]
    return pd.DataFrame(columns, index=[f"n{i}" for i in range(len(margins))])


def test_who_knows_the_shown_rating_says_the_median_of_its_like():
    table = readings_of([2], [2], [5], [5], [5], [2], [5])
    table["margin"] = [2.0, 3.0, 4.0, 5.0, 4.0, 2.0, 5.0]
    folds = pd.Series([1, 1, 1, 2, 2, 0, 0], index=table.index)
    row = analyses.visible(table, folds).loc["margin"]
    # learned: 2 is shown by 2 and 3, so 2.5; 5 by 4, 5 and 4, so 4; the constant is 4
    assert row["known"] == pytest.approx((0.5 + 1) / 2)
    assert row["constant"] == pytest.approx((2 + 1) / 2)
    assert (row["skill"], row["n"]) == (pytest.approx(0.5), 2)
    # the one gains 2 - 0.5, the other 1 - 1: drawn twice each, or both
    assert (row["low"], row["high"]) == (pytest.approx(0), pytest.approx(1.5))


def test_what_nobody_rates_otherwise_cannot_be_seen():
    table = readings_of([1], [3], [5], [4])
    found = analyses.visible(table, pd.Series([0, 0, 1, 1], index=table.index))
    assert "malignancy" not in found.index  # never rendered
    assert "sphericity" not in found.index  # comes with the outline
    assert np.isnan(found.loc["texture", "skill"])  # the constant is never wrong
    with pytest.raises(ValueError, match="0 of 4 lesions are tested"):
        analyses.visible(table, pd.Series(1, index=table.index))


@pytest.fixture(scope="module")
def cohort():
    """Margins that the diameter explains in part, lobulations that it does not."""
    rng = np.random.default_rng(0)
    diameter = rng.uniform(3, 30, 60)
    names = pd.Index([f"n{i}" for i in range(60)], name="lesion_id")
    table = pd.DataFrame({"patient": [f"p{i // 2}" for i in range(60)]}, index=names)
    table["diameter"] = diameter
    table["margin"] = np.clip(diameter / 6 + rng.normal(0, 0.3, 60), 1, 5)
    table["lobulation"] = rng.integers(1, 6, 60).astype(float)
    return table, pd.Series(np.arange(60) // 12, index=names)


def predicted(cohort, folds, off=0.0):
    table, parts = cohort
    some = table[parts.isin(folds)]
    frame = some.reset_index()[["lesion_id", "patient"]].assign(fold=parts[some.index].to_numpy())
    for name in ("margin", "lobulation"):
        frame[f"{name}_truth"] = some[name].to_numpy()
        frame[name] = frame[f"{name}_truth"] + off
    return frame


def test_a_model_against_the_diameter_alone(cohort):
    table, folds = cohort
    names = ("margin", "lobulation")
    frame = predicted(cohort, [1, 3], 0.25)
    found = analyses.against_diameter(frame, table, folds, names, n_resamples=100)
    assert found.index.tolist() == [*names, "mean"]
    for name in names:
        # what the baseline of the library says on all folds, on the two that were asked for
        alone = diameter_regression(table, name, folds=folds)
        alone = alone[alone["fold"].isin([1, 3])]
        error = (alone["prediction"] - alone["truth"]).abs().mean()
        assert found.loc[name, "mae_diameter"] == pytest.approx(error)
        assert found.loc[name, "difference"] == pytest.approx(0.25 - error)
        assert found.loc[name, "n"] == 24
    # off by 0.25 at each nodule: clearly better than guessing lobulations from the diameter
    assert found.loc["lobulation", "high"] < 0
    with pytest.raises(ValueError, match="n12 was predicted in another fold"):
        analyses.against_diameter(frame.assign(fold=2), table, folds, ["margin"])


def test_what_the_chapter_quotes_is_in_the_paper():
    notebook = nbformat.read(shipped("notebooks", "fu2021.ipynb"), as_version=4)
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    beside = [int(n) for n in re.findall(r'(?m)^        (\d): r"', code)]  # equations(…)
    assert sorted(beside) == list(range(1, 9))
    quoted = re.findall(r'"([^"]+)"', " ".join(prose.split()))
    folder = os.environ.get("LESIONLAB_PAPERS")
    if not folder:
        pytest.skip("LESIONLAB_PAPERS names no folder with the papers as text")
    paper = (Path(folder) / "fu2021.txt").read_text(encoding="utf-8")
    paper = " ".join(re.sub(r"[*$]", "", paper).split())
    assert [words for words in quoted if words not in paper] == []
