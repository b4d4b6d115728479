"""The papers' printed numbers: loaded as printed, found in the papers, and how far they agree.

Set LESIONLAB_PAPERS to a folder with `<paper>.txt` (the papers as text) to check every row of
every table and every fact against what was printed.
"""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from lesionlab import published
from lesionlab.attributes import LI_CATEGORIES, RATING_NAMES
from lesionlab.published import PAPERS, as_printed, fact, facts, table, tables

FOLDER = Path(published.__file__).parent
EVERY = [pytest.param(r.paper, r.table, id=f"{r.paper}-{r.table}") for r in tables().itertuples()]
NINE = list(RATING_NAMES)


# --- the loader -------------------------------------------------------------------------------


def test_index_and_files_agree_one_to_one():
    on_disk = {str(p.relative_to(FOLDER).as_posix()) for p in FOLDER.rglob("*.csv")}
    listed = tables()["file"]
    assert listed.is_unique
    assert set(listed) == on_disk - {"papers.csv", "index.csv", "facts.csv"}
    assert set(tables()["paper"]) == set(facts()["paper"]) == set(PAPERS)
    assert all(slug == paper.slug for slug, paper in PAPERS.items())
    assert (tables()[["caption", "unit"]] != "").all(axis=None)


@pytest.mark.parametrize(("paper", "number"), EVERY)
def test_every_table_loads_and_says_what_it_is(paper, number):
    text, parsed = as_printed(paper, number), table(paper, number)
    assert text.shape == parsed.shape
    assert parsed.attrs == text.attrs
    assert (parsed.attrs["paper"], parsed.attrs["table"]) == (paper, number)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in text)
    assert not text.duplicated().any()
    for column in text:
        assert (text[column] == text[column].str.strip()).all()
        assert (text[column] != "").any()
        # a column of numbers must come out as numbers: nothing may be left that only looks like one
        if text[column].str.match(r"[\d.,]*$").all():
            assert pd.api.types.is_numeric_dtype(parsed[column]), column
            assert (parsed[column].isna() == (text[column] == "")).all()


@pytest.mark.parametrize(("paper", "number"), EVERY)
def test_ratings_stand_in_the_order_of_the_project(paper, number):
    columns = [c for c in table(paper, number) if c in NINE]
    assert columns in ([], NINE, NINE[:8])


@pytest.mark.parametrize(("paper", "number", "cited"), [
    ("fu2021", 1, "1"), ("fu2021", "Table 1", "1"), ("fu2021", "s1", "S1"),
    ("fu2021", "fig. 3", "Fig. 3"), ("liu2020", 3, "III"), ("liu2020", "Tab. iv", "IV"),
    ("wang2021", "Fig4", "Fig. 4"),
])  # fmt: skip
def test_a_table_can_be_asked_for_as_it_is_cited(paper, number, cited):
    assert table(paper, number).attrs["table"] == cited


def test_digits_thousands_ticks_and_gaps():
    assert as_printed("fu2021", 4)["calcification"].tolist() == ["0.20", "0.33", "0.56", "0.14"]
    assert as_printed("li2021", 1)["lesions"].tolist()[0] == "1,186"
    assert table("li2021", 1)["lesions"].tolist() == [1186, 511, 166, 1946, 5113]
    assert table("li2021", 1)["multiple_categories"].tolist() == [True, False, False, False, True]
    assert table("liu2020", "IV")["above_average"].sum() == 5
    assert table("li2021", 2)["category"].isin(["None"]).sum() == 2  # the word, not a gap
    assert np.isnan(table("fu2021", 4).set_index("method").loc["MTMR-Net", "malignancy"])
    assert table("lei2020", 5).filter(like="p_below").eq(0.01).all(axis=None)
    assert fact("liu2020", "learning_rate_heads") == 3e-5
    assert fact("wang2021", "window_low") == -1024
    assert fact("li2021", "n_lesions") == 5113
    assert facts("li2021").set_index("name").loc["n_lesions", "printed"] == "5,113"


