"""Models whose layers differ in width, of any family.

A stock config knows one number of neurons and one of heads for all layers. A plan that keeps more in important layers
needs one of each for every layer. So `register("qwen2")` makes two classes, and transformers knows them from then on by
the model type "comp_qwen2":

    config    the stock config, and `layer_neurons`, `layer_kv_groups`: one number for each layer
    model     the stock model; built with the widest layers, then each layer's linears are cut to its own numbers

Everything else is the stock code. A folder of that type loads with `AutoModelForCausalLM.from_pretrained` in a process
that called `register`, and by `load_model` in any. Folders with one width (`Shape.stock`) are plain folders of their
family and need none of this.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..families.protocol import STEPS
from ..families.table import OWN
from ..surgery import shrink


@functools.cache
def register(model_type: str) -> tuple[type[Any], type[Any]]:
    """The config class and the model class "comp_`model_type`", known to transformers' Auto classes from now on.

    >>> config_class, model_class = register("qwen2")
    >>> config_class.model_type, model_class.__name__
    ('comp_qwen2', 'CompQwen2ForCausalLM')
    """
    stock_config: type[Any] = CONFIG_MAPPING[model_type]
    stock_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[stock_config]
    own: dict[str, Any] = {"model_type": OWN + model_type, "__module__": __name__}
    own["validate_architecture"] = lambda config: (
        None
    )  # stock heads divide the hidden size; here `head_dim` is given
    config_class: Any = strict(type(f"Comp{stock_config.__name__}", (stock_config,), own))

    def build(self: Any, config: Any) -> None:
        stock_model.__init__(self, config)
        with torch.device("cpu"):  # for indices, wherever the weights are
            for layer, *widths in zip(
                self.model.layers, config.layer_kv_groups, config.layer_neurons, strict=True
            ):
                for which, blocks in zip(STEPS, widths, strict=True):
                    shrink(layer, which, torch.arange(blocks))

    fields = {"__init__": build, "config_class": config_class, "__module__": __name__}
    model_class: Any = type(f"Comp{stock_model.__name__}", (stock_model,), fields)
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    return config_class, model_class
