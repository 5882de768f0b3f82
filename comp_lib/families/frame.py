"""What a model does around its layers, done by the model itself: its own forward, with stand-ins for the layers.

Embeddings, what is handed to each layer (rotary embeddings, masks, ...), and the head: Granite multiplies and divides
there, Gemma 2 bends the logits, windowed layers get other masks. None of that is written down here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..errors import InputError, refusing
from .protocol import Device, Layer, Model, Rope

PIECE = 2048  # tokens that are embedded at once: masks are made on the way


class Answer(nn.Module):
    """Stands in for a decoder: whatever it is asked, these are its last hidden states."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.states)


def outline(model: Model) -> Any:
    """The model whose modules stand for those of `model`. Raises InputError unless it is laid out as others."""
    whole = getattr(model, "skeleton", model)
    parts = dict(getattr(whole, "model", nn.Module()).named_children())
    missing = [name for name in ("embed_tokens", "layers", "norm") if name not in parts]
    if missing or not hasattr(whole, "lm_head"):
        got = f"{type(whole).__name__} without {' and '.join(missing or ['lm_head'])}: choose another model"
        raise InputError(f"expected a decoder with embed_tokens, layers and norm, and lm_head over it, got {got}")
    return whole


def with_parts(module: nn.Module, **parts: nn.Module) -> Any:
    """A second `module` with other parts; all else the two share."""
    other = copy.copy(module)
    vars(other)["_modules"] = module._modules | parts
    return other


def catcher(layer: Layer, made: list[Any]) -> Any:
    """Stands in for a layer: notes what it is called with, and passes the states on."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made.append((hidden_states, args, kwargs))
        return hidden_states

    other = with_parts(layer)
    other.forward = forward
    return other


def calls(model: Model, **inputs: Any) -> list[Any]:
    """What each layer would be called with, were the layers before it nothing: states, positional, named.

    inputs: `input_ids` or `inputs_embeds`; `embed_tokens` takes the place of the model's own.
    """
    backbone, made = outline(model).model, list[Any]()
    parts = {name: inputs.pop(name) for name in ("embed_tokens",) if name in inputs}
    catchers = nn.ModuleList(catcher(layer, made) for layer in backbone.layers)
    frame = with_parts(backbone, layers=catchers, norm=nn.Identity(), **parts)
    expected, name = "a decoder that calls its layers one after another, then its norm", type(backbone).__name__
    with refusing(expected, name, "choose another model"):
        states = frame.forward(**inputs, use_cache=False).last_hidden_state
    if len(made) != len(catchers) or catchers and not torch.equal(states, made[0][0]):
        raise InputError(f"expected {expected}, got {name}, which does more: choose another model")
    return made


def embed(model: Model, ids: Tensor) -> Tensor:
    """Hidden states before the first layer: ids (S, L) -> (S, L, d)."""
    table, own = model.model.embed_tokens, {}
    if not isinstance(table, nn.Module):  # reads rows from a file: a table of those that occur
        different, ids = ids.unique(return_inverse=True)
        own["embed_tokens"] = copy.copy(outline(model).model.embed_tokens)
        rows = {"weight": nn.Parameter(table(different), requires_grad=False)}
        vars(own["embed_tokens"]).update(_parameters=rows, padding_idx=None)
    else:
        ids = ids.to(next(table.parameters()).device)
    pieces = ids.split(max(1, PIECE // ids.shape[1]))
    return torch.cat([calls(model, input_ids=piece, **own)[0][0] for piece in pieces])


def rotary(model: Model, length: int, device: Device, dtype: torch.dtype) -> Rope:
    """What the layers are handed for texts of `length` tokens, on `device`: rotary embeddings, masks; for all texts.

    Raises InputError where that depends on the text itself.
    """
    weight = outline(model).model.embed_tokens.weight
    place: Any = "cpu" if weight.is_meta else weight.device
    texts = (torch.full((1, length, weight.shape[1]), value, dtype=dtype, device=place) for value in (0.0, 1.0))
    made, again = ([call[1:] for call in calls(model, inputs_embeds=text)] for text in texts)
    for first, second in zip(tree_leaves(made), tree_leaves(again), strict=True):
        if isinstance(first, Tensor) and not torch.equal(first, second):
            got = f"{type(model).__name__}: choose another model"
            raise InputError(f"expected layers that see the text in the stream alone, got {got}")
    there = tree_map(lambda value: value.to(torch.device(device)) if isinstance(value, Tensor) else value, made)
    numbers = (number(layer) for layer in outline(model).model.layers)
    return Rope(dict(zip(numbers, there, strict=True)))


def number(layer: Layer) -> int:
    """The number that a layer has given itself, for the KV cache."""
    numbers: list[Any] = [part.layer_idx for part in layer.modules() if hasattr(part, "layer_idx")]
    return int(numbers[0])


def final_norm(model: Model, hidden: Tensor) -> Tensor:
    """Behind the last layer: h (..., d) -> what the head reads (..., d), where the model is."""
    states: Tensor = model.model.norm(hidden.to(model.model.embed_tokens.weight.device))
    return states


def head(model: Model, states: Tensor, weight: Tensor | None = None) -> Tensor:
    """What the final norm returns (..., d) -> logits (..., vocabulary), or of the tokens whose rows `weight` has."""
    linear = nn.Linear(1, 1, device="meta") if weight is not None else model.lm_head
    if weight is not None:
        linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), None
    rows = states.reshape(1, -1, states.shape[-1])
    shell = with_parts(outline(model), model=Answer(rows), lm_head=linear)
    logits: Tensor = shell.forward(inputs_embeds=rows, use_cache=False).logits
    return logits.reshape(*states.shape[:-1], -1)
