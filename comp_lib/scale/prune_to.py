"""COMP from files to files: the model is never there as a whole, and a run that was cut off goes on.

The same walk as `prune`, layer by layer, with other ends: each layer is read from safetensors, and written to its place
in the files of the new model when it is finished; the hidden states of the calibration text are in files too. So memory
grows with the largest layer, not with the number of layers. A journal (see `journal`) knows what is finished.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from .. import __version__
from ..errors import InputError
from ..families import family_of
from ..families.protocol import Model
from ..models.per_layer_llama import as_heterogeneous, as_stock, check_widths
from ..models.save import Provenance, check_destination, estimated_bytes, save_papers
from ..models.skeleton import skeleton
from ..plan import Plan
from ..prune import DEFAULTS, Planned, check_plan, check_tokens, concluded, make_plan
from ..prune_layer import LayerPruner, PrunedLayer
from ..report import LayerReport, PeakMemory, Progress, Report, no_progress
from ..settings import Settings
from ..shape import Shape
from ..surgery import add_biases, check_biases, keep_layers, shrink, update_config
from ..system import hashes
from ..system.atomic import fsync, resolved
from ..system.tensor_files import Layout
from .journal import Journal, partial_folder
from .model_on_disk import Streamed, losses
from .states_on_disk import States

GRADIENTS = ("llm-pruner", "llm-pruner-mixed")  # methods that need those of all weights at once: `prune` has them


@dataclass(frozen=True)
class Saving:
    """How the result of `prune_to` is written, and judged."""

    name: str = ""  # of the parent, as the user knows it
    dtype: torch.dtype | None = None  # of the written weights; None: that of the model, in which the layers compute
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
    dtype, target = saving.dtype or model.dtype, resolved(out)
    earlier = Journal(target)
    earlier.look()
    if not earlier.published:
        states = 4 * ids.numel() * model.shape.hidden * model.dtype.itemsize
        needed = estimated_bytes(model.shape, dtype) + states - _size(partial_folder(target))
        check_destination(out, saving.overwrite, max(0, needed), saving.name or None)
    request = {
        "model": model.files.fingerprint(),
        "name": saving.name,
        "settings": asdict(settings),
        "plan": None if plan is None else json.loads(plan.to_json()),
        "dtype": str(model.dtype),
        "saved as": str(dtype),
        "calibration": hashes.of_tensor(ids),
        "evaluation": None if saving.windows is None else hashes.of_tensor(saving.windows),
        "comp_lib": hashes.of_code("scale"),
    }
    with Journal.open(target, request) as journal:
        run = _Run(model, ids, settings, saving, journal, progress)
        if journal.published:
            return run.already_published(Path(out))
        planned = run.planned(plan)
        dense = run.measured("dense", model)
        finished = run.layers(planned.plan)
        after = run.assemble(planned.plan, finished)
        plan, report = concluded(planned, finished, settings, ids, model.shape, Shape.of(after))
        report = replace(report, seconds=time.perf_counter() - started)
        small = run.measured("pruned", Streamed(journal.model, after.config, model.dtype))
        save_papers(journal.model, target.name, tokenizer, Shape.of(after), plan, run.card(dense, small))
        journal.add("papers", report=asdict(report), plan=plan.to_json())
        journal.publish(saving.overwrite)
        return Written(Path(out), plan, report, model.shape, Shape.of(after), dense, small)


def whole_model(settings: Settings) -> str | None:
    """What it is in the settings that needs the whole model at once, or None."""
    if settings.method in GRADIENTS:
        return f"the method {settings.method}"
    return "the choice of widths by measurement" if settings.widths == "measured" else None


class _Run:
    """The steps of `prune_to`, each of which the journal may know to be done."""

    def __init__(
        self, model: Streamed, ids: Tensor, settings: Settings, saving: Saving, journal: Journal, progress: Progress
    ) -> None:
        self.model, self.ids, self.settings, self.saving = model, ids, settings, saving
        self.journal, self.progress = journal, progress
        self.dtype = saving.dtype or model.dtype

    def planned(self, plan: Plan | None) -> Planned:
        """The plan: the one that was given, the journal's, or one made now."""
        if (record := self.journal.find("plan")) is None:
            planned = Planned(plan) if plan is not None else None
            planned = planned or make_plan(self.model, self.ids, self.settings, self.saving.name, self.progress)
            plan, shape = planned.plan, self.model.shape
            check_plan(plan, shape, self.settings)
            check_widths(self.model.config, shape.with_widths(plan.neurons, plan.kv_groups))
            record = self.journal.add("plan", plan=plan.to_json(), importance=planned.layer_importance)
        importance = record["importance"]
        return Planned(Plan.from_json(record["plan"]), None if importance is None else tuple(importance))

    def measured(self, which: str, model: Streamed) -> float | None:
        """Perplexity of the dense or the pruned model, where there is something to measure it on."""
        if self.saving.windows is None:
            return None
        if (record := self.journal.find(which)) is None:
            what = f"measuring {which}"
            loss = float(losses(model, self.saving.windows, self.settings.device, self.progress, what).mean())
            record = self.journal.add(which, perplexity=math.exp(min(700.0, loss)))
        return float(record["perplexity"])

    def layers(self, plan: Plan) -> list[PrunedLayer]:
        """All layers: those that are not finished yet are pruned and written."""
        journal, stack = self.journal, family_of(self.model).layers(self.model)
        records, layout = journal.all("layer"), self._layout(plan)
        if journal.find("created") is None:
            journal.add("created", ranges=layout.create(journal.model))
        if len(records) < len(stack):
            # what the last run did not name is thrown away first: it may fill the disk
            journal.keep_only(records[-1]["states"].values() if records else ())
            pruner = LayerPruner(
                self.model,
                self.ids,
                self.settings,
                plan,
                self.model.shape,
                PeakMemory(),
                room=lambda size, dtype: States.create(journal.folder, size, dtype),
            )
            if records:
                pruner.resume(records[-1]["made"], *self._reopened(pruner, records[-1]))
            for index in range(len(records), len(stack)):
                self._layer(pruner, plan, layout, index)
        if journal.find("walked") is None:
            journal.add("walked", files={})  # the hidden states are of no more use
        journal.keep_only(())
        return _finished(journal.all("layer"))

    def _layer(self, pruner: LayerPruner, plan: Plan, layout: Layout, index: int) -> None:
        """One layer: read, pruned, written, and told to the journal with the hidden states behind it."""
        layer = family_of(self.model).layers(self.model)[index].to(pruner.device)
        done, ranges = pruner.prune_layer(index, layer), []
        if done is not None:
            prefix = f"model.layers.{plan.layers.index(index)}."
            tensors = {prefix + name: (tensor,) for name, tensor in layer.state_dict().items()}
            ranges = layout.write(self.journal.model, tensors)
        del layer  # before the next one is read
        streams = {"hidden": pruner.hidden, "dense": pruner.dense}
        names = {name: states.path.name for name, states in streams.items() if isinstance(states, States)}
        files = {}
        for name in sorted({*names.values()}):
            fsync(self.journal.folder / name)
            files[name] = hashes.of_file(self.journal.folder / name)
        kept = None if done is None else asdict(done)
        self.journal.add("layer", done=kept, ranges=ranges, states=names, files=files, made=pruner.progress_made())
        self.journal.keep_only(files)
        self.progress("pruning", index + 1, self.model.shape.layers, None if done is None else done.report)

    def _reopened(self, pruner: LayerPruner, record: dict[str, Any]) -> tuple[States, States | None]:
        """The hidden states behind the last finished layer."""
        size, dtype, names = (*self.ids.shape, self.model.shape.hidden), pruner.hidden.dtype, record["states"]
        opened = {name: States(self.journal.folder / file, size, dtype) for name, file in names.items()}
        return opened["hidden"], opened.get("dense")

    def _layout(self, plan: Plan) -> Layout:
        """Where the tensors of the new model are; a plan says how large they are before it says which they were."""
        widths = zip(plan.kv_groups, plan.neurons, strict=True)
        chosen = [(range(groups), range(neurons)) for groups, neurons in widths]
        small = _shrunk(self.model, plan, chosen, self.settings, self.dtype)
        return Layout(
            {name: tuple(one.shape) for name, one in small.named_parameters()}, self.dtype
        )  # a tied head once

    def assemble(self, plan: Plan, finished: list[PrunedLayer]) -> Model:
        """What stands beside the layers, and the config. Returns the new model without its numbers."""
        folder, model = self.journal.model, self.model
        if self.journal.find("rest") is None:
            layout = self._layout(plan)
            rest = {
                name: model.files.pieces(name, model.dtype)
                for name in layout.places
                if not name.startswith("model.layers.")
            }
            self.journal.add("rest", ranges=layout.write(folder, rest))
        chosen = [(done.kept_groups, done.kept_neurons) for done in finished]
        after = _shrunk(model, plan, chosen, self.settings, self.dtype)
        after.config.dtype = str(self.dtype).removeprefix("torch.")
        after.config.architectures = [type(after).__name__]
        after.config.save_pretrained(folder)
        after.generation_config.save_pretrained(folder)
        return after

    def card(self, dense: float | None, small: float | None) -> Provenance:
        """What the model card says, with what was measured."""
        saving, settings, ids = self.saving, self.settings, self.ids
        card = saving.card or Provenance(
            parent=saving.name or "a model without a name",
            parent_shape=self.model.shape,
            parent_licence=None,
            calibration=f"{ids.shape[0]} x {ids.shape[1]} tokens",
            method=settings.neuron_metric,
            recovery=settings.recovery,
            version=__version__,
            settings=asdict(settings),
        )
        if saving.windows is None or dense is None or small is None:
            return card
        return replace(card, perplexities=((saving.text, saving.windows[:, 1:].numel(), dense, small),))

    def already_published(self, out: Path) -> Written:
        """The last process died between giving the model its name and cleaning up."""
        record = self.journal.find("papers")
        if record is None:
            raise InputError(f"expected a journal that knows its report, got {self.journal.path} without: delete it")
        plan, fields = Plan.from_json(record["plan"]), record["report"]
        report = Report(**fields | {"layers": tuple(LayerReport(**layer) for layer in fields["layers"])})
        chosen = [(done.kept_groups, done.kept_neurons) for done in _finished(self.journal.all("layer"))]
        after = Shape.of(_shrunk(self.model, plan, chosen, self.settings, self.dtype))
        measured = [self.journal.find(which) for which in ("dense", "pruned")]
        self.journal.remove()
        dense, small = (None if record is None else record["perplexity"] for record in measured)
        return Written(out, plan, report, self.model.shape, after, dense, small)


