"""Wrong answers to what the reader writes in lesson 08, and what their checks say to each."""

BYTES = """\
def bytes_for_a_token(shape, vocabulary, bits):
    norms = sum(shape.fixed_parameters) + shape.hidden_size
    neurons = sum(shape.neurons) * shape.neuron_parameters
    groups = sum(shape.kv_groups) * shape.group_parameters
    head = vocabulary * shape.hidden_size
    return {bytes}
"""

WRONG = {
    "bytes_for_a_token": {
        "the head is missing": BYTES.format(bytes="(neurons + groups) * bits / 8 + norms * 4"),
        "the embedding is counted beside the head": BYTES.format(
            bytes="(neurons + groups + 2 * head) * bits / 8 + norms * 4"
        ),
        "the KV groups are missing": BYTES.format(bytes="(neurons + head) * bits / 8 + norms * 4"),
        "the neurons are missing": BYTES.format(bytes="(groups + head) * bits / 8 + norms * 4"),
        "this is a number of bits:": BYTES.format(bytes="(neurons + groups + head) * bits + norms * 32"),
        "where the weights are counted": BYTES.format(bytes="(neurons + groups + head) * bits + norms * 4"),
        "with the bits of the weights": BYTES.format(bytes="(neurons + groups + head + norms) * bits / 8"),
        "the norms are missing": BYTES.format(bytes="(neurons + groups + head) * bits / 8"),
        "this counts 32 bytes": BYTES.format(bytes="(neurons + groups + head) * bits / 8 + norms * 32"),
        "as wide as the first": """\
def bytes_for_a_token(shape, vocabulary, bits):
    neurons = shape.layer_count * shape.neurons[0] * shape.neuron_parameters
    groups = shape.layer_count * shape.kv_groups[0] * shape.group_parameters
    head = vocabulary * shape.hidden_size
    norms = sum(shape.fixed_parameters) + shape.hidden_size
    return (neurons + groups + head) * bits / 8 + norms * 4
""",
        "expected": "def bytes_for_a_token(shape, vocabulary, bits):\n    return shape.total_parameters",
    },
}
