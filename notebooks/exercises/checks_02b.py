"""Checks for the exercises of lesson 2b: on made-up layers, on which a mistake never gives the right answer.

The last check also asks the real model, on text that the answer has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from checking import Wrong, accept, call, check_shape, real_model
from torch import Tensor

RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
Loss = Callable[[float], tuple[float, float]]  # ridge -> shares lost: on the tokens of the fit, on others


def check_units(fooling_units: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    for seed in range(3):
        xtx, weight = _layer(seed)
        scale = call(fooling_units, xtx.clone(), weight.clone())
        check_shape("the factors", scale, (len(weight),))
        if not torch.isfinite(scale).all() or float(scale.min()) <= 0:
            raise Wrong("expected positive factors: a unit is never zero or negative")
        norms = xtx.diagonal().sqrt()
        energy = xtx.diagonal() * weight.square().sum(1)  # the same in all units
        activation = norms * scale.to(norms)
        order = activation.argsort()
        most_energy_first = energy.argsort(descending=True)
        if torch.equal(order, most_energy_first):
            continue
        if float(activation.max() / activation.min()) < 1 + 1e-9:
            raise Wrong(
                "all activations are equal now, and the metric picks at random: "
                "most energy needs least activation"
            )
        if torch.equal(order, energy.argsort()):
            raise Wrong("now activation agrees with energy: you have mended it; turn the order round")
        if torch.equal(order, norms.argsort(descending=True)):
            raise Wrong("activation's own order is turned round, not that of energy: its weights count, too")
        raise Wrong(
            "the first to go by activation should be the neuron of most energy, "
            "the next the second, and so on"
        )
    accept("the layer is the same, and activation would remove its most valuable neurons first")


def check_ridge(choose_ridge: Callable[[Loss, Sequence[float]], float], real: bool = True) -> None:
    """Exercise 2."""
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
        fit_inputs, heldout_inputs, evaluation_inputs, weight, kept = _real_layer()
        error = _errors(fit_inputs, heldout_inputs, weight, kept)
        answer = float(call(choose_ridge, error, list(RIDGES)))
        evaluation_error = _errors(fit_inputs, evaluation_inputs, weight, kept)
        shares = {ridge: evaluation_error(ridge)[1] for ridge in RIDGES}
        accept(
            f"layer 15 takes a ridge of {answer:g} with 512 tokens; on four windows of a third text, with no "
            f"interval, it leaves {shares[answer]:.1%}, the lesson's 0.1 leaves {shares[0.1]:.1%}, "
            f"and the best of all {min(shares.values()):.1%}"
        )


def _layer(seed: int, n: int = 9) -> tuple[Tensor, Tensor]:
    """C (n, n) and W (n, 4) in which the orders of activation and energy differ."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(40, n) * torch.linspace(1, 3, n, dtype=torch.float64)
    weight = draw(n, 4) * torch.linspace(4, 1, n)[:, None]
    return x.T @ x, weight


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


def _real_layer() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Layer 15 of the included model, as `_few_tokens` describes one.

    Inputs to fit to, to judge by, and of the evaluation text; W; the four fifths of the inputs that have the
    most energy.
    """
    from comp_lib.calibration.texts import load_text
    from comp_lib.calibration.windows import calibration_tokens, evaluation_tokens
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
