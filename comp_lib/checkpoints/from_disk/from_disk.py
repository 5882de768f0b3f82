"""COMP from files to files, a layer at a time: the same call goes on after a kill.

The loop is the same as in memory, `comp.prune_layers`, with other ends: a layer is read from its files
(`model_on_disk.ModelOnDisk`), pruned, and written to its bytes in the files of the new model (`sink`).
Hidden states are in files, too. So `prune_to` never has the whole model in memory: its memory grows with the
largest layer, not with the number of layers. There are two exceptions. What judges a layer by the model's
answer (measured or estimated widths, layers to drop) keeps the hidden states of a few sequences for each
layer. The planners of FLAP and ShortGPT keep those of the whole text, once, and so does what judges the
result, of its windows.

Its caller `prune_model` does have the whole model in memory for a while where the model writes text, for
`at_most`, and for a method that needs gradients.

The work is done in the folder `NAME.partial`, which becomes the folder NAME in the end:

    lock              held while a process works here: a second one is refused
    progress.json     the identity of the run, and what is finished (`work_folder.Journal`)
    model.safetensors the new model, of which progress.json says how many layers are there
    states-N          hidden states (`work_folder.StatesFile`)

What progress.json names is on the disk before it is named, with a checksum. What it does not name is made
again. So a run that was cut off at any point ends with the bytes of an undisturbed one, or is refused where
somebody damaged what was finished. Anything in the folder but ordinary files and a folder of chat templates
is refused, too.

A run that makes a GGUF file NAME.gguf works in `NAME.gguf.partial` in the same way. Its last step exports
what is there as the file, which then takes its name, and deletes the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...decoder.own_widths.meta_model import make_meta_model, with_true_config
from ...decoder.shape import Shape
from ...decoder.structure import layers_of
from ...decoder.surgery import add_biases, keep_layers, shrink, update_config
from ...decoder.types import Model
from ...decoder.walk import sequence_losses, walk
from ...hybrid_granularity.plan import Plan
from ...pruning.checks import checked_call
from ...pruning.comp import prune_layers
from ...pruning.method_version import METHOD_VERSION
from ...pruning.methods import method_of
from ...pruning.planning import make_plan
from ...pruning.report import Report, finished_plan
from ...pruning.settings import CompleteSettings, Settings
from ...utils.errors import InputError
from ...utils.files import resolve
from ...utils.hashes import checksum_of_file, hash_of_value
from ...utils.progress import Progress, no_progress
from ..card import Provenance
from ..export import export_gguf
from ..gguf.write import GgufType, check_exportable
from ..load import DTYPES, open_model
from ..save import save_metadata
from ..tensors import TensorFiles
from .destination import SaveOptions, checked_run_folder, exported_file, finish_file, finish_folder, lock
from .model_on_disk import ModelOnDisk
from .run_state import BEGIN_ANEW_HINT, EXPECTED_PROGRESS
from .sink import DiskSink
from .work_folder import Journal


@dataclass(frozen=True)
class SavedModel:
    """A pruned model on disk."""

    path: Path
    """The folder that has its files, or the GGUF file."""
    plan: Plan
    """Names the neurons and KV groups that stayed."""
    report: Report
    """Says for each layer how pruning went."""
    parent_shape: Shape
    """The shape of the parent."""
    shape: Shape
    """The shape of the pruned model."""
    losses: tuple[tuple[float, float], ...] = ()
    """For each window the loss of the parent and of the pruned model, nats per token."""


@torch.no_grad()
def prune_to(
    out: str | Path,
    parent: ModelOnDisk,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    settings: Settings | None = None,
    *,
    plan: Plan | None = None,
    options: SaveOptions = SaveOptions(),  # noqa: B008  a frozen value
    progress: Progress = no_progress,
) -> SavedModel:
    """Prune `parent` on the calibration tokens `ids` (S, L) and write the result to `out`.

    That is a folder, or with `options.gguf_type` a GGUF file. The result equals that of `prune` and
    `save_checkpoint`, with `export_gguf` for a file, up to rounding. It is judged as the files hold it. If an
    earlier call was cut off, the same call goes on from the last finished layer, and ends with the same
    bytes.

    Args:
        tokenizer: is saved with the model.
        settings: as for `prune`.
        plan: how much stays, as for `prune`; None: one is made by `settings`. With a plan, what `settings`
            say of `ratio`, `drop_layers`, `layer_metric`, `widths`, `kv_groups` and `multiple` is ignored. A
            method that needs gradients needs a plan, which was made in memory.
        options: how the result is written and judged.
        progress: called after each step; with its report where a layer is finished.

    Raises InputError before any work for what `prune` and `save_checkpoint` refuse; for NaN when it is read.
    Raises InputError when another process prunes into `out`.
    Raises InputError when `NAME.partial` was begun by another call, or has files of other origin.
    """
    started = time.perf_counter()
    if settings is None:
        settings = Settings()
    ids, settings = checked_call(parent, ids, settings, plan)
    if method_of(settings.method).needs_gradients and plan is None:
        raise InputError(
            expected="what looks at one layer at a time, or a plan",
            got=f"the method {settings.method} and no plan",
            hint="it needs the whole model, see planning.make_plan",
        )
    # A plan that needed gradients follows from the rest, but on a graphics card not to the last bit.
    given_plan = None if method_of(settings.method).needs_gradients else plan
    target = resolve(out)
    work = checked_run_folder(out, parent, ids.numel(), options)
    with lock(work):
        journal = Journal(work, _identity(parent, ids, settings, given_plan, options))
        if journal.state.exported and exported_file(work, target) is None:  # somebody took it away
            journal.record(layers=(), exported=False, checksums={})
        plan = _settle_plan(journal, parent, ids, settings, plan, options.name, progress)
        dense_losses = _measure(journal, "dense", parent, options.windows, settings.device, progress)
        meta_model = planned_meta_model(parent, plan, settings, options.dtype or parent.dtype)
        if options.gguf_type is not None:
            check_exportable(meta_model, Shape.of(meta_model), tokenizer, options.gguf_type)
        meta_model.config.save_pretrained(work)
        meta_model.generation_config.to_json_file(work / "generation_config.json")
        sink = DiskSink(journal, parent, plan, meta_model, (len(ids), ids.shape[1]))
        if sink.finished_layers < parent.shape.layer_count:
            prune_layers(parent, ids, settings, plan, sink, progress)
        if options.gguf_type is None:
            small = ModelOnDisk(make_meta_model(meta_model.config, parent.dtype), TensorFiles(work))
        else:
            small = _export(journal, target, tokenizer, options.gguf_type, parent.dtype, progress)
        small_losses = _measure(journal, "pruned", small, options.windows, settings.device, progress)
        reports = [report for report in sink.reports() if report is not None]
        plan = finished_plan(plan, reports, parent.shape, small.shape)
        seconds = time.perf_counter() - started
        report = Report(settings, ids.numel(), tuple(reports), seconds, plan_given=given_plan is not None)
        if options.gguf_type is None:
            provenance = _provenance(options, parent.shape, ids, report, dense_losses, small_losses)
            save_metadata(work, target.name, tokenizer, small.shape, plan, provenance)
    # after the lock is let go: Windows renames no folder in which a file is open
    if options.gguf_type is None:
        finish_folder(work, target, parent, overwrite=options.overwrite)
    else:
        finish_file(work, target, overwrite=options.overwrite)
    losses = tuple(zip(dense_losses, small_losses, strict=True))
    return SavedModel(Path(out).expanduser(), plan, report, parent.shape, small.shape, losses)


def _export(
    journal: Journal,
    target: Path,
    tokenizer: PreTrainedTokenizerBase,
    gguf_type: GgufType,
    dtype: torch.dtype,
    progress: Progress,
) -> ModelOnDisk:
    """Write the new model as a GGUF file into the folder of the run, unless that is done, and open it.

    Args:
        target: the file that the run makes.
        gguf_type: the type of its matrices.
        dtype: in which the opened model computes.
    """
    work = journal.work
    if not journal.state.exported:
        for path in work.glob(f"{target.name}.partial-*"):  # of an export that was cut off
            path.unlink()
        tokenizer.save_pretrained(work)
        exported = export_gguf(work, work / target.name, gguf_type, overwrite=True, progress=progress)
        journal.record(exported=True, checksums={target.name: checksum_of_file(exported)})
    else:
        exported = exported_file(work, target) or target
        journal.check(target.name, exported)
    names = {known_dtype: name for name, known_dtype in DTYPES.items()}
    meta_model, files, _ = open_model(exported, names[dtype])
    return ModelOnDisk(meta_model, files)


def _identity(
    parent: ModelOnDisk,
    ids: Tensor,
    settings: CompleteSettings,
    given_plan: Plan | None,
    options: SaveOptions,
) -> dict[str, Any]:
    """The identity of a run: all that decides its numbers. How the model was called and where it runs do not.

    A run goes on only with the same identity.
    """
    judged_on = None
    if options.windows is not None:
        judged_on = hash_of_value(options.windows.tolist())
    return {
        "model": parent.files.fingerprint(),
        "settings": {name: value for name, value in asdict(settings).items() if name != "device"},
        "dtype": [str(parent.dtype), str(options.dtype or parent.dtype)],
        "gguf_type": options.gguf_type,
        "plan": None if given_plan is None else json.loads(given_plan.to_json()),
        "calibration": hash_of_value(ids.tolist()),
        "judged_on": judged_on,
        "method": METHOD_VERSION,
    }


def _settle_plan(
    journal: Journal,
    parent: ModelOnDisk,
    ids: Tensor,
    settings: CompleteSettings,
    plan: Plan | None,
    name: str,
    progress: Progress,
) -> Plan:
    """Decide on the plan, and write it in the journal.

    It is the plan in the journal, else the given one, else a new one.
    """
    plan_text = journal.state.plan
    if plan_text is None:
        plan = plan or make_plan(parent, ids, settings, name, progress)
        plan_text = plan.to_json()
    # The journal is written only now, so that a plan that is refused leaves no run behind.
    # This also deletes hidden states that a killed run left without naming them.
    journal.record(plan=plan_text)
    return Plan.from_json(plan_text)


def _measure(
    journal: Journal,
    label: str,
    model: ModelOnDisk,
    windows: Tensor | None,
    device: str,
    progress: Progress,
) -> list[float]:
    """Measure the loss of the model in each window (S, L), nats per token.

    Losses that the journal has are not measured again.

    label: which of the two models it is, "dense" or "pruned".

    Raises InputError where the journal has losses of other windows.
    """
    if windows is None:
        return []
    field = f"{label}_losses"
    if getattr(journal.state, field) is None:
        hidden = torch.empty(0)
        for visit in walk(model, windows, device):
            hidden = visit.after
            progress(f"measuring {label}", visit.index + 1, model.shape.layer_count)
        journal.record(**{field: tuple(sequence_losses(model, hidden, windows).tolist())})
    losses = list(getattr(journal.state, field))
    if len(losses) != len(windows):
        got = f"{len(losses)} as {field} in {journal.work}"
        raise InputError(
            expected=f"{EXPECTED_PROGRESS}, with {len(windows)} losses", got=got, hint=BEGIN_ANEW_HINT
        )
    return losses


def planned_meta_model(
    parent: ModelOnDisk, plan: Plan, settings: CompleteSettings, dtype: torch.dtype
) -> Model:
    """The new model as the plan has it, on the device meta, where tensors have shapes but no numbers."""
    small = make_meta_model(parent.config, dtype)
    layers = layers_of(small)
    for index, groups, neurons in zip(plan.layers, plan.kv_groups, plan.neurons, strict=True):
        if settings.adds_biases:
            add_biases(layers[index])
        shrink(layers[index], "attention", torch.arange(groups))
        shrink(layers[index], "mlp", torch.arange(neurons))
    keep_layers(small, plan.layers)
    update_config(small)
    small.generation_config = parent.structure.generation_config
    small = with_true_config(small)
    small.config.dtype = str(dtype).removeprefix("torch.")
    small.config.architectures = [type(small).__name__]
    return small


def _provenance(
    options: SaveOptions,
    parent_shape: Shape,
    ids: Tensor,
    report: Report,
    dense_losses: Sequence[float],
    small_losses: Sequence[float],
) -> Provenance:
    """The provenance that `options` have, or a short one, with the perplexities that were measured."""
    provenance = options.provenance
    if provenance is None:
        text = f"{ids.shape[0]} x {ids.shape[1]} tokens"
        settings = report.settings.stated(plan_given=report.plan_given)
        provenance = Provenance(options.name or "a model", parent_shape, text, settings)
    if options.windows is None:
        return provenance
    losses = torch.tensor([dense_losses, small_losses], dtype=torch.float64)
    before, after = losses.mean(1).exp().tolist()
    return replace(provenance, perplexities=((options.text, options.windows[:, 1:].numel(), before, after),))
