"""Mask tuning and least squares against general-purpose solvers, and the trap that the guard is for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import inputs_and_weights, normal

from comp_lib.importance.statistics.solve import keep_rows, least_squares
from comp_lib.importance.statistics.sums import MatrixStatistics, contributions
from comp_lib.recovery import mask_tuning
from comp_lib.recovery.mask_tuning import MAX_VARIANCE, fold_mask, solve_mask, tune_mask
from comp_lib.utils.errors import InputError

quick = settings(derandomize=True, deadline=None, max_examples=20)
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
seeds = st.integers(0, 10**6)


def random_layer(seed: int, n: int, m: int = 4, spare: int = 6):
    """X (n + spare, n), W (n, m), and about half of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(n, generator=generator)[: (n + 1) // 2].sort().values
    return *inputs_and_weights(seed, n, m, spare), kept


def lstsq(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.lstsq(a, b, driver="gelsd").solution


# mask


@quick
@given(seed=seeds, n=st.integers(2, 9), ridge=st.sampled_from([0.0, 1e-2, 1.0]))
def test_mask_solves_the_augmented_least_squares_problem(seed, n, ridge):
    """On the tokens: rows of contributions, and below them sqrt(lambda G_ii) (m_i - 1)."""
    x, w, kept = random_layer(seed, n)
    columns = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(n)], dim=1)  # (T * m, n)
    gram = contributions(x.T @ x, w)
    penalty = torch.diag((ridge * gram.diagonal()[kept]).sqrt())
    right = torch.cat([columns.sum(1), penalty.diagonal()])
    expected = lstsq(torch.cat([columns[:, kept], penalty]), right[:, None])[:, 0]
    torch.testing.assert_close(solve_mask(gram, kept, ridge), expected, **CLOSE)


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_mask_is_where_numerical_minimisation_ends(ridge):
    x, w, kept = random_layer(11, 8)
    gram = contributions(x.T @ x, w)
    mask = torch.zeros(len(kept), dtype=torch.float64, requires_grad=True)
    precise = {
        "max_iter": 500,
        "tolerance_grad": 1e-12,
        "tolerance_change": 1e-16,
        "line_search_fn": "strong_wolfe",
    }
    optimiser = torch.optim.LBFGS([mask], **precise)

    def objective():
        optimiser.zero_grad()
        gap = 1.0 - torch.zeros(8, dtype=torch.float64).index_put((kept,), mask)
        value = gap @ gram @ gap + ridge * (gram.diagonal()[kept] * (mask - 1.0).square()).sum()
        value.backward()
        return value

    optimiser.step(objective)
    torch.testing.assert_close(solve_mask(gram, kept, ridge), mask.detach(), rtol=1e-5, atol=1e-6)


def test_mask_of_everything_is_one():
    x, w, _ = random_layer(3, 6)
    mask, ridge = tune_mask(contributions(x.T @ x, w), torch.arange(6))
    torch.testing.assert_close(mask, torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-8)
    assert ridge == 1e-2


def trap(seed: int = 0, tokens: int = 60):
    """Few kept neurons, nearly alike, that must imitate many: factors of either sign cancel on this text."""
    common = normal(seed, tokens, 1)
    x = torch.cat([common + 1e-3 * normal(seed + 1, tokens, 6), normal(seed + 2, tokens, 14)], dim=1)
    shared = normal(99, 1, 3)
    w = torch.cat([shared + 1e-3 * normal(98, 6, 3), normal(97, 14, 3)])
    return x, w, torch.arange(6)


def test_unguarded_mask_is_a_trap_and_the_guard_springs_it():
    x, w, kept = trap()
    gram = contributions(x.T @ x, w)
    unguarded = solve_mask(gram, kept, 1e-9)
    assert unguarded.var(unbiased=False) > 1000.0 * MAX_VARIANCE
    mask, ridge = tune_mask(gram, kept, 1e-9)
    assert mask.var(unbiased=False) <= MAX_VARIANCE  # of the mask itself, not of a sample
    assert ridge > 1e-9
    torch.testing.assert_close(mask, solve_mask(gram, kept, ridge))
    before = solve_mask(gram, kept, ridge / 4.0)
    assert before.var(unbiased=False) > MAX_VARIANCE, "lambda must not grow further than needed"

    other_text, _, _ = trap(seed=50)  # another text through the same layer
    other_gram = contributions(other_text.T @ other_text, w)

    def error(values):
        gap = torch.ones(20, dtype=torch.float64)
        gap[kept] -= values
        return float(gap @ other_gram @ gap)

    assert error(mask) < error(unguarded)


def test_guard_leaves_a_calm_mask_alone(monkeypatch):
    monkeypatch.setattr(mask_tuning, "MAX_VARIANCE", 1e3)
    x, w, kept = random_layer(5, 8, spare=200)
    mask, ridge = tune_mask(gram := contributions(x.T @ x, w), kept, 1e-2)
    assert ridge == 1e-2
    assert torch.equal(mask, solve_mask(gram, kept, 1e-2))


def test_dead_neurons_keep_their_factor():
    """At a factor of 0, half of the mask would hold the variance at 0.25 whatever lambda is."""
    gram = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 4.0], dtype=torch.float64))
    mask, _ = tune_mask(gram, torch.arange(6))
    torch.testing.assert_close(mask, torch.ones(6, dtype=torch.float64))
    mask_of_zeros, _ = tune_mask(torch.zeros(4, 4, dtype=torch.float64), torch.arange(3))
    torch.testing.assert_close(mask_of_zeros, torch.ones(3, dtype=torch.float64))


