"""Checks for the exercises of lesson 1: each runs your function on small random streams and compares with brute force.

Nothing of comp_lib is used here: the right answers are computed token by token, layer by layer, or by scipy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from checking import Wrong, accept, alike, call, check_shape, spot
from scipy.stats import spearmanr
from torch import Tensor, nn


def check_block_influence(block_influence: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1."""
    before, after = _turned()
    got = call(block_influence, before, after)
    if not isinstance(got, Tensor | float):
        raise Wrong(f"expected one number for the layer, got {type(got).__name__}")
    got = torch.as_tensor(got, dtype=before.dtype)
    if got.shape != ():
        raise Wrong(f"expected one number for the layer, got shape {tuple(got.shape)}: average over all tokens")
    cosines = torch.tensor([_cosine(b, a) for b, a in zip(before.flatten(0, 1), after.flatten(0, 1), strict=True)])
    if not alike(got, 1 - cosines.mean()):
        spot(got, cosines.mean(), "this is the mean cosine: influence is 1 minus it, 0 for a layer that turns nothing")
        spot(
            got,
            1 - _cosine(before.flatten(), after.flatten()),
            "this is the cosine of all tokens as one long vector: the largest token speaks for all",
        )
        spot(
            got,
            1 - _cosine(before.mean((0, 1)), after.mean((0, 1))),
            "this is the cosine of the mean states: average the tokens' cosines, not the tokens",
        )
        rows = [1 - _cosine(b.flatten(), a.flatten()) for b, a in zip(before, after, strict=True)]
        spot(got, torch.stack(rows).mean(), "this has one cosine for each sequence: take one for each token")
        spot(got, (1 - cosines).sum(), "this is the sum over the tokens: take their mean")
        raise Wrong("it is not 1 - mean_t cos(h_t, h'_t): the cosine runs over the last dimension, one for each token")
    if not alike(torch.as_tensor(call(block_influence, before, 3 * before)), torch.tensor(0.0)):
        raise Wrong("a layer that only scales the stream should have influence 0: divide by both norms")
    accept("each token has one vote, however large its norm")


def check_loss_increase(loss_increase: Callable[[list[Callable], Tensor, Callable], Tensor]) -> None:
    """Exercise 2."""
    layers, hidden, loss = _stack()
    got = call(loss_increase, layers, hidden.clone(), loss)
    check_shape("the increases", got, (len(layers),))
    whole = loss(_run(layers, hidden))
    left = torch.stack([loss(_run(layers[:i] + layers[i + 1 :], hidden)) for i in range(len(layers))])
    if not alike(got, left - whole):
        spot(got, left, "these are the losses without each layer: subtract the loss with all of them")
        spot(got, whole - left, "the sign is the wrong way round: a layer that is missed has a positive increase")
        tails = torch.stack([loss(_run(layers[i + 1 :], hidden)) for i in range(len(layers))]) - whole
        spot(got, tails, "the layers before the one left out are missing too: skip one layer at a time")
        heads = torch.stack([loss(_run(layers[:i], hidden)) for i in range(len(layers))]) - whole
        spot(got, heads, "the layers after the one left out are missing too: the stream goes on to the next")
        zeroed = [loss(_run(layers[i + 1 :], torch.zeros_like(hidden))) - whole for i in range(len(layers))]
        spot(got, torch.stack(zeroed), "a skipped layer lets the stream pass as it is: yours sets it to zero")
        raise Wrong("an entry is not loss(all layers but this one) - loss(all layers)")
    layers, hidden, loss = _stack()
    calls = [0]

    def counted(layer: Callable) -> Callable:
        def call(stream: Tensor) -> Tensor:
            calls[0] += 1
            return layer(stream)

        return call

    call(loss_increase, [counted(layer) for layer in layers], hidden, loss)
    needed = len(layers) * (len(layers) + 1) // 2
    thrift = "the fewest possible" if calls[0] <= needed else f"{needed} would do if the prefixes were shared"
    accept(f"this is what removal really costs, and you called a layer {calls[0]} times ({thrift})")


def check_greedy_order(greedy_order: Callable[[Callable, int, int], list[int]]) -> None:
    """Exercise 3: layers 1 and 4 can stand in for each other, so that both seem idle and only one is."""
    alone = [3.0, 0.1, 0.5, 2.0, 0.2, 0.4]

    def loss(present: list[int]) -> float:
        present = list(present)
        if present != sorted(set(present)):
            raise Wrong(f"a model's layers run in ascending order, each once, but `loss` was asked for {present}")
        gone = set(range(len(alone))) - set(present)
        return 1.0 + sum(alone[layer] for layer in gone) + (5.0 if {1, 4} <= gone else 0.0)

    for count in (1, 3):
        got = call(greedy_order, loss, len(alone), count)
        if not isinstance(got, list | tuple) or not all(isinstance(layer, int) for layer in got):
            raise Wrong("expected a list of layers, first one to go first")
        got, want, once = list(got), [1, 5, 2][:count], [1, 4, 5][:count]
        if got == want:
            continue
        if len(got) == len(alone) - count and not set(got) & set(want):
            raise Wrong("these are the layers that stay: return those that go")
        if len(got) != count:
            raise Wrong(f"expected {count} layers, got {len(got)}")
        if got == once:
            raise Wrong("this ranks once: 1 and 4 stand in for each other, so measure anew after 1 went")
        if sorted(got) == sorted(want):
            raise Wrong(f"the right layers in the wrong order: {want} go in this order, got {got}")
        if got[:1] == [0]:
            raise Wrong("the layer that is missed most went first: take the one with the smallest loss")
        raise Wrong(f"expected {want}, got {got}: in each round, the layer without which the loss is smallest goes")
    accept("layers that stand in for one another are not dropped together")


