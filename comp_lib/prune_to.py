"""COMP from files to files: the model is never there as a whole, and a run that was cut off goes on.

The same walk as `prune`, layer by layer, with other ends: each layer is read from safetensors, and written to a shard
of the new model when it is finished; the hidden states of the calibration text are in files too. So memory grows with
the largest layer, not with the number of layers. A journal (see `journal`) knows what is finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from . import __version__
from .atomic import resolved
from .checkpoint import Provenance, check_destination, estimated_bytes, save_papers
from .errors import InputError
from .heterogeneous import as_heterogeneous, as_stock, check_widths
from .journal import Journal, partial_folder
from .plan import Plan
from .prune import DEFAULTS, check_plan, check_tokens, concluded, make_plan
from .report import LayerReport, Report, Watch
from .settings import Settings
from .shape import Shape
from .stream import Progress, no_progress
from .streamed import EMBEDDING, HEAD, NORM, Streamed, losses, skeleton
from .surgery import add_biases, check_biases, keep_layers, shrink_attention, shrink_mlp, update_config
from .tensor_files import INDEX, names_in, sha256, write
from .walk import Done, Walk

GRADIENTS = ("llm-pruner", "llm-pruner-mixed")  # methods that need those of all weights at once: `prune` has them


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
def prune_to(
    out: str | Path,
    model: Streamed,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    settings: Settings = DEFAULTS,
    *,
    card: Provenance | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    windows: Tensor | None = None,
    text: str = "evaluation",
    name: str = "",
    overwrite: bool = False,
    progress: Progress = no_progress,
    observe: Callable[[LayerReport], None] = lambda report: None,
) -> Written:
    """Prune `model` on the calibration tokens `ids` (S, L) and write the result to the folder `out`.

    Equal to `prune` and `save_checkpoint` up to rounding. The same call goes on from the last finished layer when an
    earlier one was cut off, and ends with the same bytes.

    Args:
        card: what the model card says; a short one where there is none.
        dtype: of the written weights; None: that of `model`, in which the layers compute.
        windows: (S, L) of `text` on which both models are measured.
        name: of the parent, as the user knows it.
        observe: called with the report of each layer when it is finished.

    Raises InputError before any work for what `prune` and `save_checkpoint` refuse, for a method that needs the whole
    model at once, when another process prunes into `out`, when `out` was begun with another request; and when the disk
    is full.
    """
    started = time.perf_counter()
    settings.check()
    check_tokens(ids)
    if reason := whole_model(settings):
        raise InputError(
            f"expected what looks at one layer at a time, got {reason}, which needs the whole model: load it and use "
            "`prune`"
        )
    if settings.recovery == "bias":
        check_biases(model)
    if plan is not None:
        check_plan(plan, model.shape, settings)
    dtype = dtype or model.dtype
    target = resolved(out)
    earlier = Journal(target)
    earlier.look()
    if not earlier.published:
        states = 4 * ids.numel() * model.shape.hidden * model.dtype.itemsize
        needed = estimated_bytes(model.shape, dtype) + states - _size(partial_folder(target))
        check_destination(out, overwrite, max(0, needed), name or None)
    request = {
        "model": model.files.fingerprint(), "name": name, "settings": asdict(settings),
        "plan": None if plan is None else json.loads(plan.to_json()), "dtype": str(model.dtype), "saved as": str(dtype),
        "calibration": _digest(ids), "evaluation": None if windows is None else _digest(windows),
        "comp_lib": __version__,
    }  # fmt: skip
    with Journal.open(target, request) as journal:
        run = _Run(model, ids, settings, journal, dtype, progress, observe)
        if not journal.published:
            plan, importance = run.planned(plan, name)
            dense = run.measured("dense", model, windows)
            finished = run.layers(plan)
            after = run.assemble(plan)
            plan, report = concluded(
                plan, finished, settings, ids, model.shape, Shape.of(after), importance, time.perf_counter() - started
            )
            small = run.measured("pruned", Streamed(journal.model, after.config, model.dtype), windows)
            card = card or _card(name, model.shape, settings, ids)
            if windows is not None:
                card = replace(card, perplexities=((text, windows[:, 1:].numel(), dense, small),))
            save_papers(journal.model, target.name, tokenizer, Shape.of(after), plan, card)
            journal.add("papers", report=asdict(report), plan=plan.to_json())
            journal.publish(overwrite)
            return Written(Path(out), plan, report, model.shape, Shape.of(after), dense, small)
        return run.already_published(Path(out))


def whole_model(settings: Settings) -> str | None:
    """What it is in the settings that needs the whole model at once, or None."""
    if settings.method in GRADIENTS:
        return f"the method {settings.method}"
    return "the choice of widths by measurement" if settings.widths == "measured" else None


class _Run:
    """The steps of `prune_to`, each of which the journal may know to be done."""

    def __init__(self, model, ids, settings, journal, dtype, progress, observe) -> None:
        self.model, self.ids, self.settings, self.journal = model, ids, settings, journal
        self.dtype, self.progress, self.observe = dtype, progress, observe

    def planned(self, plan: Plan | None, name: str) -> tuple[Plan, tuple[float, ...] | None]:
        if (record := self.journal.find("plan")) is None:
            importance = None
            if plan is None:
                plan, importance = make_plan(self.model, self.ids, self.settings, name, self.progress)
            check_plan(plan, self.model.shape, self.settings)
            check_widths(self.model.config, self.model.shape.with_widths(plan.neurons, plan.kv_groups))
            self.journal.add("plan", plan=plan.to_json(), importance=importance)
            record = self.journal.find("plan")
        importance = record["importance"]
        return Plan.from_json(record["plan"]), None if importance is None else tuple(importance)

    def measured(self, which: str, model: Streamed, windows: Tensor | None) -> float | None:
        """Perplexity of the dense or the pruned model."""
        if windows is None:
            return None
        if (record := self.journal.find(which)) is None:
            found = losses(model, windows, self.settings.device, self.progress, f"measuring {which}")
            self.journal.add(which, perplexity=math.exp(min(700.0, float(found.mean()))))
            record = self.journal.find(which)
        return record["perplexity"]

    def layers(self, plan: Plan) -> list[Done]:
        """All layers that are not finished yet."""
        journal, watch = self.journal, Watch()
        records = [record for record in journal.records if record["what"] == "layer"]
        if len(records) == self.model.shape.layers:
            journal.keep_only(set())
            return _finished(records)
        # what the last run did not name is thrown away first: it may fill the disk
        journal.keep_only({name for name in records[-1]["files"] if name.startswith("states-")} if records else set())
        walk = Walk(self.model, self.ids, self.settings, plan, self.model.shape, watch, folder=journal.folder)
        if records:
            walk.restore(records[-1]["carried"], journal.folder)
        for index in range(len(records), self.model.shape.layers):
            layer = self.model.model.layers[index].to(walk.device)
            done, files = walk.take(index, layer), {}
            if done is not None:
                shard = _shard(plan.layers.index(index), plan)
                files[f"model/{shard}"] = self._write(layer, plan.layers.index(index), journal.model / shard)
            del layer  # before the next one is read
            carried = walk.carried()
            for name in {carried["hidden"], carried["dense"]} - {None}:
                _flush(journal.folder / name)
                files[name] = sha256(journal.folder / name)
            journal.add("layer", done=None if done is None else asdict(done), files=files, carried=carried)
            journal.keep_only(set(files))
            if done is not None:
                self.observe(done.report)
            self.progress("pruning", index + 1, self.model.shape.layers)
        journal.keep_only(set())
        return _finished([record for record in journal.records if record["what"] == "layer"])

    def _write(self, layer: nn.Module, place: int, shard: Path) -> str:
        tensors = {
            f"model.layers.{place}.{name}": (tuple(tensor.shape), (tensor,))
            for name, tensor in layer.state_dict().items()
        }
        return write(shard, tensors, self.dtype)

    def assemble(self, plan: Plan) -> nn.Module:
        """What stands beside the layers, the index and the config. Returns the new model without its numbers."""
        folder, model = self.journal.model, self.model
        names = [EMBEDDING, NORM, *([] if model.tied else [HEAD])]
        last = _shard(len(plan.layers), plan)
        if self.journal.find("rest") is None:
            rest = {name: (model.files.shapes[name], model.files.pieces(name, model.dtype)) for name in names}
            self.journal.add("rest", files={f"model/{last}": write(folder / last, rest, self.dtype)})
        finished = _finished([record for record in self.journal.records if record["what"] == "layer"])
        after = _shrunk(model, plan, finished, self.settings, self.dtype)
        (folder / INDEX).unlink(missing_ok=True)
        files = [_shard(place, plan) for place in range(len(plan.layers) + 1)]
        weights = {name: file for file in files for name in names_in(folder / file)}
        parameters = sum(parameter.numel() for parameter in after.parameters())
        index = {
            "metadata": {"total_parameters": parameters, "total_size": parameters * self.dtype.itemsize},
            "weight_map": dict(sorted(weights.items())),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        after.config.dtype = str(self.dtype).removeprefix("torch.")
        after.config.architectures = [type(after).__name__]
        after.config.save_pretrained(folder)
        after.generation_config.save_pretrained(folder)
        return after

    def already_published(self, out: Path) -> Written:
        """The last process died between giving the model its name and cleaning up."""
        record = self.journal.find("papers")
        plan, fields = Plan.from_json(record["plan"]), record["report"]
        report = Report(**fields | {"layers": tuple(LayerReport(**layer) for layer in fields["layers"])})
        finished = _finished([record for record in self.journal.records if record["what"] == "layer"])
        after = Shape.of(_shrunk(self.model, plan, finished, self.settings, self.dtype))
        measured = [self.journal.find(which) for which in ("dense", "pruned")]
        self.journal.remove()
        return Written(out, plan, report, self.model.shape, after, *(m and m["perplexity"] for m in measured))


def _finished(records: list[dict]) -> list[Done]:
    found = [record["done"] for record in records if record["done"] is not None]
    return [
        Done(LayerReport(**done["report"]), tuple(done["kept_neurons"]), tuple(done["kept_groups"])) for done in found
    ]


def _shrunk(model: Streamed, plan: Plan, finished: list[Done], settings: Settings, dtype: torch.dtype) -> nn.Module:
    """The new model without its numbers: the same surgery on the skeleton, and the config that goes with it."""
    small = skeleton(model.config, dtype)
    for index, done in zip(plan.layers, finished, strict=True):
        layer = small.model.layers[index]
        if settings.recovery == "bias":
            add_biases(layer)
        shrink_attention(layer, torch.tensor(done.kept_groups))
        shrink_mlp(layer, torch.tensor(done.kept_neurons))
    keep_layers(small, plan.layers)
    update_config(small)
    shape = Shape.of(small)
    if (model.files.folder / "generation_config.json").is_file():
        small.generation_config = GenerationConfig.from_pretrained(model.files.folder)
    return as_stock(small, shape) if shape.stock else as_heterogeneous(small, shape)


def _shard(place: int, plan: Plan) -> str:
    count = len(plan.layers) + 1  # the last holds what stands beside the layers
    return f"model-{place + 1:05d}-of-{count:05d}.safetensors"


def _card(name: str, shape: Shape, settings: Settings, ids: Tensor) -> Provenance:
    return Provenance(
        parent=name or "a model without a name", parent_shape=shape, parent_licence=None,
        calibration=f"{ids.shape[0]} x {ids.shape[1]} tokens", method=settings.neuron_metric,
        recovery=settings.recovery, version=__version__, settings=asdict(settings),
    )  # fmt: skip


def _digest(ids: Tensor) -> str:
    return f"{tuple(ids.shape)} {hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest()[:16]}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
