"""The lambda slider, driven without a browser."""

from __future__ import annotations

import re

import pytest
import torch

from course.mask_tuning import mask_error, penalised_mask
from course.widgets import mask_explorer as widget

RIDGES = (1e-4, 1e-2, 1.0, 1e3)
KEPT = {"some": torch.arange(8), "others": torch.arange(3, 11)}


@pytest.fixture
def grams():
    """A layer whose neuron 11, which goes, rules the first measure."""
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loud = x.clone()
    loud[0] *= 100.0
    return {name: (each.T @ each) * (w @ w.T) for name, each in (("sum", loud), ("alike", x))}


@pytest.fixture
def explorer(grams, own_cache):
    return widget.MaskExplorer(grams["sum"], grams, KEPT, RIDGES, "Layer 1")


def test_it_opens_with_a_figure_that_has_words(explorer):
    assert 'alt="Layer 1: some. Relative error left against lambda from 0.0001 to 1000' in explorer.image.value
    assert "λ = 0.0001: variance" in explorer.facts.value
    assert not explorer.ridge.continuous_update
    assert explorer.layout.min_height and explorer.image.layout.min_height


def test_every_control_draws_anew(explorer):
    seen = {explorer.image.value}
    for place in range(1, len(RIDGES)):
        explorer.ridge.value = place
        seen.add(explorer.image.value)
    explorer.who.value = "others"
    seen.add(explorer.image.value)
    for pull in list(widget.PULLS)[1:]:
        explorer.pull.value = pull
        seen.add(explorer.image.value)
    assert len(seen) == len(RIDGES) + 1 + len(widget.PULLS) - 1


@pytest.mark.parametrize("pull", widget.PULLS)
def test_the_facts_are_those_of_the_solve(explorer, grams, pull):
    explorer.pull.value, explorer.ridge.value = pull, 1
    even, toward = widget.PULLS[pull]
    mask = penalised_mask(grams["sum"], KEPT["some"], RIDGES[1], toward, even)
    errors = {name: mask_error(gram, KEPT["some"], mask) for name, gram in grams.items()}
    assert f"variance {float(mask.var(unbiased=False)):.3g}" in explorer.facts.value
    assert f"largest factor {float(mask.abs().max()):.3g}" in explorer.facts.value
    for name, error in errors.items():
        assert f"{name} {error:,.1%}" in explorer.facts.value


def test_a_strong_pull_passes_both_guards_and_a_wild_mask_none(explorer):
    explorer.ridge.value = len(RIDGES) - 1
    assert "passes: variance guard and size guard" in explorer.facts.value
    wild = torch.tensor([[1.0, 1.0, 30.0], [1.0, 2.0, 3.0], [1.0, 1.1, 0.9]])
    assert widget.guards(wild) == {"variance guard": [False, False, True], "size guard": [False, True, True]}
    assert re.search(r"\bno guard\b", explorer.facts.value) is None