def test_what_a_caller_changes_stays_with_the_caller():
    for load in (lambda: table("fu2021", 1), lambda: as_printed("fu2021", 1), tables, facts):
        first = load()
        first.iloc[0, 0] = "changed"
        first.attrs["note"] = "changed"
        assert load().iloc[0, 0] != "changed"
        assert load().attrs.get("note") != "changed"
    with pytest.raises(TypeError):
        PAPERS["fu2021"] = None
    with pytest.raises(AttributeError):
        PAPERS["fu2021"].year = 1999


@pytest.mark.parametrize(("call", "message"), [
    (lambda: table("fu2020", 1), r"^there is no paper 'fu2020'; there are li2021, fu2021, "),
    (lambda: table("fu2021", 6), r"^fu2021 has no table 6; there are 1, 2, 3, 4, 5, S1, S2, F"),
    (lambda: table("lei2020", "../fu2021/table_1"), r"^lei2020 has no table '\.\./fu2021"),
    (lambda: table("lei2020", None), r"^lei2020 has no table None; there are 1, "),
    (lambda: facts(""), r"^there is no paper ''"),
    (lambda: fact("lei2020", "n_nodules"), r"^lei2020 has no fact 'n_nodules'; .*n_benign, "),
])  # fmt: skip
def test_what_does_not_exist_is_named_beside_what_does(call, message):
    with pytest.raises(LookupError, match=message) as caught:
        call()
    assert not isinstance(caught.value, KeyError)  # a KeyError would print in quotation marks


# --- how far the printed numbers agree with each other ------------------------------------------


@pytest.mark.parametrize("number", ["1", "2", "3", "S1", "S2", "4"])
def test_fu_mean_is_the_mean_of_its_attributes(number):
    content = table("fu2021", number)
    half = 0.005 if number == "4" else 0.0005  # half of the last printed digit
    assert (content[NINE].mean(axis=1) - content["mean"]).abs().max() <= half


def cells(paper, number, row, columns, key="method"):
    return as_printed(paper, number).set_index(key).loc[row, columns].tolist()


def test_fu_rows_that_are_printed_twice_are_the_same():
    columns = [*NINE, "mean"]
    for number, row, original in [
        (2, "2D Slice-based", "No Attention"),
        (2, "2D Slice-based + SAM", "SAM"),
        (3, "Final", "CAAM+ASCMM"),
    ]:
        assert cells("fu2021", number, row, columns) == cells("fu2021", 1, original, columns)
    full = cells("fu2021", 1, "SAM+CAAM+ASCMM", columns)
    proposed = cells("fu2021", "S2", "Proposed", columns)
    assert cells("fu2021", "S1", "0.1", columns, key="lambda") == proposed
    differing = [c for c, a, b in zip(columns, full, proposed, strict=True) if a != b]
    assert differing == ["texture"]  # 0.399 in Table 1, 0.400 in S1 and S2, as the notes say
    for number in ("1", "S1", "S2"):
        assert "0.399" in table("fu2021", number).attrs["note"]
    # Table 4 prints the same row with two digits
    assert [float(c) for c in cells("fu2021", 4, "Proposed", columns)] == [
        round(float(c), 2) for c in full
    ]


def test_one_paper_repeats_the_other():
    assert cells("fu2021", 4, "MTMR-Net", NINE[:8]) == cells("liu2020", "III", "MTMR-Net", NINE[:8])
    liu = table("liu2020", "II").set_index("method")
    fu = table("fu2021", 5).set_index("method")
    same = {"MTMR-Net": "Liu et al. 2020", "Shen et al. 2017": "Shen et al. 2017"}
    for theirs, here in same.items():
        expected = liu.loc[theirs, ["accuracy", "sensitivity", "specificity", "auc"]].to_numpy(
            dtype=float
        ) * [1, 1, 1, 100]
        found = fu.loc[here, ["accuracy", "sensitivity", "specificity", "auc"]]
        np.testing.assert_allclose(found.to_numpy(dtype=float), expected, rtol=1e-12)


