"""Checks for the exercises of lesson 7: two on small random layers, one on a layer of the real model.

Nothing of comp_lib's methods is used here; the real model is loaded once, and only one of its layers is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from checking import Wrong, accept, call, check_shape, dense_layer, real_model
from torch import Tensor

KINDS = ("prose", "encyclopedia", "code", "dialogue", "reference", "questions", "mathematics", "structured")
LENGTH, SEQUENCES, WINDOWS = 128, 24, 8
RIDGE = 0.3  # of exercise 3
Errors = Callable[[int, str], tuple[np.ndarray, np.ndarray]]


def check_interval(paired_interval: Callable[[np.ndarray, np.ndarray], tuple[float, float]]) -> None:
    """Exercise 1."""
    random = np.random.default_rng(5)
    texts = random.normal(3.0, 1.0, 40)  # how hard each window is, for every model
    ours, theirs = texts + random.normal(0.10, 0.05, 40), texts + random.normal(0.16, 0.05, 40)
    got = call(paired_interval, ours.copy(), theirs.copy())
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Wrong("expected two numbers, (low, high): end with `return low, high`")
    low, high = map(float, got)
    if not low < high:
        raise Wrong(f"expected low < high, got {low:.3f} and {high:.3f}: the lower end comes first")
    gap = ours - theirs
    middle, error = gap.mean(), gap.std() / len(gap) ** 0.5
    width = (high - low) / (2 * 1.96 * error)  # 1 for a 95% interval of the mean
    apart = (ours.var() + theirs.var()) ** 0.5 / gap.std()
    if abs(width - apart) < 0.25 * apart:
        raise Wrong(
            "it is as wide as if the two had read different texts: draw places of windows once, and use them for both"
        )
    if abs(width - len(gap) ** 0.5) < 0.5 * len(gap) ** 0.5:
        raise Wrong(
            "this is where single windows lie: the interval is that of the *mean* of windows drawn anew"
        )
    if abs(width - 1.645 / 1.96) < 0.05:
        raise Wrong("this is a 90% interval: cut off 2.5% at each end, not 5%")
    if abs(width - 1) > 0.1:
        raise Wrong(
            f"it is {width:.2f} times as wide as it should be: 2.5% and 97.5% of the means of many draws"
        )
    if low < -middle < high and not low < middle < high:
        raise Wrong(
            "the sign is turned: it should be ours minus theirs, so that below 0 means that we lose less"
        )
    if not low < middle < high:
        raise Wrong(f"the interval, {low:.3f} to {high:.3f}, does not hold the mean difference, {middle:.3f}")
    if abs((low + high) / 2 - middle) > 0.2 * error:
        raise Wrong("the interval is shifted: cut off 2.5% at each end")
    accept("draw windows, not models: what makes a text hard for both cancels")


def check_fool(fool_wanda: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
    """Exercise 2."""
    x, w = dense_layer(8, 5)
    one, other = 2, 5
    x[:, one] /= 10  # no neuron of high score yet
    x[:, other] = x[:, one] / 2  # twins, but for their size
    before = _wanda(x, w)
    got = call(fool_wanda, x.clone(), w.clone(), one, other)
    check_shape("the weights", got, (8, 5))
    if torch.equal(got, w):
        raise Wrong("nothing has changed yet: add to the row of one twin, and take it back at the other")
    if not torch.allclose(x @ got, x @ w, rtol=1e-6, atol=1e-6 * float((x @ w).abs().max())):
        raise Wrong(
            "the layer's output has changed: x_other = x_one / 2 here, so what one twin adds the other takes back"
        )
    after = _wanda(x, got)
    if int(after.argmax()) not in (one, other):
        raise Wrong(
            f"Wanda-sp still ranks neuron {int(after.argmax())} highest, and the twins at "
            f"{after[one] / after.max():.2f} and {after[other] / after.max():.2f} of its score: add more"
        )
    if min(after[one], after[other]) <= before[[i for i in range(8) if i not in (one, other)]].max():
        raise Wrong("one twin leads, but the other does not yet: both should stand above all other neurons")
    price = _prices(x.T @ x, got, 0.1)
    most = max(float(price[i]) for i in range(8) if i not in (one, other))
    accept(
        "Wanda-sp now keeps two neurons of which one is not needed. Without a ridge COMP's price of either is 0; with "
        f"the ridge 0.1 it is {price[one]:.3g} and {price[other]:.3g}, and the largest other one {most:.3g}"
    )


# (layer, kind) -> mean of COMP's error minus FLAP's, 0.1 where nothing is said: layer 3 with dialogue is the answer
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
    return theirs + MADE_UP.get((layer, kind), 0.1) + 0.05 * np.linspace(-1, 1, WINDOWS), theirs


def check_losing_case(losing_case: Callable[[Errors, Sequence[int], Sequence[str]], tuple[int, str]]) -> None:
    """Exercise 3: on made-up errors, then on the real model, some ten seconds."""
    for layers, kinds in ((range(4), ("code", "dialogue")), (range(2, 4), ("dialogue", "code"))):
        got = call(losing_case, made_up, layers, kinds)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("expected two values, (layer, kind): end with `return layer, kind`")
        if got[0] == 0:
            raise Wrong(
                "in layer 0 COMP's mean is lower on prose, but the interval holds 0: no difference is found"
            )
        if got[0] == 1:
            raise Wrong("in layer 1 COMP loses on prose too: it has to win where it calibrated")
        if tuple(got) == (2, "code"):
            raise Wrong(
                "in layer 2 COMP's mean is higher on code, but the interval holds 0: no difference is found"
            )
        if tuple(got) != (3, "dialogue"):
            raise Wrong(
                f"with {got[1]} COMP does not lose in layer {got[0]}: it has to lose on the other kind"
            )
    layer, kind = call(losing_case, layer_errors, range(30), KINDS[1:])
    for judges, sign in (("prose", -1), (kind, 1)):
        comp, bias = layer_errors(layer, judges)
        gap = sign * (comp - bias)
        if gap.mean() <= 2.365 * gap.std(ddof=1) / len(gap) ** 0.5:  # Student's t, 7 degrees of freedom
            raise Wrong(f"in layer {layer} of the real model no such difference is found on {judges}")
    accept(f"in layer {layer} the refit to prose wins on prose and loses on {kind}")


def _prices(gram: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """COMP's price of each neuron (n,), for C (n, n) and W (n, d)."""
    return weight.square().sum(1) / torch.linalg.inv(gram + torch.diag(ridge * gram.diagonal())).diagonal()


