"""How much a layer minds being narrowed, asked of the model itself.

A relative error of one layer says nothing of what the layers behind do with it, so filling up by errors alone starves
the early layers and loses to uniform widths. Here each layer alone loses the same number of neurons, is re-tuned, and
the whole model answers on sequences that no fit has seen:

    harm_l = mean_t KL(p_t || p_t without those neurons of layer l)              nats per token

The divergence, not the loss: it is zero for the dense model and has no sign to be lost in noise. The widths that follow
are in `hybrid_granularity.measured`. (Our derivation.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, through, to_device
from ..errors import InputError
from ..families import dense_layer, family_of
from ..families.protocol import Layer, Model, Rope
from ..plan import SMALLEST_SHARE, Plan
from ..report import Progress, no_progress
from ..shape import Shape
from ..statistics.gram import Gram, token_weights
from .matrix_condition import Sweep
from .neurons import RIDGE, Dense, full_sweep

SEEN, HELD = 32, 4  # calibration sequences on which layers are re-tuned and judged: widths need fewer than a fit
POSITIONS = 512  # of the judged ones at which the model's answer is compared
ROWS = 64  # of these at a time


@dataclass(frozen=True)
class Sensitivity:
    """Of each layer of the parent, if so many of its MLP neurons went and no other layer changed."""

    gone: tuple[int, ...]  # (layers,)
    harm: Tensor  # (layers,), nats per token
    curves: tuple[Sweep, ...]  # errors against neurons gone, down to SMALLEST_SHARE of the layer

    def errors(self, layer: int, neurons: int) -> Tensor:
        """Error of a layer's output with 0, 1, ... of its `neurons` gone, as far as its curve goes."""
        sweep = self.curves[layer]
        return interpolated(sweep.counts, sweep.errors - sweep.moved, neurons)[: int(sweep.counts[-1]) + 1]


def interpolated(counts: Tensor, errors: Tensor, neurons: int) -> Tensor:
    """Straight lines between (0, 0) and the points of an error curve: (neurons + 1,), flat behind the last point."""
    counts = torch.cat([torch.zeros(1, dtype=torch.float64), counts.double()])
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), errors.double().clamp_min(0.0)])
    gone = torch.arange(neurons + 1, dtype=torch.float64).clamp_max(float(counts[-1]))
    right = torch.searchsorted(counts, gone).clamp(1, len(counts) - 1)
    low, high = counts[right - 1], counts[right]
    return errors[right - 1] + (errors[right] - errors[right - 1]) * (gone - low) / (high - low)


def reference_losses(shape: Shape, plan: Plan) -> tuple[int, ...]:
    """How many neurons each layer of the parent loses in the comparison: as in the plan; () if that narrows none.

    Layers that the plan drops are compared at the largest loss of the others.
    """
    lost = {layer: shape.neurons[layer] - width for layer, width in zip(plan.layers, plan.neurons, strict=True)}
    largest = max(lost.values())
    if not largest:
        return ()
    asked = (lost.get(layer, largest) for layer in range(shape.layers))
    return tuple(min(max(1, gone), full - smallest(full)) for gone, full in zip(asked, shape.neurons, strict=True))