def _finished(records: list[dict[str, Any]]) -> list[PrunedLayer]:
    done = [record["done"] for record in records if record["done"] is not None]
    return [
        PrunedLayer(LayerReport(**one["report"]), tuple(one["kept_neurons"]), tuple(one["kept_groups"])) for one in done
    ]


def _shrunk(
    model: Streamed,
    plan: Plan,
    chosen: Iterable[tuple[Iterable[int], Iterable[int]]],
    settings: Settings,
    dtype: torch.dtype,
) -> Model:
    """The new model without its numbers: the same surgery on the skeleton, and the config that goes with it.

    chosen: KV groups and neurons kept in each layer of the plan.
    """
    small = skeleton(model.config, dtype)
    layers = family_of(small).layers(small)
    for index, (groups, neurons) in zip(plan.layers, chosen, strict=True):
        if settings.recovery == "bias":
            add_biases(layers[index])
        shrink(layers[index], "attention", torch.tensor(list(groups)))
        shrink(layers[index], "mlp", torch.tensor(list(neurons)))
    keep_layers(small, plan.layers)
    update_config(small)
    shape = Shape.of(small)
    if (model.files.folder / "generation_config.json").is_file():
        small.generation_config = GenerationConfig.from_pretrained(model.files.folder)
    return as_stock(small, shape) if shape.stock else as_heterogeneous(small, shape)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
