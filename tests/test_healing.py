"""Healing: the gradient, the merge, what it brings, and what is refused."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
import variants

from comp_lib import healing
from comp_lib.errors import InputError
from comp_lib.healing import CHECKED, HELD, Healing, divergence, heal, rate
from comp_lib.prune import prune
from comp_lib.settings import Settings

pytestmark = pytest.mark.slow
QUICK = Healing(steps=6, batch=2, rank=2, rate=5e-3)


needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="no peft: pip install 'comp-lib[heal]'")


def pair(name: str = "gqa"):
    """A tiny model, what `prune` makes of it, and text."""
    model, ids = variants.build(name), variants.tokens(HELD + 40, 20)
    return model, prune(model, ids[:4], Settings(ratio=0.3, multiple=4, layers=0, ridge=0.1)).model, ids


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def mean_divergence(model, parent, ids) -> float:
    """Brute force: all logits of both at once."""
    p, q = (logits(each, ids).float().log_softmax(-1) for each in (parent, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_divergence_and_its_gradient_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    z, parent = (torch.randn(7, 11, generator=generator) for _ in range(2))
    z.requires_grad_()
    p, q = parent.softmax(-1), z.softmax(-1)
    value = divergence(z, parent)
    assert value.item() == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    value.backward()
    torch.testing.assert_close(z.grad, (q - p).detach() / 7)


@needs_peft
@pytest.mark.parametrize("name", ["gemma3", "phi3"])
def test_healing_brings_the_answers_nearer(name):
    model, small, ids = pair(name)
    before, taught = (mean_divergence(small, model, text) for text in (ids[-HELD:], ids[:-HELD]))
    dense, state = logits(model, ids), copy.deepcopy(small.state_dict())
    done = heal(small, ids, model, Healing(steps=30, batch=4, rank=4, rate=1e-2))
    assert done.before == pytest.approx(before, rel=1e-4)
    assert done.after == pytest.approx(mean_divergence(done.model, model, ids[-HELD:]), rel=1e-4)
    assert mean_divergence(done.model, model, ids[:-HELD]) < 0.9 * taught
    changed = {name for name, value in done.model.state_dict().items() if not torch.equal(value, state[name])}
    assert set(done.model.state_dict()) == set(state) and changed and all("_proj" in name for name in changed)
    assert torch.equal(logits(model, ids), dense)  # though pruning shares tensors
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert not any(parameter.requires_grad for parameter in done.model.parameters())


@needs_peft
def test_nothing_is_changed_before_the_first_step():
    model, small, ids = pair()
    done = heal(small, ids, model, Healing(steps=1, batch=2, rank=2, rate=1e-30))
    for name, tensor in done.model.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name], rtol=0, atol=1e-7)


@needs_peft
def test_the_seed_decides_and_the_random_state_is_left_alone():
    model, small, ids = pair()
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    first = heal(small, ids, model, QUICK).model
    assert torch.equal(torch.rand(3), wanted)
    again, other = (
        heal(small, ids, model, Healing(**{**vars(QUICK), "seed": seed})).model for seed in (0, 1)
    )
    assert torch.equal(logits(first, ids), logits(again, ids)) and not torch.equal(
        logits(first, ids), logits(other, ids)
    )


def test_the_rate_rises_and_falls_in_straight_lines():
    rates = [rate(step, Healing(steps=20, rate=1.0)) for step in range(20)]
    assert rates[:2] == [0.5, 1.0] and rates[2] == 1.0 and rates[-1] == pytest.approx(1 / 18)
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rate(0, Healing(steps=1, rate=1.0)) == 1.0


@needs_peft
def test_too_little_text_and_a_training_that_does_not_converge_are_refused():
    model, small, ids = pair()
    with pytest.raises(InputError, match=f"at least {HELD + 4} sequences"):
        heal(small, ids[: HELD + 3], model)
    small.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="lower the rate"):
        heal(small, ids, model, QUICK)


@pytest.mark.parametrize("name", ["gqa", "gemma3", "phi3", "layer norm"])
def test_scales_are_folded_into_the_weights(name):
    _, small, ids = pair(name if name in variants.VARIANTS else "gqa")
    generator = torch.Generator().manual_seed(0)
    if name == "layer norm":
        small.model.norm = torch.nn.LayerNorm(small.config.hidden_size)
    norms = {name: weight for name, weight in small.named_parameters() if "norm" in name}
    for name, weight in norms.items():
        if name.endswith("bias"):
            weight.data += torch.randn(weight.shape, generator=generator)
    scaled, shares, folded = healing._scales(small, Healing("scales"))
    for share in shares:
        share.data += 0.2 * torch.randn(share.shape, generator=generator)
    wanted = logits(scaled, ids)
    assert not torch.allclose(wanted, logits(small, ids), atol=1e-2)
    assert (logits(folded(), ids) - wanted).norm() < 1e-5 * wanted.norm()
    widths = [
        linear.in_features for name, linear in small.named_modules() if name.endswith(("o_proj", "down_proj"))
    ]
    channels = [weight.numel() for name, weight in norms.items() if name.endswith("weight")]
    assert sorted(share.numel() for share in shares) == sorted(widths + channels)


def test_scales_bring_the_answers_nearer_and_stop_where_they_do_not():
    model, small, ids = pair()
    done = heal(small, ids, model, Healing("scales", steps=2 * CHECKED, batch=4, rate=1e-2))
    assert done.after == pytest.approx(mean_divergence(done.model, model, ids[-HELD:]), rel=1e-4)
    assert done.after < 0.95 * done.before
    steps = []
    wild = Healing("scales", steps=3 * CHECKED, batch=4, rate=1.0)
    spoilt = heal(small, ids, model, wild, lambda what, step, total: steps.append(step))
    assert spoilt.after == pytest.approx(spoilt.before, rel=1e-4) and steps[-1] < wild.steps
