"""What `prune` and `demo` do: check, measure, prune, measure, save.

From disk to disk, one layer in memory at a time; with the whole model in memory for methods that need gradients.
Importing this file takes seconds, so commands do it when they are called.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from .. import __version__
from ..calibration.text import EVERY_KIND, KINDS
from ..calibration.tokens import calibration_tokens, check_source, needs_model
from ..disk.from_disk import GRADIENTS, Saving, Written, check_out, prune_to
from ..disk.model_on_disk import open_streamed
from ..errors import InputError, suggestion
from ..evaluation.by_kind import windows_of
from ..evaluation.loss import perplexity
from ..models.load import load_model
from ..models.save import Provenance, check_destination, estimated_bytes, save_checkpoint, shareable
from ..models.wheels import WHEELS
from ..planning import check_request
from ..prune import prune
from ..report import Progress
from ..settings import PRESETS, Settings, default_recovery
from ..shape import Shape, span
from ..system.machine import free_memory, release_memory
from .console import ProgressBars, check_length, goes_on, table

EVALUATED = 12  # windows of text measured before and after


def preset_settings(preset: str, layers: str | None = None, **told: Any) -> Settings:
    """The settings of a preset, with its `layers` unless others are asked for. Raises InputError."""
    if preset not in PRESETS:
        hint = suggestion(preset, PRESETS)
        raise InputError(f"expected a preset, one of {', '.join(PRESETS)}, got {preset!r}: {hint}")
    told |= {"recovery": default_recovery(told.get("method", "comp"))} | PRESETS[preset]
    if layers is not None:
        try:
            told["layers"] = float(layers)
        except ValueError:
            told["layers"] = layers  # a word: `Settings.check` names what it takes
    return Settings(**told)


def prune_folder(
    name: str,
    folder: Path,
    settings: Settings,
    source: str = "general",
    sequences: int = 128,
    length: int = 256,
    evaluated: str | None = "evaluation",
    dtype: str = "float32",
    overwrite: bool = False,
) -> Written:
    """Prune the model `name` on `sequences` x `length` tokens of the calibration `source`, into `folder`.

    Raises InputError, before the model writes any text, for whatever cannot be.
    """
    check_source(source)
    whole = settings.method in GRADIENTS
    model, tokenizer = load_model(name, dtype) if whole else open_streamed(name, dtype)
    shape = Shape.of(model)
    check_request(model, settings)
    check_length(model, length)
    windows = None
    if evaluated is not None:  # of each kind as many windows as make EVALUATED
        few = -(-EVALUATED // len(KINDS)) if evaluated == EVERY_KIND else EVALUATED
        longest = min(512, model.config.max_position_embeddings)
        windows = torch.cat(list(windows_of(evaluated, tokenizer, longest, few).values()))
    calibration = f"{sequences} x {length} tokens of {shareable(source)}, drawn with seed {settings.seed}"
    known = WHEELS.get(name)
    parent, licence = (name, None) if known is None else (known.source, known.licence)
    how = (settings.neuron_metric, settings.recovery, __version__, asdict(settings))
    card = Provenance(parent, shape, licence, calibration, *how)
    saving = Saving(name, windows, Path(evaluated or "").name, card, overwrite)
    if whole:
        check_destination(folder, overwrite, estimated_bytes(shape, dtype), [name])
    else:
        check_out(folder, model, saving, sequences * length, settings)
    writer = model if whole else None
    if needs_model(source) and not whole:
        needed, free = 2 * estimated_bytes(shape, dtype), free_memory(settings.device)
        if needed > free:
            got = f"{free / 1e9:.1f} GB: choose --calibration shipped"
            raise InputError(f"expected {needed / 1e9:.1f} GB of free memory for the model to write text, got {got}")
        writer = load_model(name, dtype, settings.device)[0]
    size: dict[str, Any] = {"sequences": sequences, "length": length, "seed": settings.seed, "evaluated": evaluated}
    with ProgressBars() as bars:
        ids = calibration_tokens(source, tokenizer, model=writer, progress=bars, **size)
        if whole:
            return _in_memory(folder, model, tokenizer, ids, settings, saving, card, bars)
        del writer
        release_memory()
        with goes_on():
            return prune_to(folder, model, tokenizer, ids, settings, saving=saving, progress=bars)


def _in_memory(
    folder: Path,
    model: Any,
    tokenizer: Any,
    ids: Tensor,
    settings: Settings,
    saving: Saving,
    card: Provenance,
    progress: Progress,
) -> Written:
    windows, before = saving.windows, Shape.of(model)
    dense = small = None
    if windows is not None:
        dense = perplexity(model, windows, progress=progress, what="measuring dense").perplexity
    done = prune(model, ids, settings, name=saving.name, progress=progress, inplace=True)
    if windows is not None and dense is not None:
        small = perplexity(done.model, windows, progress=progress, what="measuring pruned").perplexity
        card = replace(card, perplexities=((saving.text, windows[:, 1:].numel(), dense, small),))
    save_checkpoint(folder, done.model, tokenizer, done.plan, card, overwrite=saving.overwrite)
    return Written(folder, done.plan, done.report, before, Shape.of(done.model), dense, small)


def written_table(done: Written) -> Table:
    """What was removed, and what that did to the model."""
    plan, report = done.plan, done.report
    names = ("parameters", "of the decoder", "layers", "neurons a layer", "KV groups a layer")
    rows = list(zip(names, _sizes(done.before), _sizes(done.after), strict=True))
    if done.perplexity is not None:
        rows.append(("perplexity", f"{done.dense_perplexity:.2f}", f"{done.perplexity:.2f}"))
    rows.append(("pruned in", "", f"{report.seconds:.0f} s on {report.tokens:,} tokens"))
    rows += [(name, "", str(report.settings[name])) for name in ("widths", "recovery", "aim")]
    title = f"{plan.removed:.1%} of the decoder removed by {report.settings['method']}"
    return table(("", "dense", "pruned"), rows, title=title)


def _sizes(shape: Shape) -> tuple[str, ...]:
    return f"{shape.total:,}", f"{shape.decoder:,}", str(shape.layers), span(shape.neurons), span(shape.kv_groups)
