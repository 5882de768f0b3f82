"""Layer statistics for notebooks and widgets: what each layer does to the stream, and what its loss does to the model.

    turn    1 - cos(h_t, h'_t) of every token in every layer; block influence is its mean over the tokens
    norm    ||h_t|| before the first layer and after each: massive activations stand out
    harm    increase of the loss, nats per token, when one layer is left out; for each sequence, so that the
            spread over sequences says how far a difference between two layers can be trusted
    rounds  the same harm with 0, 1, 2 ... layers gone already, each time the least harmful one: greedy removal

What they say is in `importance.layer_study`. Every pass is `cached`, so each is run once per model, tokens and layers
gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..calibration.stream import through
from ..errors import InputError
from ..families import family_of
from ..families.protocol import Model
from ..importance.layer_study import LayerStudy
from ..importance.layers import block_influence, greedy_order, sequence_loss_increase
from ..shape import Shape
from ..surgery import keep_layers, shallow_copy
from .cache import Tensors, cached
from .dense_stream import layer_of, loss_behind, text_loss, walk_to


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


def without_layers(model: Model, gone: Sequence[int]) -> Model:
    """A second model without the layers `gone`; it shares its tensors with `model`, which stays whole.

    Raises InputError for a layer that is not there, or if none is left.
    """
    layers = Shape.of(model).layers
    if not set(gone) <= set(range(layers)) or len(set(gone)) == layers:
        raise InputError(f"expected some of the layers 0 to {layers - 1}, not all, got {sorted(gone)}: choose others")
    second = shallow_copy(model)
    keep_layers(second, [index for index in range(layers) if index not in gone])
    return second


def loss_without(model: Model, ids: Tensor, gone: Sequence[int] = ()) -> float:
    """Mean next-token loss on ids (S, L), nats per token, without the layers `gone`: for text not calibrated on."""
    return float(text_loss(without_layers(model, gone), ids))


@cached
def harm_at_position(model: Model, ids: Tensor, layer: int, position: int = 0) -> list[float]:
    """Loss increase, nats per token on ids (S, L), of skipping a layer [at one position, at all others but this one].

    Skipping it everywhere is what `harm` measures. Where does that harm come from? At the other tokens the layer still
    reads this one, but does not write to it, or the other way round.
    """
    hidden, rope = walk_to(model, ids, layer)
    after = through(layer_of(model, layer), hidden, rope, hidden.device)
    here = torch.arange(ids.shape[1], device=hidden.device)[:, None] == position  # (L, 1)
    streams = (after, torch.where(here, hidden, after), torch.where(here, after, hidden))
    whole, there, elsewhere = (loss_behind(model, stream, rope, layer + 1, ids) for stream in streams)
    return [float(there - whole), float(elsewhere - whole)]
