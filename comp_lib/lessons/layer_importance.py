"""Layer statistics for notebooks and widgets: what each layer does to the stream, and what its loss does to the model.

    turn    1 - cos(h_t, h'_t) of every token in every layer; block influence is its mean over the tokens
    norm    ||h_t|| before the first layer and after each: massive activations stand out
    harm    increase of the loss, nats per token, when one layer is left out; for each sequence, so that the
            spread over sequences says how far a difference between two layers can be trusted
    rounds  the same harm with 0, 1, 2 ... layers gone already, each time the least harmful one: greedy removal

and the harm of leaving out one half of a layer, its attention or its MLP. Lesson 01 defines all of it in its cells, in
the plain way; here prefixes are shared. What the statistics say is in `importance.layer_study`. Every pass is `cached`,
so each is run once per model, tokens and layers gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..calibration.stream import attention_step, mlp_step, sequence_losses, through
from ..errors import InputError
from ..families import family_of
from ..families.protocol import Model
from ..importance.layer_study import LayerStudy
from ..importance.layers import block_influence, greedy_order, sequence_loss_increase
from ..shape import Shape
from .cache import Tensors, cached
from .dense_stream import walk, walk_to


def layer_study(model: Model, ids: Tensor, greedy: int = 3) -> LayerStudy:
    """All statistics for ids (S, L), from the cache where they are there; `greedy` layers are removed one by one.

    Raises InputError if that would leave no layer.
    """
    rounds, order = greedy_rounds(model, ids, greedy)
    harm = harm_by_sequence(model, ids)
    return LayerStudy(ids, harm=harm, rounds=rounds, order=order, **stream_statistics(model, ids))


@cached
def stream_statistics(model: Model, ids: Tensor) -> Tensors:
    """influence (n,), cosine (n, S, L) and norms (n + 1, S, L) of the dense model for ids (S, L): two passes."""
    hidden, rope = walk_to(model, ids, 0)  # (S, L, d)
    cosine, norms = [], [hidden.float().norm(dim=-1)]
    for layer in family_of(model).layers(model):
        before, hidden = hidden, through(layer, hidden, rope, hidden.device)
        cosine.append(nn.functional.cosine_similarity(before.float(), hidden.float(), dim=-1))
        norms.append(hidden.float().norm(dim=-1))
    influence = block_influence(model, ids, hidden.device)
    return {"influence": influence, "cosine": torch.stack(cosine), "norms": torch.stack(norms)}


@cached
def harm_by_sequence(model: Model, ids: Tensor, gone: Sequence[int] = ()) -> Tensor:
    """Loss increase without each layer, for each sequence of ids (S, L): (n, S), nats per token.

    Where the layers `gone`, ascending, are gone already, theirs is NaN.
    """
    present = [layer for layer in range(Shape.of(model).layers) if layer not in gone]
    return sequence_loss_increase(model, ids, family_of(model).embedding(model).weight.device, present=present)


def greedy_rounds(model: Model, ids: Tensor, count: int) -> tuple[Tensor, tuple[int, ...]]:
    """Greedy removal of `count` layers: harm in each round (count, n) in nats per token, NaN for layers gone; order."""
    layers = Shape.of(model).layers
    if not 0 <= count < layers:
        raise InputError(f"expected 0 to {layers - 1} layers to remove, got {count}: ask for fewer")

    def harm(present: Sequence[int]) -> Tensor:
        # sequences are of one length: the mean of their losses is the loss on all tokens
        return harm_by_sequence(model, ids, [index for index in range(layers) if index not in present]).mean(1)

    order, rounds = greedy_order(harm, layers, count)
    return torch.stack([torch.empty(layers), *rounds])[1:], tuple(order)


@cached
def sublayer_harm(model: Model, ids: Tensor) -> Tensor:
    """Loss increase without the attention, and without the MLP, of each layer, for each sequence: (n, 2, S), nats."""
    hidden, rope = walk_to(model, ids, 0)  # (S, L, d)
    losses = []
    for place, layer in enumerate(family_of(model).layers(model)):
        attended, _ = attention_step(layer, hidden, rope)
        halves = torch.cat([mlp_step(layer, hidden)[0], attended])  # without its attention; without its MLP
        behind = walk(model, halves, rope, slice(place + 1, None))
        losses.append(sequence_losses(model, behind, ids.repeat(2, 1)).view(2, -1))
        hidden, _ = mlp_step(layer, attended)
    return torch.stack(losses) - sequence_losses(model, hidden, ids)
