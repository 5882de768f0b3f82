"""What a run of COMP is asked to do: one frozen value, checked before any work starts; and the names that it may say.

What is slow to import is imported where it is used, since help is made from these tables and is to appear at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import InputError, suggestion
from .importance import LAYER_METRICS

if TYPE_CHECKING:
    from .plan import PlanRequest
    from .shape import Shape

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
RECOVERIES = ("least-squares", "mask", "bias", "none")
# The same for all layers, which any runtime loads; by layer importance, the paper's; by measurement, the best.
WIDTHS = ("uniform", "per-layer", "measured")


def default_recovery(method: str, biases: bool = True) -> str:
    """What the makers of a method do after the cut (LLM-Pruner fine-tunes, which no method here may).

    A metric that is none of METHODS, such as one of your own, gets COMP's refit: it is compared with COMP's metric.
    biases: whether the model's family has room for them; without, FLAP goes without.
    """
    own = {"comp": "least-squares", "slimgpt": "least-squares", "flap": "bias" if biases else "none"}
    return own.get(str(method), "none" if method in METHODS else "least-squares")


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
    "best": "widths by measurement, and 256 sequences of text",
    "paper": "whole layers, then widths by layer importance, then a tuned mask",
}
MUCH = 0.2  # of the decoder: where more goes, the aim "auto" is the dense model's stream, at the price of a second walk
# What `comp-lib prune` takes where nothing else is said. Of text: 128 sequences, or what SEQUENCES says. Of mixtures
# as many or PER_NEURON tokens for each neuron of a layer, but at most MOST_TOKENS, which they have with any tokenizer.
DEFAULTS: dict[str, Any] = {
    "calibration": "general",
    "length": 256,
    "seed": 0,
    "dtype": "float32",
    "device": "cpu",
}
SEQUENCES = {"best": 256}
PER_NEURON, MOST_TOKENS = 8, 65_536

MOST_LAYERS, LARGEST_RIDGE = 10_000, 1e6  # nothing is left of a fit by then
NUMBERS: dict[str, tuple[tuple[type, ...], str]] = {  # of settings that are numbers -> their types, in words
    "multiple": ((int, type(None)), "a whole number or None"),
    "seed": ((int,), "a whole number"),
    "kv_groups": ((int, type(None)), "a whole number or None"),
    "ratio": ((int, float), "a number"),
    "layers": ((int, float, str), "a number"),
    "ridge": ((int, float, str), "a number"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of `prune`, besides the model and the tokens.

    Raises InputError by the name of what is wrong; a ratio that is none is refused by `plan.PlanRequest`.
    """

    ratio: float = 0.2  # part of the decoder's parameters to remove, at least
    method: str = "comp"  # one of METHODS, or any name in importance.neurons.METRICS
    layers: float | str = (
        "auto"  # whole layers to drop, or their share; "auto": what widths alone cannot carry
    )
    layer_metric: str = "loss"  # or "block-influence", the paper's, which is fooled by some layers
    widths: str = "uniform"  # one of WIDTHS
    kv_groups: int | None = None  # KV groups to keep in each layer; None: all
    recovery: str = "least-squares"  # one of RECOVERIES, for any method; its own is `default_recovery`
    aim: str = (
        "self"  # of the least squares: the layer's own output, the "dense" model's stream, or "auto", by MUCH
    )
    ridge: float | str = (
        "auto"  # lambda of the solves, relative to each input's own energy; "auto": by held-out text
    )
    token_weights: bool = True  # divide each token by the norm of its residual stream
    multiple: int | None = (
        None  # widths are multiples of this; None: 64, or the first half of it that is fine enough
    )
    seed: int = 0
    device: str = "cpu"  # where one layer at a time computes, in float64 too: "cpu", "cuda", "cuda:1"

    def __post_init__(self) -> None:
        from .importance.neurons import METRICS, RIDGE
        from .system.machine import available_device

        for name, (kinds, words) in NUMBERS.items():
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, kinds)
                or (type(value) is int and abs(value) >= 2**63)
            ):
                raise InputError(f"expected {name} to be {words}, got {value!r}: write another")
        for name, value, options in (
            ("method", self.method, tuple(dict.fromkeys((*METHODS, *METRICS)))),
            ("recovery", self.recovery, RECOVERIES),
            ("aim", self.aim, ("self", "dense", "auto")),
            ("widths", self.widths, WIDTHS),
            ("layer metric", self.layer_metric, LAYER_METRICS),
        ):
            if value not in options:
                hint = suggestion(str(value), options)
                raise InputError(f"expected {name} to be one of {', '.join(options)}, got {value!r}: {hint}")
        if self.widths == "measured" and self.recovery != "least-squares":
            wanted = "the recovery least-squares with measured widths, for which they are measured"
            raise InputError(
                f"expected {wanted}, got {self.recovery!r}: choose other widths, or the preset stock"
            )
        layers = self.layers
        if layers != "auto" and (
            isinstance(layers, str) or not 0 <= layers <= MOST_LAYERS or max(1, layers) % 1
        ):
            wanted = "layers to be a number or 'auto', or a share below 1"
            raise InputError(f"expected {wanted}, got {self.layers!r}: say how many are dropped")
        if self.ridge != "auto" and (isinstance(self.ridge, str) or not 0.0 < self.ridge <= LARGEST_RIDGE):
            wanted = f"a ridge above 0, at most {LARGEST_RIDGE:g}, or 'auto'"
            raise InputError(f"expected {wanted}, got {self.ridge}: {RIDGE:g} suits 8,000 tokens")
        if self.device == "auto":
            raise InputError(
                "expected the name of a device, got 'auto': ask system.machine.available_device for it"
            )
        available_device(self.device, double=True)
        for name, allowed in BASELINES.get(self.method, {}).items():
            if getattr(self, name) not in allowed:
                wanted = (
                    f"{' or '.join(map(str, allowed))} with the method {self.method}, which decides the rest"
                )
                got = f"{getattr(self, name)!r}: leave it out, or choose another method or the preset stock"
                raise InputError(f"expected {name} to be {wanted}, got {got}")

    @property
    def neuron_metric(self) -> str:
        """COMP's metric presumes its recovery, so the recovery decides which of the two it is."""
        if self.method not in ("comp", "slimgpt"):
            return self.method
        return "full-condition" if self.recovery == "least-squares" else "mask-condition"

    def request(self, shape: Shape, name: str = "") -> PlanRequest:
        """What a planner for a model of that shape and name is asked for; no layers are dropped yet."""
        from .hybrid_granularity.uniform import fitting_multiple
        from .plan import PlanRequest

        biased = self.recovery == "bias"
        request = PlanRequest(
            shape=shape, ratio=self.ratio, kv_groups=self.kv_groups, parent=name, biased=biased
        )
        fitting = fitting_multiple(request, self.layers) if self.multiple is None else self.multiple
        return replace(request, multiple=fitting)
