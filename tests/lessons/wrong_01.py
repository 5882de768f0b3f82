"""Wrong answers to what lesson 01 asks the reader to write, and what the checks say to each."""

from __future__ import annotations

WRONG = {
    "block_influence": {
        "this is the mean cosine": """\
def block_influence(states):
    return cosine_similarity(states[:-1], states[1:], dim=-1).mean((1, 2))
""",
        "these are inner products": """\
def block_influence(states):
    return 1 - (states[:-1] * states[1:]).sum(-1).mean((1, 2))
""",
        "this compares the mean states": """\
def block_influence(states):
    means = states.mean((1, 2))
    return 1 - cosine_similarity(means[:-1], means[1:], dim=-1)
""",
        "compared with the states before layer 0": """\
def block_influence(states):
    return 1 - cosine_similarity(states[:1], states[1:], dim=-1).mean((1, 2))
""",
        "as one long vector": """\
def block_influence(states):
    return 1 - cosine_similarity(states[:-1].flatten(1), states[1:].flatten(1), dim=-1)
""",
        "this adds up over the tokens": """\
def block_influence(states):
    return (1 - cosine_similarity(states[:-1], states[1:], dim=-1)).sum((1, 2))
""",
        "got one for all": """\
def block_influence(states):
    return 1 - cosine_similarity(states[:-1], states[1:], dim=-1).mean()
""",
        "one number for each token": """\
def block_influence(states):
    return 1 - cosine_similarity(states[:-1], states[1:], dim=-1)
""",
        "compare each with the one after it": """\
def block_influence(states):
    return 1 - cosine_similarity(states, states.roll(-1, 0), dim=-1).mean((1, 2))
""",
        "of shape (4,), got (4, 2)": """\
def block_influence(states):
    return 1 - cosine_similarity(states[:-1], states[1:], dim=-1).mean(2)
""",
        "token by token, got": """\
def block_influence(states):
    return 1 - cosine_similarity(states[:-1], states[1:], dim=-1).flatten(1).median(1).values
""",
    },
    "run_without": {
        "a half adds to the state": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place not in no_attention:
            h = attention(h)
        if place not in no_mlp:
            h = mlp(h)
    return h
""",
        "the MLP reads the sum": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        before = h
        if place not in no_attention:
            h = h + attention(before)
        if place not in no_mlp:
            h = h + mlp(before)
    return h
""",
        "attention and MLP are swapped": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place not in no_mlp:
            h = h + attention(h)
        if place not in no_attention:
            h = h + mlp(h)
    return h
""",
        "the layers after it still run": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place in no_attention and place in no_mlp:
            return h
        if place not in no_attention:
            h = h + attention(h)
        if place not in no_mlp:
            h = h + mlp(h)
    return h
""",
        "loses only that half": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place not in no_attention and place not in no_mlp:
            h = h + attention(h)
            h = h + mlp(h)
    return h
""",
        "only if its layer is in both lists": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place not in no_attention or place not in no_mlp:
            h = h + attention(h)
            h = h + mlp(h)
    return h
""",
        "nothing is left out": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for attention, mlp in halves:
        h = h + attention(h)
        h = h + mlp(h)
    return h
""",
        "have changed": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place not in no_attention:
            h += attention(h)
        if place not in no_mlp:
            h += mlp(h)
    return h
""",
        "your halves in order: MLP 0, attention 0": """\
def run_without(h, halves, no_attention=(), no_mlp=()):
    for place, (attention, mlp) in enumerate(halves):
        if place not in no_mlp:
            h = h + mlp(h)
        if place not in no_attention:
            h = h + attention(h)
    return h
""",
    },
}
