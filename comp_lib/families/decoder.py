"""What the method asks of a model and of its layers, answered for any of them by what it is made of."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import frame, steps
from .gguf import Gguf
from .protocol import Layer, Model, Rope, Which
from .structure import parts

BIASES: dict[str, Which] = {"mlp_bias": "mlp", "attention_bias": "attention"}
BIASED = ("llama", "smollm3", "granite")  # with both of these words in their configs, for all linears
WEAK = 0.05  # of the mean: an output that is multiplied by less adds too little to say what it should have been


@dataclass(frozen=True, eq=False)
class Family(Gguf):
    """A model type, and the methods for all of them. `layer` is a decoder layer, `which` one of STEPS."""

    model_type: str = ""
    members: tuple[Layer, ...] = ()  # the layers that `grouped` and `whole_attention` are about

    embed = staticmethod(frame.embed)
    rope = staticmethod(frame.rope)
    head = staticmethod(frame.head)

    @property
    def bias_fields(self) -> dict[str, Which]:
        """Field of the config -> the step whose dense layers have biases when it is set. Empty: none can be added."""
        return BIASES if self.model_type in BIASED else {}

    @property
    def grouped(self) -> bool:
        """Whether each attention is KV groups with plain linears, which the config counts."""
        return all(parts(layer)["attention"].grouped for layer in self.members)

    @property
    def whole_attention(self) -> bool:
        """Whether KV groups cannot go one by one, since some attention is more than that, or a norm spans all heads."""
        return not self.grouped or any(parts(layer)["attention"].spans_heads for layer in self.members)

    def layers(self, model: Model) -> nn.ModuleList:
        """The decoder layers, first to last."""
        layers: nn.ModuleList = model.model.layers
        return layers

    def set_layers(self, model: Model, layers: list[Layer]) -> None:
        """Give the model other layers, numbered anew: the KV cache counts on it."""
        model.model.layers = nn.ModuleList(layers)
        for index, layer in enumerate(layers):
            for part in layer.modules():
                if hasattr(part, "layer_idx"):
                    vars(part)["layer_idx"] = index

    def embedding(self, model: Model) -> nn.Embedding:
        """The table of token embeddings."""
        table: nn.Embedding = model.model.embed_tokens
        return table

    def final_norm(self, model: Model, hidden: Tensor) -> Tensor:
        """Behind the last layer: h (..., d) -> what the head reads (..., d)."""
        states: Tensor = model.model.norm(hidden)
        return states

    def attention_step(self, layer: Layer, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """First residual step: h (B, L, d) -> r (B, L, d), and X_o, the inputs of the dense layer (B, L, n).

        Raises InputError for a layer that is not two steps, which the first text through each kind of layer shows.
        """
        steps.check(layer, hidden[:1], rope)
        return steps.run(layer, "attention", hidden, rope.arguments[frame.number(layer)])

    def mlp_step(self, layer: Layer, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Second residual step: r (B, L, d) -> h' (B, L, d), and X (B, L, n)."""
        return steps.run(layer, "mlp", residual)

    def sublayer(self, layer: Layer, which: Which) -> tuple[nn.Module, str]:
        """The module of a step, and the name in it of the dense layer that writes to the stream."""
        part = parts(layer)[which]
        return part.module, part.dense

    def producers(self, layer: Layer, which: Which) -> dict[str, Tensor]:
        """The linears that produce the inputs of the dense layer of a step: see `Part.rows`."""
        return parts(layer)[which].rows

    def dense_target(self, layer: Layer, which: Which, change: Tensor, x: Tensor) -> Tensor:
        """What the dense layer should put out, its bias aside, so that the step adds `change` (..., d) to the stream.

        x (..., n): its inputs. A norm y -> g y / |y| forgets how large y is. So of a change r that is to be added only
        the direction r / g can be met, and any y along it does so. The target is as large as the layer's own output:
        y* = |y| r / g. Where nothing is missing, r = g y / |y|, and y* is y. (Our derivation.)
        """
        dense = parts(layer)[which].linear
        scale, normed = steps.reach(layer, which)
        if normed:
            own: Tensor = dense(x)
            size = own.float().square().mean(-1, keepdim=True).sqrt().to(own)
            weak = scale.abs() < WEAK * scale.abs().mean()
            wanted = torch.where(weak, own, change * size / torch.where(weak, torch.ones_like(scale), scale))
        else:
            wanted = change / scale
        return wanted if dense.bias is None else wanted - dense.bias

    def gain(self, layer: Layer, which: Which) -> Tensor | None:
        """What the outputs of the dense layer are multiplied by on their way to the stream, (d,), rms 1.

        None: all by the same. Behind a norm an error e of the output adds g e / |y| to the stream, to first order and
        but for what lies along y. In the first layer of Gemma 3 270M g goes from 0.2 to 150. So who goes, and how hard
        the others are held, is judged on outputs times g; the refit of each output by itself stays what it is. (Our
        derivation, tested against brute force.)
        """
        scale, normed = steps.reach(layer, which)
        gain = scale.float().abs()
        return gain / gain.square().mean().sqrt() if normed or bool((gain != gain[0]).any()) else None

    def heads(self, layer: Layer) -> tuple[int, int]:
        """(size of a head, query heads in each KV group); an attention without plain groups is one large head."""
        part = parts(layer)["attention"]
        inputs = part.linear.in_features
        return (part.module.head_dim, inputs // part.keys) if part.grouped else (inputs, 1)

    def shrunk(self, layer: Layer) -> None:
        """After surgery: whatever the layer's modules remember of their widths.

        Phi-3 finds its queries by the number of heads in its config, which all layers share until then.
        """
        part, mlp = parts(layer)["attention"], parts(layer)["mlp"]
        if hasattr(mlp.module, "intermediate_size"):
            mlp.module.intermediate_size = mlp.linear.in_features
        if part.grouped:
            attention, heads = part.module, part.linear.in_features // part.module.head_dim
            for name, count in (("num_heads", heads), ("num_key_value_heads", part.keys // attention.head_dim)):
                if hasattr(attention, name):
                    setattr(attention, name, count)
            if "qkv_proj" in part.linears and heads != attention.config.num_attention_heads:
                attention.config = copy.copy(attention.config)
                attention.config.num_attention_heads = heads

    def rope_settings(self, config: Any) -> dict[str, Any]:
        """The rotary embedding of layers that see everything: rope_theta, rope_type and what that needs."""
        settings: dict[str, Any] = config.rope_parameters.get("full_attention", config.rope_parameters)
        return settings

    def window(self, config: Any) -> int | None:
        """How many tokens back some layer can look; None: all see everything."""
        kinds = getattr(config, "layer_types", None)
        return getattr(config, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None
