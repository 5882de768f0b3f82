"""What takes time in lesson 02b, metrics on trial: inputs of several layers, and losses without neurons.

What the metrics say, and the errors of single layers, stand in the lesson's own cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from comp_lib.decoder.structure import parts
from comp_lib.decoder.surgery import shallow_copy, shrink
from comp_lib.decoder.types import Model
from comp_lib.decoder.walk import sequence_losses, walk
from comp_lib.importance.problem import RIDGE
from comp_lib.importance.statistics.sums import MatrixStatistics

from .cache import Tensors, cached
from .dense_stream import layer_of, step_tokens, through_layers, walk_to, weight_of

Choice = Mapping[int, Tensor]  # layer -> the neurons that stay (k,), ascending


def mlp_tokens(model: Model, ids: Tensor, layers: Sequence[int]) -> list[Tensors]:
    """What down_proj reads in each of `layers`, token by token: `layer_tokens` of each, but from one walk.

    Raises InputError if the model has no such layer.
    """
    for layer in layers:
        layer_of(model, layer)
    tokens = _mlp_tokens(model, ids, tuple(sorted(layers)))
    return [{name: tokens[f"{name} {layer}"] for name in ("x", "norms")} for layer in layers]


@cached
def _mlp_tokens(model: Model, ids: Tensor, layers: tuple[int, ...]) -> Tensors:
    """The same as one flat mapping with the names "x LAYER" and "norms LAYER"; `layers` ascend."""
    tokens_of_layers: Tensors = {}
    for visit in walk(model, ids, model.device):
        if visit.index > max(layers, default=-1):
            break
        if visit.index in layers:
            tokens, visit.after = step_tokens(visit.layer, "mlp", visit.before, visit.arguments)
            tokens_of_layers |= {f"{name} {visit.index}": values for name, values in tokens.items()}
    return tokens_of_layers


@cached
def losses_without(
    model: Model, ids: Tensor, windows: Tensor, choices: Mapping[str, Choice], as_they_are: Sequence[str] = ()
) -> Tensors:
    """Loss of each of `windows` (S, L), nats per token, when the MLPs keep what a choice says: name -> (S,).

    The weights of the neurons that stay are fitted to the output linear's output on `ids`, except in the
    choices whose names are in `as_they_are`. The name "dense" has the losses of the model itself.
    """
    layers = sorted({layer for choice in choices.values() for layer in choice})
    pruned = {name: shallow_copy(model) for name in choices}
    for layer, tokens in zip(layers, mlp_tokens(model, ids, layers), strict=True):
        module = layer_of(model, layer)
        weight = weight_of(module)
        statistics = MatrixStatistics.zeros(parts(module)["mlp"].output_linear.in_features)
        statistics.add(tokens["x"], token_weight=1.0 / tokens["norms"])
        for name, choice in choices.items():
            if layer in choice:
                fitted = None if name in as_they_are else statistics.refit(weight, choice[layer], RIDGE)
                shrink(layer_of(pruned[name], layer), "mlp", choice[layer], fitted)
    first = layers[0]
    hidden, arguments = walk_to(model, windows, first)  # all models are the same before this layer
    losses = {}
    for name, judged in {**pruned, "dense": model}.items():
        final = through_layers(judged, hidden, arguments, slice(first, None))
        losses[name] = sequence_losses(judged, final, windows)
    return losses