def test_fu_figures_use_the_scales():
    ratings = table("fu2021", "Fig. 3")
    assert list(ratings["attribute"].unique()) == NINE
    limits = {"internal_structure": 4, "calcification": 6}
    for figure, columns in [("Fig. 3", ["rating"]), ("Fig. 7", ["ground_truth", "predicted"])]:
        content = table("fu2021", figure)
        top = content["attribute"].map(lambda name: limits.get(name, 5))
        for column in columns:
            assert content[column].ge(1).all()
            assert content[column].le(top).all()
    assert fact("fu2021", "scale_max_internal_structure") == 4
    ratio = fact("fu2021", "inner_slice_weight") / fact("fu2021", "end_slice_weight")
    assert round(ratio, 1) == fact("fu2021", "inner_to_end_ratio")


def test_li_classes_are_the_vocabulary_and_sum_to_the_lesions():
    counts = table("li2021", 2)
    for category in LI_CATEGORIES:
        rows = counts[counts["attribute"] == category.name]
        assert tuple(rows["category"]) == tuple(category.words.values())
        if category.name == "vessel_convergence":  # one count is lost in the text
            assert rows["lesions"].isna().tolist() == [True, False]
        else:
            across_lobes = 436 if category.name == "lesion_location" else 0
            total = fact("li2021", "n_lesions_experiments") - across_lobes
            assert rows["lesions"].sum() == total
    assert "2014 − 553 = 1461 is inferred" in counts.attrs["note"]
    assert fact("li2021", "n_classes") == len(counts)


@pytest.mark.parametrize(("number", "key"), [(3, "mode"), (4, "model")])
def test_li_averages_and_rates(number, key):
    content = table("li2021", number)
    metrics = ["accuracy", "sensitivity", "specificity"]
    printed = content[content["attribute"] == "average"].set_index(key)[metrics]
    classes = content[content["attribute"] != "average"]
    means = classes.groupby([key, "attribute"])[metrics].mean().groupby(key).mean()
    assert (means - printed).abs().max(axis=None) < 1.5e-4
    # of two classes, what is the sensitivity of one is the specificity of the other
    for _, pair in classes.groupby([key, "attribute"]):
        if len(pair) == 2:
            assert pair["sensitivity"].tolist() == pair["specificity"].tolist()[::-1]
    where = {3: "6.1", 4: "6.2"}[number]
    known = facts("li2021")
    in_text = known.loc[(known["where"] == where), "value"]
    assert set(in_text) <= set(printed.to_numpy().ravel())


def test_li_second_table_of_results_starts_from_the_first():
    modes, models = as_printed("li2021", 3), as_printed("li2021", 4)
    two_d = modes[modes["mode"] == "2D"].drop(columns="mode").reset_index(drop=True)
    basic = models[models["model"] == "Basic model"].drop(columns="model").reset_index(drop=True)
    pd.testing.assert_frame_equal(two_d, basic)


def test_li_columns_are_recall_precision_and_negative_predictive_value():
    content = table("li2021", 3)
    printed = content[(content["attribute"] == "margin_clarity") & (content["mode"] == "2D")]
    # 88 clear and 75 unclear lesions, 76 and 59 of them found: 163 in all, the validation part
    assert fact("li2021", "n_validation") == 88 + 75
    expected = [
        [76 / 88, 76 / (76 + 16), 59 / (59 + 12)],
        [59 / 75, 59 / (59 + 12), 76 / (76 + 16)],
    ]
    np.testing.assert_allclose(printed.iloc[:, 3:].to_numpy(), expected, atol=5e-5)


