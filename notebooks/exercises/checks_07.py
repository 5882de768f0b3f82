"""Checks for the exercises of lesson 7: two on small random layers, one on a layer of the real model.

None of comp_lib's methods is used here. The real model is loaded once, and only one of its layers is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from course.checking import Wrong, accept, call, check_number, check_shape, dense_layer, real_model

KINDS = ("prose", "encyclopedia", "code", "dialogue", "reference", "questions", "mathematics", "structured")
LENGTH = 128  # tokens of a sequence
SEQUENCES = 24  # of the text that is fitted to
WINDOWS = 8  # of the text that judges
RIDGE = 0.3  # of exercise 3
# (layer, kind of text) -> errors of COMP and of FLAP, window by window
Errors = Callable[[int, str], tuple[np.ndarray, np.ndarray]]


def check_chance(chance_to_show: Callable[[np.ndarray, np.ndarray, float, int], float]) -> None:
    """Exercise 1."""
    ours, theirs = _losses()
    size = 0.05
    chances = {}
    for windows in (8, 16, 32):
        right = _chance(ours, theirs, size, windows)
        chances[windows] = right
        answer = call(chance_to_show, ours.copy(), theirs.copy(), size, windows)
        check_number("the chance", answer)
        if not 0 <= answer <= 1:
            raise Wrong(
                f"expected a share of the trials, from 0 to 1, got {answer:g}: divide by their number"
            )
        if abs(answer - right) < 0.04:
            continue
        measured = float((ours - theirs).mean())
        mistakes = {
            "the other way round: this is how often the interval holds 0": 1 - right,
            "the pairs are broken: draw places of windows, and take both losses there": _chance(
                ours, theirs, size, windows, paired=False
            ),
            "these trials have the difference that was measured: shift it, so that the true one is `size`": (
                _chance(ours, theirs, measured, windows)
            ),
            "`size` came on top of the measured difference: take its mean away first": (
                _chance(ours, theirs, measured + size, windows)
            ),
            "this asks where single windows lie: a mean of many varies less, by the root of their number": (
                _chance(ours, theirs, size, windows, of_mean=False)
            ),
            f"each trial has {len(ours)} windows: draw as many as are asked for": (
                _chance(ours, theirs, size, len(ours))
            ),
            "1.96 is for many windows: with few the interval is wider, by Student's t": (
                _chance(ours, theirs, size, windows, factor=1.96)
            ),
        }
        nearest = min(mistakes, key=lambda sentence: abs(mistakes[sentence] - answer))
        if abs(mistakes[nearest] - answer) < 0.03:
            raise Wrong(nearest)
        raise Wrong(f"with {windows} windows it shows in {right:.0%} of the trials, got {answer:.0%}")
    in_words = ", ".join(f"{chance:.0%} with {windows}" for windows, chance in chances.items())
    accept(
        f"a true difference of {size} nats shows in {in_words} windows. So a 'no difference found' from 8 "
        "windows says little of it"
    )


def _losses() -> tuple[np.ndarray, np.ndarray]:
    """Losses (24,) of two models in the same windows: -0.155 apart, by 0.08 from window to window."""
    places = np.arange(24)
    bell = stats.norm.ppf((places + 0.5) / 24)
    bell /= bell.std(ddof=1)
    texts, noise = bell[places * 5 % 24], bell[places * 7 % 24]
    theirs = 3.0 + 0.12 * texts  # how hard each window is, for every model
    return theirs - 0.155 + 0.08 * noise, theirs


def _chance(
    ours: np.ndarray,
    theirs: np.ndarray,
    size: float,
    windows: int,
    factor: float | None = None,
    of_mean: bool = True,
    paired: bool = True,
) -> float:
    """How often the interval of the mean difference leaves out 0, in windows where it is truly `size`."""
    random = np.random.default_rng(2)
    places = random.integers(len(ours), size=(2, 8000, windows))
    gap = ours[places[0]] - theirs[places[0 if paired else 1]]
    gap += size - float((ours - theirs).mean())
    half = gap.std(1, ddof=1) * (stats.t.ppf(0.975, windows - 1) if factor is None else factor)
    if of_mean:
        half = half / windows**0.5
    return float((np.abs(gap.mean(1)) > half).mean())


def check_fool(fool_wanda: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
    """Exercise 2."""
    x, w = dense_layer(8, 5)
    twins = [2, 5]
    first, second = twins
    other_neurons = [i for i in range(8) if i not in twins]
    x[:, first] /= 10  # no neuron of high score yet
    x[:, second] = x[:, first] / 2  # twins, but for their size
    old_scores = _wanda(x, w)
    answer = call(fool_wanda, x.clone(), w.clone(), first, second)
    check_shape("the weights", answer, (8, 5))
    if torch.equal(answer, w):
        raise Wrong("nothing has changed yet: add to the row of one twin, and take it back at the other")
    if not torch.allclose(x @ answer, x @ w, rtol=1e-6, atol=1e-6 * float((x @ w).abs().max())):
        raise Wrong(
            "the layer's output has changed: x_other = x_one / 2 here, so what one twin adds "
            "the other takes back"
        )
    scores = _wanda(x, answer)
    best = int(scores.argmax())
    if best not in twins:
        relative = scores / scores.max()
        raise Wrong(
            f"Wanda-sp still ranks neuron {best} highest, and the twins at "
            f"{relative[first]:.2f} and {relative[second]:.2f} of its score: add more"
        )
    if scores[twins].min() <= old_scores[other_neurons].max():
        raise Wrong("one twin leads, but the other does not yet: both should stand above all other neurons")
    price = _prices(x.T @ x, answer, 0.1)
    accept(
        "Wanda-sp now keeps two neurons of which one is not needed. "
        "Without a ridge COMP's price of either is 0; with the ridge 0.1 it is "
        f"{price[first]:.3g} and {price[second]:.3g}, "
        f"and the largest other one {float(price[other_neurons].max()):.3g}"
    )


# (layer, kind) -> mean of COMP's error minus FLAP's; 0.1 where it is not listed. The answer is layer 3 with
# dialogue.
MADE_UP = {
    (0, "prose"): -0.01,
    (2, "prose"): -0.1,
    (2, "code"): 0.01,
    (2, "dialogue"): -0.1,
    (3, "prose"): -0.1,
    (3, "code"): -0.1,
}


def made_up(layer: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors (8,) of COMP and of FLAP: windows differ more than methods."""
    theirs = 0.5 + 0.4 * np.cos(np.arange(WINDOWS))
    ours = theirs + MADE_UP.get((layer, kind), 0.1) + 0.05 * np.linspace(-1, 1, WINDOWS)
    return ours, theirs


