"""LLM-Pruner (Ma et al. 2023): Taylor importance of coupled weights, from the gradient of the loss.

The loss L is the mean next-token loss of the calibration tokens, g its gradient. A weight w is worth |w g|,
which the public code calls "param_first", the default of its LLaMA scripts. A coupled group is worth the sum
over its weights. The weights of an MLP neuron are its rows of gate_proj and up_proj and its column of
down_proj. The weights of a KV group are its rows of k_proj and v_proj, the rows of q_proj of its query heads,
and their columns of o_proj. (The public code folds q and o onto k by the index modulo their size. Under
grouped-query attention these are not the heads that read this KV head; we sum what really goes. Biases do not
count, there as here.)

Each layer is ranked by itself, and all lose the same share, but the first 4 and the last 2 of 32 lose
nothing. KV groups lose that share rounded down, as in the public code; neurons make up the difference. No
fine-tuning follows.

Memory: the whole model on one device, and the sums of the gradients, as large as all weights that may go.
`Settings.device`, where one layer at a time computes, is not used. One sequence at a time has a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...decoder.decoder import Decoder
from ...decoder.run import evaluation_mode
from ...decoder.shape import Shape
from ...decoder.structure import layers_of, parts
from ...decoder.types import Layer, Model
from ...hybrid_granularity.plan import Plan
from ...hybrid_granularity.uniform import parameter_budget
from ...importance.neuron_metrics import keep_highest
from ...utils.errors import OutOfReach
from ...utils.progress import Progress, no_progress
from ..settings import CompleteSettings


def make_plan(
    decoder: Decoder, ids: Tensor, settings: CompleteSettings, name: str, progress: Progress
) -> Plan:
    """The plan by Taylor importance on ids (S, L).

    Raises OutOfReach when the ratio cannot be reached in the layers that may be pruned.
    """
    structure = decoder.structure
    shape = Shape.of(structure)
    neuron_counts, group_counts = widths(shape, settings)
    scores = taylor_scores(structure, ids, prunable_layers(shape.layer_count), progress)
    kept_neurons: list[Sequence[int]] = [range(count) for count in shape.neurons]
    kept_groups: list[Sequence[int]] = [range(count) for count in shape.kv_groups]
    for layer, (neuron_scores, group_scores) in scores.items():
        kept_neurons[layer] = keep_highest(neuron_scores, neuron_counts[layer]).kept.tolist()
        kept_groups[layer] = keep_highest(group_scores, group_counts[layer]).kept.tolist()
    return settings.plan_request(shape, name).exact_plan(kept_neurons, kept_groups)


def check_settings(shape: Shape, settings: CompleteSettings) -> None:
    """Raises OutOfReach when the ratio cannot be reached in the layers that may be pruned."""
    widths(shape, settings)


def prunable_layers(layer_count: int) -> range:
    """The layers that may be pruned: of 32 all but the first 4 and the last 2, of fewer the same shares."""
    return range(min(4, (layer_count + 4) // 8), layer_count - min(2, (layer_count + 8) // 16))


def widths(shape: Shape, settings: CompleteSettings) -> tuple[list[int], list[int]]:
    """The numbers of neurons and KV groups that each layer keeps under the common budget.

    Raises OutOfReach when the ratio cannot be reached in the layers that may be pruned.
    """
    budget = parameter_budget(settings.plan_request(shape), settings.drop_layers)
    # The budget also pays for biases that the recovery adds, so what stays is counted with them. What may go
    # is counted without them, since the parent does not have them.
    with_biases = shape.with_biases() if settings.adds_biases else shape
    layers = prunable_layers(shape.layer_count)
    neurons = list(shape.neurons)
    groups = list(shape.kv_groups)
    prunable_parameters = sum(
        shape.parameters_of_layer(layer) - shape.fixed_parameters[layer] for layer in layers
    )
    share = (with_biases.decoder_parameters - budget) / prunable_parameters
    for layer in layers:
        groups[layer] = settings.kv_groups or max(1, groups[layer] - int(share * groups[layer]))
    excess = with_biases.with_widths(neurons, groups).decoder_parameters - budget  # parameters
    excess_neurons = max(0, -(-excess // with_biases.neuron_parameters))
    removable = [neurons[layer] - 1 for layer in layers]
    if excess_neurons > sum(removable):
        raise OutOfReach(
            expected=f"a ratio that {settings.method} can reach in the {len(layers)} layers "
            "that it does not protect",
            got=f"{settings.ratio:g}",
            hint="ask for less or choose another method",
        )
    for layer, count in zip(layers, split_proportionally(excess_neurons, removable), strict=True):
        neurons[layer] -= count
    return neurons, groups


def split_proportionally(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to `weights`, rounded so that their sum is `total`.

    >>> split_proportionally(10, [1, 1, 2])
    [2, 3, 5]
    """
    weight_sum = max(1, sum(weights))
    pieces = []
    weight_so_far = 0
    total_so_far = 0
    for weight in weights:
        weight_so_far += weight
        rounded_total = total * weight_so_far // weight_sum
        pieces.append(rounded_total - total_so_far)
        total_so_far = rounded_total
    return pieces


