"""Checks for the exercises of lesson 5: the order of the loop, a layer that fools a metric, the cut, and a verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from checking import Wrong, accept, call, check_shape
from torch import Tensor

TIMES = 100.0  # as much as the condition loses, energy is to lose
LEAST = 0.01  # of the output's energy


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
        raise Wrong("expected two values, the smaller layers and the stream after the last of them")
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
        raise Wrong(f"after the last smaller layer the stream is 21, got {float(h):g}")
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


# --- 3: the cut -------------------------------------------------------------------------------------------------------


def check_cut(cut: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    """Exercise 3. An MLP of 8 neurons on a stream of 5 numbers; 3 neurons stay."""
    generator = torch.Generator().manual_seed(2)
    gate, up, x = (torch.randn(*size, generator=generator) for size in ((8, 5), (8, 5), (20, 5)))
    kept, fitted = torch.tensor([0, 2, 4]), torch.randn(3, 5, generator=generator)
    answer = call(cut, gate.clone(), up.clone(), kept, fitted.clone())
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise Wrong("expected three matrices: gate, up and down")
    for name, got in zip(("gate", "up"), answer, strict=False):
        if got.shape == (8, 5):
            raise Wrong(f"`{name}` still has all 8 neurons: it loses the same neurons as the others")
        if got.shape == (8, 3):
            raise Wrong(f"`{name}` lost columns, which belong to the stream: a neuron is a *row* of `{name}`")
        check_shape(f"`{name}`", got, (3, 5))
    if answer[2].shape == (3, 5):
        raise Wrong("`down` is (inputs, outputs): PyTorch stores (outputs, inputs), so turn V round")
    check_shape("`down`", answer[2], (5, 3))

    def mlp(gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    all_weights = torch.zeros(5, 8)
    all_weights[:, kept] = fitted.T
    if not torch.allclose(mlp(*answer), mlp(gate, up, all_weights), atol=1e-5):
        raise Wrong("the smaller MLP gives something else: take the neurons `kept`, in their order, in all three")
    accept("the smaller MLP gives what the masked one gives, with new weights")


# --- 4: a verdict -----------------------------------------------------------------------------------------------------

BETTER, WORSE, SAME = "better", "worse", "no difference found"


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
