"""Arguments and flags that mean the same in several commands."""

from typing import Annotated

from typer import Argument, Option

CALIBRATION_HELP = "general, shipped, written, self, a text's name or file, or several: mine.txt+general."
NAMES = "smollm2-135m (included), gemma3-270m, qwen-coder-0.5b, qwen-coder-1.5b"
Model = Annotated[str, Argument(help=f"{NAMES}, a folder, a .gguf file, or a Hub id")]
Dtype = Annotated[str, Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto.")]
Solving = Annotated[str, Option(help="cpu, cuda or auto; not mps, which has no float64.")]
Calibration = Annotated[str, Option(help=CALIBRATION_HELP)]
Length = Annotated[int, Option(min=2, max=1_000_000, help="Tokens in each.")]
MULTIPLE_HELP = "Widths are multiples of this (default: 64, or so fine a part of it as the ratio needs)."
Multiple = Annotated[int | None, Option(min=1, max=1_000_000, help=MULTIPLE_HELP)]
Seed = Annotated[int, Option(min=0, max=2**63 - 1)]
Overwrite = Annotated[bool, Option(help="Replace what is there.")]
