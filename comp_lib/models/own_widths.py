"""Models whose layers differ in width, of any family.

A stock config knows one number of neurons and one number of heads for all layers. A plan that keeps more in
important layers needs both numbers for every layer. So `register("qwen2")` makes two classes, which
transformers then knows by the model type "comp_qwen2":

    config    the stock config, and `layer_neurons`, `layer_kv_groups`: one number for each layer
    model     the stock model; built with the widest layers, then each layer's linears are cut to its numbers

Everything else is the stock code. A folder of that type loads with `AutoModelForCausalLM.from_pretrained` in
a process that called `register`, and with `load_model` in any process. Folders with one width (`Shape.stock`)
are plain folders of their family and need none of this.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..errors import InputError
from ..families.find import layers_of, parts
from ..families.table import TYPE_PREFIX
from ..families.types import Step
from ..surgery import shrink
from ..system.atomic import SAVE_AGAIN_HINT

# part of a layer -> field of the config with its widths
WIDTH_FIELDS: dict[Step, str] = {"attention": "layer_kv_groups", "mlp": "layer_neurons"}


@functools.cache
def register(model_type: str) -> tuple[type[Any], type[Any]]:
    """Make "comp_`model_type`" known to transformers; return its config class and its model class.

    >>> config_class, model_class = register("qwen2")
    >>> config_class.model_type, model_class.__name__
    ('comp_qwen2', 'CompQwen2ForCausalLM')
    """
    stock_config: type[Any] = CONFIG_MAPPING[model_type]
    stock_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[stock_config]
    config_fields = {
        "model_type": TYPE_PREFIX + model_type,
        "__module__": __name__,
        # the heads of a stock config divide the hidden size; here `head_dim` is given
        "validate_architecture": lambda config: None,
    }
    config_class: Any = strict(type(f"Comp{stock_config.__name__}", (stock_config,), config_fields))

    def build(self: Any, config: Any) -> None:
        stock_model.__init__(self, config)
        with torch.device("cpu"):  # for indices, wherever the weights are
            for step, field in WIDTH_FIELDS.items():
                _cut(self, step, getattr(config, field, None), field)

    model_fields = {"__init__": build, "config_class": config_class, "__module__": __name__}
    model_class: Any = type(f"Comp{stock_model.__name__}", (stock_model,), model_fields)
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    return config_class, model_class


def _cut(model: Any, step: Step, widths: Any, field: str) -> None:
    """Cut one part of each layer to its entry of `widths`, the value of `field`.

    Raises InputError unless `widths` is a list with one number for each layer, from 1 to the layer's width.
    """
    layers = layers_of(model)
    built_widths = [_blocks(layer, step) for layer in layers]
    fitting = isinstance(widths, list) and len(widths) == len(layers)
    if not fitting or not all(map(_is_width, widths, built_widths)):
        numbers = f"{len(layers)} numbers from 1 to {max(built_widths)}"
        raise InputError(
            expected=f"a config.json that can be built, with {field} as {numbers}",
            got=str(widths)[:60],
            hint=SAVE_AGAIN_HINT,
        )
    for layer, width in zip(layers, widths, strict=True):
        shrink(layer, step, torch.arange(width))


def _is_width(value: Any, built_width: int) -> bool:
    """Whether a value of a config.json is a number of units that a layer of `built_width` can be cut to."""
    return type(value) is int and 1 <= value <= built_width  # True is an int, too


def _blocks(layer: Any, step: Step) -> int:
    """How many neurons or KV groups a layer has."""
    part = parts(layer)[step]
    return part.output_linear.in_features // part.block_size