def taylor_scores(
    model: Model, ids: Tensor, layers: Sequence[int], progress: Progress = no_progress
) -> dict[int, tuple[Tensor, Tensor]]:
    """Importance of the neurons (n,) and KV groups (g,) of each of `layers`, for ids (S, L).

    Gradients are summed in float32 at least. The model is left as it was, its gradients included.
    """
    stack = layers_of(model)
    weights = []
    for layer in layers:
        weights += [parameter for parameter in stack[layer].parameters() if parameter.ndim == 2]
    precise = torch.promote_types(model.dtype, torch.float32)
    sums: dict[Tensor, Tensor] = {weight: torch.zeros_like(weight, dtype=precise) for weight in weights}
    before = [(weight.requires_grad, weight.grad) for weight in weights]

    def add(weight: Tensor) -> None:
        """Move a gradient into the sums as soon as it is computed, so that only one is in memory."""
        gradient = weight.grad
        weight.grad = None
        if gradient is not None:
            sums[weight].add_(gradient.to(precise), alpha=1 / len(ids))

    hooks = []
    try:
        for weight in weights:
            weight.requires_grad_(True).grad = None
            hooks.append(weight.register_post_accumulate_grad_hook(add))
        with evaluation_mode(model):
            for count, row in enumerate(ids.to(model.device), start=1):
                with torch.enable_grad():
                    logits = model(input_ids=row[None], use_cache=False).logits[0, :-1]  # (L - 1, vocab)
                    loss = nn.functional.cross_entropy(logits.float(), row[1:].to(logits.device))
                    loss.backward(inputs=weights)
                progress("gradients", count, len(ids))
    finally:
        for hook in hooks:
            hook.remove()
        for weight, (required, gradient) in zip(weights, before, strict=True):
            weight.requires_grad_(required).grad = gradient

    return {layer: _group_scores(stack[layer], sums) for layer in layers}


def _group_scores(layer: Layer, gradients: dict[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of |w g| over the coupled groups of a layer: neurons (n,), KV groups (g,)."""

    def importance(weight: Tensor) -> Tensor:
        return (gradients.pop(weight) * weight.detach()).abs()

    sums = {}
    for step, part in parts(layer).items():
        produced = []  # for each matrix that produces the blocks, the sums over its rows (blocks,)
        for name, rows in part.producer_rows.items():
            row_sums = importance(getattr(part.module, name).weight).sum(1)
            produced.append(row_sums[rows].sum(1))
        column_sums = importance(part.output_linear.weight).sum(0)
        sums[step] = sum(produced) + column_sums.reshape(len(produced[0]), -1).sum(1)
    return sums["mlp"], sums["attention"]
