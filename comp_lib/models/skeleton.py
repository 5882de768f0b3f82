"""A model without its numbers: what a config describes, known before any weight is read. And the same, filled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..families.protocol import Model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def skeleton(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` (which is copied) describes, in evaluation mode, on the device meta: shapes only.

    What is in no file (a rotary embedding, the scale of an embedding) has numbers all the same. Whatever a config says,
    torch computes attention, but where it cannot (Gemma 2 bends scores).
    dtype: None is that of the config.

    >>> from transformers import LlamaConfig
    >>> skeleton(LlamaConfig(num_hidden_layers=2)).num_parameters()
    666914816
    """
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    options = {"dtype": dtype or config.dtype, "attn_implementation": attention}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    model.tie_weights()
    for module in model.modules():
        if module._non_persistent_buffers_set:
            for name in module._non_persistent_buffers_set:
                module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
            model._init_weights(module)
    return model.eval()


def weight_shapes(outline: Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a skeleton, a tied head once."""
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    if outline.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def filled(outline: Model, read: Callable[[str], Tensor]) -> Model:
    """`outline`, a skeleton, with the tensor `read(name)` for each name of a weight; a tied head is not asked for."""
    outline.load_state_dict({name: read(name) for name in weight_shapes(outline)}, assign=True, strict=False)
    outline.tie_weights()
    return outline
