"""The box of a check-up: never more than was measured, and never without a command."""

from __future__ import annotations

import math
import shlex

import pandas as pd
import pytest

from comp_lib.cli.app import app
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.pruning.settings import USUAL_PRESET
from comp_lib.reports.checkup import recommendation


def costs(*rows, way=USUAL_PRESET):
    """The frame of one kind and of the mean, for (ratio, increase, low, high) of the mean."""
    shared = {"model": "m", "seed": 0, "way": way, "parameters": 2_000_000, "windows": 64}
    table = [
        shared
        | {"kind": kind, "ratio": ratio, "removed": ratio + 0.004, "increase": up, "low": low, "high": high}
        for ratio, *cost in rows
        for kind, (up, low, high) in (("code", (9.0, 8.0, 10.0)), ("all", cost))
    ]
    return pd.DataFrame(table).set_index(["model", "seed", "kind"])


# (ratio, increase, low, high)
CHEAP = (0.1, -0.001, -0.004, 0.002)
MIDDLE = (0.2, 0.4, 0.35, 0.45)
DEAR = (0.3, 0.48, 0.4, 0.56)
WITHOUT_INTERVAL = (0.2, 0.1, math.nan, math.nan)
CHANGED_OPTIONS = {"calibration": "my text.txt", "seed": 3, "dtype": "float32"}
CASES = {  # rows, way, options -> the headline and its command
    "a plan": (
        (DEAR, MIDDLE, CHEAP),
        "tailored",
        {"seed": 0},
        "20% of the decoder may go",
        "prune --ratio 0.2",
    ),
    "one width": (
        (MIDDLE, DEAR),
        "stock",
        {},
        "20% of the decoder may go",
        "prune --ratio 0.2 --preset stock",
    ),
    "a preset": ((MIDDLE, DEAR), "best", {}, "20% of the decoder may go", "prune --ratio 0.2 --preset best"),
    "its settings": (
        (CHEAP, DEAR),
        "flap",
        CHANGED_OPTIONS,
        "10% of the decoder may go",
        "prune --ratio 0.1 --method flap --calibration 'my text.txt' --seed 3",
    ),
    "too dear": (
        (DEAR,),
        "tailored",
        {},
        "cost 0.48 (0.40 to 0.56)",
        "report --at-most 0.5nats --ratios 0.15,0.3 --sequences 256",
    ),
    "no interval": (
        (WITHOUT_INTERVAL,),
        "tailored",
        {},
        "20% of the decoder cost 0.10 nats",
        "report --at-most 0.5nats",
    ),
    "as told": (
        (WITHOUT_INTERVAL,),
        "best",
        {"seed": 3},
        "cost 0.10",
        "report --ways best --at-most 0.5nats --seed 3",
    ),
}


def command(line):
    """The words of a line that is a command on this model, without the file."""
    first, name, model, *options = shlex.split(line)
    assert first == "comp-lib"
    assert model == "<b>"
    assert name in {registered.callback.__name__ for registered in app.registered_commands}
    return shlex.join([name, *(options[2:] if options[0] == "--out" else options)])


@pytest.mark.parametrize("case", CASES)
def test_a_ratio_may_go_where_its_whole_interval_is_allowed(case):
    rows, way, options, headline, expected_command = CASES[case]
    # only the first way has a say
    frame = pd.concat([costs(*rows, way=way), costs(CHEAP, way="random")])
    lines = recommendation.recommend("<b>", frame, 0.5, 64, options)
    assert headline in lines[0]
    assert command(lines[-1]) == expected_command
    bundle = recommendation.make_box(lines, recommendation.cost_table(frame))
    for text in ("<b>", "nan", "-0.00"):
        assert text not in bundle["text/html"]
    assert list(recommendation.cost_table(frame).index) == ["code", "mean"]


@pytest.mark.parametrize(("loss", "chance"), [(10.8, True), (9.8, True), (9.6, False), (math.nan, True)])
def test_a_model_that_has_learned_nothing_is_known_by_its_loss(loss, chance):
    lines = recommendation.describe_untrained("<b>", loss, 49_152)
    assert bool(lines) is chance
    if chance:
        assert command(lines[-1]).startswith("generate --prompt ")
        assert "10.80" in lines[1]


def test_a_pruned_model_is_sent_to_its_parent():
    plan = Plan("its parent", 2, (0, 1), (8, 8), (1, 1), 0.2, 0.213)
    lines = recommendation.describe_history("<b>", plan, "")
    assert "21% of the decoder of its parent" in lines[0]
    assert command(lines[1]) == "report --against 'its parent'"
    assert len(recommendation.describe_history("<b>", plan, "its parent")) == 1
