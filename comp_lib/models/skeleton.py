"""A model without its numbers: what a config describes, known before any weight is read. And the same, filled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..errors import InputError
from ..families.protocol import Model

ATTENTION = "sdpa"  # torch's own: what computes attention, whatever a config says
HEAD = "lm_head.weight"


def skeleton(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` (which is copied) describes, in evaluation mode, on the device meta: shapes only.

    Its rotary embedding, and the scale of an embedding, have numbers all the same, since these are in no file.
    dtype: None is that of the config. Raises InputError for a model with other numbers that are in no file.

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
    stored = model.state_dict()
    if empty := [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in stored]:
        got = f"{empty[0]} in {config.model_type}: choose a model of another family"
        raise InputError(f"expected a model whose numbers are all in its files, got {got}")
    return model.eval()


def filled(outline: Model, read: Callable[[str], Tensor]) -> Model:
    """`outline`, a skeleton, with the tensor `read(name)` for each name of a weight; a tied head is not asked for."""
    tied = outline.config.tie_word_embeddings
    names = [name for name in outline.state_dict() if not (tied and name == HEAD)]
    outline.load_state_dict({name: read(name) for name in names}, assign=True, strict=not tied)
    outline.tie_weights()
    return outline