def test_liu_counts_and_ranking():
    assert fact("liu2020", "n_benign") + fact("liu2020", "n_malignant") == 1422
    assert fact("liu2020", "n_slices_benign") + fact("liu2020", "n_slices_malignant") == 9520
    parts = fact("liu2020", "image_features") + fact("liu2020", "attribute_features")
    assert parts == fact("liu2020", "classifier_inputs")
    weights = table("liu2020", "IV")
    assert weights["attribute"].tolist() == NINE[:8]
    assert weights["relatedness"].sum() == pytest.approx(0.990)
    assert (weights["relatedness"].rank(ascending=False) == weights["ranking"]).all()
    above = weights["relatedness"] > weights["relatedness"].mean()
    assert (above == weights["above_average"]).all()
    assert as_printed("liu2020", "III").loc[0, "texture"] == "0.054"  # kept, with a remark
    assert "0.54" in table("liu2020", "III").attrs["note"]


def test_wang_counts():
    counts = table("wang2021", 1).set_index("category")
    parts = counts.drop(index="Total")
    assert (parts.sum() == counts.loc["Total"]).all()
    assert (counts["training"] + counts["testing"] == counts["total"]).all()
    assert (parts["testing"] / parts["total"]).between(0.28, 0.35).all()
    for name in parts.index:
        assert fact("wang2021", f"n_{name.lower()}") == parts.loc[name, "total"]
    matrices = table("wang2021", "Fig. 4").set_index(["model", "ground_truth"])
    for model in "abcde":
        assert matrices.loc[model].sum(axis=1).tolist() == [11 + 58, 101, 55]


def test_wang_average_f1_is_the_weighted_one():
    """Model e is the one whose matrix (Fig. 4) gives all three printed metrics (Table 2)."""
    printed = table("wang2021", 2).set_index(["task", "model"]).loc[1]
    matrices = table("wang2021", "Fig. 4").set_index("model").drop(columns="ground_truth")
    # gap between the printed metric and the matrix: accuracy, weighted F1 (points), MCC (×10⁻¹)
    gaps = {
        "a": (0.17, 0.94, 0.40),
        "b": (0.0, 0.04, 0.02),
        "c": (0.0, 0.96, 0.13),
        "d": (0.0, 0.77, 0.0),
        "e": (0.0, 0.0, 0.0),
    }
    for model, expected in gaps.items():
        matrix = matrices.loc[model].to_numpy()
        truth = np.repeat([0, 0, 0, 1, 1, 1, 2, 2, 2], matrix.ravel())
        found = np.repeat([0, 1, 2] * 3, matrix.ravel())
        metrics = [
            100 * np.mean(truth == found),
            100 * f1_score(truth, found, average="weighted"),
            10 * matthews_corrcoef(truth, found),
        ]
        gap = printed.loc[model, ["accuracy", "f1", "mcc"]].to_numpy(dtype=float) - metrics
        np.testing.assert_allclose(gap, expected, atol=0.0055, err_msg=model)
    macro = 100 * f1_score(truth, found, average="macro")
    assert abs(macro - printed.loc["e", "f1"]) > 1


def test_wang_joint_training_is_one_row_of_the_sweep():
    metrics = ["accuracy", "accuracy_sd", "f1", "f1_sd", "mcc", "mcc_sd", "auc", "auc_sd"]
    joint = as_printed("wang2021", 2).set_index(["task", "model"]).loc[("2", "d"), metrics]
    sweep = as_printed("wang2021", 5).set_index("lambda").loc["1.0", metrics]
    assert joint.tolist() == sweep.tolist()
    cut = as_printed("wang2021", 3).set_index(["task", "model"]).loc[("2", "a")]
    assert (cut["mcc"], cut["mcc_sd"]) == ("3.204", "")  # truncated in the text


