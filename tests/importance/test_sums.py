"""Sums as matrices against sums over tokens, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import normal

from comp_lib.importance.statistics.few_tokens import TokenStatistics
from comp_lib.importance.statistics.sums import MatrixStatistics, contributions, token_weight

quick = settings(derandomize=True, deadline=None, max_examples=25)
sizes = {
    "seed": st.integers(0, 10**6),
    "t": st.integers(1, 12),
    "n": st.integers(1, 8),
    "m": st.integers(1, 6),
}


@quick
@given(**sizes)
def test_contributions_is_the_gram_matrix_of_rank_one_contributions(seed, t, n, m):
    x = normal(seed, t, n)
    w = normal(seed + 1, n, m)
    # a_i = x_i w_i^T: (n, t * m)
    flat_contributions = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(n)])
    torch.testing.assert_close(contributions(x.T @ x, w), flat_contributions @ flat_contributions.T)


@quick
@given(**sizes)
def test_quadratic_form_is_the_error_of_any_mask(seed, t, n, m):
    x = normal(seed, t, n)
    w = normal(seed + 1, n, m)
    mask = 3.0 * normal(seed + 2, n)
    missing = x @ w - sum(mask[i] * torch.outer(x[:, i], w[i]) for i in range(n))
    gap = 1.0 - mask
    torch.testing.assert_close(gap @ contributions(x.T @ x, w) @ gap, missing.square().sum())


@quick
@given(**sizes)
def test_add_gathers_both_sums_with_weights(seed, t, n, m):
    x = normal(seed, 2, t, n)
    y = normal(seed + 1, 2, t, m)
    token_weights = normal(seed + 2, 2, t).abs()
    statistics = MatrixStatistics.zeros(n, m)
    statistics.add(x, y, token_weights)
    xtx = sum(token_weights[b, i] ** 2 * torch.outer(x[b, i], x[b, i]) for b in range(2) for i in range(t))
    xty = sum(token_weights[b, i] ** 2 * torch.outer(x[b, i], y[b, i]) for b in range(2) for i in range(t))
    # products run in single precision
    torch.testing.assert_close(statistics.xtx, xtx, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(statistics.given_xty, xty, rtol=1e-5, atol=1e-5)
    assert statistics.token_count == 2 * t


@quick
@given(**sizes)
def test_halves_of_a_text_add_up(seed, t, n, m):
    x = normal(seed, 2 * t, n)
    y = normal(seed + 1, 2 * t, m)
    token_weights = normal(seed + 2, 2 * t).abs()
    all_tokens, first, second = (MatrixStatistics.zeros(n, m) for _ in range(3))
    all_tokens.add(x, y, token_weights)
    first.add(x[:t], y[:t], token_weights[:t])
    second.add(x[t:], y[t:], token_weights[t:])
    total = first + second
    torch.testing.assert_close(total.xtx, all_tokens.xtx, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total.given_xty, all_tokens.given_xty, rtol=1e-5, atol=1e-5)
    assert total.token_count == all_tokens.token_count == 2 * t
    assert first.token_count == t, "adding must not change the halves"


def test_halves_without_a_target_add_up():
    first = MatrixStatistics.zeros(3)
    second = MatrixStatistics.zeros(3)
    first.add(normal(0, 5, 3))
    second.add(normal(1, 4, 3))
    total = first + second
    torch.testing.assert_close(total.xtx, first.xtx + second.xtx)
    assert not total.has_target
    assert total.token_count == 9


@pytest.mark.parametrize("form", [MatrixStatistics, TokenStatistics])
def test_halves_of_which_one_has_a_target_do_not_add_up(form):
    with_target = form.zeros(3, 2)
    without_target = form.zeros(3)
    for first, second in ((with_target, without_target), (without_target, with_target)):
        with pytest.raises(ValueError, match="both have a target"):
            first + second


def test_target_is_the_layers_output_unless_one_is_given():
    x = normal(0, 9, 4)
    w = normal(1, 4, 3)
    y = normal(2, 9, 3)
    without_target = MatrixStatistics.zeros(4)
    with_target = MatrixStatistics.zeros(4, 3)
    without_target.add(x)
    with_target.add(x, y)
    torch.testing.assert_close(without_target.xty(w), x.T @ (x @ w), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_target.xty(w), x.T @ y, rtol=1e-5, atol=1e-5)


def test_add_wants_a_target_exactly_when_there_is_room_for_one():
    with pytest.raises(ValueError, match="target"):
        MatrixStatistics.zeros(3).add(normal(0, 5, 3), normal(0, 5, 2))
    with pytest.raises(ValueError, match="target"):
        MatrixStatistics.zeros(3, 2).add(normal(0, 5, 3))


def test_sums_keep_the_digits_that_single_precision_loses():
    statistics = MatrixStatistics.zeros(1)
    statistics.add(torch.full((1, 1), 1e4, dtype=torch.bfloat16).float())
    for _ in range(1000):
        statistics.add(torch.full((1, 1), 0.01))
    large = float(torch.full((), 1e4, dtype=torch.bfloat16))
    assert statistics.xtx.dtype == torch.float64
    assert float(statistics.xtx) - large**2 == pytest.approx(0.1, rel=1e-3)  # float32 has steps of 8 up there


def test_half_precision_data_is_summed_in_full_precision():
    x = normal(0, 40, 3).bfloat16()
    statistics = MatrixStatistics.zeros(3)
    statistics.add(x)
    torch.testing.assert_close(statistics.xtx, x.double().T @ x.double(), rtol=1e-5, atol=1e-5)


def test_token_weights_are_inverse_norms():
    stream = normal(0, 2, 5, 7).float()
    torch.testing.assert_close(token_weight(stream) * stream.norm(dim=-1), torch.ones(2, 5))
    assert token_weight(torch.zeros(1, 7)).isfinite().all()


def test_token_weights_make_errors_relative_to_the_stream():
    """A token ten thousand times as large as the others counts as much as any of them."""
    x = normal(0, 6, 3).float()
    stream = normal(1, 6, 4).float()
    loud = torch.ones(6)
    loud[0] = 1e4
    quiet = MatrixStatistics.zeros(3)
    heavy = MatrixStatistics.zeros(3)
    quiet.add(x, token_weight=token_weight(stream))
    heavy.add(x * loud[:, None], token_weight=token_weight(stream * loud[:, None]))
    torch.testing.assert_close(quiet.xtx, heavy.xtx, rtol=1e-5, atol=1e-6)


@quick
@given(**sizes)
def test_the_energy_of_a_gap_is_the_squared_error_of_other_weights(seed, t, n, m):
    x = normal(seed, t, n)
    w = normal(seed + 1, n, m)
    v = normal(seed + 2, n, m)
    expected = float((x @ w - x @ v).square().sum())
    assert MatrixStatistics.of(x.T @ x).energy(w - v) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert MatrixStatistics.of(x.T @ x).energy(w - w) == 0.0


def test_sums_in_float32_take_weights_of_any_precision():
    x = normal(0, 40, 6)
    w = normal(1, 6, 4)
    kept = torch.tensor([0, 2, 3, 5])
    double, single = (MatrixStatistics.of((x.T @ x).to(dtype)) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(
        single.refit(w, kept, 0.1).double(), double.refit(w, kept, 0.1), rtol=1e-4, atol=1e-5
    )
    errors = [statistics.held_out_errors(statistics, w, kept, (0.1, 1.0)) for statistics in (single, double)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)
