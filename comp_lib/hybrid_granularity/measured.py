"""The harm of narrowing a layer, or its sensitivity to it, measured with the model itself.

The relative error of one layer does not tell what the layers after it make of that error. A plan that
follows errors alone starves the early layers and loses to uniform widths. Here each layer alone loses the
same number of neurons and is refitted, and the model predicts sequences that no fit has seen:

    harm_l = mean_t KL(p_t || p_t without those neurons of layer l)              nats per token

The harm is a divergence and not an increase of the loss, because the divergence is zero for the dense model,
and no noise makes it negative. The widths that follow from the harm are in `hybrid_granularity.by_harm`.
(Our derivation.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..decoder.decoder import Decoder, as_decoder
from ..decoder.run import LayerArguments, layer_arguments
from ..decoder.shape import Shape
from ..decoder.structure import parts
from ..decoder.types import Layer, Model
from ..decoder.walk import passed_batches, walk
from ..importance.matrix_condition import Sweep, sweep
from ..importance.problem import RIDGE, Problem
from ..importance.statistics.solve import penalty
from ..importance.statistics.sums import MatrixStatistics, token_weight
from ..utils.progress import Progress, no_progress
from .narrowing import check_two_sequences, divergences_of_streams, smallest_width, states_with_and_without

FITTED_SEQUENCES = 32  # sequences on which layers are refitted: widths need few
JUDGING_SEQUENCES = 4  # sequences on which the refitted layers are judged
JUDGED_LENGTH = 512  # tokens of each judging sequence: their states are in memory once for each layer
COMPARED_POSITIONS = 512  # judging tokens at which the predictions of the models are compared


@dataclass(frozen=True)
class MeasuredHarm:
    """The effect on the model if one layer of the parent loses some MLP neurons and no other changes."""

    removals: tuple[int, ...]
    """Number of neurons that go (layers,)."""
    harm: Tensor
    """Divergence of the model, nats per token (layers,)."""
    sweeps: tuple[Sweep, ...]
    """The sweep of each layer, down to FLOOR_SHARE of its neurons (layers,)."""

    def errors(self, layer: int, neurons: int) -> Tensor:
        """Error of a layer's output with 0, 1, ... of its `neurons` removed, as far as its sweep goes."""
        swept = self.sweeps[layer]
        if len(swept.counts) == 0:  # a layer of one neuron, which stays
            return torch.zeros(1, dtype=torch.float64)
        last_count = int(swept.counts[-1])
        return interpolate(swept.counts, swept.errors, neurons)[: last_count + 1]


def interpolate(counts: Tensor, errors: Tensor, neurons: int) -> Tensor:
    """Straight lines from (0, 0) through the points of an error curve: (neurons + 1,), flat at its end."""
    counts = torch.cat([torch.zeros(1, dtype=torch.float64), counts.double()])
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), errors.double().clamp_min(0.0)])
    positions = torch.arange(neurons + 1, dtype=torch.float64).clamp_max(float(counts[-1]))
    right = torch.searchsorted(counts, positions).clamp(1, len(counts) - 1)  # the point to the right of each
    left = right - 1
    rise = (errors[right] - errors[left]) * (positions - counts[left]) / (counts[right] - counts[left])
    return errors[left] + rise


