"""A model without its numbers, as a config describes it; how it gets numbers, and a config of new widths."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...utils.errors import InputError, refusing
from ...utils.files import SAVE_AGAIN_HINT
from ...utils.numbers import check_finite
from ..families import TYPE_PREFIX
from ..shape import Shape
from ..structure import layers_of
from ..types import Model
from ..weight_names import weight_shapes
from .modelling_file import auto_map
from .per_layer import FIELD, per_layer_fields, widest
from .register import register

# fields of a parent's config that are untrue of its pruned child, whose tensors are plain floats without code
FIELDS_NOT_INHERITED = {
    "quantization_config",
    "auto_map",
    FIELD,
    "model_type",
    "architectures",
}


def make_meta_model(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Model:
    """The model that `config` describes, in evaluation mode, on the device meta: shapes only.

    Buffers that no file has (a rotary embedding, the scale of an embedding) have numbers all the same.
    Whatever a config says, torch computes attention. Where torch cannot, since Gemma 2 bends scores,
    transformers does.

    dtype: None is the dtype of the config.

    Raises InputError where such a buffer is larger than any weight, or has NaN or infinity in it.

    >>> from transformers import LlamaConfig
    >>> make_meta_model(LlamaConfig(num_hidden_layers=2)).num_parameters()
    666914816
    """
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    options = {"dtype": dtype or config.dtype, "attn_implementation": attention}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    model.tie_weights()
    largest_weight = max(weight.numel() for weight in model.parameters())
    for module in model.modules():
        if module._non_persistent_buffers_set:
            _compute_buffers(model, module, largest_weight)
    in_evaluation_mode: Model = model.eval()
    return in_evaluation_mode


def _compute_buffers(model: Any, module: Any, largest_weight: int) -> None:
    """Give the buffers of `module` that no file has their numbers, which follow from the config of `model`.

    Raises InputError where one has more numbers than the largest weight of the model, NaN or infinity.
    """
    names = module._non_persistent_buffers_set
    for name in names:
        buffer = module._buffers[name]
        if buffer.numel() > largest_weight:
            raise InputError(
                expected=f"a config by which {name} has at most {largest_weight} numbers, as a weight has",
                got=buffer.numel(),
                hint=SAVE_AGAIN_HINT,
            )
        module._buffers[name] = torch.empty_like(buffer, device="cpu")
    model._init_weights(module)
    for name in names:
        check_finite(name, module._buffers[name])


def fill(meta_model: Model, read: Callable[[str], Tensor]) -> Model:
    """Give `meta_model` the tensor `read(name)` for each name of a weight, and return it.

    A tied head is not read: it is the embedding.
    """
    weights = {name: read(name) for name in weight_shapes(meta_model)}
    meta_model.load_state_dict(weights, assign=True, strict=False)
    meta_model.tie_weights()
    return meta_model


def config_with_widths(config: PreTrainedConfig, shape: Shape) -> PreTrainedConfig:
    """A config with the widths of `shape`, and all else as in `config`.

    It is of the family's stock class if `shape.fits_stock_config`, else of the class with own widths.
    """
    stock_type = config.model_type.removeprefix(TYPE_PREFIX)
    fields = {}
    for name, value in config.to_dict().items():
        if name not in FIELDS_NOT_INHERITED and not name.startswith("_"):
            fields[name] = value
    fields["num_hidden_layers"] = shape.layer_count
    fields |= widest(shape)
    if shape.fits_stock_config:
        stock_config: PreTrainedConfig = CONFIG_MAPPING[stock_type](**fields)
        return stock_config
    fields[FIELD] = per_layer_fields(shape)
    fields["auto_map"] = auto_map(stock_type)
    config_class, _ = register(stock_type)
    own_config: PreTrainedConfig = config_class(**fields)
    return own_config


def with_true_config(model: Model) -> Model:
    """A copy of `model`, whose tensors surgery has shrunk, with a config that says so.

    The copy shares the tensors. To load them strictly proves that the config describes them.

    Raises InputError where no config of the family describes them: some families know no other size of a
    head than the hidden size divided by the number of heads.
    """
    child = make_meta_model(config_with_widths(model.config, Shape.of(model)))
    for module in child.modules():
        config: Any = getattr(module, "config", None)
        if config is not None:  # layers of own widths have a copy
            config._attn_implementation = model.config._attn_implementation
    expected = f"widths that a {model.config.model_type.removeprefix(TYPE_PREFIX)} config can say"
    tensors = model.state_dict()  # detached views: the model itself stays as it was
    with refusing(expected, "the pruned model", "keep all KV groups"):
        child.load_state_dict(tensors, assign=True)
    child.tie_weights()
    child.generation_config = model.generation_config
    result: Model = child.train(model.training).to(model.device)
    return result


def give_true_config(model: Model) -> None:
    """Give `model`, whose tensors surgery has shrunk, a config and a class that say so, in place.

    Then `model.save_pretrained` writes a folder that can be loaded. Stock widths of a stock model need no
    other config than `surgery.update_config` makes. A class that transformers does not have stays as it is.
    """
    shape = Shape.of(model)
    stock_type = model.config.model_type.removeprefix(TYPE_PREFIX)
    if shape.fits_stock_config and not model.config.model_type.startswith(TYPE_PREFIX):
        return
    stock_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(stock_type, ""), None)
    if stock_class not in type(model).__mro__:
        return
    _, own_class = register(stock_type)
    if type(model) not in (stock_class, own_class):
        return
    attention = model.config._attn_implementation
    config: Any = config_with_widths(model.config, shape)
    config.name_or_path = model.config.name_or_path
    layer_configs = [config] * shape.layer_count if shape.fits_stock_config else list(config.per_layer_config)
    for module in model.modules():
        if hasattr(module, "config"):  # as the rotary embedding, which asks for one number of heads
            vars(module)["config"] = layer_configs[0]
    for layer, layer_config in zip(layers_of(model), layer_configs, strict=True):
        layer_config._attn_implementation = attention
        for module in layer.modules():
            if hasattr(module, "config"):
                vars(module)["config"] = layer_config
    config._attn_implementation = attention
    for module in (model, model.base_model):
        vars(module)["config"] = config
    model.__class__ = stock_class if shape.fits_stock_config else own_class
