"""Checks for the exercises of lesson 2: each tries your answer on layers whose right answers come from brute force.

On small layers nothing of comp_lib is used: `torch.linalg.lstsq` on the tokens themselves decides. The last check also
asks the real model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from checking import Wrong, accept, call, dense_layer
from torch import Tensor

Problem = tuple[Tensor, Tensor]  # C (n, n) and W (n, m) of a dense layer


def check_fooled(fooled_layer: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Exercise 1."""
    answer = call(fooled_layer)
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not all(isinstance(part, Tensor) for part in answer):
        raise Wrong("expected two tensors: end with `return X, W`")
    x, w = (part.double() for part in answer)
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != len(w):
        raise Wrong(f"expected X (T, n) and W (n, m) of the same n, got {tuple(x.shape)} and {tuple(w.shape)}")
    if not 3 <= len(w) <= 8:
        raise Wrong(f"expected 3 to 8 neurons, got {len(w)}")
    a = torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))])  # (n, T m)
    energy = a.square().sum(1)
    cost = torch.stack([_residual(torch.cat([a[:i], a[i + 1 :]]).T, a[i]) for i in range(len(w))])
    if float((cost / energy).min()) < 1e-9:
        raise Wrong("a neuron costs nothing: the others reach it exactly (a copy?), turn it a little")
    condition, right = energy / cost, int(cost.argmin())  # squared
    highest = condition > (1 - 1e-6) * condition.max()  # two that stand in for each other alone have the same
    by_condition = int(cost.masked_fill(~highest, torch.inf).argmin())
    for name, pick in (("energy", int(energy.argmin())), ("condition", by_condition)):
        if pick == right or float(cost[pick]) < 1.05 * float(cost[right]):
            place = f"it picks neuron {pick}, at a cost of {cost[pick]:.3g}, and the least is {cost[right]:.3g}"
            raise Wrong(f"{name} is not fooled: {place}")
    accept(f"energy and condition both pick a wrong neuron; the quotient picks neuron {right}")


def check_pair(surprising_pair: Callable[[Tensor, Tensor], tuple[int, int]]) -> None:
    """Exercise 2."""
    for n, outputs in ((6, 4), (7, 4), (8, 3), (9, 4), (5, 4)):
        x, w = dense_layer(n, outputs)
        got = call(surprising_pair, torch.linalg.inv(x.T @ x), w)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("expected two numbers of neurons, (i, j)")
        i, j = sorted(int(place) for place in got)
        if i == j or not (0 <= i < n and 0 <= j < n):
            raise Wrong(f"expected two different neurons from 0 to {n - 1}, got {i} and {j}")
        pairs = list(combinations(range(n), 2))
        alone = [_left(x, w, [neuron]) for neuron in range(n)]
        joint = {pair: _left(x, w, pair) for pair in pairs}
        extra = {pair: joint[pair] - alone[pair[0]] - alone[pair[1]] for pair in pairs}
        best = max(pairs, key=extra.__getitem__)
        if extra[i, j] >= extra[best] - 1e-9 * abs(extra[best]):
            continue
        if (i, j) == max(pairs, key=joint.__getitem__):
            raise Wrong("this pair costs most together; asked is the one that costs most *beyond* its two single costs")
        if (i, j) == max(pairs, key=lambda pair: joint[pair] / (alone[pair[0]] + alone[pair[1]])):
            raise Wrong("this pair has the largest quotient; asked is the largest difference")
        if (i, j) == min(pairs, key=extra.__getitem__):
            raise Wrong("this is the pair with the smallest surprise: mind the sign of the difference")
        got_, want = f"{extra[i, j]:.3g}", f"{extra[best]:.3g}"
        raise Wrong(
            f"neurons {i} and {j} cost {got_} beyond their single costs; the pair {best} costs {want} beyond. P_gg is "
            "a block of P, its entries off the diagonal too: they say who stands in for whom"
        )
    accept("the pair whose members counted on each other most, each time")


def check_rounds(who_goes: Callable[[Tensor, Tensor, int], list[int]]) -> None:
    """Exercise 3."""
    for seed in range(4):
        x, w, remove = _twins(seed)
        n = len(w)
        got = call(who_goes, x.T @ x, w.clone(), remove)
        gone = sorted(int(place) for place in got)
        if len(set(gone)) != remove or not set(gone) <= set(range(n)):
            raise Wrong(f"expected {remove} different neurons from 0 to {n - 1}, got {gone}")
        left, best = _left(x, w, gone), _left(x, w, _greedy(x, w, remove))
        if left <= best * (1 + 1e-6):
            continue
        inverse = torch.linalg.inv(x.T @ x)
        look = (w.square().sum(1) / inverse.diagonal()).argsort()[:remove]
        energy = (x.square().sum(0) * w.square().sum(1)).argsort()[:remove]
        if gone == sorted(look.tolist()):
            raise Wrong("this is one look: both members of a pair go, each counting on the other; remove one at a time")
        if gone == sorted(energy.tolist()):
            raise Wrong("this is the order of energy: nobody asked who can stand in")
        if gone == sorted(_greedy(x, w, remove, retuned=False)):
            raise Wrong("the others were not re-tuned between removals: the cost of the next takes V, not W")
        raise Wrong(f"the error left is {left:.3g}; removing one at a time leaves {best:.3g}")
    accept("one of each pair stays to stand in for the other, and the error is that of the rounds or less")


def check_layer(layer_to_thin: Callable[[list[Problem]], int], real: bool = True) -> None:
    """Exercise 4."""
    _refuse(layer_to_thin, _made_layers())
    if real:  # the first call of the model takes a few seconds
        layers, problems = _real_layers()
        answer = _refuse(layer_to_thin, problems, margin=1.05)
        accept(f"of the layers {', '.join(map(str, layers))}, layer {layers[answer]} can best spare a fifth")


