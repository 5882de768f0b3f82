"""The harm of narrowing a layer, estimated for a fraction of a dense pass.

`measured_harm` sweeps each layer over much text, which costs as much as the pruning itself. Widths need
less: which layers mind more than others, and roughly by how much. The estimate asks the same question,

    harm_l = mean_t KL(p_t || p_t without some neurons of layer l)              nats per token,

and saves in four places. Few tokens fit, and few judge. The neurons of the least energy go, so that there is
no sweep; what stays is refitted all the same. Their energies, added up, are the error curve. Every second
layer is tried, and a layer between two of them gets a harm between theirs. (Our derivation; the numbers were
chosen by measurement: "Widths of the default" in benchmarks/RESULTS.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..decoder.decoder import Decoder, as_decoder
from ..decoder.shape import Shape
from ..decoder.structure import parts
from ..decoder.types import Model
from ..decoder.walk import LayerVisit, walk
from ..importance.problem import RIDGE, Problem, times_gain
from ..importance.statistics.few_tokens import TokenStatistics
from ..importance.statistics.sums import token_weight
from ..utils.progress import Progress, no_progress
from .narrowing import check_two_sequences, divergences_of_streams, smallest_width, states_with_and_without

# Sequences to which a narrowed layer is refitted, and those that judge: these shares of all, so that a small
# text has a small price, and no more than these numbers.
FITTED_SHARE = 1 / 4
FITTED_SEQUENCES = 16
JUDGING_SHARE = 1 / 8
JUDGING_SEQUENCES = 8
LENGTH = 64  # tokens of each of these sequences: short ones, so that there are many kinds of text
COMPARED_POSITIONS = 128  # judging tokens at which the predictions of the models are compared
LAYER_STEP = 2  # every second layer is tried, and the last one


@dataclass(frozen=True)
class EstimatedHarm:
    """The effect on the model if one layer of the parent loses some MLP neurons and no other changes."""

    removals: tuple[int, ...]
    """Number of neurons that go (layers,)."""
    harm: Tensor
    """Divergence of the model, nats per token (layers,)."""
    energies: tuple[Tensor, ...]
    """Energy of the neurons of each layer, ascending (layers,)."""

    def errors(self, layer: int, neurons: int) -> Tensor:
        """Entry g: the energy lost with the g cheapest of the layer's `neurons`, as far as a plan goes."""
        fewest = smallest_width(neurons)
        added = self.energies[layer][: neurons - fewest].cumsum(0)
        return torch.cat([added.new_zeros(1), added])


@torch.no_grad()
def estimate_harm(
    model: Model | Decoder,
    ids: Tensor,
    removals: Sequence[int],
    *,
    ridge: float = RIDGE,
    token_weights: bool = True,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> EstimatedHarm:
    """The harm to the model, estimated on ids (S, L), when layer l alone loses `removals[l]` neurons.

    The last sequences judge, and the layers are fitted to the first ones. Of each of them, the first LENGTH
    tokens count.

    The layers are on `device` one at a time, each once: the judging stream of the model passes a layer, and
    so does that of each model in which an earlier layer was narrowed, and then the layer itself is narrowed.

    Cost: a walk over 1,536 tokens, and for every second layer a refit and the rest of the model on 512; with
    fewer than 64 sequences, in proportion.

    Args:
        ids: at least 2 sequences.
        removals: number of neurons that go from each layer.
        ridge: lambda of the fit.
        token_weights: whether tokens are weighted by 1 / ||h||.

    Raises InputError for fewer than 2 sequences; NoNumber for a harm that is NaN or infinite.
    """
    check_two_sequences(ids)
    decoder = as_decoder(model)
    layer_count = Shape.of(decoder).layer_count
    judging_count = max(1, min(JUDGING_SEQUENCES, int(JUDGING_SHARE * len(ids))))
    fitted_count = max(1, min(FITTED_SEQUENCES, int(FITTED_SHARE * len(ids))))
    text = torch.cat([ids[:fitted_count, :LENGTH], ids[-judging_count:, :LENGTH]])
    streams: dict[int, Tensor] = {}  # the judging stream so far, for each layer that was narrowed alone
    energies = []
    for visit in walk(decoder, text, device):
        streams = {index: visit.send_through(stream) for index, stream in streams.items()}
        statistics = _gather_first_sequences(visit, fitted_count, token_weights)
        problem = Problem.of(visit.layer, "mlp", statistics, ridge)
        energy = _energies(problem)
        energies.append(energy.sort().values.cpu())
        if visit.index % LAYER_STEP == 0 or visit.index == layer_count - 1:
            kept_inputs = energy.argsort(stable=True)[removals[visit.index] :].sort().values
            weight = statistics.refit(problem.weight, kept_inputs, problem.ridge)
            judging = visit.before[fitted_count:]
            streams[visit.index] = states_with_and_without(visit.layer, judging, visit.arguments, weight)[1]
        progress("harm of layers", visit.index + 1, layer_count)
        dense = visit.after[fitted_count:]
    tried = divergences_of_streams(decoder, dense, [*streams.values()], COMPARED_POSITIONS, progress)
    harm = np.interp(range(layer_count), [*streams], tried.numpy())
    return EstimatedHarm(tuple(removals), torch.from_numpy(harm), tuple(energies))


def _gather_first_sequences(visit: LayerVisit, fitted_count: int, token_weights: bool) -> TokenStatistics:
    """Send the text through the layer, and return what down_proj reads of its first sequences."""
    neurons = parts(visit.layer)["mlp"].output_linear.in_features
    statistics = TokenStatistics.zeros(neurons, device=visit.device)
    for batch in visit.passed_batches():
        fitting = slice(max(0, fitted_count - batch.rows.start))
        weight_of_token = token_weight(batch.after[fitting]) if token_weights else None
        statistics.add(batch.inputs["mlp"][fitting], token_weight=weight_of_token)
    return statistics


def _energies(problem: Problem) -> Tensor:
    """`Problem.energies` (n,), computed in float64."""
    weight = times_gain(problem.weight.double(), problem.gain)  # (n, m)
    return problem.statistics.diagonal() * weight.square().sum(1)
