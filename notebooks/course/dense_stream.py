"""What the neurons of a dense model are worth: statistics for the notebooks and the modules beside this one.

Everything here looks at the *dense* stream: no layer before the one in question has been pruned. So the
numbers of one layer can be used again, whatever the plan will be. `prune` itself gathers new statistics
behind each pruned layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from comp_lib.decoder.run import LayerArguments, embed, layer_arguments, run_step
from comp_lib.decoder.structure import layers_of, parts
from comp_lib.decoder.types import STEPS, Layer, Model, Step
from comp_lib.decoder.walk import batches, send_through
from comp_lib.importance.problem import RIDGE, Problem, upstream_norms
from comp_lib.importance.statistics.sums import MatrixStatistics, Statistics, token_weight
from comp_lib.utils.errors import InputError

from .cache import Tensors, cached


def layer_of(model: Model, layer: int) -> Layer:
    """A decoder layer, by its number. Raises InputError if the model has no such layer."""
    layers = layers_of(model)
    if not 0 <= layer < len(layers):
        expected = f"a layer from 0 to {len(layers) - 1}"
        raise InputError(expected=expected, got=layer, hint="choose one of these")
    return layers[layer]


def weight_of(layer: Layer, step: Step = "mlp") -> Tensor:
    """W (n, d), float64, of a layer's down_proj or o_proj, for y = X W."""
    return parts(layer)[step].output_linear.weight.detach().T.double()


def through_layers(model: Model, hidden: Tensor, arguments: LayerArguments, layers: slice) -> Tensor:
    """Hidden states that enter the first of these layers -> those that leave the last: both (S, L, d)."""
    for layer in layers_of(model)[layers]:
        hidden = send_through(layer, hidden, arguments, hidden.device)
    return hidden


def walk_to(model: Model, ids: Tensor, layer: int) -> tuple[Tensor, LayerArguments]:
    """Hidden states (S, L, d) that flow into a layer of the dense model, and the rotary embedding."""
    hidden = embed(model, ids)
    arguments = layer_arguments(model, ids.shape[1], hidden.device, hidden.dtype)
    return through_layers(model, hidden, arguments, slice(layer)), arguments


def step_batches(
    layer: Layer, step: Step, hidden: Tensor, arguments: LayerArguments
) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs one residual step on the stream before it, `hidden` (S, L, d), batch by batch.

    Yields the stream behind the step (B, L, d), and what its output linear reads (B, L, n).
    """
    for rows in batches(*hidden.shape[:2]):
        yield run_step(layer, step, hidden[rows], arguments)


def behind_attention(layer: Layer, hidden: Tensor, arguments: LayerArguments) -> Tensor:
    """Hidden states that enter a layer -> the stream between its two steps: both (S, L, d)."""
    return torch.cat([stream for stream, _ in step_batches(layer, "attention", hidden, arguments)])


def step_statistics(
    layer: Layer, step: Step, hidden: Tensor, arguments: LayerArguments
) -> tuple[dict[str, MatrixStatistics], Tensor]:
    """Sums of what the output linear of a step reads, and the stream behind the step (S, L, d).

    `hidden` (S, L, d) is the stream before the step. The sums are "weighted", with tokens weighted by
    1 / ||h_t||, and "plain".
    """
    width = parts(layer)[step].output_linear.in_features
    statistics = {name: MatrixStatistics.zeros(width, device=hidden.device) for name in ("weighted", "plain")}
    streams = []
    for stream, x in step_batches(layer, step, hidden, arguments):
        statistics["weighted"].add(x, token_weight=token_weight(stream))
        statistics["plain"].add(x)
        streams.append(stream)
    return statistics, torch.cat(streams)


@cached
def layer_tokens(model: Model, ids: Tensor, layer: int, step: Step = "mlp") -> Tensors:
    """What an output linear reads, token by token: x (T, n), and norms (T,) of the residual stream behind it.

    All tokens must fit in memory. `layer_xtx` goes batch by batch instead.
    """
    hidden, arguments = walk_to(model, ids, layer)
    tokens, _ = step_tokens(layer_of(model, layer), step, hidden, arguments)
    return tokens


def step_tokens(
    layer: Layer, step: Step, hidden: Tensor, arguments: LayerArguments
) -> tuple[Tensors, Tensor]:
    """The tokens of `layer_tokens`, and the stream behind the step (S, L, d).

    `hidden` (S, L, d) is what enters the layer, also where the step is its second.
    """
    before = behind_attention(layer, hidden, arguments) if step == "mlp" else hidden
    streams, inputs = zip(*step_batches(layer, step, before, arguments), strict=True)
    behind = torch.cat(streams)
    tokens = {"x": torch.cat(inputs).flatten(0, -2), "norms": 1.0 / token_weight(behind).flatten()}
    return tokens, behind


@cached
def layer_xtx(model: Model, ids: Tensor, layer: int) -> Tensors:
    """C = X^T X (n, n), float64, of both output linears, from one walk to a layer of the dense stream.

    The names are "mlp-weighted", "mlp-plain", "attention-weighted" and "attention-plain". "weighted" means
    that tokens are weighted by 1 / ||h_t||.
    """
    module = layer_of(model, layer)
    hidden, arguments = walk_to(model, ids, layer)
    matrices: Tensors = {}
    for step in STEPS:
        statistics, hidden = step_statistics(module, step, hidden, arguments)
        matrices |= {f"{step}-{name}": summed.xtx for name, summed in statistics.items()}
    return matrices


def dense_problem(
    model: Model, ids: Tensor, layer: int, step: Step = "mlp", ridge: float = RIDGE, weighted: bool = True
) -> Problem:
    """A layer's down_proj ("mlp") or o_proj ("attention") as the metrics see it, tokens `weighted` or not."""
    module = layer_of(model, layer)
    weighting = "weighted" if weighted else "plain"
    xtx = layer_xtx(model, ids, layer)[f"{step}-{weighting}"]
    return problem_from_statistics(module, step, MatrixStatistics.of(xtx), ridge)


def problem_from_statistics(
    layer: Layer, step: Step, statistics: Statistics, ridge: float = RIDGE
) -> Problem:
    """The same as `dense_problem`, but from sums that the caller has, on their device."""
    device = statistics.input_sum.device
    weight = weight_of(layer, step).to(device)

    def norms_on_device() -> Tensor:
        return upstream_norms(layer, step).to(device)

    return Problem(statistics, weight, norms_on_device, parts(layer)[step].block_size, ridge)
