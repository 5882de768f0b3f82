"""Checks for the exercises of lesson 4: on small random layers by brute force, and on a real model's layer.

For the small layers nothing of comp_lib is used: the right answers come from the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from course.checking import (
    Wrong,
    accept,
    alike,
    call,
    check_shape,
    contributions_of,
    dense_layer,
    real_model,
    spot,
)

Sums = dict[str, Tensor]
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
Loss = Callable[[float], tuple[float, float]]  # ridge -> shares lost: on the tokens of the fit, on others


@cache
def real_layer() -> Sums:
    """G (n, n) of layer 11 of the real model on 1,024 tokens: "plain", and "weighted" by 1 / ||h||."""
    from comp_lib.calibration.windows import calibration_tokens
    from comp_lib.importance.statistics.sums import contributions
    from course.dense_stream import dense_problem

    model, tokenizer = real_model()
    ids = calibration_tokens("calibration", tokenizer, sequences=4, length=256, judged_on="evaluation")
    grams = {}
    for name in ("plain", "weighted"):
        problem = dense_problem(model, ids, 11, weighted=name == "weighted")
        grams[name] = contributions(problem.xtx, problem.weight)
    return grams


def loud_layer(seed: int = 0) -> Sums:
    """G (30, 30), "plain" and "weighted", of a layer: two neurons shout, in nearly one direction."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(8, 25, 30)
    loud = torch.randperm(30, generator=generator)[:2]
    w = draw(30, 6)
    w[loud[1]] = w[loud[0]] + 0.3 * draw(6)
    x[:, 0, loud] = 400.0 + draw(8, 2)
    x = x.flatten(0, 1)
    scaled = x / (x @ w).norm(dim=1, keepdim=True)
    return {"plain": (x.T @ x) * (w @ w.T), "weighted": (scaled.T @ scaled) * (w @ w.T)}


