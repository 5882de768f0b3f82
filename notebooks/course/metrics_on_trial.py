"""Metrics on trial (lesson 02b): what several layers read, and the loss of the model once neurons have gone.

What the metrics say, and the errors of single layers, stand in the lesson's own cells; here is what takes time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from comp_lib.calibration.stream import sequence_losses
from comp_lib.families import dense_layer
from comp_lib.families.protocol import Model
from comp_lib.importance.neurons import RIDGE
from comp_lib.statistics.gram import Gram, token_weights
from comp_lib.surgery import shallow_copy, shrink_mlp

from .cache import Tensors, cached
from .dense_stream import layer_of, walk, walk_to, watched, weight_of

Choice = Mapping[int, Tensor]  # layer -> neurons that stay (k,), ascending


@cached
def mlp_tokens(model: Model, ids: Tensor, layers: Sequence[int]) -> list[Tensors]:
    """What down_proj reads in each of `layers` (ascending), token by token, from one walk over the dense stream.

    For each layer x (T, n), and norms (T,) of the residual stream behind it: `layer_tokens`, for several at once.
    """
    hidden, rope = walk_to(model, ids, layers[0])
    found: list[Tensors] = []
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        module = layer_of(model, layer)
        hidden = torch.cat([stream for stream, _ in watched(module, "attention", hidden, rope)])
        streams, inputs = zip(*watched(module, "mlp", hidden, rope), strict=True)
        hidden = torch.cat(streams)
        found.append({"x": torch.cat(inputs).flatten(0, -2), "norms": 1.0 / token_weights(hidden).flatten()})
        if following is not None:
            hidden = walk(model, hidden, rope, slice(layer + 1, following))
    return found


@cached
def losses_without(
    model: Model, ids: Tensor, windows: Tensor, choices: Mapping[str, Choice], as_they_are: Sequence[str] = ()
) -> Tensors:
    """Loss of each of `windows` (S, L), nats per token, when the MLPs keep what a choice says: name -> (S,).

    The weights of all that stay are fitted to the dense layer's output on `ids`, but for the names in `as_they_are`.
    "dense": of the model as it is.
    """
    layers = sorted({layer for choice in choices.values() for layer in choice})
    pruned = {name: shallow_copy(model) for name in choices}
    for layer, tokens in zip(layers, mlp_tokens(model, ids, layers), strict=True):
        module = layer_of(model, layer)
        sums, weight = Gram.zeros(dense_layer(module, "mlp").in_features), weight_of(module)
        sums.add(tokens["x"], weight=1.0 / tokens["norms"])
        for name, choice in choices.items():
            if layer in choice:
                fitted = None if name in as_they_are else sums.refit(weight, choice[layer], RIDGE)
                shrink_mlp(layer_of(pruned[name], layer), choice[layer], fitted)
    first = layers[0]
    hidden, rope = walk_to(model, windows, first)  # up to there all models are the same
    judged = {**pruned, "dense": model}
    return {
        name: sequence_losses(one, walk(one, hidden, rope, slice(first, None)), windows) for name, one in judged.items()
    }
