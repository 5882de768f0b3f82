"""The command line: `comp-lib`, or `python -m comp_lib`.

Everything that can be refused is refused before any work starts: one line on stderr, exit code 2, nothing written.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..errors import InputError, nearest
from . import benchmark as cli_benchmark
from . import compare as cli_compare
from . import evaluate as cli_evaluate
from . import gguf as cli_gguf
from . import plan as cli_plan
from .console import Device, Dtype, Model, check_length, out, progress_bars, refusals
from .prune import carry_out

app = typer.Typer(
    help="COMP: post-training structured pruning of LLaMA-class models, without fine-tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def prune(
    context: typer.Context,
    model: Model,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the pruned model.")],
    ratio: Annotated[float, typer.Option(help="Part of the parameters to remove, at least.")] = 0.2,
    of: Annotated[str, typer.Option(help="What the ratio refers to: decoder or model.")] = "decoder",
    budget: Annotated[
        str | None, typer.Option(help="Instead of a ratio: latency=0.75 of the time of a token, or prefill=0.75.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="comp, llm-pruner, llm-pruner-mixed, flap, shortgpt, wanda-sp, magnitude or random.")
    ] = "comp",
    preset: Annotated[str, typer.Option(help="best, or paper (the paper's plain COMP); options given win.")] = "best",
    layers: Annotated[str, typer.Option(help="Whole layers to drop: a number, a share below 1, or auto.")] = "auto",
    layer_metric: Annotated[str, typer.Option(help="block-influence, loss or greedy.")] = "loss",
    widths: Annotated[str, typer.Option(help="uniform (stock checkpoint), per-layer or measured.")] = "uniform",
    kv_groups: Annotated[int | None, typer.Option(help="KV groups to keep in each layer (default: all).")] = None,
    recovery: Annotated[
        str | None, typer.Option(help="least-squares, mask, bias or none (default: what the method's makers do).")
    ] = None,
    target: Annotated[str, typer.Option("--aim", help="What least squares aims at: self or dense.")] = "self",
    ridge: Annotated[str, typer.Option(help="Of the solves, relative to each input's own energy, or auto.")] = "auto",
    calibration: Annotated[
        str, typer.Option(help="Text name, file, self (sampled from the model), or several joined by +.")
    ] = "calibration",
    sequences: Annotated[int, typer.Option(help="Calibration sequences.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 256,
    multiple: Annotated[int, typer.Option(help="Widths are multiples of this.")] = 64,
    place: Annotated[
        str | None, typer.Option("--target", help="Where it will run, instead of --multiple: cpu, gguf-q4 or gpu.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    dtype: Dtype = "float32",
    save_dtype: Annotated[str | None, typer.Option(help="Of the written weights (default: --dtype).")] = None,
    device: Device = "cpu",
    evaluate_on: Annotated[
        str, typer.Option("--evaluate", help="Text measured before and after, or none.")
    ] = "evaluation",
    overwrite: Annotated[bool, typer.Option(help="Replace the model that is in --out.")] = False,
) -> None:
    """Prune MODEL and save a smaller one, layer by layer from disk to disk. The same command goes on after a stop."""
    with refusals():
        from ..on_device.latency import parse_budget
        from ..settings import PRESETS, Settings, default_recovery, multiple_for
        from ..system.device import available_device

        given = {name for name in context.params if context.get_parameter_source(name).name != "DEFAULT"}
        if place is not None:
            if "multiple" in given:
                raise InputError(f"expected --target or --multiple, got {place} and {multiple}: one decides the other")
            multiple = multiple_for(place)
        if preset not in PRESETS:
            raise InputError(f"expected a preset, {' or '.join(PRESETS)}, got {preset!r}: {nearest(preset, PRESETS)}")
        settings = Settings(
            ratio=ratio,
            of=of,
            method=method,
            layers=_number(layers),
            layer_metric=layer_metric,
            widths=widths,
            kv_groups=kv_groups,
            recovery=recovery or default_recovery(method),
            aim=target,
            ridge=_number(ridge),
            multiple=multiple,
            seed=seed,
            device=str(available_device(device)),
        )
        settings = replace(settings, **{name: value for name, value in PRESETS[preset].items() if name not in given})
        if budget is not None and "ratio" in given:
            raise InputError(f"expected --ratio or --budget, got both, {ratio:g} and {budget}: leave one out")
        done = carry_out(
            model,
            out_folder,
            settings,
            calibration,
            sequences,
            length,
            dtype,
            evaluate_on,
            overwrite,
            None if budget is None else parse_budget(budget),
            save_dtype,
        )
        out.print(_summary(done))
        out.print(f"saved: {out_folder}", soft_wrap=True)


def _number(text: str) -> int | float | str:
    try:
        return int(text)
    except ValueError:
        pass  # a share, then, or a word: Settings.check names what it takes
    try:
        return float(text)
    except ValueError:
        return text


def _summary(done: dict) -> Table:
    before, after, report, plan = done["before"], done["after"], done["report"], done["plan"]
    title = f"{plan.removed:.1%} of the {plan.of} removed by {report.settings['method']}"
    table = Table("", "dense", "pruned", title=title)
    table.add_row("parameters", f"{before.total:,}", f"{after.total:,}")
    table.add_row("of the decoder", f"{before.decoder:,}", f"{after.decoder:,}")
    table.add_row("layers", str(before.layers), str(after.layers))
    table.add_row("neurons a layer", _span(before.neurons), _span(after.neurons))
    table.add_row("KV groups a layer", _span(before.kv_groups), _span(after.kv_groups))
    for text, tokens, dense, small in done["measured"]:
        table.add_row(f"perplexity, {text} ({tokens:,} tokens)", f"{dense:.2f}", f"{small:.2f}")
    table.add_row("pruned in", "", f"{report.seconds:.0f} s on {report.tokens:,} tokens")
    return table


def _span(widths: tuple[int, ...]) -> str:
    return str(widths[0]) if len(set(widths)) == 1 else f"{min(widths)} to {max(widths)}"


@app.command()
def inspect(
    model: Model,
    calibration: Annotated[str, typer.Option(help="Text for the layer importance.")] = "calibration",
    sequences: Annotated[int, typer.Option()] = 8,
    length: Annotated[int, typer.Option()] = 256,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Layers, widths, parameters and layer importance of MODEL."""
    with refusals():
        from ..calibration.tokens import calibration_tokens
        from ..importance.layers import block_influence
        from ..models.load import load_model
        from ..shape import Shape

        loaded, tokenizer = load_model(model, dtype=dtype)
        check_length(loaded, length)
        shape = Shape.of(loaded)
        ids = calibration_tokens(calibration, tokenizer, model=loaded, sequences=sequences, length=length, seed=seed)
        with progress_bars() as progress:
            influence = block_influence(loaded, ids, device, progress).tolist()
        rows = [
            {
                "layer": i,
                "neurons": shape.neurons[i],
                "kv_groups": shape.kv_groups[i],
                "parameters": shape.layer(i),
                "block_influence": influence[i],
            }
            for i in range(shape.layers)
        ]
        if as_json:
            typer.echo(
                json.dumps({"model": model, "parameters": shape.total, "decoder": shape.decoder, "layers": rows})
            )
            return
        table = Table(*rows[0], title=f"{model}: {shape.total:,} parameters, {shape.decoder:,} in the decoder")
        for row in rows:
            table.add_row(*(f"{v:.4f}" if isinstance(v, float) else f"{v:,}" for v in row.values()))
        out.print(table)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")],
    tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 60,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Let MODEL continue a prompt (greedy)."""
    with refusals():
        from ..evaluation.generation import continuation
        from ..models.load import load_model

        if not prompt.strip():
            raise InputError(
                "expected a prompt with some text, got an empty one: write what the model shall go on from"
            )
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        typer.echo(prompt + continuation(loaded, tokenizer, prompt, tokens))


DEMO_PROMPT = "The water cycle begins when the sun"


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the model and the picture.")] = Path(
        "build/demo"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier demo.")] = False,
) -> None:
    """COMP on the embedded model: a fifth smaller, with picture, perplexities and a text before and after."""
    with refusals():
        from ..calibration.tokens import calibration_tokens
        from ..evaluation.generation import continuation
        from ..importance.layers import block_influence
        from ..models.load import EMBEDDED, load_model
        from ..plots import plot_pruned
        from ..settings import Settings

        model, tokenizer = load_model(EMBEDDED)
        before = continuation(model, tokenizer, DEMO_PROMPT, 40)
        ids = calibration_tokens("calibration", tokenizer, sequences=8, length=256, seed=0, evaluated="evaluation")
        with progress_bars() as progress:
            importance = block_influence(model, ids, progress=progress).tolist()
        del model  # `carry_out` opens its own, layer by layer
        settings = Settings(ratio=0.2, multiple=32)
        done = carry_out(
            EMBEDDED, out_folder / "model", settings, "calibration", 32, 256, "float32", "evaluation", overwrite
        )
        small, _ = load_model(out_folder / "model")
        after = continuation(small, tokenizer, DEMO_PROMPT, 40)
        plan, shape, errors = done["plan"], done["before"], [layer.error for layer in done["report"].layers]
        plot_pruned(importance, plan, shape.neurons, shape.kv_groups, errors).savefig(out_folder / "pruned.png")
        out.print(_summary(done))
        out.print(
            f"\n[bold]prompt[/]  {DEMO_PROMPT} ...\n[bold]dense[/]   {before.strip()}\n[bold]pruned[/]  {after.strip()}"
        )
        out.print(f"\nmodel:   {out_folder / 'model'}\npicture: {out_folder / 'pruned.png'}", soft_wrap=True)


app.command()(cli_evaluate.evaluate)
app.command()(cli_compare.compare)
app.command()(cli_gguf.export)
app.command()(cli_gguf.chat)
app.command()(cli_benchmark.benchmark)
app.command()(cli_plan.plan)


def main() -> None:
    app()


if __name__ == "__main__":
    sys.exit(main())
