"""vLLM learns to serve folders whose layers differ in width, as they are: `vllm serve FOLDER` with comp-lib installed.

vLLM has a class for Llamas with other widths in each layer, `DeciLMForCausalLM`, under Llama's names of tensors. It
asks the config for `block_configs`, one object for each layer, where ours has `per_layer_config`:

    block i:  attention.n_heads_in_group = heads_i / KV heads_i,      ffn.intermediate_size = neurons_i

and `no_op` where a layer lacks that step.

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
    heads = {place: layer.num_attention_heads for place, layer in enumerate(layers) if layer.num_attention_heads}
    first = min(heads)
    if (other := next((place for place, count in heads.items() if count != heads[first]), None)) is not None:
        got = f"{heads[other]} in layer {other} and {heads[first]} in layer {first}: {WAY_OUT}"
        raise InputError(f"expected as many query heads in each layer, since vLLM's DeciLM has one number, got {got}")
    return [_block(layer) for layer in layers]


def _block(layer: Any) -> SimpleNamespace:
    heads, neurons = layer.num_attention_heads, layer.intermediate_size
    group = heads // layer.num_key_value_heads if heads else None
    return SimpleNamespace(
        attention=SimpleNamespace(no_op=not heads, n_heads_in_group=group),
        ffn=SimpleNamespace(no_op=not neurons, intermediate_size=neurons or None, hidden_act=layer.hidden_act),
    )
