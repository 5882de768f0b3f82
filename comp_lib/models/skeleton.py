"""A model without its numbers: what a config describes, known before any weight is read. And the same, filled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..errors import InputError
from ..families.protocol import Model
from ..system.tensor_files import AGAIN

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IGNORED = "rotary_emb.inv_freq"  # old Llama folders hold what the config says already


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


def filled(outline: Model, read: Callable[[str], Tensor]) -> Model:
    """`outline`, a skeleton, with the tensor `read(name)` for each name of a weight; a tied head is not asked for."""
    outline.load_state_dict({name: read(name) for name in _names(outline)}, assign=True, strict=False)
    outline.tie_weights()
    return outline


def check_shapes(outline: Model, shapes: Mapping[str, tuple[int, ...]], place: str | Path) -> None:
    """Raises InputError unless the weights with these `shapes` are just those of `outline`, a tied head left out."""
    expected, ignored = _names(outline), (IGNORED, HEAD) if outline.config.tie_word_embeddings else (IGNORED,)
    given = {name: shape for name, shape in shapes.items() if not name.endswith(ignored)}
    problems = {
        "missing": expected.keys() - given.keys(),
        "unexpected": given.keys() - expected.keys(),
        "of another shape": {name for name in expected.keys() & given.keys() if expected[name] != given[name]},
    }
    for problem, names in problems.items():
        if names:
            got = f"{len(names)} {problem} in {place} ({', '.join(sorted(names)[:3])}); {AGAIN}"
            raise InputError(f"expected the weights that config.json describes, got {got}")


def _names(outline: Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its weights, a tied head once."""
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    if outline.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes
