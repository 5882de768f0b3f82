"""Which models the method applies to: LLaMA-class decoders with plain, finite weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from .errors import InputError

FAMILIES = ("llama", "mistral", "qwen2", "comp_llama")


def check_architecture(config: PreTrainedConfig | dict[str, Any]) -> None:
    """Raises InputError unless `config` (or the content of a config.json) is LLaMA-class with plain weights."""
    fields = config if isinstance(config, dict) else config.to_dict()
    family, quantised = fields.get("model_type"), fields.get("quantization_config")
    if family not in FAMILIES:
        raise InputError(
            "expected a LLaMA-class model (RMSNorm, gated MLP, rotary attention: model_type"
            f" {', '.join(FAMILIES)}), got model_type {family!r}; choose a model of one of these families"
        )
    if quantised is not None:
        raise InputError(
            f"expected plain weights, got weights quantised with {quantised.get('quant_method', 'some method')!r};"
            " choose the unquantised model, prune it, and quantise the result"
        )


def check_finite(model: torch.nn.Module) -> None:
    """Raises InputError that names the first parameter with a NaN or an infinity in it."""
    for name, tensor in model.named_parameters():
        # the extremes show both (NaN is contagious), and need no second tensor of this size, as isfinite() does
        low, high = torch.aminmax(tensor.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise InputError(f"expected finite weights, got NaN or infinity in {name}; fetch or save the model again")


def attention_window(config: PreTrainedConfig) -> int | None:
    """How many tokens back some layer can look, or None if all see everything. Llama always sees everything."""
    if config.model_type not in ("mistral", "qwen2"):
        return None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]  # mistral: one window for all layers
    return config.sliding_window if "sliding_attention" in kinds else None
