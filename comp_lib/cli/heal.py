"""`comp-lib heal`: a short training after pruning, towards the parent's answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .console import ProgressBars, err, out
from .options import Device, Length, command

Pruned = Annotated[str, Argument(help="The pruned folder.")]
Parent = Annotated[str, Option("--parent", help="The model that was pruned.")]
Folder = Annotated[Path, Option("--out", help="Folder for the healed model.")]
TEXT_HELP = "written (by the parent), or what prune --calibration takes."


@dataclass(frozen=True)
class HealOptions:
    steps: Annotated[int, Option(help="Of training.")] = 100
    batch: Annotated[int, Option(help="Sequences in a step.")] = 4
    rank: Annotated[int, Option(help="Of the low-rank changes.")] = 8
    rate: Annotated[float, Option(help="Learning rate, at its highest.")] = 1e-3
    text: Annotated[str, Option(help=TEXT_HELP)] = "written"
    sequences: Annotated[int, Option(help="Of that text; 8 only judge.")] = 128
    length: Length = 256
    seed: Annotated[int, Option()] = 0
    device: Device = "cpu"
    overwrite: Annotated[bool, Option(help="Replace the model that is in --out.")] = False


@command
def heal(model: Pruned, parent: Parent, out_folder: Folder, options: HealOptions) -> None:
    """Train MODEL, a pruned folder, to answer as its parent does (LoRA, added at the end). Needs the extra heal."""
    from ..healing.distil import Healing
    from ..healing.folder import Teaching, heal_folder

    told = vars(options)
    healing = Healing(**{name: told[name] for name in ("steps", "batch", "rank", "rate", "seed")})
    teaching = Teaching(options.text, options.sequences, options.length)
    overwrite, device = options.overwrite, options.device
    with ProgressBars() as bars:
        done = heal_folder(
            model, parent, out_folder, healing, teaching, overwrite=overwrite, device=device, progress=bars
        )
    words = f"divergence from {parent} on text that did not teach: {done.before:.4f} before, {done.after:.4f} after"
    out.print(words, soft_wrap=True)
    if done.after >= done.before:
        err.print("comp-lib: it did not help: try a lower --rate, or more --sequences", style="red", highlight=False)
    out.print(f"saved: {out_folder}", soft_wrap=True)
