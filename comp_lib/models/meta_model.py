"""A model without its numbers: what a config describes; the same, filled; and the config of what surgery left."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..errors import refusing
from ..families.protocol import Model
from ..families.table import OWN
from ..shape import Shape
from ..system.tensors import weight_shapes

# fields of a parent's config that are untrue of its pruned child: the tensors are plain floats, no code comes along
NOT_INHERITED = (
    "quantization_config",
    "auto_map",
    "layer_neurons",
    "layer_kv_groups",
    "model_type",
    "architectures",
)


def make_meta_model(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` (which is copied) describes, in evaluation mode, on the device meta: shapes only.

    What is in no file (a rotary embedding, the scale of an embedding) has numbers all the same. Whatever a config says,
    torch computes attention, but where it cannot (Gemma 2 bends scores).
    dtype: None is that of the config.

    >>> from transformers import LlamaConfig
    >>> make_meta_model(LlamaConfig(num_hidden_layers=2)).num_parameters()
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
    evaluated: Model = model.eval()
    return evaluated


def filled(meta_model: Model, read: Callable[[str], Tensor]) -> Model:
    """`meta_model` with the tensor `read(name)` for each name of a weight; a tied head is not asked for."""
    meta_model.load_state_dict(
        {name: read(name) for name in weight_shapes(meta_model)}, assign=True, strict=False
    )
    meta_model.tie_weights()
    return meta_model


def config_of(config: PreTrainedConfig, shape: Shape) -> PreTrainedConfig:
    """What says the widths of `shape`, all else as `config`: the family's own config if `shape.stock`."""
    most, groups, stock_type = max(shape.neurons), max(shape.kv_groups), config.model_type.removeprefix(OWN)
    fields = {k: v for k, v in config.to_dict().items() if k not in NOT_INHERITED and not k.startswith("_")}
    fields |= {"num_hidden_layers": shape.layers, "intermediate_size": most}
    if shape.group_parameters:  # else attention stays as it is
        heads = {"num_attention_heads": groups * shape.group_heads, "num_key_value_heads": groups}
        fields |= {"head_dim": shape.head_dim} | heads
    if shape.stock:
        stock: PreTrainedConfig = CONFIG_MAPPING[stock_type](**fields)
        return stock
    from .own_widths import register

    fields |= {"layer_neurons": list(shape.neurons), "layer_kv_groups": list(shape.kv_groups)}
    own: PreTrainedConfig = register(stock_type)[0](**fields)
    return own


def described(model: Model) -> Model:
    """`model`, whose tensors surgery has shrunk, with a config that says so. It shares the tensors.

    Loading them strictly proves that the config describes them. Raises InputError where no config of its family does:
    some know no other size of a head than the hidden size divided by the number of heads.
    """
    child = make_meta_model(config_of(model.config, Shape.of(model)))
    child.config._attn_implementation = model.config._attn_implementation
    expected = f"widths that a {model.config.model_type.removeprefix(OWN)} config can say"
    with refusing(expected, "the pruned model", "keep all KV groups"):
        child.load_state_dict(
            model.state_dict(), assign=True
        )  # detached views: the model itself is left as it was
    child.tie_weights()
    child.generation_config = model.generation_config
    described_model: Model = child.train(model.training).to(model.device)
    return described_model
