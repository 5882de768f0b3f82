"""Loss, perplexity, KL divergence and agreement against brute force over whole logits, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from variants import VARIANTS, build, tokens

from comp_lib.calibration.texts import encode, load_text
from comp_lib.evaluation import loss as loss_module
from comp_lib.evaluation.confidence import Intervals, confidence_interval
from comp_lib.evaluation.loss import MEASURES, Evaluation, compare_losses, measure_loss
from comp_lib.evaluation.windows import evaluation_tokens
from comp_lib.utils.errors import InputError, NoNumber


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 512, (5, 40), generator=torch.Generator().manual_seed(0))  # (S, L)


def all_logits(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits[:, :-1].double()  # (S, L-1, V)


def brute_loss(model, ids):
    return F.cross_entropy(all_logits(model, ids).flatten(0, 1), ids[:, 1:].flatten()).item()


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("head_rows", [7, 256])
@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_perplexity(monkeypatch, tiny_llama, ids, batch, head_rows, overrides):
    monkeypatch.setattr(loss_module, "HEAD_ROWS", head_rows)
    monkeypatch.setattr(loss_module, "BATCH", batch)
    model = tiny_llama(**overrides)
    calls = []
    result = measure_loss(model, ids, progress=lambda label, step, total: calls.append((step, total)))
    assert calls[-1] == (5, 5)
    assert len(calls) == -(-5 // batch)
    assert result.loss == pytest.approx(brute_loss(model, ids), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert (result.token_count, len(result.losses)) == (5 * 39, 5)
    assert result.kl is None
    assert result.top1_agreement is None
    assert result.dense_loss is None


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_answers_as_transformers_does(name):
    model = build(name)
    ids = tokens()
    assert measure_loss(model, ids).loss == pytest.approx(brute_loss(model, ids), rel=1e-4)


@pytest.mark.parametrize("head_rows", [7, 256])
def test_compare(monkeypatch, tiny_llama, ids, head_rows):
    monkeypatch.setattr(loss_module, "HEAD_ROWS", head_rows)
    dense = tiny_llama()
    model = tiny_llama()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9).add_(0.03 * torch.randn(parameter.shape, generator=generator))
    result = compare_losses(model, dense, ids)
    p = all_logits(dense, ids)
    q = all_logits(model, ids)
    kl = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean().item()
    agreement = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    # the case is worth its name
    assert 0.1 < agreement < 0.95
    assert kl > 0.01
    assert result.kl == pytest.approx(kl, rel=1e-5)
    assert result.top1_agreement == pytest.approx(agreement)
    assert result.dense_loss == pytest.approx(brute_loss(dense, ids), rel=1e-5)
    assert result.loss == measure_loss(model, ids).loss
    assert compare_losses(dense, model, ids).kl != pytest.approx(kl, rel=1e-2)  # it has a direction


def test_a_model_is_itself(tiny_llama, ids):
    model = tiny_llama()
    result = compare_losses(model, model, ids)
    assert (result.kl, result.top1_agreement) == (0.0, 1.0)
    assert result.loss == result.dense_loss


def test_half_precision_sums_in_single(tiny_llama, ids):
    model = tiny_llama().bfloat16()
    assert measure_loss(model, ids).loss == pytest.approx(brute_loss(model, ids), rel=1e-3)
    losses = torch.tensor(measure_loss(model, ids[:, :2]).losses)
    # losses of single tokens, since a mean has digits of its own
    assert not torch.equal(losses, losses.bfloat16().float())


def test_a_ruined_model_gives_numbers_and_no_nan(tiny_llama, ids):
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    assert measure_loss(model, ids).perplexity == math.inf
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(NoNumber, match=r"^expected loss as a finite number, got nan: "):
        measure_loss(model, ids)
    with pytest.raises(NoNumber, match=r"^expected loss as a finite number, got nan: "):
        compare_losses(model, tiny_llama(), ids)
    with pytest.raises(NoNumber, match=r"^expected dense_loss as a finite number, got nan: "):
        compare_losses(tiny_llama(), model, ids)


def test_two_vocabularies_cannot_be_compared(tiny_llama, ids):
    with pytest.raises(InputError, match="one vocabulary, got 512 and 513"):
        compare_losses(tiny_llama(), tiny_llama(vocab_size=513), ids)


# --- each sequence ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tiny_llama, ids):
    dense = tiny_llama()
    model = tiny_llama()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model, dense, compare_losses(model, dense, ids)


def test_each_sequence_keeps_its_own_numbers(compared, ids):
    model, dense, result = compared
    for index, sequence in enumerate(ids):
        alone = compare_losses(model, dense, sequence[None]).values
        values_of_sequence = {name: values[index] for name, values in result.by_sequence.items()}
        assert values_of_sequence == pytest.approx(alone, rel=1e-4)
        assert result.losses[index] == pytest.approx(brute_loss(model, sequence[None]), rel=1e-5)
    for name, values in result.by_sequence.items():
        assert len(values) == len(ids)
        assert getattr(result, name) == pytest.approx(sum(values) / len(values))
    assert list(measure_loss(model, ids).by_sequence) == ["loss"]


def test_intervals_hold_their_means_and_the_increase_is_paired(compared, ids):
    model, dense, _ = compared
    nine_sequences = torch.randint(0, 512, (9, 20), generator=torch.Generator().manual_seed(3))
    result = compare_losses(model, dense, nine_sequences)
    bounds = result.intervals
    for name in MEASURES:
        low, high = getattr(bounds, name)
        assert low < getattr(result, name) < high
    assert result.increase == pytest.approx(result.loss - result.dense_loss)
    differences = [compare_losses(model, dense, row[None]).increase for row in nine_sequences]
    assert bounds.increase == pytest.approx(confidence_interval(differences), rel=1e-3)
    assert measure_loss(model, ids).intervals == Intervals()  # five sequences have none
    assert measure_loss(model, ids).increase is None


def test_pairing_cancels_what_makes_a_text_hard():
    columns = {
        "loss": tuple(map(float, range(8))),
        "increase": tuple(0.2 + 0.01 * (-1) ** number for number in range(8)),
    }
    bounds = Evaluation(by_sequence=columns, token_count=80, loss=3.5).intervals
    assert 0.18 < bounds.increase[0] < 0.2 < bounds.increase[1] < 0.22
    assert bounds.loss[1] - bounds.loss[0] > 2.0


# --- windows ------------------------------------------------------------------------------------------------


def test_windows_are_consecutive_from_the_start(tokenizer):
    text = load_text("evaluation")
    ids = encode(tokenizer, text)
    windows = evaluation_tokens(tokenizer, text, window_length=100)
    assert windows.shape == (len(ids) // 99, 100)
    assert (windows[:, 0] == tokenizer.bos_token_id).all()
    assert torch.equal(windows[:, 1:].flatten(), ids[: windows[:, 1:].numel()])
    assert torch.equal(evaluation_tokens(tokenizer, text, window_length=100, window_count=3), windows[:3])


@pytest.mark.parametrize(
    ("length", "sequences", "message"),
    [
        (64, None, "at least 63 tokens"),
        (4, 100, r"at least 300 tokens.* for 100 x 4"),
        (1, None, "window_length as a whole number above 1, got 1:"),
        (8, 0, "window_count as a whole number above 0, got 0:"),
    ],
)
def test_windows_that_cannot_be(tokenizer, length, sequences, message):
    with pytest.raises(InputError, match=message):
        evaluation_tokens(tokenizer, "a short text", length, sequences)
