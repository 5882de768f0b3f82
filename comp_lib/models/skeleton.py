"""A model without its numbers: what a config describes, known before any weight is read."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..families.protocol import Model


def attention(config: PreTrainedConfig) -> str:
    """What computes attention, whatever a config says: torch, but where it cannot (Gemma 2 bends scores)."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def skeleton(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` (which is copied) describes, in evaluation mode, on the device meta: shapes only.

    What is in no file (a rotary embedding, the scale of an embedding) has numbers all the same.
    dtype: None is that of the config.

    >>> from transformers import LlamaConfig
    >>> skeleton(LlamaConfig(num_hidden_layers=2)).num_parameters()
    666914816
    """
    options = {"dtype": dtype or config.dtype, "attn_implementation": attention(config)}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    model.tie_weights()
    for module in model.modules():
        if module._non_persistent_buffers_set:
            for name in module._non_persistent_buffers_set:
                module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
            model._init_weights(module)
    return model.eval()
