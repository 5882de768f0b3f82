"""Config fields that switch biases on, by model type: no layer of a model shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from .types import Model, Step

TYPE_PREFIX = "comp_"  # in front of the type of a model whose layers differ in width


@dataclass(frozen=True, eq=False)
class Family:
    """The facts of one model type; most types have none."""

    bias_fields: Mapping[str, Step] = field(default_factory=dict)
    """Field of the config -> the step whose linears have biases when it is set. Empty: none can be added."""


_LLAMA = Family({"mlp_bias": "mlp", "attention_bias": "attention"})
FAMILIES = {"llama": _LLAMA, "smollm3": _LLAMA, "granite": _LLAMA}
"""Model type -> its facts. A type that is not here can be pruned, but not given biases."""


def family_of(model: Model | PreTrainedConfig) -> Family:
    """The family of a model, or of a config."""
    config: Any = getattr(model, "config", model)
    return FAMILIES.get(config.model_type.removeprefix(TYPE_PREFIX), Family())