def check_weighted_mask(weighted_mask: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    x, w = dense_layer(7)
    x[3] *= 6  # one loud token
    kept = torch.tensor([0, 2, 3, 6])
    removed = torch.tensor([1, 4, 5])
    a = contributions_of(x, w).T  # (T * m, n)
    outputs = w.shape[1]
    length_weights = 1 / (x @ w).square().sum(1)
    uneven_weights = torch.linspace(0.2, 3.0, len(x), dtype=torch.float64)
    plain = _best_mask(a, kept, torch.ones_like(length_weights), outputs)
    largest_move = 0.0
    for weights in (uneven_weights, length_weights):
        answer = call(weighted_mask, x.clone(), w.clone(), kept.clone(), weights.clone())
        check_shape("the mask", answer, (4,))
        expected = _best_mask(a, kept, weights, outputs)
        largest_move = max(largest_move, float((expected - plain).abs().max()))
        if alike(answer, expected):
            continue
        gram = _weighted_gram(x, w, weights)
        kept_gram = gram[kept][:, kept]
        solve = torch.linalg.solve
        spot(answer, plain, "the weights do nothing yet: each token still counts alike")
        spot(
            answer,
            _best_mask(a, kept, weights.square(), outputs),
            "the weights are squared: they multiply the *squared* error, once",
        )
        spot(
            answer,
            _best_mask(a, kept, weights.sqrt(), outputs),
            "the root of the weights is in G: G has products of two inputs, so there each weight stands once",
        )
        spot(
            answer,
            solve(kept_gram, _weighted_gram(x, w, torch.ones_like(weights))[kept].sum(1)),
            "the right side has no weights yet: the dense output is weighted too",
        )
        spot(
            answer,
            torch.ones_like(answer),
            "all ones: the kept neurons imitate themselves, but the right side needs all columns of G",
        )
        spot(
            answer,
            solve(kept_gram, gram[kept][:, removed].sum(1)),
            "it imitates only what went: the right side needs all columns of G",
        )
        error = _weighted_error(a, kept, answer, weights, outputs)
        least_error = _weighted_error(a, kept, expected, weights, outputs)
        raise Wrong(f"the weighted error left is {error:.4g}, and the least is {least_error:.4g}")
    accept(
        f"by these weights a factor differs by up to {largest_move:.2f} from the mask in which all tokens "
        "count alike. Each of the two masks is the best by its own weights"
    )


def _weighted_gram(x: Tensor, w: Tensor, weights: Tensor) -> Tensor:
    """G (n, n) of X (T, n) and W (n, m), in which the products of token t count `weights`[t] times."""
    return (x.T @ (weights[:, None] * x)) * (w @ w.T)


def _best_mask(a: Tensor, kept: Tensor, weights: Tensor, outputs: int) -> Tensor:
    """The mask (k,) by least squares on the tokens, from contributions (T m, n) and weights (T,)."""
    roots = weights.sqrt().repeat_interleave(outputs)
    return torch.linalg.lstsq(roots[:, None] * a[:, kept], (roots * a.sum(1))[:, None]).solution[:, 0]


def _weighted_error(a: Tensor, kept: Tensor, mask: Tensor, weights: Tensor, outputs: int) -> float:
    """The weighted sum of squares between the dense output and that of the kept neurons with the mask."""
    left = (a.sum(1) - a[:, kept] @ mask).square()
    return float((weights.repeat_interleave(outputs) * left).sum())


def check_trap(two_to_remove: Callable[[Tensor], Tensor]) -> None:
    """Exercise 2, on two small layers and on the real one."""
    layers = ((partial(loud_layer, 1), 20.0), (partial(loud_layer, 3), 20.0), (real_layer, 100.0))
    for layer, least_increase in layers:
        sums = layer()
        plain = sums["plain"]
        weighted = sums["weighted"]
        answer = call(two_to_remove, plain.clone())
        check_shape("the two neurons", answer, (2,))
        removed = answer.long().tolist()
        if len(set(removed)) < 2 or not all(0 <= neuron < len(plain) for neuron in removed):
            raise Wrong(f"expected two different neurons from 0 to {len(plain) - 1}, got {removed}")
        kept = torch.tensor([neuron for neuron in range(len(plain)) if neuron not in removed])
        mask = _penalised(plain, kept, 1e-2)
        ones = torch.ones_like(mask)
        error = _error(weighted, kept, ones)
        masked_error = _error(weighted, kept, mask)
        if masked_error < least_increase * error:
            order = plain.diagonal().argsort()
            if set(removed) == set(order[:2].tolist()):
                raise Wrong(
                    "these two have the least energy, nobody has to imitate them: look at the other end"
                )
            if set(removed) == set(order[-1:].tolist() + order[-3:-2].tolist()):
                raise Wrong("the first is right: the second has the second most energy, not the third")
            raise Wrong(
                f"the mask stays calm (no factor beyond {float(mask.abs().max()):.1f}): "
                f"error {error:.1%} without it, {masked_error:.1%} with it, each token alike. "
                "Whose contribution would the others have to shout for?"
            )
    accept(
        f"two neurons of {len(plain):,} go, the fit lowers the error that it sees "
        f"from {_error(plain, kept, ones):.1%} to {_error(plain, kept, mask):.1%} and raises that of each "
        f"token alike from {error:.1%} to {masked_error:,.0%}; its largest factor is {mask.abs().max():.0f}"
    )


def check_ridge(choose_ridge: Callable[[Loss, Sequence[float]], float], real: bool = True) -> None:
    """Exercise 3."""
    errors = [_errors(*_few_tokens(seed)) for seed in range(3)]
    chosen = [float(call(choose_ridge, error, list(RIDGES))) for error in errors]
    for answer, error in zip(chosen, errors, strict=True):
        best = min(RIDGES, key=lambda ridge: error(ridge)[1])
        if answer not in RIDGES:
            raise Wrong(f"expected one of the ridges {RIDGES}, got {answer:g}")
        if answer == best:
            continue
        if set(chosen) == {min(RIDGES)}:  # once it may be another mistake
            raise Wrong(
                "this is the best on the tokens of the fit itself, always the smallest: judge on the others"
            )
        raise Wrong(
            f"on the held-out tokens {answer:g} leaves {error(answer)[1]:.1%}, "
            f"and {best:g} leaves {error(best)[1]:.1%}"
        )
    if real:
        fit_inputs, heldout_inputs, evaluation_inputs, weight, kept = _real_texts()
        error = _errors(fit_inputs, heldout_inputs, weight, kept)
        answer = float(call(choose_ridge, error, list(RIDGES)))
        evaluation_error = _errors(fit_inputs, evaluation_inputs, weight, kept)
        shares = {ridge: evaluation_error(ridge)[1] for ridge in RIDGES}
        accept(
            f"layer 15 takes a ridge of {answer:g} with 512 tokens; on four windows of a third text, with no "
            f"interval, it leaves {shares[answer]:.1%}, the lesson's 0.1 leaves {shares[0.1]:.1%}, "
            f"and the best of all {min(shares.values()):.1%}"
        )


def _penalised(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The mask of lesson 4, with a pull to 1."""
    penalties = ridge * gram.diagonal()[kept]
    return torch.linalg.solve(gram[kept][:, kept] + torch.diag(penalties), gram.sum(1)[kept] + penalties)


def _error(gram: Tensor, kept: Tensor, mask: Tensor) -> float:
    """The energy that the output loses when `kept` are scaled by the mask and the others go, as a share."""
    gap = torch.ones(len(gram), dtype=gram.dtype)
    gap[kept] -= mask
    return float(gap @ gram @ gap / gram.sum())


def _few_tokens(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A layer with few tokens to fit to.

    Inputs of the fit (30, 24) and held-out ones (200, 24), weights (24, 6), the inputs that stay (16,).
    """
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(24) + 0.25 * torch.randn(24, 24, generator=generator)
    x = (torch.randn(230, 24, generator=generator) @ mixing).double()
    weight = torch.randn(24, 6, generator=generator).double()
    return x[:30], x[30:], weight, torch.arange(16)


def _errors(fit_inputs: Tensor, heldout_inputs: Tensor, weight: Tensor, kept: Tensor) -> Loss:
    """ridge -> share of the output's energy that the inputs `kept` lose when their weights are fitted.

    The shares are of the tokens of the fit, and of the held-out tokens.
    """
    xtx = fit_inputs.T @ fit_inputs

    def error(ridge: float) -> tuple[float, float]:
        penalties = ridge * xtx.diagonal()[kept]
        fitted = torch.zeros_like(weight)
        target = (xtx @ weight)[kept] + penalties[:, None] * weight[kept]
        fitted[kept] = torch.linalg.solve(xtx[kept][:, kept] + torch.diag(penalties), target)
        return _share_lost(fit_inputs, weight, fitted), _share_lost(heldout_inputs, weight, fitted)

    return cache(error)


def _share_lost(x: Tensor, weight: Tensor, fitted: Tensor) -> float:
    """The energy of X W - X V as a share of that of X W."""
    return float((x @ (weight - fitted)).square().sum() / (x @ weight).square().sum())


def _real_texts() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Layer 15 of the included model, as `_few_tokens` describes one.

    Inputs to fit to, to judge by, and of the evaluation text; W; the four fifths of the inputs that have the
    most energy.
    """
    from comp_lib.calibration.texts import load_text
    from comp_lib.calibration.windows import calibration_tokens
    from comp_lib.evaluation.windows import evaluation_tokens
    from course.dense_stream import layer_of, layer_tokens, weight_of

    model, tokenizer = real_model()
    ids = calibration_tokens("calibration", tokenizer, sequences=8, length=128, judged_on="evaluation")
    unseen = evaluation_tokens(tokenizer, load_text("evaluation"), window_length=128, window_count=4)
    inputs = []
    for text in (ids[:4], ids[4:], unseen):
        tokens = layer_tokens(model, text, 15)
        inputs.append((tokens["x"] / tokens["norms"][:, None]).double())
    weight = weight_of(layer_of(model, 15))
    energy = inputs[0].square().sum(0) * weight.square().sum(1)
    return *inputs, weight, energy.argsort()[len(weight) // 5 :].sort().values
