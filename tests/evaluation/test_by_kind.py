"""Every kind of text: the same as one by one, means that weigh kinds alike, intervals within each kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from comp_lib.calibration.texts import KINDS, load_text
from comp_lib.evaluation.by_kind import EvaluationByText, evaluate, judge
from comp_lib.evaluation.confidence import Intervals, confidence_intervals
from comp_lib.evaluation.loss import Evaluation, compare_losses, measure_loss
from comp_lib.evaluation.windows import evaluation_tokens, windows_of
from comp_lib.utils.errors import InputError


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
def windows_by_text(tokenizer):
    return windows_of("kinds", tokenizer, 32, 3)


def made_up(losses, dense):
    """An Evaluation with these losses of its sequences, and KL and agreement that follow from them."""
    columns = {"dense_loss": dense, "loss": losses, "increase": np.subtract(losses, dense).tolist()}
    columns |= {"kl": [x / 2 for x in losses], "top1_agreement": [1 / (1 + x) for x in losses]}
    means = {name: sum(values) / len(losses) for name, values in columns.items()}
    by_sequence = {name: tuple(values) for name, values in columns.items()}
    return Evaluation(by_sequence=by_sequence, token_count=0, **means)


def test_the_windows_are_those_of_each_text(tokenizer, windows_by_text):
    assert tuple(windows_by_text) == KINDS
    for kind in KINDS:
        assert windows_by_text[kind].equal(
            evaluation_tokens(tokenizer, load_text(f"evaluation:{kind}"), 32, 3)
        )
    assert windows_by_text["prose"].equal(windows_of("evaluation", tokenizer, 32, 3)["evaluation"])
    every = windows_of("kinds", tokenizer, 128)
    # without a number: all full windows of each kind, of the much longer prose as many as of another kind
    counts = {kind: len(ids) for kind, ids in every.items()}
    prose_count = counts.pop("prose")
    prose = windows_of("evaluation", tokenizer, 128)["evaluation"]
    assert prose_count == max(counts.values())
    assert len(prose) > 2 * prose_count
    assert every["prose"].equal(prose[: len(every["prose"])])
    assert len(set(counts.values())) > 1
    assert every["code"].equal(windows_of("evaluation:code", tokenizer, 128)["evaluation:code"])
    with pytest.raises(InputError, match="expected at least"):
        windows_of("kinds", tokenizer, 128, 10_000)


def test_it_is_the_same_as_one_by_one(pair, windows_by_text):
    model, dense = pair
    calls = []
    alone = judge(model, windows_by_text)
    assert alone.texts == {kind: measure_loss(model, windows_by_text[kind]) for kind in KINDS}
    assert list(alone.mean.values) == ["loss"]
    beside = judge(model, windows_by_text, dense, progress=lambda *call: calls.append(call[:3]))
    assert beside.texts == {kind: compare_losses(model, dense, windows_by_text[kind]) for kind in KINDS}
    assert calls == [(kind, 3, 3) for kind in KINDS]
    for name, value in beside.mean.values.items():
        total = sum(getattr(evaluation, name) for evaluation in beside.texts.values())
        assert value == pytest.approx(total / 8, rel=1e-12)
        low, high = getattr(beside.intervals, name)
        assert low < value < high
    # the case is worth its name
    assert beside.mean.kl > 0.01
    assert 0 < beside.mean.top1_agreement < 1
    rows = beside.make_rows()
    assert tuple(rows) == KINDS
    assert beside.make_mean_row() == ("mean of 8", (beside.mean.values, vars(beside.intervals)))
    assert rows["code"][0]["increase"] == beside.texts["code"].increase
    assert set(rows["code"][1].values()) == {None}  # of three windows


def test_windows_are_no_longer_than_either_model_reads(pair, tiny_llama, tokenizer):
    model, _ = pair
    short_parent = tiny_llama(max_position_embeddings=64)
    quality = evaluate(model, tokenizer, "evaluation:code", window_count=2)
    assert quality.texts["evaluation:code"].token_count == 2 * 127
    quality = evaluate(model, tokenizer, "evaluation:code", parent=short_parent, window_count=2)
    assert quality.texts["evaluation:code"].token_count == 2 * 63
    with pytest.raises(InputError, match="at most 64 tokens"):
        evaluate(model, tokenizer, "evaluation:code", parent=short_parent, window_length=65, window_count=2)


def test_texts_in_memory_judge_as_one_text_in_a_file(pair, tokenizer, tmp_path):
    texts = [load_text("evaluation:code"), load_text("evaluation:dialogue")]
    (tmp_path / "both.txt").write_text("\n\n".join(texts), "utf-8")
    in_memory, from_file = (
        evaluate(pair[0], tokenizer, judged_on, parent=pair[1], window_length=32, window_count=3)
        for judged_on in (texts, tmp_path / "both.txt")
    )
    assert [*in_memory.texts] == ["2 texts in memory"]
    assert in_memory.mean == from_file.mean
    with pytest.raises(InputError, match=r"judged_on to be a list of texts, got int as judged_on\[1\]"):
        evaluate(pair[0], tokenizer, [texts[0], 3])


# --- mean and intervals, by numbers that are made up --------------------------------------------------------

GROUPS = {"a": [1.0, 1.2, 0.9, 1.1], "b": [5.0, 5.5, 4.0, 5.1, 6.0, 5.2], "c": [2.0, 2.5]}
DENSE = {"a": [0.8, 1.1, 0.8, 0.9], "b": [4.0, 4.6, 3.0, 4.2, 5.1, 4.1], "c": [1.9, 2.1]}


@pytest.fixture(scope="module")
def judged():
    return EvaluationByText({name: made_up(losses, DENSE[name]) for name, losses in GROUPS.items()})


@pytest.mark.parametrize("wrong", [None, {}, ["prose"], "prose", torch.zeros(2, 8, dtype=torch.long)])
def test_windows_that_are_none_are_refused(pair, wrong):
    with pytest.raises(
        InputError, match=r"^expected the windows of each text, as windows_of gives them, got "
    ):
        judge(pair[0], wrong)


def test_windows_of_no_tokens_and_a_progress_that_is_none_are_refused(pair, windows_by_text):
    with pytest.raises(InputError, match="expected tokens, a tensor"):
        judge(pair[0], {"prose": None})
    with pytest.raises(InputError, match="progress"):
        judge(pair[0], windows_by_text, progress=3)


def test_kinds_weigh_alike_however_many_sequences_they_have(judged):
    assert judged.mean.loss == pytest.approx(np.mean([np.mean(losses) for losses in GROUPS.values()]))
    assert judged.mean.loss != pytest.approx(np.mean(sum(GROUPS.values(), [])), rel=0.01)
    differences = [np.subtract(GROUPS[name], DENSE[name]).mean() for name in GROUPS]
    assert judged.mean.increase == pytest.approx(np.mean(differences))


def test_intervals_are_those_of_the_mean_over_kinds(judged):
    bounds = judged.intervals
    for name in ("dense_loss", "loss", "increase"):
        low, high = getattr(bounds, name)
        assert low < getattr(judged.mean, name) < high
    differences = [np.subtract(GROUPS[name], DENSE[name])[None] for name in GROUPS]
    assert bounds.increase == pytest.approx(confidence_intervals(*differences)[0])
    losses = [np.array([GROUPS[name]]) for name in GROUPS]
    assert bounds.loss == pytest.approx(confidence_intervals(*losses)[0])


def test_of_one_kind_the_interval_is_its_own():
    alone = EvaluationByText({"b": made_up([*GROUPS["b"], 4.9, 5.3], [*DENSE["b"], 4.0, 4.4])})
    bounds = alone.texts["b"].intervals
    assert alone.intervals == bounds
    assert alone.make_mean_row() is None
    assert None not in (bounds.dense_loss, bounds.loss, bounds.increase)


def test_one_sequence_of_a_kind_or_a_number_that_is_none_has_no_interval():
    lone = EvaluationByText({"a": made_up([1.0] * 20, [1.0] * 20), "b": made_up([3.0], [2.5])})
    assert lone.intervals == Intervals()
    lost = EvaluationByText(
        {"a": made_up([1.0] * 8 + [math.inf], [1.0] * 8 + [1.5]), "b": made_up([3.0, 4.0], [2.5, 2.6])}
    )
    bounds = lost.intervals
    assert bounds.loss is None
    assert bounds.increase is None
    assert bounds.dense_loss[0] < 1.9
