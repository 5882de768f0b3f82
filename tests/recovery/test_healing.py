"""Healing: the gradient, the merge, what it brings, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
import variants
from tools import logits

from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.recovery.healing import JUDGING_SEQUENCES, HealingSettings, divergence, heal, rate_of_step
from comp_lib.utils.errors import InputError, NoNumber

QUICK = HealingSettings(steps=6, batch_size=2, rank=2, learning_rate=5e-3)

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="no peft: pip install 'comp-lib[heal]'")


def pair(name: str = "gqa"):
    """A tiny model, what `prune` makes of it, and text."""
    model = variants.build(name)
    ids = variants.tokens(JUDGING_SEQUENCES + 40, 20)
    settings = Settings(ratio=0.3, multiple=4, drop_layers=0, ridge=0.1, widths="uniform", aim="self")
    return model, prune(model, ids[:4], settings).model, ids


def mean_divergence(model, parent, ids) -> float:
    """Brute force: all logits of both at once."""
    p = logits(parent, ids).float().log_softmax(-1)
    q = logits(model, ids).float().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_divergence_and_its_gradient_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(7, 11, generator=generator)
    parent = torch.randn(7, 11, generator=generator)
    z.requires_grad_()
    p = parent.softmax(-1)
    q = z.softmax(-1)
    value = divergence(z, parent)
    assert value.item() == pytest.approx(float((p * (p / q).log()).sum(-1).mean().detach()), rel=1e-5)
    value.backward()
    torch.testing.assert_close(z.grad, (q - p).detach() / 7)


@pytest.mark.slow
@needs_peft
@pytest.mark.parametrize("name", ["gemma3", "phi3"])
def test_healing_brings_the_answers_nearer(name):
    model, small, ids = pair(name)
    training_ids = ids[:-JUDGING_SEQUENCES]
    judging_ids = ids[-JUDGING_SEQUENCES:]
    before = mean_divergence(small, model, judging_ids)
    before_in_training = mean_divergence(small, model, training_ids)
    parent_logits = logits(model, ids)
    state = copy.deepcopy(small.state_dict())
    healed = heal(
        small, ids, parent=model, settings=HealingSettings(steps=30, batch_size=4, rank=4, learning_rate=1e-2)
    )
    assert healed.divergence_before == pytest.approx(before, rel=1e-4)
    assert healed.divergence_after == pytest.approx(
        mean_divergence(healed.model, model, judging_ids), rel=1e-4
    )
    assert mean_divergence(healed.model, model, training_ids) < 0.9 * before_in_training
    healed_state = healed.model.state_dict()
    changed = {name for name, value in healed_state.items() if not torch.equal(value, state[name])}
    assert set(healed_state) == set(state)
    assert changed
    assert all("_proj" in name for name in changed)
    assert torch.equal(logits(model, ids), parent_logits)  # though pruning shares tensors
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert not any(parameter.requires_grad for parameter in healed.model.parameters())


@pytest.mark.slow
@needs_peft
def test_nothing_is_changed_before_the_first_step():
    model, small, ids = pair()
    healed = heal(
        small, ids, parent=model, settings=HealingSettings(steps=1, batch_size=2, rank=2, learning_rate=1e-30)
    )
    for name, tensor in healed.model.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name], rtol=0, atol=1e-7)


@pytest.mark.slow
@needs_peft
def test_the_seed_decides_and_the_random_state_is_left_alone():
    model, small, ids = pair()
    torch.manual_seed(3)
    draws = torch.rand(3)
    torch.manual_seed(3)
    first = logits(heal(small, ids, parent=model, settings=QUICK).model, ids)
    assert torch.equal(torch.rand(3), draws)
    repeated = logits(heal(small, ids, parent=model, settings=replace(QUICK, seed=0)).model, ids)
    with_another_seed = logits(heal(small, ids, parent=model, settings=replace(QUICK, seed=1)).model, ids)
    assert torch.equal(first, repeated)
    assert not torch.equal(first, with_another_seed)


@pytest.mark.slow
@needs_peft
def test_models_answer_in_evaluation_mode_and_get_their_modes_back():
    model, small, ids = pair()
    expected = heal(small, ids, parent=model, settings=QUICK)
    for some_model in (model, small):
        some_model.train()
        for layer in some_model.model.layers:
            layer.self_attn.attention_dropout = 0.5
    healed = heal(small, ids, parent=model, settings=QUICK)
    assert healed.divergence_before == expected.divergence_before
    assert healed.divergence_after == expected.divergence_after
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["steps", "batch_size", "rank", "alpha"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_a_training_without_steps_sequences_or_rank_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} as a whole number above 0, got {value!r}"):
        HealingSettings(**{name: value})


def test_the_rate_rises_and_falls_in_straight_lines():
    rates = [rate_of_step(step, HealingSettings(steps=20, learning_rate=1.0)) for step in range(20)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2] == 1.0
    assert rates[-1] == pytest.approx(1 / 18)
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rate_of_step(0, HealingSettings(steps=1, learning_rate=1.0)) == 1.0


@pytest.mark.slow
@needs_peft
def test_what_is_no_model_or_no_tokens_is_refused():
    model, small, ids = pair()
    with pytest.raises(InputError, match="expected a model, got str"):
        heal("build/small", ids, parent=model)
    with pytest.raises(InputError, match="expected a model, got str"):
        heal(small, ids, parent="smollm2-135m")
    with pytest.raises(InputError, match="expected tokens"):
        heal(small, ids.tolist(), parent=model)


@pytest.mark.slow
@needs_peft
def test_a_parent_that_cannot_read_the_text_is_refused():
    _, small, ids = pair()
    with pytest.raises(InputError, match="two models with one vocabulary, got 512 and 600 tokens"):
        heal(small, ids, parent=variants.build(vocab_size=600))
    with pytest.raises(InputError, match="sequences of at most 8 tokens"):
        heal(small, ids, parent=variants.build(max_position_embeddings=8))


@pytest.mark.slow
@needs_peft
def test_too_little_text_and_a_training_that_does_not_converge_are_refused():
    model, small, ids = pair()
    with pytest.raises(InputError, match=f"at least {JUDGING_SEQUENCES + 4} sequences"):
        heal(small, ids[: JUDGING_SEQUENCES + 3], parent=model)
    small.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NoNumber, match="lower the learning rate"):
        heal(small, ids, parent=model, settings=QUICK)
