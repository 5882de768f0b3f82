"""Options that several commands have, and how a command gets its own as one frozen value."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

from typer import Argument, Option

from .console import refusals


def _available(device: str) -> str:
    """What "auto" stands for here. A device that is not here is refused before any work."""
    with refusals():
        from ..system.device import available_device

        return str(available_device(device))


Model = Annotated[str, Argument(help="smollm2-135m (embedded), a folder, a .gguf file, or a Hub id")]
Dtype = Annotated[str, Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto", callback=_available)]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
Calibration = Annotated[str, Option(help="Text name, file, self (sampled from the model), or several joined by +.")]
Sequences = Annotated[int, Option(help="Calibration sequences.")]
Length = Annotated[int, Option(help="Tokens in each.")]
LayerMetric = Annotated[str, Option(help="block-influence, loss or greedy.")]
Widths = Annotated[str, Option(help="uniform (stock checkpoint), per-layer or measured.")]
Aim = Annotated[str, Option(help="What least squares aims at: self or dense.")]
Multiple = Annotated[int, Option(help="Widths are multiples of this.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as typer wants a command: one parameter for each option. What the user can mend is refused.

    The fields of its parameter `options`, a dataclass, become parameters, with their `Annotated[...]` and defaults.
    """
    own = dict(inspect.signature(function, eval_str=True).parameters)
    group = own.pop("options").annotation if "options" in own else None
    fields = {} if group is None else inspect.signature(group, eval_str=True).parameters

    @functools.wraps(function)
    @refusals()
    def flat(**values: Any) -> None:
        if group is not None:
            values["options"] = group(**{name: values.pop(name) for name in fields})
        function(**values)

    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own.values(), *fields.values())]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(flat)["__signature__"] = inspect.Signature(parameters)
    return flat
