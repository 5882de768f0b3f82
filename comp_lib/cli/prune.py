"""`comp-lib prune`: a smaller model. `demo`: all of COMP on the included model."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from typer import Option, echo

from ..errors import InputError, check_package, suggestion
from .console import check_length, out, progress_bars, table
from .options import Calibration, Dtype, Length, Model, Multiple, Overwrite, Seed, Solving

PROMPTS = "The water cycle begins when the sun", "def is_prime(n):", "Question: what is the capital of France? Answer:"
KIND_WINDOWS, KIND_LENGTH = 10, 64  # of each kind of text, in the demo: fewer windows would have no honest interval
DEMO_SEQUENCES = 48  # a good third of what `prune` takes: the demo is to be quick
EVALUATED, EVALUATED_KINDS = 12, 2  # windows measured before and after: of a text, or of each kind
PRESET_HELP = "stock (one width for all layers), best (measured widths), fast, or paper."
LAYERS_HELP = "Whole layers to drop: a number, or a share below 1 (default: by preset)."
SEQUENCES_HELP = "Of calibration (default: 128; preset best: 256)."


def prune(
    model: Model,
    folder: Annotated[Path, Option("--out", help="Folder for the pruned model.")],
    ratio: Annotated[float, Option(help="Part of the decoder's parameters to remove, at least.")] = 0.2,
    preset: Annotated[str, Option(help=PRESET_HELP)] = "stock",
    method: Annotated[str, Option(help="comp, llm-pruner, flap, shortgpt, wanda-sp, magnitude or random.")] = "comp",
    layers: Annotated[float | None, Option(help=LAYERS_HELP)] = None,
    kv_groups: Annotated[int | None, Option(min=1, help="KV groups to keep in each layer (default: all).")] = None,
    calibration: Calibration = "general",
    sequences: Annotated[int | None, Option(min=1, max=100_000, help=SEQUENCES_HELP)] = None,
    length: Length = 256,
    multiple: Multiple = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Solving = "cpu",
    evaluated: Annotated[str, Option("--evaluate", help="Text measured before and after, or none.")] = "evaluation",
    overwrite: Overwrite = False,
) -> Any:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    from ..planning import why_more
    from ..settings import PRESETS, SEQUENCES, Settings, default_recovery
    from ..shape import span
    from ..system.machine import available_device

    if preset not in PRESETS:
        raise InputError(f"expected another --preset, got {preset!r}: {suggestion(preset, PRESETS)}")
    told = {"recovery": default_recovery(method)} | PRESETS[preset] | ({} if layers is None else {"layers": layers})
    told |= {"kv_groups": kv_groups, "multiple": multiple, "seed": seed}
    settings = Settings(ratio, method, device=str(available_device(device, double=True)), **told)
    size = sequences or SEQUENCES.get(preset, 128), length
    done = prune_folder(model, folder, settings, calibration, size, evaluated, dtype, overwrite)
    rows = [("parameters", f"{done.before.total:,}", f"{done.after.total:,}")]
    rows.append(("of the decoder", f"{done.before.decoder:,}", f"{done.after.decoder:,}"))
    rows.append(("layers", str(done.before.layers), str(done.after.layers)))
    rows.append(("neurons a layer", span(done.before.neurons), span(done.after.neurons)))
    rows.append(("KV groups a layer", span(done.before.kv_groups), span(done.after.kv_groups)))
    if done.perplexity is not None:
        rows.append(("perplexity", f"{done.dense_perplexity:.2f}", f"{done.perplexity:.2f}"))
    rows.append(("pruned in", "", f"{done.report.seconds:.0f} s on {done.report.tokens:,} tokens"))
    out.print(table(("", "dense", "pruned"), rows, f"{done.plan.removed:.1%} of the decoder removed by {method}"))
    if words := why_more(done.plan, settings):
        echo(words)
    echo(f"saved: {folder}")
    return done


def prune_folder(
    name: str, folder: Path, settings: Any, source: str, size: tuple[int, int], judge: str, dtype: str, overwrite: bool
) -> Any:
    """Prune the model `name` on calibration text of that `size`, sequences x tokens, of `source`, into `folder`.

    judge: text that is measured before and after, or "none". The whole model is in memory only while it writes text,
    or where a method needs gradients. Returns a `disk.from_disk.Written`.
    Raises InputError, before the model writes any text, for whatever cannot be.
    """
    import torch

    from ..calibration.text import EVERY_KIND
    from ..calibration.tokens import calibration_tokens, needs_model
    from ..disk.from_disk import GRADIENTS, Saving, check_out, prune_to
    from ..disk.model_on_disk import Streamed
    from ..evaluation.loss import windows_of
    from ..models.load import load_model, open_model
    from ..models.save import Provenance, shareable
    from ..planning import check_request, make_plan

    (sequences, length), plans = size, settings.method in GRADIENTS
    whole = needs_model(source) or plans
    outline, files, tokenizer = open_model(name, dtype)
    model = Streamed(outline, files)
    check_request(model, settings)
    check_length(model, length)
    settings = replace(settings, multiple=settings.request(model.shape).multiple)  # the card tells which it is
    windows, longest = None, min(512, model.config.max_position_embeddings)
    if judge != "none":
        few = EVALUATED_KINDS if judge == EVERY_KIND else EVALUATED
        windows = torch.cat(list(windows_of(judge, tokenizer, longest, few).values()))
    text = f"{sequences} x {length} tokens of {shareable(source)}, drawn with seed {settings.seed}"
    card = Provenance(name, model.shape, text, asdict(settings))
    saving = Saving(name, windows, Path(judge).name, card, overwrite)
    check_out(folder, model, saving, sequences * length)
    loaded = load_model(name, dtype, settings.device, 3 if plans else 1)[0] if whole else None
    drawn: dict[str, Any] = {"sequences": sequences, "length": length, "seed": settings.seed}
    drawn["evaluated"] = None if judge == "none" else judge
    with progress_bars() as bars:
        ids = calibration_tokens(source, tokenizer, model=loaded, progress=bars, **drawn)
        plan = make_plan(loaded, ids, settings, name, bars)[0] if plans and loaded is not None else None
        del loaded
        return prune_to(folder, model, tokenizer, ids, settings, plan=plan, saving=saving, progress=bars)


def demo(
    folder: Annotated[Path, Option("--out", help="Folder for the model and the pictures.")] = Path("build/demo"),
    overwrite: Annotated[bool, Option(help="Replace an earlier demo.")] = False,
) -> None:
    """COMP on the included model: a fifth smaller, with pictures, the loss by kind, and texts before and after."""
    check_package("matplotlib", "notebooks")
    from ..calibration.tokens import calibration_tokens
    from ..evaluation.by_kind import judge
    from ..evaluation.generation import continuation
    from ..evaluation.loss import windows_of
    from ..importance.layers import block_influence
    from ..models.load import EMBEDDED, load_model
    from ..plots import plot_kinds, plot_pruned, png
    from ..system.files import check_output, write_atomically
    from .measure import kinds_table

    small_folder, *pictures = (folder / name for name in ("model", "pruned.png", "kinds.png"))
    for path in pictures if folder.is_dir() else ():
        check_output(path, overwrite)
    size: dict[str, Any] = {"sequences": DEMO_SEQUENCES, "multiple": 32}
    done = prune(EMBEDDED, small_folder, calibration="shipped", **size, evaluated="none", overwrite=overwrite)
    (model, tokenizer), small = load_model(EMBEDDED), load_model(small_folder)[0]
    ids = calibration_tokens("calibration", tokenizer, sequences=8)
    windows = windows_of("kinds", tokenizer, KIND_LENGTH, KIND_WINDOWS)
    with progress_bars() as bars:
        importance = block_influence(model, ids, progress=bars).tolist()
        rows = judge(small, windows, model, progress=bars).rows()
    shape, errors = done.before, [layer.error for layer in done.report.layers]
    pruned = plot_pruned(importance, done.plan, shape.neurons, shape.kv_groups, errors)
    for path, figure in zip(pictures, (pruned, plot_kinds(rows)), strict=True):
        write_atomically(path, png(figure))
    texts = [(prompt, *(continuation(one, tokenizer, prompt, 40) for one in (model, small))) for prompt in PROMPTS]
    out.print(kinds_table(rows), table(("prompt", "dense", "pruned"), texts))
    echo(f"pictures: {pictures[0]}, {pictures[1]}")
