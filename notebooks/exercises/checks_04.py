"""Checks for the exercises of lesson 4: on small random layers with brute force, and on a layer of the real model.

For the small layers nothing of comp_lib is used: the right answers come from the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from checking import Wrong, accept, alike, call, check_shape, dense_layer, real_model, spot
from torch import Tensor

Sums = dict[str, Tensor]


@cache
def real_layer() -> Sums:
    """G (n, n) of layer 11 of the real model on 1,024 tokens: "plain", and "weighted" by 1 / ||h||."""
    from comp_lib.calibration.windows import calibration_tokens
    from comp_lib.statistics.gram import contributions
    from course.dense_stream import dense_problem

    model, tokenizer = real_model()
    ids = calibration_tokens("calibration", tokenizer, sequences=4, length=256, evaluated="evaluation")
    layers = {
        name: dense_problem(model, ids, 11, weighted=name == "weighted") for name in ("plain", "weighted")
    }
    return {name: contributions(layer.xtx, layer.weight) for name, layer in layers.items()}


def loud_layer(seed: int = 0) -> Sums:
    """G (30, 30), "plain" and "weighted", of a layer: two neurons shout, in nearly one direction."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    x, loud, w = draw(8, 25, 30), torch.randperm(30, generator=generator)[:2], draw(30, 6)
    w[loud[1]] = w[loud[0]] + 0.3 * draw(6)
    x[:, 0, loud] = 400.0 + draw(8, 2)
    x = x.flatten(0, 1)
    scaled = x / (x @ w).norm(dim=1, keepdim=True)
    return {"plain": (x.T @ x) * (w @ w.T), "weighted": (scaled.T @ scaled) * (w @ w.T)}


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
        raise Wrong(
            f"not the least error for lambda = {ridge:g}: set the derivative by m_K to zero; the rest stays 0"
        )
    accept("for any lambda the mask is the one that least squares on the tokens finds")


def check_trap(two_to_remove: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2, on two small layers and on the real one."""
    for make, worse in ((partial(loud_layer, 1), 20.0), (partial(loud_layer, 3), 20.0), (real_layer, 100.0)):
        layer = make()
        plain, weighted = layer["plain"], layer["weighted"]
        gone = call(two_to_remove, plain.clone())
        check_shape("the two neurons", gone, (2,))
        gone = gone.long().tolist()
        if len(set(gone)) < 2 or not all(0 <= neuron < len(plain) for neuron in gone):
            raise Wrong(f"expected two different neurons from 0 to {len(plain) - 1}, got {gone}")
        kept = torch.tensor([neuron for neuron in range(len(plain)) if neuron not in gone])
        mask = _penalised(plain, kept, 1e-2)
        before, after = (_error(weighted, kept, values) for values in (torch.ones_like(mask), mask))
        if after < worse * before:
            order = plain.diagonal().argsort()
            if set(gone) == set(order[:2].tolist()):
                raise Wrong(
                    "these two have the least energy, nobody has to imitate them: look at the other end"
                )
            if set(gone) == set(order[-1:].tolist() + order[-3:-2].tolist()):
                raise Wrong("the first is right: the second has the second most energy, not the third")
            raise Wrong(
                f"the mask stays calm (no factor beyond {float(mask.abs().max()):.1f}): error {before:.1%} without it, "
                f"{after:.1%} with it, each token alike. Whose contribution would the others have to shout for?"
            )
        own = [_error(plain, kept, values) for values in (torch.ones_like(mask), mask)]
    accept(
        f"two neurons of {len(plain):,} go, the fit lowers the error that it sees from {own[0]:.1%} to {own[1]:.1%} "
        f"and raises that of each token alike from {before:.1%} to {after:,.0%}; its largest factor is "
        f"{mask.abs().max():.0f}"
    )


def _penalised(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask of exercise 1."""
    held = ridge * gram.diagonal()[kept]
    return torch.linalg.solve(gram[kept][:, kept] + torch.diag(held), gram.sum(1)[kept] + held)


def _error(gram: Tensor, kept: Tensor, mask: Tensor) -> float:
    gap = torch.ones(len(gram), dtype=gram.dtype)
    gap[kept] -= mask
    return float(gap @ gram @ gap / gram.sum())


def _contributions(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))], dim=1)


def _anchored(a: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask by least squares on the tokens: below the contributions, rows sqrt(lambda G_ii) (m_i - 1)."""
    root = (ridge * a.square().sum(0)[kept]).sqrt()
    rows = torch.cat([a[:, kept], torch.diag(root)])
    return torch.linalg.lstsq(rows, torch.cat([a.sum(1), root])[:, None]).solution[:, 0]
