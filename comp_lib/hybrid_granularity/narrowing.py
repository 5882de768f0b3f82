"""What one narrower layer does to the model: the parts that measured and estimated harm share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..decoder.decoder import Decoder, copy_layer
from ..decoder.run import LayerArguments, mlp_step
from ..decoder.shape import Shape
from ..decoder.structure import parts
from ..decoder.types import Layer
from ..decoder.walk import passed_batches
from ..evaluation.divergence import divergence_terms
from ..utils.errors import InputError
from ..utils.numbers import check_numbers
from ..utils.progress import Progress
from .plan import FLOOR_SHARE, Plan

POSITIONS_PER_BATCH = 64  # positions that are compared at a time, since a vocabulary is large


def reference_removals(shape: Shape, plan: Plan) -> tuple[int, ...]:
    """Numbers of neurons that the layers of the parent lose in the comparison: those of the plan, at least 1.

    A layer of one neuron loses none.
    A layer that the plan drops loses the largest number that the plan takes from any other layer. The result
    is () for a plan that narrows no layer.
    """
    removals = {}
    for layer, width in zip(plan.layers, plan.neurons, strict=True):
        removals[layer] = shape.neurons[layer] - width
    largest = max(removals.values())
    if not largest:
        return ()
    compared = []
    for layer, neurons in enumerate(shape.neurons):
        removal = max(1, removals.get(layer, largest))
        compared.append(min(removal, neurons - smallest_width(neurons)))
    return tuple(compared)


def check_two_sequences(ids: Tensor) -> None:
    """Raises InputError for ids (S, L) of which no sequence is left to judge what another one fitted."""
    if len(ids) < 2:
        raise InputError(
            expected="2 or more sequences for widths by harm",
            got=len(ids),
            hint="one of them judges; give more, or choose the widths uniform",
        )


def smallest_width(neurons: int) -> int:
    """The fewest neurons that a plan leaves in a layer of so many `neurons`, before it rounds them."""
    return max(1, int(FLOOR_SHARE * neurons))


def states_with_and_without(
    layer: Layer, hidden: Tensor, arguments: LayerArguments, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The states (S, L, d) after `layer` as it is, and those after it without what V leaves out.

    Args:
        hidden: h (S, L, d), the states before the layer.
        weight: V (n, m), the refitted weights of down_proj, zero where a neuron goes.
    """
    stored_weight = parts(layer)["mlp"].output_linear.weight
    changed = copy_layer(layer, stored_weight.device)  # a whole layer, since a norm may follow down_proj
    parts(changed)["mlp"].output_linear.weight = nn.Parameter(weight.T.to(stored_weight), requires_grad=False)
    after = torch.empty_like(hidden)
    changed_after = torch.empty_like(hidden)
    for batch in passed_batches(layer, hidden, arguments, stored_weight.device):
        after[batch.rows] = batch.after
        changed_after[batch.rows] = mlp_step(changed, batch.between)[0]
    return after, changed_after


def divergences_of_streams(
    decoder: Decoder, dense: Tensor, streams: Sequence[Tensor], positions: int, progress: Progress
) -> Tensor:
    """mean_t KL(p_t || q_t), (streams,), nats: p from the dense stream, q from each of `streams`.

    Args:
        dense: the states of the text after the last layer (S, L, d).
        streams: the states of the same text in each of the models that are compared with it.
        positions: how many tokens are compared, evenly spread; about as many, or all if that is fewer.

    Raises NoNumber for a divergence that is NaN or infinite.
    """
    stride = -(-dense[..., 0].numel() // positions)
    states = [decoder.norm(stream.flatten(0, 1)[::stride]) for stream in (dense, *streams)]  # (positions, d)
    total = torch.zeros(len(streams), dtype=torch.float64)
    count = len(states[0])
    for start in range(0, count, POSITIONS_PER_BATCH):
        stop = min(start + POSITIONS_PER_BATCH, count)
        log_probabilities = (decoder.logits(state[start:stop]).float().log_softmax(-1) for state in states)
        log_p = next(log_probabilities)  # (rows, V)
        sums = [float(divergence_terms(log_p, log_q).sum(1).sum()) for log_q in log_probabilities]
        total += torch.tensor(sums, dtype=torch.float64)
        progress("comparing predictions", stop, count)
    divergences = total / count
    check_numbers("divergence", divergences)
    return divergences
