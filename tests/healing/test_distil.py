"""Healing: the gradient against autograd over whole logits, the merge, resuming, and what is refused."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import variants
from torch import nn

from comp_lib.errors import InputError
from comp_lib.families import family_of
from comp_lib.healing import distil
from comp_lib.healing.distil import HELD, Healing, answers, divergence, heal, rate
from comp_lib.prune import prune
from comp_lib.settings import Settings

QUICK = Healing(steps=6, batch=2, rank=2, rate=5e-3)


pytest.importorskip("peft", reason="no peft: pip install 'comp-lib[heal]'")


@pytest.fixture(autouse=True)
def _cache(own_cache):
    """Each test finds the cache empty."""


def pair(name: str = "gqa", **overrides):
    """A tiny model, what `prune` makes of it, and text."""
    model, ids = variants.build(name, **overrides), variants.tokens(HELD + 40, 20)
    settings = Settings(ratio=0.3, multiple=4, layers=0, aim="self", ridge=0.1)
    return model, prune(model, ids[:4], settings).model, ids


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def mean_divergence(model, parent, ids) -> float:
    """Brute force: all logits of both at once."""
    p, q = (logits(each, ids).float().log_softmax(-1) for each in (parent, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_gradient_is_that_of_all_logits_at_once(rows):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(6, 11, bias=False).requires_grad_(False)
    goal = torch.randn(7, 11, generator=generator).log_softmax(-1)
    states = torch.randn(7, 6, generator=generator)
    whole, gradient = states.clone().requires_grad_(), torch.empty(7, 6)
    q = head(whole).log_softmax(-1)
    wanted = (goal.exp() * (goal - q)).sum()
    wanted.backward()
    got = divergence(head, states, lambda start, end: goal[start:end], rows, gradient)
    assert got == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient, whole.grad)
    torch.testing.assert_close(gradient, (q.detach().exp() - goal.exp()) @ head.weight)  # q - p, through the head


@pytest.mark.parametrize(
    "name", ["gqa", "tied", "gemma3", "granite", "phi3", "olmo2", "qwen3", "smollm3", "mistral", "ernie4_5"]
)
def test_the_divergence_is_that_of_the_models(name):
    model, small, ids = pair(name)
    wanted = mean_divergence(small, model, ids)
    parent = copy.deepcopy(model)
    states = answers(parent, ids)
    assert not len(family_of(parent).layers(parent))
    assert distil._Goal(small, parent, ids, states).judge(torch.arange(len(ids))) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["gqa", "gemma3", "granite", "phi3", "olmo2", "qwen2", "mlp-bias", "ernie4_5-bias"])
def test_healing_brings_the_answers_nearer(name):
    model, small, ids = pair(name)
    before, taught = (mean_divergence(small, model, text) for text in (ids[-HELD:], ids[:-HELD]))
    embedding, dense = copy.deepcopy(small.get_input_embeddings().weight), logits(model, ids)
    keys = set(small.state_dict())
    states = answers(copy_of := copy.deepcopy(model), ids)
    done = heal(small, ids, copy_of, states, Healing(steps=60, batch=8, rank=4, rate=5e-3))
    after = mean_divergence(small, model, ids[-HELD:])
    assert done.before == pytest.approx(before, rel=1e-4) and done.after == pytest.approx(after, rel=1e-4)
    assert mean_divergence(small, model, ids[:-HELD]) < 0.9 * taught
    assert set(small.state_dict()) == keys and torch.equal(small.get_input_embeddings().weight, embedding)
    assert torch.equal(logits(model, ids), dense)  # though pruning shares tensors
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_nothing_is_changed_before_the_first_step():
    model, small, ids = pair()
    state = copy.deepcopy(small.state_dict())
    states = answers(model, ids)
    heal(small, ids, model, states, Healing(steps=1, batch=2, rank=2, rate=1e-30))
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=1e-7)


class Stop(Exception):
    pass


def stopping(at: int, what: str, done: int, total: int, report=None) -> None:
    if what == "healing" and done == at:
        raise Stop


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_run_that_was_cut_off_goes_on_with_the_same_result(at, monkeypatch):
    monkeypatch.setattr(distil, "SAVED", 2)
    model, small, ids = pair()
    states, again = answers(model, ids), copy.deepcopy(small)
    heal(small, ids, model, states, QUICK)
    cut = copy.deepcopy(again)
    with pytest.raises(Stop):
        heal(cut, ids, model, states, QUICK, partial(stopping, at))
    steps = []
    heal(again, ids, model, states, QUICK, lambda what, done, total, report=None: steps.append(done))
    assert steps[0] == at // 2 * 2 + 1
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not list(distil.cache_folder().rglob("*.safetensors"))


def test_another_seed_is_another_training():
    model, small, ids = pair()
    states, other = answers(model, ids), copy.deepcopy(small)
    heal(small, ids, model, states, QUICK)
    heal(other, ids, model, states, Healing(**{**vars(QUICK), "seed": 1}))
    assert not torch.equal(logits(small, ids), logits(other, ids))


def test_it_leaves_the_random_state_alone():
    model, small, ids = pair()
    states = answers(model, ids)
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    heal(small, ids, model, states, QUICK)
    assert torch.equal(torch.rand(3), wanted)


def test_layers_without_a_step_are_healed_too():
    model, ids = variants.build(), variants.tokens(HELD + 40, 20)
    small = prune(model, ids[:4], Settings(ratio=0.3, multiple=4, attentions=1, aim="self", ridge=0.1)).model
    before = mean_divergence(small, model, ids[-HELD:])
    states = answers(model, ids)
    done = heal(small, ids, model, states, Healing(steps=20, batch=4, rank=4, rate=1e-2))
    assert done.before == pytest.approx(before, rel=1e-4) and done.after < done.before


def test_the_rate_rises_and_falls_in_straight_lines():
    rates = [rate(step, Healing(steps=20, rate=1.0)) for step in range(20)]
    assert rates[:2] == [0.5, 1.0] and rates[2] == 1.0 and rates[-1] == pytest.approx(1 / 18)
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rate(0, Healing(steps=1, rate=1.0)) == 1.0


def test_each_sequence_teaches_before_one_comes_again():
    order = distil._order(10, Healing(steps=5, batch=4))
    assert order.shape == (5, 4)
    assert sorted(order.flatten()[:10].tolist()) == sorted(order.flatten()[10:].tolist()) == list(range(10))


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"batch": 0}, {"rank": -1}, {"rate": 0.0}, {"rate": float("nan")}, {"alpha": 0.0}]
)
def test_numbers_that_cannot_be_are_refused(changes):
    with pytest.raises(InputError, match=f"expected {next(iter(changes))} above 0"):
        Healing(**changes).check(100)


def test_a_training_that_does_not_converge_is_refused():
    model, small, ids = pair()
    states = answers(model, ids)
    family_of(small).layers(small)[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="lower the rate"):
        heal(small, ids, model, states, QUICK)


def test_too_few_sequences_are_refused():
    with pytest.raises(InputError, match=f"at least {HELD + 4} sequences"):
        Healing().check(HELD + 3)


def test_without_peft_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'comp-lib\[heal\]'"):
        distil.check_installed()
