"""What `prune` does: check, measure, prune, measure, save.

From disk to disk, one layer in memory at a time; with the whole model in memory for methods that need gradients.
Importing this file takes seconds, so the command does it when it is called.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ..calibration.text import EVERY_KIND, KINDS
from ..calibration.tokens import calibration_tokens, needs_model
from ..disk.from_disk import GRADIENTS, Saving, Written, check_out, prune_to
from ..disk.model_on_disk import open_streamed
from ..evaluation.loss import windows_of
from ..models.load import load_model
from ..models.save import Provenance, check_destination, estimated_bytes, save_checkpoint, shareable
from ..planning import check_request
from ..prune import prune
from ..settings import Settings
from ..shape import Shape, span
from .console import ProgressBars, check_length, table

EVALUATED = 12  # windows of text measured before and after, in all


def prune_folder(
    name: str, out: Path, settings: Settings, source: str, size: tuple[int, int], judge: str, dtype: str, replace: bool
) -> Written:
    """Prune the model `name` on calibration text of that `size`, sequences x tokens, of `source`, into `out`.

    judge: text that is measured before and after, or "none"; replace: a pruned model that is there.
    Raises InputError, before the model writes any text, for whatever cannot be.
    """
    (sequences, length), whole, writes = size, settings.method in GRADIENTS, needs_model(source)
    model: Any
    model, tokenizer = load_model(name, dtype) if whole else open_streamed(name, dtype)
    check_request(model, settings)
    check_length(model, length)
    shape, windows = Shape.of(model), None
    if judge != "none":
        few = -(-EVALUATED // len(KINDS)) if judge == EVERY_KIND else EVALUATED
        longest = min(512, model.config.max_position_embeddings)
        windows = torch.cat(list(windows_of(judge, tokenizer, longest, few).values()))
    calibration = f"{sequences} x {length} tokens of {shareable(source)}, drawn with seed {settings.seed}"
    card = Provenance(name, shape, calibration, asdict(settings))
    saving = Saving(name, windows, Path(judge).name, card, replace)
    if whole:
        check_destination(out, replace, estimated_bytes(shape, dtype))
    else:
        check_out(out, model, saving, sequences * length, settings)
    writer = load_model(name, dtype, settings.device)[0] if writes and not whole else model
    drawn: dict[str, Any] = {"sequences": sequences, "length": length, "seed": settings.seed}
    drawn["evaluated"] = None if judge == "none" else judge
    with ProgressBars() as bars:
        ids = calibration_tokens(source, tokenizer, model=writer, progress=bars, **drawn)
        del writer
        if not whole:
            return prune_to(out, model, tokenizer, ids, settings, saving=saving, progress=bars)
        done = prune(model, ids, settings, name=name, progress=bars, inplace=True)
    save_checkpoint(out, done.model, tokenizer, done.plan, card, overwrite=replace)
    return Written(out, done.plan, done.report, shape, Shape.of(done.model))


def written_table(done: Written) -> Table:
    """What was removed, and what that did to the model."""
    plan, report = done.plan, done.report
    names = ("parameters", "of the decoder", "layers", "neurons a layer", "KV groups a layer")
    sizes = [
        (f"{one.total:,}", f"{one.decoder:,}", str(one.layers), span(one.neurons), span(one.kv_groups))
        for one in (done.before, done.after)
    ]
    rows = list(zip(names, *sizes, strict=True))
    if done.perplexity is not None:
        rows.append(("perplexity", f"{done.dense_perplexity:.2f}", f"{done.perplexity:.2f}"))
    rows.append(("pruned in", "", f"{report.seconds:.0f} s on {report.tokens:,} tokens"))
    rows += [(name, "", str(report.settings[name])) for name in ("widths", "recovery", "aim")]
    title = f"{plan.removed:.1%} of the decoder removed by {report.settings['method']}"
    return table(("", "dense", "pruned"), rows, title)