def test_lei_parts_make_the_cohort():
    sizes = table("lei2020", 1)
    cohort = fact("lei2020", "n_benign") + fact("lei2020", "n_malignant")
    assert (sizes["train"] + sizes["test"] == cohort).all()
    assert cohort == fact("lei2020", "n_train") + fact("lei2020", "n_test") == 1145
    folds = fact("lei2020", "n_folds")
    fifths = fact("lei2020", "n_benign") / folds, fact("lei2020", "n_malignant") / folds
    assert fifths == (127, 102)
    assert sum(fifths) == fact("lei2020", "n_test")


def distance_to_a_count(share, n):
    return np.abs(share - np.round(share * n) / n)


def test_lei_rates_are_counts_of_one_test_part():
    accuracies = pd.concat(
        {
            ("2", column): table("lei2020", 2).set_index("method")[column]
            for column in ("d1c", "d3c", "d11c", "d21c")
        }
    )
    off = accuracies[distance_to_a_count(accuracies / 100, 229) > 6e-5]
    assert off.to_dict() == {
        ("2", "d3c", "ResNet34-SAM"): 88.69,
        ("2", "d11c", "VGG16"): 96.69,
        ("2", "d11c", "ResNet18-CAM"): 95.36,
        ("2", "d11c", "DenseNet121-SAM"): 97.28,
        ("2", "d21c", "ResNet18"): 95.79,
    }
    parts = table("lei2020", 4).set_index(["metric", "method"])
    assert (distance_to_a_count(parts.loc["accuracy"] / 100, 229) < 6e-5).all(axis=None)
    rates = table("lei2020", 2).set_index("method")
    assert (distance_to_a_count(rates["sensitivity"], 102) < 1e-4).all()
    odd = rates.index[distance_to_a_count(rates["specificity"], 127) > 1e-4]
    assert list(odd) == ["ResNet34-CAM", "Ours-CAM"]


def test_lei_accuracy_beside_sensitivity_and_specificity():
    """Accuracy of 102 malignant and 127 benign nodules, in points; gaps are whole nodules."""
    parts = table("lei2020", 4).set_index(["metric", "method"])
    gap = (
        parts.loc["accuracy"]
        - (102 * parts.loc["sensitivity"] + 127 * parts.loc["specificity"]) / 2.29
    )
    whole = (gap * 2.29).round(1)
    expected = {"U+RB+SAM": 1.0, "U+GMP+SAM": 3.0, "U+GMP+RB+SAM": 2.0}
    assert whole["d11c"][lambda s: s != 0].to_dict() == expected
    assert (whole.drop(columns="d11c") == 0).all(axis=None)
    pooling = table("lei2020", 3)
    gap = pooling["accuracy"] * 2.29 - 102 * pooling["sensitivity"] - 127 * pooling["specificity"]
    assert gap.round(1).tolist() == [0, 0, 0, 2]
    networks = table("lei2020", 2).set_index("method")
    best = networks.loc["Ours-HESAM"]
    gap = networks["d11c"] * 2.29 - 102 * networks["sensitivity"] - 127 * networks["specificity"]
    agree = networks.index[gap.abs() < 0.05]
    assert list(agree) == ["SAG-C", "ResNet18", "VGG16-SAM", "Baseline"]
    assert pooling.iloc[3, 2:].tolist() == best[["d11c", "sensitivity", "specificity"]].tolist()


def test_lei_doctors():
    doctors = table("lei2020", 6)
    errors = doctors["false_positives"] + doctors["false_negatives"]
    fits = {
        name: [n for n in range(1, 21) if abs(100 * (1 - wrong / n) - accuracy) < 0.005]
        for name, wrong, accuracy in zip(
            doctors["doctor"], errors, doctors["accuracy"], strict=True
        )
    }
    assert fits == {"Dr. 1": [], "Dr. 2": [17], "Dr. 3": [18], "Dr. 4": list(range(1, 21))}
    gap = doctors.loc[0, "accuracy"] - 100 * 15 / 17  # printed 88.26 for 88.24
    assert round(gap, 2) == 0.02


