"""Model families, by structure: one adapter for every decoder whose layers add attention, then a gated MLP."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..errors import InputError
from .decoder import ROWS, Family
from .frame import outline
from .protocol import Layer, Model, Which
from .structure import Part
from .structure import parts as parts

OWN = "comp_"  # in front of the type of a model whose layers differ in width


def family_of(model: Model) -> Family:
    """The family of a model. Raises InputError for one that is laid out otherwise, which its layers show later."""
    outline(model)
    return ROWS.get(model.config.model_type.removeprefix(OWN), Family())


def family_called(model_type: object) -> Family:
    """The family with that `model_type` in its config. Raises InputError for one that transformers does not know."""
    if not isinstance(model_type, str) or model_type.removeprefix(OWN) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        got = f"model_type {str(model_type)[:60]!r}: choose another model"
        raise InputError(f"expected a decoder that transformers has, such as llama, mistral or qwen3, got {got}")
    return ROWS.get(model_type.removeprefix(OWN), Family())


def dense_layer(layer: Layer, which: Which) -> nn.Linear:
    """What writes to the residual stream in a step of a decoder layer. Raises InputError for another kind of layer."""
    return parts(layer)[which].linear


def attentions(model: Model) -> list[Part]:
    """The attention of each layer. Raises InputError, by the name of what does not fit, for layers of another kind."""
    return [parts(layer)["attention"] for layer in outline(model).model.layers]


def whole_attention(model: Model) -> bool:
    """Whether KV groups cannot go one by one, since some attention is more than that, or a norm spans all heads."""
    return not all(part.grouped and not part.spans_heads for part in attentions(model))


def check_config(fields: dict[str, Any]) -> None:
    """Raises InputError unless a config.json with this content is of a known family, and its weights plain."""
    family_called(fields.get("model_type"))
    if (quantised := fields.get("quantization_config")) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        got = f"weights quantised with {str(method or 'some method')[:40]!r}"
        advice = "choose the unquantised model, prune it, and quantise the result"
        raise InputError(f"expected plain weights, got {got}; {advice}")
