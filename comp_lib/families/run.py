"""Running a model piece by piece: what it does around its layers, and a layer where a part of it is silent.

All is done by the model's own forward, with stand-ins for the pieces that do not run. Granite multiplies and divides
around its layers, Gemma 2 bends the logits, windowed layers get other masks: none of that is written down here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..errors import InputError, refusing
from .find import Part, backbone_of, parts
from .protocol import Device, Layer, Model, Step

EMBEDDED_TOKENS = 2048  # at once: masks are made on the way
SILENT: dict[str, Tensor | float] = {"attention": 0.0, "mlp": 0.0}
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with beside the hidden states, by position and by name."""


@dataclass
class Rope:
    """What a model hands its layers for a text of some length: rotary embeddings, masks, whatever it likes."""

    arguments: dict[int, Arguments]  # by the number that a layer has given itself, for the KV cache
    checked: set[tuple[type, ...]] = field(
        default_factory=set
    )  # kinds of layers that `probe.check` has passed


def with_parts(module: nn.Module, **replacements: nn.Module) -> Any:
    """A second `module` with other parts; all else the two share."""
    other = copy.copy(module)
    vars(other)["_modules"] = module._modules | replacements
    return other


def check_ids(ids: Tensor, vocabulary: int) -> None:
    """Raises InputError for a token that was added to the tokenizer, and not to the model."""
    if ids.numel() and int(ids.max()) >= vocabulary:
        raise InputError(
            expected=f"tokens below {vocabulary}, of which the model has embeddings",
            got=int(ids.max()),
            hint="take the tokenizer that belongs to the model, or another text",
        )


def embed(model: Model, ids: Tensor, table: nn.Module | None = None) -> Tensor:
    """Hidden states before the first layer: ids (S, L) -> (S, L, d).

    table: the embedding to look them up in; None: the model's. Raises InputError for tokens that it does not know.
    """
    backbone = backbone_of(model)
    if table is None:
        check_ids(ids, model.config.vocab_size)
        table = backbone.embed_tokens
    frame = with_parts(backbone, embed_tokens=table, layers=nn.ModuleList(), norm=nn.Identity())
    weight: Any = table.weight
    batches = ids.to(weight.device).split(max(1, EMBEDDED_TOKENS // ids.shape[1]))
    return torch.cat([frame.forward(input_ids=batch, use_cache=False).last_hidden_state for batch in batches])


def rotary(model: Model, length: int, device: Device, dtype: torch.dtype) -> Rope:
    """What the layers are handed for texts of `length` tokens, on `device`: rotary embeddings, masks; for all texts.

    The model runs once on ones, with stand-ins for its layers that note what they are called with.
    Raises InputError for a model that does more than to call its layers one after another.
    """
    backbone = backbone_of(model)
    calls = list[tuple[Tensor, Arguments]]()

    def catch(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append((hidden_states, (args, kwargs)))
        return hidden_states

    catchers = [with_parts(layer) for layer in backbone.layers]
    for catcher in catchers:
        catcher.forward = catch
    weight = backbone.embed_tokens.weight
    host = "cpu" if weight.is_meta else weight.device
    text = torch.ones(1, length, weight.shape[1], dtype=dtype, device=host)
    expected = "a decoder that calls its layers one after another, then its norm"
    name = type(backbone).__name__
    frame = with_parts(backbone, layers=nn.ModuleList(catchers), norm=nn.Identity())
    with refusing(expected, name, "choose another model"):
        states = frame.forward(inputs_embeds=text, use_cache=False).last_hidden_state
    if len(calls) != len(catchers) or (catchers and not torch.equal(states, calls[0][0])):
        raise InputError(expected=expected, got=f"{name}, which does more", hint="choose another model")

    def moved(value: object) -> object:
        return value.to(torch.device(device)) if isinstance(value, Tensor) else value

    arguments = tree_map(moved, [call_arguments for _, call_arguments in calls])
    numbers = (own_number(layer) for layer in backbone.layers)
    return Rope(dict(zip(numbers, arguments, strict=True)))


def own_number(layer: Layer) -> int:
    """The number that a layer has given itself, for the KV cache."""
    numbers: Iterator[Any] = (module.layer_idx for module in layer.modules() if hasattr(module, "layer_idx"))
    return int(next(numbers))


def head(model: Model, states: Tensor, piece: nn.Module | None = None) -> Tensor:
    """What the final norm returns (..., d) -> logits (..., vocabulary), or those of a `piece` of the head."""
    rows = states.reshape(1, -1, states.shape[-1])
    backbone = with_parts(backbone_of(model))
    backbone.forward = lambda **_: BaseModelOutputWithPast(last_hidden_state=rows)
    lm_head: Any = model.lm_head if piece is None else piece
    shell = with_parts(model, model=backbone, lm_head=lm_head)
    logits: Tensor = shell.forward(inputs_embeds=rows, use_cache=False).logits
    return logits.reshape(*states.shape[:-1], -1)


def run(
    layer: Layer, hidden: Tensor, arguments: Arguments | None, **outputs: Tensor | float
) -> tuple[Tensor, list[Tensor]]:
    """The layer's own forward, where `attention` or `mlp` puts out a given value for each token.

    Returns the states behind the layer (B, L, d), and what the dense layers of the parts that ran got (B, L, n). Where
    attention is given the layer needs no arguments.
    """
    layer_parts: dict[Any, Part] = parts(layer)
    stand_ins = dict[str, Any]()
    for step, value in outputs.items():
        part = layer_parts[step]
        stand_ins[part.name] = with_parts(part.module)
        stand_ins[part.name].forward = partial(_answer, part.name, value)
    args, kwargs = arguments or ((), _no_arguments(layer))
    inputs = list[Tensor]()
    with ExitStack() as hooks:
        for part in layer_parts.values():
            hook = part.linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
            hooks.enter_context(hook)
        out = with_parts(layer, **stand_ins).forward(hidden, *args, **kwargs)
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states, inputs


def _no_arguments(layer: Layer) -> dict[str, None]:
    """None for each argument that the layer's forward insists on, beside the hidden states."""
    parameters = inspect.signature(layer.forward).parameters.values()
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    return {
        parameter.name: None
        for parameter in required[1:]
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }


def _answer(name: str, value: Tensor | float, *args: Any, **kwargs: Any) -> Any:
    """What the part of that name returns where it puts out `value` for each token."""
    states = next(argument for argument in (*args, *kwargs.values()) if isinstance(argument, Tensor))
    out = torch.zeros_like(states) + value
    return (out, None) if name == "self_attn" else out  # others return no weights of attention


def answered(layer: Layer, step: Step, stream: Tensor, x: Tensor) -> Tensor:
    """The stream (B, L, d) behind a step whose dense layer gets x (B, L, n), while the other part adds nothing."""
    output: Tensor = parts(layer)[step].linear(x)
    return run(layer, stream, None, **SILENT | {step: output})[0]