def test_known_gaps_are_remarked_on():
    for paper, name, parts, how, meant in (
        ("fu2021", "n_train_other_folds", ("n_train_other_folds", "n_test_other_folds"), sum, 2622),
        ("li2021", "n_train", ("n_train", "n_validation"), sum, 2014),
        ("liu2020", "nodules_per_fold", ("nodules_per_fold", "n_folds"), np.prod, 1422),
    ):
        total = how([fact(paper, part) for part in parts])
        note = facts(paper).set_index("name").loc[name, "note"]
        assert total != meant
        assert f"{total:.0f}, not {meant}" in note
        assert "not mutually consistent" in note


def test_facts_agree_with_the_tables():
    assert facts().duplicated(["paper", "name"]).sum() == 0
    assert facts()["value"].notna().all()
    assert fact("fu2021", "n_train") + fact("fu2021", "n_test") == fact("fu2021", "n_nodules")
    assert fact("wang2021", "n_train") == table("wang2021", 1)["training"].iloc[-1]
    ours = table("li2021", 1).set_index("dataset").loc["Ours"]
    assert ours["scans"] == fact("li2021", "n_scans")
    assert ours["lesion_size_max"] == fact("li2021", "lesion_size_max")
    assert fact("fu2021", "auxiliary_loss_weight") in table("fu2021", "S1")["lambda"].tolist()


# --- against the papers' text -------------------------------------------------------------------

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e-\d+)?")
NUMERIC_CELL = re.compile(r"<?\d[\d.,\s±×%–*-]*|(?:conv|maxpooling) .*")
# Where the text's layout, not the table, has to be mended first; each occurs exactly once.
REPAIRS = {
    # truncated: the deviation is an empty cell
    "wang2021": [("3.204±0.\t", "3.204\t")],
    # the output size of the average pooling stands on a line of its own
    "liu2020": [("<i>avgpooling</i> 7x7\n\t\t2048", "<i>avgpooling</i> 7x7\t2048")],
}
# Tables whose CSV is not one printed line per row. `by`: rows with the same value make up a line
# ("" for all rows). `lines`: the lines of each group, as columns read row by row; a tuple of
# columns after another is printed after it. `hidden`: columns that the line does not print.
BLOCKS = [
    [("accuracy", "accuracy_sd"), ("f1", "f1_sd")],
    [("mcc", "mcc_sd"), ("auc", "auc_sd")],
]
RATES = [[("accuracy",), ("sensitivity",), ("specificity",)]]
SIZES = ("channels", "height", "width")
SCORES = ("dice_before", "class_score_before", "dice_after", "class_score_after")
LAYOUT = {
    ("li2021", "3"): {"by": ["attribute", "category"], "lines": RATES,
                      "hidden": ["attribute", "mode"]},
    ("li2021", "4"): {"by": ["attribute", "category"], "lines": RATES,
                      "hidden": ["attribute", "model"]},
    ("fu2021", "1"): {"hidden": ["p_below"]},  # an asterisk; has its own test
    ("fu2021", "Fig. 3"): {"by": "attribute", "lines": [[("rating",)]], "hidden": ["nodule"]},
    ("fu2021", "Fig. 7"): {"by": "attribute", "lines": [[("ground_truth", "predicted")]],
                           "hidden": ["nodule"]},
    ("liu2020", "I"): {"hidden": ["module"]},  # printed on the first of its lines only
    ("liu2020", "IV"): {"by": "", "lines": [[("relatedness", "relatedness_sd")], [("ranking",)]],
                        "hidden": ["attribute", "above_average"]},
    ("wang2021", "2"): {"by": "task", "lines": BLOCKS, "hidden": ["model"]},
    ("wang2021", "3"): {"by": "task", "lines": BLOCKS, "hidden": ["model"]},
    ("wang2021", "4"): {"hidden": ["split"]},  # heads a block of lines
    ("wang2021", "Fig. 4"): {"by": "ground_truth", "lines": [[("aah_ais", "mia", "iac")]],
                             "hidden": ["model"]},
    ("wang2021", "Fig. 6"): {"by": "row", "lines": [[SCORES]], "hidden": ["row", "case"]},
    ("lei2020", "1"): {"by": "dataset", "lines": [[("train", *SIZES, "test", *SIZES)]]},
    ("lei2020", "4"): {"hidden": ["metric"]},  # printed on the first of its lines only
    ("lei2020", "6"): {"by": "", "hidden": ["doctor"], "lines": [
        [("accuracy",)], [("false_positives",)], [("false_negatives",)]]},
}  # fmt: skip


