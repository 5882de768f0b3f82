"""Checks for the exercises of lesson 4: each runs your function on small random layers and compares with brute force.

Nothing of comp_lib is used here: the right answers come from the tokens themselves, by `torch.linalg.lstsq`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, spot
from torch import Tensor


def check_mask(mask_from_gram: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 1."""
    x, w = dense_layer(7)
    kept, gone = torch.tensor([0, 2, 3, 6]), torch.tensor([1, 4, 5])
    a = _contributions(x, w)  # (T * m, n)
    gram = a.T @ a
    energy = gram.diagonal()[kept]
    for ridge in (0.0, 0.3):
        got = call(mask_from_gram, gram.clone(), kept, ridge)
        check_shape("the mask", got, (4,))
        if alike(got, _anchored(a, kept, ridge)):
            continue
        inner, right = gram[kept][:, kept], gram[kept].sum(1)
        penalty = torch.diag(ridge * energy)
        solve = torch.linalg.solve
        spot(
            got,
            solve(inner + penalty, gram[kept][:, kept].sum(1) + ridge * energy),
            "it imitates the neurons that stay, all ones: the right side needs row sums over *all* columns of G",
        )
        spot(
            got,
            solve(inner + penalty, gram[kept][:, gone].sum(1) + ridge * energy),
            "it imitates only what went: the right side needs row sums over *all* columns of G",
        )
        if ridge:
            spot(got, solve(inner, right), "lambda does nothing yet: add it on both sides")
            spot(
                got,
                solve(inner + penalty, right),
                "the penalty draws the factors to 0: (m - 1)² puts lambda G_ii on the right side too",
            )
            mean = ridge * gram.diagonal().mean()
            for side in (0.0, mean):
                spot(
                    got,
                    solve(inner + mean * torch.eye(4, dtype=gram.dtype), right + side),
                    "this is one penalty for all, by the mean energy: each neuron's penalty goes by its *own* G_ii",
                )
        raise Wrong(f"not the least error for lambda = {ridge:g}: set the derivative by m_K to zero; the rest stays 0")
    accept("for any lambda the mask is the one that least squares on the tokens finds")


def check_guard(guarded_mask: Callable[[Callable[[float], Tensor], float, float], tuple[Tensor, float]]) -> None:
    """Exercise 2."""
    calls: list[float] = []

    def solve(ridge: float) -> Tensor:
        """Four factors whose spread shrinks as lambda grows."""
        if len(calls) > 100:
            raise Wrong("lambda was tried a hundred times and the loop goes on: raise it, and return when it is enough")
        calls.append(ridge)
        return 1.0 + torch.tensor([3.0, -1.0, -1.0, -1.0], dtype=torch.float64) / (1.0 + 50.0 * ridge)

    def variance(ridge: float) -> float:
        return 3.0 / (1.0 + 50.0 * ridge) ** 2

    for start, bound in ((0.01, 0.05), (0.01, 0.4), (0.01, 0.001), (1.0, 0.05)):
        calls.clear()
        answer = call(guarded_mask, solve, start, bound)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Wrong("expected two values, (mask, lambda): end with `return mask, ridge`")
        mask, ridge = answer
        check_shape("the mask", mask, (4,))
        want = start
        while variance(want) > bound:
            want *= 4.0
        if variance(float(ridge)) > bound:
            raise Wrong(f"let a variance of {variance(float(ridge)):.3g} pass where {bound:g} was allowed")
        if start == 1.0 and float(ridge) > start:
            raise Wrong("raised lambda although the first mask was calm enough: look before you raise")
        if abs(float(ridge) - want) > 1e-12 * want:
            sample = start
            while variance(sample) * 4.0 / 3.0 > bound:
                sample *= 4.0
            if abs(float(ridge) - sample) < 1e-12 * sample:
                raise Wrong("this is the variance of a sample (divided by k - 1): pass unbiased=False")
            raise Wrong(
                f"lambda ends at {float(ridge):g}, not at {want:g}: four times as large each time, no step too many"
            )
        if not alike(mask, 1.0 + torch.tensor([3.0, -1.0, -1.0, -1.0], dtype=torch.float64) / (1.0 + 50.0 * want)):
            raise Wrong("the mask does not belong to the lambda that is returned with it")
    accept("the guard lets calm masks pass and raises lambda no further than it has to")


