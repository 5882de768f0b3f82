"""COMP from files to files: the model is never there as a whole, and the same call goes on after a kill.

The same walk as `prune`, layer by layer, with other ends: a layer is read from safetensors (`model_on_disk.Streamed`),
pruned, and written as a shard of the new model; hidden states are in files too. So memory grows with the largest layer,
not with the number of layers; but what judges a layer by the model's answer (measured widths, layers to drop) has a few
sequences of states for each layer.

All of it happens in `NAME.partial`, beside the folder NAME that it becomes:

    lock              held while a process works here: a second one is refused
    progress.json     what was asked for, and what is finished
    layer-N.safetensors, beside.safetensors     shards of the new model
    states-N          hidden states (`model_on_disk.States`)

Each file is on the disk before progress.json names it, and takes its name in one step; what progress.json does not name
is made again. So a run that was cut off, wherever, ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..errors import InputError
from ..evaluation.loss import perplexity_of
from ..families import family_of
from ..families.protocol import Model
from ..models.own_widths import described
from ..models.reading import read_generation
from ..models.save import Provenance, check_destination, estimated_bytes, save_metadata
from ..models.skeleton import skeleton
from ..plan import Plan
from ..planning import Planned, check_call, check_plan, make_plan
from ..prune import DEFAULTS, concluded
from ..prune_layer import LayerPruner, PrunedLayer
from ..report import LayerReport, Progress, Report, no_progress
from ..settings import Settings
from ..shape import Shape
from ..surgery import add_biases, keep_layers, shrink, update_config
from ..system import hashes
from ..system.atomic import fsync, resolved, take_name
from ..system.machine import exact_products
from .merge import merge
from .model_on_disk import States, Streamed, losses

GRADIENTS = ("llm-pruner",)  # methods that need those of all weights at once: `prune` has them
LOCK, PROGRESS = "lock", "progress.json"


@dataclass(frozen=True)
class Saving:
    """How the result of `prune_to` is written, and judged."""

    name: str = ""  # of the parent, as the user knows it
    windows: Tensor | None = None  # (S, L) of `text` on which both models are measured
    text: str = "evaluation"  # name of that text
    card: Provenance | None = None  # what the model card says; None: in short
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """A pruned model on disk; the perplexities only where it was measured."""

    folder: Path
    plan: Plan
    report: Report
    before: Shape
    after: Shape
    dense_perplexity: float | None = None
    perplexity: float | None = None


@torch.no_grad()
@exact_products()
def prune_to(
    out: str | Path,
    model: Streamed,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    settings: Settings = DEFAULTS,
    *,
    plan: Plan | None = None,
    saving: Saving = Saving(),  # noqa: B008  a frozen value
    progress: Progress = no_progress,
) -> Written:
    """Prune `model` on the calibration tokens `ids` (S, L) and write the result to the folder `out`.

    Equal to `prune` and `save_checkpoint` up to rounding. The same call goes on from the last finished layer when an
    earlier one was cut off, and ends with the same bytes.

    Raises InputError before any work for what `prune` and `save_checkpoint` refuse, for a method that needs the whole
    model at once, when another process prunes into `out`, and when `NAME.partial` was begun with another request or is
    somebody's.
    """
    started, target = time.perf_counter(), resolved(out)
    check_call(model, ids, settings, plan)
    if settings.method in GRADIENTS:
        got = f"the method {settings.method}, which needs the whole model: load it and use `prune`"
        raise InputError(f"expected what looks at one layer at a time, got {got}")
    check_out(out, model, saving, ids.numel(), settings)
    request = {
        "model": model.files.fingerprint(),
        "settings": asdict(settings),
        "dtype": str(model.dtype),
        "name": saving.name,
        "plan": plan and json.loads(plan.to_json()),
        "calibration": hashes.of_tensor(ids),
        "evaluation": None if saving.windows is None else hashes.of_tensor(saving.windows),
        "comp_lib": __version__,
    }
    work = _place(target)
    with _alone(work):
        state = _state(work, request)
        planned = _planned(work, state, model, ids, settings, plan, saving.name, progress)
        dense = _measured(work, state, "dense", model, saving, settings, progress)
        finished = _layers(work, state, model, ids, settings, planned.plan, progress)
        outline = _outline(model, planned.plan, settings)
        _write_whole(work, state, model, outline)
        written = Streamed(work, outline.config, model.dtype)
        small = _measured(work, state, "pruned", written, saving, settings, progress)
        plan, report = concluded(planned, finished, settings, ids, model.shape, written.shape)
        report = replace(report, seconds=time.perf_counter() - started)
        card = saving.card or Provenance(
            parent=saving.name or "a model without a name",
            parent_shape=model.shape,
            parent_licence=None,
            calibration=f"{ids.shape[0]} x {ids.shape[1]} tokens",
            method=settings.neuron_metric,
            recovery=settings.recovery,
            version=__version__,
            settings=asdict(settings),
        )
        if saving.windows is not None and dense is not None and small is not None:
            card = replace(card, perplexities=((saving.text, saving.windows[:, 1:].numel(), dense, small),))
        save_metadata(work, target.name, tokenizer, written.shape, plan, card)
        if work != target:
            check_destination(out, saving.overwrite, 0, [saving.name, *model.files.files])  # what came meanwhile stays
            take_name(work, target)
    (target / LOCK).unlink(missing_ok=True)
    (target / PROGRESS).unlink()  # last: whoever is killed before goes on here
    return Written(Path(out), plan, report, model.shape, written.shape, dense, small)


def check_out(out: str | Path, model: Streamed, saving: Saving, tokens: int, settings: Settings) -> None:
    """Raises InputError unless a run with so many calibration tokens may begin, or go on, in the folder `out`."""
    streams = 5 * (1 + settings.two_streams) + 1  # files of states at once, at most
    states = streams * tokens * model.shape.hidden * model.dtype.itemsize
    needed = 2 * estimated_bytes(model.shape, model.dtype) + states  # shards, and the one file that they become
    work = _place(resolved(out))
    if work.exists() and not work.is_dir():
        raise InputError(f"expected a folder or nothing as {work}, got a file: move it away or choose another name")
    there = {path.name: path.stat().st_size for path in work.iterdir()} if work.is_dir() else {}
    if there.keys() - {LOCK, f"{PROGRESS}.tmp"} and PROGRESS not in there:
        got = f"{work} with other files: move it away or choose another name"
        raise InputError(f"expected nothing, or a run that was cut off, got {got}")
    if work != resolved(out):
        room = max(0, needed - sum(there.values()))
        check_destination(out, saving.overwrite, room, [saving.name, *model.files.files])


def _place(target: Path) -> Path:
    """Where the run into `target` works: beside it, until the model has taken its name."""
    return target if (target / PROGRESS).is_file() else target.with_name(f"{target.name}.partial")


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """In the block no other process works in the folder `work`, which is made where it is not there.

    Raises InputError when one does, and when the system refuses something in the block, such as more of a full disk.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / LOCK, timeout=0):
            yield
    except Timeout as error:
        got = f"another process that prunes into {work}: wait for it, or choose another name"
        raise InputError(f"expected to be alone, got {got}") from error
    except (OSError, SafetensorError) as error:
        got = f"{error}: mend that, and the same command goes on"
        raise InputError(f"expected to work in {work}, got {got}") from error


