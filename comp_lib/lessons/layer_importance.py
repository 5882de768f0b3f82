"""Layer statistics for notebooks and widgets: what each layer does to the stream, and what its loss does to the model.

    turn    1 - cos(h_t, h'_t) of every token in every layer; block influence is its mean over the tokens
    norm    ||h_t|| before the first layer and after each: massive activations stand out
    harm    increase of the loss, nats per token, when one layer is left out; for each sequence, so that the
            spread over sequences says how far a difference between two layers can be trusted
    rounds  the same harm with 0, 1, 2 ... layers gone already, each time the least harmful one: greedy removal

What they say is in `importance.layer_study`. Every pass goes through `cache.cached`, so each is run once per model,
tokens and layers gone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..calibration.stream import embed, rotary, sequence_losses, through
from ..errors import InputError
from ..evaluation.loss import perplexity
from ..importance.layer_study import LayerStudy
from ..importance.layers import block_influence, loss_increase, sequence_loss_increase
from ..report import Progress, no_progress
from ..surgery import keep_layers
from .cache import cached, to_tensors


def layer_study(model: nn.Module, ids: Tensor, greedy: int = 3, progress: Progress = no_progress) -> LayerStudy:
    """All statistics for ids (S, L), from the cache where they are there; `greedy` layers are removed one by one.

    Raises InputError if that would leave no layer.
    """
    stream = stream_statistics(model, ids, progress)
    harm = harm_by_sequence(model, ids, progress)
    rounds, order = greedy_rounds(model, ids, greedy, progress)
    return LayerStudy(ids, harm=harm, rounds=rounds, order=order, **stream)


def stream_statistics(model: nn.Module, ids: Tensor, progress: Progress = no_progress) -> dict[str, Tensor]:
    """influence (n,), cosine (n, S, L) and norms (n + 1, S, L) of the dense model for ids (S, L): two passes."""
    return cached("layer-stream", model, ids, {}, lambda: _stream_statistics(model, ids, progress))


@torch.inference_mode()
def _stream_statistics(model: nn.Module, ids: Tensor, progress: Progress) -> dict[str, Tensor]:
    device = str(model.model.embed_tokens.weight.device)
    hidden = embed(model, ids)  # (S, L, d)
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    cosine, norms = [], [hidden.float().norm(dim=-1)]
    for layer in model.model.layers:
        after = through(layer, hidden, rope, device)
        cosine.append(nn.functional.cosine_similarity(hidden.float(), after.float(), dim=-1))
        norms.append(after.float().norm(dim=-1))
        hidden = after
    influence = block_influence(model, ids, device, progress)
    return {"influence": influence, "cosine": torch.stack(cosine), "norms": torch.stack(norms)}


def harm_by_sequence(model: nn.Module, ids: Tensor, progress: Progress = no_progress) -> Tensor:
    """Loss increase without each layer, for each sequence of ids (S, L): (n, S), nats per token."""
    device = str(model.model.embed_tokens.weight.device)

    def compute() -> dict[str, Tensor]:
        return {"harm": sequence_loss_increase(model, ids, device, progress)}

    return cached("layer-harm", model, ids, {}, compute)["harm"]


def greedy_rounds(
    model: nn.Module, ids: Tensor, count: int, progress: Progress = no_progress
) -> tuple[Tensor, tuple[int, ...]]:
    """Greedy removal of `count` layers: harm in each round (count, n), nats per token, NaN for layers gone; the order.

    The choice is that of `importance.layers.greedy_order`; here the harm of the layers *not* chosen is kept too.
    """
    layers = len(model.model.layers)
    if not 0 <= count < layers:
        raise InputError(f"expected 0 to {layers - 1} layers to remove, got {count}: ask for fewer")
    rounds, gone = torch.empty(0, layers), ()
    for _ in range(count):
        if gone:
            harm = _harm_after(model, ids, gone, progress)  # (n,)
        else:  # sequences are of one length: the mean of their losses is the loss on all tokens
            harm = harm_by_sequence(model, ids, progress).mean(1)
        rounds = torch.cat([rounds, harm[None]])
        gone += (int(harm.nan_to_num(nan=float("inf")).argmin()),)
    return rounds, gone


def _harm_after(model: nn.Module, ids: Tensor, gone: tuple[int, ...], progress: Progress) -> Tensor:
    """Loss increase (n,) on ids (S, L) where the layers `gone` are gone already; NaN for those."""
    present = [index for index in range(len(model.model.layers)) if index not in gone]
    device = str(model.model.embed_tokens.weight.device)
    found = cached(
        "layer-harm-after",
        model,
        ids,
        {"gone": sorted(gone)},
        lambda: {"harm": loss_increase(model, ids, device, progress, present)},
    )
    return found["harm"]


def without_layers(model: nn.Module, gone: Sequence[int]) -> nn.Module:
    """A second model without the layers `gone`; it shares its tensors with `model`, which stays whole.

    Raises InputError for a layer that is not there, or if none is left.
    """
    layers = len(model.model.layers)
    if not set(gone) <= set(range(layers)) or len(set(gone)) == layers:
        raise InputError(f"expected some of the layers 0 to {layers - 1}, not all, got {sorted(gone)}: choose others")
    second = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    keep_layers(second, [index for index in range(layers) if index not in gone])
    return second


def loss_without(model: nn.Module, ids: Tensor, gone: Sequence[int] = ()) -> float:
    """Mean next-token loss on ids (S, L), nats per token, without the layers `gone`: for text not calibrated on."""
    gone = sorted(gone)
    found = cached(
        "layers-gone",
        model,
        ids,
        {"gone": gone},
        lambda: to_tensors({"loss": [perplexity(without_layers(model, gone), ids).loss]}),
    )
    return float(found["loss"])


def harm_at_position(model: nn.Module, ids: Tensor, layer: int, position: int = 0) -> tuple[float, float]:
    """Loss increase, nats per token on ids (S, L), of skipping a layer (at one position, at all others but this one).

    Skipping it everywhere is what `harm` measures. Where does that harm come from? At the other tokens the layer still
    reads this one, but does not write to it, or the other way round.
    """
    found = cached(
        "layer-harm-at",
        model,
        ids,
        {"layer": layer, "position": position},
        lambda: _harm_at_position(model, ids, layer, position),
    )
    return float(found["there"]), float(found["elsewhere"])


@torch.inference_mode()
def _harm_at_position(model: nn.Module, ids: Tensor, layer: int, position: int) -> dict[str, Tensor]:
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], hidden.device, hidden.dtype)
    for module in model.model.layers[:layer]:
        hidden = through(module, hidden, rope, hidden.device)
    after = through(model.model.layers[layer], hidden, rope, hidden.device)
    here = torch.arange(ids.shape[1], device=hidden.device)[:, None] == position  # (L, 1)
    losses = []
    for stream in (after, torch.where(here, hidden, after), torch.where(here, after, hidden)):
        for module in model.model.layers[layer + 1 :]:
            stream = through(module, stream, rope, hidden.device)
        losses.append(sequence_losses(model, stream, ids).mean())
    return {"there": losses[1] - losses[0], "elsewhere": losses[2] - losses[0]}
