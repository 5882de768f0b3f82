"""How much a layer minds being narrowed, asked of the model itself, and the widths that follow.

A relative error of one layer says nothing of what the layers behind do with it, so filling up by errors alone starves
the early layers and loses to uniform widths. Here each layer alone loses the same number of neurons, is re-tuned, and
the whole model answers on sequences that no fit has seen:

    harm_l = mean_t KL(p_t || p_t without those neurons of layer l)              nats per token

The divergence, not the loss: it is zero for the dense model and has no sign to be lost in noise. The error curve e_l of
the layer's sweep carries the harm to all other widths, and each step takes what is cheapest,

    predicted harm of g neurons gone from layer l = harm_l^TEMPER * e_l(g) / e_l(reference),

TEMPER < 1 because the layers are narrowed together, not alone: what one layer spoils also reaches the layers behind it,
and the spared ones gain less than the sum promises. Its value is measured, not derived (benchmarks/RESULTS.md).
(Our derivation; the paper's own rule is `plan.paper_plan`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .errors import InputError
from .gram import Gram, token_weights
from .importance.condition import Sweep
from .importance.neurons import RIDGE, Dense, full_condition
from .plan import SMALLEST_SHARE, Plan, removed, uniform_plan
from .recover import least_squares
from .shape import Shape
from .stream import Progress, attention_step, batches, embed, mlp_step, no_progress, rotary, through

TEMPER = 0.75
SEEN, HELD = 32, 4  # calibration sequences on which layers are re-tuned and judged: widths need fewer than a fit
POSITIONS = 512  # of the judged ones at which the model's answer is compared
ROWS = 64  # of these at a time


@dataclass(frozen=True)
class Sensitivity:
    """Of each layer of the parent, if `gone` of its MLP neurons went and no other layer changed."""

    gone: int
    harm: Tensor  # (layers,), nats per token
    curves: tuple[Sweep, ...]  # errors against neurons gone, down to SMALLEST_SHARE of the layer

    def errors(self, layer: int, neurons: int) -> Tensor:
        """Error of a layer's output with 0, 1, ... neurons gone: as far as its curve goes, of `neurons` in all."""
        sweep = self.curves[layer]
        return joined(sweep.counts, sweep.errors - sweep.moved, neurons)[: int(sweep.counts[-1]) + 1]


def joined(counts: Tensor, errors: Tensor, neurons: int) -> Tensor:
    """Straight lines between (0, 0) and the points of an error curve: (neurons + 1,), flat behind the last point."""
    counts = torch.cat([torch.zeros(1, dtype=torch.float64), counts.double()])
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), errors.double().clamp_min(0.0)])
    gone = torch.arange(neurons + 1, dtype=torch.float64).clamp_max(float(counts[-1]))
    right = torch.searchsorted(counts, gone).clamp(1, len(counts) - 1)
    low, high = counts[right - 1], counts[right]
    return errors[right - 1] + (errors[right] - errors[right - 1]) * (gone - low) / (high - low)


