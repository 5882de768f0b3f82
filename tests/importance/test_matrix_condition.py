"""Every formula of the condition metric against brute force in float64.

Brute force works on the tokens themselves, which the formulas never see. A ridge is extra rows of data:
||Y - X V||^2 + sum_i D_ii ||w_i - v_i||^2, D_ii = lambda ||x_i||^2, is the plain error for [X; sqrt(D)].
"""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import inputs_and_weights, normal, without

from comp_lib.importance.matrix_condition import Sweep, condition_numbers, scores_of, sweep
from comp_lib.importance.statistics import solve
from comp_lib.importance.statistics.solve import diagonal_blocks, penalty, spd_inverse, with_ridge
from comp_lib.importance.statistics.sums import contributions

quick = settings(derandomize=True, deadline=None, max_examples=20)
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
seeds = st.integers(0, 10**6)


def with_ridge_rows(x: torch.Tensor, ridge: float) -> torch.Tensor:
    """X and n more rows, which together have the Gram matrix H = C + lambda diag(C): (T + n, n)."""
    return torch.cat([x, torch.diag(ridge**0.5 * x.norm(dim=0))])


def as_columns(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Contributions a_i = x_i w_i^T as columns: (T * m, n)."""
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))], dim=1)


def refit(x: torch.Tensor, y: torch.Tensor, kept: list[int]) -> tuple[torch.Tensor, float]:
    """Best weights for the inputs `kept` and the squared error that they leave."""
    if not kept:
        return torch.zeros(0, y.shape[1], dtype=y.dtype), float(y.square().sum())
    solution = torch.linalg.lstsq(x[:, kept], y, driver="gelsd").solution
    return solution, float((y - x[:, kept] @ solution).square().sum())


def blocks_of(indices: list[int], size: int) -> list[int]:
    return [g * size + j for g in indices for j in range(size)]


# importance and condition


@quick
@given(seed=seeds, n=st.integers(2, 9), m=st.integers(1, 5))
def test_mask_importance_is_the_distance_to_what_the_others_span(seed, n, m):
    x, w = inputs_and_weights(seed, n, m)
    gram = contributions(x.T @ x, w)
    columns = as_columns(x, w)
    inverse, _ = spd_inverse(gram)
    brute = torch.tensor(
        [refit(columns, columns[:, [i]], without(n, i))[1] for i in range(n)], dtype=torch.float64
    )
    kappa = condition_numbers(gram.diagonal(), inverse.diagonal())
    torch.testing.assert_close(1.0 / inverse.diagonal(), brute, **CLOSE)
    torch.testing.assert_close(gram.diagonal() / kappa.square(), brute, **CLOSE)
    torch.testing.assert_close(scores_of(diagonal_blocks(inverse), torch.ones(n, 1).double()), brute, **CLOSE)


@quick
@given(seed=seeds, n=st.integers(2, 9), m=st.integers(1, 5))
def test_full_importance_is_the_error_left_after_all_weights_are_refitted(seed, n, m):
    x, w = inputs_and_weights(seed, n, m)
    inverse, _ = spd_inverse(x.T @ x)
    brute = torch.tensor([refit(x, x @ w, without(n, i))[1] for i in range(n)], dtype=torch.float64)
    torch.testing.assert_close(w.square().sum(1) / inverse.diagonal(), brute, **CLOSE)
    torch.testing.assert_close(scores_of(diagonal_blocks(inverse), w), brute, **CLOSE)


@quick
@given(seed=seeds, groups=st.integers(2, 4), size=st.integers(1, 4), ridge=st.sampled_from([0.0, 0.3]))
def test_scores_are_errors_of_removing_whole_blocks(seed, groups, size, ridge):
    n = groups * size
    x, w = inputs_and_weights(seed, n)
    inverse, _ = spd_inverse(with_ridge(x.T @ x, ridge))
    rows = with_ridge_rows(x, ridge)
    kept = [blocks_of(without(groups, g), size) for g in range(groups)]
    brute = torch.tensor([refit(rows, rows @ w, k)[1] for k in kept], dtype=torch.float64)
    torch.testing.assert_close(scores_of(diagonal_blocks(inverse, size), w), brute, **CLOSE)


def test_scores_of_the_mask_problem():
    x, w = inputs_and_weights(7, 6)
    inverse, _ = spd_inverse(contributions(x.T @ x, w))
    columns = as_columns(x, w)
    outputs = columns.sum(1, keepdim=True)  # Y: the mask of ones
    brute = [refit(columns, outputs, blocks_of(without(3, g), 2))[1] for g in range(3)]
    scores = scores_of(diagonal_blocks(inverse, 2), torch.ones(6, 1, dtype=torch.float64))
    torch.testing.assert_close(scores, torch.tensor(brute, dtype=torch.float64), **CLOSE)


@quick
@given(seed=seeds, n=st.integers(2, 8))
def test_condition_number_squared_is_the_variance_inflation_factor(seed, n):
    x, _ = inputs_and_weights(seed, n)
    xtx = x.T @ x
    kappa = condition_numbers(xtx.diagonal(), spd_inverse(xtx)[0].diagonal())
    inflation = [float(xtx[i, i]) / refit(x, x[:, [i]], without(n, i))[1] for i in range(n)]
    torch.testing.assert_close(kappa.square(), torch.tensor(inflation, dtype=torch.float64), **CLOSE)
    assert (kappa >= 1.0).all()


def test_condition_number_is_one_for_an_orthogonal_input_and_large_for_a_near_copy():
    x = torch.linalg.qr(normal(0, 9, 4)).Q
    x[:, 3] = x[:, 2] + 1e-3 * x[:, 3]
    xtx = x.T @ x
    kappa = condition_numbers(xtx.diagonal(), spd_inverse(xtx)[0].diagonal())
    torch.testing.assert_close(kappa[:2], torch.ones(2, dtype=torch.float64))
    assert (kappa[2:] > 500.0).all()


# inverses


def test_the_penalty_is_a_share_of_each_input_s_own_energy():
    energy = torch.tensor([4.0, 0.5, 100.0], dtype=torch.float64)
    torch.testing.assert_close(penalty(energy, 0.1), torch.tensor([0.4, 0.05, 10.0], dtype=torch.float64))
    gram = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(
        with_ridge(gram, 0.5), torch.tensor([[6.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("loud", [1e-60, 1.0, 1e12])
def test_a_dead_input_needs_no_emergency(loud):
    x, w = inputs_and_weights(3, 6)
    x = loud * x
    x[:, [1, 4]] = 0.0
    matrix = with_ridge(x.T @ x, 0.1)
    inverse, added = spd_inverse(matrix)
    assert added == 0.0
    assert inverse.isfinite().all()
    alive = [0, 2, 3, 5]
    expected = torch.linalg.inv(matrix[alive][:, alive])
    torch.testing.assert_close(
        inverse[alive][:, alive], expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max())
    )
    scores = scores_of(diagonal_blocks(inverse), w)
    assert (scores[[1, 4]] < 1e-9 * scores[alive].min()).all(), "the dead go first"
    for dtype in (torch.float64, torch.float32):
        inverse, added = spd_inverse(with_ridge(torch.zeros(4, 4, dtype=dtype), 0.1))
        assert added == 0.0
        assert inverse.isfinite().all()


@quick
@given(seed=seeds, groups=st.integers(2, 4), size=st.integers(1, 2), remove=st.integers(1, 3))
def test_the_units_of_the_inputs_do_not_matter(seed, groups, size, remove):
    """x_i -> c_i x_i with w_i -> w_i / c_i is the same layer: same choice, same errors, v_i -> v_i / c_i."""
    n = groups * size
    remove = min(remove, groups - 1)
    x, w = inputs_and_weights(seed, n)
    units = (3.0 * normal(seed + 4, n)).exp()
    sweeps = []
    for c in (torch.ones(n, dtype=torch.float64), units):
        xtx = (x * c).T @ (x * c)
        inverse, _ = spd_inverse(with_ridge(xtx, 0.1))
        input_penalties = penalty(xtx.diagonal(), 0.1)
        sweeps.append(
            sweep(
                inverse, w / c[:, None], remove, block_size=size, per_round=1, input_penalties=input_penalties
            )
        )
    first, second = sweeps
    assert first.order.tolist() == second.order.tolist()
    for name in ("errors", "round_penalties", "scores"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(first.weights, second.weights * units[:, None], **CLOSE)


def test_spd_inverse_adds_what_the_digits_lack_and_says_so():
    x = normal(0, 3, 6)  # rank 3 of 6
    x[:, 5] = 0.0
    inverse, used = spd_inverse(x.T @ x)
    assert 0.0 < used < 1e-9
    assert inverse.isfinite().all()
    inverse, used = spd_inverse(torch.zeros(4, 4, dtype=torch.float64))
    assert used > 0.0
    assert inverse.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_spd_inverse_refuses_statistics_that_are_not_finite(bad):
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1, 0] = matrix[0, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        spd_inverse(matrix)


# sweeps


@dataclass(frozen=True)
class Case:
    """A sweep with a ridge, and what it was given."""

    x: torch.Tensor  # inputs (T, n)
    w: torch.Tensor  # weights (n, m)
    ridge: float
    inverse: torch.Tensor  # of H (n, n)
    input_penalties: torch.Tensor  # (n,)
    groups: int  # all blocks
    size: int  # inputs of each block
    per_round: int
    remove: int  # blocks that go
    swept: Sweep


@st.composite
def cases(draw):
    groups = draw(st.integers(2, 8))
    size = draw(st.integers(1, 3))
    per_round = draw(st.integers(1, 3))
    ridge = draw(st.sampled_from([0.0, 0.5]))
    remove = draw(st.integers(1, groups - 1))
    x, w = inputs_and_weights(draw(seeds), groups * size)
    inverse, _ = spd_inverse(with_ridge(x.T @ x, ridge))
    input_penalties = ridge * x.square().sum(0)
    panel = draw(st.sampled_from([1, 4, 512]))  # after so many inputs the inverse is written again
    with patch.object(solve, "INPUTS_PER_UPDATE", panel):
        swept = sweep(
            inverse, w, remove, block_size=size, per_round=per_round, input_penalties=input_penalties
        )
    return Case(x, w, ridge, inverse, input_penalties, groups, size, per_round, remove, swept)


@quick
@given(case=cases())
def test_sweep_counts_what_stays_and_what_goes_in_each_round(case):
    swept = case.swept
    assert sorted(swept.order.tolist() + swept.kept.tolist()) == list(range(case.groups))
    assert swept.kept.tolist() == sorted(swept.kept.tolist())
    assert len(swept.order) == case.remove
    assert swept.counts.tolist() == [*range(case.per_round, case.remove, case.per_round), case.remove]


@quick
@given(case=cases())
def test_sweep_equals_refitting_from_scratch_after_each_round(case):
    x = case.x
    w = case.w
    swept = case.swept
    rows = with_ridge_rows(x, case.ridge)
    for count, error, round_penalty in zip(
        swept.counts.tolist(), swept.objectives.tolist(), swept.round_penalties.tolist(), strict=True
    ):
        alive = blocks_of(without(case.groups, *swept.order[:count].tolist()), case.size)
        solution, expected = refit(rows, rows @ w, alive)
        assert error == pytest.approx(expected, rel=1e-6)
        v = torch.zeros_like(w)
        v[alive] = solution
        expected_penalty = float((case.input_penalties[:, None] * (w - v).square()).sum())
        assert round_penalty == pytest.approx(expected_penalty, rel=1e-6)
        assert error - round_penalty == pytest.approx(float((x @ w - x @ v).square().sum()), rel=1e-6)


@quick
@given(case=cases())
def test_weights_of_a_sweep_are_the_direct_solve_of_the_same_ridge_problem(case):
    kept = blocks_of(case.swept.kept.tolist(), case.size)
    removed = without(len(case.w), *kept)
    xtx = case.x.T @ case.x
    pull = torch.diag(case.input_penalties[kept])
    direct = torch.linalg.solve(xtx[kept][:, kept] + pull, xtx[kept] @ case.w + pull @ case.w[kept])
    torch.testing.assert_close(case.swept.weights[kept], direct, **CLOSE)
    assert (case.swept.weights[removed] == 0.0).all()


@quick
@given(case=cases())
def test_penalties_change_neither_errors_nor_scores_of_a_sweep(case):
    without_penalties = sweep(
        case.inverse, case.w, case.remove, block_size=case.size, per_round=case.per_round
    )
    torch.testing.assert_close(without_penalties.objectives, case.swept.objectives, **CLOSE)
    assert (without_penalties.round_penalties == 0.0).all()
    scores = scores_of(diagonal_blocks(case.inverse, case.size), case.w)
    torch.testing.assert_close(case.swept.scores, scores)


@quick
@given(seed=seeds, n=st.integers(3, 9), remove=st.integers(1, 6))
def test_rounds_of_one_are_the_greedy_order_by_brute_force(seed, n, remove):
    remove = min(remove, n - 1)
    x, w = inputs_and_weights(seed, n)
    alive = list(range(n))
    order = []
    for _ in range(remove):
        cheapest = min(alive, key=lambda i: refit(x, x @ w, [j for j in alive if j != i])[1])
        alive.remove(cheapest)
        order.append(cheapest)
    swept = sweep(spd_inverse(x.T @ x)[0], w, remove, per_round=1)
    assert swept.order.tolist() == order
    assert swept.kept.tolist() == alive


@quick
@given(seed=seeds, n=st.integers(3, 9))
def test_sweep_of_the_mask_problem_finds_the_best_mask_of_the_survivors(seed, n):
    x, w = inputs_and_weights(seed, n)
    swept = sweep(
        spd_inverse(contributions(x.T @ x, w))[0], torch.ones(n, 1, dtype=torch.float64), n // 2, per_round=2
    )
    columns = as_columns(x, w)
    mask, error = refit(columns, columns.sum(1, keepdim=True), swept.kept.tolist())
    torch.testing.assert_close(swept.weights[swept.kept], mask, **CLOSE)
    assert float(swept.objectives[-1]) == pytest.approx(error, rel=1e-6)


def test_one_round_takes_the_lowest_scores():
    x, w = inputs_and_weights(3, 8)
    swept = sweep(spd_inverse(x.T @ x)[0], w, 3, per_round=8)
    assert set(swept.order.tolist()) == set(torch.argsort(swept.scores)[:3].tolist())
    assert swept.counts.tolist() == [3]


@pytest.mark.parametrize("blocks", [3, 64, 1000])
def test_of_equal_scores_the_earlier_block_goes_first(blocks):
    swept = sweep(
        torch.eye(blocks, dtype=torch.float64), torch.ones(blocks, 1, dtype=torch.float64), blocks // 2
    )
    assert swept.order.tolist() == list(range(blocks // 2))


def test_sweep_that_removes_nothing_returns_the_weights_to_the_bit():
    x, w = inputs_and_weights(3, 8)
    swept = sweep(spd_inverse(x.T @ x)[0], w, 0)
    assert torch.equal(swept.weights, w)
    assert swept.kept.tolist() == list(range(8))
    assert swept.objectives.numel() == swept.order.numel() == swept.counts.numel() == 0


def test_sweep_leaves_its_arguments_alone():
    x, w = inputs_and_weights(3, 8)
    inverse, _ = spd_inverse(x.T @ x)
    before = inverse.clone(), w.clone()
    sweep(inverse, w, 4, per_round=2)
    assert torch.equal(inverse, before[0])
    assert torch.equal(w, before[1])


def test_a_copy_goes_first_at_no_cost_and_its_twin_takes_over():
    x, w = inputs_and_weights(4, 6, spare=20)
    x[:, 4] = x[:, 1]
    swept = sweep(spd_inverse(with_ridge(x.T @ x, 1e-9))[0], w, 1, per_round=1)
    removed = int(swept.order)
    twin = {1: 4, 4: 1}[removed]
    assert float(swept.objectives[-1]) < 1e-6
    torch.testing.assert_close(swept.weights[twin], w[1] + w[4], rtol=1e-5, atol=1e-5)
