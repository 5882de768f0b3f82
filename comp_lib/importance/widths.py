"""How much a layer minds being narrowed, asked of the model itself.

A relative error of one layer says nothing of what the layers behind do with it, so filling up by errors alone starves
the early layers and loses to uniform widths. Here each layer alone loses the same number of neurons, is re-tuned, and
the whole model answers on sequences that no fit has seen:

    harm_l = mean_t KL(p_t || p_t without those neurons of layer l)              nats per token

The divergence, not the loss: it is zero for the dense model and has no sign to be lost in noise. The widths that follow
are in `hybrid_granularity.measured`. (Our derivation.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, through, to_device
from ..families import layers_of, parts
from ..families.frame import Rope, head
from ..families.layer import gain_behind
from ..families.protocol import Layer, Model
from ..plan import SMALLEST_SHARE, Plan
from ..progress import Progress, no_progress
from ..shape import Shape
from ..statistics.gram import Gram, token_weight
from ..statistics.solve import penalty
from .matrix_condition import Sweep, sweep
from .neurons import RIDGE

SEEN, HELD = (
    32,
    4,
)  # calibration sequences on which layers are re-tuned and judged: widths need fewer than a fit
LENGTH = 512  # tokens of each that judge: their states are in memory once for each layer
POSITIONS = 512  # of these, at which the model's answer is compared
ROWS = 64  # of these at a time


@dataclass(frozen=True)
class Sensitivity:
    """Of each layer of the parent, if so many of its MLP neurons went and no other layer changed."""

    gone: tuple[int, ...]  # (layers,)
    harm: Tensor  # (layers,), nats per token
    curves: tuple[Sweep, ...]  # errors against neurons gone, down to SMALLEST_SHARE of the layer

    def errors(self, layer: int, neurons: int) -> Tensor:
        """Error of a layer's output with 0, 1, ... of its `neurons` gone, as far as its curve goes."""
        curve = self.curves[layer]
        return interpolated(curve.counts, curve.errors - curve.moved, neurons)[: int(curve.counts[-1]) + 1]


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
    lost = {
        layer: shape.neurons[layer] - width for layer, width in zip(plan.layers, plan.neurons, strict=True)
    }
    largest = max(lost.values())
    if not largest:
        return ()
    asked = (lost.get(layer, largest) for layer in range(shape.layers))
    return tuple(
        min(max(1, gone), full - smallest(full)) for gone, full in zip(asked, shape.neurons, strict=True)
    )


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

    The last sequences judge (the first LENGTH tokens of HELD, or of half of few), up to SEEN of the others are fitted
    to, with that `ridge` (None: RIDGE), tokens `weighted` by 1 / ||h||. The layers are on `device` one at a time, each
    once: the model's judged stream passes, and that of each earlier layer's narrowing, before the layer is narrowed.
    Cost: a walk over those, a sweep per layer, and the rest of the model on the judging sequences per layer.
    Memory: a layer and its sums, the hidden states of the fitted sequences, and for each layer those of the judging
    ones, at most HELD x LENGTH tokens: 0.5 GiB in bfloat16 for the 32 layers of a 7B model. Needs 2 sequences.
    """
    shape = Shape.of(model)
    losses = (gone,) * shape.layers if isinstance(gone, int) else tuple(gone)
    held = min(HELD, len(ids) // 2)
    judged = ids[-held:, :LENGTH]
    stream, watched = embed(model, ids[: min(SEEN, len(ids) - held)]), embed(model, judged)
    rope, judged_rope = (rotary(model, part.shape[1], device, stream.dtype) for part in (ids, judged))
    without: list[Tensor] = []  # the judged stream so far, for each layer that was narrowed alone
    curves, layers = [], layers_of(model)
    for index in range(shape.layers):
        layer = to_device(layers[index], device)
        for place, changed in enumerate(without):
            without[place] = through(layer, changed, judged_rope, device)
        curve, gram, retuned = narrowed(
            layer, stream, rope, losses[index], RIDGE if ridge is None else ridge, weighted
        )
        watched, changed = with_weights(layer, watched, judged_rope, retuned)
        without.append(changed)
        curves.append(replace(curve, weights=torch.empty(0)))  # those of all layers would be half a model
        del layer, curve, gram, retuned  # before the next one is read
        progress("sensitivity", index + 1, shape.layers)
    return Sensitivity(losses, _divergences(model, watched, without, progress), tuple(curves))


def smallest(neurons: int) -> int:
    """The fewest neurons that a plan leaves in a layer of so many."""
    return max(1, int(SMALLEST_SHARE * neurons))


def narrowed(
    layer: Layer,
    hidden: Tensor,
    rope: Rope,
    gone: int,
    ridge: float,
    weighted: bool = True,
    fewest: int | None = None,
) -> tuple[Sweep, Gram, Tensor]:
    """What `layer` is like without its `gone` least neurons; `hidden` (S, L, d) goes through it, in place.

    Returns the error curve down to `fewest` neurons (None: as few as a plan may leave), the sums of the MLP's inputs,
    and the re-tuned weights V (n, m) without the `gone` neurons.
    """
    linear = parts(layer)["mlp"].linear.weight
    gram = Gram.zeros(linear.shape[1], device=linear.device)
    weight = linear.detach().T.to(gram.precision)  # (n, m)
    for rows in batches(*hidden.shape[:2]):
        after, x = mlp_step(layer, attention_step(layer, hidden[rows].to(linear.device), rope)[0])
        hidden[rows] = after
        gram.add(x, token_weight=token_weight(after) if weighted else None)
    gain = gain_behind(layer, "mlp")
    scaled = weight if gain is None else weight * gain.to(weight)
    most = len(weight) - (smallest(len(weight)) if fewest is None else fewest)
    held = penalty(gram.diagonal(), ridge)
    curve = sweep(gram.inverse(ridge), scaled, most, held=held)
    kept = torch.ones(len(weight), dtype=torch.bool, device=linear.device)
    kept[curve.order[:gone].to(linear.device)] = False
    return curve, gram, gram.refit(weight, kept.nonzero().flatten(), ridge)


def with_weights(layer: Layer, hidden: Tensor, rope: Rope, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states behind `layer` as it is, and if down_proj had the weights V (n, m): h (S, L, d) -> h', h''."""
    whole, other = torch.empty_like(hidden), torch.empty_like(hidden)
    linear = parts(layer)["mlp"].linear.weight
    changed = to_device(
        layer, linear.device
    )  # what stands behind the dense layer, a norm say, is the family's to know
    parts(changed)["mlp"].linear.weight = nn.Parameter(weight.T.to(linear), requires_grad=False)
    for rows in batches(*hidden.shape[:2]):
        residual, _ = attention_step(layer, hidden[rows].to(linear.device), rope)
        whole[rows], other[rows] = mlp_step(layer, residual)[0], mlp_step(changed, residual)[0]
    return whole, other


def _divergences(model: Model, dense: Tensor, others: Sequence[Tensor], progress: Progress) -> Tensor:
    """mean_t KL(p_t || q_t) from the streams (S, L, d) behind the last layer, of each of the others: (others,)."""
    step = -(-dense[..., 0].numel() // POSITIONS)
    states = [model.model.norm(stream.flatten(0, 1)[::step]) for stream in (dense, *others)]  # (positions, d)
    total, count = torch.zeros(len(others), dtype=torch.float64), len(states[0])
    for start in range(0, count, ROWS):  # a vocabulary is wide
        answers = (head(model, part[start : start + ROWS]).float().log_softmax(-1) for part in states)
        p = next(answers)  # (rows, V)
        total += torch.tensor([float((p.exp() * (p - q)).sum(1).sum()) for q in answers], dtype=torch.float64)
        progress("comparing answers", min(start + ROWS, count), count)
    return total / count
