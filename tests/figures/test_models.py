"""Figures of models show the numbers that they were given, and a paper's apart from ours."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import lesionlab.figures
from lesionlab import explorer
from lesionlab.figures import maps, readers, samples
from lesionlab.figures import models as figures
from lesionlab.papers import fu2021


def fold(number: int, epochs: int = 4, **columns: float) -> dict[str, object]:
    rows = [
        {"epoch": e, "loss": 1 / e, "lr": 1e-4} | {k: v / e for k, v in columns.items()}
        for e in range(1, epochs + 1)
    ]
    return {"fold": number, "history": rows, "best_epoch": 3}


def test_learning_curves_have_a_line_per_fold_and_a_dot_at_the_epoch_kept(drawn: Any) -> None:
    courses = figures.histories([fold(0, validation_mae=0.8), fold(2, validation_mae=0.6)])
    assert list(courses) == ["fold 0", "fold 2"]
    figure = figures.learning_curves(courses, tier="phantom")
    loss, measured = drawn(figure)
    lines = [line for line in loss.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 2
    np.testing.assert_allclose(lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    dots = [line.get_xydata() for line in measured.lines if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(np.vstack(dots), [[3, 0.8 / 3], [3, 0.2]])
    assert measured.get_title() == "validation part"
    assert "rating steps" in measured.get_ylabel()
    assert figure.get_supxlabel() == "phantom"
    assert len(figures.learning_curves(figures.histories([fold(0)])).axes) == 1
    _, other = figures.learning_curves(figures.histories([fold(0, test_auc=0.8)])).axes
    assert (other.get_title(), other.get_ylabel()) == ("test part", "AUC")
    with pytest.raises(ValueError, match="fold 1 has no history"):
        figures.histories([{"fold": 1, "history": [], "best_epoch": 0}])


def test_the_drawing_of_a_network_has_its_own_numbers() -> None:
    network = fu2021.Network().eval()
    parts = [("CNN", "backbone", ""), ("SAM", "slices", "weights"), ("output", "heads", "")]
    images, nodule = torch.zeros(3, 1, 64, 64), torch.tensor([0, 0, 1])
    figure = figures.architecture(network, parts, images, nodule)
    texts = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert {"CNN", "SAM", "output", "weights"} <= set(texts)
    boxes = [text for text in texts if re.search(r"[A-Z][a-z]+\n[\d,]+$", text)]
    assert boxes[1] == "Slice\nAttention\n33,025"
    assert texts[-4:] == ["1 ×\n64 ×\n64", "256", "9 ×\n256", "9"]
    assert not network.slices._forward_pre_hooks


def scores() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"target": target, "predictor": predictor, "metric": metric, "value": value,
             "low": value - 0.1, "high": value + 0.2, "n": 9, "n_groups": 5}
            for predictor, base in (("model", 0.4), ("constant", 0.6))
            for target, add in (("margin", 0.0), ("texture", 0.05), ("mean", 0.02))
            for metric, value in (("mae", base + add), ("skill", add))
        ]
    )  # fmt: skip


def test_scores_draw_each_predictor_and_the_papers_numbers_apart(drawn: Any) -> None:
    printed = {"margin": 0.536, "texture": 0.399, "mean": 0.398, "calcification": 0.141}
    marks = {"Fu 2021": printed, "readers": {"mean": np.nan}}
    (ax,) = drawn(figures.scores(scores(), marks=marks))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Margin", "Texture", "mean"]
    lines = {line.get_label(): line.get_xdata().tolist() for line in ax.lines}
    assert lines["Fu 2021"] == [0.536, 0.399, 0.398]  # what was not scored has no row
    assert lines["readers"] == []
    points = {c.get_label(): c.lines[0].get_xdata().tolist() for c in ax.containers}
    assert points["model"] == pytest.approx([0.4, 0.45, 0.42])
    assert points["constant (median)"] == pytest.approx([0.6, 0.65, 0.62])
    assert "rating steps" in ax.get_xlabel()
    (ax,) = figures.scores(scores(), metric="skill", predictors=("model", "diameter")).axes
    assert len(ax.containers) == 1
    assert ax.get_xlabel().startswith("skill")
    with pytest.raises(ValueError, match="metric='auc'"):
        figures.scores(scores(), metric="auc")


def test_the_slice_profile_begins_at_0(drawn: Any) -> None:
    value = pd.Series([0.3, 1.4, 0.4], index=pd.Index([0, 0.5, 1], name="position"))
    profile = pd.DataFrame({"value": value, "low": value - 0.1, "high": value + 0.1})
    (ax,) = drawn(figures.slice_profile(profile, tier="slices"))
    assert ax.lines[0].get_xydata().tolist() == [[0, 0.3], [0.5, 1.4], [1, 0.4]]
    assert ax.get_ylim()[0] == 0


def lesion() -> pd.DataFrame:
    return pd.DataFrame(
        {"truth": [2.5, 6.0], "predicted": [3.5, 5.0], "readers": [[2, 3], [6, 6, 6]]},
        index=["margin", "calcification"],
    )


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 400, (n, 8, 8))


def test_an_example_has_its_slices_its_weights_and_its_scores(drawn: Any) -> None:
    weights = np.array([0.1, 0.5, 0.3, 0.1])
    figure = figures.example(images(4), lesion(), weights=weights, title="n7", tier="phantom")
    axes = drawn(figure)
    slices = [ax for ax in axes if ax.images]
    np.testing.assert_array_equal([ax.images[0].get_array() for ax in slices], images(4))
    assert [ax.get_title() for ax in slices] == [f"{k} of 4" for k in (1, 2, 3, 4)]
    assert [ax.patches[0].get_height() for ax in axes if ax.patches] == weights.tolist()
    assert [t.get_text() for t in axes[-1].texts] == ["2.5 → 3.5", "6.0 → 5.0"]
    marks = [line for line in axes[-1].lines if line.get_marker() == "D"]
    # on each attribute's own scale: 1 to 5, and 1 to 6
    assert [m.get_xdata()[0] for m in marks] == pytest.approx([0.625, 0.8])
    assert figure.get_suptitle() == "n7"


@pytest.mark.parametrize(("n", "shown"), [(1, [1]), (15, [1, 3, 5, 7, 9, 11, 13, 15])])
def test_of_many_slices_some_are_shown_with_both_ends(drawn: Any, n: int, shown: list[int]) -> None:
    weights = np.full(n, 1 / n)
    figure = figures.example(images(n), lesion().drop(columns="readers"), weights=weights)
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes if ax.images] == [f"{k} of {n}" for k in shown]


NETWORKS = dict.fromkeys("abcd", pd.DataFrame())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.example(images(3), lesion(), weights=[1.0]),
         "images, weights: shapes (3, 8, 8) and (1,), expected"),
        (lambda: figures.example(images(0), lesion(), weights=[]),
         "shapes (0, 8, 8) and (0,), expected (slice, row, column) with at least one slice"),
        (lambda: figures.example(images(1), lesion().assign(truth=0.0), weights=[1]),
         "margin is 0, outside of its scale"),
        (lambda: maps.estimates(NETWORKS, "times"),
         "tables of ['a', 'b', 'c', 'd']: expected one to 3 networks"),
        (lambda: maps.estimates({}, "times"), "tables of []: expected one to 3"),
        (lambda: readers.intervals(pd.DataFrame(), xlabel="", groups=list("abcde")),
         "groups=['a', 'b', 'c', 'd', 'e']: expected one to 4"),
        (lambda: samples.sheet({"a": []}), "rows={'a': []}: expected at least one picture"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("package", [explorer, lesionlab.figures])
def test_a_name_that_is_not_there_is_told_as_python_does(package: Any) -> None:
    message = f"module '{package.__name__}' has no attribute 'x'"
    with pytest.raises(AttributeError, match=f"^{message}$"):
        _ = package.x
