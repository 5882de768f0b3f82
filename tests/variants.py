"""Tiny random models of all the families and configs that the core must work for."""

from __future__ import annotations

import torch
from conftest import TINY_CONFIG, randomise
from transformers import (
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "ernie4_5": (Ernie4_5Config, Ernie4_5ForCausalLM),
}
# Special tokens within the tiny vocabulary: the defaults of some configs are beyond it.
SPECIAL_TOKENS = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
VARIANTS = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {},
    "mqa": {"num_key_value_heads": 1},
    "eager": {"attn_implementation": "eager"},
    "attention-bias": {"attention_bias": True},
    "mlp-bias": {"mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "head-dim": {"head_dim": 12},  # 4 heads of 12 on a stream of 32
    "all-at-once": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 14},
    "rope-llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    # its frequencies change with the length of the text: above 8 tokens they are divided by `long_factor`
    "rope-longrope": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "factor": 16.0,
            "short_factor": [1.0, 1.0, 1.0, 1.0],
            "long_factor": [1.0, 2.0, 4.0, 8.0],
            "original_max_position_embeddings": 8,
        },
    },
    "mistral": {"family": "mistral"},
    "mistral-window": {"family": "mistral", "sliding_window": 5},
    "mistral-window-eager": {"family": "mistral", "sliding_window": 5, "attn_implementation": "eager"},
    "qwen2": {"family": "qwen2"},
    "qwen2-window": {
        "family": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {
        "family": "qwen3",
        "head_dim": 12,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "smollm3": {"family": "smollm3", "no_rope_layers": [1, 0, 1]} | SPECIAL_TOKENS,
    "gemma3": {
        "family": "gemma3",
        "head_dim": 12,
        "query_pre_attn_scalar": 12,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    | SPECIAL_TOKENS,
    "phi3": {"family": "phi3"} | SPECIAL_TOKENS,
    "granite": {
        "family": "granite",
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "olmo2": {"family": "olmo2"} | SPECIAL_TOKENS,
    "ernie4_5": {"family": "ernie4_5", "head_dim": 12},  # as its smallest model: heads wider than the stream
    "ernie4_5-bias": {"family": "ernie4_5", "head_dim": 8, "use_bias": True},
}
# Wide enough for nine rounds of 32 neurons in a sweep. Not in VARIANTS, whose tests count on 48 neurons.
WIDE_VARIANT = {"wide": {"intermediate_size": 320}}
# Families that llama.cpp has with one pattern over the layers only: the fields of that pattern.
PATTERNS = {
    "smollm3": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "gemma3": {
        "num_hidden_layers": 7,
        "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    },
}
LISTS_OF_FOUR = {  # fields that are lists, with an entry for each of four layers
    "gemma3": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
}
# One variant for everything that is stored, read or computed in a way of its own: each model type, and
# numbers of heads, biases, tables of positions, windows and multipliers.
LAYOUTS = (
    "gqa",
    "mqa",
    "all-at-once",
    "rope-llama3",
    "rope-longrope",
    "mistral-window",
    "qwen2-window",
    "qwen3",
    "smollm3",
    "gemma3",
    "phi3",
    "granite",
    "olmo2",
    "ernie4_5-bias",
)
NORM_AFTER = ("gemma3", "olmo2")  # variants with a norm after o_proj and down_proj
WHOLE_ATTENTION = ("mqa", "olmo2")  # whose KV groups cannot go


def build(
    name: str = "gqa", *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides
) -> PreTrainedModel:
    """The variant `name`, with `overrides` of its config: the same call, the same weights."""
    fields = TINY_CONFIG | (VARIANTS | WIDE_VARIANT)[name] | overrides
    config_class, model_class = FAMILIES[fields.pop("family", "llama")]
    return randomise(model_class(config_class(**fields)), seed).to(dtype)


def tokens(sequences: int = 4, length: int = 24, seed: int = 0) -> torch.Tensor:
    """Random token ids (S, L)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, TINY_CONFIG["vocab_size"], (sequences, length), generator=generator)
