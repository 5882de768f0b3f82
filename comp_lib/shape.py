"""Parameter arithmetic of a LLaMA-class decoder.

A decoder layer owns, for hidden size d, head size k, n neurons and g KV groups of r query heads each:

    MLP          n * (3 d)                    gate, up and down: one neuron is a row, a row and a column
    attention    g * (2 k d + 2 r k d)        k and v; q and o: one KV group can only go as a whole; 0: none is left
    norms        2 d                          stays as long as the layer does

plus biases where the model has them. What is counted here is checked against `model.num_parameters()` by a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .families import dense_layer, family_of
from .families.protocol import STEPS, Model, Which


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
    layer_parameters: int  # of what no width changes: norms and output biases
    other_parameters: int  # embeddings, head (once, if tied) and the final norm
    step_parameters: tuple[int, int] = (0, 0)  # of layer_parameters, what goes with the whole attention or MLP

    @classmethod
    def of(cls, model: Model) -> Shape:
        """Read the shape from the tensors of `model`: its config cannot describe every pruned model.

        A model that is read layer by layer (`scale.model_on_disk`) brings its shape along.
        """
        if isinstance(known := getattr(model, "shape", None), cls):
            return known
        family = family_of(model)
        layers = list(family.layers(model))
        head_dim, group_heads = family.heads(layers[0])

        having = {which: next(layer for layer in layers if dense_layer(layer, which).in_features) for which in STEPS}

        def per_block(which: Which, inputs: int) -> int:
            """Parameters of one block: rows of what produces it, and its inputs of the dense layer."""
            layer = having[which]
            module, _ = family.sublayer(layer, which)
            count = inputs * dense_layer(layer, which).out_features
            for name, rows in family.producers(layer, which).items():
                linear = getattr(module, name)
                count += rows.shape[1] * (linear.in_features + (linear.bias is not None))
            return count

        neurons = tuple(dense_layer(layer, "mlp").in_features for layer in layers)
        kv_groups = tuple(dense_layer(layer, "attention").in_features // (head_dim * group_heads) for layer in layers)
        neuron, group = per_block("mlp", 1), per_block("attention", head_dim * group_heads)
        hidden = dense_layer(layers[0], "mlp").out_features
        # a step takes its norm along, and the bias of its output
        steps = [hidden * (1 + (dense_layer(having[which], which).bias is not None)) for which in STEPS]
        # what is left of a layer is independent of its widths: norms, output biases, whatever the family adds
        fixed = sum(p.numel() for p in layers[0].parameters()) - neurons[0] * neuron - kv_groups[0] * group
        fixed += sum(step for step, width in zip(steps, (kv_groups[0], neurons[0]), strict=True) if not width)
        total = sum(p.numel() for p in model.parameters())  # a tied head is one parameter here
        decoder = sum(p.numel() for layer in layers for p in layer.parameters())
        each = (neuron, group, fixed, total - decoder, (steps[0], steps[1]))
        return cls(hidden, head_dim, group_heads, neurons, kv_groups, *each)

    @property
    def layers(self) -> int:
        return len(self.neurons)

    def layer(self, index: int) -> int:
        """Parameters of one decoder layer."""
        neurons, groups = self.neurons[index], self.kv_groups[index]
        gone = sum(step for step, width in zip(self.step_parameters, (groups, neurons), strict=True) if not width)
        return neurons * self.neuron_parameters + groups * self.group_parameters + self.layer_parameters - gone

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
        if shape.neuron_parameters == 3 * self.hidden:
            fixed = shape.layer_parameters + self.hidden
            steps = (shape.step_parameters[0], shape.step_parameters[1] + self.hidden)
            neuron = shape.neuron_parameters + 2
            shape = replace(shape, neuron_parameters=neuron, layer_parameters=fixed, step_parameters=steps)
        if shape.group_parameters == self.head_dim * (2 + 2 * self.group_heads) * self.hidden:
            fixed = shape.layer_parameters + self.hidden
            steps = (shape.step_parameters[0] + self.hidden, shape.step_parameters[1])
            group = shape.group_parameters + head
            shape = replace(shape, group_parameters=group, layer_parameters=fixed, step_parameters=steps)
        return shape

    def with_widths(self, neurons: tuple[int, ...], kv_groups: tuple[int, ...]) -> Shape:
        """The same decoder with other widths, one entry for each layer that stays."""
        return replace(self, neurons=tuple(neurons), kv_groups=tuple(kv_groups))
