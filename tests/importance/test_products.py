"""Float32 products with float64 sums against float64 all through, and the inverse of what they sum to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comp_lib.importance.statistics import sums
from comp_lib.importance.statistics.few_tokens import row_products
from comp_lib.importance.statistics.solve import spd_inverse
from comp_lib.importance.statistics.sums import add_square


def rows(count, size, alike, seed):
    """Rows of float32 that differ from each other by the share 1 - `alike` only."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, size, generator=generator)
    return alike * common + (1.0 - alike) * torch.randn(count, size, generator=generator)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 70), st.sampled_from([0.0, 0.5, 0.999]), st.integers(0, 9))
def test_a_triangle_makes_the_whole_product(size, alike, seed):
    x = rows(50, size, alike, seed)
    columns_at_once = sums.COLUMNS_AT_ONCE
    try:
        sums.COLUMNS_AT_ONCE = 8  # so that these sizes have several blocks, and a last one that is not full
        product = torch.zeros(size, size)
        add_square(product, x)
    finally:
        sums.COLUMNS_AT_ONCE = columns_at_once
    exact = x.double().T @ x.double()
    norms = x.double().norm(dim=0)
    if size >= 16:  # smaller ones are one product, of which not every library computes two equal halves
        assert torch.equal(product, product.T)
    assert (product.double() - exact).abs().le(1e-6 * norms[:, None] * norms).all()


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([0.0, 0.5, 0.999, 1.0]), st.integers(0, 9))
def test_sums_of_many_terms_are_as_exact_as_promised(size, alike, seed):
    x = rows(7, size, alike, seed)
    y = rows(5, size, alike, seed + 1)
    exact = x.double() @ y.double().T
    bound = 1e-6 * x.double().norm(dim=1)[:, None] * y.double().norm(dim=1)
    product = row_products(x, y)
    assert product.dtype == torch.float64
    assert (product - exact).abs().le(bound).all()


@pytest.mark.parametrize("size", [1, 2, 7, 64, 150])
def test_an_inverse_is_right_and_symmetric(size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size + 5, size, generator=generator, dtype=torch.float64)
    matrix = x.T @ x + 0.1 * torch.eye(size)
    inverse, added = spd_inverse(matrix)
    assert added == 0.0
    assert torch.allclose(inverse @ matrix, torch.eye(size).double(), atol=1e-9)
    assert torch.equal(inverse, inverse.T)
