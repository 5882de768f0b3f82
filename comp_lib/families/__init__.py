"""Model families, by structure: one adapter for every decoder whose layers add attention, then a gated MLP."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..errors import InputError
from .decoder import Family as Family
from .frame import outline
from .gguf import ROWS
from .protocol import Layer, Model, Which
from .structure import parts

OWN = "comp_"  # in front of the type of a model whose layers differ in width


def family_of(model: Model) -> Family:
    """The family of a model. Raises InputError for one that is laid out otherwise, which its layers show later."""
    return _family(model.config.model_type, tuple(outline(model).model.layers))


def family_called(model_type: object) -> Family:
    """The family with that `model_type` in its config. Raises InputError for one that transformers does not know."""
    if not isinstance(model_type, str) or model_type.removeprefix(OWN) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        got = f"model_type {str(model_type)[:60]!r}: choose another model"
        raise InputError(f"expected a decoder that transformers has, such as llama, mistral or qwen3, got {got}")
    return _family(model_type)


def _family(model_type: str, layers: tuple[Layer, ...] = ()) -> Family:
    stock = model_type.removeprefix(OWN)
    return Family(model_type=stock, members=layers, **ROWS.get(stock, {}))


def family_of_layer(layer: Layer) -> Family:
    """What a decoder layer can be asked by."""
    return Family(members=(layer,))


def dense_layer(layer: Layer, which: Which) -> nn.Linear:
    """What writes to the residual stream in a step of a decoder layer. Raises InputError for another kind of layer."""
    return parts(layer)[which].linear


def check_layers(model: Model) -> None:
    """Raises InputError, by the name of what does not fit, for a model whose layers the method does not know."""
    for layer in family_of(model).layers(model):
        parts(layer)


def check_config(fields: dict[str, Any]) -> Family:
    """The family of a config.json with this content. Raises InputError unless it is known, and the weights plain."""
    family, quantised = family_called(fields.get("model_type")), fields.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        got = f"weights quantised with {str(method or 'some method')[:40]!r}"
        advice = "choose the unquantised model, prune it, and quantise the result"
        raise InputError(f"expected plain weights, got {got}; {advice}")
    return family
