"""Models whose layers differ in width, of any family, and the config that says what a pruned model's tensors are.

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
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..errors import refusing
from ..families import OWN
from ..families.protocol import STEPS, Model
from ..shape import Shape
from ..surgery import shrink
from .skeleton import skeleton

# fields of a parent's config that are untrue of its pruned child: the tensors are plain floats, no code comes along
_NOT_INHERITED = ("quantization_config", "auto_map", "layer_neurons", "layer_kv_groups", "model_type", "architectures")


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
    own["validate_architecture"] = lambda config: None  # stock heads divide the hidden size; here `head_dim` is given
    config_class: Any = strict(type(f"Comp{stock_config.__name__}", (stock_config,), own))

    def build(self: Any, config: Any) -> None:
        stock_model.__init__(self, config)
        with torch.device("cpu"):  # for indices, wherever the weights are
            for layer, *widths in zip(self.model.layers, config.layer_kv_groups, config.layer_neurons, strict=True):
                for which, blocks in zip(STEPS, widths, strict=True):
                    shrink(layer, which, torch.arange(blocks))

    fields = {"__init__": build, "config_class": config_class, "__module__": __name__}
    model_class: Any = type(f"Comp{stock_model.__name__}", (stock_model,), fields)
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    return config_class, model_class


def config_of(config: PreTrainedConfig, shape: Shape) -> PreTrainedConfig:
    """What says the widths of `shape`, all else as `config`: the family's own config if `shape.stock`."""
    most, groups, stock_type = max(shape.neurons), max(shape.kv_groups), config.model_type.removeprefix(OWN)
    fields = {k: v for k, v in config.to_dict().items() if k not in _NOT_INHERITED and not k.startswith("_")}
    fields |= {"num_hidden_layers": shape.layers, "intermediate_size": most}
    if shape.group_parameters:  # else attention stays as it is
        heads = {"num_attention_heads": groups * shape.group_heads, "num_key_value_heads": groups}
        fields |= {"head_dim": shape.head_dim} | heads
    if shape.stock:
        stock: PreTrainedConfig = CONFIG_MAPPING[stock_type](**fields)
        return stock
    own: PreTrainedConfig = register(stock_type)[0](
        **fields, layer_neurons=list(shape.neurons), layer_kv_groups=list(shape.kv_groups)
    )
    return own


def described(model: Model) -> Model:
    """`model`, whose tensors surgery has shrunk, with a config that says so. It shares the tensors.

    Loading them strictly proves that the config describes them. Raises InputError where no config of its family does:
    some know no other size of a head than the hidden size divided by the number of heads.
    """
    child = skeleton(config_of(model.config, Shape.of(model)))
    child.config._attn_implementation = model.config._attn_implementation
    expected = f"widths that a {model.config.model_type.removeprefix(OWN)} config can say"
    with refusing(expected, "the pruned model", "keep all KV groups"):
        child.load_state_dict(model.state_dict(), assign=True)  # detached views: the model itself is left as it was
    child.tie_weights()
    child.generation_config = model.generation_config
    return child.train(model.training).to(model.device)
