"""The commands that measure: `inspect` (layers), `evaluate` (quality), `compare` (methods side by side)."""

import shlex
from importlib.util import find_spec
from inspect import signature
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Exit, Option, echo

from ..calibration.defaults import COMPARED_SEQUENCES, USUAL_LENGTH, USUAL_WINDOW
from ..utils.arguments import check_package
from ..utils.errors import InputError
from .console import as_typed_here, complain, make_table, output, progress_bars, split_values
from .options import LENGTH_HELP, QUALITY, CalibrationText, Device, Dtype, Length, ModelName, Multiple

if TYPE_CHECKING:  # slow to import
    from ..evaluation.by_kind import EvaluationByText
    from ..evaluation.task_differences import TaskDifference

JUDGED_ON_HELP = "Text name or file; kinds: each of the eight that ship, and their mean."
WINDOW_LENGTH_HELP = f"Tokens in each window (default: {USUAL_WINDOW}, or what MODEL reads; papers: 2048)."
WINDOW_COUNT_HELP = "Windows to measure, of each kind (default: all; of prose as many as of another kind)."
AGAINST_HELP = "Its parent: loss added, KL divergence, agreement; with --tasks its answers."
TASKS_HELP = "Instead of a text: offline, literature, or lm-eval's names, with commas."
RATIOS_HELP = "Parts of the decoder to remove, at least, with commas."
METHODS_HELP = "Names as for prune --method, with commas (default: all)."
SEQUENCES_HELP = "Calibration sequences, one number or several."
SEEDS_HELP = "How many: each draws other calibration windows."
COLUMN_WORDS = {  # column of a table of losses -> what it means
    "dense": "dense: loss of the parent.",
    "loss": "loss: of this model, lower is better.",
    "perplexity": "perplexity: exp(loss).",
    "increase": "increase: loss - dense.",
    "kl": "kl: divergence from the parent, 0 if nothing changed.",
    "agreement": "agreement: share of places where both put the same token first.",
}
TASKS_EXPLANATION = (
    "acc: share of items answered rightly; acc_norm: the same, answers weighed by their length. "
    "difference: of the same items, pruned - dense."
)
SCHEDULER_HELP = "Address of a Dask cluster that makes the runs: tcp://host:8786."


def inspect(model: ModelName, dtype: Dtype = "float32", device: Device = "cpu") -> None:
    """Layers, widths, parameters and layer importance of MODEL."""
    from ..calibration.windows import calibration_tokens
    from ..checkpoints.load import load_model
    from ..decoder.shape import Shape
    from ..importance.layers import block_influence

    loaded, tokenizer = load_model(model, dtype, device)
    length = min(USUAL_LENGTH, loaded.config.max_position_embeddings)
    ids = calibration_tokens("calibration", tokenizer, sequences=8, length=length)
    with progress_bars() as bars:
        influence = block_influence(loaded, ids, loaded.device, bars).tolist()
    shape = Shape.of(loaded)
    rows = []
    for layer in range(shape.layer_count):
        counts = (layer, shape.neurons[layer], shape.kv_groups[layer], shape.parameters_of_layer(layer))
        rows.append((*(f"{count:,}" for count in counts), f"{influence[layer]:.4f}"))
    columns = ("layer", "neurons", "KV groups", "parameters", "block influence")
    title = f"{model}: {shape.total_parameters:,} parameters, {shape.decoder_parameters:,} in the decoder"
    output.print(make_table(columns, rows, title))