def paper_text(paper):
    folder = os.environ.get("LESIONLAB_PAPERS")
    if not folder:
        pytest.skip("LESIONLAB_PAPERS names no folder with the papers as text")
    text = (Path(folder) / f"{paper}.txt").read_text(encoding="utf-8")
    for wrong, mended in REPAIRS.get(paper, []):
        assert text.count(wrong) == 1, wrong
        text = text.replace(wrong, mended)
    text = re.sub(r"</?\w+>|\*\*|\$", "", text)
    return text.replace(r"\times", "×").replace(r"\pm", "±")


def printed_lines(paper, number, *, numeric=True):
    """Lines of one table: the run of lines with tabs after (of a figure: before) its caption."""
    figure = number.startswith("Fig. ")
    kinds, label = (r"Fig\.|Figure", number[5:]) if figure else ("Table|TABLE", number)
    caption = re.compile(rf"\W*(?:{kinds})\s+{label}(?:\s*[.:|].*|\s+[A-Z].*|\s*)")
    lines = paper_text(paper).split("\n")
    starts = [i for i, line in enumerate(lines) if caption.fullmatch(line)]
    assert len(starts) == 1, starts
    step = -1 if figure else 1
    at, run = starts[0], []
    while "\t" not in lines[at]:
        at += step
    while 0 <= at < len(lines) and "\t" in lines[at]:
        run.append([cell.strip() for cell in lines[at].split("\t")])
        at += step
    return [row for row in run[::step] if not numeric or any(map(NUMERIC_CELL.fullmatch, row))]


def groups_of(content, by):
    """The rows that make up one printed line each, in order."""
    if isinstance(by, str) and not by:
        return [content]
    return [group for _, group in content.groupby(by, sort=False)]


def expected_lines(paper, number):
    """What each printed line should hold: its text cells, and its numbers in order."""
    content = as_printed(paper, number)
    if (paper, number) == ("li2021", "1"):  # one value is printed where both ends are the same
        for name in ("lesion_size", "slice_thickness", "pixel_spacing"):
            same = content[f"{name}_min"] == content[f"{name}_max"]
            content[f"{name}_max"] = content[f"{name}_max"].mask(same, "")
    layout = LAYOUT.get((paper, number), {})
    shown = [c for c in content if c not in layout.get("hidden", [])]
    for line in layout.get("lines", [[tuple(shown)]]):
        for group in groups_of(content, layout.get("by", content.index)):
            cells_in_order = [cell for cs in line for cell in group[list(cs)].to_numpy().ravel()]
            texts = [c for c in group[shown].to_numpy().ravel() if not NUMBER.fullmatch(c)]
            yield texts, NUMBER.findall(" ".join(cells_in_order))


def plain(text):
    """Letters, digits, + and ticks: `D_{11C}` is D11C, `AAH +AIS` is AAH+AIS."""
    return re.sub(r"mathcal|[^\w+×✓]|_", "", text).lower()


