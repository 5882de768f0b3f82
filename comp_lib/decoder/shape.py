"""Parameter arithmetic of a LLaMA-class decoder.

A decoder layer owns, for hidden size d, head size k, n neurons and g KV groups of r query heads each:

    MLP          n * (3 d)                    gate, up and down: one neuron is a row, a row and a column
    attention    g * (2 k d + 2 r k d)        k and v; q and o: one KV group can only go as a whole
    norms        2 d                          stay as long as the layer does

Biases are added where the model has them. An attention without plain groups stays as long as its layer does,
too. A test compares what is counted here with `model.num_parameters()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .decoder import Decoder, as_decoder
from .structure import Part, backbone_of, layers_of, parts
from .types import Model


def widths_in_words(widths: Sequence[int]) -> str:
    """Widths of layers in words.

    >>> widths_in_words([1024, 1536]), widths_in_words([1024, 1024])
    ('1,024 to 1,536', '1,024')
    """
    smallest = min(widths)
    largest = max(widths)
    if smallest == largest:
        return f"{smallest:,}"
    return f"{smallest:,} to {largest:,}"


@dataclass(frozen=True)
class Shape:
    """The widths of a decoder, and how many parameters each unit of it has."""

    hidden_size: int
    """The width d of the residual stream."""
    head_dim: int
    """The size k of a head."""
    group_heads: int
    """How many query heads r share one KV head; they can only be removed together."""
    neurons: tuple[int, ...]
    """MLP neurons of each layer."""
    kv_groups: tuple[int, ...]
    """KV heads of each layer."""
    neuron_parameters: int
    """Parameters of one MLP neuron, biases included."""
    group_parameters: int
    """Parameters of one KV group, biases included."""
    fixed_parameters: tuple[int, ...]
    """Parameters of each layer that no width changes: norms, output biases, ungrouped attention."""
    other_parameters: int
    """Parameters of the embedding, the head (none, if it is tied) and the final norm."""

    @classmethod
    def of(cls, model: Model | Decoder) -> Shape:
        """Read the shape from the tensors of `model`, since no config describes every pruned model.

        Where the attention of some layer is more than KV groups, each layer has one group of no parameters.

        Raises InputError for what is no model.
        """
        if not isinstance(model, Decoder):
            backbone_of(model)
        structure = as_decoder(model).structure
        layers = list(layers_of(structure))
        layer_parts = [parts(layer) for layer in layers]
        attentions = [part["attention"] for part in layer_parts]
        mlps = [part["mlp"] for part in layer_parts]
        neuron_parameters = _block_parameters(mlps[0])
        neurons = tuple(mlp.output_linear.in_features for mlp in mlps)
        if all(attention.grouped for attention in attentions):
            group_parameters = _block_parameters(attentions[0])
            kv_groups = tuple(
                attention.output_linear.in_features // attention.block_size for attention in attentions
            )
        else:
            group_parameters = 0
            kv_groups = (1,) * len(layers)
        head_dim = attentions[0].block_size
        if attentions[0].grouped:
            head_dim = attentions[0].module.head_dim
        layer_totals = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
        fixed = [
            total - width * neuron_parameters - groups * group_parameters
            for total, width, groups in zip(layer_totals, neurons, kv_groups, strict=True)
        ]
        total = sum(weight.numel() for weight in structure.parameters())  # a tied head is one parameter here
        return cls(
            hidden_size=mlps[0].output_linear.out_features,
            head_dim=head_dim,
            group_heads=attentions[0].block_size // head_dim,
            neurons=neurons,
            kv_groups=kv_groups,
            neuron_parameters=neuron_parameters,
            group_parameters=group_parameters,
            fixed_parameters=tuple(fixed),
            other_parameters=total - sum(layer_totals),
        )

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return len(self.neurons)

    def parameters_of_layer(self, index: int) -> int:
        """Parameters of one decoder layer."""
        mlp = self.neurons[index] * self.neuron_parameters
        attention = self.kv_groups[index] * self.group_parameters
        return mlp + attention + self.fixed_parameters[index]

    @property
    def decoder_parameters(self) -> int:
        """Parameters of all decoder layers, which are those that pruning can reach."""
        return sum(self.parameters_of_layer(index) for index in range(self.layer_count))

    @property
    def total_parameters(self) -> int:
        """All parameters of the model, of which a tied embedding counts once."""
        return self.decoder_parameters + self.other_parameters

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same number of neurons and of KV groups."""
        return len(set(self.neurons)) <= 1 and len(set(self.kv_groups)) <= 1

    @property
    def fits_stock_config(self) -> bool:
        """Whether transformers' LlamaConfig accepts it: uniform, and its heads divide `hidden_size`."""
        return self.uniform and self.hidden_size % (self.kv_groups[0] * self.group_heads) == 0

    def with_biases(self) -> Shape:
        """The same decoder with a bias in each linear of its layers.

        Llama's config calls that `mlp_bias` and `attention_bias`. A part that has biases already stays as it
        is.
        """
        neuron_parameters = self.neuron_parameters
        group_parameters = self.group_parameters
        output_biases = 0  # of down_proj and o_proj, in each layer
        if neuron_parameters == 3 * self.hidden_size:
            neuron_parameters += 2  # of gate and up
            output_biases += self.hidden_size
        if group_parameters == self.head_dim * (2 + 2 * self.group_heads) * self.hidden_size:
            group_parameters += self.head_dim * (2 + self.group_heads)  # of its rows in k, v and q
            output_biases += self.hidden_size
        return replace(
            self,
            neuron_parameters=neuron_parameters,
            group_parameters=group_parameters,
            fixed_parameters=tuple(count + output_biases for count in self.fixed_parameters),
        )

    def with_widths(
        self, neurons: Sequence[int], kv_groups: Sequence[int], layers: Sequence[int] | None = None
    ) -> Shape:
        """The same decoder with other widths, one entry for each layer that stays.

        layers: the indices of those layers; None: they do not matter, since all layers are alike or all stay.
        """
        fixed = self.fixed_parameters
        if layers is not None:
            fixed = tuple(fixed[index] for index in layers)
        elif len(neurons) != self.layer_count and len(set(fixed)) > 1:
            raise ValueError(
                f"expected the layers that stay, of {self.layer_count} that differ, got {len(neurons)} widths"
            )
        fixed = fixed[: len(neurons)]
        return replace(self, neurons=tuple(neurons), kv_groups=tuple(kv_groups), fixed_parameters=fixed)

    def removed_share(self, pruned: Shape) -> float:
        """The part of the decoder's parameters that a `pruned` shape has not; below 0 where it has more."""
        return (self.decoder_parameters - pruned.decoder_parameters) / self.decoder_parameters


def _block_parameters(part: Part) -> int:
    """Parameters of one block of a part.

    They are the rows that produce the block's inputs of the output linear, and the columns that read them.
    """
    total = part.block_size * part.output_linear.out_features
    for name, rows in part.producer_rows.items():
        linear = getattr(part.module, name)
        total += rows.shape[1] * (linear.in_features + (linear.bias is not None))
    return total