@torch.no_grad()
def sensitivity(
    model: nn.Module, ids: Tensor, gone: int, *, ridge: float = RIDGE, progress: Progress = no_progress
) -> Sensitivity:
    """What narrowing each layer by `gone` neurons does to the model, on ids (S, L).

    The last sequences judge (HELD of them, or half of few), up to SEEN of the others are fitted to.
    Cost: a walk over those, a sweep per layer, and the rest of the model on the judging sequences per layer.
    Raises InputError for fewer than 2 sequences, or for more neurons than a layer can lose.
    """
    shape = Shape.of(model)
    if len(ids) < 2:
        raise InputError("expected at least 2 calibration sequences for measured widths, got 1: one judges; give more")
    most = [neurons - smallest(neurons) for neurons in shape.neurons]
    if not 0 < gone <= min(most):
        raise InputError(f"expected 1 to {min(most)} neurons to go from each layer, got {gone}: ask for another number")
    held = min(HELD, len(ids) // 2)
    seen, judged = ids[: min(SEEN, len(ids) - held)], ids[-held:]
    stream, watched = embed(model, seen), embed(model, judged)
    rope = rotary(model, ids.shape[1], stream.device, stream.dtype)
    answer = torch.cat([each for _, each in _answers(model, _last_states(model, watched, rope, 0))])  # (positions, V)
    harm, curves = [], []
    for index, layer in enumerate(model.model.layers):
        curve, _, fitted = narrowed(layer, stream, rope, gone, smallest(shape.neurons[index]), ridge)
        watched, after = with_weights(layer, watched, rope, fitted)
        changed = _answers(model, _last_states(model, after, rope, index + 1))
        harm.append(sum(_divergences(answer[rows], found) for rows, found in changed) / len(answer))
        curves.append(replace(curve, weights=curve.weights[:0]))  # those of all layers would be half a model
        progress("sensitivity", index + 1, shape.layers)
    return Sensitivity(gone, torch.tensor(harm, dtype=torch.float64), tuple(curves))


def measured_plan(
    shape: Shape,
    ratio: float,
    found: Sensitivity,
    *,
    of: str = "decoder",
    drop: Sequence[int] = (),
    kv_groups: int | None = None,
    multiple: int = 64,
    parent: str = "",
) -> Plan:
    """As many parameters as `uniform_plan` leaves, in the layers that mind most. Raises InputError as that does.

    Each step narrows one layer to its next lower multiple of `multiple`, where the predicted harm per neuron is least.
    """
    uniform = uniform_plan(
        shape, ratio, of=of, drop=drop, kv_groups=kv_groups, multiple=multiple, parent=parent
    )  # checks the request
    harms = {}
    for layer in uniform.layers:
        errors = found.errors(layer, shape.neurons[layer])
        harm = max(float(found.harm[layer]), 0.0) ** TEMPER
        harms[layer] = harm * errors / float(errors[found.gone].clamp_min(1e-300))
    widths = fill(shape, harms, sum(uniform.neurons), multiple)
    if widths is None:  # too little room for steps of this size
        return uniform
    gone = removed(shape, uniform.layers, widths, uniform.kv_groups, of)
    plan = Plan(parent, shape.layers, uniform.layers, widths, uniform.kv_groups, ratio, of, gone)
    plan.check()
    return plan


def fill(shape: Shape, harms: dict[int, Tensor], most: int, multiple: int) -> tuple[int, ...] | None:
    """Widths of the layers in `harms`, at most `most` neurons in all, by least harm per neuron; None: no such steps.

    harms: for each layer, predicted harm with 0, 1, ... of its neurons gone, as far as it may be narrowed.
    """
    widths = {layer: shape.neurons[layer] for layer in harms}

    def price(layer: int) -> float:
        full, now = shape.neurons[layer], widths[layer]
        after = (now - 1) // multiple * multiple
        if after < min(multiple, full) or full - after >= len(harms[layer]):
            return float("inf")
        return float(harms[layer][full - after] - harms[layer][full - now]) / (now - after)

    prices = {layer: price(layer) for layer in widths}
    while sum(widths.values()) > most:
        cheapest = min(prices, key=prices.__getitem__)
        if prices[cheapest] == float("inf"):
            return None
        widths[cheapest] = (widths[cheapest] - 1) // multiple * multiple
        prices[cheapest] = price(cheapest)
    return tuple(widths.values())


def smallest(neurons: int) -> int:
    """The fewest neurons that a plan leaves in a layer of so many."""
    return max(1, int(SMALLEST_SHARE * neurons))


def narrowed(
    layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], gone: int, fewest: int, ridge: float
) -> tuple[Sweep, Gram, Tensor]:
    """What `layer` is like without its `gone` least neurons; `hidden` (S, L, d) goes through it, in place.

    Returns the error curve down to `fewest` neurons, the Gram matrix of the MLP's inputs, and the re-tuned down_proj
    V (n, m) without the `gone` neurons.
    """
    weight = layer.mlp.down_proj.weight.detach().T.double()  # (n, m)
    gram = Gram.zeros(len(weight))
    for rows in batches(*hidden.shape[:2]):
        hidden[rows], x = mlp_step(layer, attention_step(layer, hidden[rows], rope)[0])
        gram.add(x, weight=token_weights(hidden[rows]))
    dense = Dense(gram.xtx, weight, torch.zeros(len(weight)), ridge=ridge)
    curve = full_condition(dense, fewest, torch.Generator()).curve
    kept = torch.ones(len(weight), dtype=torch.bool)
    kept[curve.order[:gone]] = False
    return curve, gram, least_squares(gram.xtx, gram.xtx @ weight, weight, kept.nonzero().flatten(), ridge)


def with_weights(
    layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Hidden states behind `layer` as it is, and if down_proj had the weights V (n, m): h (S, L, d) -> h', h''."""
    whole, other = torch.empty_like(hidden), torch.empty_like(hidden)
    change = (weight - layer.mlp.down_proj.weight.detach().T.double()).to(hidden)  # the bias, if any, stays
    for rows in batches(*hidden.shape[:2]):
        whole[rows], x = mlp_step(layer, attention_step(layer, hidden[rows], rope)[0])
        other[rows] = whole[rows] + x @ change
    return whole, other


def _last_states(model: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], first: int) -> Tensor:
    """Normed states (positions, d) behind the last layer, from h (S, L, d) before layer `first`."""
    for layer in model.model.layers[first:]:
        hidden = through(layer, hidden, rope, hidden.device)
    states = hidden.flatten(0, 1)
    return model.model.norm(states[:: -(-len(states) // POSITIONS)])


def _answers(model: nn.Module, states: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities (rows, V) of the next token, some positions at a time: a vocabulary is wide."""
    for start in range(0, len(states), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, model.lm_head(states[rows]).float().log_softmax(-1)


def _divergences(answer: Tensor, found: Tensor) -> float:
    """sum_t KL(p_t || q_t) from the logarithms of both (rows, V)."""
    return float((answer.exp() * (answer - found)).sum(1).sum())
