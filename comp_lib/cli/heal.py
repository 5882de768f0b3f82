"""`comp-lib heal`: a short training after pruning, towards the parent's answers."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from .console import ProgressBars, check_extra, err, out
from .options import Device, Length, Overwrite, Seed


def heal(
    model: Annotated[str, Argument(help="The pruned folder.")],
    parent: Annotated[str, Option(help="The model that was pruned.")],
    folder: Annotated[Path, Option("--out", help="Folder for the healed model.")],
    steps: Annotated[int, Option(min=1, max=100_000, help="Of training.")] = 100,
    rate: Annotated[float, Option(help="Learning rate, at its highest.")] = 1e-3,
    text: Annotated[str, Option(help="written (by the parent), or what prune --calibration takes.")] = "written",
    sequences: Annotated[int, Option(min=1, max=100_000, help="Of that text; 8 only judge.")] = 128,
    length: Length = 256,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Train MODEL, a pruned folder, to answer as its parent does (LoRA, added at the end). Needs the extra heal."""
    check_extra("peft", "heal")
    from ..healing import Healing, heal_folder
    from ..system.machine import available_device

    healing = Healing(steps=steps, rate=rate, seed=seed)
    teaching: dict[str, Any] = {"source": text, "sequences": sequences, "length": length}
    with ProgressBars() as bars:
        teaching |= {"overwrite": overwrite, "device": str(available_device(device)), "progress": bars}
        done = heal_folder(model, parent, folder, healing, **teaching)
    words = f"divergence from {parent} on text that did not teach: {done.before:.4f} before, {done.after:.4f} after"
    out.print(words, soft_wrap=True)
    if done.after >= done.before:
        err.print("comp-lib: it did not help: try a lower --rate, or more --sequences", style="red", highlight=False)
    out.print(f"saved: {folder}", soft_wrap=True)