def check_spearman(spearman: Callable[[Tensor, Tensor], float]) -> None:
    """Exercise 4."""
    generator = torch.Generator().manual_seed(4)
    a = torch.randn(9, generator=generator, dtype=torch.float64).exp()
    b = (a + 0.5 * torch.randn(9, generator=generator, dtype=torch.float64)) ** 3
    got, want = float(call(spearman, a, b)), float(spearmanr(a, b).statistic)
    if abs(got - want) > 1e-9:
        pearson = lambda x, y: float(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1])  # noqa: E731
        if abs(got - pearson(a, b)) < 1e-9:
            raise Wrong("this is Pearson's correlation of the values: replace both by their ranks first")
        if abs(got - pearson(a.argsort(), b.argsort())) < 1e-9:
            raise Wrong("argsort says who is at each place, not the place of each: the ranks are argsort of argsort")
        if abs(got + want) < 1e-9:
            raise Wrong("the sign is the wrong way round: rank both in the same direction")
        if abs(got) > 1 + 1e-9:
            raise Wrong(f"a correlation lies between -1 and 1, got {got:.3f}: divide by both standard deviations")
        raise Wrong(f"expected {want:.4f}, as scipy has it, got {got:.4f}: correlate the ranks")
    if abs(float(call(spearman, a, a.exp())) - 1) > 1e-9:
        raise Wrong("any increasing function keeps all ranks, so the correlation with exp(a) should be 1")
    accept("only the order counts, so a huge layer 0 cannot make a proxy look good")


def check_massive(massive: Callable[[Tensor], tuple[int, int]]) -> None:
    """Exercise 5: layer 2 makes position 6 huge; all others grow slowly, and end larger than it ever was."""
    growth = torch.tensor([1.0, 4.0, 6.0, 9.0, 60.0, 900.0, 4000.0], dtype=torch.float64)  # (n + 1,)
    norms = growth[:, None] * torch.linspace(1.0, 1.5, 8, dtype=torch.float64)  # (n + 1, L)
    norms[3:, 6] = 3000.0
    norms[1, 2] *= 2.0
    answer = call(massive, norms)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("expected two numbers, (layer, position): end with `return layer, position`")
    layer, position = (int(value) for value in answer)
    if (position, layer) == (2, 6):
        raise Wrong("the two numbers are swapped: return the layer first, then the position")
    if position == 7:
        raise Wrong("the largest norm is no giant where all are large: compare with the median at the same depth")
    if position != 6:
        raise Wrong(f"expected position 6, got {position}: find the largest ratio of norm to median of its row")
    if layer == 3:
        raise Wrong("norms[3] is what layer 2 wrote: row 0 is the embedding, so the layer is one less than the row")
    if layer == 4 or layer == 5:
        raise Wrong("that layer did not write it: look for the layer in which this position grew most")
    if layer != 2:
        raise Wrong(f"expected layer 2, in which position 6 grew most, got {layer}")
    accept("a massive activation is one token out of all proportion, and one layer writes it")


def _turned() -> tuple[Tensor, Tensor]:
    """A stream (2, 5, 6) before and after a layer; one token is massive and hardly turned, float64."""
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64) + 0.5
    after = before + 0.8 * torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    before[0, 0] += 50.0
    after[0, 0] += 50.0
    return before, after


def _stack() -> tuple[list[Callable[[Tensor], Tensor]], Tensor, Callable[[Tensor], Tensor]]:
    """Five residual layers, a stream (3, 4, 6) that flows into them, and a loss of what comes out, float64."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    weights, head, targets = [0.5 * draw(6, 6) for _ in range(5)], draw(6, 7), torch.arange(12) % 7
    layers = [lambda stream, w=w: stream + torch.tanh(stream @ w) for w in weights]
    return layers, draw(3, 4, 6), lambda stream: nn.functional.cross_entropy(stream.flatten(0, 1) @ head, targets)


def _run(layers: list[Callable[[Tensor], Tensor]], stream: Tensor) -> Tensor:
    for layer in layers:
        stream = layer(stream)
    return stream


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())
