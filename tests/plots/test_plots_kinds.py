"""The picture of the kinds of text: bars and whiskers at their numbers, and words that say them."""

from __future__ import annotations

import math

import pytest

from comp_lib.plots import plot_kinds, png
from comp_lib.plots.base import overlapping_texts
from course.figures.comp_vs_baselines import plot_methods_by_kind

NAMES = ("prose", "code", "mean of 2")
DENSE, PRUNED = (2.0, 1.0, 1.5), (2.5, 1.25, 1.875)
MORE = ((0.3, 0.7), (0.2, 0.28), (0.3, 0.45))  # intervals of the increase
LOSS = ((2.2, 2.9), (1.0, 1.5), (1.7, 2.0))


def rows(compared, pruned=PRUNED, more=MORE):
    table = {}
    for name, dense, loss, increase, own in zip(NAMES, DENSE, pruned, more, LOSS, strict=True):
        values, intervals = {"loss": loss}, {"loss": own}
        if compared:
            values |= {"dense_loss": dense, "increase": loss - dense}
            intervals |= {"increase": increase}
        table[name] = values, intervals
    return table


def whiskers(axes):
    """(left, right) of each error bar, in the order of the bars."""
    [bars] = [container.errorbar for container in axes.containers if getattr(container, "errorbar", None)]
    return [tuple(segment[:, 0]) for segment in bars.lines[2][0].get_segments()]


def test_dense_and_pruned_stand_in_order_with_the_increase_as_whiskers():
    figure = plot_kinds(rows(True))
    [axes] = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [*DENSE, *PRUNED]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert middles[:3] == sorted(middles[:3]) and all(a < b for a, b in zip(middles[:3], middles[3:], strict=True))
    assert axes.yaxis_inverted()  # so the first is on top
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    expected = [(dense + low, dense + high) for dense, (low, high) in zip(DENSE, MORE, strict=True)]
    for found, (low, high) in zip(whiskers(axes), expected, strict=True):
        assert found == pytest.approx((low, high))
    assert [text.get_text() for text in axes.texts] == ["+0.50", "+0.25", "+0.38"]
    assert [text.get_text() for text in axes.get_legend().get_texts()][0] == "dense"
    assert "prose 2.00 dense, 2.50 pruned, +0.50 (0.30 to 0.70); code" in figure.alt_text
    assert figure.alt_text.endswith("mean of 2 1.50 dense, 1.88 pruned, +0.38 (0.30 to 0.45).")


def test_alone_a_model_has_one_bar_with_the_interval_of_its_loss():
    figure = plot_kinds(rows(False))
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == list(PRUNED)
    for found, bounds in zip(whiskers(axes), LOSS, strict=True):
        assert found == pytest.approx(bounds)
    assert "code 1.25 (1.00 to 1.50); mean of 2 1.88" in figure.alt_text and "dense" not in figure.alt_text


def test_text_is_legible_and_inside_at_700_pixels():
    figure = plot_kinds(rows(True))
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert figure.get_size_inches()[0] * figure.dpi == pytest.approx(702)
    for text in (*axes.texts, *axes.get_yticklabels(), axes.xaxis.label):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= 702 and text.get_fontsize() >= 9
    right = axes.get_window_extent().x1
    assert all(text.get_window_extent().x1 <= right for text in axes.texts)


@pytest.mark.parametrize("loss", [math.nan, 2.5])
def test_what_has_no_number_or_no_interval_is_drawn_without(loss):
    figure = plot_kinds(rows(True, (loss, *PRUNED[1:]), [(math.nan, math.nan)] * 3))
    assert png(figure).startswith(b"\x89PNG") and " to " not in figure.alt_text


def test_methods_stand_beside_each_other_on_each_text():
    ours, theirs = {"prose": [(0.2, 0.1, 0.4), (0.3, 0.2, 0.5)], "code": [(0.1, 0.0, 0.2)]}, {"code": [(0.5, 0.4, 0.6)]}
    figure = plot_methods_by_kind({"small": {"COMP": ours, "peer": theirs}, "large": {"peer": theirs}})
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["small", "large"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["prose", "code"]
    comp, peer = (container[0].get_xydata() for container in first.containers)
    assert comp[:, 0].tolist() == [0.2, 0.3, 0.1] and peer[:, 0].tolist() == [0.5]  # a mark for each seed
    assert comp[2, 1] < peer[0, 1] and comp[:, 1].round().tolist() == [0, 0, 1]
    assert first.get_xlim() == second.get_xlim() and overlapping_texts(figure) == []
    assert second.containers[0][0].get_color() == first.containers[1][0].get_color()
    assert "small, COMP: prose 0.25, code 0.10; small, peer: code 0.50" in figure.alt_text
