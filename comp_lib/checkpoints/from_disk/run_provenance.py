"""Where a model that a run has pruned comes from: its text, its settings, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path

from torch import Tensor

from ...calibration.in_memory import GivenTexts
from ...calibration.mixtures import shares_of
from ...decoder.shape import Shape
from ...pruning.settings import DEFAULTS, PRESETS
from ...utils.files import hide_folders, resolve
from ..card import Provenance
from .run_options import RunOptions

SETTINGS_WITHOUT_FLAG = ("widths", "recovery", "aim", "ridge", "layer_metric", "token_weights")


def provenance_of_run(
    out: str | Path,
    parent_name: str,
    parent_shape: Shape,
    options: RunOptions,
    ids: Tensor,
    hashes: tuple[str, ...],
) -> Provenance:
    """The provenance of what a run on ids (S, L) has pruned, for its model card.

    Args:
        parent_name: name of the model that was pruned, as the user knows it.
        hashes: of the calibration text.
    """
    calibration = options.calibration
    source = calibration.source
    shares = shares_of(source)
    sequences, length = ids.shape
    text = f"{sequences} x {length} tokens of {hide_folders(source)}, drawn with seed {calibration.seed}"
    if len(shares) > 1:
        text += f" ({', '.join(f'{hide_folders(part)} {share:.0%}' for part, share in shares.items())})"
    settings = options.settings.stated()
    command = command_of_run(parent_name, out, options)
    return Provenance(parent_name, parent_shape, text, settings, command=command, hashes=hashes)


def command_of_run(name: str, out: str | Path, options: RunOptions) -> str:
    """The command for the same run, or "" where no flag can say a setting that was given."""
    if options.changes.keys() & set(SETTINGS_WITHOUT_FLAG):
        return ""
    if options.changes.get("drop_layers") == "auto" and "drop_layers" in PRESETS[options.preset]:
        return ""  # without the flag the preset's number counts, and the flag takes no "auto"
    calibration = options.calibration
    if isinstance(options.judged_on, GivenTexts):
        return ""
    if isinstance(calibration.source, GivenTexts) or calibration.seed != options.settings.seed:
        return ""
    flags: dict[str, object] = {
        "ratio": options.settings.ratio,
        "preset": options.preset,
        "calibration": calibration.source,
        "judged_on": options.judged_on or "none",
        "sequences": calibration.sequences,
        "length": calibration.length,
    }
    if calibration.seed != DEFAULTS["seed"]:
        flags["seed"] = calibration.seed
    flags |= {name: value for name, value in options.changes.items() if value not in ("auto", None)}
    if options.settings.device != DEFAULTS["device"]:
        flags["device"] = options.settings.device
    if options.dtype != DEFAULTS["dtype"]:
        flags["dtype"] = options.dtype
    arguments = ["comp-lib", "prune", hide_folders(name), "--out", resolve(out).name]
    for flag, value in flags.items():
        arguments += [f"--{flag.replace('_', '-')}", hide_folders(value)]
    return shlex.join(arguments)
