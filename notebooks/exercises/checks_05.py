"""Checks for the exercises of lesson 5: the order of the loop, a layer that fools a metric, a lambda, and a verdict.

Exercise 3 looks at one layer of the real model, through the statistics of lesson 2; the rest needs nothing of comp_lib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from checking import Wrong, accept, call, check_shape, dense_layer
from torch import Tensor

TIMES = 100.0  # as much as the condition loses, energy is to lose
LEAST = 0.01  # of the output's energy
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)


# --- 1: the order of the loop -----------------------------------------------------------------------------------------


def check_walk(walk: Callable[[list, Tensor, Callable], tuple[list, Tensor]]) -> None:
    """Exercise 1. A layer adds a number to the stream; its smaller form adds half of it, and notes what it saw."""
    seen: list[float] = []
    layers = [lambda h, step=step: h + step for step in (2.0, 8.0, 32.0)]
    before = list(layers)

    def smaller(layer: Callable[[Tensor], Tensor], h: Tensor) -> Callable[[Tensor], Tensor]:
        seen.append(float(h))
        return lambda stream: stream + (layer(stream) - stream) / 2

    answer = call(walk, layers, torch.zeros(()), smaller)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("expected two values, the smaller layers and the stream behind the last of them")
    if layers != before:
        raise Wrong("the list of the dense layers was changed: the dense model is still needed, make a new list")
    made, h = answer
    if len(seen) != 3 or len(made) != 3:
        raise Wrong(f"expected `smaller` to be called once for each of 3 layers, got {len(seen)} calls")
    if seen == [0.0, 2.0, 10.0]:
        raise Wrong("each layer was tuned on the *dense* stream: pass the text through the layer that was made smaller")
    if seen in ([2.0, 9.0, 37.0], [2.0, 10.0, 42.0], [1.0, 5.0, 21.0]):
        raise Wrong("`smaller` got what comes *out* of the layer: it needs what goes in")
    if seen == [0.0, 0.0, 0.0]:
        raise Wrong("the text never moved on: every layer was tuned on the stream before the first")
    if seen != [0.0, 1.0, 5.0]:
        raise Wrong(f"the layers saw {seen}, expected what the smaller layers before them give: [0, 1, 5]")
    if [float(layer(torch.zeros(()))) for layer in made] != [1.0, 4.0, 16.0]:
        raise Wrong("the list that comes back does not hold the smaller layers in their order")
    if float(h) != 21.0:
        raise Wrong(f"behind the last smaller layer the stream is 21, got {float(h):g}")
    accept("each layer was tuned on what it will really see")


# --- 2: a layer that fools the energy ---------------------------------------------------------------------------------


def check_fools_energy(fools_energy: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Exercise 2."""
    answer = call(fools_energy)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("expected two values, X (T, n) and W (n, m)")
    x, w = (value.double() if isinstance(value, Tensor) else value for value in answer)
    if not isinstance(x, Tensor) or not isinstance(w, Tensor) or x.ndim != 2 or w.ndim != 2 or x.shape[1] != len(w):
        raise Wrong("expected matrices X (T, n) and W (n, m) with the same n")
    if not 3 <= len(w) <= 50 or len(x) < len(w):
        raise Wrong(f"expected 3 to 50 neurons and no fewer tokens, got {len(w)} and {len(x)}")
    whole = float((x @ w).square().sum())
    if not np.isfinite(whole) or whole == 0.0:
        raise Wrong("the layer gives nothing at all, or no finite number")
    lost = torch.tensor([_lost_without(x, w, gone) / whole for gone in range(len(w))])
    energy = x.square().sum(0) * w.square().sum(1)
    by_energy, best = float(lost[energy.argmin()]), max(float(lost.min()), 1e-12)
    if by_energy < LEAST:
        raise Wrong(
            f"energy lets neuron {int(energy.argmin())} go, and after the refit only {by_energy:.2%} is lost: the "
            "quietest neuron has to say something that no other says"
        )
    if by_energy < TIMES * best:
        raise Wrong(
            f"energy loses {by_energy:.1%} and the least cost {best:.1%}: there has to be a neuron that the others "
            "replace, such as one of two that say the same"
        )
    accept(f"energy loses {by_energy:.1%} of the output, the least cost {best:.1e}, both after the refit")


