"""Printed numbers as pictures."""

from lesionlab.figures import numbers


def test_a_dot_is_empty_where_the_accuracy_is_not_between():
    figure = numbers.between({"in": (85.0, 80.0, 90.0), "out": (91.0, 80.0, 90.0)})
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["in", "out"]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_fillstyle() for dot in dots] == ["full", "none"]
    assert [list(line.get_xdata()) for line in ax.lines if line not in dots] == [[80, 90]] * 2
