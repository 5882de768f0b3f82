"""Table and picture of a comparison, against what a hand computes from a few rows."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from rows import rows_of

from comp_lib.reports.comparison.summary import markdown, plot_increase, rows_with_status, write_summary


def test_the_table_is_right():
    text = markdown(rows_of())
    section = text.split("\n## ")[1]
    assert "| method | 20% | 50% |" in section
    assert "| comp + least-squares | **0.500** (0.400 to 0.600) | 2.500 (2.000 to 3.000) |" in section
    assert "| wanda-sp | 0.600 (0.450 to 0.750) | **1.100** (1.000 to 1.200) |" in section
    memory = next(part for part in text.split("\n## ") if part.startswith("Peak memory"))
    assert "| wanda-sp | **60** (60 to 60) |" in memory
    assert "| comp + least-squares | 90 (" in memory


def test_of_three_seeds_the_best_mean_is_bold():
    """pandas adds these three in another order in a group than in a column: the means differ in a bit."""
    values = (0.603185627961383, 0.5876170641754364, 0.4449890262755162)
    rows = rows_of({("comp", 0.2): values, ("wanda-sp", 0.2): (0.9, 0.9, 0.9)})
    assert rows.groupby("method").increase.mean()["comp"] != pd.Series(values).mean()
    section = markdown(rows).split("\n## ")[1]
    assert "| comp + least-squares | **0.545** (0.445 to 0.603) |" in section
    assert "| wanda-sp | 0.900" in section


def test_higher_agreement_is_better():
    rows = rows_of()
    rows["top1_agreement"] = [0.9 if method == "comp" else 0.3 for method in rows.method]
    section = next(part for part in markdown(rows).split("\n## ") if part.startswith("Same first"))
    assert "| comp + least-squares | **0.900**" in section
    assert "| wanda-sp | 0.300" in section


def test_the_table_tells_what_is_missing():
    rows = rows_of()
    rows.loc[rows.key == "wanda-sp0.518", ["status", "message"]] = ["failed", "too bad"]
    rows.loc[rows.key.isin(["wanda-sp0.208", "wanda-sp0.218"]), ["status", "message"]] = ["failed", "worse"]
    text = markdown(rows)
    assert "| wanda-sp | - | **1.000** [1 of 2 seeds] |" in text
    assert "2.500 (2.000 to 3.000)" in text
    assert "- wanda-sp, ratio 0.5, seed 1, 8 sequences: too bad" in text
    assert text.count("worse") == 2
    assert "too bad" in markdown(rows[rows.status == "failed"])  # nothing finished


def test_increase_shows_means_with_their_intervals_and_seeds():
    figure = plot_increase(rows_with_status(rows_of()))
    axes = figure.axes[0]
    comp, wanda = (container.lines[0] for container in axes.containers)
    assert list(comp.get_xdata()) == pytest.approx([21.0, 51.0])
    assert list(comp.get_ydata()) == pytest.approx([0.5, 2.5])
    assert list(wanda.get_ydata()) == pytest.approx([0.6, 1.1])
    whiskers = [segment[:, 1].tolist() for segment in axes.containers[0].lines[2][0].get_segments()]
    # the mean of the seeds' intervals
    assert whiskers == [pytest.approx([0.4, 0.7]), pytest.approx([2.4, 2.7])]
    seeds = {tuple(line.get_ydata()) for line in axes.lines if line.get_marker() == "."}
    assert seeds == {(0.4, 0.6), (2.0, 3.0), (0.45, 0.75), (1.0, 1.2)}
    assert "nats" in axes.get_ylabel()
    assert "%" in axes.get_xlabel()
    assert axes.get_yscale() == "log"
    assert "comp + least-squares from 0.50 nats at 21% to 2.50 at 51%" in figure.alt_text
    assert "2 seeds" in figure.alt_text


def test_no_logarithm_of_a_gain():
    figure = plot_increase(
        rows_with_status(rows_of({("comp", 0.1): (-0.01, 0.1), ("comp", 0.2): (0.1, 0.2)}))
    )
    assert figure.axes[0].get_yscale() == "linear"


def test_rows_without_intervals_have_a_picture():
    figure = plot_increase(rows_with_status(rows_of(increase_low=math.nan, increase_high=math.nan)))
    assert list(figure.axes[0].containers[0].lines[0].get_ydata()) == pytest.approx([0.5, 2.5])


def test_everything_is_written(tmp_path):
    write_summary(rows_of(status="failed", message="no"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md"}  # no picture of nothing
    write_summary(rows_of(), tmp_path)
    # nothing half-written is left
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "increase.png"}
    assert (tmp_path / "increase.png").read_bytes()[:4] == b"\x89PNG"
