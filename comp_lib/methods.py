"""Names of methods, metrics and presets, and what they set: the tables behind `Settings` and the help of `prune`.

Nothing slow is imported here, since help is to appear at once.
"""

from __future__ import annotations

from typing import Any

# Baselines that choose the widths themselves (see `baselines`), and the settings that this leaves them.
BASELINES: dict[str, dict[str, tuple[object, ...]]] = {
    "llm-pruner": {"layers": ("auto", 0), "widths": ("uniform",)},
    "flap": {"layers": ("auto", 0), "widths": ("uniform",), "kv_groups": (None,)},
    "slimgpt": {"layers": ("auto", 0), "widths": ("uniform",)},
    "shortgpt": {
        "layers": ("auto",),
        "kv_groups": (None,),
        "widths": ("uniform",),
        "recovery": ("least-squares", "mask", "none"),  # no bias: no channel goes whose mean it could be
    },
}
METHODS = ("comp", "magnitude", "wanda-sp", "random", *BASELINES)
# What judges the inputs of a dense layer. Each is a function of `importance.neurons`, with "_" for "-" in its name.
NEURON_METRICS = "full-condition", "mask-condition", "activation", "energy", "magnitude", "wanda-sp", "random"
LAYER_METRICS = "block-influence", "loss"
RECOVERIES = ("least-squares", "mask", "bias", "none")
# The same for all layers, which any runtime loads; by layer importance, the paper's; by measurement, the best.
WIDTHS = ("uniform", "per-layer", "measured")


def default_recovery(method: str, biases: bool = True) -> str:
    """What the makers of a method do after the cut (LLM-Pruner fine-tunes, which no method here may).

    A metric that is none of METHODS, such as one of your own, gets COMP's refit: it is compared with COMP's metric.
    biases: whether the model's family has room for them; without, FLAP goes without.
    """
    own = {"comp": "least-squares", "slimgpt": "least-squares", "flap": "bias" if biases else "none"}
    return own.get(method, "none" if method in METHODS else "least-squares")


# What to set for a whole recipe. What each costs and reaches: benchmarks/RESULTS.md. The paper's share of whole layers
# is our choice: the digests name none.
PRESETS: dict[str, dict[str, Any]] = {
    "stock": {"widths": "uniform", "aim": "auto"},
    "best": {"widths": "measured", "aim": "dense"},
    "paper": {
        "layers": 0.1,
        "layer_metric": "block-influence",
        "widths": "per-layer",
        "recovery": "mask",
        "ridge": 1e-2,
    },
}
PRESETS_IN_WORDS = {
    "stock": "one width for all layers, which any runtime loads",
    "best": "widths by measurement, and twice the text",
    "paper": "whole layers, then widths by layer importance, then a tuned mask",
}
MUCH = 0.2  # of the decoder: where more goes, the aim "auto" is the dense model's stream, at the price of a second walk
# What `comp-lib prune` takes where nothing else is said. Of text: 128 sequences, or what SEQUENCES says. Of mixtures
# up to PER_NEURON tokens for each neuron of a layer, as far as MOST_TOKENS go, which they have with any tokenizer.
DEFAULTS: dict[str, Any] = {"calibration": "general", "length": 256, "seed": 0, "dtype": "float32", "device": "cpu"}
SEQUENCES = {"best": 256}
PER_NEURON, MOST_TOKENS = 8, 65_536
