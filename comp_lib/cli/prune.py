"""`comp-lib inspect`: what a model is made of. `plan`: what would go, for a budget in time. `prune`: a smaller model.

`demo`: the whole of COMP in a few minutes, on the included model.
"""

from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from rich.text import Text
from typer import Context, Option

from ..system.atomic import write_atomically
from ..system.outputs import check_output, our_json
from .console import ProgressBars, check_length, check_picture, out, show, table
from .options import Device, Dtype, Json, Model, PlanOptions, PruneOptions, command

PROMPTS = {"prose": "The water cycle begins when the sun", "code": "def is_prime(n):", "request": "Name three colours."}
KIND_WINDOWS, KIND_LENGTH = 10, 64  # of each kind of text, in the demo: fewer windows would have no honest interval
DEMO_SEQUENCES = 48  # a good third of what `prune` takes: the demo is to be quick
Folder = Annotated[Path, Option("--out", help="Folder for the pruned model.")]
DemoFolder = Annotated[Path, Option("--out", help="Folder for the model and the pictures.")]
EarlierDemo = Annotated[bool, Option(help="Replace an earlier demo.")]


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
    from ..calibration.tokens import calibration_tokens, check_source
    from ..importance.layers import block_influence
    from ..models.load import load_model
    from ..shape import Shape

    check_source(calibration)
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


@command
def plan(model: Model, options: PlanOptions) -> None:
    """Plan for a share of MODEL's time on this machine: how many layers, how wide, by a few trials."""
    from ..calibration.tokens import calibration_tokens, check_source
    from ..models.load import load_model
    from ..models.save import PLAN_FILE
    from ..on_device.latency import parse_budget, timed_plan
    from ..plan import Plan
    from ..prune import check_family
    from ..search import check_trials
    from ..settings import Settings
    from ..shape import Shape

    budget = parse_budget(options.budget)
    told = vars(options)
    settings = Settings(**{name: told[name] for name in ("layer_metric", "multiple", "seed", "device")})
    settings.check()
    if options.file is not None:
        ours = (lambda _: False) if options.file.name == PLAN_FILE else our_json(Plan.__dataclass_fields__)
        check_output(options.file, ours, options.overwrite)  # a pruned model's own says what it is
    check_source(options.calibration)
    if options.trials:
        check_trials(options.sequences)
    loaded, tokenizer = load_model(model, options.dtype)
    check_family(loaded, settings)
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
        write_atomically(options.file.expanduser(), chosen.to_json().encode())
        out.print(f"saved: {options.file}", soft_wrap=True)


@command
def prune(context: Context, model: Model, out_folder: Folder, options: PruneOptions) -> None:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    from .pruning import PruneRun, phases_table

    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    run = PruneRun(model, out_folder, options, given)
    done = run.carry_out()
    out.print(run.table(done))
    if done.report.least and options.device == "cpu":  # a card answers before it has computed
        out.print(phases_table(done.report))
    out.print(f"saved: {out_folder}", soft_wrap=True)


@command
def demo(out_folder: DemoFolder = Path("build/demo"), overwrite: EarlierDemo = False) -> None:
    """COMP on the included model: a fifth smaller, with pictures, the loss by kind, and texts before and after."""
    from ..calibration.tokens import calibration_tokens
    from ..evaluation.by_kind import judge, kind_windows
    from ..evaluation.generation import continuation
    from ..importance.layers import block_influence
    from ..models.load import EMBEDDED, load_model
    from ..plots import plot_kinds, plot_pruned
    from ..plots.base import save_picture
    from .measure import kinds_table
    from .pruning import PruneRun

    folder, *pictures = (out_folder / name for name in ("model", "pruned.png", "kinds.png"))
    for path in pictures if out_folder.is_dir() else ():
        check_picture(path, overwrite)
    options = PruneOptions(multiple=32, calibration="shipped", sequences=DEMO_SEQUENCES, overwrite=overwrite)
    run = PruneRun(EMBEDDED, folder, options)
    done = run.carry_out()  # first, since it refuses a full folder before any work
    (model, tokenizer), small = load_model(EMBEDDED), load_model(folder)[0]
    prompts: dict[str, Any] = dict(PROMPTS)
    if tokenizer.chat_template is None:
        del prompts["request"]
    else:
        turn = [{"role": "user", "content": prompts["request"]}]
        prompts["request"] = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = calibration_tokens("calibration", tokenizer, sequences=8)
    windows = kind_windows(tokenizer, min(KIND_LENGTH, model.config.max_position_embeddings), KIND_WINDOWS)
    with ProgressBars() as bars:
        importance = block_influence(model, ids, progress=bars).tolist()
        rows = judge(small, windows, model, progress=bars).rows()
    texts = Table.grid(padding=(0, 2))
    for kind, prompt in prompts.items():
        said = (continuation(one, tokenizer, prompt, 40).strip("\n") for one in (model, small))
        for name, text in zip((kind, "dense", "pruned"), (PROMPTS[kind], *said), strict=True):
            texts.add_row(Text(name, style="bold"), text)
        texts.add_row()
    shape, errors = done.before, [layer.error for layer in done.report.layers]
    drawn = plot_pruned(importance, done.plan, shape.neurons, shape.kv_groups, errors), plot_kinds(rows)
    for figure, path in zip(drawn, pictures, strict=True):
        save_picture(figure, path)
    for result in (run.table(done), kinds_table(rows), texts):
        out.print(result)
    out.print(f"model:    {folder}\npictures: {pictures[0]}, {pictures[1]}", soft_wrap=True)
