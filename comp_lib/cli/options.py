"""Arguments and flags that mean the same in several commands, in the same group of their help."""

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ..pruning.methods import METHODS
from ..pruning.settings import PRESET_TABLE
from ..utils.arguments import LARGEST_INTEGER

if TYPE_CHECKING:
    from ..checkpoints.load import DtypeName
    from ..pruning.settings import PresetName
else:  # any word: the library refuses others, and says which it takes
    DtypeName = PresetName = str

# groups of flags in the help; flags without a group are the basic ones
QUALITY = "Quality"
RESOURCES = "Resources"
RESEARCH = "Research"

MODEL_HELP = "smollm2-135m (included), gemma3-270m, a folder, a .gguf file, or a Hub id"
CALIBRATION_HELP = (
    "general, shipped, written (by the model), a text's name or file, or several: mine.txt+general."
)
SOLVING_HELP = "cpu, cuda or auto; not mps, which has no float64."
LENGTH_HELP = "Tokens per sequence or window."
MULTIPLE_HELP = "Widths are multiples of this (default: 64, or so fine a part of it as the ratio needs)."

PRESET_HELP = ", ".join(f"{name} ({preset.words})" for name, preset in PRESET_TABLE.items())
PRESET_HELP += (
    f" (default: {METHODS['comp'].preset}; for baselines {METHODS['flap'].preset}, or their own widths)."
)

ModelName = Annotated[str, Argument(help=MODEL_HELP)]
Dtype = Annotated[DtypeName, Option(help="float32, bfloat16 or float16.", rich_help_panel=RESOURCES)]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto.", rich_help_panel=RESOURCES)]
SolvingDevice = Annotated[str, Option(help=SOLVING_HELP, rich_help_panel=RESOURCES)]
CalibrationText = Annotated[str, Option(help=CALIBRATION_HELP, rich_help_panel=QUALITY)]
Length = Annotated[int, Option(min=2, max=1_000_000, help=LENGTH_HELP, rich_help_panel=QUALITY)]
Multiple = Annotated[int | None, Option(min=1, max=1_000_000, help=MULTIPLE_HELP, rich_help_panel=RESEARCH)]
Seed = Annotated[int, Option(min=0, max=LARGEST_INTEGER, rich_help_panel=RESEARCH)]
Preset = Annotated[PresetName | None, Option(help=PRESET_HELP, rich_help_panel=QUALITY)]
Overwrite = Annotated[bool, Option(help="Replace what is there.")]
