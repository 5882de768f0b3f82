"""A run of `comp-lib prune`: check, measure, prune, measure, save.

From disk to disk where the method can; with the whole model in memory where it must, which is said. Importing this file
takes seconds, so commands do it when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from .. import __version__
from ..calibration.text import EVERY_KIND, KINDS, load_text
from ..calibration.tokens import calibration_tokens, check_source, needs_model, renamed, sources
from ..errors import InputError, suggestion
from ..evaluation.by_kind import windows_of
from ..evaluation.loss import perplexity
from ..families.protocol import Model
from ..importance.layers import check_count
from ..models import load
from ..models.save import Provenance, check_destination, estimated_bytes, save_checkpoint
from ..models.wheels import WHEELS
from ..on_device.latency import check_budget, parse_budget, timed_plan
from ..prune import Planned, check_family, check_request, make_plan, prune
from ..report import Progress, Report
from ..scale import model_on_disk
from ..scale.machines import Machines, several_cards
from ..scale.memory import bytes_of, check_limit, check_memory
from ..scale.prune_to import Means, Saving, Written, check_out, prune_to, whole_model
from ..scale.shards import SHARDS
from ..search import check_search, check_trials, searched_plan
from ..settings import PEERS, PRESETS, SEQUENCES, Settings, default_recovery, multiple_for
from ..shape import Shape, span
from ..system.clock import PHASES
from ..system.machine import free_memory, release_memory, resident_bytes
from ..system.tensor_files import cast
from .console import ProgressBars, check_length, err, goes_on, table
from .options import PruneOptions

EVALUATED = 12  # windows of text measured before and after


class PruneRun:
    """What both ways of carrying out `prune` share: the request, checked, and the model, opened."""

    def __init__(self, name: str, folder: Path, options: PruneOptions, given: Collection[str] = ()) -> None:
        """`given`: options that win over the preset. Raises InputError for all that can be told without the text."""
        self.settings = _settings(options, given)
        if "sequences" not in given:
            options = replace(options, sequences=SEQUENCES.get(options.preset, options.sequences))
        self.name, self.folder, self.options = name, folder, options
        self.budget = None if options.budget is None else parse_budget(options.budget)
        self.settings.check()
        if self.budget:
            check_budget(self.settings)
        self.memory = None if options.memory is None else bytes_of(options.memory)
        dtype = options.dtype if options.save_dtype is None else options.save_dtype
        for option, value in (("dtype", options.dtype), ("save-dtype", dtype)):
            if value not in load.DTYPES:
                words = f"--{option} to be {', '.join(load.DTYPES)}"
                raise InputError(f"expected {words}, got {value!r}: choose one of them")
        self.evaluated = None if options.evaluate_on == "none" else options.evaluate_on
        if self.evaluated is not None:
            load_text(self.evaluated)
        check_source(options.calibration)
        needs = "a budget in time" if self.budget else "a search" if options.search else None
        self.whole = needs or whole_model(self.settings)
        self._check_together()
        self.machines = self._machines()
        if self.whole:
            check_destination(folder, options.overwrite, sources=[name])
            why = f"{self.whole} needs the whole model in memory; a run that is cut off begins anew"
            err.print(f"comp-lib: {why}", style="dim")
        opened: Callable[..., tuple[Model, Any]] = load.load_model if self.whole else model_on_disk.open_streamed
        self.model, self.tokenizer = opened(name, options.dtype)
        self.shape = Shape.of(self.model)
        check_family(self.model, self.settings)
        if self.budget is None:
            check_request(self.shape, self.settings)
        else:
            self.settings.request(self.shape)
            check_count(self.settings.layer_count(self.shape.layers) or 0, self.shape.layers)
        if self.whole:
            check_destination(folder, options.overwrite, estimated_bytes(self.shape, dtype), [name])
        check_length(self.model, options.length)
        window = min(512, self.model.config.max_position_embeddings)
        windows = None if self.evaluated is None else self._windows(self.evaluated, window)
        if self.memory is not None:
            size, read = (options.sequences, options.length), 0 if windows is None else windows.numel()
            check_memory(self.model, size, self.settings, read, self.memory)
        self.source = self._source(options.calibration)
        self.card = self._card()
        text = Path(options.evaluate_on).name
        self.saving = Saving(name, load.DTYPES[dtype], windows, text, self.card, options.overwrite)
        if dtype != options.dtype and dtype == "float16":  # the others hold any model; last, for it reads all
            for parameter, tensor in self._weights():
                cast(parameter, tensor, load.DTYPES[dtype])

    def _check_together(self) -> None:
        """Raises InputError for options that do not go together."""
        options = self.options
        if options.search:
            check_search(self.settings, options.search)
            if self.budget:
                got = f"--budget {options.budget} and --search {options.search}: a budget in time tries plans by itself"
                raise InputError(f"expected a ratio for a search, got {got}")
        for option in ("memory", "scheduler"):
            if self.whole and vars(options)[option] is not None:
                got = f"--{option} and {self.whole}, which needs the whole model: leave one out"
                raise InputError(f"expected --{option} with what goes layer by layer, got {got}")
        check_limit(options.memory, options.scheduler is not None, self.settings.device)
        if self.budget or options.search:
            check_trials(options.sequences, self.settings.widths)
        elif self.settings.widths == "measured":
            check_trials(options.sequences)

    def _machines(self) -> Machines | None:
        """The cluster that carries the text, where one is asked for. Raises InputError when it cannot."""
        options = self.options
        cards = not self.whole and several_cards(self.settings.device)
        if options.scheduler is None and not cards:
            if options.shards is not None:
                raise InputError(f"expected --shards with --scheduler, got --shards {options.shards} alone: add it")
            return None
        few = torch.cuda.device_count() if options.scheduler is None else SHARDS  # of sums, each card sends its own
        shards = min(few, options.sequences) if options.shards is None else options.shards
        machines = Machines(options.scheduler, shards)
        machines.check(self.settings, options.sequences)
        return machines

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.whole:
            yield from self.model.named_parameters()
        else:
            yield from ((name, self.model.files.read(name, self.model.dtype)) for name in self.model.files.shapes)

    def _windows(self, text: str, length: int) -> Tensor:
        """What is measured before and after, (S, L): of each kind as many windows as make EVALUATED."""
        few = -(-EVALUATED // len(KINDS)) if text == EVERY_KIND else EVALUATED
        return torch.cat(list(windows_of(text, self.tokenizer, length, few).values()))

    def _source(self, source: str) -> str:
        """The calibration source, without what the model would have to write where it is too large for that."""
        needed, free = 2 * estimated_bytes(self.shape, self.options.dtype), free_memory(self.options.device)
        if self.memory is not None:
            free = min(free, max(0, self.memory - resident_bytes()))
        if self.whole or needed < free or not needs_model(source):
            return source
        gigabytes = f"{needed / 1e9:.1f} GB for it, {free / 1e9:.1f} GB are free or allowed"
        there = renamed(source, lambda text: "shipped" if text == "general" else text)  # the same without self
        if needs_model(there):
            got = f"{source!r}, which takes {gigabytes}: choose shipped, or a file"
            raise InputError(f"expected a calibration text that is there, got {got}")
        err.print(f"comp-lib: the model writes no calibration text: that takes {gigabytes}", style="dim")
        return there

    def _card(self) -> Provenance:
        """What the model card says, but for what is measured."""
        settings, options, parts = self.settings, self.options, sources(self.source)
        texts = [f"the text '{Path(part).name}'" for part in parts if not needs_model(part)]
        texts += ["text written by the model itself"] * (len(texts) < len(parts))
        tokens = f"{options.sequences} x {options.length} tokens of {' and '.join(texts)}"
        shared = "" if self.machines is None else f", carried in {self.machines.shards} shards by a cluster"
        calibration = f"{tokens}, drawn with seed {settings.seed}{shared}"
        known = WHEELS.get(self.name)
        parent, licence = (self.name, None) if known is None else (known.source, known.licence)
        told = {"preset": options.preset} | asdict(settings)
        how = (settings.neuron_metric, settings.recovery, __version__, told)
        return Provenance(parent, self.shape, licence, calibration, *how)

    def carry_out(self) -> Written:
        """Draw the calibration text, prune, measure and save. Raises InputError."""
        options, model, tokenizer = self.options, self.model, self.tokenizer
        text: dict[str, Any] = {"sequences": options.sequences, "length": options.length, "seed": options.seed}
        with ProgressBars() as bars:
            text |= {"evaluated": self.evaluated, "progress": bars}
            if self.whole:
                return self._in_memory(calibration_tokens(self.source, tokenizer, model=model, **text), bars)
            # of text that is there, `calibration_tokens` first says whether it holds so many: `prune_to` asks for room
            written = needs_model(self.source)
            tokens = options.sequences * options.length if written else 0
            check_out(self.folder, model, self.saving, tokens, self.settings)
            writer = load.load_model(self.name, options.dtype, options.device)[0] if written else None
            ids = calibration_tokens(self.source, tokenizer, model=writer, **text)
            del writer
            release_memory()
            means = Means(self.machines, self.memory, bars)
            with goes_on():
                return prune_to(self.folder, model, tokenizer, ids, self.settings, saving=self.saving, means=means)

    def _in_memory(self, ids: Tensor, progress: Progress) -> Written:
        model, settings, card, saving = self.model, self.settings, self.card, self.saving
        if self.options.search:
            planned, tried = searched_plan(model, ids, settings, self.options.search, self.name, progress)
            settings = replace(settings, layers=len(planned.plan.dropped))
            told = asdict(settings) | {"search": self.options.search}
            card = replace(card, settings={**card.settings, **told})
            for trial in tried:
                words = f"{len(trial.plan.dropped)} layers gone, {span(trial.plan.neurons)} neurons"
                err.print(f"comp-lib: tried {words}: {trial.divergence:.3f} nats from the dense model", style="dim")
        elif self.budget is None:
            planned = make_plan(model, ids, settings, self.name, progress)
        else:
            planned = Planned(timed_plan(model, ids, settings, self.budget, name=self.name, progress=progress)[0])
            settings = replace(settings, ratio=planned.plan.removed, layers=len(planned.plan.dropped))
            told = asdict(settings) | {"budget": f"{self.budget.kind}={self.budget.share:g}"}
            card = replace(card, settings={**card.settings, **told})
        dense = self._perplexity(model, "dense", progress)
        done = prune(model, ids, settings, plan=planned, name=self.name, progress=progress, inplace=True)
        pruned = self._perplexity(done.model, "pruned", progress)
        if saving.windows is not None and dense is not None and pruned is not None:
            card = replace(card, perplexities=((saving.text, saving.windows[:, 1:].numel(), dense, pruned),))
        if saving.dtype is not None:
            for parameter, tensor in done.model.named_parameters():
                cast(parameter, tensor, saving.dtype)
        small: Model = done.model.to(saving.dtype)
        save_checkpoint(self.folder, small, self.tokenizer, done.plan, card, overwrite=saving.overwrite)
        return Written(self.folder, done.plan, done.report, self.shape, Shape.of(small), dense, pruned)

    def _perplexity(self, model: Model, which: str, progress: Progress) -> float | None:
        if (windows := self.saving.windows) is None:
            return None
        return perplexity(model, windows, progress=progress, what=f"measuring {which}").perplexity

    def table(self, done: Written) -> Table:
        """What was removed, and what that did to the model."""
        plan, report, windows = done.plan, done.report, self.saving.windows
        names = ("parameters", "of the decoder", "layers", "neurons a layer", "KV groups a layer")
        rows = list(zip(names, _sizes(done.before), _sizes(done.after), strict=True))
        if windows is not None:
            text = f"perplexity, {self.saving.text} ({windows[:, 1:].numel():,} tokens)"
            rows.append((text, f"{done.dense_perplexity:.2f}", f"{done.perplexity:.2f}"))
        rows.append(("pruned in", "", f"{report.seconds:.0f} s on {report.tokens:,} tokens"))
        aims = self.settings.recovery == "least-squares"
        told = [name for name in PRESETS[self.options.preset] if aims or name != "aim"]  # only that fit has one
        chosen = [f"{name} {vars(self.settings)[name]}" for name in told]
        if self.options.preset in SEQUENCES:
            chosen.append(f"{self.options.sequences} sequences")
        rows.append((f"preset {self.options.preset}", "", ", ".join(chosen)))
        title = f"{plan.removed:.1%} of the {plan.of} removed by {report.settings['method']}"
        return table(("", "dense", "pruned"), rows, title=title)


def phases_table(report: Report) -> Table:
    """Where the time went, against what it takes at least on this machine."""
    took = least = 0.0
    rows = []
    for phase in (phase for phase in PHASES if phase in report.phases):
        seconds, limit = report.phases[phase], report.least.get(phase, 0.0)
        took, least = took + seconds * (limit > 0.0), least + limit
        rows.append((phase, f"{seconds:.1f}", f"{limit:.1f}" if limit else ""))
    rows.append(("everything else", f"{report.seconds - sum(report.phases.values()):.1f}", ""))
    rows.append(("phases with a limit", f"{took:.1f}", f"{least:.1f}: the run took {took / least:.1f} times that"))
    return table(("seconds", "took", "at least, on this machine"), rows)


def _settings(options: PruneOptions, given: Collection[str]) -> Settings:
    """What `prune` is told; a preset decides what is not among the options `given`. Raises InputError."""
    multiple, target, preset = options.multiple, options.target, options.preset
    if target is not None and "multiple" in given:
        raise InputError(f"expected --target or --multiple, got {target} and {multiple}: one decides the other")
    if preset not in PRESETS:
        raise InputError(
            f"expected a preset, one of {', '.join(PRESETS)}, got {preset!r}: {suggestion(preset, PRESETS)}"
        )
    if options.budget is not None and "ratio" in given:
        got = f"both, {options.ratio:g} and {options.budget}"
        raise InputError(f"expected --ratio or --budget, got {got}: leave one out")
    told: dict[str, Any] = {name: value for name, value in vars(options).items() if name in vars(Settings())}
    told |= {"layers": _number(options.layers), "ridge": _number(options.ridge)}
    told["recovery"] = options.recovery or default_recovery(options.method)
    told["multiple"] = multiple if target is None else multiple_for(target)
    settings = Settings(**told | {name: value for name, value in PRESETS[preset].items() if name not in given})
    vain = {"aim": settings.recovery != "least-squares", "layer_metric": settings.method in PEERS}
    for name, idle in vain.items():
        if idle and name in given:
            option = f"--{name.replace('_', '-')}"
            got = f"it with the method {settings.method} and the recovery {settings.recovery}: leave it out"
            raise InputError(f"expected {option} where it decides something, got {got}")
    return settings


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # a word: Settings.check names what it takes


def _sizes(shape: Shape) -> tuple[str, ...]:
    return f"{shape.total:,}", f"{shape.decoder:,}", str(shape.layers), span(shape.neurons), span(shape.kv_groups)
