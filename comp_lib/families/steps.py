"""The two residual steps of a decoder layer, each run by itself."""

from __future__ import annotations

from torch import Tensor

from .probe import check
from .protocol import Layer, Step
from .run import Rope, own_number, run


def attention_step(layer: Layer, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """First residual step: h (B, L, d) -> r (B, L, d), and X_o, the inputs of the dense layer (B, L, n).

    Raises InputError for a layer that is not two steps, which the first text through each kind of layer shows.
    """
    arguments = rope.arguments[own_number(layer)]
    kind = (type(layer), *map(type, layer.children()))
    if kind not in rope.checked:
        check(layer, hidden[:1], arguments)
        rope.checked.add(kind)
    out, (x,) = run(layer, hidden, arguments, mlp=0.0)
    return out, x


def mlp_step(layer: Layer, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Second residual step: r (B, L, d) -> h' (B, L, d), and X (B, L, n)."""
    out, (x,) = run(layer, residual, None, attention=0.0)
    return out, x


def run_step(layer: Layer, step: Step, stream: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """One of the two steps by its name: stream (B, L, d) -> stream behind it, and inputs of its dense layer."""
    return attention_step(layer, stream, rope) if step == "attention" else mlp_step(layer, stream)
