"""Check of what the reader writes in lesson 08, on small shapes whose bytes are counted part by part."""

from __future__ import annotations

from collections.abc import Callable

from comp_lib.decoder.shape import Shape
from course.checking import Wrong, accept, call, check_number, checks

# Three layers of a stream 24 wide: heads of 8, two query heads in a group, layers that differ in width.
UNEVEN = Shape(
    hidden_size=24,
    head_dim=8,
    group_heads=2,
    neurons=(40, 28, 12),
    kv_groups=(3, 2, 1),
    neuron_parameters=72,
    group_parameters=1152,
    fixed_parameters=(48, 48, 48),
    other_parameters=2424,
)


@checks("bytes_for_a_token")
def check_bytes_for_a_token(bytes_for_a_token: Callable) -> None:
    for shape, vocabulary in ((UNEVEN, 100), (UNEVEN.with_widths((20, 8), (2, 1), (0, 2)), 250)):
        for bits in (16, 8.5):
            answer = call(bytes_for_a_token, shape, vocabulary, bits)
            check_number("the bytes", answer)
            _check_bytes(answer, shape, vocabulary, bits)
    accept("every weight that decode reads is counted once, the norms in 32 bits")


def _check_bytes(answer: float, shape: Shape, vocabulary: int, bits: float) -> None:
    """Raises Wrong unless the answer is the bytes of decode, in words of the part that is wrong."""
    neurons = groups = norms = 0
    for layer in range(shape.layer_count):
        neurons += shape.neurons[layer] * shape.neuron_parameters
        groups += shape.kv_groups[layer] * shape.group_parameters
        norms += shape.fixed_parameters[layer]
    norms += shape.hidden_size
    head = vocabulary * shape.hidden_size
    weights = neurons + groups + head
    right = weights * bits / 8 + norms * 4
    if abs(answer - right) < 1e-6:
        return
    first_layers = (
        shape.neurons[0] * shape.neuron_parameters + shape.kv_groups[0] * shape.group_parameters
    ) * shape.layer_count
    mistakes = {
        "the head is missing: it is read whole for each token, though pruning never touches it": (
            right - head * bits / 8
        ),
        "the embedding is counted beside the head: here they are one matrix, read once": (
            right + head * bits / 8
        ),
        "the KV groups are missing: the attention is read too": right - groups * bits / 8,
        "the neurons are missing": right - neurons * bits / 8,
        "this is a number of bits: eight bits make a byte": weights * bits + norms * 32,
        "this is a number of bits where the weights are counted: eight bits make a byte": (
            weights * bits + norms * 4
        ),
        "this counts the norms with the bits of the weights: they stay in 32 bits": (
            (weights + norms) * bits / 8
        ),
        "the norms are missing: their vectors are read too": weights * bits / 8,
        "32 bits are 4 bytes: this counts 32 bytes for each number of a norm": weights * bits / 8
        + norms * 32,
        "this takes every layer to be as wide as the first: add up the layers": (
            (first_layers + head) * bits / 8 + norms * 4
        ),
    }
    for sentence, mistake in mistakes.items():
        if abs(answer - mistake) < 1e-6:
            raise Wrong(sentence)
    raise Wrong(
        f"expected {right:,.0f} bytes for {shape.layer_count} layers in {bits:g} bits, got {answer:,.0f}: "
        f"{neurons:,} weights are in the neurons, {groups:,} in the KV groups, {head:,} in the head, and "
        f"{norms:,} in the norms"
    )
