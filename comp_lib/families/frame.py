"""What a model does around its layers, done by the model itself: its own forward, with stand-ins for the layers.

Embeddings, what is handed to each layer (rotary embeddings, masks, ...), and the head: Granite multiplies and divides
there, Gemma 2 bends the logits, windowed layers get other masks. None of that is written down here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..errors import InputError, refusing
from .protocol import Device, Model

PIECE = 2048  # tokens that are embedded at once: masks are made on the way
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with beside the hidden states, by position and by name."""


@dataclass
class Rope:
    """What a model hands its layers for a text of some length: rotary embeddings, masks, whatever it likes."""

    arguments: dict[int, Arguments]  # by the number that a layer has given itself, for the KV cache
    checked: set[tuple[type, ...]] = field(
        default_factory=set
    )  # kinds of layers that were found to be as we think


def outline(model: Model) -> Any:
    """The model whose modules stand for those of `model`. Raises InputError unless it is laid out as others."""
    whole = getattr(model, "skeleton", model)
    parts = dict(getattr(whole, "model", nn.Module()).named_children())
    missing = [name for name in ("embed_tokens", "layers", "norm") if name not in parts]
    if missing or not hasattr(whole, "lm_head"):
        got = f"{type(whole).__name__} without {' and '.join(missing or ['lm_head'])}: choose another model"
        raise InputError(
            f"expected a decoder with embed_tokens, layers and norm, and lm_head over it, got {got}"
        )
    return whole


def with_parts(module: nn.Module, **parts: nn.Module) -> Any:
    """A second `module` with other parts; all else the two share."""
    other = copy.copy(module)
    vars(other)["_modules"] = module._modules | parts
    return other


def check_ids(ids: Tensor, vocabulary: int) -> None:
    """Raises InputError for a token that was added to the tokenizer, and not to the model."""
    if ids.numel() and int(ids.max()) >= vocabulary:
        got = f"{int(ids.max())}: take the tokenizer that belongs to the model, or another text"
        raise InputError(f"expected tokens below {vocabulary}, of which the model has embeddings, got {got}")


def embed(model: Model, ids: Tensor) -> Tensor:
    """Hidden states before the first layer: ids (S, L) -> (S, L, d). Raises InputError for tokens it does not know."""
    check_ids(ids, model.config.vocab_size)
    if hasattr(model, "skeleton"):
        table, ids = model.embedding(ids)
    else:
        table = model.model.embed_tokens
    frame = with_parts(outline(model).model, embed_tokens=table, layers=nn.ModuleList(), norm=nn.Identity())
    pieces = ids.to(table.weight.device).split(max(1, PIECE // ids.shape[1]))
    return torch.cat([frame.forward(input_ids=piece, use_cache=False).last_hidden_state for piece in pieces])


def rotary(model: Model, length: int, device: Device, dtype: torch.dtype) -> Rope:
    """What the layers are handed for texts of `length` tokens, on `device`: rotary embeddings, masks; for all texts.

    Raises InputError for a model that does more than to call its layers one after another.
    """
    backbone, made = outline(model).model, list[tuple[Tensor, Arguments]]()

    def catch(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made.append((hidden_states, (args, kwargs)))
        return hidden_states

    catchers = [with_parts(layer) for layer in backbone.layers]
    for layer in catchers:
        layer.forward = catch
    weight = backbone.embed_tokens.weight
    text = torch.ones(
        1, length, weight.shape[1], dtype=dtype, device="cpu" if weight.is_meta else weight.device
    )
    expected, name = (
        "a decoder that calls its layers one after another, then its norm",
        type(backbone).__name__,
    )
    with refusing(expected, name, "choose another model"):
        frame = with_parts(backbone, layers=nn.ModuleList(catchers), norm=nn.Identity())
        states = frame.forward(inputs_embeds=text, use_cache=False).last_hidden_state
    if len(made) != len(catchers) or catchers and not torch.equal(states, made[0][0]):
        raise InputError(f"expected {expected}, got {name}, which does more: choose another model")
    handed = [arguments for _, arguments in made]
    there = tree_map(
        lambda value: value.to(torch.device(device)) if isinstance(value, Tensor) else value, handed
    )
    numbers = (
        next(p.layer_idx for p in layer.modules() if hasattr(p, "layer_idx")) for layer in backbone.layers
    )
    return Rope(dict(zip(numbers, there, strict=True)))


def head(model: Model, states: Tensor, piece: nn.Module | None = None) -> Tensor:
    """What the final norm returns (..., d) -> logits (..., vocabulary), or those of a `piece` of the head."""
    rows = states.reshape(1, -1, states.shape[-1])
    backbone = with_parts(outline(model).model)
    backbone.forward = lambda **_: BaseModelOutputWithPast(last_hidden_state=rows)
    shell = with_parts(outline(model), model=backbone, lm_head=model.lm_head if piece is None else piece)
    logits: Tensor = shell.forward(inputs_embeds=rows, use_cache=False).logits
    return logits.reshape(*states.shape[:-1], -1)
