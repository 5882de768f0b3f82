"""A check-up as the cells of the notebook ask it: in memory, read layer by layer, and with little time."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from dataclasses import replace

import pytest

from comp_lib.analysis import checkup as checkups
from comp_lib.analysis import cost_frame, one_pass, texts
from comp_lib.analysis.advice import advise, command, distrust
from comp_lib.analysis.checkup import Checkup
from comp_lib.errors import InputError

FEW = {"kinds": ["prose", "code"], "ratios": [0.2], "peer": "magnitude"}


@pytest.fixture
def bench(parent, own_cache, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no lm-eval
    return Checkup.of(**FEW, model=str(parent), minutes=30.0)


def test_advice_is_the_most_that_is_surely_allowed(bench):
    bench.costs.loc[:, ["increase", "low", "high"]] = [[0.1, 0.05, 0.3]] * len(bench.costs)
    bench.costs.loc[bench.costs.way == "magnitude", "high"] = 0.19
    advice = advise(bench)
    assert advice.row["way"] == "magnitude" and "--method magnitude --recovery none" in advice.command
    assert "--ratio 0.2" in advice.command and "intervals overlap" in " ".join(advice.reasons)


def test_nothing_is_advised_where_nothing_is_safe(bench):
    bench.costs.loc[:, ["increase", "low", "high"]] = [[0.1, 0.05, 0.3]] * len(bench.costs)
    advice = advise(bench)
    assert advice.row is None and advice.command == "" and "Do not prune" in advice.reasons[0]
    assert texts.taken(bench, advice) == ""


def test_an_interval_that_is_not_known_is_not_safe(bench):
    bench.costs.loc[:, ["low", "high"]] = math.nan
    assert advise(bench).row is None


def test_the_advised_command_is_one_that_the_command_line_takes(bench, tmp_path):
    from command import run

    row = advise(bench).row or bench.costs.iloc[0].to_dict()
    words = command(bench, row).split()[1:]
    words[words.index("--out") + 1] = str(tmp_path / "out")
    done = run(*words, "--sequences", "8", "--length", "32", "--evaluate", "none")
    assert done.exit_code == 0, done.output


def test_what_is_missing_is_named(bench):
    sentences = " ".join(distrust(bench))
    assert "tasks" in sentences and "pip install 'comp-lib[evaluate]'" in sentences
    assert bench.tasks("uniform", 0.2) is None


def test_a_model_that_does_not_fit_is_read_layer_by_layer(parent, own_cache, monkeypatch, bench):
    monkeypatch.setattr(checkups, "_too_large", lambda *_: True)
    streamed = Checkup.of(**FEW, model=str(parent), against=str(parent), minutes=30.0)
    assert streamed.streamed and len(streamed.costs) == 0 and streamed.latency is None and not streamed.compared
    left = {part.part for part in streamed.left_out}
    assert {"loss by kind of text", "tasks", "speed", "what two models say"} <= left
    assert streamed.layers.value.to_numpy() == pytest.approx(bench.layers.value.to_numpy(), abs=1e-5)
    assert streamed.neurons.cost.to_numpy() == pytest.approx(bench.neurons.cost.to_numpy(), rel=1e-3)
    assert streamed.changed_layers.died.sum() == 0
    assert advise(streamed).row is None and distrust(streamed)
    layer, neuron = streamed.redundant(1)[0]
    assert len(streamed.meaning(layer, neuron))
    for name in ("layers", "neurons", "groups", "spectra", "curves", "changed_layers"):
        assert len(getattr(streamed, name)), name


def test_a_second_model_that_does_not_fit_is_compared_layer_by_layer_and_that_is_said(parent, own_cache, monkeypatch):
    sizes = iter((False, True))  # of the model, of the second
    monkeypatch.setattr(checkups, "_too_large", lambda *_: next(sizes))
    both = Checkup.of(**FEW, model=str(parent), against=str(parent), minutes=1e-6)
    assert not both.streamed and not both.compared
    assert "what two models say" in {part.part for part in both.left_out}
    assert both.changed_layers.died.sum() == 0


def test_with_little_time_the_statistics_are_left(parent, own_cache):
    hurried = Checkup.of(**FEW, model=str(parent), minutes=1e-6)
    assert len(hurried.costs) == 0 and hurried.latency is None
    assert set(hurried.layers.measure) == {"block influence"}
    assert list(texts.facts(hurried)) and list(texts.layer_rows(hurried.layers)) and advise(hurried).row is None
    assert any("minutes more than there are" in part.why for part in hurried.left_out)
    words = texts.left_out(hurried, ("loss by kind",))
    assert words.startswith("*Left out* · loss by kind of text, measured at one ratio: about ")
    assert (
        texts.left_out(hurried, ("no such part",), "no ratio was asked for") == "*Left out* · no ratio was asked for."
    )


def test_a_ratio_that_cannot_be_reached_is_left_out_by_name(parent, own_cache):
    some = Checkup.of(**FEW | {"ratios": [0.2, 0.99]}, model=str(parent), minutes=1e-6)
    assert some.ratios == (0.2,)
    assert any("0.99" in part.part and "at most" in part.why for part in some.left_out)


def test_frames_of_no_second_model_are_refused(bench):
    with pytest.raises(InputError, match="set the parameter against"):
        bench.changed_layers  # noqa: B018


def test_of_ways_that_cannot_be_told_apart_the_simplest_is_advised(bench):
    bench.costs.loc[:, ["increase", "low", "high"]] = [[0.03, 0.01, 0.06]] * len(bench.costs)
    bench.costs.loc[bench.costs.way == "measured", "increase"] = 0.02
    assert advise(bench).row["way"] == "uniform"
    bench.costs.loc[bench.costs.way == "measured", ["increase", "low", "high"]] = [0.001, 0.0, 0.002]
    assert advise(bench).row["way"] == "measured"


KILLED = """
import os, signal, sys
from comp_lib.analysis import one_pass
from comp_lib.analysis.checkup import Checkup

