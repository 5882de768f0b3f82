"""The box of a check-up: never more than was measured, and never without a command."""

from __future__ import annotations

import math
import shlex

import pandas as pd
import pytest

from comp_lib.analysis import verdict
from comp_lib.cli.app import app
from comp_lib.plan import Plan

HOW = {"calibration": "general", "seed": 0, "dtype": "float32", "device": "cpu"}
UNKNOWN = (math.nan, math.nan)


def costs(*rows, way="stock"):
    """The frame of one kind and of the mean, for (ratio, increase, low, high) of the mean."""
    shared = {"model": "m", "seed": 0, "way": way, "parameters": 2_000_000, "windows": 64}
    table = [
        shared | {"kind": kind, "ratio": ratio, "removed": ratio + 0.004, "increase": up, "low": low, "high": high}
        for ratio, up, low, high in rows
        for kind, up, low, high in (("code", 9.0, 8.0, 10.0), ("all", up, low, high))
    ]
    return pd.DataFrame(table).set_index(["model", "seed", "kind"])


CHEAP, MIDDLE, DEAR = (0.1, 0.2, 0.15, 0.25), (0.2, 0.4, 0.35, 0.45), (0.3, 0.48, 0.4, 0.56)
CASES = {  # rows, way, settings -> the headline and its commands
    "a plan": ((DEAR, MIDDLE, CHEAP), "stock", {}, "20% of the decoder may go, for 0.40", ["prune --ratio 0.2"]),
    "as it was measured": (
        (MIDDLE, DEAR),
        "flap",
        {"calibration": "my text.txt", "seed": 3},
        "20% of the decoder may go",
        ["prune --ratio 0.2 --method flap --calibration 'my text.txt' --seed 3"],
    ),
    "another preset": ((MIDDLE, DEAR), "best", {}, "may go", ["prune --ratio 0.2 --preset best"]),
    "more may go": ((CHEAP, MIDDLE), "stock", {}, "may go", ["prune --ratio 0.2", "report --ratios 0.3,0.4"]),
    "too dear": ((DEAR,), "stock", {}, "cost 0.48 (0.40 to 0.56)", ["report --ratios 0.075,0.15 --sequences 128"]),
    "no interval": (((0.2, 0.1, *UNKNOWN),), "stock", {}, "20% of the decoder cost 0.10 nats", ["report"]),
}


def commands(lines):
    """Those among the lines, without the model and the file; each of their options is one of that command."""
    names = {command.callback.__name__: command.callback for command in app.registered_commands}
    found = []
    for line in lines:
        if line.startswith("comp-lib "):
            _, name, model, *options = shlex.split(line)
            assert model == "a model" and name in names
            out = options.index("--out") if "--out" in options else None
            found.append(" ".join([name, *map(shlex.quote, options if out is None else options[out + 2 :])]))
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_ratio_may_go_where_its_whole_interval_is_allowed(case):
    rows, way, told, headline, wanted = CASES[case]
    lines = verdict.verdict("a model", costs(*rows, way=way), 0.5, 64, HOW | told)
    assert headline in lines[0] and commands(lines) == wanted
    assert ("may go" in lines[0]) == any("prune" in command for command in wanted)
    assert "nan" not in " ".join(lines)


def test_other_ways_have_no_say():
    both = pd.concat([costs(DEAR), costs(CHEAP, way="best")])
    assert "may go" not in verdict.verdict("a model", both, 0.5, 64, HOW)[0] and len(verdict.prices(both)) == 1


@pytest.mark.parametrize(("loss", "chance"), [(10.8, True), (9.8, True), (9.6, False), (2.7, False), (math.nan, True)])
def test_a_model_that_has_learned_nothing_is_known_by_its_loss(loss, chance):
    assert verdict.by_chance(loss, 49_152) is chance
    [command] = commands(lines := verdict.untrained("a model", loss, 49_152))
    assert command.startswith("generate --prompt ") and "10.80" in lines[1]


def test_a_pruned_model_is_sent_to_its_parent():
    plan = Plan("its parent", 2, (0, 1), (8, 8), (1, 1), 0.2, 0.213)
    lines = verdict.pruned_before("a model", plan, "")
    assert "21% of the decoder of its parent" in lines[0] and commands(lines) == ["report --against 'its parent'"]
    assert commands(verdict.pruned_before("a model", plan, "its parent")) == []


def test_the_box_is_text_and_page_and_holds_no_markup_of_a_name():
    frame = costs(CHEAP, (0.2, -0.001, -0.004, 0.002))
    bundle = verdict.box(verdict.verdict("<b>", frame, 0.5, 64, HOW), verdict.prices(frame))
    assert "<b>" not in bundle["text/html"] and "comp-lib prune &#x27;&lt;b&gt;&#x27;" in bundle["text/html"]
    for text in bundle.values():
        assert "0.20 (0.15 to 0.25)" in text and "-0.00" not in text
    assert list(verdict.by_kind(frame).index) == ["code", "mean"]
