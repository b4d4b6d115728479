"""Figures of models show the numbers that they were given, and a paper's apart from ours."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lesionlab.attributes import RATING_NAMES
from lesionlab.figures import models as figures


def drawn(figure: Figure) -> None:
    """Render, so that nothing is left to fail on the reader's screen."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")


# -- learning --------------------------------------------------------------------------


def fold(number: int, epochs: int = 4, **columns: float) -> dict[str, object]:
    rows = [
        {"epoch": e, "loss": 1 / e, "lr": 1e-4} | {k: v / e for k, v in columns.items()}
        for e in range(1, epochs + 1)
    ]
    return {"fold": number, "history": rows, "best_epoch": 3}


def test_learning_curves_have_a_line_per_fold_and_a_dot_at_the_epoch_kept() -> None:
    courses = figures.histories([fold(0, validation_mae=0.8), fold(2, validation_mae=0.6)])
    assert list(courses) == ["fold 0", "fold 2"]
    figure = figures.learning_curves(courses, tier="phantom")
    loss, measured = figure.axes
    lines = [line for line in loss.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 2
    np.testing.assert_allclose(lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    dots = [line for line in measured.lines if len(line.get_xdata()) == 1]
    assert [dot.get_xydata().tolist() for dot in dots] == [
        [[3, pytest.approx(0.8 / 3)]],
        [[3, pytest.approx(0.2)]],
    ]
    assert measured.get_title() == "validation part"
    assert "rating steps" in measured.get_ylabel()
    assert figure.get_supxlabel() == "phantom"
    drawn(figure)


def test_without_a_measured_part_there_is_the_loss_alone() -> None:
    figure = figures.learning_curves(figures.histories([fold(0)]))
    assert len(figure.axes) == 1
    drawn(figure)


def test_one_that_was_selected_on_the_test_part_says_so() -> None:
    figure = figures.learning_curves(figures.histories([fold(0, test_auc=0.8)]))
    assert figure.axes[1].get_title() == "test part"
    assert figure.axes[1].get_ylabel() == "AUC"


def test_hostile_courses() -> None:
    with pytest.raises(ValueError, match="fold 1 has no history"):
        figures.histories([{"fold": 1, "history": [], "best_epoch": 0}])
    with pytest.raises(ValueError, match="at least one"):
        figures.learning_curves({})
    with pytest.raises(ValueError, match="no column 'loss'"):
        figures.learning_curves({"fold 0": pd.DataFrame({"lr": [1.0]})})


# -- scores ----------------------------------------------------------------------------


def scores(predictors: tuple[str, ...] = ("model", "constant")) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"target": target, "predictor": predictor, "metric": metric, "value": value,
             "low": value - 0.1, "high": value + 0.2, "n": 9, "n_groups": 5}
            for predictor, base in zip(predictors, (0.4, 0.6, 0.5, 0.7, 0.8), strict=False)
            for target, add in (("margin", 0.0), ("texture", 0.05), ("mean", 0.02))
            for metric, value in (("mae", base + add), ("skill", add))
        ]
    )  # fmt: skip


def test_scores_draw_each_predictor_and_the_papers_numbers_apart() -> None:
    printed = {"margin": 0.536, "texture": 0.399, "mean": 0.398, "calcification": 0.141}
    figure = figures.scores(scores(), marks={"Fu 2021": printed, "readers": {"mean": np.nan}})
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Margin", "Texture", "mean"]
    lines = {line.get_label(): line.get_xdata().tolist() for line in ax.lines}
    assert lines["Fu 2021"] == [0.536, 0.399, 0.398]  # what was not scored has no row
    assert lines["readers"] == []
    points = {c.get_label(): c.lines[0].get_xdata().tolist() for c in ax.containers}
    assert points["model"] == pytest.approx([0.4, 0.45, 0.42])
    assert points["constant (median)"] == pytest.approx([0.6, 0.65, 0.62])
    assert "rating steps" in ax.get_xlabel()
    drawn(figure)


def test_scores_of_another_metric() -> None:
    (ax,) = figures.scores(scores(), metric="skill", predictors=("model", "diameter")).axes
    assert len(ax.containers) == 1
    assert ax.get_xlabel().startswith("skill")


def test_hostile_scores() -> None:
    with pytest.raises(ValueError, match="metric='auc'"):
        figures.scores(scores(), metric="auc")
    with pytest.raises(ValueError, match="at most 4"):
        figures.scores(scores(), predictors=tuple("abcde"))


# -- attention -------------------------------------------------------------------------


def profile() -> pd.DataFrame:
    value = np.array([0.3, 1.4, 0.4])
    return pd.DataFrame(
        {"value": value, "low": value - 0.1, "high": value + 0.1},
        index=pd.Index([0, 0.5, 1], name="position"),
    )


