"""The checks of lesson 2b's exercises: they refuse plausible mistakes by name."""

from __future__ import annotations

import sys

import torch
from lessons import LESSONS, functions, names_the_mistake

CHECKS = LESSONS["02b"].checks
checks_02b = sys.modules[CHECKS["fooling_units"].__module__]
SOLUTIONS = functions(LESSONS["02b"].solutions)


def norms(c):
    return c.diagonal().sqrt()


def energy(c, w):
    return c.diagonal() * w.square().sum(1)


def overlap(ours, theirs, interval):
    """Two separate intervals, compared: the mistake that throws the pairs away."""
    (low, high), (other_low, other_high) = interval(ours), interval(theirs)
    return bool(low > other_high or other_low > high)


MISTAKES = [
    ("fooling_units", lambda c, w: norms(c)[:3], r"shape \(9,\), got \(3,\)"),
    ("fooling_units", lambda c, w: -norms(c), "positive factors"),
    ("fooling_units", lambda c, w: 1 / norms(c), "all activations are equal"),
    ("fooling_units", lambda c, w: energy(c, w) / norms(c), "agrees with energy"),
    ("fooling_units", lambda c, w: 1 / norms(c) ** 2, "own order is turned round"),
    ("fooling_units", lambda c, w: torch.linspace(1, 1e6, len(w)), "of most energy"),
    ("told_apart", lambda ours, theirs, interval: interval(ours - theirs), "True or False, got tuple"),
    ("told_apart", overlap, "pair them"),
    ("told_apart", lambda ours, theirs, interval: bool(ours.mean() != theirs.mean()), "holds zero"),
    ("told_apart", lambda ours, theirs, interval: interval(theirs - ours)[0] > 0, "both ends"),
    ("choose_ridge", lambda error, ridges: 0.5, "one of the ridges"),
    ("choose_ridge", lambda error, ridges: min(ridges, key=lambda r: error(r)[0]), "always the smallest"),
    ("choose_ridge", lambda error, ridges: sorted(ridges, key=lambda r: error(r)[1])[1], "on the held-out tokens"),
]
test_a_check_names_the_mistake = names_the_mistake(CHECKS, MISTAKES)


def test_the_units_change_nothing_but_the_activation():
    c, w = checks_02b._layer(0)
    scale = SOLUTIONS["fooling_units"](c, w)
    changed, weight = c * torch.outer(scale, scale), w / scale[:, None]
    torch.testing.assert_close(energy(changed, weight), energy(c, w))
    assert torch.equal(norms(changed).argsort(), energy(c, w).argsort(descending=True))


def test_the_real_layer_is_asked_after_the_small_ones(monkeypatch, capsys):
    """A fake of the real model: the sentence tells how the choice does on a third text."""
    seen, held, weight, kept = checks_02b._few_tokens(7)
    monkeypatch.setattr(checks_02b, "_real_layer", lambda: (seen, held[:100], held[100:], weight, kept))
    CHECKS["choose_ridge"](SOLUTIONS["choose_ridge"])
    judged = {ridge: checks_02b._errors(seen, held[100:], weight, kept)(ridge)[1] for ridge in checks_02b.RIDGES}
    said = capsys.readouterr().out
    assert f"the lesson's 0.1 leaves {judged[0.1]:.1%}, and the best of all {min(judged.values()):.1%}" in said