def test_fold_mask_and_keep_rows():
    w = normal(0, 5, 3)
    kept = torch.tensor([1, 4])
    mask = torch.tensor([2.0, -1.0], dtype=torch.float64)
    expected = torch.zeros(5, 3, dtype=torch.float64)
    expected[1] = w[1]
    expected[4] = w[4]
    assert torch.equal(keep_rows(w, kept), expected)
    expected[1] = 2.0 * w[1]
    expected[4] = -w[4]
    assert torch.equal(fold_mask(w, kept, mask), expected)


@quick
@given(seed=seeds, n=st.integers(2, 9))
def test_folded_mask_has_the_error_of_the_quadratic_form(seed, n):
    x, w, kept = random_layer(seed, n)
    gram = contributions(x.T @ x, w)
    mask = solve_mask(gram, kept, 0.1)
    gap = torch.ones(n, dtype=torch.float64)
    gap[kept] -= mask
    error = (x @ w - x @ fold_mask(w, kept, mask)).square().sum()
    torch.testing.assert_close(error, gap @ gram @ gap)


# least squares


@quick
@given(seed=seeds, n=st.integers(2, 9), with_target=st.booleans(), ridge=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_least_squares_solves_the_augmented_problem(seed, n, with_target, ridge):
    """min ||Y* - X V||^2 + lambda sum_i ||x_i||^2 ||v_i - w_i||^2 over the kept rows."""
    x, w, kept = random_layer(seed, n)
    y = normal(seed + 3, len(x), 4) if with_target else x @ w
    xtx = x.T @ x
    fitted = least_squares(xtx, x.T @ y, w, kept, ridge)
    pull = torch.diag(ridge**0.5 * x[:, kept].norm(dim=0))
    expected = lstsq(torch.cat([x[:, kept], pull]), torch.cat([y, pull @ w[kept]]))
    torch.testing.assert_close(fitted[kept], expected, **CLOSE)
    removed = [i for i in range(n) if i not in kept.tolist()]
    assert (fitted[removed] == 0.0).all()
    units = (2.0 * normal(seed + 4, n)).exp()  # the same layer in other units
    fitted_in_units = least_squares(
        (x * units).T @ (x * units), (x * units).T @ y, w / units[:, None], kept, ridge
    )
    torch.testing.assert_close(fitted_in_units * units[:, None], fitted, **CLOSE)


def test_least_squares_towards_the_own_output_changes_nothing_when_all_stay():
    x, w, _ = random_layer(2, 6)
    fitted = least_squares(x.T @ x, x.T @ (x @ w), w, torch.arange(6), 1e-2)
    torch.testing.assert_close(fitted, w, rtol=1e-9, atol=1e-9)


def test_a_strong_ridge_holds_the_weights_and_a_weak_one_lets_them_go():
    x, w, kept = random_layer(2, 8)
    y = normal(7, len(x), 4)

    def drift(ridge):
        return float((least_squares(x.T @ x, x.T @ y, w, kept, ridge) - keep_rows(w, kept)).norm())

    assert drift(1e6) < 1e-4 < drift(1.0) < drift(1e-3)


def test_least_squares_with_fewer_tokens_than_inputs_stays_finite():
    x = normal(0, 3, 8)
    w = normal(1, 8, 2)
    kept = torch.arange(6)
    fitted = least_squares(x.T @ x, x.T @ (x @ w), w, kept, 1e-9)
    assert float((x @ w - x @ fitted).square().sum()) < 1e-6, "three tokens can always be met by six inputs"
    assert float(fitted.norm()) < 10.0 * float(w.norm())
    assert least_squares(x.T @ x, x.T @ (x @ w), w, kept, 0.0).isfinite().all()


def test_dead_inputs_keep_their_weights_and_disturb_nobody():
    x, w, _ = random_layer(2, 8)
    x[:, [1, 5]] = 0.0
    kept = torch.tensor([0, 1, 3, 5, 6])
    fitted = least_squares(x.T @ x, x.T @ (x @ w), w, kept, 0.1)
    torch.testing.assert_close(fitted[[1, 5]], w[[1, 5]])
    alive = torch.tensor([0, 3, 6])
    torch.testing.assert_close(
        fitted[alive], least_squares(x.T @ x, x.T @ (x @ w), w, alive, 0.1)[alive], **CLOSE
    )


@quick
@given(seed=seeds, n=st.integers(2, 10))
def test_each_recovery_beats_the_simpler_one_on_the_calibration_text(seed, n):
    x, w, kept = random_layer(seed, n, spare=30)
    xtx = x.T @ x
    mask, _ = tune_mask(contributions(xtx, w), kept, 1e-3)
    fitted = least_squares(xtx, xtx @ w, w, kept, 1e-9)
    none, tuned, full = (
        MatrixStatistics.of(xtx).energy(w - v) for v in (keep_rows(w, kept), fold_mask(w, kept, mask), fitted)
    )
    slack = 1e-5 * none  # of single precision
    assert full <= tuned + slack
    assert tuned <= none + slack


@pytest.mark.parametrize("values", [[0.0, 100.0], [torch.nan, 1.0]])
def test_the_guard_ends_where_no_mask_can_be_tuned(monkeypatch, values):
    ridges = []
    mask = torch.tensor(values, dtype=torch.float64)
    monkeypatch.setattr(mask_tuning, "solve_mask", lambda gram, kept, ridge: ridges.append(ridge) or mask)
    with pytest.raises(InputError, match="for which a mask can be tuned, got a mask of variance"):
        tune_mask(torch.eye(2), torch.tensor([0, 1]))
    assert len(ridges) == mask_tuning.MAX_ROUNDS


def test_sums_that_are_not_finite_are_a_refusal():
    gram = torch.eye(4, dtype=torch.float64)
    gram[1, 2] = gram[2, 1] = torch.nan
    with pytest.raises(InputError, match="expected finite statistics"):
        tune_mask(gram, torch.tensor([0, 1, 2]))
