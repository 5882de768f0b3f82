"""Arguments and flags that mean the same in several commands, and the help of the one that has many."""

from typing import Annotated, Any

from typer import Argument, Option
from typer.core import TyperCommand, TyperOption

CALIBRATION_HELP = "general, shipped, written, self, a text's name or file, or several: mine.txt+general."
Model = Annotated[
    str, Argument(help="smollm2-135m (included), gemma3-270m, qwen-coder-0.5b, a folder, a .gguf file, or a Hub id")
]
Dtype = Annotated[str, Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto.")]
Solving = Annotated[str, Option(help="cpu, cuda or auto; not mps, which has no float64.")]
Calibration = Annotated[str, Option(help=CALIBRATION_HELP)]
Length = Annotated[int, Option(min=2, max=1_000_000, help="Tokens in each.")]
MULTIPLE_HELP = "Widths are multiples of this (default: 64, or so fine a part of it as the ratio needs)."
Multiple = Annotated[int | None, Option(min=1, max=1_000_000, help=MULTIPLE_HELP)]
Seed = Annotated[int, Option(min=0, max=2**63 - 1)]
Overwrite = Annotated[bool, Option(help="Replace what is there.")]

# Panel of `prune --help` -> its flags; all others are basic.
PANELS = {
    "Quality": ("preset", "calibration", "sequences", "length", "evaluated"),
    "Resources": ("dtype", "device"),
    "Research": ("method", "layers", "kv_groups", "multiple", "seed"),
}


class Explained(TyperCommand):
    """A command whose help has panels, and words from tables that are too slow to import for any other help."""

    def format_help(self, context: Any, formatter: Any) -> None:
        """Write it."""
        from ..importance.neurons import METRICS
        from ..settings import METHODS, PRESETS, PRESETS_IN_WORDS

        named = [f"{name} ({words})" if (words := PRESETS_IN_WORDS.get(name)) else name for name in PRESETS]
        tables = {"methods": ", ".join(dict.fromkeys((*METHODS, *METRICS))), "presets": ", ".join(named)}
        panels = {flag: panel for panel, flags in PANELS.items() for flag in flags}
        for each in self.get_params(context):
            if isinstance(each, TyperOption):
                each.help = (each.help or "").format(**tables)
                each.rich_help_panel = panels.get(str(each.name), "Basic")
        order = ["Basic", *PANELS]
        self.params.sort(key=lambda each: order.index(getattr(each, "rich_help_panel", None) or "Basic"))
        super().format_help(context, formatter)