def evaluate(
    model: ModelName,
    judged_on: Annotated[str, Option(help=JUDGED_ON_HELP)] = "kinds",
    window_length: Annotated[int | None, Option(min=2, max=1_000_000, help=WINDOW_LENGTH_HELP)] = None,
    window_count: Annotated[int | None, Option(min=1, help=WINDOW_COUNT_HELP)] = None,
    parent_name: Annotated[str | None, Option("--against", help=AGAINST_HELP)] = None,
    tasks: Annotated[str | None, Option(help=TASKS_HELP)] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Loss of MODEL on every kind of text, or on one text, with 95% intervals, or its accuracy in tasks."""
    from ..calibration.texts import load_text
    from ..checkpoints.load import load_model
    from ..decoder.tokens import check_length
    from ..evaluation import by_kind
    from ..evaluation.format import describe_chance
    from ..evaluation.generation import EXAMPLE_PROMPT

    if tasks is not None:
        parameters = signature(evaluate).parameters
        values = {"judged_on": judged_on, "window_length": window_length, "window_count": window_count}
        if any(value != parameters[name].default for name, value in values.items()):
            expected = "--tasks without --judged-on, --window-length or --window-count"
            raise InputError(expected=expected, got="both", hint="leave one out: tasks bring their own text")
        _evaluate_tasks(model, parent_name, tasks, dtype, device)
        return
    load_text(judged_on)  # raises for a wrong text before the model is loaded
    loaded, tokenizer = load_model(model, dtype, device)
    if window_length is not None:
        check_length(window_length, loaded.config.max_position_embeddings)
    loaded_parent = None
    if parent_name is not None:
        loaded_parent, _ = load_model(parent_name, dtype, device)
    _warn_of_calibration_text(model, judged_on)
    with progress_bars() as bars:
        judged = by_kind.evaluate(
            loaded,
            tokenizer,
            judged_on,
            parent=loaded_parent,
            window_length=window_length,
            window_count=window_count,
            progress=bars,
        )
    output.print(kinds_table(judged))
    if parent_name is None:
        echo(f"{model}: {_perplexity_in_words(judged)}")
        echo("what pruning cost, if it was pruned: the same with --against PARENT")
    else:
        echo(f"{model} against {parent_name}: {cost_in_words(judged)}")
        arguments = ["evaluate", model, "--against", parent_name, "--tasks", "offline"]
        if find_spec("lm_eval") is None:
            arguments = ["generate", model, "--prompt", EXAMPLE_PROMPT]
        echo(f"next: {as_typed_here(shlex.join(['comp-lib', *arguments]))}")
    read_by = parent_name or model
    loss = judged.mean.values["loss" if parent_name is None else "dense_loss"]
    for sentence in describe_chance(read_by, loss, loaded.config.vocab_size):
        complain(sentence)


def _perplexity_in_words(judged: "EvaluationByText") -> str:
    """The perplexity of a model, with its 95% interval."""
    from ..evaluation.format import perplexity_range
    from ..evaluation.loss import perplexity_of

    interval = judged.intervals.loss
    perplexity = perplexity_of(judged.mean.loss)
    return f"perplexity {perplexity:.1f}{perplexity_range(interval, '.1f')} on {judged.mean_name}"


def cost_in_words(judged: "EvaluationByText") -> str:
    """What multiplied the perplexity of the parent, and on which kinds of text least and most."""
    from ..evaluation.format import perplexity_factor
    from ..evaluation.loss import perplexity_of

    factor = perplexity_factor(judged.mean.values["increase"], judged.intervals.increase)
    sentence = f"perplexity times {factor} on {judged.mean_name}"
    if len(judged.texts) == 1:
        return sentence
    factors = {
        kind: perplexity_of(evaluation.values["increase"]) for kind, evaluation in judged.texts.items()
    }
    least, *_, most = sorted(factors, key=factors.__getitem__)
    return f"{sentence}; least on {least} ({factors[least]:.1f}), most on {most} ({factors[most]:.1f})"


def _evaluate_tasks(model: str, parent_name: str | None, tasks: str, dtype: Dtype, device: str) -> None:
    """Print the accuracy of a model in tasks of lm-eval, beside that of its parent where it is given."""
    check_package("lm_eval", "evaluate")
    from lm_eval import utils

    from ..checkpoints.load import load_model
    from ..evaluation.generation import EXAMPLE_PROMPT
    from ..evaluation.task_differences import task_differences
    from ..evaluation.zero_shot import load_tasks, zero_shot

    suite = load_tasks(tasks)  # raises for a wrong name before the model is loaded
    results = zero_shot(*load_model(model, dtype, device), suite)
    differences = []
    if parent_name is not None:
        parent_results = zero_shot(*load_model(parent_name, dtype, device), suite)
        differences = task_differences(results, parent_results)
    if not differences:  # no parent, or tasks that are scored otherwise
        echo(utils.make_table(results))
        if parent_name is not None:
            echo(f"{parent_name}:\n{utils.make_table(parent_results)}")
        return
    output.print(_tasks_table(differences))
    echo(f"{model} against {parent_name}: {_differences_in_words(differences)}")
    echo(f"next: {as_typed_here(shlex.join(['comp-lib', 'generate', model, '--prompt', EXAMPLE_PROMPT]))}")


def _tasks_table(differences: "list[TaskDifference]") -> Table:
    """A table with a row for each task and measure, the parent's beside the model's."""
    rows = []
    for row in differences:
        numbers = f"{row.parent_accuracy:.3f}", f"{row.accuracy:.3f}"
        low, high = row.interval
        interval = "" if isnan(low) else f" ({low:+.3f} to {high:+.3f})"
        rows.append((row.task, row.measure, *numbers, f"{row.difference:+.3f}{interval}"))
    columns = ("task", "measure", "dense", "pruned", "difference")
    return make_table(columns, rows, "accuracy, 0 to 1, with 95% intervals", TASKS_EXPLANATION)


def _differences_in_words(differences: "list[TaskDifference]") -> str:
    """In which tasks the accuracy differs by more than chance."""
    rows = [row for row in differences if row.measure == "acc"]
    tasks = [row for row in rows if row.differs]
    count = len(rows)
    if not tasks:
        return f"no difference in {count} tasks that is more than chance"
    names = ", ".join(f"{row.task} {row.difference:+.3f}" for row in tasks)
    return f"{len(tasks)} of {count} tasks differ by more than chance: {names}"


def _warn_of_calibration_text(model: str, judged_on: str) -> None:
    """Warn on stderr of texts that have calibrated the model and now judge it."""
    from ..calibration.mixtures import text_hashes
    from ..calibration.texts import judging_texts
    from ..checkpoints.card import calibration_hashes

    calibrating = set(calibration_hashes(model))
    texts = judging_texts(judged_on).values()
    seen_texts = [text for text in texts if calibrating.intersection(text_hashes(text))]
    if seen_texts:
        names = ", ".join(sorted(map(str, seen_texts)))
        complain(f"{names} calibrated this model, so it looks better there than on other text")


def kinds_table(judged: "EvaluationByText") -> Table:
    """A table with a row for each text, and one for their mean where there are several.

    Numbers from too few windows for an interval have two decimals.
    """
    from ..evaluation.format import number_format, with_interval
    from ..evaluation.loss import perplexity_of

    cells: list[dict[str, str]] = []
    for text, (measures, intervals) in judged.make_rows_and_mean().items():
        main_measure = "increase" if "increase" in measures else "loss"
        if main_measure == "loss":
            measures = measures | {"perplexity": perplexity_of(measures["loss"])}
        interval = intervals[main_measure]
        row = {"text": text} | {
            name: f"{value:{number_format(interval)}}" for name, value in measures.items()
        }
        row[main_measure] = with_interval(measures[main_measure], interval)
        cells.append(row)
    columns = [name.removesuffix("_loss").removeprefix("top1_") for name in cells[0]]
    title = "loss by kind of text, nats per token, with 95% intervals"
    explanation = " ".join(COLUMN_WORDS[name] for name in columns if name in COLUMN_WORDS)
    return make_table(columns, [row.values() for row in cells], title, explanation)


def compare(
    model: ModelName,
    folder: Annotated[Path, Option("--out", help="Folder for rows, table and figures.")],
    ratios: Annotated[str, Option(help=RATIOS_HELP)] = "0.1,0.2,0.3,0.5",
    methods: Annotated[str | None, Option(help=METHODS_HELP)] = None,
    seeds: Annotated[int, Option(min=1, max=1_000, help=SEEDS_HELP)] = 3,
    sequences: Annotated[str, Option(help=SEQUENCES_HELP)] = str(COMPARED_SEQUENCES),
    length: Length = USUAL_LENGTH,
    calibration: CalibrationText = "calibration",
    judged_on: Annotated[str, Option(help="Text that judges, or kinds.")] = "evaluation",
    window_count: Annotated[int, Option(min=2, max=100_000, help="Windows of it, or of each kind.")] = 12,
    window_length: Annotated[
        int, Option(min=2, max=1_000_000, help=LENGTH_HELP, rich_help_panel=QUALITY)
    ] = USUAL_WINDOW,
    multiple: Multiple = None,
    workers: Annotated[int, Option(min=1, max=256, help="Runs at a time on this machine.")] = 1,
    scheduler: Annotated[str | None, Option(help=SCHEDULER_HELP)] = None,
) -> None:
    """Run a grid of methods, ratios and seeds on MODEL. After a kill the same command goes on."""
    check_package("matplotlib", "plots")
    from ..pruning.methods import METHODS
    from ..reports.comparison.grid import Grid, run
    from ..reports.comparison.summary import markdown, write_summary

    grid = Grid(
        model,
        split_values(ratios, float, "ratios"),
        tuple(METHODS) if methods is None else split_values(methods, str, "methods"),
        seeds,
        split_values(sequences, int, "sequences"),
        changes={"multiple": multiple},
        calibration=calibration,
        length=length,
        judged_on=judged_on,
        window_count=window_count,
        window_length=window_length,
    )
    with progress_bars() as bars:
        rows = run(grid, folder, bars, workers=workers, scheduler=scheduler)
    write_summary(rows, folder)
    echo(markdown(rows))
    picture = " and increase.png" if (rows.status == "ok").any() else ""
    echo(f"written: rows.csv, table.md{picture} in {folder}")
    if (rows.status == "failed").any():
        raise Exit(1)