def check_losing_case(losing_case: Callable[[Errors, Sequence[int], Sequence[str]], tuple[int, str]]) -> None:
    """Exercise 3: on made-up errors, then on the real model, some ten seconds."""
    for layers, kinds in ((range(4), ("code", "dialogue")), (range(2, 4), ("dialogue", "code"))):
        answer = call(losing_case, made_up, layers, kinds)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("expected two values, (layer, kind): end with `return layer, kind`")
        layer, kind = answer
        if layer == 0:
            raise Wrong(
                "in layer 0 COMP's mean is lower on prose, but the interval holds 0: no difference is found"
            )
        if layer == 1:
            raise Wrong("in layer 1 COMP loses on prose too: it has to win where it calibrated")
        if (layer, kind) == (2, "code"):
            raise Wrong(
                "in layer 2 COMP's mean is higher on code, but the interval holds 0: no difference is found"
            )
        if (layer, kind) != (3, "dialogue"):
            raise Wrong(f"with {kind} COMP does not lose in layer {layer}: it has to lose on the other kind")
    layer, kind = call(losing_case, layer_errors, range(30), KINDS[1:])
    for judging_kind, sign in (("prose", -1), (kind, 1)):
        comp_errors, flap_errors = layer_errors(layer, judging_kind)
        gap = sign * (comp_errors - flap_errors)
        if gap.mean() <= 2.365 * gap.std(ddof=1) / len(gap) ** 0.5:  # Student's t, 7 degrees of freedom
            raise Wrong(f"in layer {layer} of the real model no such difference is found on {judging_kind}")
    accept(f"in layer {layer} the refit to prose wins on prose and loses on {kind}")


def _prices(xtx: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """COMP's price of each neuron (n,), for C (n, n) and W (n, d)."""
    return weight.square().sum(1) / torch.linalg.inv(xtx + torch.diag(ridge * xtx.diagonal())).diagonal()


def layer_errors(layer: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of down_proj without a third of its neurons: COMP's and FLAP's, (WINDOWS,) each."""
    x = inputs(layer, "calibration:prose", SEQUENCES)
    windows = inputs(layer, f"evaluation:{kind}", WINDOWS).view(WINDOWS, LENGTH, -1)
    weight = weight_of(layer)
    xtx = x.T @ x
    width = 2 * len(weight) // 3
    penalties = RIDGE * xtx.diagonal()
    kept = _prices(xtx, weight, RIDGE).topk(width).indices
    penalised_xtx = xtx[kept][:, kept] + torch.diag(penalties[kept])
    target = (xtx @ weight)[kept] + penalties[kept, None] * weight[kept]
    comp_weight = torch.zeros_like(weight)
    comp_weight[kept] = torch.linalg.solve(penalised_xtx, target)
    order = (x.var(0) * weight.square().sum(1)).argsort(descending=True)
    removed = order[width:]
    flap_weight = weight.clone()
    flap_weight[removed] = 0.0
    bias = x.mean(0)[removed] @ weight[removed]

    def errors(fitted: Tensor, offset: Tensor | float = 0.0) -> np.ndarray:
        lost = windows @ (weight - fitted) - offset
        return (lost.square().sum((1, 2)) / (windows @ weight).square().sum((1, 2))).numpy()

    return errors(comp_weight), errors(flap_weight, bias)


def weight_of(layer: int) -> Tensor:
    """W (n, d) of down_proj."""
    model, _ = real_model()
    return model.model.layers[layer].mlp.down_proj.weight.detach().T.double()


@cache
@torch.no_grad()
def inputs(layer: int, text: str, sequences: int) -> Tensor:
    """What down_proj of a layer reads (T, n), for the first sequences of a text that ships."""
    from comp_lib.calibration.texts import load_text

    model, tokenizer = real_model()
    tokens = tokenizer(load_text(text)[:200_000])["input_ids"]
    ids = torch.tensor(tokens[: sequences * LENGTH]).view(-1, LENGTH)
    inputs_of_batches: list[Tensor] = []

    class Enough(Exception):
        """No layer after this one is needed."""

    def watch(module, args):
        inputs_of_batches.append(args[0].flatten(0, -2).double())
        raise Enough

    hook = model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(watch)
    try:
        for rows in ids.split(8):
            try:
                model.model(input_ids=rows, use_cache=False)
            except Enough:
                continue
    finally:
        hook.remove()
    return torch.cat(inputs_of_batches)


def _wanda(x: Tensor, w: Tensor) -> Tensor:
    """Wanda-sp's score of each neuron (n,)."""
    return w.abs().sum(1) * x.norm(dim=0)
