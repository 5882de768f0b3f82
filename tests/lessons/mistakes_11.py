"""Wrong answers to the wrap-up, and what its checks say to each: about a small Gemma 3."""

from __future__ import annotations

from functools import cache

from lessons import checks_module
from variants import LISTS_OF_FOUR, build, tokens

from comp_lib.decoder.shape import Shape

checks_11 = checks_module("11")


@cache
def small():
    """A small model of the same family, with two KV groups, and tokens."""
    return build(
        "gemma3", seed=6, intermediate_size=400, num_hidden_layers=4, **LISTS_OF_FOUR["gemma3"]
    ), tokens(1, 24)


def shape():
    return Shape.of(small()[0])


def removed():
    return 0.2 * shape().decoder_parameters


def right_of_4():
    return removed() / shape().layer_count / shape().neuron_parameters


def right_of_9():
    left_to_pay = removed() - shape().parameters_of_layer(0)
    return left_to_pay / (shape().layer_count - 1) / shape().neuron_parameters


def extreme(values, choose):
    """The letter whose value is the least or the most."""
    value_of_letter = values(*small())
    return choose(value_of_letter, key=value_of_letter.get)


def neither(values):
    """A letter that neither is the answer to any of these questions nor has the most of `values`."""
    taken = {extreme(checks_11._influences, min), extreme(checks_11._losses, min), extreme(values, max)}
    return next(letter for letter in checks_11.LAYERS if letter not in taken)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("parameters_of_a_neuron", lambda: 2 * shape().hidden_size, "the neuron's column of down"),
    ("parameters_of_a_neuron", lambda: shape().hidden_size, "one in each of three matrices"),
    ("parameters_of_a_neuron", lambda: 7, "is not 7: read the shapes"),
    ("parameters_of_a_neuron", lambda: "1,920", "as one number, got str"),
    (
        "neurons_for_a_group",
        lambda: 2 * shape().head_dim * shape().hidden_size / shape().neuron_parameters,
        "k and v alone",
    ),
    ("neurons_for_a_group", lambda: shape().group_parameters, "divide by those of a neuron"),
    ("groups_to_spare", lambda: shape().kv_groups[0], "one has to stay"),
    ("groups_to_spare", lambda: shape().kv_groups[0] * shape().group_heads - 1, "these are query heads"),
    ("neurons_to_remove", lambda: 0.2 * shape().neurons[0], "a fifth of the neurons"),
    ("neurons_to_remove", lambda: shape().neurons[0] - right_of_4(), "the neurons that stay"),
    (
        "neurons_to_remove",
        lambda: 0.2 * shape().total_parameters / shape().layer_count / shape().neuron_parameters,
        "the embedding is no part",
    ),
    ("neurons_to_remove", lambda: shape().layer_count * right_of_4(), "all layers together"),
    ("share_of_all", lambda: 20.0, "the share of the decoder"),
    ("share_of_all", lambda: removed() / shape().total_parameters, "in percent, please"),
    ("share_of_all", lambda: 500 * removed() / shape().total_parameters, "a fifth of it goes"),
    ("after_down", lambda: "a", "so it is in SmolLM2"),
    ("after_down", lambda: "c", "the activation comes before"),
    ("after_down", lambda: "norm", "expected one of the letters"),
    ("least_influence", lambda: extreme(checks_11._influences, max), "has the .most. influence"),
    ("least_influence", lambda: neither(checks_11._influences), "another has less"),
    ("least_influence", lambda: 8, "expected one of the letters"),
    ("least_missed", lambda: extreme(checks_11._influences, min), "the proxy's choice"),
    ("least_missed", lambda: extreme(checks_11._losses, max), "nats higher"),
    (
        "neurons_beside_a_layer",
        lambda: removed() / (shape().layer_count - 1) / shape().neuron_parameters,
        "has paid",
    ),
    (
        "neurons_beside_a_layer",
        lambda: right_of_9() * (shape().layer_count - 1) / shape().layer_count,
        "one layer fewer",
    ),
    ("neurons_beside_a_layer", lambda: shape().neurons[0] - right_of_9(), "the neurons that stay"),
]

# Name in checks_11 -> what stands there during the test: a small model in the place of the real one.
REPLACEMENTS = {"gemma": small, "LAYERS": {"a": 0, "b": 1, "c": 2, "d": 3}}
