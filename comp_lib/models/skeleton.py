"""A model without its numbers: what a config describes, known before any weight is read."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..families.protocol import Model

ATTENTION = "sdpa"  # torch's own: what computes attention, whatever a config says


def skeleton(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` (which is copied) describes, in evaluation mode, on the device meta: shapes only.

    Its rotary embedding, and the scale of an embedding, have numbers all the same, since these are in no file.
    dtype: None is that of the config.

    >>> from transformers import LlamaConfig
    >>> skeleton(LlamaConfig(num_hidden_layers=2)).num_parameters()
    666914816
    """
    options = {"dtype": dtype or config.dtype, "attn_implementation": ATTENTION}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    model.tie_weights()
    rotary, embedding = model.model.rotary_emb, model.model.embed_tokens
    model.model.rotary_emb = type(rotary)(config=rotary.config)
    if (scale := getattr(embedding, "scalar_embed_scale", None)) is not None:  # Gemma's
        embedding.embed_scale = torch.tensor(scale)
    return model.eval()
