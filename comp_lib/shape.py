"""Parameter arithmetic of a LLaMA-class decoder.

A decoder layer owns, for hidden size d, head size k, n neurons and g KV groups of r query heads each:

    MLP          n * (3 d)                    gate, up and down: one neuron is a row, a row and a column
    attention    g * (2 k d + 2 r k d)        k and v; q and o: one KV group can only go as a whole
    norms        2 d                          stay as long as the layer does, as does an attention without plain groups

plus biases where the model has them. What is counted here is checked against `model.num_parameters()` by a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .families import layers_of, parts
from .families.protocol import STEPS, Model


def span(widths: Sequence[int]) -> str:
    """Widths of layers in words.

    >>> span([1024, 1536]), span([1024, 1024])
    ('1,024 to 1,536', '1,024')
    """
    low, high = min(widths), max(widths)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


@dataclass(frozen=True)
class Shape:
    """Widths of a decoder and what each unit of it costs in parameters."""

    hidden: int  # d, width of the residual stream
    head_dim: int  # k
    group_heads: int  # r, query heads that share one KV head: they can only be removed together
    neurons: tuple[int, ...]  # MLP neurons of each layer
    kv_groups: tuple[int, ...]  # KV heads of each layer
    neuron_parameters: int  # of one MLP neuron, biases included
    group_parameters: int  # of one KV group, biases included
    layer_parameters: tuple[
        int, ...
    ]  # of what no width changes in each layer: norms, output biases, other mixers
    other_parameters: int  # embeddings, head (once, if tied) and the final norm

    @classmethod
    def of(cls, model: Model) -> Shape:
        """Read the shape from the tensors of `model`: its config cannot describe every pruned model.

        A model that is read layer by layer (`disk.model_on_disk`) brings its shape along.
        Where some attention is more than KV groups, each is one group that no parameter belongs to.
        """
        if isinstance(known := getattr(model, "shape", None), cls):
            return known
        layers = list(layers_of(model))
        mixers, mlps = ([parts(layer)[which] for layer in layers] for which in STEPS)

        costs = []  # of one block: rows of what produces it, and its inputs of the dense layer
        for part in (mixers[0], mlps[0]):
            made = [(getattr(part.module, name), rows.shape[1]) for name, rows in part.rows.items()]
            produced = sum(count * (linear.in_features + (linear.bias is not None)) for linear, count in made)
            costs.append(part.block * part.linear.out_features + produced)
        neurons, hidden = tuple(part.linear.in_features for part in mlps), mlps[0].linear.out_features
        first, (group, neuron) = mixers[0], costs
        head_dim = first.module.head_dim if first.grouped else first.block
        if all(part.grouped for part in mixers):
            kv_groups = tuple(part.linear.in_features // first.block for part in mixers)
        else:
            kv_groups, group = (1,) * len(layers), 0
        whole = [sum(p.numel() for p in layer.parameters()) for layer in layers]
        widths = zip(whole, neurons, kv_groups, strict=True)
        fixed = tuple(count - width * neuron - groups * group for count, width, groups in widths)
        other = sum(p.numel() for p in model.parameters()) - sum(whole)  # a tied head is one parameter here
        return cls(hidden, head_dim, first.block // head_dim, neurons, kv_groups, neuron, group, fixed, other)

    @property
    def layers(self) -> int:
        return len(self.neurons)

    def layer(self, index: int) -> int:
        """Parameters of one decoder layer."""
        neurons, groups = self.neurons[index], self.kv_groups[index]
        return (
            neurons * self.neuron_parameters + groups * self.group_parameters + self.layer_parameters[index]
        )

    @property
    def decoder(self) -> int:
        """Parameters of all decoder layers: what pruning can reach."""
        return sum(self.layer(index) for index in range(self.layers))

    @property
    def total(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self.decoder + self.other_parameters

    @property
    def uniform(self) -> bool:
        """One width for all layers, so that a stock config can describe it."""
        return len(set(self.neurons)) <= 1 and len(set(self.kv_groups)) <= 1

    @property
    def stock(self) -> bool:
        """Uniform, and with a number of heads that transformers' LlamaConfig accepts (it must divide `hidden`)."""
        return self.uniform and self.hidden % (self.kv_groups[0] * self.group_heads) == 0

    def with_biases(self) -> Shape:
        """The same decoder with a bias in each of its dense layers, Llama's `mlp_bias` and `attention_bias`."""
        shape, head = self, self.head_dim * (2 + self.group_heads)  # rows that a KV group has in k, v and q
        biases = 0
        if shape.neuron_parameters == 3 * self.hidden:
            shape, biases = replace(shape, neuron_parameters=shape.neuron_parameters + 2), self.hidden
        if shape.group_parameters == self.head_dim * (2 + 2 * self.group_heads) * self.hidden:
            shape = replace(shape, group_parameters=shape.group_parameters + head)
            biases += self.hidden
        return replace(shape, layer_parameters=tuple(count + biases for count in self.layer_parameters))

    def with_widths(
        self, neurons: Sequence[int], kv_groups: Sequence[int], layers: Sequence[int] | None = None
    ) -> Shape:
        """The same decoder with other widths, one entry for each layer that stays.

        layers: which those are; None: it does not matter, since all of them are alike or none goes.
        """
        fixed = self.layer_parameters
        if layers is not None:
            fixed = tuple(fixed[index] for index in layers)
        elif len(neurons) != self.layers and len(set(fixed)) > 1:
            raise ValueError(
                f"expected the layers that stay, of {self.layers} that differ, got {len(neurons)} widths"
            )
        fixed = fixed[: len(neurons)]
        return replace(self, neurons=tuple(neurons), kv_groups=tuple(kv_groups), layer_parameters=fixed)
