"""What the method asks of a model family: one small class for each, beside this file.

COMP looks at a decoder layer as two residual steps, each of which ends in a dense layer that writes to the stream:

    r  = h + out(o_proj(X_o)),      h' = r + out(down_proj(X))

A family says how its layers compute these steps, which dense layers write to the stream, which rows of which matrices
produce each input of them, and which fields of the config describe the widths. Everything else (statistics, surgery,
plans, files) is written once, in these terms. To add a family, write a file with a class that satisfies `Family` and
put it on the list in `families/__init__.py`: CONTRIBUTING.md walks through it.

Where other families differ from Llama, and which member says so: a fused gate_up or qkv matrix (`producers`), a norm
after the dense layer or a residual multiplier (`attention_step`, `mlp_step`, `dense_target`), norms of queries and keys
(inside `attention_step`), config fields with an entry for each layer (`layer_lists`).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Model = Any
"""A decoder with `config`, `model` and `lm_head`, as transformers builds them: in memory, or `scale.model_on_disk`."""
Layer = nn.Module
Device = torch.device | str
Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary embedding, (1, L, head_dim) each."""
Which = Literal["attention", "mlp"]
"""One of the two residual steps of a layer."""
STEPS: tuple[Which, Which] = ("attention", "mlp")


class Family(Protocol):
    """One family of models. `layer` is one of its decoder layers, `which` one of STEPS.

    What only some families have or can do has a default: that of those that have not, or cannot.
    """

    model_types: tuple[str, ...]
    """What `model_type` in config.json may be."""
    layer_class: str
    """Name of the class of its decoder layers."""
    layer_lists: tuple[str, ...] = ("layer_types",)
    """Fields of the config with one entry for each layer: those of dropped layers go too."""
    bias_fields: dict[str, Which] = {}
    """Field of the config -> the step whose dense layers have biases when it is set. Empty: biases cannot be added."""
    gguf: str
    """llama.cpp's name of the architecture, with one width for all layers."""
    gguf_per_layer: str | None = None
    """The same with other widths in each layer; None: llama.cpp has none."""
    gguf_interleaved: dict[str, str] = {}
    """Matrices whose rows llama.cpp wants in neighbouring pairs instead of halves -> config field with their heads."""
    gguf_activations: tuple[str, ...] = ("silu", "swish")
    """What `hidden_act` may be for llama.cpp."""
    gguf_norm_shift: float = 0.0
    """What a GGUF file adds to the weights of all norms: 1 where the family multiplies by 1 + w."""

    def rope_settings(self, config: Any) -> dict[str, Any]:
        """The rotary embedding of layers that see everything: rope_theta, rope_type and what that needs."""

    def gguf_fields(self, config: Any) -> dict[str, Any]:
        """What a GGUF file says of this family alone: NAME -> value, for `add_NAME` of gguf's writer."""
        return {}

    def gguf_refusal(self, config: Any) -> str | None:
        """What llama.cpp cannot express of a model with this config; None: nothing."""
        return None

    gguf_square: bool = False
    """Whether llama.cpp counts on heads whose outputs, side by side, are as wide as the stream."""
    gguf_rope: tuple[str, ...] = ("default",)
    """Types of rotary positions that llama.cpp has here: all but `default` need the tensor of factors to be read."""
    becomes: dict[str, str] = {}
    """Field of config.json -> the other model type as which transformers reads a folder that has it."""
    per_layer: bool = False
    """Whether a model with other widths in each layer can be saved (see `models.per_layer_llama`)."""
    whole_attention: bool = False
    """Whether KV groups cannot go one by one, since a norm spans all heads."""

    def layers(self, model: Model) -> nn.ModuleList:
        """The decoder layers, first to last."""

    def set_layers(self, model: Model, layers: list[Layer]) -> None:
        """Give the model other layers, numbered anew, those without attention apart: the KV cache counts on it."""

    def embedding(self, model: Model) -> nn.Embedding:
        """The table of token embeddings."""

    def embed(self, model: Model, ids: Tensor) -> Tensor:
        """Hidden states before the first layer: ids (S, L) -> (S, L, d)."""

    def final_norm(self, model: Model, hidden: Tensor) -> Tensor:
        """Behind the last layer: h (..., d) -> what the head reads (..., d)."""

    def before_head(self, model: Model, states: Tensor) -> Tensor:
        """What transformers calls the last hidden state, behind the norm (..., d) -> what the head reads (..., d)."""

    def head(self, model: Model, states: Tensor) -> Tensor:
        """What `final_norm` returns (..., d) -> logits (..., vocabulary)."""

    def rope(self, model: Model, length: int, device: Device, dtype: torch.dtype) -> Rope:
        """The rotary embedding of positions 0 to `length` - 1."""

    def attention_step(self, layer: Layer, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """First residual step: h (B, L, d) -> r (B, L, d), and X_o (B, L, heads * head_dim)."""

    def mlp_step(self, layer: Layer, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Second residual step: r (B, L, d) -> h' (B, L, d), and X (B, L, n)."""

    def sublayer(self, layer: Layer, which: Which) -> tuple[nn.Module, str]:
        """The module of a step, and the name in it of the dense layer that writes to the stream."""

    def producers(self, layer: Layer, which: Which) -> dict[str, Tensor]:
        """The linear layers of a sublayer that produce the inputs of its dense layer: name -> rows (blocks, rows each).

        A block is what can only go as a whole: a neuron, or a KV group with its query heads.
        """

    def dense_target(self, layer: Layer, which: Which, change: Tensor, x: Tensor) -> Tensor:
        """What the dense layer should put out, its bias aside, so that the step adds `change` (..., d) to the stream.

        x (..., n): its inputs. Behind a norm, which no output can make add what it likes: what comes nearest.
        """

    def gain(self, layer: Layer, which: Which) -> Tensor | None:
        """What the outputs of the dense layer are multiplied by on their way to the stream, (d,), rms 1.

        None: all by the same. An error there counts by this much.
        """
        return None

    def heads(self, layer: Layer) -> tuple[int, int]:
        """(size of a head, query heads in each KV group)."""

    def shrunk(self, layer: Layer) -> None:
        """After surgery: whatever the layer's modules remember of their widths."""

    def silence(self, layer: Layer, which: Which) -> None:
        """Take a whole step out of a layer, the other stays. Raises InputError unless `per_layer`."""

    def window(self, config: Any) -> int | None:
        """How many tokens back some layer can look; None: all see everything."""
        return None
