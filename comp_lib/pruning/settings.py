"""What a run of COMP is asked to do: one frozen value, checked before any work starts.

The tables here have the names that it may use. The help of the command line is made from them and has to
appear at once, so modules that are slow to import are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from ..calibration.defaults import USUAL_LENGTH, USUAL_SEQUENCES
from ..importance.names import LAYER_METRIC_NAMES, LayerMetricName
from ..recovery.names import RECOVERY_NAMES, RecoveryName
from ..utils.arguments import (
    LARGEST_INTEGER,
    check_ratio,
    check_seed,
    check_switch,
    check_type,
    check_whole_number,
    plain_number,
    suggestion,
)
from ..utils.errors import InputError
from .methods import METHODS, default_recovery, method_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..decoder.shape import Shape
    from ..hybrid_granularity.plan import Plan, PlanRequest

# "uniform": the same for all layers, which any runtime loads.
# "per-layer": by layer importance, the paper's way.
# "estimated": by a short measurement of the harm that the model takes when a layer is narrowed.
# "measured": by a long one.
Widths = Literal["uniform", "per-layer", "estimated", "measured"]
WIDTHS: tuple[Widths, ...] = get_args(Widths)
WIDTHS_BY_HARM: tuple[Widths, ...] = ("estimated", "measured")  # made for a recovery by least squares
Aim = Literal["self", "dense", "auto"]
AIMS: tuple[Aim, ...] = get_args(Aim)
PresetName = Literal["stock", "tailored", "best", "paper"]


@dataclass(frozen=True)
class Preset:
    """Settings that belong together; benchmarks/RESULTS.md says what each costs and reaches."""

    settings: Mapping[str, Any]
    """Fields of `Settings`."""
    words: str
    """What it does, for the help of the command line."""
    sequences: int = USUAL_SEQUENCES
    """How many sequences of text calibrate where nobody says it (`prune_model`)."""


PRESET_TABLE = MappingProxyType(
    {
        "stock": Preset(
            {"widths": "uniform", "aim": "auto"},
            words="one width for all layers, which any runtime loads",
        ),
        "tailored": Preset(
            {"widths": "estimated", "aim": "auto"},
            words="a width of its own for each layer, by a short measurement",
        ),
        "best": Preset(
            {"widths": "measured", "aim": "dense"},
            words="widths by measurement, and 256 sequences of text",
            sequences=256,
        ),
        # The share of whole layers is our choice: the summaries of the paper that we have name none.
        "paper": Preset(
            {
                "drop_layers": 0.1,
                "layer_metric": "block-influence",
                "widths": "per-layer",
                "recovery": "mask",
                "ridge": 1e-2,
                "aim": "self",
            },
            words="whole layers, then widths by layer importance, then a tuned mask",
        ),
    }
)
# The settings of each preset, which cannot be changed; `Settings.preset` makes a value of them.
PRESETS: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {name: MappingProxyType(dict(preset.settings)) for name, preset in PRESET_TABLE.items()}
)


def usual_preset(method: str) -> PresetName:
    """The preset of the method of that name, where nobody names one."""
    return method_of(method).preset


USUAL_PRESET = usual_preset("comp")  # where nobody names a method either
LARGE_RATIO = 0.2  # of the decoder: where more is to go, the aim "auto" is the dense model's stream
# What `comp-lib prune` takes where nothing else is said.
DEFAULTS: dict[str, Any] = {
    "calibration": "general",
    "length": USUAL_LENGTH,
    "seed": 0,
    "dtype": "float32",
    "device": "cpu",
}
# How much text of a mixture calibrates where nobody says it (`prune_model`): TOKENS_PER_NEURON tokens
# for each neuron of a layer, where that is more than the preset has, but at most MAX_TOKENS, which every
# mixture has with any tokenizer.
TOKENS_PER_NEURON = 8
MAX_TOKENS = 65_536

# Settings that do not count where a plan is given, which says how much of each layer stays.
DECIDED_BY_PLAN = ("ratio", "drop_layers", "layer_metric", "widths", "kv_groups", "multiple")
MAX_LAYERS = 10_000
LARGEST_RIDGE = 1e6  # nothing is left of a fit by then
# settings that are numbers, besides the seed -> their types, those in words, and an example
NUMBERS: dict[str, tuple[tuple[type, ...], str, str]] = {
    "multiple": ((int, type(None)), "a whole number or None", "64"),
    "kv_groups": ((int, type(None)), "a whole number or None", "2"),
    "ratio": ((int, float), "a number", "0.2"),
    "drop_layers": ((int, float, str), "a number or 'auto'", "2"),
    "ridge": ((int, float, str), "a number or 'auto'", "0.1"),
}


class MethodChanges(TypedDict, total=False):
    """The fields of `Settings` that say how to prune, as keywords, which are all optional."""

    method: str
    drop_layers: float | Literal["auto"]
    layer_metric: LayerMetricName
    widths: Widths | None
    kv_groups: int | None
    recovery: RecoveryName | None
    aim: Aim
    ridge: float | Literal["auto"]
    token_weights: bool
    multiple: int | None


class SettingsChanges(MethodChanges, total=False):
    """All fields of `Settings` as keywords, which are all optional."""

    ratio: float
    seed: int
    device: str


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of `prune`, besides the model and the tokens.

        Settings(ratio=0.3)  # what `comp-lib prune --ratio 0.3` does
        Settings(method="wanda-sp")  # as its makers do it
        Settings.preset("stock", ratio=0.3)  # what `comp-lib prune --preset stock --ratio 0.3` does

    What is left out follows the method: COMP gets the preset "tailored". The methods of others get the
    recovery of their makers, and one width for all layers where they do not decide the widths themselves, as
    "llm-pruner", "flap" and "slimgpt" do. None: the method or the model decides. "auto": the rule that is
    given with the setting.

    Args:
        ratio: part of the parameters of the decoder to remove, at least; above 0 and below 1. 0.2 is a fifth.
        method: who chooses: one of METHODS, or any name in importance.neuron_metrics.METRICS.
        drop_layers: whole layers to drop: a number of them (2), or a share of all below 1 (0.1). "auto": the
            fewest that leave the other layers a quarter of their neurons.
        layer_metric: what whole layers are judged by, where some go: "loss", how much the loss rises without
            one, or "block-influence", the paper's, which some layers fool.
        widths: how much each layer keeps: "uniform", the same for all, which any runtime loads, or what the
            methods "llm-pruner", "flap" and "slimgpt" decide; "per-layer", by layer importance, the paper's
            way; "estimated" or "measured", by a short or a long measurement of the harm. None: as the preset
            of the method has it, or "uniform" if the recovery is not least squares, for which alone widths
            are estimated.
        kv_groups: KV groups to keep in each layer, a number above 0; with "llm-pruner" in each layer that it
            may narrow. None: all, but for the methods "llm-pruner" and "flap", which choose among groups too.
        recovery: what follows the cut, for any method: "least-squares" refits the weights that stay, "mask"
            scales them, "bias" adds a mean, "none" leaves them. None: that of the makers of the method, see
            `methods.default_recovery`.
        aim: what the least squares aim at: "self", the layer's output, or "dense", the dense model's stream,
            which costs a second walk of the text. "auto": the dense model's stream where the ratio is above
            LARGE_RATIO (0.2).
        ridge: lambda of the solves, relative to the energy of each input: a number above 0. "auto": chosen by
            held-out text where least squares have 2 sequences or more; everywhere else, and where widths are
            measured or estimated, 0.1.
        token_weights: whether each token is divided by the norm of its residual stream.
        multiple: widths are multiples of this number of neurons. None: of 64, which is halved until it is
            fine enough for the ratio. Most GGUF types need 32. The methods "llm-pruner" and "flap" do not
            round widths.
        seed: what metrics that draw at random begin with.
        device: where one layer at a time computes, in float64 too: "cpu", "cuda", "cuda:1", or "auto" for
            the best. Whether this machine has it is checked when work is to begin.

    Raises InputError for a value that a setting cannot have, by its name, and for two values that exclude
    each other.
    """

    ratio: float = 0.2
    method: str = "comp"
    drop_layers: float | Literal["auto"] = "auto"
    layer_metric: LayerMetricName = "loss"
    widths: Widths | None = None
    kv_groups: int | None = None
    recovery: RecoveryName | None = None
    aim: Aim = "auto"
    ridge: float | Literal["auto"] = "auto"
    token_weights: bool = True
    multiple: int | None = None
    seed: int = 0
    device: str = "cpu"

    @staticmethod
    def preset(name: PresetName | None = None, **changes: Unpack[SettingsChanges]) -> Settings:
        """The settings of a preset with these changes, which win over it.

        None in a field that the preset names leaves it as the preset has it.

        name: a key of PRESETS; None: the preset of the method, so the same as `Settings(**changes)`.

        Raises InputError for another name, and as `Settings` does.
        """
        if name is None:
            return Settings(**changes)
        if not isinstance(name, str) or name not in PRESETS:
            raise InputError(
                expected=f"preset to be one of {', '.join(PRESETS)}",
                got=repr(name),
                hint=suggestion(str(name), PRESETS, otherwise="check the spelling"),
            )
        values: dict[str, Any] = dict(PRESETS[name])
        values |= {key: value for key, value in changes.items() if value is not None or key not in values}
        return Settings(**values)

    def __post_init__(self) -> None:
        for name in ("seed", *NUMBERS):
            object.__setattr__(self, name, plain_number(getattr(self, name)))  # the class is frozen
        self._check_numbers()
        self._check_names()
        self._check_ranges()
        if self.recovery is None or self.widths is None:
            self.completed()  # checks what the method decides together with the rest
        else:
            self._check_combinations()

    def completed(self, biases: bool = True) -> CompleteSettings:
        """The same settings, with the method's own recovery and widths in place of None.

        biases: whether the family of the model has room for biases, see `methods.default_recovery`.
        """
        recovery = self.recovery
        if recovery is None:
            recovery = default_recovery(self.method, biases)
        widths = self.widths
        if widths is None:
            refit = recovery == "least-squares"
            widths = PRESETS[usual_preset(self.method)]["widths"] if refit else "uniform"
        return CompleteSettings(**{**vars(self), "recovery": recovery, "widths": widths})

    def stated(self, *, plan_given: bool = False) -> dict[str, Any]:
        """The settings by name, for a card: those that the method overrules are left out.

        plan_given: whether a plan was given to the run, which overrules DECIDED_BY_PLAN.
        """
        values = dict(vars(self))
        if plan_given:
            values = {name: value for name, value in values.items() if name not in DECIDED_BY_PLAN}
        allowed = method_of(self.method).allowed
        if allowed:
            # what a method drops and narrows it judges in its own way; the recovery is free in any case
            for name in {"layer_metric", *allowed} - {"recovery"}:
                values.pop(name, None)
        return values

    def _check_numbers(self) -> None:
        for name, (types, description, example) in NUMBERS.items():
            value = getattr(self, name)
            fits = isinstance(value, types) and not isinstance(value, bool)
            if not fits or (isinstance(value, int) and abs(value) > LARGEST_INTEGER):
                raise InputError(
                    expected=f"{name} to be {description}", got=repr(value), hint=f"such as {example}"
                )
        for name in ("multiple", "kv_groups"):
            value = getattr(self, name)
            if value is not None:
                check_whole_number(name, value, 1)
        check_seed(self.seed)
        check_switch("token_weights", self.token_weights)
        check_type("device", self.device, "the name of a device", example="cuda", allowed=(str,))

    def _check_names(self) -> None:
        from ..importance.neuron_metrics import METRICS

        for name, value, options in (
            ("method", self.method, tuple(dict.fromkeys((*METHODS, *METRICS)))),
            ("recovery", self.recovery, RECOVERY_NAMES),
            ("aim", self.aim, AIMS),
            ("widths", self.widths, WIDTHS),
            ("layer_metric", self.layer_metric, LAYER_METRIC_NAMES),
        ):
            if value is None and name in ("recovery", "widths"):
                continue  # the method decides
            if not isinstance(value, str) or value not in options:
                raise InputError(
                    expected=f"{name} to be one of {', '.join(options)}",
                    got=repr(value),
                    hint=suggestion(str(value), options, otherwise="check the spelling"),
                )

    def _check_ranges(self) -> None:
        from ..importance.problem import RIDGE

        check_ratio(self.ratio)
        count = self.drop_layers
        if isinstance(count, str):
            valid = count == "auto"
        else:
            valid = 0 <= count <= MAX_LAYERS and (count < 1 or count == int(count))
        if not valid:
            raise InputError(
                expected="drop_layers to be a number or 'auto', or a share below 1",
                got=repr(count),
                hint="2 drops two layers, 0.1 a tenth of them",
            )
        if self.ridge != "auto" and (isinstance(self.ridge, str) or not 0.0 < self.ridge <= LARGEST_RIDGE):
            raise InputError(
                expected=f"ridge to be a number above 0, at most {LARGEST_RIDGE:g}, or 'auto'",
                got=repr(self.ridge),
                hint=f"{RIDGE:g} suits 8,000 tokens",
            )

    def _check_combinations(self) -> None:
        if self.widths in WIDTHS_BY_HARM and self.recovery != "least-squares":
            raise InputError(
                expected=f"recovery to be least-squares with widths {self.widths}, which are made for it",
                got=repr(self.recovery),
                hint="choose the widths uniform, or the preset stock",
            )
        if self.aim == "dense" and self.recovery != "least-squares":
            raise InputError(
                expected="recovery to be least-squares with aim dense, which no other recovery has",
                got=repr(self.recovery),
                hint="choose the aim self, or the preset stock",
            )
        for name, allowed in method_of(self.method).allowed.items():
            value = getattr(self, name)
            if value not in allowed:
                options = " or ".join(map(str, allowed))
                raise InputError(
                    expected=f"{name} to be {options} with the method {self.method}, which decides the rest",
                    got=repr(value),
                    hint="leave it out, or choose another method or the preset stock",
                )