def check_fold(fold: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 3."""
    x, w = dense_layer(6, 6)  # square on purpose: rows and columns can be confused
    kept = torch.tensor([1, 2, 5])
    mask = torch.tensor([0.5, 2.0, -1.5], dtype=torch.float64)
    linear = w.T.contiguous()  # as torch keeps it: (outputs, inputs)
    before = linear.clone()
    got = call(fold, linear, kept, mask)
    if not torch.equal(linear, before):
        raise Wrong("the layer's own weight was changed: multiply a copy, others may still use it")
    if isinstance(got, Tensor) and tuple(got.shape) == (6, 6):
        raise Wrong(
            "expected shape (6, 3), got (6, 6): nothing shrinks unless the columns of the neurons that went are cut"
        )
    if isinstance(got, Tensor) and tuple(got.shape) == (3, 6):
        raise Wrong("expected shape (6, 3), got (3, 6): torch keeps (outputs, inputs), so neurons are columns")
    check_shape("the weight", got, (6, 3))
    if not alike(x[:, kept] @ got.T, (x[:, kept] * mask) @ w[kept]):
        spot(got, linear[:, kept], "the columns are cut, but the mask is not in them yet")
        spot(got, linear[:, kept] / mask, "divided by the mask: the weight has to do what the mask did")
        raise Wrong("the small layer does not give what the masked one gave: each kept column times its own factor")
    accept("what is left is an ordinary, smaller layer, and the mask is gone at run time")


def check_fit(fit: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """Exercise 4."""
    x, w = dense_layer(7, 3)
    kept = torch.tensor([0, 1, 3, 6])
    xtx = x.T @ x
    own, outside = x @ w, torch.randn(20, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for y, what in ((own, "the layer's own output"), (outside, "a target from outside")):
        target = x.T @ y
        got = call(fit, xtx.clone(), target.clone(), w.clone(), kept, 0.2)
        check_shape("V_K", got, (4, 3))
        root = torch.diag(0.2**0.5 * x[:, kept].norm(dim=0))
        rows = torch.cat([x[:, kept], root])
        if alike(got, torch.linalg.lstsq(rows, torch.cat([y, root @ w[kept]])).solution):
            continue
        inner, eye, solve = xtx[kept][:, kept], torch.eye(4, dtype=torch.float64), torch.linalg.solve
        pull = torch.diag(0.2 * xtx.diagonal()[kept])
        spot(
            got,
            solve(inner + pull, target[kept]),
            "the ridge draws the weights to 0: it should hold them at W, so D_KK W_K belongs on the right side",
        )
        spot(got, solve(inner, target[kept]), "no ridge yet: D_KK on the left, D_KK W_K on the right")
        for even in (0.2, 0.2 * float(xtx.diagonal().mean()), 0.2 * float(inner.diagonal().mean())):
            spot(
                got,
                solve(inner + even * eye, target[kept] + even * w[kept]),
                "one penalty for all: it should be lambda times each neuron's *own* C_ii",
            )
        if what != "the layer's own output":
            spot(
                got,
                solve(inner + pull, (xtx @ w)[kept] + pull @ w[kept]),
                "right for the layer's own output, but the target that was given is not looked at: use `target`",
            )
        spot(
            got,
            solve(inner + pull, inner @ w[kept] + pull @ w[kept]),
            "it aims at what the kept neurons said alone, so nothing changes: B holds the output of all of them",
        )
        raise Wrong(f"not what least squares on the tokens finds for {what}: (C_KK + D_KK) V_K = B_K + D_KK W_K")
    accept("the fit is the one that lstsq finds on the tokens, and lambda holds it at W")


def _contributions(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))], dim=1)


def _anchored(a: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask by least squares on the tokens: below the contributions, rows sqrt(lambda G_ii) (m_i - 1)."""
    root = (ridge * a.square().sum(0)[kept]).sqrt()
    rows = torch.cat([a[:, kept], torch.diag(root)])
    return torch.linalg.lstsq(rows, torch.cat([a.sum(1), root])[:, None]).solution[:, 0]
