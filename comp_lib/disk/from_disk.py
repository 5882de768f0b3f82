"""COMP from files to files: the model is never there as a whole, and the same call goes on after a kill.

The same walk as `prune`, layer by layer, with other ends: a layer is read from safetensors (`model_on_disk.Streamed`),
pruned, and written to its place in the files of the new model (`model_on_disk.lay_out`). Hidden states are in files
too. So memory grows with the largest layer, not with the number of layers; but what judges a layer by the model's
answer (measured widths, layers to drop) has a few sequences of states for each layer.

All of it happens in `NAME.partial`, beside the folder NAME that it becomes:

    lock              held while a process works here: a second one is refused
    progress.json     what was asked for, and what is finished
    model.safetensors the new model, of which progress.json says how many layers are there
    states-N          hidden states (`model_on_disk.States`)

What progress.json names is on the disk before it is named; what it does not name is made again. So a run that was cut
off, wherever, ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..errors import InputError, refusing
from ..families.find import layers_of
from ..families.protocol import Model
from ..families.run import embed, rotary
from ..models.meta_model import described, make_meta_model
from ..models.save import PLAN_FILE, Provenance, check_destination, save_metadata
from ..plan import Plan
from ..planning import check_call, concluded, make_plan
from ..progress import Progress, no_progress
from ..prune_layer import LayerPruner, LayerReport, Report
from ..settings import Settings
from ..shape import Shape
from ..surgery import add_biases, keep_layers, shrink, update_config
from ..system.atomic import fsync, resolved, take_name
from ..system.hashes import hash_of_value
from ..system.tensors import EMBEDDING, HEAD, TensorFiles
from ..walk import sequence_losses, through
from .model_on_disk import PIECE, Places, States, Streamed, lay_out, write

GRADIENTS = ("llm-pruner",)  # methods that need those of all weights at once: `prune` has them
LOCK, PROGRESS = "lock", "progress.json"
STATES = (
    6  # files of hidden states at once, at most: two streams, three steps of a layer, and one after a kill
)


@dataclass(frozen=True)
class Saving:
    """How the result of `prune_to` is written, and judged."""

    name: str = ""  # of the parent, as the user knows it
    windows: Tensor | None = None  # (S, L) of `text` on which both models are measured
    text: str = "evaluation"  # name of that text
    card: Provenance | None = None  # what the model card says; None: in short
    overwrite: bool = False
    dtype: torch.dtype | None = None  # of the files; None: what the model computes in


@dataclass(frozen=True)
class Written:
    """A pruned model on disk."""

    folder: Path
    plan: Plan
    report: Report
    before: Shape
    after: Shape
    losses: tuple[
        tuple[float, float], ...
    ] = ()  # of each window: of the parent, of the files; nats per token


@torch.no_grad()
def prune_to(
    out: str | Path,
    model: Streamed,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    settings: Settings = Settings(),  # noqa: B008  a frozen value
    *,
    plan: Plan | None = None,
    saving: Saving = Saving(),  # noqa: B008  a frozen value
    progress: Progress = no_progress,
) -> Written:
    """Prune `model` on the calibration tokens `ids` (S, L) and write the result to the folder `out`.

    Equal to `prune` and `save_checkpoint` up to rounding; what is judged is what the files hold, in `saving.dtype`. The
    same call goes on from the last finished layer when an earlier one was cut off, and ends with the same bytes. A
    method in GRADIENTS needs a plan that was made in memory.

    Raises InputError before any work for what `prune` and `save_checkpoint` refuse (NaN: when it is read), when another
    process prunes into `out`, and when `NAME.partial` was begun with another request or is somebody's.
    """
    started, target = time.perf_counter(), resolved(out)
    ids = check_call(model, ids, settings, plan)
    if settings.method in GRADIENTS and plan is None:
        got = f"the method {settings.method} and no plan: it needs the whole model, see planning.make_plan"
        raise InputError(f"expected what looks at one layer at a time, or a plan, got {got}")
    work = check_out(out, model, saving, ids.numel())
    with _alone(work):
        run = _Run(work, model, ids, settings, saving, progress, saving.dtype or model.dtype)
        plan = run.begin(plan)
        dense = run.measured("dense", model)
        outline = _outline(model, plan, settings, run.dtype)
        outline.config.save_pretrained(work)
        outline.generation_config.to_json_file(work / "generation_config.json")
        finished = run.prune_layers(plan, outline)
        written = Streamed(make_meta_model(outline.config, model.dtype), TensorFiles(work))
        small = run.measured("pruned", written)
        plan, report = concluded(plan, finished, settings, ids, model.shape, written.shape)
        report = replace(report, seconds=time.perf_counter() - started)
        calibration = f"{ids.shape[0]} x {ids.shape[1]} tokens"
        card = saving.card or Provenance(saving.name or "a model", model.shape, calibration, asdict(settings))
        if saving.windows is not None:
            before, after = torch.tensor([dense, small], dtype=torch.float64).mean(1).exp().tolist()
            card = replace(card, perplexities=((saving.text, saving.windows[:, 1:].numel(), before, after),))
        save_metadata(work, target.name, tokenizer, written.shape, plan, card)
    if work != target:  # without the lock: Windows renames no folder in which a file is open
        check_destination(out, saving.overwrite, 0, model.files.path)  # what came meanwhile stays
        for path in work.iterdir():
            fsync(path)
        take_name(work, target)
    (target / LOCK).unlink(missing_ok=True)
    (target / PROGRESS).unlink()  # last: whoever is killed before goes on here
    return Written(
        Path(out).expanduser(),
        plan,
        report,
        model.shape,
        written.shape,
        tuple(zip(dense, small, strict=True)),
    )


def check_out(out: str | Path, model: Streamed, saving: Saving, tokens: int) -> Path:
    """Where a run into the folder `out` works: beside it, until the model has taken its name.

    Raises InputError unless one with so many calibration `tokens` may begin there, or go on.
    """
    states = STATES * tokens * model.shape.hidden * model.dtype.itemsize
    needed = model.shape.total * (saving.dtype or model.dtype).itemsize + states
    target = resolved(out)
    begun = all((target / name).is_file() for name in (PROGRESS, PLAN_FILE))
    work = target if begun else target.parent / f"{target.name}.partial"
    if work.exists() and not work.is_dir():
        raise InputError(
            f"expected a folder or nothing as {work}, got a file: move it away or choose another name"
        )
    stats = {path.name: path.stat() for path in work.iterdir()} if work.is_dir() else {}
    there = {
        name: min(one.st_size, 512 * getattr(one, "st_blocks", one.st_size)) for name, one in stats.items()
    }
    if there.keys() - {LOCK, f"{PROGRESS}.tmp"} and PROGRESS not in there:
        got = f"{work} with other files: move it away or choose another name"
        raise InputError(f"expected nothing, or a run that was cut off, got {got}")
    if work != target:
        check_destination(out, saving.overwrite, max(0, needed - sum(there.values())), model.files.path)
    return work


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
    except OSError as error:
        got = f"{error}: mend that, and the same command goes on"
        raise InputError(f"expected to work in {work}, got {got}") from error


@dataclass
class _Run:
    """A run in the folder `work`: what it was asked for, and what of it is finished."""

    work: Path
    model: Streamed
    ids: Tensor
    settings: Settings
    saving: Saving
    progress: Progress
    dtype: torch.dtype  # of the files
    state: dict[str, Any] = field(
        default_factory=lambda: {"plan": None, "layers": [], "made": None, "states": {}}
    )

    def begin(self, plan: Plan | None) -> Plan:
        """The plan: the one that was given, the one that is known, or one made now.

        Raises InputError when the run was begun with another request.
        """
        asked = {
            "model": self.model.files.fingerprint(),
            "settings": asdict(self.settings),
            "dtype": [str(self.model.dtype), str(self.dtype)],
            "name": self.saving.name,
            # a planner's plan follows from the rest, on a card not to the last bit
            "plan": None if plan is None or self.settings.method in GRADIENTS else json.loads(plan.to_json()),
            "calibration": hash_of_value(self.ids.tolist()),
            "evaluation": None
            if self.saving.windows is None
            else hash_of_value(self.saving.windows.tolist()),
            "comp_lib": __version__,
        }
        request = json.loads(json.dumps(asked))  # as it is read again
        if (self.work / PROGRESS).is_file():
            with refusing("the progress of a run", str(self.work), "delete that folder"):
                self.state = json.loads((self.work / PROGRESS).read_text("utf-8"))
                begun = self.state["request"]
                different = ", ".join(name for name in request if begun.get(name) != request[name])
            if different:
                got = f"another one in {self.work} (different: {different}): delete that folder to begin anew"
                raise InputError(f"expected the request that began this run, got {got}")
        if self.state["plan"] is None:  # a plan that is refused leaves no run behind
            plan = plan or make_plan(self.model, self.ids, self.settings, self.saving.name, self.progress)
            self.state["plan"] = plan.to_json()
        self.keep(request=request)  # what a killed run left and did not name goes
        return Plan.from_json(self.state["plan"])

    def keep(self, **finished: Any) -> None:
        """Let progress.json know of what is finished, in one step; hidden states that it does not name are deleted."""
        self.state |= finished
        partial_file = self.work / f"{PROGRESS}.tmp"
        partial_file.write_text(json.dumps(self.state), "utf-8")
        fsync(partial_file)
        take_name(partial_file, self.work / PROGRESS)
        for path in self.work.glob("states-*"):
            if path.name not in self.state["states"].values():
                path.unlink()

    def measured(self, which: str, model: Streamed) -> list[float]:
        """Loss of the dense or the pruned model in each window, nats per token."""
        if self.saving.windows is None:
            return []
        if which not in self.state:
            windows, device = self.saving.windows, self.settings.device
            hidden = embed(model, windows)
            rope = rotary(model, windows.shape[1], device, hidden.dtype)
            layers = layers_of(model)
            for index in range(model.shape.layers):
                hidden = through(layers[index].to(device), hidden, rope, device)
                self.progress(f"measuring {which}", index + 1, model.shape.layers)
            self.keep(**{which: sequence_losses(model, hidden, windows).tolist()})
        return list(self.state[which])

    def prune_layers(self, plan: Plan, outline: Model) -> list[LayerReport]:
        """All layers that stay: those that are not finished yet are read, pruned and written."""
        model, count = self.model, self.model.shape.layers
        places = lay_out(self.work, dict(outline.named_parameters()))  # a tied head once
        if len(self.state["layers"]) < count:
            pruner = LayerPruner(
                model, self.ids, self.settings, plan, model.shape, partial(States.create, self.work)
            )
            self.take_up(pruner, places)
        for index in range(len(self.state["layers"]), count):
            layer = layers_of(model)[index].to(pruner.device)
            done = pruner.prune_layer(index, layer)
            streams = {"hidden": pruner.hidden, "dense": pruner.dense}
            states = {name: each.path for name, each in streams.items() if each is not None}
            files = {*states.values()}
            for name, value in () if done is None else layer.state_dict().items():
                files.add(
                    write(places, f"model.layers.{plan.layers.index(index)}.{name}", value.to(self.dtype))
                )
            for path in sorted(files):
                fsync(path)
            names = {name: path.name for name, path in states.items() if index + 1 < count}
            del layer  # before the next one is read
            layers = [*self.state["layers"], None if done is None else asdict(done)]
            self.keep(layers=layers, states=names, made=pruner.progress_made())
            self.progress("pruning", index + 1, count, done)
        return [LayerReport(**one) for one in self.state["layers"] if one is not None]

    def take_up(self, pruner: LayerPruner, places: Places) -> None:
        """Write what stands beside the layers; or go on behind those that are finished."""
        if self.state["layers"]:
            size, dtype = pruner.hidden.shape, pruner.hidden.dtype
            known = {
                name: States(self.work / file, size, dtype) for name, file in self.state["states"].items()
            }
            pruner.resume(self.state["made"], known["hidden"], known.get("dense"))
            return
        files = self.model.files
        for name in places:
            if name in (EMBEDDING, HEAD):
                for rows in torch.arange(files.shapes[name][0]).split(PIECE):
                    write(places, name, files.read(name, self.dtype, rows), int(rows[0]))
            elif ".layers." not in name:
                write(places, name, files.read(name, self.dtype))
        for path in {path for path, *_ in places.values()}:
            fsync(path)


def _outline(model: Streamed, plan: Plan, settings: Settings, dtype: torch.dtype) -> Model:
    """The new model without its numbers."""
    small = make_meta_model(model.config, dtype)
    layers = layers_of(small)
    for index, groups, neurons in zip(plan.layers, plan.kv_groups, plan.neurons, strict=True):
        if settings.recovery == "bias":
            add_biases(layers[index])
        shrink(layers[index], "attention", torch.arange(groups))
        shrink(layers[index], "mlp", torch.arange(neurons))
    keep_layers(small, plan.layers)
    update_config(small)
    small.generation_config = model.skeleton.generation_config
    small = described(small)
    small.config.dtype = str(dtype).removeprefix("torch.")
    small.config.architectures = [type(small).__name__]
    return small
