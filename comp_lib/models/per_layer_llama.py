"""A Llama whose layers differ in width, and the two ways to dress a pruned model for saving.

A stock Llama config knows one number of neurons and one of heads. A plan that keeps more in important layers needs one
of each for every layer. transformers has a config field for that, `per_layer_config`, but its Llama does not read it;
the classes below do, and differ from Llama in nothing else:

    layer i = LlamaDecoderLayer(config.per_layer_config[i], i)

Importing this module registers them with the Auto classes under the model type "comp_llama": a folder of that type
loads with `AutoModelForCausalLM.from_pretrained` in a process that imported this module, and in no other. Folders with
one width (`Shape.stock`) are plain Llama and need none of this.

`as_stock` and `as_heterogeneous` turn a model in memory, whose tensors surgery has shrunk, into one whose config says
the same as its tensors. Both share the tensors with the model that they are given: nothing is copied.
"""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRMSNorm, LlamaRotaryEmbedding

from ..errors import InputError
from ..families.protocol import Model
from ..shape import Shape
from .skeleton import skeleton

# Fields of a parent's config that are untrue of its pruned child, or of no use to it: the tensors are plain floats
# now, no code travels with the folder, and whatever starts with an underscore (a local path, say) is private.
_NOT_INHERITED = ("quantization_config", "auto_map", "per_layer_config", "serialize_explicit_per_layer_config")


@strict
class CompLlamaConfig(LlamaConfig):
    """LlamaConfig with `per_layer_config`: layer -> intermediate_size, num_attention_heads, num_key_value_heads.

    The global values of these three are upper bounds. transformers refuses to read a global value that some layer
    overrides (AmbiguousGlobalPerLayerAttributeError): ask `config.per_layer_config[i]`.
    """

    model_type = "comp_llama"

    def validate_architecture(self) -> None:
        """Heads need not divide the hidden size, since `head_dim` is explicit; groups must still be whole."""
        for index, layer in enumerate(self.per_layer_config):
            heads, kv_heads = layer.num_attention_heads, layer.num_key_value_heads
            if heads % max(kv_heads, 1):
                raise ValueError(f"layer {index}: expected a multiple of its {kv_heads} KV heads, got {heads} heads")


class CompLlamaModel(LlamaModel):
    """LlamaModel, each layer built from its own entry of `config.per_layer_config`."""

    config_class = CompLlamaConfig

    def __init__(self, config: CompLlamaConfig) -> None:
        super(LlamaModel, self).__init__(config)  # past LlamaModel's own, which would build all layers alike
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        configs: Any = config.per_layer_config
        heads = configs[0]
        layers: list[Any] = [LlamaDecoderLayer(own, index) for index, own in enumerate(configs)]
        for layer in layers:  # `own` is a copy, good for the sizes: a later change of `config` must reach every layer
            layer.self_attn.config = layer.mlp.config = config
        self.layers = nn.ModuleList(layers)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # not of `config`: some kinds of rotary embedding read global head counts
        self.rotary_emb = LlamaRotaryEmbedding(config=heads)
        self.gradient_checkpointing = False
        LlamaModel.post_init(self)


class CompLlamaForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM on top of `CompLlamaModel`."""

    config_class = CompLlamaConfig

    def __init__(self, config: CompLlamaConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)  # past LlamaForCausalLM's own, for the same reason
        self.model = CompLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        LlamaForCausalLM.post_init(self)


AutoConfig.register(CompLlamaConfig.model_type, CompLlamaConfig, exist_ok=True)
AutoModel.register(CompLlamaConfig, CompLlamaModel, exist_ok=True)
AutoModelForCausalLM.register(CompLlamaConfig, CompLlamaForCausalLM, exist_ok=True)


def check_widths(config: PreTrainedConfig, shape: Shape | None = None) -> None:
    """Raises InputError unless a model of this family can be saved with these widths (call it before the work).

    Every family can, with `shape.stock` widths; Llama can with any. shape: None stands for any.
    """
    if not (shape is not None and shape.stock or config.model_type in ("llama", "comp_llama")):
        got = f"{config.model_type}: choose uniform widths, with a number of heads that divides the hidden size"
        raise InputError(f"expected a llama model for widths that no stock config can express, got {got}")


def as_heterogeneous(model: Model, shape: Shape) -> Model:
    """`model` (Llama, any widths) as a CompLlamaForCausalLM that shares its tensors; `shape` is Shape.of(model).

    Raises InputError for other families, RuntimeError when `shape` is not that of the tensors.
    """
    check_widths(model.config)
    widths = enumerate(zip(shape.neurons, shape.kv_groups, strict=True))
    fields = _fields(model.config, shape) | {"per_layer_config": {i: _widths(shape, *sizes) for i, sizes in widths}}
    fields["serialize_explicit_per_layer_config"] = True  # config.json then lists every layer in full
    return _with_config(model, CompLlamaConfig(**fields))


def as_stock(model: Model, shape: Shape) -> Model:
    """`model` with a config that any stock runtime reads, sharing its tensors; `shape` is Shape.of(model).

    The class stays the family's own; a CompLlamaForCausalLM whose layers became alike turns into a LlamaForCausalLM.
    Raises InputError unless `shape.stock`, RuntimeError when `shape` is not that of the tensors.
    """
    if not shape.stock:
        expected = f"one width for all layers and heads that divide {shape.hidden}"
        got = f"{sorted(set(shape.neurons))} neurons and {sorted(set(shape.kv_groups))} KV groups"
        raise InputError(f"expected {expected}, got {got}: save it as heterogeneous")
    kind = LlamaConfig if isinstance(model.config, CompLlamaConfig) else type(model.config)
    return _with_config(model, kind(**_fields(model.config, shape)))


def widest(config: CompLlamaConfig, shape: Shape) -> LlamaConfig:
    """The stock config of a Llama with all layers as wide as the widest of `shape`, and heads that a stock one takes.

    Raises InputError where no such number of heads is left below that of the stream's width.
    """
    most = range(max(shape.kv_groups), shape.hidden // shape.group_heads + 1)
    groups = next((groups for groups in most if shape.hidden % (groups * shape.group_heads) == 0), None)
    if groups is None:
        got = f"{max(shape.kv_groups)} KV groups of {shape.group_heads}: import comp_lib where the folder is loaded"
        raise InputError(f"expected KV groups that can be filled up to heads that divide {shape.hidden}, got {got}")
    alike = shape.with_widths((max(shape.neurons),) * shape.layers, (groups,) * shape.layers)
    return LlamaConfig(**_fields(config, alike))


def _widths(shape: Shape, neurons: int, kv_groups: int) -> dict[str, Any]:
    heads = {"num_attention_heads": kv_groups * shape.group_heads, "num_key_value_heads": kv_groups}
    return {"intermediate_size": neurons, **heads}


def _fields(config: PreTrainedConfig, shape: Shape) -> dict[str, Any]:
    """The child's config: that of its parent, with the depth and the widths of `shape` (of its widest layers)."""
    fields = {k: v for k, v in config.to_dict().items() if k not in _NOT_INHERITED and not k.startswith("_")}
    fields |= {"num_hidden_layers": shape.layers, "head_dim": shape.head_dim}
    fields |= _widths(shape, max(shape.neurons), max(shape.kv_groups))
    return fields


def _with_config(model: Model, config: PreTrainedConfig) -> Model:
    """What `config` describes, with the tensors of `model`. Loading them strictly proves that it describes them."""
    child = skeleton(config)
    child.config._attn_implementation = model.config._attn_implementation  # the word alone: nothing is fetched by it
    child.load_state_dict(model.state_dict(), assign=True)  # detached views: the model itself is left as it was
    child.tie_weights()
    child.generation_config = model.generation_config
    return child.train(model.training).to(model.device)
