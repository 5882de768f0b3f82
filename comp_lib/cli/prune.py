"""`comp-lib prune`: check, measure, prune, measure, save.

From disk to disk where the method can; with the whole model in memory where it must, which is said.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Context, Option

from ..errors import InputError, nearest
from .console import ProgressBars, check_length, err, out
from .options import Aim, Calibration, Device, Dtype, LayerMetric, Length, Model, Multiple, Sequences, Widths, command

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.save import Provenance
    from ..report import Progress
    from ..scale.prune_to import Written
    from ..settings import Settings
    from ..shape import Shape

EVALUATED = 12  # windows of text measured before and after
Folder = Annotated[Path, Option("--out", help="Folder for the pruned model.")]
BUDGET_HELP = "Instead of a ratio: latency=0.75 of the time of a token, or prefill=0.75."
METHOD_HELP = "comp, llm-pruner, llm-pruner-mixed, flap, shortgpt, wanda-sp, magnitude or random."
RECOVERY_HELP = "least-squares, mask, bias or none (default: what the method's makers do)."


@dataclass(frozen=True)
class PruneOptions:
    ratio: Annotated[float, Option(help="Part of the parameters to remove, at least.")] = 0.2
    of: Annotated[str, Option(help="What the ratio refers to: decoder or model.")] = "decoder"
    budget: Annotated[str | None, Option(help=BUDGET_HELP)] = None
    method: Annotated[str, Option(help=METHOD_HELP)] = "comp"
    preset: Annotated[str, Option(help="best, or paper (the paper's plain COMP); options given win.")] = "best"
    layers: Annotated[str, Option(help="Whole layers to drop: a number, a share below 1, or auto.")] = "auto"
    layer_metric: LayerMetric = "loss"
    widths: Widths = "uniform"
    kv_groups: Annotated[int | None, Option(help="KV groups to keep in each layer (default: all).")] = None
    recovery: Annotated[str | None, Option(help=RECOVERY_HELP)] = None
    aim: Aim = "self"
    ridge: Annotated[str, Option(help="Of the solves, relative to each input's own energy, or auto.")] = "auto"
    calibration: Calibration = "calibration"
    sequences: Sequences = 32
    length: Length = 256
    multiple: Multiple = 64
    target: Annotated[str | None, Option(help="Where it will run, instead of --multiple: cpu, gguf-q4 or gpu.")] = None
    seed: Annotated[int, Option()] = 0
    dtype: Dtype = "float32"
    save_dtype: Annotated[str | None, Option(help="Of the written weights (default: --dtype).")] = None
    device: Device = "cpu"
    evaluate_on: Annotated[str, Option("--evaluate", help="Text measured before and after, or none.")] = "evaluation"
    overwrite: Annotated[bool, Option(help="Replace the model that is in --out.")] = False

    def settings(self, given: Collection[str]) -> Settings:
        """What `prune` is told; a preset decides what is not among the options `given`. Raises InputError."""
        from ..settings import PRESETS, Settings, default_recovery, multiple_for

        multiple, target = self.multiple, self.target
        if target is not None and "multiple" in given:
            raise InputError(f"expected --target or --multiple, got {target} and {multiple}: one decides the other")
        if self.preset not in PRESETS:
            hint = nearest(self.preset, PRESETS)
            raise InputError(f"expected a preset, {' or '.join(PRESETS)}, got {self.preset!r}: {hint}")
        if self.budget is not None and "ratio" in given:
            both = f"{self.ratio:g} and {self.budget}"
            raise InputError(f"expected --ratio or --budget, got both, {both}: leave one out")
        told: dict[str, Any] = {name: value for name, value in vars(self).items() if name in vars(Settings())}
        told |= {"layers": _number(self.layers), "ridge": _number(self.ridge)}
        told["recovery"] = self.recovery or default_recovery(self.method)
        told["multiple"] = multiple if target is None else multiple_for(target)
        return Settings(**told | {name: value for name, value in PRESETS[self.preset].items() if name not in given})


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # a word: Settings.check names what it takes


@command
def prune(context: Context, model: Model, out_folder: Folder, options: PruneOptions) -> None:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    run = PruneRun(model, out_folder, options, given)
    out.print(run.table(run.carry_out()))
    out.print(f"saved: {out_folder}", soft_wrap=True)


class PruneRun:
    """What both ways of carrying out `prune` share: the request, checked, and the model, opened."""

    def __init__(self, name: str, folder: Path, options: PruneOptions, given: Collection[str] = ()) -> None:
        """`given`: options that win over the preset. Raises InputError for all that can be told without the text."""
        from ..calibration.text import load_text
        from ..calibration.tokens import SELF, check_source, sources
        from ..evaluation.loss import evaluation_tokens
        from ..models.load import DTYPES, load_model
        from ..models.save import check_destination, estimated_bytes
        from ..on_device.latency import parse_budget
        from ..scale.model_on_disk import open_streamed
        from ..scale.prune_to import Saving, whole_model
        from ..shape import Shape

        self.name, self.folder, self.options, self.settings = name, folder, options, options.settings(given)
        self.budget = None if options.budget is None else parse_budget(options.budget)
        self.settings.check()
        dtype = options.save_dtype or options.dtype
        if dtype not in DTYPES:
            raise InputError(f"expected --save-dtype to be {', '.join(DTYPES)}, got {dtype!r}: choose one of them")
        prose = None if options.evaluate_on == "none" else load_text(options.evaluate_on)
        check_source(options.calibration)
        reason = "a budget in time" if self.budget else whole_model(self.settings)
        self.whole = "text sampled from the model" if SELF in sources(options.calibration) else reason
        if self.whole:
            check_destination(folder, options.overwrite, source=name)
            why = f"{self.whole} needs the whole model in memory; a run that is cut off begins anew"
            err.print(f"comp-lib: {why}", style="dim")
        opened: tuple[Any, Any] = (load_model if self.whole else open_streamed)(name, options.dtype)
        self.model, self.tokenizer = opened
        self.shape = Shape.of(self.model)
        if self.whole:
            check_destination(folder, options.overwrite, estimated_bytes(self.shape, dtype), name)
        check_length(self.model, options.length)
        window = min(512, self.model.config.max_position_embeddings)
        windows = None if prose is None else evaluation_tokens(self.tokenizer, prose, window, EVALUATED)
        text = Path(options.evaluate_on).name
        self.saving = Saving(name, DTYPES[dtype], windows, text, self._card(), options.overwrite)

    def _card(self) -> Provenance:
        """What the model card says, but for what is measured."""
        from .. import __version__
        from ..calibration.tokens import SELF, sources
        from ..models.load import EMBEDDED, EMBEDDED_LICENCE, EMBEDDED_SOURCE
        from ..models.save import Provenance

        settings, options, parts = self.settings, self.options, sources(self.options.calibration)
        texts = ["text sampled from the model itself" if p == SELF else f"the text '{Path(p).name}'" for p in parts]
        tokens = f"{options.sequences} x {options.length} tokens of {' and '.join(texts)}"
        calibration = f"{tokens}, drawn with seed {settings.seed}"
        parent, licence = (EMBEDDED_SOURCE, EMBEDDED_LICENCE) if self.name == EMBEDDED else (self.name, None)
        how = (settings.neuron_metric, settings.recovery, __version__, asdict(settings))
        return Provenance(parent, self.shape, licence, calibration, *how)

    def carry_out(self) -> Written:
        """Draw the calibration text, prune, measure and save. Raises InputError."""
        from ..calibration.tokens import calibration_tokens
        from ..scale.prune_to import prune_to

        options, model, tokenizer = self.options, self.model, self.tokenizer
        text: dict[str, Any] = {"sequences": options.sequences, "length": options.length, "seed": options.seed}
        text["evaluated"] = None if options.evaluate_on == "none" else options.evaluate_on
        with ProgressBars() as bars:
            ids = calibration_tokens(options.calibration, tokenizer, model=model, progress=bars, **text)
            if self.whole:
                return self._in_memory(ids, bars)
            return prune_to(self.folder, model, tokenizer, ids, self.settings, saving=self.saving, progress=bars)

    def _in_memory(self, ids: Tensor, progress: Progress) -> Written:
        from ..evaluation.loss import perplexity
        from ..models.per_layer_llama import check_widths
        from ..models.save import save_checkpoint
        from ..on_device.time_budget import timed_plan
        from ..prune import Planned, make_plan
        from ..prune import prune as prune_whole
        from ..scale.prune_to import Written
        from ..shape import Shape

        model, settings, card, windows = self.model, self.settings, self._card(), self.saving.windows
        if self.budget is None:
            planned = make_plan(model, ids, settings, self.name, progress)
        else:
            plan = timed_plan(model, ids, settings, self.budget, name=self.name, progress=progress)[0]
            planned = Planned(plan)
            settings = replace(settings, ratio=plan.removed, layers=len(plan.dropped))
            card = replace(card, settings=asdict(settings) | {"budget": f"{self.budget.kind}={self.budget.share:g}"})
        plan = planned.plan
        check_widths(model.config, self.shape.with_widths(plan.neurons, plan.kv_groups))
        dense = None if windows is None else perplexity(model, windows, progress=progress, what="measuring dense")
        done = prune_whole(model, ids, settings, plan=planned, name=self.name, progress=progress, inplace=True)
        measured: tuple[float, ...] = ()
        if windows is not None and dense is not None:
            pruned = perplexity(done.model, windows, progress=progress, what="measuring pruned")
            measured = dense.perplexity, pruned.perplexity
            card = replace(card, perplexities=((self.saving.text, dense.tokens, *measured),))
        small: Any = done.model.to(self.saving.dtype)
        save_checkpoint(self.folder, small, self.tokenizer, done.plan, card, overwrite=self.saving.overwrite)
        return Written(self.folder, done.plan, done.report, self.shape, Shape.of(small), *measured)

    def table(self, done: Written) -> Table:
        """What was removed, and what that did to the model."""
        plan, report, windows = done.plan, done.report, self.saving.windows
        title = f"{plan.removed:.1%} of the {plan.of} removed by {report.settings['method']}"
        table = Table("", "dense", "pruned", title=title)
        names = ("parameters", "of the decoder", "layers", "neurons a layer", "KV groups a layer")
        for cells in zip(names, _sizes(done.before), _sizes(done.after), strict=True):
            table.add_row(*cells)
        if windows is not None:
            text = f"perplexity, {self.saving.text} ({windows[:, 1:].numel():,} tokens)"
            table.add_row(text, f"{done.dense_perplexity:.2f}", f"{done.perplexity:.2f}")
        table.add_row("pruned in", "", f"{report.seconds:.0f} s on {report.tokens:,} tokens")
        return table


def _sizes(shape: Shape) -> tuple[str, ...]:
    spans = [str(w[0]) if len(set(w)) == 1 else f"{min(w)} to {max(w)}" for w in (shape.neurons, shape.kv_groups)]
    return f"{shape.total:,}", f"{shape.decoder:,}", str(shape.layers), *spans