def _lost_without(x: Tensor, w: Tensor, gone: int) -> float:
    """Least squares error when one neuron goes and all weights of the others are free."""
    kept = [i for i in range(len(w)) if i != gone]
    target = x @ w
    fitted = torch.linalg.lstsq(x[:, kept], target, driver="gelsd").solution
    return float((target - x[:, kept] @ fitted).square().sum())


# --- 3: a lambda for the real model -----------------------------------------------------------------------------------


def check_choose_ridge(choose_ridge: Callable[[Tensor, Tensor, Tensor, Tensor, tuple[float, ...]], float]) -> None:
    """Exercise 3."""
    x, w = dense_layer(9)
    other, _ = dense_layer(9)
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kept = torch.tensor([0, 2, 3, 5, 8])
    even, loud = torch.ones(9, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    loud[2] = 30.0
    for rows, sizes, words in ((20, even, "many tokens"), (8, even, "few tokens"), (8, loud, "one loud input")):
        fit, judge = x[:rows] * sizes, (other + noise) * sizes
        _compare(choose_ridge, fit.T @ fit, judge.T @ judge, w, kept, words)
    seen, held, w, kept = real_layer()
    errors = _compare(choose_ridge, seen, held, w, kept, "layer 2 of the real model")
    best = min(errors, key=errors.__getitem__)
    accept(
        f"in layer 2 of the real model λ = {best:g} loses {errors[best]:.2%} of the unseen text, "
        f"λ = {RIDGES[0]:g} {errors[RIDGES[0]]:.2%}"
    )


def real_layer() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """C (n, n) of two halves of a text, W (n, m) and the neurons that stay, in layer 2 of the embedded model."""
    from comp_lib.calibration.tokens import calibration_tokens
    from course.dense_stream import dense_problem
    from course.start import start

    model, tokenizer = start()
    ids = calibration_tokens("calibration", tokenizer, sequences=8, length=256)
    seen, held = (dense_problem(model, half, 2) for half in ids.chunk(2))
    energy = seen.xtx.diagonal() * seen.weight.square().sum(1)
    return seen.xtx, held.xtx, seen.weight, energy.topk(1120).indices.sort().values


def _compare(
    choose_ridge: Callable, seen: Tensor, held: Tensor, w: Tensor, kept: Tensor, words: str
) -> Mapping[float, float]:
    """Errors on `held` of each lambda. Raises Wrong for an answer that is not the best."""
    got = call(choose_ridge, seen.clone(), held.clone(), w.clone(), kept, RIDGES)
    fits = {ridge: _fitted(seen, w, kept, ridge) for ridge in RIDGES}
    errors = {ridge: _share(held, w, kept, fitted) for ridge, fitted in fits.items()}
    own = {ridge: _share(seen, w, kept, fitted) for ridge, fitted in fits.items()}
    best = min(errors, key=errors.__getitem__)
    if got not in RIDGES:
        known = [error for error in errors.values() if isinstance(got, float) and abs(got - error) < 1e-9]
        what = "that is an error: return the lambda that has it" if known else "return one of the lambdas"
        raise Wrong(f"expected one of {', '.join(f'{ridge:g}' for ridge in RIDGES)}, got {got!r}: {what}")
    if errors[got] > errors[best] * (1 + 1e-9):
        if got == min(own, key=own.__getitem__):
            raise Wrong(
                f"{words}: that lambda is best on the text of the fit, as the smallest always is: judge by `held`"
            )
        even = {ridge: _share(held, w, kept, _fitted(seen, w, kept, ridge, even=True)) for ridge in RIDGES}
        if got == min(even, key=even.__getitem__):
            raise Wrong(f"{words}: this is one ridge for all, by the mean: each input is held by its *own* C_ii")
        turned = {ridge: _share(seen, w, kept, _fitted(held, w, kept, ridge)) for ridge in RIDGES}
        if got == min(turned, key=turned.__getitem__):
            raise Wrong(f"{words}: the two halves have changed places: fit to `seen`, judge by `held`")
        if got == max(errors, key=errors.__getitem__):
            raise Wrong(f"{words}: that lambda has the *largest* error on the held text")
        raise Wrong(
            f"{words}: λ = {got:g} loses {errors[got]:.3%} of the held text, λ = {best:g} only {errors[best]:.3%}: fit "
            "with the ridge of lesson 4, drawn to W, and judge tr((W - V)ᵀ C (W - V)) with the C of `held`"
        )
    return errors


def _fitted(xtx: Tensor, w: Tensor, kept: Tensor, ridge: float, even: bool = False) -> Tensor:
    energy = xtx.diagonal()[kept]
    pull = ridge * torch.diag(xtx.diagonal().mean().expand(len(kept)) if even else energy)
    return torch.linalg.solve(xtx[kept][:, kept] + pull, xtx[kept] @ w + pull @ w[kept])


def _share(xtx: Tensor, w: Tensor, kept: Tensor, fitted: Tensor) -> float:
    gap = w.clone()
    gap[kept] -= fitted
    return float((gap * (xtx @ gap)).sum() / (w * (xtx @ w)).sum())


# --- 4: a verdict -----------------------------------------------------------------------------------------------------

BETTER, WORSE, SAME = "better", "worse", "cannot be told apart"


def check_verdict(verdict: Callable[[Tensor, Tensor, Callable], str]) -> None:
    """Exercise 4. Losses (seeds, windows) of two methods."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    hard = 3.0 + draw(1, 16) + 0.3 * draw(3, 1)  # windows are not equally hard, seeds not equally lucky
    small = 0.01 * draw(3, 16)
    uneven = torch.tensor([[0.30], [0.28], [-0.10]], dtype=torch.float64)
    windows = 0.35 * torch.tensor([1.0, -1.0] * 8, dtype=torch.float64) + 0.12
    cases = {
        "paired": (hard, hard + 0.05 + small, BETTER),
        "turned": (hard + 0.05 + small, hard, WORSE),
        "equal": (hard, hard + 4 * (small - small.mean(1, keepdim=True)), SAME),
        "seeds": (hard, hard + uneven + small, SAME),
        "windows": (hard, hard + windows + small, SAME),
    }
    sentences = {
        "paired": "the two differ by little, but on every window: take the differences before the interval",
        "turned": "better and worse are exchanged: a loss is better when it is smaller",
        "equal": "the differences lie on both sides of 0: that is chance",
        "seeds": "one of three seeds says the opposite: then it may be the luck of the text",
        "windows": "the windows of three seeds are not three times as many windows: average over the seeds first",
    }
    answers = {name: call(verdict, ours, theirs, interval) for name, (ours, theirs, _) in cases.items()}
    for name, got in answers.items():
        if got not in (BETTER, WORSE, SAME):
            raise Wrong(f"expected {BETTER!r}, {WORSE!r} or {SAME!r}, got {got!r}")
        wanted = cases[name][2]
        if got != wanted and {got, wanted} == {BETTER, WORSE}:
            raise Wrong(sentences["turned"])
    for name, got in answers.items():
        if got != cases[name][2]:
            raise Wrong(sentences[name])
    accept("paired, by window and by seed, and no further than the numbers go")


def interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Bounds of the mean of values (n,), by 2,000 draws with replacement."""
    check_shape("the values of an interval", values, (values.numel(),))
    random = np.random.default_rng(0)
    means = values.numpy()[random.integers(len(values), size=(2000, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