@dataclass(frozen=True)
class CompleteSettings(Settings):
    """Settings that leave nothing to the method; `planning.complete_settings` makes them for a model."""

    recovery: RecoveryName = field(kw_only=True)
    widths: Widths = field(kw_only=True)

    @property
    def adds_biases(self) -> bool:
        """Whether the recovery gives biases to output linears that have none."""
        return self.recovery == "bias"

    @property
    def fits_all_weights(self) -> bool:
        """Whether the recovery fits all weights of what stays, by least squares."""
        return self.recovery == "least-squares"

    @property
    def reads_matrix(self) -> bool:
        """Whether the recovery or the metric reads C itself, which not every form of the sums has."""
        return self.recovery == "mask" or self.neuron_metric == "mask-condition"

    @property
    def neuron_metric(self) -> str:
        """The metric that chooses the neurons, a name in METRICS.

        Of a method whose plan names what stays, it is that method's own name: no metric chooses there.
        COMP has two metrics, of which each presumes a recovery, so the recovery decides between them.
        """
        metric = method_of(self.method).neuron_metric or self.method
        if metric != "condition":
            return metric
        return "full-condition" if self.fits_all_weights else "mask-condition"

    def plan_request(self, shape: Shape, name: str = "") -> PlanRequest:
        """The request to a planner for a model of that shape and name; no layers are dropped yet.

        Raises InputError for a multiple that no layer can have.
        """
        from ..hybrid_granularity.plan import PlanRequest
        from ..hybrid_granularity.uniform import coarsest_multiple

        request = PlanRequest(
            shape=shape,
            ratio=self.ratio,
            kv_groups=self.kv_groups,
            parent=name,
            biased=self.adds_biases,
        )
        multiple = self.multiple
        widest = max(shape.neurons)
        if multiple is None:
            multiple = coarsest_multiple(request, self.drop_layers)
        elif multiple > widest:
            raise InputError(
                expected=f"a multiple of at most {widest}, the neurons of the widest layer",
                got=multiple,
                hint="leave multiple (--multiple) out: it follows the model then",
            )
        return replace(request, multiple=multiple)

    def aims_at_dense(self, plan: Plan, shape: Shape) -> bool:
        """Whether the fit aims at the dense model's stream, at the price of a second walk.

        The aim "auto" goes by the ratio that the plan was made for; by rounding of widths the plan removes a
        little more. If the plan does not remove what it says (somebody has changed its widths), "auto" goes
        by what it does remove.

        shape: the shape of the parent.
        """
        if not self.fits_all_weights:
            return False
        if self.aim != "auto":
            return self.aim == "dense"
        ratio = plan.ratio if plan.removes_what_it_says(shape) else plan.removed_share(shape)
        return ratio > LARGE_RATIO
