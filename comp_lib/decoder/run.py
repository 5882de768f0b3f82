"""A model run piece by piece: its embedding and head, and each of the two steps of a layer.

The model's own forward does the work, with stand-ins for the pieces that do not run. So nothing has to be
written here for Granite, which multiplies and divides around its layers, for Gemma 2, which bends the logits,
or for windowed layers, which get other masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..utils.errors import InputError, refusing
from .probe import CallArguments, check_two_steps, run_layer
from .structure import backbone_of, with_children
from .tokens import check_below_vocabulary
from .types import Device, Layer, Model, Step

EMBEDDED_TOKENS = 2048  # tokens that are embedded at once, since the model makes masks on the way


@dataclass
class LayerArguments:
    """Arguments that a model hands its layers for texts of one length, such as masks."""

    calls: dict[int, CallArguments]
    """Number of a layer (`layer_number`) -> what the model calls it with."""
    checked: set[tuple[type, ...]] = field(default_factory=set)
    """Kinds of layers that passed `probe.check_two_steps`, each as the types of a layer and its children."""


@contextmanager
def evaluation_mode(*models: Model) -> Iterator[None]:
    """Switch off dropout in `models` within the block, and give each module its mode back after it."""
    training = list[nn.Module]()
    for model in models:
        training += [module for module in model.modules() if module.training]
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def embed(model: Model, ids: Tensor, table: nn.Module | None = None) -> Tensor:
    """Hidden states before the first layer: ids (S, L) -> (S, L, d).

    table: the embedding in which tokens are looked up; None: the model's.

    Raises InputError for tokens that the model does not know.
    """
    backbone = backbone_of(model)
    if table is None:
        check_below_vocabulary(ids, model.config.vocab_size)
        table = backbone.embed_tokens
    frame = with_children(backbone, embed_tokens=table, layers=nn.ModuleList(), norm=nn.Identity())
    weight: Any = table.weight
    batches = ids.to(weight.device).split(max(1, EMBEDDED_TOKENS // ids.shape[1]))
    return torch.cat([frame.forward(input_ids=batch, use_cache=False).last_hidden_state for batch in batches])


def layer_arguments(model: Model, length: int, device: Device, dtype: torch.dtype) -> LayerArguments:
    """The arguments that `model` hands its layers for any text of `length` tokens, on `device`.

    The model runs once on hidden states of ones, with stand-ins for its layers that note their arguments.

    Raises InputError for a model that does more than call its layers one after another.
    """
    backbone = backbone_of(model)
    calls = list[tuple[Tensor, CallArguments]]()

    def catch(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append((hidden_states, (args, kwargs)))
        return hidden_states

    catchers = [with_children(layer) for layer in backbone.layers]
    for catcher in catchers:
        catcher.forward = catch
    weight = backbone.embed_tokens.weight
    host = "cpu" if weight.is_meta else weight.device  # where the stand-ins run
    text = torch.ones(1, length, weight.shape[1], dtype=dtype, device=host)
    expected = "a decoder that calls its layers one after another, then its norm"
    name = type(backbone).__name__
    frame = with_children(backbone, layers=nn.ModuleList(catchers), norm=nn.Identity())
    with refusing(expected, name, "choose another model"):
        states = frame.forward(inputs_embeds=text, use_cache=False).last_hidden_state
    if len(calls) != len(catchers) or (catchers and not torch.equal(states, calls[0][0])):
        raise InputError(expected=expected, got=f"{name}, which does more", hint="choose another model")

    def move(value: object) -> object:
        return value.to(torch.device(device)) if isinstance(value, Tensor) else value

    on_device = tree_map(move, [call for _, call in calls])
    numbers = (layer_number(layer) for layer in backbone.layers)
    return LayerArguments(dict(zip(numbers, on_device, strict=True)))


def layer_number(layer: Layer) -> int:
    """The number that a layer has for the KV cache.

    Raises InputError for a layer that has none.
    """
    numbers: list[Any] = [module.layer_idx for module in layer.modules() if hasattr(module, "layer_idx")]
    if not numbers:
        raise InputError(
            expected="decoder layers with a number (layer_idx)",
            got=f"{type(layer).__name__} without one",
            hint="choose another model",
        )
    return int(numbers[0])


def head(model: Model, states: Tensor, piece: nn.Module | None = None) -> Tensor:
    """Logits (..., vocabulary) of `states` (..., d) after the final norm.

    piece: a part of the head, whose logits are returned; None: the model's head.
    """
    rows = states.reshape(1, -1, states.shape[-1])
    backbone = with_children(backbone_of(model))
    backbone.forward = lambda **_: BaseModelOutputWithPast(last_hidden_state=rows)
    lm_head: Any = model.lm_head if piece is None else piece
    shell = with_children(model, model=backbone, lm_head=lm_head)
    logits: Tensor = shell.forward(inputs_embeds=rows, use_cache=False).logits
    return logits.reshape(*states.shape[:-1], -1)


def attention_step(layer: Layer, stream: Tensor, arguments: LayerArguments) -> tuple[Tensor, Tensor]:
    """Take the first residual step: h (B, L, d) -> r (B, L, d).

    Returns r, and the inputs X_o of the output linear (B, L, n). The first text through each kind of layer
    checks the layer.

    Raises InputError for a layer that is not two steps.
    """
    call = arguments.calls[layer_number(layer)]
    kind = (type(layer), *map(type, layer.children()))
    if kind not in arguments.checked:
        check_two_steps(layer, stream[:1], call)
        arguments.checked.add(kind)
    out, (x,) = run_layer(layer, stream, call, mlp=0.0)
    return out, x


def mlp_step(layer: Layer, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Take the second residual step: r (B, L, d) -> h' (B, L, d).

    Returns h', and the inputs X of the output linear (B, L, n).
    """
    out, (x,) = run_layer(layer, stream, None, attention=0.0)
    return out, x


def run_step(layer: Layer, step: Step, stream: Tensor, arguments: LayerArguments) -> tuple[Tensor, Tensor]:
    """Take the residual step of that name from `stream` (B, L, d).

    Returns the stream after it (B, L, d), and the inputs of its output linear (B, L, n).
    """
    if step == "attention":
        return attention_step(layer, stream, arguments)
    return mlp_step(layer, stream)
