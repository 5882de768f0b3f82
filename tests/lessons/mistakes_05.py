"""Wrong answers to the exercises of lesson 5, and words of the sentence that tells each."""

from __future__ import annotations


def walk(layers, h, smaller, given=lambda dense, h, first: h, passed=lambda dense, small: small):
    """The right loop, unless something else is asked for."""
    made, first = [], h
    for layer in layers:
        made.append(smaller(layer, given(layer, h, first)))
        h = passed(layer, made[-1])(h)
    return made, h


MISTAKES = [
    (
        "walk",
        lambda a, h, f: walk(a, h, f, passed=lambda dense, small: dense),
        r"tuned on the \*dense\* stream",
    ),
    ("walk", lambda a, h, f: walk(a, h, f, given=lambda dense, h, first: dense(h)), "what goes in"),
    ("walk", lambda a, h, f: walk(a, h, f, given=lambda dense, h, first: first), "never moved on"),
    ("walk", lambda a, h, f: (walk(a, h, f)[0], h), "the stream is 21, got 0"),
    ("my_plan", lambda asked: asked.plan([1536] * 30), "got 0.0%: change the widths"),
    ("my_plan", lambda asked: asked.plan([1120] * 29 + [1128]), "expected one width for all layers"),
    ("my_plan", lambda asked: asked.plan([1600] * 30), "expected at most 1536 neurons in layer 0"),
    ("my_plan", lambda asked: [1120] * 30, "expected a plan, got list"),
]