def _state(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What is finished. Raises InputError when it was begun with another request."""
    request = json.loads(json.dumps(request))
    if not (work / PROGRESS).is_file():
        return {"request": request, "plan": None, "layers": [], "made": None, "states": {}}
    try:
        state: dict[str, Any] = json.loads((work / PROGRESS).read_text("utf-8"))
        begun = state["request"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected the progress of a run in {work}, got others: delete that folder") from error
    if begun != request:
        different = ", ".join(name for name in request if begun.get(name) != request[name])
        got = f"another one in {work} (different: {different}): delete that folder to begin anew"
        raise InputError(f"expected the request that began this run, got {got}")
    return state


def _keep(work: Path, state: dict[str, Any], **finished: Any) -> None:
    """Let progress.json know of what is finished, in one step; hidden states that it does not name are deleted."""
    state |= finished
    partial_file = work / f"{PROGRESS}.tmp"
    partial_file.write_text(json.dumps(state), "utf-8")
    fsync(partial_file)
    os.replace(partial_file, work / PROGRESS)
    fsync(work)
    for path in work.glob("states-*"):
        if path.name not in state["states"].values():
            path.unlink()


def _planned(
    work: Path,
    state: dict[str, Any],
    model: Streamed,
    ids: Tensor,
    settings: Settings,
    plan: Plan | None,
    name: str,
    progress: Progress,
) -> Planned:
    """The plan: the one that was given, the one that is known, or one made now."""
    _keep(work, state)
    if state["plan"] is None:
        planned = Planned(plan) if plan else make_plan(model, ids, settings, name, progress)
        check_plan(planned.plan, model, settings)
        _keep(work, state, plan=planned.plan.to_json(), importance=planned.layer_importance)
    importance = state["importance"]
    return Planned(Plan.from_json(state["plan"]), importance and tuple(importance))


def _measured(
    work: Path,
    state: dict[str, Any],
    which: str,
    model: Streamed,
    saving: Saving,
    settings: Settings,
    progress: Progress,
) -> float | None:
    """Perplexity of the dense or the pruned model, where there is something to measure it on."""
    if saving.windows is None:
        return None
    if which not in state:
        mean = losses(model, saving.windows, settings.device, progress, f"measuring {which}").mean()
        _keep(work, state, **{which: perplexity_of(float(mean))})
    return float(state[which])


def _layers(
    work: Path, state: dict[str, Any], model: Streamed, ids: Tensor, settings: Settings, plan: Plan, progress: Progress
) -> list[PrunedLayer]:
    """All layers that stay: those that are not finished yet are read, pruned and written."""
    count = model.shape.layers
    if len(state["layers"]) < count:
        pruner = LayerPruner(model, ids.long(), settings, plan, model.shape, partial(States.create, work))
        if state["layers"]:
            size, dtype = pruner.hidden.shape, pruner.hidden.dtype
            known = {name: States(work / file, size, dtype) for name, file in state["states"].items()}
            pruner.resume(state["made"], known["hidden"], known.get("dense"))
    for index in range(len(state["layers"]), count):
        layer = family_of(model).layers(model)[index].to(pruner.device)
        done = pruner.prune_layer(index, layer)
        if done is not None:
            place = plan.layers.index(index)
            tensors = {f"model.layers.{place}.{name}": value for name, value in layer.state_dict().items()}
            _write(work / f"layer-{place}.safetensors", tensors)
        streams = {"hidden": pruner.hidden, "dense": pruner.dense}
        names = {name: states.path.name for name, states in streams.items() if states is not None}
        for name in sorted({*names.values()}):
            fsync(work / name)
        layers = [*state["layers"], None if done is None else asdict(done)]
        _keep(work, state, layers=layers, states=names, made=pruner.progress_made())
        progress("pruning", index + 1, count, None if done is None else done.report)
    return [
        PrunedLayer(LayerReport(**one["report"]), tuple(one["kept_neurons"]), tuple(one["kept_groups"]))
        for one in state["layers"]
        if one is not None
    ]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """A shard of the new model, whole or not at all."""
    partial_file = path.with_name(f"{path.name}.tmp")
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial_file, {"format": "pt"})
    fsync(partial_file)
    os.replace(partial_file, path)


def _outline(model: Streamed, plan: Plan, settings: Settings) -> Model:
    """The new model without its numbers."""
    small = skeleton(model.config, model.dtype)
    layers = family_of(small).layers(small)
    for index, groups, neurons in zip(plan.layers, plan.kv_groups, plan.neurons, strict=True):
        if settings.recovery == "bias":
            add_biases(layers[index])
        shrink(layers[index], "attention", torch.arange(groups))
        shrink(layers[index], "mlp", torch.arange(neurons))
    keep_layers(small, plan.layers)
    update_config(small)
    small.generation_config = read_generation(model.files.place, model.config)
    small = described(small)
    small.config.dtype = str(model.dtype).removeprefix("torch.")
    small.config.architectures = [type(small).__name__]
    return small


def _write_whole(work: Path, state: dict[str, Any], model: Streamed, outline: Model) -> None:
    """The config, and all shards as `save_pretrained` would name them: one file up to 5 GB."""
    outline.config.save_pretrained(work)
    outline.generation_config.to_json_file(work / "generation_config.json")
    names = [name for name, _ in outline.named_parameters()]  # a tied head once
    beside = [name for name in names if ".layers." not in name]
    if "whole" not in state:
        _write(work / "beside.safetensors", {name: model.files.read(name, model.dtype) for name in beside})
        shards = ["beside.safetensors", *(f"layer-{place}.safetensors" for place in range(Shape.of(outline).layers))]
        merge(work, shards)
        _keep(work, state, whole=True, states={})
    for path in (*work.glob("layer-*.safetensors"), *work.glob("beside.safetensors")):
        path.unlink()
