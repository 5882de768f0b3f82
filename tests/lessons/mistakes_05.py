"""Wrong answers to the exercises of lesson 5, and what their checks say to each."""

from __future__ import annotations


def walk(
    layers,
    h,
    smaller,
    stream_to_tune=lambda dense, h, start: h,
    layer_to_pass=lambda dense, small: small,
):
    """The right loop, unless an argument makes it wrong.

    Args:
        stream_to_tune: chooses the stream on which a layer is tuned.
        layer_to_pass: chooses the layer through which the stream moves on.
    """
    start = h
    small_layers = []
    for dense in layers:
        small = smaller(dense, stream_to_tune(dense, h, start))
        small_layers.append(small)
        h = layer_to_pass(dense, small)(h)
    return small_layers, h


def on_dense_stream(layers, h, smaller):
    return walk(layers, h, smaller, layer_to_pass=lambda dense, small: dense)


def on_output_of_layer(layers, h, smaller):
    return walk(layers, h, smaller, stream_to_tune=lambda dense, h, start: dense(h))


def on_start(layers, h, smaller):
    return walk(layers, h, smaller, stream_to_tune=lambda dense, h, start: start)


def stream_of_start(layers, h, smaller):
    """Returns the right layers, but the stream before the first."""
    small_layers, _ = walk(layers, h, smaller)
    return small_layers, h


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("walk", on_dense_stream, r"tuned on the \*dense\* stream"),
    ("walk", on_output_of_layer, "what goes in"),
    ("walk", on_start, "never moved on"),
    ("walk", stream_of_start, "the stream is 21, got 0"),
    ("my_plan", lambda request: request.plan_with([1536] * 30), "got 0.0%: change the widths"),
    ("my_plan", lambda request: request.plan_with([1120] * 29 + [1128]), "expected one width for all layers"),
    ("my_plan", lambda request: request.plan_with([1600] * 30), "expected at most 1536 neurons in layer 0"),
    ("my_plan", lambda request: [1120] * 30, "expected a plan, got list"),
]
