"""The dual form against the n x n forms that it stands for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from variants import build, tokens

from comp_lib.importance.matrix_condition import sweep
from comp_lib.importance.neuron_metrics import full_condition
from comp_lib.importance.problem import Problem
from comp_lib.importance.statistics import few_tokens
from comp_lib.importance.statistics.few_tokens import DualInverse, TokenStatistics
from comp_lib.importance.statistics.solve import factor_solve, least_squares, penalty, spd_inverse, with_ridge
from comp_lib.importance.statistics.sums import MatrixStatistics
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings


def two_statistics(tokens=10, n=24, m=5, with_target=True, seed=0):
    """(primal, dual, W) for the same weighted tokens, fewer than inputs."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, m, generator=generator, dtype=torch.float64)
    x = torch.randn(tokens, n, generator=generator) * torch.rand(n, generator=generator)
    y = x @ w.float() + torch.randn(tokens, m, generator=generator) if with_target else None
    weight = torch.rand(tokens, generator=generator) + 0.5
    both = []
    for kind in (MatrixStatistics, TokenStatistics):
        halves = [kind.zeros(n, m if with_target else None) for _ in range(2)]
        for half, rows in zip(halves, (slice(0, 4), slice(4, None)), strict=True):
            half.add(x[rows], None if y is None else y[rows], weight[rows])
        both.append(halves[0] + halves[1])
    return *both, w


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("per_round", [1, 3, 32])
def test_a_sweep_is_the_same(block, per_round):
    full, rows, w = two_statistics(with_target=False)
    penalties = penalty(full.xtx.diagonal(), 0.1)
    inverse, _ = spd_inverse(with_ridge(full.xtx, 0.1))
    dual_inverse = DualInverse(rows.x, penalties, block)
    torch.testing.assert_close(
        dual_inverse.diagonal_blocks.diagonal(dim1=1, dim2=2).flatten(), inverse.diagonal(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        dual_inverse.rows(torch.tensor([3, 7])).values, inverse[[3, 7]], rtol=1e-4, atol=1e-5
    )
    removed = 3 if block == 4 else 11
    primal = sweep(inverse, w, removed, block_size=block, per_round=per_round)
    dual = sweep(dual_inverse, w, removed, block_size=block, per_round=per_round)
    assert torch.equal(primal.kept, dual.kept)
    assert torch.equal(primal.order, dual.order)
    torch.testing.assert_close(dual.weights, primal.weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dual.errors, primal.errors, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dual.scores, primal.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("with_target", [False, True])
def test_fit_energy_and_statistics_are_the_same(with_target):
    full, rows, w = two_statistics(with_target=with_target)
    kept = torch.tensor([0, 2, 3, 7, 11, 20])
    expected = least_squares(full.xtx, full.xty(w), w, kept, 0.2)
    fitted = rows.refit(w, kept, 0.2)
    torch.testing.assert_close(fitted, expected, rtol=1e-4, atol=1e-5)
    assert rows.energy(w - fitted) == pytest.approx(full.energy(w - fitted), rel=1e-4)
    for sums in (full, rows):
        assert sums.energy_and_error(w, fitted) == pytest.approx(
            (full.energy(w), full.energy(w - fitted)), rel=1e-4
        )
    torch.testing.assert_close(rows.diagonal(), full.diagonal(), rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.xtx, full.xtx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [MatrixStatistics, TokenStatistics])
def test_means_and_the_energy_of_a_bias_are_those_of_the_tokens(form):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(10, 24, generator=generator)
    gap = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    weights = torch.rand(10, generator=generator) + 0.5
    halves = [form.zeros(24), form.zeros(24)]
    for half, rows in zip(halves, (slice(0, 4), slice(4, None)), strict=True):
        half.add(x[rows], token_weight=weights[rows])
    sums = halves[0] + halves[1]
    torch.testing.assert_close(sums.unweighted_mean(), x.double().mean(0), rtol=1e-5, atol=1e-6)
    outputs = x.double() @ gap
    added = (outputs - bias).square().sum(1) - outputs.square().sum(1)
    assert sums.bias_energy(gap, bias) == pytest.approx(float(weights.double().square() @ added), rel=1e-5)


@pytest.mark.parametrize("with_target", [False, True])
def test_a_refit_is_its_formula_and_solves_without_lambda_in_the_divisors(with_target, monkeypatch):
    _, rows, w = two_statistics(with_target=with_target)
    kept = torch.tensor([0, 2, 3, 7, 11, 20])
    ridge = 0.2
    x = rows.x.double()
    target = rows.given_target.double() if rows.has_target else x @ w
    gap = target - x[:, kept] @ w[kept]  # E (T, m)
    energy = x.square().sum(0)[kept]  # diag(C)_K (k,)
    identity = torch.eye(len(x), dtype=torch.float64)
    solved = torch.linalg.solve(ridge * identity + x[:, kept] / energy @ x[:, kept].T, gap)
    inner = x[:, kept] / (ridge * energy) @ x[:, kept].T  # K (T, T)
    expected = w[kept] + (x[:, kept] / (ridge * energy)).T @ torch.linalg.solve(identity + inner, gap)
    answers = []

    def recorded(factor, right):
        answers.append(factor_solve(factor, right))
        return answers[-1]

    monkeypatch.setattr(few_tokens, "factor_solve", recorded)
    fitted = rows.refit(w, kept, ridge)
    torch.testing.assert_close(torch.cat(answers, dim=1), solved, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted[kept], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_target", [False, True])
def test_held_out_errors_are_the_same(with_target):
    full, rows, w = two_statistics(with_target=with_target)
    full_held_out, rows_held_out, _ = two_statistics(tokens=7, with_target=with_target, seed=1)
    kept = torch.tensor([1, 2, 5, 9, 13])
    ridges = (0.01, 0.3, 5.0)
    assert rows.held_out_errors(rows_held_out, w, kept, ridges) == pytest.approx(
        full.held_out_errors(full_held_out, w, kept, ridges), rel=1e-4
    )


def test_the_metric_chooses_the_same_with_single_weights():
    full, rows, w = two_statistics(with_target=False)
    primal = full_condition(Problem(full, w, torch.ones), 15, torch.Generator())
    dual = full_condition(Problem(rows, w.float(), torch.ones), 15, torch.Generator())
    assert torch.equal(primal.kept, dual.kept)
    assert dual.swept.weights.dtype == torch.float32
    torch.testing.assert_close(dual.swept.weights.double(), primal.swept.weights, rtol=1e-3, atol=1e-4)
    matrix = with_ridge(full.xtx, 0.1)
    torch.testing.assert_close(
        rows.inverse(0.1).diagonal_blocks.flatten(), spd_inverse(matrix)[0].diagonal(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aim": "dense"},
        {"kv_groups": 1},
        {"method": "wanda-sp", "recovery": "bias"},
        {"method": "energy"},
    ],
)
def test_prune_takes_it_with_few_tokens_and_comes_to_the_same(changes, monkeypatch):
    model = build("gqa")  # 48 neurons, 32 inputs of o_proj
    ids = tokens(4, 7)  # 28 tokens
    settings = replace(
        Settings(ratio=0.3, drop_layers=0, multiple=4, widths="uniform", aim="self"), **changes
    )
    calls = []
    add = TokenStatistics.add

    def counted(self, *arguments):
        calls.append(self)
        add(self, *arguments)

    monkeypatch.setattr(TokenStatistics, "add", counted)
    dual = prune(model, ids, settings)
    calls_of_dual = len(calls)
    assert calls_of_dual
    monkeypatch.setattr("comp_lib.importance.statistics.few_tokens.TokenStatistics", MatrixStatistics)
    primal = prune(model, ids, settings)
    assert dual.plan == primal.plan
    assert len(calls) == calls_of_dual  # the second run had the n x n form
    for dual_values, primal_values in zip(dual.report.layers, primal.report.layers, strict=True):
        assert dual_values.mlp_error == pytest.approx(primal_values.mlp_error, rel=1e-3)
        assert dual_values.mlp_ridge == primal_values.mlp_ridge
    for dual_values, primal_values in zip(dual.model.parameters(), primal.model.parameters(), strict=True):
        torch.testing.assert_close(dual_values, primal_values, rtol=1e-3, atol=1e-3)


def test_the_mask_problem_stays_with_the_full_form(monkeypatch):
    monkeypatch.setattr("comp_lib.importance.statistics.few_tokens.TokenStatistics", None)
    settings = Settings(ratio=0.3, drop_layers=0, multiple=4, recovery="mask")
    assert prune(build("gqa"), tokens(4, 7), settings).plan.removed > 0.29
