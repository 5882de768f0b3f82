"""A model without its numbers: what a config describes, known before any weight is read."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..families.protocol import Model

ATTENTION = "sdpa"  # torch's own: what computes attention, whatever a config says


def skeleton(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` (which is copied) describes, in evaluation mode, on the device meta: shapes only.

    Its rotary embedding has numbers all the same, since these are in no file. dtype: None is that of the config.

    >>> from transformers import LlamaConfig
    >>> skeleton(LlamaConfig(num_hidden_layers=2)).num_parameters()
    666914816
    """
    options = {"dtype": dtype or config.dtype, "attn_implementation": ATTENTION}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    model.tie_weights()
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=rotary.config)
    return model.eval()
