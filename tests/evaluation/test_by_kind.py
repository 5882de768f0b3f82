"""Every kind of text: the same as one by one, means that weigh kinds alike, and a bootstrap within each kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import randomise

from comp_lib.calibration.text import KINDS, load_text
from comp_lib.errors import InputError
from comp_lib.evaluation.by_kind import ByKind, judge, kind_windows
from comp_lib.evaluation.confidence import bootstrap_interval
from comp_lib.evaluation.loss import Evaluation, compare, evaluation_tokens, perplexity

COUNTS = {"loss": "losses", "dense_loss": "dense_losses", "kl": "kls", "top1_agreement": "agreements"}


def ruined(model, amount=0.05):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return ruined(tiny_llama()), tiny_llama()


@pytest.fixture(scope="module")
def windows(tokenizer):
    return kind_windows(tokenizer, 32, 3)


def made_up(losses, dense=None):
    """An Evaluation with these losses of its sequences, and KL and agreement that follow from them."""
    columns = {"losses": losses}
    if dense is not None:
        columns |= {"dense_losses": dense, "kls": [x / 2 for x in losses], "agreements": [1 / (1 + x) for x in losses]}
    means = {name: sum(columns[of]) / len(losses) for name, of in COUNTS.items() if of in columns}
    columns = {name: tuple(values) for name, values in columns.items()}
    return Evaluation(perplexity=0.0, tokens=0, sequences=len(losses), **means, **columns)


def test_the_windows_are_those_of_each_text(tokenizer):
    windows = kind_windows(tokenizer, 32, 3, {"mine": load_text("calibration")})
    assert tuple(windows) == (*KINDS, "mine")
    for kind in KINDS:
        assert windows[kind].equal(evaluation_tokens(tokenizer, load_text(f"evaluation:{kind}"), 32, 3))
    assert windows["prose"].equal(evaluation_tokens(tokenizer, load_text("evaluation"), 32, 3))
    assert windows["mine"].equal(evaluation_tokens(tokenizer, load_text("calibration"), 32, 3))
    every = kind_windows(tokenizer, 128)
    assert len(every["prose"]) > 3 and len({len(ids) for ids in every.values()}) > 1  # all whole windows of each


def test_a_text_that_is_too_short_or_has_a_kinds_name_is_refused_by_name(tokenizer):
    with pytest.raises(InputError, match=r"expected at least 93 tokens .*take a longer text.*this text: mine"):
        kind_windows(tokenizer, 32, 3, {"mine": "Too short."})
    with pytest.raises(InputError, match="got 'code': choose another name"):
        kind_windows(tokenizer, 32, 3, {"code": load_text("calibration")})


def test_it_is_the_same_as_one_by_one(pair, windows):
    model, dense = pair
    alone = judge(model, windows)
    assert alone.kinds == {kind: perplexity(model, windows[kind]) for kind in KINDS}
    beside = judge(model, windows, dense)
    assert beside.kinds == {kind: compare(model, dense, windows[kind]) for kind in KINDS}
    assert beside.counted == KINDS and list(alone.mean) == ["loss"]
    for name in ("loss", "dense_loss", "increase", "kl", "top1_agreement"):
        values = [getattr(compare(model, dense, windows[kind]), name) for kind in KINDS]
        assert beside.mean[name] == pytest.approx(sum(values) / 8, rel=1e-12)
        low, high = beside.intervals()[name]
        assert low < beside.mean[name] < high
    assert beside.mean["kl"] > 0.01 and 0 < beside.mean["top1_agreement"] < 1  # the case is worth its name


def test_a_further_text_is_in_the_mean_only_where_asked(pair, tokenizer):
    model, dense = pair
    windows = kind_windows(tokenizer, 32, 2, {"mine": load_text("calibration")})
    plain, asked = judge(model, windows, dense), judge(model, windows, dense, (*KINDS, "mine"))
    assert "mine" in plain.kinds and plain.kinds == asked.kinds
    assert plain.mean == judge(model, kind_windows(tokenizer, 32, 2), dense).mean
    assert plain.intervals() == judge(model, kind_windows(tokenizer, 32, 2), dense).intervals()
    assert asked.mean["loss"] == pytest.approx((8 * plain.mean["loss"] + plain.kinds["mine"].loss) / 9, rel=1e-12)
    assert asked.mean["loss"] != pytest.approx(plain.mean["loss"], rel=1e-6)
    assert list(plain.rows()) == [*KINDS, "mine", "mean of 8"] and list(asked.rows())[-1] == "mean of 9"


@pytest.mark.parametrize("counted", [(), ("prose", "proze")])
def test_a_mean_over_what_is_not_there_is_refused(pair, windows, counted):
    with pytest.raises(InputError, match="expected some of the texts prose, .* got (none|prose, proze): leave out"):
        judge(pair[0], windows, counted=counted)


def test_progress_is_told_the_kind(pair, windows):
    calls = []
    judge(pair[0], windows, pair[1], progress=lambda *call: calls.append(call[:3]))
    assert calls == [(kind, 3, 3) for kind in KINDS]


# --- mean and intervals, by numbers that are made up ------------------------------------------------------------------

GROUPS = {"a": [1.0, 1.2, 0.9], "b": [5.0, 5.5, 4.0, 5.1, 6.0, 5.2], "c": [2.0, 2.5]}
DENSE = {"a": [0.8, 1.1, 0.8], "b": [4.0, 4.6, 3.0, 4.2, 5.1, 4.1], "c": [1.9, 2.1]}


@pytest.fixture(scope="module")
def judged():
    return ByKind({name: made_up(losses, DENSE[name]) for name, losses in GROUPS.items()}, tuple(GROUPS))


def test_kinds_weigh_alike_however_many_sequences_they_have(judged):
    assert judged.mean["loss"] == pytest.approx(np.mean([np.mean(losses) for losses in GROUPS.values()]))
    assert judged.mean["loss"] != pytest.approx(np.mean(sum(GROUPS.values(), [])), rel=0.01)
    differences = [np.subtract(GROUPS[name], DENSE[name]).mean() for name in GROUPS]
    assert judged.mean["increase"] == pytest.approx(np.mean(differences))


def columns(judged, name):
    if name == "increase":
        return [np.subtract(one.losses, one.dense_losses) for one in judged.kinds.values()]
    return [np.array(getattr(one, COUNTS[name])) for one in judged.kinds.values()]


@pytest.mark.parametrize("name", ["loss", "dense_loss", "increase", "kl", "top1_agreement"])
def test_intervals_are_those_of_resampling_within_each_kind(judged, name):
    """By exact enumeration, of every resample of each kind: the distribution itself, not draws from it."""
    means, weights = np.zeros(1), np.ones(1)
    for values in columns(judged, name):
        size = len(values)
        places = np.indices((size,) * size).reshape(size, -1).T  # every resample, (n^n, n)
        own, counts = np.unique(values[places].mean(1).round(12), return_counts=True)
        means = np.add.outer(means, own / 3).ravel()
        weights = np.multiply.outer(weights, counts / size**size).ravel()
    order = means.argsort()
    cumulated = weights[order].cumsum()
    low, high = (means[order][np.searchsorted(cumulated, level)] for level in (0.025, 0.975))
    assert judged.intervals()[name] == pytest.approx((low, high), abs=0.03 * (high - low))


def test_of_one_kind_the_interval_is_its_own(judged):
    alone = ByKind(judged.kinds, ("b",))
    for name, (low, high) in judged.kinds["b"].intervals(0.8, 3).items():
        if name != "perplexity":
            assert alone.intervals(0.8, 3)[name] == pytest.approx((low, high), rel=1e-9)
    assert alone.intervals(seed=3)["dense_loss"] == pytest.approx(bootstrap_interval(DENSE["b"], seed=3))


def test_intervals_are_seeded_and_widen_with_the_level(judged):
    assert judged.intervals() == judged.intervals() != judged.intervals(seed=1)
    (low, high), (inner, outer) = judged.intervals(0.95)["loss"], judged.intervals(0.5)["loss"]
    assert low < inner < outer < high


def test_one_sequence_or_a_number_that_is_none_has_no_interval():
    lone = ByKind({"a": made_up([1.0, 2.0], [1.0, 1.5]), "b": made_up([3.0], [2.5])}, ("a", "b"))
    assert all(math.isnan(bound) for bounds in lone.intervals().values() for bound in bounds)
    lost = ByKind({"a": made_up([1.0, math.inf], [1.0, 1.5]), "b": made_up([3.0, 4.0], [2.5, 2.6])}, ("a", "b"))
    found = lost.intervals()
    assert math.isnan(found["loss"][0]) and math.isnan(found["increase"][1]) and found["dense_loss"][0] < 1.9


def test_rows_bring_each_text_and_the_mean_with_intervals(judged):
    rows = judged.rows()
    assert list(rows) == ["a", "b", "c", "mean of 3"]
    values, intervals = rows["b"]
    assert values["increase"] == judged.kinds["b"].increase
    assert intervals["increase"] == bootstrap_interval(np.subtract(GROUPS["b"], DENSE["b"]))
    assert rows["mean of 3"] == (judged.mean, judged.intervals())


def test_a_model_is_itself_on_every_kind(pair, windows):
    same = judge(randomise(pair[1]), windows, pair[1]).mean
    assert (same["increase"], same["kl"], same["top1_agreement"]) == (0.0, 0.0, 1.0)