def test_the_slice_profile_is_drawn_from_the_first_to_the_last() -> None:
    figure = figures.slice_profile(profile(), tier="slices")
    (ax,) = figure.axes
    assert ax.lines[0].get_xydata().tolist() == [[0, 0.3], [0.5, 1.4], [1, 0.4]]
    assert ax.get_ylim()[0] == 0
    assert "real pixels" in figure.get_supxlabel()
    drawn(figure)


def test_ends_stand_beside_the_printed_ones() -> None:
    value = np.array([0.5, 1.2, 2.4])
    ends = pd.DataFrame(
        {"value": value, "low": value - 0.1, "high": value + 0.1}, index=["end", "inner", "ratio"]
    )
    figure = figures.slice_profile(profile(), ends=ends, printed={"end": 0.28, "inner": 1.32})
    _, ax = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines["Fu 2021"]) == [0.28, 1.32]
    assert ax.containers[0].lines[0].get_ydata().tolist() == [0.5, 1.2]  # not the ratio
    drawn(figure)
    drawn(figures.slice_profile(profile(), ends=ends))


def matrix(seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).uniform(0, 1, (9, 9))
    return pd.DataFrame(values, index=RATING_NAMES, columns=RATING_NAMES)


def test_matrices_stand_side_by_side_with_their_values() -> None:
    first, second = matrix(0), matrix(1)
    first.iloc[0, 1] = np.nan
    figure = figures.attribute_matrices(
        {"readers": first, "weights": second}, limits={"weights": (0, 2)}, decimals=1
    )
    left, right = figure.axes[:2]
    assert (left.get_title(), right.get_title()) == ("readers", "weights")
    assert len(left.texts) == 80
    assert len(right.texts) == 81
    assert right.texts[0].get_text() == f"{second.iloc[0, 0]:.1f}"
    assert right.collections[0].get_clim() == (0, 2)
    off = first.to_numpy()[~np.eye(9, dtype=bool)]
    assert left.collections[0].get_clim() == (np.nanmin(off), np.nanmax(off))
    assert left.get_yticklabels()[0].get_text() == "Sub"
    drawn(figure)


def test_hostile_matrices() -> None:
    with pytest.raises(ValueError, match="at least one"):
        figures.attribute_matrices({})
    with pytest.raises(ValueError, match="'a' has the shape"):
        figures.attribute_matrices({"a": matrix().iloc[:3]})


# -- one lesion ------------------------------------------------------------------------


def lesion(*, readers: bool = True) -> pd.DataFrame:
    table = pd.DataFrame(
        {"truth": [2.5, 6.0], "predicted": [3.5, 5.0]}, index=["margin", "calcification"]
    )
    return table.assign(readers=[[2, 3], [6, 6, 6]]) if readers else table


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 400, (n, 8, 8))


def test_an_example_has_its_slices_its_weights_and_its_scores() -> None:
    weights = np.array([0.1, 0.5, 0.3, 0.1])
    figure = figures.example(images(4), lesion(), weights=weights, title="n7", tier="phantom")
    axes = [ax for ax in figure.axes if ax.get_visible()]
    slices = [ax for ax in axes if ax.images]
    np.testing.assert_array_equal([ax.images[0].get_array() for ax in slices], images(4))
    assert [ax.get_title() for ax in slices] == [f"{k} of 4" for k in (1, 2, 3, 4)]
    bars = [ax.patches[0].get_height() for ax in axes if ax.patches]
    assert bars == weights.tolist()
    scores = axes[-1]
    texts = [t.get_text() for t in scores.texts]
    assert texts == ["2.5 → 3.5", "6.0 → 5.0"]
    marks = [line for line in scores.lines if line.get_marker() == "D"]
    # on each attribute's own scale: 1 to 5, and 1 to 6
    assert [m.get_xdata()[0] for m in marks] == pytest.approx([0.625, 0.8])
    assert figure.get_suptitle() == "n7"
    drawn(figure)


@pytest.mark.parametrize(
    ("n", "shown"), [(1, [1]), (2, [1, 2]), (20, [1, 6, 11, 15, 20]), (5, [1, 2, 3, 4, 5])]
)
def test_of_many_slices_some_are_shown_with_both_ends(n: int, shown: list[int]) -> None:
    figure = figures.example(images(n), lesion(readers=False), at_most=5)
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles == [f"{k} of {n}" for k in shown]
    assert not [ax for ax in figure.axes if ax.patches]
    drawn(figure)


def test_hostile_examples() -> None:
    with pytest.raises(ValueError, match=r"images: shape \(8, 8\)"):
        figures.example(images(1)[0], lesion())
    with pytest.raises(ValueError, match="one for each of 3"):
        figures.example(images(3), lesion(), weights=[1.0])
    with pytest.raises(ValueError, match="at_most=0"):
        figures.example(images(3), lesion(), at_most=0)
    with pytest.raises(ValueError, match="margin is 0, outside of its scale"):
        figures.example(images(3), lesion().assign(truth=0.0))