look, looked = one_pass._look, []
def killed(*arguments):
    looked.append(1)
    if len(looked) == 3:  # two layers are kept
        os.kill(os.getpid(), signal.SIGKILL)
    return look(*arguments)
one_pass._look = killed
Checkup.of(model=sys.argv[1], kinds=["dialogue"], minutes=1e-6).neurons
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal of POSIX")
def test_a_check_up_that_was_killed_goes_on_with_the_layers_that_it_has(
    python, parent, own_cache, monkeypatch, tmp_path
):
    done = subprocess.run([*python, "-c", KILLED, str(parent)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    look, looked = one_pass._look, []
    monkeypatch.setattr(one_pass, "_look", lambda *given: looked.append(1) or look(*given))
    asked = {"model": str(parent), "kinds": ["dialogue"], "minutes": 1e-6}
    resumed = Checkup.of(**asked).neurons
    assert len(looked) == 1  # of three
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "empty"))
    assert Checkup.of(**asked).neurons.equals(resumed) and len(looked) == 4


def test_a_plan_out_of_reach_is_left_out_by_name(bench, monkeypatch):
    """What only the planner finds out leaves the others measured."""
    monkeypatch.setattr(cost_frame, "prune", _unless("random", cost_frame.prune))
    bench.effort = replace(bench.effort, ways=("magnitude", "random"))
    assert set(bench.costs.way) == {"magnitude"}
    assert [left.part for left in bench.left_out if "out of reach" in left.why] == ["random at 20%"]


def _unless(method, prune):
    def tried(model, ids, settings):
        if settings.method == method:
            raise InputError("expected a ratio within reach, got one out of reach: ask for less")
        return prune(model, ids, settings)

    return tried


def test_a_cache_that_cannot_be_written_is_no_plan_out_of_reach(bench, monkeypatch):
    bench.sample, bench.windows  # noqa: B018

    def full(path, tensors):
        raise InputError("expected room in the cache, got a full disk")

    monkeypatch.setattr("comp_lib.system.cache.store", full)
    with pytest.raises(InputError, match="a full disk"):
        bench.costs  # noqa: B018


def test_what_no_folder_can_hold_is_not_advised(bench, monkeypatch):
    bench.costs.loc[:, ["increase", "low", "high"]] = [[0.1, 0.05, 0.15]] * len(bench.costs)
    bench.costs.loc[bench.costs.way == "measured", ["increase", "low", "high"]] = [[0.01, 0.0, 0.02]] * 3
    assert advise(bench).row["way"] == "measured"
    monkeypatch.setattr(type(bench.family), "per_layer", False)
    advice = advise(bench)
    assert advice.row["way"] == "uniform" and any("No folder can hold" in reason for reason in advice.reasons)


def test_a_peer_with_one_width_is_advised_where_only_one_width_can_be_saved(bench, monkeypatch):
    monkeypatch.setattr(type(bench.family), "per_layer", False)
    bench.costs.loc[:, ["increase", "low", "high"]] = [[0.3, 0.25, 0.35]] * len(bench.costs)
    bench.costs.loc[bench.costs.way == "measured", ["increase", "low", "high"]] = [[0.01, 0.0, 0.02]] * 3
    advice = advise(bench)
    assert advice.row is None and "of 3 plans that were measured and can be saved none" in advice.reasons[0]
    assert "+0.300" in advice.reasons[1]  # not what cannot be saved
    bench.costs.loc[bench.costs.way == "magnitude", ["increase", "low", "high"]] = [[0.1, 0.08, 0.12]] * 3
    advice = advise(bench)
    assert advice.row["way"] == "magnitude" and "--method magnitude" in advice.command
    bench.__dict__["costs"] = bench.costs[bench.costs.way == "measured"]
    assert advise(bench).row is None and "can be saved" in advise(bench).reasons[0]


def test_the_advised_command_computes_in_the_dtype_that_was_checked(parent, bench, monkeypatch):
    row = {"way": "uniform", "ratio": 0.2}
    assert "--dtype" not in command(bench, row)
    monkeypatch.setattr(bench, "parameters", replace(bench.parameters, dtype="bfloat16"))
    assert command(bench, row).endswith("--dtype bfloat16")
    monkeypatch.chdir(parent)
    monkeypatch.setattr(bench, "parameters", replace(bench.parameters, model="."))
    assert f"--out {parent.name}-pruned" in command(bench, row)


def test_gradients_and_the_model_that_writes_text_are_counted(bench):
    whole = 4 * bench.shape.total / 1e6
    assert bench.pruning_megabytes("llm-pruner", 0.2) == pytest.approx(2 * whole)
    assert bench.pruning_megabytes("measured", 0.2) >= bench.pruning_megabytes("uniform", 0.2) > whole


def test_harm_without_intervals_is_not_said_to_be_in_order(bench):
    frame = bench.layers
    assert any("have intervals that overlap" in sentence for sentence in distrust(bench))
    frame.loc[:, ["low", "high"]] = math.nan
    assert not any("have intervals that overlap" in sentence for sentence in distrust(bench))
