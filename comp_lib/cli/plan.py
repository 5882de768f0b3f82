"""`comp-lib inspect`: what a model is made of, layer by layer. `comp-lib plan`: what would go, for a budget in time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Option

from .console import ProgressBars, check_file, check_length, out, show, table, writing
from .options import Device, Dtype, Json, LayerMetric, Length, Model, Multiple, Sequences, command


@command
def inspect(
    model: Model,
    calibration: Annotated[str, Option(help="Text for the layer importance.")] = "calibration",
    sequences: Annotated[int, Option()] = 8,
    length: Annotated[int, Option()] = 256,
    seed: Annotated[int, Option()] = 0,
    as_json: Json = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Layers, widths, parameters and layer importance of MODEL."""
    from ..calibration.tokens import calibration_tokens
    from ..importance.layers import block_influence
    from ..models.load import load_model
    from ..shape import Shape

    loaded, tokenizer = load_model(model, dtype)
    check_length(loaded, length)
    ids = calibration_tokens(calibration, tokenizer, model=loaded, sequences=sequences, length=length, seed=seed)
    with ProgressBars() as bars:
        influence = block_influence(loaded, ids, device, bars).tolist()
    shape = Shape.of(loaded)
    columns = ("layer", "neurons", "kv_groups", "parameters", "block_influence")
    layers = range(shape.layers)
    rows = list(zip(layers, shape.neurons, shape.kv_groups, map(shape.layer, layers), influence, strict=True))
    values = {"model": model, "parameters": shape.total, "decoder": shape.decoder}
    values["layers"] = [dict(zip(columns, row, strict=True)) for row in rows]
    title = f"{model}: {shape.total:,} parameters, {shape.decoder:,} in the decoder"
    cells = [(*(f"{size:,}" for size in sizes), f"{value:.4f}") for *sizes, value in rows]
    show(table(columns, cells, title=title), values, as_json)


@dataclass(frozen=True)
class PlanOptions:
    budget: Annotated[str, Option(help="latency=0.75 of the time of a token, or prefill=0.75.")]
    file: Annotated[Path | None, Option("--out", help="File (.json) for the plan.")] = None
    trials: Annotated[int, Option(help="Candidates that are tried; 0: the one that drops fewest layers.")] = 4
    layer_metric: LayerMetric = "loss"
    calibration: Annotated[str, Option(help="Text name, file, or self.")] = "calibration"
    sequences: Sequences = 16
    length: Length = 256
    multiple: Multiple = 64
    seed: Annotated[int, Option()] = 0
    dtype: Dtype = "float32"
    device: Device = "cpu"


@command
def plan(model: Model, options: PlanOptions) -> None:
    """Plan for a share of MODEL's time on this machine: how many layers, how wide, by a few trials."""
    from ..calibration.tokens import calibration_tokens
    from ..models.load import load_model
    from ..on_device.latency import parse_budget
    from ..on_device.time_budget import timed_plan
    from ..settings import Settings
    from ..shape import Shape

    budget = parse_budget(options.budget)
    told = vars(options)
    settings = Settings(**{name: told[name] for name in ("layer_metric", "multiple", "seed", "device")})
    settings.check()
    check_file(options.file)
    loaded, tokenizer = load_model(model, options.dtype)
    check_length(loaded, options.length)
    text = {name: told[name] for name in ("sequences", "length", "seed")}
    ids = calibration_tokens(options.calibration, tokenizer, model=loaded, **text)
    with ProgressBars() as bars:
        chosen, rows, cost = timed_plan(loaded, ids, settings, budget, trials=options.trials, name=model, progress=bars)
    shape = Shape.of(loaded)
    whole = cost.milliseconds(shape.neurons, shape.kv_groups)
    out.print(
        f"{budget.kind}: {whole:.1f} ms, of which {cost.fixed:.1f} whatever the plan, {cost.layer:.3f} for each layer, "
        f"{cost.group:.4f} for each KV group, {1e3 * cost.neuron:.3f} for 1,000 neurons (misfit {cost.misfit:.0%})"
    )
    result = Table("layers", "neurons", "removed", f"time of {budget.kind}", "loss when tried", "chosen")
    for row in rows:
        loss, mark = "" if row.loss is None else f"{row.loss:.3f}", "yes" if row.plan is chosen else ""
        size = (str(len(row.plan.layers)), f"{row.plan.neurons[0]:,}", f"{row.plan.removed:.1%}")
        result.add_row(*size, f"{row.share:.2f}", loss, mark)
    out.print(result)
    if options.file is not None:
        with writing(options.file):
            chosen.save(options.file)
        out.print(f"saved: {options.file}", soft_wrap=True)
