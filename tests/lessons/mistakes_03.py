"""Wrong answers to the exercises of lesson 3, and what their checks say to each.

Those to `missed_least` are in test_exercises_on_models.py, on a small model.
"""

from __future__ import annotations


def width(
    groups,
    budget,
    query_heads=3,
    norms=2,
    vectors=3,
    layers=None,
    counted_groups=None,
    multiple=8,
    extra=0,
):
    """The right width, unless an argument makes it wrong."""
    hidden, head = 576, 64
    counted_groups = sum(groups) if counted_groups is None else counted_groups
    left = budget - counted_groups * head * hidden * (2 + 2 * query_heads) - norms * hidden * len(groups)
    return left // (vectors * hidden * (layers or len(groups))) // multiple * multiple + extra


def wrong(**arguments):
    return lambda groups, budget: width(groups, budget, **arguments)


# (function that the learner writes, a wrong answer, pattern that the check's sentence matches)
MISTAKES = [
    ("width_for", wrong(norms=0), "the norms are missing"),
    ("width_for", wrong(extra=8), "rounded up"),
    ("width_for", wrong(query_heads=0), "more than k and v"),
    ("width_for", wrong(query_heads=1), "one query head was counted"),
    ("width_for", wrong(vectors=2), "three vectors"),
    ("width_for", wrong(layers=1), "divide by the layers"),
    ("width_for", wrong(counted_groups=0), "the attention is missing"),
    ("width_for", lambda g, b: width(g, b, counted_groups=len(g) * g[0]), "those of the first alone"),
    ("width_for", wrong(multiple=1), "no multiple of 8"),
    ("width_for", wrong(extra=-8), "room for a larger one"),
    ("width_for", lambda groups, budget: [1120] * 30, "as one number"),
]
