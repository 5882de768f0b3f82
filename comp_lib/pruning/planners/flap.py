"""FLAP (An et al. 2023): channels that hardly fluctuate can be replaced by their means.

For an output linear y = W x (W (m, n), as its makers write it) input channel j is worth the error that
remains when its mean takes its place,

    WIFV_j = var_t(x_j) ||W_:j||^2                      "weighted input feature variance"

measured on the dense model. To compare layers, scores are standardised over the channels of each layer and
module kind (mean 0, deviation 1). The score of a KV group is the mean over its channels of o_proj. All
neurons and KV groups of all layers stand in one ranking, whose tail goes: widths and heads adapt to the
layers. The mean of what went, times its weights, becomes a bias: the recovery "bias"
(`recovery.bias.mean_bias`). The budget pays for the parameters of the biases.

The public code goes beyond the formula: it squares the scores of o_proj before it standardises them. We do
too, since the published numbers come from it (and it serves better: perplexity 63 against 67 on SmolLM2-135M
without a fifth of its decoder, 8 x 128 tokens).

Three things differ from the public code:

- Its running variance leaves out the first sequence; otherwise it differs from the exact one by a factor that
  standardising takes out.
- With it a layer may lose all of its heads; here the best neuron and the best KV group of each layer stay.
- Its bias holds the mean of the dense model's inputs (perplexity 66 instead of 67). Here the bias holds the
  mean of what the layer reads once the layers before it are pruned, as in every recovery of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...decoder.decoder import Decoder
from ...decoder.shape import Shape
from ...decoder.structure import parts
from ...decoder.types import STEPS, Device, Model, Step
from ...decoder.walk import walk
from ...hybrid_granularity.plan import Plan, PlanRequest
from ...hybrid_granularity.uniform import parameter_budget
from ...utils.errors import OutOfReach
from ...utils.progress import Progress, no_progress
from ..settings import CompleteSettings


@dataclass(frozen=True)
class Unit:
    """A neuron or a KV group in the common ranking."""

    step: Step
    """The step that has it: "mlp" for a neuron, "attention" for a KV group."""
    layer: int
    index: int
    """Its index among those of its step in the layer."""
    score: float
    """The standardised score."""
    cost: int
    """The number of parameters that go with it."""


def make_plan(
    decoder: Decoder, ids: Tensor, settings: CompleteSettings, name: str, progress: Progress
) -> Plan:
    """The plan by standardised WIFV on ids (S, L).

    Raises OutOfReach when the ratio cannot be reached.
    """
    shape = Shape.of(decoder)
    request = settings.plan_request(shape, name)
    budget = parameter_budget(request, settings.drop_layers)
    neuron_scores = []
    group_scores = []
    variances = fluctuations(decoder, ids, settings.device, progress)
    for group_count, (attention, mlp) in zip(shape.kv_groups, variances, strict=True):
        neuron_scores.append(standardise(mlp))
        channel_scores = standardise(attention.square())
        group_scores.append(channel_scores.reshape(group_count, -1).mean(1))
    removed_units = units_to_remove(request, neuron_scores, group_scores, budget)
    kept_neurons = remaining_indices(shape.neurons, [unit for unit in removed_units if unit.step == "mlp"])
    kept_groups = remaining_indices(
        shape.kv_groups, [unit for unit in removed_units if unit.step == "attention"]
    )
    return request.exact_plan(kept_neurons, kept_groups)


def check_settings(shape: Shape, settings: CompleteSettings) -> None:
    """Raises OutOfReach when the ratio cannot be reached."""
    parameter_budget(settings.plan_request(shape), settings.drop_layers)


@torch.no_grad()
def fluctuations(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> list[tuple[Tensor, Tensor]]:
    """WIFV of the inputs of o_proj (r g k,) and of down_proj (n,) in each layer, float64, on ids (S, L)."""
    layer_count = Shape.of(model).layer_count
    scores = []
    for visit in walk(model, ids, device):
        linears = {step: part.output_linear for step, part in parts(visit.layer).items()}
        moments = {  # step -> sums of x and of x^2
            step: torch.zeros(2, linear.in_features, dtype=torch.float64) for step, linear in linears.items()
        }
        for batch in visit.passed_batches():
            for step, inputs in batch.inputs.items():
                x = inputs.flatten(0, -2).double()
                moments[step] += torch.stack([x.sum(0), x.square().sum(0)]).cpu()
        variances = {step: _variance(sums, ids.numel()) for step, sums in moments.items()}
        attention, mlp = (
            variances[step] * linears[step].weight.double().square().sum(0).cpu() for step in STEPS
        )
        scores.append((attention, mlp))
        progress("fluctuations", visit.index + 1, layer_count)
    return scores


def _variance(moments: Tensor, tokens: int) -> Tensor:
    """Variance (n,) of each of n inputs over the tokens, from the sums of x and of x^2 (2, n)."""
    total, squares = moments
    variance: Tensor = (squares - total.square() / tokens).clamp_min(0.0) / max(tokens - 1, 1)
    return variance


def standardise(scores: Tensor) -> Tensor:
    """Scores (n,), shifted and scaled to mean 0 and deviation 1; zeros where all scores are equal."""
    centred = scores - scores.mean()
    deviation = centred.square().sum().div(max(len(scores) - 1, 1)).sqrt()
    return centred / deviation if deviation > 0.0 else centred


def units_to_remove(
    request: PlanRequest, neuron_scores: Sequence[Tensor], group_scores: Sequence[Tensor], budget: int
) -> list[Unit]:
    """The tail of the ranking, so long that the decoder ends less than one neuron below `budget`.

    A KV group is left out where it would end the decoder lower than that. So is the best unit of each step in
    each layer.

    Args:
        request: the request for the plan; its biases count as parameters.
        neuron_scores: standardised scores of the neurons of each layer.
        group_scores: the same for the KV groups.
        budget: parameters that the decoder may keep.

    Raises OutOfReach when the ranking ends before the budget is met.
    """
    shape = request.shape.with_biases() if request.biased else request.shape
    ranking = [
        *_removable_units("mlp", neuron_scores, shape.neuron_parameters),
        *_removable_units("attention", group_scores, shape.group_parameters),
    ]
    ranking.sort(key=lambda unit: unit.score)  # neurons and early layers go first among equal scores
    removed_units = []
    excess = shape.decoder_parameters - budget
    for unit in ranking:
        if excess <= 0:
            break
        if unit.cost < excess + shape.neuron_parameters:
            removed_units.append(unit)
            excess -= unit.cost
    if excess > 0:
        raise OutOfReach(
            expected="a ratio that leaves each layer a neuron and a KV group",
            got=f"{request.ratio:g}",
            hint="ask for less",
        )
    return removed_units


def _removable_units(step: Step, scores: Sequence[Tensor], cost: int) -> list[Unit]:
    """All units of one step, layer by layer, without the best unit of each layer."""
    units = []
    for layer, layer_scores in enumerate(scores):
        best = int(layer_scores.argmax())
        for index, score in enumerate(layer_scores.tolist()):
            if index != best:
                units.append(Unit(step, layer, index, score, cost))
    return units


def remaining_indices(counts: Sequence[int], removed_units: Sequence[Unit]) -> list[list[int]]:
    """Ascending indices of the units of one step that stay in each layer l, which had `counts[l]`."""
    removed_indices: list[set[int]] = [set() for _ in counts]
    for unit in removed_units:
        removed_indices[unit.layer].add(unit.index)
    return [
        [index for index in range(count) if index not in layer_removed]
        for count, layer_removed in zip(counts, removed_indices, strict=True)
    ]