def _refuse(layer_to_thin: Callable[[list[Problem]], int], problems: list[Problem], margin: float = 1.0) -> int:
    """Raise Wrong for an answer that loses more than `margin` times the least share; else the answer."""
    got = call(layer_to_thin, [(xtx.clone(), w.clone()) for xtx, w in problems])
    if isinstance(got, bool) or not isinstance(got, int) or not 0 <= got < len(problems):
        raise Wrong(f"expected the place of a layer in the list, 0 to {len(problems) - 1}, got {got!r}")
    tables = [_facts(xtx, w) for xtx, w in problems]
    shares = [table["share"] for table in tables]
    if shares[got] <= margin * min(shares) * (1 + 1e-9):
        return got
    for name, sentence in {
        "absolute": "it loses least in absolute numbers: divide by the output's energy, tr(Wᵀ C W), and take the least",
        "energy": "its lowest *energies* are smallest: that is the loss if nobody is re-tuned",
        "condition": "its median condition is highest, which says nothing of how large the loss is",
    }.items():
        if got == min(range(len(tables)), key=lambda place: tables[place][name]):
            raise Wrong(f"layer {got} is not the one: {sentence}")
    raise Wrong(
        f"layer {got} loses {shares[got]:.2%} of its output, and layer {shares.index(min(shares))} {min(shares):.2%}"
    )


def _facts(xtx: Tensor, w: Tensor) -> dict[str, float]:
    """What a fifth of the neurons costs, and what one could mistake for it: the lowest of each is the candidate."""
    inverse, gone = torch.linalg.inv(xtx + 0.1 * torch.diag(xtx.diagonal())), len(w) // 5
    energy, output = xtx.diagonal() * w.square().sum(1), float((w * (xtx @ w)).sum())
    lowest = float((w.square().sum(1) / inverse.diagonal()).sort().values[:gone].sum())
    kappa = (1.1 * xtx.diagonal() * inverse.diagonal()).sqrt()
    least = float(energy.sort().values[:gone].sum()) / output
    return {"share": lowest / output, "absolute": lowest, "energy": least, "condition": -float(kappa.median())}


def _made_layers() -> list[Problem]:
    """Four layers of which the third is right, and each of the others what a mistake would take."""
    generator = torch.Generator().manual_seed(4)

    def layer(common: float, spread: float, loud: float) -> Problem:
        own = torch.randn(200, 20, generator=generator, dtype=torch.float64)
        shared = torch.randn(200, 2, generator=generator, dtype=torch.float64)
        mixed = own + common * shared @ torch.randn(2, 20, generator=generator, dtype=torch.float64)
        sizes = torch.logspace(0, -spread, 20, dtype=torch.float64)
        x = loud * mixed * sizes / mixed.norm(dim=0)
        return x.T @ x, torch.randn(20, 5, generator=generator, dtype=torch.float64)

    return [layer(0.3, 0.5, 0.001), layer(6.0, 0.05, 1.0), layer(2.5, 0.8, 1.0), layer(0.3, 1.3, 1.0)]


def _real_layers() -> tuple[tuple[int, ...], list[Problem]]:
    """Layers of the embedded model, and C and W of each on 512 tokens."""
    from comp_lib.calibration.tokens import calibration_tokens
    from course.dense_stream import layer_of, weight_of
    from course.metrics_on_trial import mlp_tokens
    from course.start import start

    layers = (2, 14, 20)
    model, tokenizer = start()
    ids = calibration_tokens("calibration", tokenizer, sequences=4, length=128)
    problems = []
    for layer, tokens in zip(layers, mlp_tokens(model, ids, layers), strict=True):
        x = (tokens["x"] / tokens["norms"][:, None]).double()
        problems.append((x.T @ x, weight_of(layer_of(model, layer))))
    return layers, problems


def _twins(seed: int) -> tuple[Tensor, Tensor, int]:
    """Tokens of 11 neurons: four pairs that are nearly alike, three that nobody can replace; four are to go."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    base, sizes = draw(60, 4), torch.tensor([1.0, 1.3, 1.6, 2.0], dtype=torch.float64)
    pairs = torch.cat([base, base + 0.2 * draw(60, 4)], 1) * sizes.repeat(2)
    x = torch.cat([pairs, 0.45 * draw(60, 3)], 1)
    w = torch.nn.functional.normalize(draw(11, 5), dim=1)
    order = torch.randperm(11, generator=generator)
    return x[:, order], w, 4


def _greedy(x: Tensor, w: Tensor, remove: int, retuned: bool = True) -> list[int]:
    """Who goes when the cheapest goes, one at a time; without re-tuning in between, a known mistake."""
    stay = list(range(len(w)))
    for _ in range(remove):
        inverse = torch.linalg.inv(x[:, stay].T @ x[:, stay])
        fitted = torch.linalg.lstsq(x[:, stay], x @ w).solution if retuned else w[stay]
        stay.pop(int((fitted.square().sum(1) / inverse.diagonal()).argmin()))
    return [place for place in range(len(w)) if place not in stay]


def _left(x: Tensor, w: Tensor, gone: list[int] | tuple[int, ...]) -> float:
    """||X W - X V||² for the best V without the inputs `gone`."""
    return float(_residual(x[:, [place for place in range(len(w)) if place not in gone]], x @ w))


def _residual(columns: Tensor, target: Tensor) -> Tensor:
    """||target - columns c||² for the best c."""
    target = target.reshape(len(columns), -1)
    return (target - columns @ torch.linalg.lstsq(columns, target).solution).square().sum()
