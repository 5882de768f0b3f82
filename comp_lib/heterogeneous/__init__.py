"""The old name of `comp_lib.models.per_layer_llama`: model cards that were saved earlier tell people to import it."""

from ..models.per_layer_llama import CompLlamaConfig, CompLlamaForCausalLM, CompLlamaModel, as_heterogeneous, as_stock

__all__ = ["CompLlamaConfig", "CompLlamaForCausalLM", "CompLlamaModel", "as_heterogeneous", "as_stock"]
