"""vLLM learns to serve folders whose layers differ in width, as they are: `vllm serve FOLDER` with comp-lib installed.

vLLM has a class for Llamas with other widths in each layer, `DeciLMForCausalLM`, under Llama's names of tensors. It
asks the config for `block_configs`, one object for each layer, where ours has `per_layer_config`:

    block i:  attention.n_heads_in_group = heads_i / KV heads_i,      ffn.intermediate_size = neurons_i

The query heads it takes from the config, one number for all layers. So layers that lost KV groups with their query
heads, and not all as many, are refused by name; `vllm_export` fills such a model up with zeros.

vLLM calls `register` in each of its processes, by the entry point `vllm.general_plugins` in pyproject.toml. What this
module imports is torch and transformers, which are there with vLLM.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..errors import InputError
from ..models.per_layer_llama import CompLlamaConfig, CompLlamaForCausalLM

SERVED_AS = "vllm.model_executor.models.nemotron_nas:DeciLMForCausalLM"
WAY_OUT = "comp-lib export FOLDER --vllm --out DIR writes one that any vLLM takes"


def register() -> None:
    """What vLLM calls: its classes and ours are introduced to each other. A second time changes nothing."""
    from vllm import ModelRegistry

    if not hasattr(CompLlamaConfig, "block_configs"):
        CompLlamaConfig.block_configs = property(block_configs)  # type: ignore[attr-defined]
    ModelRegistry.register_model(CompLlamaForCausalLM.__name__, SERVED_AS)


def block_configs(config: Any) -> list[SimpleNamespace]:
    """The layers of a CompLlamaConfig in the words of vLLM's DeciLM. Raises InputError for what these cannot say."""
    layers = list(config.per_layer_config)
    heads = [layer.num_attention_heads for layer in layers]
    if not all((*heads, *(layer.intermediate_size for layer in layers))):
        got = f"one without: vLLM's class for such layers was tried and did not load them; {WAY_OUT}"
        raise InputError(f"expected attention and MLP in each layer, got {got}")
    if other := next((i for i, count in enumerate(heads) if count != heads[0]), None):
        got = f"{heads[other]} in layer {other} and {heads[0]} in layer 0: {WAY_OUT}"
        raise InputError(f"expected as many query heads in each layer, since vLLM's DeciLM has one number, got {got}")
    return [_block(layer) for layer in layers]


def _block(layer: Any) -> SimpleNamespace:
    group = layer.num_attention_heads // layer.num_key_value_heads
    ffn = {"intermediate_size": layer.intermediate_size, "hidden_act": layer.hidden_act}
    return SimpleNamespace(
        attention=SimpleNamespace(no_op=False, n_heads_in_group=group), ffn=SimpleNamespace(no_op=False, **ffn)
    )