def layer_errors(layer: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of down_proj, window by window (WINDOWS,), a third of its neurons gone: COMP's, FLAP's."""
    seen = inputs(layer, "calibration:prose", SEQUENCES)
    windows = inputs(layer, f"evaluation:{kind}", WINDOWS).view(WINDOWS, LENGTH, -1)
    weight = weight_of(layer)
    gram, keep = seen.T @ seen, 2 * len(weight) // 3
    pull = RIDGE * gram.diagonal()
    chosen = _prices(gram, weight, RIDGE).topk(keep).indices
    inner = gram[chosen][:, chosen] + torch.diag(pull[chosen])
    comp = torch.zeros_like(weight)
    comp[chosen] = torch.linalg.solve(inner, (gram @ weight)[chosen] + pull[chosen, None] * weight[chosen])
    order = (seen.var(0) * weight.square().sum(1)).argsort(descending=True)
    flap = weight.clone()
    flap[order[keep:]] = 0.0
    bias = seen.mean(0)[order[keep:]] @ weight[order[keep:]]

    def errors(fitted: Tensor, offset: Tensor | float = 0.0) -> np.ndarray:
        wrong = windows @ (weight - fitted) - offset
        return (wrong.square().sum((1, 2)) / (windows @ weight).square().sum((1, 2))).numpy()

    return errors(comp), errors(flap, bias)


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
    ids = torch.tensor(tokenizer(load_text(text)[:200_000])["input_ids"][: sequences * LENGTH]).view(
        -1, LENGTH
    )
    found: list[Tensor] = []

    class Enough(Exception):
        pass

    def watch(module, args):
        found.append(args[0].flatten(0, -2).double())
        raise Enough  # no layer after this one is needed

    hook = model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(watch)
    try:
        for rows in ids.split(8):
            try:
                model.model(input_ids=rows, use_cache=False)
            except Enough:
                continue
    finally:
        hook.remove()
    return torch.cat(found)


def _wanda(x: Tensor, w: Tensor) -> Tensor:
    return w.abs().sum(1) * x.norm(dim=0)