@torch.no_grad()
def measure_harm(
    model: Model | Decoder,
    ids: Tensor,
    removals: int | Sequence[int],
    *,
    ridge: float = RIDGE,
    token_weights: bool = True,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> MeasuredHarm:
    """The harm to the model, measured on ids (S, L), when each layer alone loses so many neurons.

    The last JUDGING_SEQUENCES sequences judge, or half of all sequences if that is fewer. Only their first
    JUDGED_LENGTH tokens count. The layers are fitted to the first of the other sequences, FITTED_SEQUENCES at
    most.

    The layers are on `device` one at a time, each once: the judging stream of the model passes a layer, and
    so does that of each model in which an earlier layer was narrowed, and then the layer itself is narrowed.

    Cost: a walk over all these sequences, a sweep per layer, and the rest of the model on the judging
    sequences per layer. Memory: a layer and its sums, the hidden states of the fitted sequences, and for each
    layer those of the judging sequences, at most JUDGING_SEQUENCES x JUDGED_LENGTH tokens: 0.5 GiB in
    bfloat16 for the 32 layers of a 7B model.

    Args:
        ids: at least 2 sequences.
        removals: number of neurons that go, one for all layers or one for each.
        ridge: lambda of the fit.
        token_weights: whether tokens are weighted by 1 / ||h||.

    Raises InputError for fewer than 2 sequences; NoNumber for a harm that is NaN or infinite.
    """
    check_two_sequences(ids)
    decoder = as_decoder(model)
    shape = Shape.of(decoder)
    if isinstance(removals, int):
        removals = (removals,) * shape.layer_count
    judging_count = min(JUDGING_SEQUENCES, len(ids) // 2)
    judging_ids = ids[-judging_count:, :JUDGED_LENGTH]
    fitted_count = min(FITTED_SEQUENCES, len(ids) - judging_count)
    fitting = decoder.embed(ids[:fitted_count])
    fitting_arguments = layer_arguments(decoder.structure, ids.shape[1], device, fitting.dtype)
    dense_stream = torch.empty(0)
    narrowed_streams: list[Tensor] = []  # the judging stream so far, for each layer that was narrowed alone
    sweeps = []
    for visit in walk(decoder, judging_ids, device):
        narrowed_streams = [visit.send_through(stream) for stream in narrowed_streams]
        statistics = gather_and_pass(visit.layer, fitting, fitting_arguments, token_weights)
        swept, weight = sweep_and_refit(visit.layer, statistics, removals[visit.index], ridge)
        after, stream = states_with_and_without(visit.layer, visit.before, visit.arguments, weight)
        visit.after = after
        narrowed_streams.append(stream)
        dense_stream = visit.after
        sweeps.append(replace(swept, weights=torch.empty(0)))  # all weights would be as large as half a model
        del swept, statistics, weight  # before the next layer is read
        progress("harm of layers", visit.index + 1, shape.layer_count)
    harm = divergences_of_streams(decoder, dense_stream, narrowed_streams, COMPARED_POSITIONS, progress)
    return MeasuredHarm(tuple(removals), harm, tuple(sweeps))


def gather_and_pass(
    layer: Layer, hidden: Tensor, arguments: LayerArguments, token_weights: bool = True
) -> MatrixStatistics:
    """Write the states after `layer` over `hidden` (S, L, d), and return the sums of what down_proj reads.

    token_weights: whether tokens are weighted by 1 / ||h||.
    """
    stored_weight = parts(layer)["mlp"].output_linear.weight
    statistics = MatrixStatistics.zeros(stored_weight.shape[1], device=stored_weight.device)
    for batch in passed_batches(layer, hidden, arguments, stored_weight.device):
        hidden[batch.rows] = batch.after
        weight_of_token = token_weight(batch.after) if token_weights else None
        statistics.add(batch.inputs["mlp"], token_weight=weight_of_token)
    return statistics


def sweep_and_refit(
    layer: Layer, statistics: MatrixStatistics, remove: int, ridge: float
) -> tuple[Sweep, Tensor]:
    """The sweep of down_proj, and its refitted weights V (n, m) without the `remove` cheapest neurons.

    The layer itself stays as it is. The sweep ends where no plan leaves fewer neurons.

    statistics: the sums of what down_proj reads, from `gather_and_pass`.
    """
    problem = Problem.of(layer, "mlp", statistics, ridge)
    swept = sweep(
        statistics.inverse(ridge),
        problem.scaled_weight,
        problem.block_count - smallest_width(problem.block_count),
        input_penalties=penalty(statistics.diagonal(), ridge),
    )
    device = problem.weight.device
    stays = torch.ones(problem.block_count, dtype=torch.bool, device=device)
    stays[swept.order[:remove].to(device)] = False
    return swept, statistics.refit(problem.weight, stays.nonzero().flatten(), ridge)