@pytest.mark.parametrize(
    ("paper", "number"), [case for case in EVERY if case.values != ("li2021", "2")]
)
def test_rows_are_those_of_the_paper(paper, number):
    """Line by line, in order and none left over: the same numbers, digit for digit, and labels."""
    printed, expected = printed_lines(paper, number), list(expected_lines(paper, number))
    assert len(printed) == len(expected)
    whole = "lines" not in LAYOUT.get((paper, number), {})  # else row labels may hold digits
    for cells_, (texts, numbers) in zip(printed, expected, strict=True):
        found = NUMBER.findall(" ".join(c for c in cells_ if whole or NUMERIC_CELL.fullmatch(c)))
        assert numbers
        assert found == numbers, cells_
        for text in texts:
            assert plain(text) in plain("".join(cells_)), (text, cells_)


@pytest.mark.parametrize(("paper", "number", "column"), [
    ("li2021", "3", "mode"), ("li2021", "4", "model"), ("wang2021", "2", "model"),
    ("wang2021", "3", "model"), ("wang2021", "Fig. 4", "model"), ("lei2020", "6", "doctor"),
])  # fmt: skip
def test_names_of_columns_are_those_of_the_header(paper, number, column):
    content = as_printed(paper, number)
    each = list(content[column].unique())
    for group in groups_of(content, LAYOUT[paper, number]["by"]):
        assert group[column].tolist() == each
    headers = [
        [plain(cell) for cell in row if cell]
        for row in printed_lines(paper, number, numeric=False)
        if not any(map(NUMERIC_CELL.fullmatch, row))
    ]
    wanted = [plain(name) for name in each]
    assert any(
        all(cell.startswith(name) for cell, name in zip(row[at:], wanted, strict=False))
        for row in headers
        for at in range(len(row) - len(wanted) + 1)
    )


def test_li_counts_are_those_of_the_paper():
    """Three tables side by side, shifted at the end: a class and its count are neighbours."""
    neighbours = set()
    for row in printed_lines("li2021", "2", numeric=False):
        full = [cell for cell in row if cell]
        neighbours |= set(zip(full, [*full[1:], ""], strict=True))
    counts = as_printed("li2021", 2)
    assert set(zip(counts["category"], counts["lesions"], strict=True)) <= neighbours
    numbers = [b for _, b in neighbours if NUMBER.fullmatch(b)]
    assert sorted(numbers) == sorted(counts.loc[counts["lesions"] != "", "lesions"])


def test_marks_are_those_of_the_paper():
    stars = [row[-1].endswith("*") for row in printed_lines("fu2021", "1")]
    assert stars == (as_printed("fu2021", 1)["p_below"] == "0.05").tolist()
    ticks = printed_lines("liu2020", "IV", numeric=False)[-1][1:]
    assert ["✓" if tick else "" for tick in ticks] + [""] * (8 - len(ticks)) == as_printed(
        "liu2020", "IV"
    )["above_average"].tolist()
    bounds = [cell for row in printed_lines("lei2020", "5") for cell in row[1:]]
    assert bounds == ["<0.01"] * 24


@pytest.mark.parametrize("paper", PAPERS)
def test_facts_are_numbers_of_the_text(paper):
    text = re.sub(r"10\^\{(-\d+)\}", r"1e\1", paper_text(paper))
    numbers = {float(n.replace(",", "")) for n in NUMBER.findall(text)}
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    numbers |= {words.index(w) for w in re.findall(r"[a-z]+", text.lower()) if w in words}
    known = facts(paper)
    assert known["name"][~known["value"].abs().isin(numbers)].tolist() == []


def test_citations_are_those_of_the_papers():
    for slug, paper in PAPERS.items():
        text = plain(paper_text(slug))
        assert plain(paper.title) in text
        assert plain(paper.authors.split()[0]) in text
        printed = {"10.3389/fdgth.2020.609349": "10.3389/fgdh.2020.609349"}  # as the text reads
        assert paper.doi is None or plain(printed.get(paper.doi, paper.doi)) in text
