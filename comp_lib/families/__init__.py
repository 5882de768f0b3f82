"""Model families: what the method asks of one (`protocol`), and a small file for each that is known."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InputError
from .ernie import Ernie
from .granite import Granite
from .llama import Llama
from .mistral import Mistral
from .phi3 import Phi3
from .post_norm import Gemma3, Olmo2
from .protocol import Family, Layer, Model, Which
from .qwen import Qwen2, Qwen3, SmolLM3

FAMILIES: tuple[Family, ...] = (
    Llama(),
    Mistral(),
    Qwen2(),
    Qwen3(),
    SmolLM3(),
    Gemma3(),
    Phi3(),
    Granite(),
    Olmo2(),
    Ernie(),
)
MODEL_TYPES = tuple(name for family in FAMILIES for name in family.model_types)
_BY_TYPE = {name: family for family in FAMILIES for name in family.model_types}
_BY_LAYER = {family.layer_class: family for family in FAMILIES}


def family_of(model: Model) -> Family:
    """The family of a model, or of anything else with a `config`. Raises InputError for one that is not known."""
    return family_called(model.config.model_type)


def family_called(model_type: object) -> Family:
    """The family with that `model_type` in its config. Raises InputError for one that is not known."""
    model_type = model_type.removeprefix("comp_") if isinstance(model_type, str) else model_type  # see own_widths
    if not isinstance(model_type, str) or model_type not in _BY_TYPE:
        wanted = f"RMSNorm, gated MLP, rotary attention: model_type {', '.join(MODEL_TYPES)}"
        got = f"model_type {str(model_type)[:60]!r}; choose a model of one of these families"
        raise InputError(f"expected a LLaMA-class model ({wanted}), got {got}")
    return _BY_TYPE[model_type]


def family_of_layer(layer: Layer) -> Family:
    """The family of a decoder layer, by the name of its class. Raises InputError for one that is not known."""
    for kind in type(layer).__mro__:
        if kind.__name__ in _BY_LAYER:
            return _BY_LAYER[kind.__name__]
    raise InputError(f"expected a decoder layer of {', '.join(_BY_LAYER)}, got {type(layer).__name__}")


def dense_layer(layer: Layer, which: Which) -> nn.Linear:
    """What writes to the residual stream in a step of a decoder layer."""
    module, name = family_of_layer(layer).sublayer(layer, which)
    linear: nn.Linear = getattr(module, name)
    return linear


def check_config(fields: dict[str, Any]) -> Family:
    """The family of a config.json with this content. Raises InputError unless it is known, and the weights plain."""
    family, quantised = family_called(fields.get("model_type")), fields.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        got = f"weights quantised with {str(method or 'some method')[:40]!r}"
        advice = "choose the unquantised model, prune it, and quantise the result"
        raise InputError(f"expected plain weights, got {got}; {advice}")
    for field, other in family.becomes.items():
        if field in fields:
            family_called(other)
    return family
