"""COMP from files to files: the model is never there as a whole, and a run that was cut off goes on.

The same walk as `prune`, layer by layer, with other ends: each layer is read from safetensors, and written to its place
in the files of the new model when it is finished; the hidden states of the calibration text are in files too. So memory
grows with the largest layer, not with the number of layers; but what judges a layer by the model's answer (measured
widths, layers to drop) has a few sequences of states for each layer. A journal (see `journal`) knows what is finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from .. import __version__
from ..errors import InputError
from ..evaluation.loss import perplexity_of
from ..families import family_of
from ..families.protocol import Model
from ..models.per_layer_llama import as_heterogeneous, as_stock, check_widths
from ..models.reading import read_generation
from ..models.save import Provenance, check_destination, estimated_bytes, save_papers
from ..models.skeleton import skeleton
from ..plan import Plan
from ..prune import DEFAULTS, Planned, check_family, check_plan, check_request, check_tokens, concluded, make_plan
from ..prune_layer import Carrier, Here, LayerPruner, PrunedLayer
from ..report import LayerReport, PeakMemory, Progress, Report, no_progress
from ..settings import Settings
from ..shape import Shape
from ..surgery import add_biases, keep_layers, shrink, update_config
from ..system import hashes
from ..system.atomic import bytes_in, fsync, resolved
from ..system.clock import listening, phase
from ..system.machine import exact_products
from ..system.tensor_files import Layout, Range, TensorFiles, reach_disk
from .journal import Journal, partial_folder
from .limit import Machine, least_seconds
from .machines import Machines, Room
from .memory import check_limit, check_memory, work_of
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
class Means:
    """By what means `prune_to` computes."""

    machines: Machines | None = None  # whose workers carry the text through the layers
    memory: int | None = None  # bytes of this process that are resident at most
    progress: Progress = no_progress  # hears what is done


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
    means: Means = Means(),  # noqa: B008  a frozen value
) -> Written:
    """Prune `model` on the calibration tokens `ids` (S, L) and write the result to the folder `out`.

    Equal to `prune` and `save_checkpoint` up to rounding. The same call goes on from the last finished layer when an
    earlier one was cut off, and ends with the same bytes. With machines, these bytes depend on the number of shards,
    and on nothing else of them; what the plan rests on and the perplexities are computed here all the same.

    Raises InputError before any work for what `prune` and `save_checkpoint` refuse, for a method that needs the whole
    model at once, when another process prunes into `out`, when `out` was begun with another request, when there are no
    such machines, or the memory is too little; and when the disk is full, or the machines are gone for good.
    """
    started, target = time.perf_counter(), resolved(out)
    _check(model, ids, settings, plan)
    machines, ids = means.machines, ids.long()
    if machines is not None:
        machines.check(settings, len(ids))
    batch = _batch(target, model, ids, settings, plan, saving, means)
    check_out(target, model, saving, ids.numel(), settings)
    carried: dict[str, Any] = {} if machines is None else {"shards": machines.shards}
    carried |= {} if batch is None else {"memory": means.memory, "batch": batch}
    request = _request(model, ids, settings, saving, plan) | {"carried": carried}
    with Journal.open(target, request) as journal, listening() as phases:
        resumed = journal.find("plan") is not None
        run = _Run(model, ids, settings, saving, journal, means.progress, batch)
        if journal.published:
            return run.already_published(Path(out))
        planned = run.planned(plan)
        dense = run.measured("dense", model)
        outline = run.outline(planned.plan)
        finished = run.layers(planned.plan, outline, machines)
        after = Shape.of(outline)
        plan, report = concluded(planned, finished, settings, ids, model.shape, after)
        small = run.measured("pruned", Streamed(journal.model, outline.config, model.dtype))
        # of a run that is taken up again, or that machines share, most seconds are not of this process
        least = run.least(plan) if machines is None and not resumed else {}
        report = replace(report, seconds=time.perf_counter() - started, phases={**phases}, least=least)
        save_papers(journal.model, target.name, tokenizer, after, plan, run.card(dense, small))
        journal.add("papers", report=asdict(report), plan=plan.to_json())
        journal.publish(saving.overwrite)
        return Written(Path(out), plan, report, model.shape, after, dense, small)


def _check(model: Streamed, ids: Tensor, settings: Settings, plan: Plan | None) -> None:
    """Raises InputError for what no run on this model, text and plan can do."""
    settings.check()
    check_tokens(ids, model.config.vocab_size)
    if reason := whole_model(settings):
        got = f"{reason}, which needs the whole model: load it and use `prune`"
        raise InputError(f"expected what looks at one layer at a time, got {got}")
    check_family(model, settings, plan)
    if plan is None:
        check_request(model.shape, settings)
    else:
        check_plan(plan, model.shape, settings)
    if settings.uneven:  # without a shape: what no family of this kind can hold, before any work
        check_widths(model.config)


def _batch(
    target: Path, model: Streamed, ids: Tensor, settings: Settings, plan: Plan | None, saving: Saving, means: Means
) -> int | None:
    """Tokens in flight that the limit of memory allows, or None without one. Raises InputError where it is too low."""
    check_limit(means.memory, means.machines is not None, settings.device)
    if means.memory is None:
        return None
    begun = _earlier(target).find("begun")  # a run that goes on has chosen already
    chosen = {} if begun is None else begun["request"].get("carried", {})
    known: int | None = chosen.get("batch") if chosen.get("memory") == means.memory else None
    windows = 0 if saving.windows is None else saving.windows.numel()
    return known or check_memory(model, ids.shape, settings, windows, means.memory, plan)


def _earlier(out: Path) -> Journal:
    """What a run into that folder has left. Raises InputError for what is not ours there, or damaged."""
    journal = Journal(resolved(out))
    journal.check_ours()
    journal.look()
    return journal


def state_files(two_streams: bool) -> int:
    """The most files of hidden states that are there at once.

    Each stream before a layer, in its middle and behind it, the last two of the next layer beside them, and what a run
    that is taken up again begins with.
    """
    return 5 * (1 + two_streams) + 1


def check_out(out: Path, model: Streamed, saving: Saving, tokens: int, settings: Settings) -> None:
    """Raises InputError unless a run with so many calibration tokens may begin, or go on, in the folder `out`."""
    journal = _earlier(out)
    journal.check_alone()
    journal.check_request(_told(model, settings, saving))
    if not journal.published:
        states = state_files(settings.two_streams) * tokens * model.shape.hidden * model.dtype.itemsize
        left = bytes_in(partial_folder(resolved(out)), stored=True)
        needed = estimated_bytes(model.shape, saving.dtype or model.dtype) + states - left
        check_destination(out, saving.overwrite, max(0, needed), [saving.name, *model.files.files])


def _request(model: Streamed, ids: Tensor, settings: Settings, saving: Saving, plan: Plan | None) -> dict[str, Any]:
    """All that decides the bytes of the result: what a run that is taken up again must have in common."""
    return {
        "model": model.files.fingerprint(),
        "config": hashes.of_value(model.config.to_dict() | {"_name_or_path": None}),
        **_told(model, settings, saving),
        "plan": None if plan is None else json.loads(plan.to_json()),
        "calibration": hashes.of_tensor(ids),
        "evaluation": None if saving.windows is None else hashes.of_tensor(saving.windows),
        "comp_lib": hashes.of_code("scale"),
    }


def _told(model: Streamed, settings: Settings, saving: Saving) -> dict[str, Any]:
    """What of that is known without reading model and text."""
    saved = str(saving.dtype or model.dtype)
    return {"name": saving.name, "settings": asdict(settings), "dtype": str(model.dtype), "saved as": saved}


def whole_model(settings: Settings) -> str | None:
    """What it is in the settings that needs the whole model at once, or None."""
    return f"the method {settings.method}" if settings.method in GRADIENTS else None


class _Run:
    """The steps of `prune_to`, each of which the journal may know to be done."""

    def __init__(
        self,
        model: Streamed,
        ids: Tensor,
        settings: Settings,
        saving: Saving,
        journal: Journal,
        progress: Progress,
        batch: int | None,
    ) -> None:
        self.model, self.ids, self.settings, self.saving = model, ids, settings, saving
        self.journal, self.progress, self.batch = journal, progress, batch
        self.dtype = saving.dtype or model.dtype

    def planned(self, plan: Plan | None) -> Planned:
        """The plan: the one that was given, the journal's, or one made now."""
        if (record := self.journal.find("plan")) is None:
            planned = Planned(plan) if plan is not None else None
            with phase("planning"):
                planned = planned or make_plan(self.model, self.ids, self.settings, self.saving.name, self.progress)
            plan, shape = planned.plan, self.model.shape
            check_plan(plan, shape, self.settings)
            check_widths(self.model.config, shape.with_widths(plan.neurons, plan.kv_groups, plan.layers))
            record = self.journal.add("plan", plan=plan.to_json(), importance=planned.layer_importance)
        importance = record["importance"]
        return Planned(Plan.from_json(record["plan"]), None if importance is None else tuple(importance))

    def measured(self, which: str, model: Streamed) -> float | None:
        """Perplexity of the dense or the pruned model, where there is something to measure it on."""
        if self.saving.windows is None:
            return None
        if (record := self.journal.find(which)) is None:
            what = f"measuring {which}"
            with phase("evaluation"):
                loss = float(losses(model, self.saving.windows, self.settings.device, self.progress, what).mean())
            record = self.journal.add(which, perplexity=perplexity_of(loss))
        return float(record["perplexity"])

    def outline(self, plan: Plan) -> Model:
        """The new model without its numbers; a plan says how wide layers become before it says which neurons stay."""
        small = skeleton(self.model.config, self.dtype)
        layers = family_of(small).layers(small)
        for index, groups, neurons in zip(plan.layers, plan.kv_groups, plan.neurons, strict=True):
            if self.settings.recovery == "bias":
                add_biases(layers[index])
            shrink(layers[index], "attention", torch.arange(groups))
            shrink(layers[index], "mlp", torch.arange(neurons))
        keep_layers(small, plan.layers)
        update_config(small)
        in_folder = isinstance(self.model.files, TensorFiles)  # what lies beside a GGUF file is not of it
        config, folder = self.model.config, str(self.model.files.folder)
        small.generation_config = (
            read_generation(folder, config) if in_folder else GenerationConfig.from_model_config(config)
        )
        shape = Shape.of(small)
        small = as_stock(small, shape) if shape.stock else as_heterogeneous(small, shape)
        small.config.dtype = str(self.dtype).removeprefix("torch.")
        small.config.architectures = [type(small).__name__]
        return small

    def layers(self, plan: Plan, outline: Model, machines: Machines | None) -> list[PrunedLayer]:
        """All layers, and what stands beside them: what is not finished yet is pruned and written."""
        journal, model = self.journal, self.model
        shapes = {name: tuple(tensor.shape) for name, tensor in outline.named_parameters()}  # a tied head once
        layout = Layout(shapes, self.dtype)
        if journal.find("created") is None:
            outline.config.save_pretrained(journal.model)
            outline.generation_config.to_json_file(journal.model / "generation_config.json")  # as it is
            beside = {name: model.files.pieces(name, model.dtype) for name in shapes if ".layers." not in name}
            with phase("write"):
                headers = layout.create(journal.model)
                for path in (*journal.model.glob("*.json"), journal.model):  # what the record says is there stays
                    fsync(path)
                written = layout.write(journal.model, beside)
                reach_disk(journal.model, written)
                journal.add("created", ranges=[*headers, *written])
        if len(journal.all("layer")) < model.shape.layers:
            walk = partial(self._walk, plan, layout)
            if machines is None:
                for _ in walk(partial(Here, batch=self.batch)):
                    pass
            else:
                machines.carry(walk, self.settings.device)
        if journal.find("walked") is None:
            journal.add("walked", files={})  # the hidden states are of no more use
        journal.keep_only(())
        done = [record["done"] for record in journal.all("layer") if record["done"] is not None]
        return [
            PrunedLayer(LayerReport(**one["report"]), tuple(one["kept_neurons"]), tuple(one["kept_groups"]))
            for one in done
        ]

    def _walk(self, plan: Plan, layout: Layout, carrier: Callable[[Room], Carrier]) -> Iterator[int]:
        """The layers that the journal does not know to be finished, each as it is."""
        journal, model, records = self.journal, self.model, self.journal.all("layer")
        # what the last walk did not name is thrown away first: it may fill the disk
        journal.keep_only(records[-1]["states"].values() if records else ())
        carrying = carrier(partial(States.create, journal.folder))
        pruner = LayerPruner(model, self.ids, self.settings, plan, model.shape, PeakMemory(), carrying)
        if records:
            size, dtype, names = tuple(pruner.hidden.shape), pruner.hidden.dtype, records[-1]["states"]
            states = {name: States(journal.folder / file, size, dtype) for name, file in names.items()}
            pruner.resume(records[-1]["made"], states.pop("hidden"), states.pop("dense", None))
        last: tuple[Future[None], PrunedLayer | None] | None = None
        with ThreadPoolExecutor(1) as beside:  # waits for the disk while the next layer is computed
            for index in range(len(records), model.shape.layers):
                done, layer = self._layer(pruner, plan, layout, index)
                self._finished(index - 1, last)
                stale = journal.states().difference(layer["states"].values())
                last = beside.submit(self._tell, layer, stale), done
                yield index
            self._finished(model.shape.layers - 1, last)

    def _finished(self, index: int, last: tuple[Future[None], PrunedLayer | None] | None) -> None:
        """Wait until the journal knows of layer `index`, and only then say that it is finished."""
        if last is not None:
            told, done = last
            with phase("write"):
                told.result()
            self.progress("pruning", index + 1, self.model.shape.layers, None if done is None else done.report)

    def _layer(
        self, pruner: LayerPruner, plan: Plan, layout: Layout, index: int
    ) -> tuple[PrunedLayer | None, dict[str, Any]]:
        """One layer: read, pruned, written; and what the journal is to know of it once it is on the disk."""
        layer = family_of(self.model).layers(self.model)[index].to(pruner.device)
        done, ranges = pruner.prune_layer(index, layer), list[Range]()
        if done is not None:
            prefix = f"model.layers.{plan.layers.index(index)}."
            tensors = {prefix + name: (tensor,) for name, tensor in layer.state_dict().items()}
            with phase("write"):
                ranges = layout.write(self.journal.model, tensors)
        streams = {"hidden": pruner.hidden, "dense": pruner.dense}
        names = {name: states.path.name for name, states in streams.items() if isinstance(states, States)}
        kept, made = None if done is None else asdict(done), pruner.progress_made()
        return done, {"done": kept, "ranges": ranges, "states": names, "made": made}

    def _tell(self, layer: dict[str, Any], stale: Collection[str]) -> None:
        """Let a layer and the hidden states behind it reach the disk, and the journal know; then throw away others."""
        journal, files = self.journal, {}
        reach_disk(journal.model, layer["ranges"])
        for name in sorted({*layer["states"].values()}):
            fsync(journal.folder / name)
            files[name] = hashes.of_file(journal.folder / name)
        journal.add("layer", **layer, files=files)
        journal.throw_away(stale)

    def least(self, plan: Plan) -> dict[str, float]:
        """Seconds that each phase takes at least on this machine, its products on the device of the settings."""
        work = work_of(self.model, self.ids.shape, self.settings, plan, self.saving.dtype)
        where = (self.model.files.files, self.journal.folder, self.settings.device, self.model.dtype)
        return least_seconds(work, Machine.measured(self.model.shape, *where))

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
        importance = fields["layer_importance"]
        fields |= {"layers": tuple(LayerReport(**layer) for layer in fields["layers"])}
        report = Report(**fields | {"layer_importance": None if importance is None else tuple(importance)})
        after = Shape.of(self.outline(plan))
        measured = [self.journal.find(which) for which in ("dense", "pruned")]
        self.journal.remove()
        dense, small = (None if record is None else record["perplexity"] for record in measured)
        return Written(out, plan, report, self.model.shape, after, dense, small)
