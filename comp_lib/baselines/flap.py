"""FLAP (An et al. 2023): what hardly fluctuates can be replaced by its mean.

For a dense layer y = W x, input channel j is worth the error that remains when its mean takes its place,

    WIFV_j = var_t(x_j) ||W_:j||^2                      "weighted input feature variance"

measured on the dense model. To compare layers, scores are standardised over the channels of each layer and
module kind (mean 0, deviation 1); a KV group's is the mean over its channels of o_proj. All neurons and KV
groups of all layers stand in one ranking, whose tail goes: widths and heads adapt to the layers. The mean of
what went, times its weights, becomes a bias: the recovery "bias" (`recovery.bias.mean_bias`), whose
parameters the budget pays for.

Where the public code goes beyond the formula: it squares the scores of o_proj before it standardises them. We
do too, since the published numbers come from it (and it serves better: perplexity 63 against 67 on
SmolLM2-135M without a fifth of its decoder, 8 x 128 tokens). Its running variance differs from the exact one
by a factor that standardising takes out, but for the first sequence, which it leaves out. There a layer may
lose all of its heads; here the best neuron and the best KV group of each layer stay. There the bias holds the
mean of the dense model's inputs (66 instead of 67), here that of what the layer reads once the layers before
it are pruned, as in every recovery of this package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..decoder import Decoder
from ..errors import InputError
from ..families.find import parts
from ..families.protocol import Device, Model, Step
from ..families.run import run_step
from ..hybrid_granularity.uniform import parameters_left
from ..plan import Plan
from ..progress import Progress, no_progress
from ..settings import Settings
from ..shape import Shape
from ..walk import Visit, batches, walk


def plan(
    model: Model | Decoder, ids: Tensor, settings: Settings, name: str = "", progress: Progress = no_progress
) -> Plan:
    """What stays by standardised WIFV on ids (S, L). Raises InputError when the ratio is out of reach."""
    shape = Shape.of(model)
    request = settings.request(shape, name)
    left = parameters_left(request, settings.layers)
    neuron_scores = []
    group_scores = []
    variances = fluctuations(model, ids, settings.device, progress)
    for group_count, (attention, mlp) in zip(shape.kv_groups, variances, strict=True):
        neuron_scores.append(standardise(mlp))
        channel_scores = standardise(attention.square())
        group_scores.append(channel_scores.reshape(group_count, -1).mean(1))
    costs = shape.with_biases() if request.biased else shape
    kept = _keep((neuron_scores, group_scores), costs, left)
    if kept is None:
        raise InputError(
            expected="a ratio that leaves each layer a neuron and a KV group",
            got=f"{settings.ratio:g}",
            hint="ask for less",
        )
    kept_neurons, kept_groups = kept
    return request.exact_plan(kept_neurons, kept_groups)


def check(shape: Shape, settings: Settings) -> None:
    """Raises InputError when the ratio cannot be reached."""
    parameters_left(settings.request(shape), settings.layers)


@torch.no_grad()
def fluctuations(
    model: Model | Decoder, ids: Tensor, device: Device = "cpu", progress: Progress = no_progress
) -> list[tuple[Tensor, Tensor]]:
    """WIFV of the inputs of o_proj (r g k,) and of down_proj (n,) in each layer, float64, for ids (S, L)."""
    layer_count = Shape.of(model).layers
    scores = []
    for visit in walk(model, ids, device):
        between, attention_scores = _step_fluctuations(visit, "attention", visit.before)
        visit.after, mlp_scores = _step_fluctuations(visit, "mlp", between)
        scores.append((attention_scores, mlp_scores))
        progress("fluctuations", visit.index + 1, layer_count)
    return scores


def _step_fluctuations(visit: Visit, step: Step, stream: Tensor) -> tuple[Tensor, Tensor]:
    """The stream (S, L, d) behind a step of the visited layer, and WIFV of its dense layer's inputs (n,)."""
    linear = parts(visit.layer)[step].linear
    behind = torch.empty_like(stream)
    moments = torch.zeros(2, linear.in_features, dtype=torch.float64)  # sums of x and of x^2
    for rows in batches(*stream.shape[:2]):
        behind[rows], x = run_step(visit.layer, step, stream[rows].to(visit.device), visit.arguments)
        x = x.flatten(0, -2).double()
        moments += torch.stack([x.sum(0), x.square().sum(0)]).cpu()
    total, squares = moments
    tokens = stream.shape[0] * stream.shape[1]
    variance = (squares - total.square() / tokens).clamp_min(0.0) / max(tokens - 1, 1)
    return behind, variance * linear.weight.double().square().sum(0).cpu()


def standardise(scores: Tensor) -> Tensor:
    """Mean 0 and deviation 1 (n,); zeros where all scores are equal."""
    centred = scores - scores.mean()
    deviation = centred.square().sum().div(max(len(scores) - 1, 1)).sqrt()
    return centred / deviation if deviation > 0.0 else centred


def _keep(scores: tuple[list[Tensor], list[Tensor]], shape: Shape, left: int) -> list[list[list[int]]] | None:
    """Ascending indices of the neurons and KV groups that stay in each layer; None: not within `left`.

    scores: of the neurons, and of the KV groups, of each layer. left: the parameters that the decoder may
    keep. The ranking is followed from its tail; a KV group that would remove more than is still asked for
    stays, so that the decoder ends less than one neuron below `left`.
    """
    costs = (shape.neuron_parameters, shape.group_parameters)
    kept = [[set(range(len(values))) for values in layers] for layers in scores]
    ranking = []  # (score, 0 for a neuron or 1 for a KV group, layer, index), without the best of each layer
    for kind, layers in enumerate(scores):
        for layer, values in enumerate(layers):
            best = int(values.argmax())
            for index, value in enumerate(values.tolist()):
                if index != best:
                    ranking.append((value, kind, layer, index))
    excess = shape.decoder - left
    for _, kind, layer, index in sorted(ranking):
        if excess <= 0:
            break
        if costs[kind] < excess + costs[0]:
            kept[kind][layer].remove(index)
            excess -= costs[kind]
    if excess > 0:
        return None
    return [[sorted(indices) for indices in layers] for layers in kept]
