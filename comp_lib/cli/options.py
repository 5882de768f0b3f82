"""Options that several commands have, and how a command gets its own as one frozen value."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from typer import Argument, Option
from typer.models import ArgumentInfo, ParameterInfo

from . import limits
from .console import refusals


@refusals()
def _available(device: str, double: bool = False) -> str:
    """What "auto" stands for here. A device that is not here, or lacks a `double` that is needed, is refused."""
    from ..system.machine import available_device

    return str(available_device(device, double))


Model = Annotated[str, Argument(help="smollm2-135m (included), gemma3-270m, a folder, a .gguf file, or a Hub id")]
Dtype = Annotated[str, Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto", callback=lambda name: _available(name))]
SOLVING_HELP = "cpu, cuda or auto; not mps, which has no float64"
Solving = Annotated[str, Option(help=SOLVING_HELP, callback=lambda name: _available(name, double=True))]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
CALIBRATION_HELP = "general, shipped, written, self, a text's name or file, or several: mine.txt:3+general:1."
Calibration = Annotated[str, Option(help=CALIBRATION_HELP)]
SequencesOfPreset = Annotated[int, Option(help="Calibration sequences (preset best: 256).")]
Length = Annotated[int, Option(help="Tokens in each.")]
LayerMetric = Annotated[str, Option(help="block-influence, loss or greedy.")]
Widths = Annotated[str, Option(help="uniform (stock checkpoint), per-layer or measured.")]
AIM_HELP = "What least squares aims at: self or dense"
Aim = Annotated[str, Option(help=f"{AIM_HELP}.")]
AimOfPreset = Annotated[str, Option(help=f"{AIM_HELP} (default: by preset; stock: dense).", show_default=False)]
Overwrite = Annotated[bool, Option(help="Replace files that are there, whoever wrote them.")]
Multiple = Annotated[int, Option(help="Widths are multiples of this.")]


BUDGET_HELP = "Instead of a ratio: latency=0.75 of the time of a token, or prefill=0.75."
PRESET_HELP = "stock (one width for all layers), best (measured widths), fast, or paper; options given win."
METHOD_HELP = "comp, llm-pruner, llm-pruner-mixed, flap, shortgpt, wanda-sp, magnitude or random."
SCHEDULER_HELP = "Of a Dask cluster whose workers carry the text: tcp://host:8786."
SHARDS_HELP = "Parts of the text that its workers share (default: 16, or one a sequence)."
MEMORY_HELP = "The most that this process may take: 3GB. Refused before work where that is too little."
RECOVERY_HELP = "least-squares, mask, bias or none (default: what the method's makers do)."


@dataclass(frozen=True)
class PruneOptions:
    """Those of `prune`."""

    ratio: Annotated[float, Option(help="Part of the parameters to remove, at least.")] = 0.2
    of: Annotated[str, Option(help="What the ratio refers to: decoder or model.")] = "decoder"
    budget: Annotated[str | None, Option(help=BUDGET_HELP)] = None
    method: Annotated[str, Option(help=METHOD_HELP)] = "comp"
    preset: Annotated[str, Option(help=PRESET_HELP)] = "stock"
    layers: Annotated[str, Option(help="Whole layers to drop: a number, a share below 1, or auto.")] = "auto"
    layer_metric: LayerMetric = "loss"
    search: Annotated[int, Option(help="Plans to try, with more or fewer whole layers; 0: none.")] = 0
    attentions: Annotated[int, Option(help="Attentions to leave out of layers that stay.")] = 0
    widths: Widths = "uniform"
    kv_groups: Annotated[int | None, Option(help="KV groups to keep in each layer (default: all).")] = None
    recovery: Annotated[str | None, Option(help=RECOVERY_HELP)] = None
    aim: AimOfPreset = "self"
    ridge: Annotated[str, Option(help="Of the solves, relative to each input's own energy, or auto.")] = "auto"
    calibration: Calibration = "general"
    sequences: SequencesOfPreset = 128
    length: Length = 256
    multiple: Multiple = 64
    target: Annotated[str | None, Option(help="Where it will run, instead of --multiple: cpu, gguf-q4 or gpu.")] = None
    seed: Annotated[int, Option()] = 0
    dtype: Dtype = "float32"
    save_dtype: Annotated[str | None, Option(help="Of the written weights (default: --dtype).")] = None
    device: Solving = "cpu"
    evaluate_on: Annotated[str, Option("--evaluate", help="Text measured before and after, or none.")] = "evaluation"
    memory: Annotated[str | None, Option(help=MEMORY_HELP)] = None
    scheduler: Annotated[str | None, Option(help=SCHEDULER_HELP)] = None
    shards: Annotated[int | None, Option(help=SHARDS_HELP)] = None
    overwrite: Annotated[bool, Option(help="Replace the model that is in --out.")] = False


@dataclass(frozen=True)
class PlanOptions:
    """Those of `plan`."""

    budget: Annotated[str, Option(help="latency=0.75 of the time of a token, or prefill=0.75.")]
    file: Annotated[Path | None, Option("--out", help="File (.json) for the plan.")] = None
    trials: Annotated[int, Option(help="Candidates that are tried; 0: the one that drops fewest layers.")] = 4
    layer_metric: LayerMetric = "loss"
    calibration: Annotated[str, Option(help="Text name, file, or self.")] = "calibration"
    sequences: Annotated[int, Option(help="Calibration sequences.")] = 16
    length: Length = 256
    multiple: Multiple = 64
    seed: Annotated[int, Option()] = 0
    dtype: Dtype = "float32"
    device: Solving = "cpu"
    overwrite: Overwrite = False


def _typed(parameter: inspect.Parameter) -> str:
    """The name of a parameter as people type it."""
    told = next((each for each in get_args(parameter.annotation)[1:] if isinstance(each, ParameterInfo)), None)
    if isinstance(told, ArgumentInfo):
        return "MODEL"
    # typer moves the first one when it builds
    named = () if told is None else (told.default, *(told.param_decls or ()))
    own = [word for word in named if isinstance(word, str) and word.startswith("--")]
    return own[0] if own else f"--{parameter.name.replace('_', '-')}"


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as typer wants a command: one parameter for each option. What the user can mend is refused.

    The fields of its parameter `options`, a dataclass, become parameters, with their `Annotated[...]` and defaults.
    """
    own = dict(inspect.signature(function, eval_str=True).parameters)
    group = own.pop("options").annotation if "options" in own else None
    fields = {} if group is None else inspect.signature(group, eval_str=True).parameters

    typed = {name: _typed(parameter) for name, parameter in (own | dict(fields)).items()}

    @functools.wraps(function)
    @refusals()
    def flat(**values: Any) -> None:
        limits.check(function.__name__, values, typed)
        values |= {name: value.expanduser() for name, value in values.items() if isinstance(value, Path)}
        if group is not None:
            values["options"] = group(**{name: values.pop(name) for name in fields})
        function(**values)

    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own.values(), *fields.values())]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(flat)["__signature__"] = inspect.Signature(parameters)
    return flat
