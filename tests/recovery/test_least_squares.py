"""The ridge chosen by held-out text, against brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comp_lib.importance.statistics.few_tokens import TokenStatistics
from comp_lib.importance.statistics.solve import ridge_solve, spd_factor
from comp_lib.importance.statistics.sums import MatrixStatistics
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.recovery import least_squares
from comp_lib.recovery.least_squares import RIDGES, choose_ridge


def two_halves(*tokens, n=12, m=5, noise=0.0, seed=0):
    """Two halves (X, Y*, MatrixStatistics) of a text whose target is not the layer's own output, and W.

    tokens: of both halves, or of each.
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, m, generator=generator, dtype=torch.float64)
    mix = torch.randn(n, n, generator=generator)
    halves = []
    for count in (tokens[0], tokens[-1]):
        x = torch.randn(count, n, generator=generator) @ mix
        y = x @ w.float() + noise * torch.randn(count, m, generator=generator)
        statistics = MatrixStatistics.zeros(n, m)
        statistics.add(x, y)
        halves.append((x.double(), y.double(), statistics))
    return halves, w


def brute_force(halves, w, kept, ridge):
    """Fit by stacked least squares on the first half, error on the second, less ||Y*||^2."""
    (x, y, _), (u, v, _) = halves
    pull = (ridge * x.square().sum(0)[kept]).sqrt()
    left = torch.cat([x[:, kept], torch.diag(pull)])
    right = torch.cat([y, pull[:, None] * w[kept]])
    fitted = torch.linalg.lstsq(left, right).solution
    return float((v - u[:, kept] @ fitted).square().sum() - v.square().sum())


@pytest.mark.parametrize("ridge", [0.01, 0.3, 5.0])
def test_held_out_error_is_that_of_the_tokens(ridge):
    halves, w = two_halves(40, noise=0.5)
    kept = torch.tensor([0, 2, 3, 7, 11])
    (error,) = halves[0][2].held_out_errors(halves[1][2], w, kept, [ridge])
    assert error == pytest.approx(brute_force(halves, w, kept, ridge), rel=1e-4)


def test_the_search_takes_the_best_of_the_grid_and_walks_beside_it():
    kept = torch.arange(8)
    halves, w = two_halves(10, noise=20.0)
    best = min(RIDGES, key=lambda ridge: brute_force(halves, w, kept, ridge))
    ridge, position = choose_ridge(halves[0][2], halves[1][2], w, kept)
    assert ridge == pytest.approx(best / 2)
    assert RIDGES[position] == best
    plenty, w = two_halves(4000)
    smaller, _ = choose_ridge(plenty[0][2], plenty[1][2], w, kept, previous=position)
    assert smaller * 2 == pytest.approx(RIDGES[RIDGES.index(best) - 1])  # one step at a time


@pytest.mark.parametrize("tokens", [(10, 30), (30, 10)])
def test_the_whole_text_gets_the_pull_of_the_half_that_was_fitted(tokens):
    """Lambda counts per token, so that of the whole is as much smaller as the whole has more tokens."""
    kept = torch.arange(8)
    halves, w = two_halves(*tokens, noise=20.0)
    best = min(RIDGES, key=lambda ridge: brute_force(halves, w, kept, ridge))
    ridge, _ = choose_ridge(halves[0][2], halves[1][2], w, kept)
    assert ridge == pytest.approx(best * tokens[0] / 40)


def test_a_direction_that_no_token_has_keeps_its_old_weights():
    """Nothing fits an input that is always 0, and without a penalty its matrix has no factor of its own."""
    inner = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    weight = torch.tensor([[3.0], [5.0]], dtype=torch.float64)
    _, added = spd_factor(inner.clone())
    assert added > 0
    fitted = ridge_solve(inner.clone(), torch.zeros(2, dtype=torch.float64), inner @ weight, weight)
    torch.testing.assert_close(fitted, weight)


def test_few_tokens_want_more_ridge_than_many():
    kept = torch.arange(8)
    few, many = (two_halves(tokens, noise=20.0) for tokens in (10, 4000))
    ridges = [choose_ridge(halves[0][2], halves[1][2], w, kept)[0] for halves, w in (few, many)]
    assert ridges[0] > 3 * ridges[1]


