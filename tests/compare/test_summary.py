"""Table, figures and verdict of a comparison, against what a hand computes from a few rows."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from rows import rows_of

from comp_lib.compare.summary import finished, markdown, write_summary
from course.figures.grids import pareto_front, plot_increase, plot_latency, plot_memory, plot_sequences

COMP = "comp + least-squares"


def test_the_table_is_right():
    text = markdown(rows_of())
    section = text.split("\n## ")[1]
    assert "| method | 20% | 50% |" in section
    assert "| comp + least-squares | **0.500** (0.400 to 0.600) | 2.500 (2.000 to 3.000) |" in section
    assert "| wanda-sp | 0.600 (0.450 to 0.750) | **1.100** (1.000 to 1.200) |" in section
    memory = next(part for part in text.split("\n## ") if part.startswith("Peak memory"))
    assert "| wanda-sp | **60** (60 to 60) |" in memory and "| comp + least-squares | 90 (" in memory


def test_kinds_have_a_table_for_each_ratio():
    rows = rows_of()
    seeds = {"comp": [(0.1, 0.5), (0.3, 0.7)], "wanda-sp": [(0.4, 0.5), (0.4, 0.5)]}
    rows["kinds"] = [
        json.dumps(dict(zip(("prose", "code"), ([value, 0.0, 1.0] for value in seeds[method][seed]), strict=True)))
        for method, seed in zip(rows.method, rows.seed, strict=True)
    ]
    section = next(part for part in markdown(rows).split("\n## ") if "by kind of text, 50% removed" in part)
    assert "| method | prose | code |" in section
    assert "| comp + least-squares | **0.200** | 0.600 |" in section and "| wanda-sp | 0.400 | **0.500** |" in section
    rows.loc[(rows.method == "wanda-sp") & (rows.seed == 1), "kinds"] = None  # one seed is no match for two
    section = next(part for part in markdown(rows).split("\n## ") if "by kind of text, 50% removed" in part)
    assert "| comp + least-squares | **0.200** | **0.600** |" in section
    assert "| wanda-sp [1 of 2 seeds] | 0.400 | 0.500 |" in section
    rows["kinds"] = None
    assert "by kind" not in markdown(rows)


def test_higher_agreement_is_better():
    rows = rows_of()
    rows["top1_agreement"] = [0.9 if method == "comp" else 0.3 for method in rows.method]
    section = next(part for part in markdown(rows).split("\n## ") if part.startswith("Same first"))
    assert "| comp + least-squares | **0.900**" in section and "| wanda-sp | 0.300" in section


def test_the_table_tells_what_is_missing():
    rows = rows_of()
    rows.loc[rows.key == "wanda-sp0.518", ["status", "message"]] = ["failed", "too bad"]
    rows.loc[rows.key.isin(["wanda-sp0.208", "wanda-sp0.218"]), ["status", "message"]] = ["failed", "worse"]
    text = markdown(rows)
    assert "| wanda-sp | - | 1.000 [1 of 2 seeds] |" in text and "**2.500** (2.000 to 3.000)" in text
    assert "- wanda-sp, ratio 0.5, seed 1, 8 sequences: too bad" in text and text.count("worse") == 2
    assert "too bad" in markdown(rows[rows.status == "failed"])  # nothing finished


def test_a_table_for_each_size():
    text = markdown(pd.concat([rows_of(sequences=32), rows_of(sequences=8)]))
    assert text.index("# tiny, 8 x") < text.index("# tiny, 32 x")


def brute_front(points):
    def beaten(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    return {i for i, p in enumerate(points) if not beaten(p)}


@pytest.mark.parametrize("seed", range(20))
def test_the_pareto_front_is_what_none_beats(seed):
    import random

    draw = random.Random(seed)
    points = [(float(draw.randint(0, 5)), float(draw.randint(0, 5))) for _ in range(12)]  # with ties and twins
    front = pareto_front(points)
    assert set(front) == brute_front(points) and [points[i][0] for i in front] == sorted(points[i][0] for i in front)
    assert len(front) == len(set(front))


def test_increase_shows_means_with_their_intervals_and_seeds():
    figure = plot_increase(finished(rows_of()))
    axes = figure.axes[0]
    comp, wanda = (container.lines[0] for container in axes.containers)
    assert list(comp.get_xdata()) == pytest.approx([21.0, 51.0]) and list(comp.get_ydata()) == pytest.approx([0.5, 2.5])
    assert list(wanda.get_ydata()) == pytest.approx([0.6, 1.1])
    whiskers = [segment[:, 1].tolist() for segment in axes.containers[0].lines[2][0].get_segments()]
    assert whiskers == [pytest.approx([0.4, 0.7]), pytest.approx([2.4, 2.7])]  # the mean of the seeds' intervals
    seeds = {tuple(line.get_ydata()) for line in axes.lines if line.get_marker() == "."}
    assert seeds == {(0.4, 0.6), (2.0, 3.0), (0.45, 0.75), (1.0, 1.2)}
    assert "nats" in axes.get_ylabel() and "%" in axes.get_xlabel() and axes.get_yscale() == "log"
    assert "comp + least-squares from 0.50 nats at 21% to 2.50 at 51%" in figure.alt_text
    assert "2 seeds" in figure.alt_text


def test_methods_at_one_place_are_drawn_beside_each_other():
    figure = plot_sequences(finished(rows_of({("comp", 0.2): (0.5,), ("wanda-sp", 0.2): (0.5,)})))
    figure.draw_without_rendering()
    places = [
        container.lines[0].get_transform().transform(container.lines[0].get_xydata())[0, 0]
        for container in figure.axes[0].containers
    ]
    assert 3 < places[1] - places[0] < 12  # pixels
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "."]  # one seed is no spread


def test_no_logarithm_of_a_gain():
    figure = plot_increase(finished(rows_of({("comp", 0.1): (-0.01, 0.1), ("comp", 0.2): (0.1, 0.2)})))
    assert figure.axes[0].get_yscale() == "linear"


def line(axes, name="Pareto front"):
    (found,) = [line for line in axes.lines if line.get_label() == name]
    return [tuple(map(float, point)) for point in found.get_xydata()]


def test_latency_has_no_front_for_its_order_is_noise():
    figure = plot_latency(finished(rows_of()))
    assert not figure.axes[0].lines
    assert "Fastest first: wanda-sp at 50% (0.5, 1.10 nats)" in figure.alt_text
    assert "comp + least-squares at 20% (0.8, 0.50 nats)" in figure.alt_text
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert {"comp + least-squares", "wanda-sp", "20% to remove", "50% to remove"} == set(labels)
    assert not figure.axes[0].texts  # colours and marks say it, no labels that could cover each other


def test_memory_has_a_front_for_each_ratio():
    figure = plot_memory(finished(rows_of()))
    assert [axes.get_title() for axes in figure.axes] == ["20% to remove", "50% to remove"]
    assert line(figure.axes[0]) == [(60.0, pytest.approx(0.6)), (90.0, pytest.approx(0.5))]
    assert line(figure.axes[1]) == [(60.0, pytest.approx(1.1))]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1  # side by side, so on one scale
    assert "MiB" in figure.axes[0].get_xlabel() and "at 50%, wanda-sp (60, 1.10 nats)" in figure.alt_text


def test_sequences_go_along_the_axis():
    rows = pd.concat([rows_of(sequences=8), rows_of({("comp", 0.2): (0.2, 0.3)}, sequences=32)])
    figure = plot_sequences(finished(rows))
    comp = figure.axes[0].lines[0]
    assert list(comp.get_xdata()) == [8, 32] and list(comp.get_ydata()) == pytest.approx([0.5, 0.25])
    assert "comp + least-squares at 20% from 0.50 to 0.25 nats" in figure.alt_text
    assert [axes.get_title() for axes in figure.axes] == ["20% to remove"]  # the other ratio has one number only
    alone = plot_sequences(finished(rows_of()))
    assert len(alone.axes) == 2 and math.isclose(alone.axes[1].lines[0].get_ydata()[0], 2.5)


def test_everything_is_written(tmp_path):
    one = write_summary(rows_of(), tmp_path / ".")
    assert sorted(path.name for path in one) == ["increase.png", "latency.png", "memory.png", "table.md"]
    both = write_summary(pd.concat([rows_of(), rows_of(sequences=16)]), tmp_path)
    assert "sequences.png" in {path.name for path in both}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in both if path.suffix == ".png")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in both}  # nothing half-written is left