@torch.no_grad()
def sensitivity(
    model: Model,
    ids: Tensor,
    gone: int | Sequence[int],
    *,
    ridge: float | None = None,
    weighted: bool = True,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Sensitivity:
    """What narrowing each layer by `gone` neurons, one number or one for each layer, does to the model, on ids (S, L).

    The last sequences judge (HELD of them, or half of few), up to SEEN of the others are fitted to, with that `ridge`
    (None: RIDGE), tokens `weighted` by 1 / ||h||. One layer at a time is on `device`.
    Cost: a walk over those, a sweep per layer, and the rest of the model on the judging sequences per layer.
    Raises InputError for fewer than 2 sequences, or for more neurons than a layer can lose.
    """
    shape, family = Shape.of(model), family_of(model)
    if len(ids) < 2:
        raise InputError("expected at least 2 calibration sequences for measured widths, got 1: one judges; give more")
    losses = (gone,) * shape.layers if isinstance(gone, int) else tuple(gone)
    for place, (loss, full) in enumerate(zip(losses, shape.neurons, strict=True)):
        if not 0 < loss <= full - smallest(full):
            raise InputError(
                f"expected 1 to {full - smallest(full)} neurons to go from layer {place}, got {loss}: ask for another "
                "number"
            )
    held = min(HELD, len(ids) // 2)
    judged = ids[-held:]
    stream, watched = embed(model, ids[: min(SEEN, len(ids) - held)]), embed(model, judged)
    rope = rotary(model, ids.shape[1], device, stream.dtype)
    answer = torch.cat([part for _, part in _answers(model, _last_states(model, watched, rope, 0, device))])  # (., V)
    harm, curves = [], []
    for index, whole in enumerate(family.layers(model)):
        layer = to_device(whole, device)
        curve, _, retuned = narrowed(layer, stream, rope, losses[index], RIDGE if ridge is None else ridge, weighted)
        watched, changed = with_weights(layer, watched, rope, retuned)
        states = _last_states(model, changed, rope, index + 1, device)
        divergence = sum(_divergence(answer[rows], part) for rows, part in _answers(model, states))
        harm.append(divergence / len(answer))
        curves.append(replace(curve, weights=curve.weights[:0]))  # those of all layers would be half a model
        progress("sensitivity", index + 1, shape.layers)
    return Sensitivity(losses, torch.tensor(harm, dtype=torch.float64), tuple(curves))


def smallest(neurons: int) -> int:
    """The fewest neurons that a plan leaves in a layer of so many."""
    return max(1, int(SMALLEST_SHARE * neurons))


def narrowed(
    layer: Layer, hidden: Tensor, rope: Rope, gone: int, ridge: float, weighted: bool = True, fewest: int | None = None
) -> tuple[Sweep, Gram, Tensor]:
    """What `layer` is like without its `gone` least neurons; `hidden` (S, L, d) goes through it, in place.

    Returns the error curve down to `fewest` neurons (None: as few as a plan may leave), the sums of the MLP's inputs,
    and the re-tuned weights V (n, m) without the `gone` neurons.
    """
    linear = dense_layer(layer, "mlp").weight
    weight = linear.detach().T.double()  # (n, m)
    gram = Gram.zeros(len(weight), device=linear.device)
    for rows in batches(*hidden.shape[:2]):
        after, x = mlp_step(layer, attention_step(layer, hidden[rows].to(linear.device), rope)[0])
        hidden[rows] = after
        gram.add(x, weight=token_weights(after) if weighted else None)
    dense = Dense(gram, weight, torch.zeros(len(weight)), ridge=ridge)
    curve, _ = full_sweep(dense, smallest(len(weight)) if fewest is None else fewest)
    kept = torch.ones(len(weight), dtype=torch.bool, device=linear.device)
    kept[curve.order[:gone].to(linear.device)] = False
    return curve, gram, gram.refit(weight, kept.nonzero().flatten(), ridge)


def with_weights(layer: Layer, hidden: Tensor, rope: Rope, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states behind `layer` as it is, and if down_proj had the weights V (n, m): h (S, L, d) -> h', h''."""
    whole, other = torch.empty_like(hidden), torch.empty_like(hidden)
    linear = dense_layer(layer, "mlp").weight
    change = (weight - linear.detach().T.double()).to(linear)  # the bias, if any, stays
    for rows in batches(*hidden.shape[:2]):
        after, x = mlp_step(layer, attention_step(layer, hidden[rows].to(linear.device), rope)[0])
        whole[rows], other[rows] = after, after + x @ change
    return whole, other


def _last_states(model: Model, hidden: Tensor, rope: Rope, first: int, device: str) -> Tensor:
    """Normed states (positions, d) behind the last layer, from h (S, L, d) before layer `first`."""
    family = family_of(model)
    for layer in family.layers(model)[first:]:
        hidden = through(to_device(layer, device), hidden, rope, device)
    states = hidden.flatten(0, 1)
    return family.final_norm(model, states[:: -(-len(states) // POSITIONS)])


def _answers(model: Model, states: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities (rows, V) of the next token, some positions at a time: a vocabulary is wide."""
    for start in range(0, len(states), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, family_of(model).head(model, states[rows]).float().log_softmax(-1)


def _divergence(answer: Tensor, other: Tensor) -> float:
    """sum_t KL(p_t || q_t) from the logarithms of both (rows, V)."""
    return float((answer.exp() * (answer - other)).sum(1).sum())