def test_prune_reports_the_ridge_it_chose(tiny_llama):
    model = tiny_llama()
    ids = torch.randint(512, (6, 32), generator=torch.Generator().manual_seed(0))
    settings = Settings(ratio=0.3, drop_layers=0, multiple=4, widths="uniform", aim="self")
    assert settings.ridge == "auto"
    searched = prune(model, ids, settings)
    chosen = [layer.mlp_ridge for layer in searched.report.layers]
    assert all(any(ridge == pytest.approx(value / 2) for value in RIDGES) for ridge in chosen)
    fixed = prune(model, ids, replace(settings, ridge=chosen[0]))
    first, second = (run.model.model.layers[0].mlp.down_proj.weight for run in (searched, fixed))
    torch.testing.assert_close(first, second)  # halves added up are the whole


def test_one_sequence_cannot_be_halved(tiny_llama):
    pruned = prune(
        tiny_llama(),
        torch.arange(32)[None],
        Settings(ratio=0.3, drop_layers=0, multiple=4, widths="uniform", aim="self"),
    )
    assert {layer.mlp_ridge for layer in pruned.report.layers} == {0.1}


def layer_of_many_outputs(form, with_target):
    """W (40, 200), the statistics of two halves of a text, and ||Y*||^2 of the second half."""
    generator = torch.Generator().manual_seed(0)
    inputs = 40
    outputs = 200
    weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    weight = weight.to(form.zeros(1).precision)
    halves = []
    for _ in range(2):
        x = torch.randn(25, inputs, generator=generator)
        layer_output = x @ weight.float()
        y = layer_output + 3.0 * torch.randn(25, outputs, generator=generator) if with_target else None
        target = layer_output if y is None else y
        half = form.zeros(inputs, outputs if with_target else None)
        half.add(x, y)
        halves.append(half)
    return weight, halves, float(target.square().sum())


def record_mixes(form, monkeypatch):
    """A list of the mixtures (m, p) on which `choose_ridge` compares lambdas from now on."""
    mixes = []
    mix_outputs = form.mix_outputs

    def recorded_mix_outputs(half, mix):
        mixes.append(mix)
        return mix_outputs(half, mix)

    monkeypatch.setattr(form, "mix_outputs", recorded_mix_outputs)
    return mixes


@pytest.mark.parametrize("form", [MatrixStatistics, TokenStatistics])
@pytest.mark.parametrize("with_target", [True, False])
def test_of_many_outputs_mixtures_are_judged(form, with_target, monkeypatch):
    weight, halves, energy = layer_of_many_outputs(form, with_target)
    kept = torch.arange(30)
    mixes = record_mixes(form, monkeypatch)
    positions = {}
    for mixtures in (10**6, 100):
        monkeypatch.setattr(least_squares, "PROJECTIONS", mixtures)
        _, positions[mixtures] = choose_ridge(*halves, weight, kept)
    assert positions[100] == positions[10**6]
    mix = mixes[-1]
    assert mix.shape == (200, 100)
    exact_errors = halves[0].held_out_errors(halves[1], weight, kept, RIDGES)
    mixed_halves = [half.mix_outputs(mix) for half in halves]
    mixed_errors = mixed_halves[0].held_out_errors(mixed_halves[1], weight @ mix, kept, RIDGES)
    if not with_target:  # of the layer's own output only W decides
        assert mixed_errors == halves[0].held_out_errors(halves[1], weight @ mix, kept, RIDGES)
    gaps = [abs(mixed - exact) for mixed, exact in zip(mixed_errors, exact_errors, strict=True)]
    assert 0.0 < max(gaps) < 0.25 * energy
    assert gaps[positions[100]] < 0.05 * energy


def test_an_output_counts_by_its_gain():
    """An output that counts nearly alone decides lambda, by brute force, and outputs disagree."""
    kept = torch.arange(8)
    halves, w = two_halves(14, noise=20.0)
    best_ridges = {}
    for output in range(w.shape[1]):
        single_halves = [(x, y[:, [output]], None) for x, y, _ in halves]
        errors = [brute_force(single_halves, w[:, [output]], kept, ridge) for ridge in RIDGES]
        best_ridges[output] = RIDGES[errors.index(min(errors))]
    assert len(set(best_ridges.values())) > 1
    for output, best in best_ridges.items():
        gain = torch.full((w.shape[1],), 1e-6)
        gain[output] = 1.0
        ridge, _ = choose_ridge(halves[0][2], halves[1][2], w, kept, gain)
        assert ridge == pytest.approx(best / 2), output
