"""Models that nobody has pruned here, on paper: `python benchmarks/large.py` writes the tables of docs/large-models.md.

Nothing is measured by this. The work is what `comp_lib.scale.limit` counts from the shapes, the memory what
`comp_lib.scale.memory` counts, the bytes between machines what cluster.py predicts. The rates are those of limit.json;
how many times the limit a run takes is that of the runs of the 7B shape in scale.json and long_text.json. What is
assumed and not measured stands in ASSUMED and CARDS. A test asks whether the page says what this makes.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cluster
from readme import between
from scale import SIZES
from transformers import LlamaConfig

from comp_lib.calibration.stream import BATCH_TOKENS
from comp_lib.models.skeleton import skeleton
from comp_lib.prune_layer import form_of_sums
from comp_lib.scale.limit import Machine, Run, Work, least_seconds
from comp_lib.scale.memory import added_bytes, probable_plan
from comp_lib.scale.prune_to import state_files
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import Gram

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "large-models.md"
START, END = "<!-- written by benchmarks/large.py -->", "<!-- end of what benchmarks/large.py wrote -->"
SETTINGS = Settings(ratio=0.2)  # as of the measured runs
TEXTS = {"a short text": (8, 128), "a long text": (256, 256)}  # sequences, and tokens of each
WORKERS = 8
SHARED = ("attention", "MLP", "Gram")  # phases that workers share; the rest is the client's
DOUBLE = 8  # bytes


@dataclass(frozen=True)
class Assumed:
    """What the machines beside ours have: assumed, not measured here."""

    link: float = 1.25e9  # bytes a second into each machine: 10 Gbit/s


@dataclass(frozen=True)
class Card:
    """Numbers of a data sheet: assumed, not measured here."""

    name: str
    single: float  # operations a second in float32, not TF32, which torch leaves off
    double: float  # in float64, by tensor cores where it has such
    memory: float  # bytes
    bus: float  # bytes a second to it, and as many from it at the same time


ASSUMED = Assumed()
CARDS = (
    Card("H100 SXM", single=67e12, double=67e12, memory=80e9, bus=64e9),
    Card("RTX 4090", single=82.6e12, double=1.29e12, memory=24e9, bus=32e9),
)


@dataclass(frozen=True)
class Model:
    """A Llama by the numbers of its config; nothing of it is read."""

    name: str
    hidden: int
    layers: int
    heads: int
    groups: int
    neurons: int
    vocabulary: int


MODELS = (
    Model("Llama-2 70B", 8192, 80, 64, 8, 28672, 32000),
    Model("Llama-3.1 405B", 16384, 126, 128, 8, 53248, 128256),
)


@cache
def shape_of(model: Model) -> Shape:
    """Its shape, from the skeleton that transformers builds of such a config."""
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden,
        intermediate_size=model.neurons,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.groups,
        tie_word_embeddings=False,
    )
    return Shape.of(skeleton(config))


def run_of(model: Model, text: str) -> Run:
    """Files to files, in float32, from bfloat16 to bfloat16."""
    shape, (sequences, length) = shape_of(model), TEXTS[text]
    plan = probable_plan(shape, SETTINGS)
    return Run(shape, plan, SETTINGS, sequences, length, stored=2 * shape.total, saved=2)


def machine() -> Machine:
    """This one, as limit.json has it; files are read no faster than they are written.

    The stored rate of reading is that of the system's file cache, in which such files have no room.
    """
    row = json.loads((HERE / "limit.json").read_text("utf-8"))
    rates, disk = row["gigaflops"]["7b"], 1e6 * row["written_megabytes_a_second"]
    read = min(disk, 1e6 * row["read_megabytes_a_second"])
    return Machine(1e9 * rates["float32"], 1e9 * rates["float64"], read, disk)


def threads() -> int:
    """With which those rates were measured."""
    count: int = json.loads((HERE / "limit.json").read_text("utf-8"))["threads"]
    return count


def times_the_limit(shape: str = "7b", matrices: bool = False) -> tuple[float, float]:
    """How many times the limit the measured runs of a shape took: the least and the most.

    matrices: only of runs whose sums were matrices in the MLP.
    """
    names = ("scale.json", "long_text.json")
    rows = [row for name in names for row in json.loads((HERE / name).read_text("utf-8"))]
    rows = [row for row in rows if row["shape"] == shape and row.get("least")]
    rows = [row for row in rows if not matrices or row["tokens"] >= SIZES[shape].neurons]
    found = [sum(row["phases"].get(name, 0.0) for name in row["least"]) / sum(row["least"].values()) for row in rows]
    return min(found), max(found)


def total(run: Run) -> Work:
    return sum(run.work().values(), start=Work())


def widest(run: Run) -> int:
    """Inputs of the widest dense layer."""
    return max(run.shape.neurons)


def sums_bytes(run: Run) -> float:
    """Of X^T X of the widest dense layer, in float64."""
    return float(DOUBLE * widest(run) ** 2)


def matrices(run: Run) -> bool:
    """Whether sums are matrices; else there are fewer tokens than inputs, and the tokens themselves are kept."""
    return form_of_sums(SETTINGS, run.tokens, widest(run)) is Gram


def disk_bytes(run: Run) -> float:
    """The parent, the new model, and the files of hidden states for which `prune_to` asks for room."""
    states = float(state_files(SETTINGS.two_streams)) * run.tokens * run.shape.hidden * run.state
    return run.stored + run.saved * run.shape.total * (1 - run.plan.removed) + states


def moved(run: Run) -> dict[str, int]:
    """Bytes between WORKERS machines, as cluster.py predicts them where sums are matrices."""
    shape, heads = run.shape, run.shape.group_heads
    groups = tuple(zip(shape.kv_groups, run.plan.kv_groups, strict=True))
    neurons = tuple(zip(shape.neurons, run.plan.neurons, strict=True))
    queries = tuple((heads * before, heads * after) for before, after in groups)
    size = (run.sequences, run.length, shape.hidden, shape.head_dim, 2 * WORKERS, WORKERS)
    ridge = SETTINGS.ridge == "auto"
    return cluster.predicted(cluster.Run(*size, SETTINGS.two_streams, ridge, queries, groups, neurons))


def shared_seconds(run: Run, times: float) -> tuple[float, float, float]:
    """(workers side by side, the client, the links) of a run that takes so many `times` the limit."""
    least, size = least_seconds(run, machine()), moved(run)
    workers = times * sum(least[name] for name in SHARED) / WORKERS
    client = times * sum(value for name, value in least.items() if name not in SHARED)
    links = (size["scheduler"] + size["workers"] / WORKERS + size["client"]) / ASSUMED.link
    return workers, client, links


def bus_bytes(run: Run) -> tuple[float, float]:
    """(to a card, from it): each layer, what is left of it, and the hidden states at each step.

    The states go there to be watched in the MLP, and there and back through the attention and the MLP; the dense
    model's stream, which SETTINGS do not ask for, would come on top.
    """
    states = float(run.tokens * run.shape.hidden * run.state * len(run.plan.layers))
    left = run.shape.with_widths(run.plan.neurons, run.plan.kv_groups).decoder
    return run.state * run.shape.decoder + 3 * states, run.state * left + 2 * states


def card_seconds(run: Run, card: Card) -> float:
    """The least on a card, in a machine with our disk: products, the disk, and the bus, one after the other."""
    disk, (there, back) = machine(), bus_bytes(run)
    least = Machine(card.single, card.double, disk.read, disk.written).seconds(total(run))
    return least + (there + back) / card.bus


def numbers(*values: float, digits: int = 0) -> str:
    """As words, from the least to the most; one where they look alike."""
    words = [f"{value:,.{digits}f}" for value in values]
    return " to ".join(dict.fromkeys(words))


def minutes(*seconds: float) -> str:
    return numbers(*(value / 60 for value in seconds))


def gigabytes(size: float) -> str:
    return numbers(size / 1e9, digits=0 if size >= 1e10 else 1)


def rows_of(lines: dict[str, list[str]]) -> list[str]:
    return [f"| {name} | {' | '.join(cells)} |" for name, cells in lines.items()]


def shapes() -> str:
    """What each model is, before and after."""
    lines: dict[str, list[str]] = {}
    for model in MODELS:
        shape = shape_of(model)
        plan = probable_plan(shape, SETTINGS)
        for name, cell in {
            "parameters": f"{shape.total / 1e9:,.2f} billion",
            "in decoder layers": f"{shape.decoder / 1e9:,.2f} billion",
            "layers; width; neurons": f"{shape.layers}; {shape.hidden:,}; {shape.neurons[0]:,}",
            "KV groups, query heads in each": f"{shape.kv_groups[0]}, {shape.group_heads}",
            "a layer in float32": f"{4 * shape.layer(0) / 1e9:,.1f} GB",
            "neurons that stay; layers that go": f"{plan.neurons[0]:,}; {len(plan.dropped)}",
        }.items():
            lines.setdefault(name, []).append(cell)
    head = [f"| | {' | '.join(model.name for model in MODELS)} |", f"|---|{'---:|' * len(MODELS)}"]
    return "\n".join([*head, *rows_of(lines)])


def costs() -> str:
    """Work, memory and minutes of each model with each text."""
    lines: dict[str, list[str]] = {}
    times = times_the_limit()
    for model in MODELS:
        for text in TEXTS:
            run = run_of(model, text)
            work, size = total(run), added_bytes(run, BATCH_TOKENS)
            least = machine().seconds(work)
            cells = {
                "tokens": f"{run.tokens:,}",
                "sums are kept as": "matrices" if matrices(run) else "the tokens",
                "operations, float32 (10^15)": numbers(work.single / 1e15, digits=1),
                "operations, float64 (10^15)": numbers(work.double / 1e15, digits=2),
                "read, GB": gigabytes(work.read),
                "written, GB": gigabytes(work.written),
                "on the disk at once, GB": gigabytes(disk_bytes(run)),
                "memory beside the imports, GB": gigabytes(size),
                f"one machine ({threads()} threads), at least, minutes": minutes(least),
                f"**one machine ({threads()} threads), minutes**": minutes(*(factor * least for factor in times)),
                f"**{WORKERS} such machines, minutes**": "not computed",
                "of these, the client alone": "",
                "of these, the links": "",
            }
            if matrices(run):
                shares = [shared_seconds(run, factor) for factor in times]
                cells[f"**{WORKERS} such machines, minutes**"] = minutes(*map(sum, shares))
                cells["of these, the client alone"] = minutes(*(client for _, client, _ in shares))
                cells["of these, the links"] = minutes(shares[0][2])
            for card in CARDS:
                fits = size <= card.memory
                found = minutes(card_seconds(run, card)) if fits else "does not fit"
                cells[f"{card.name}, at least, minutes"] = found
            for name, cell in cells.items():
                lines.setdefault(name, []).append(cell)
    heads = [f"{model.name}, {text}" for model in MODELS for text in TEXTS]
    return "\n".join([f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}", *rows_of(lines)])


def rests_on() -> str:
    """The rates, and what is assumed."""
    here, (least, most) = machine(), times_the_limit()
    cards = "; ".join(
        f"{card.name} {card.single / 1e12:g} and {card.double / 1e12:g} TFLOP/s, {card.memory / 1e9:.0f} GB, "
        f"{card.bus / 1e9:.0f} GB/s of bus"
        for card in CARDS
    )
    rates = f"{here.single / 1e9:.0f} GFLOP/s in float32, {here.double / 1e9:.0f} in float64"
    again = numbers(*times_the_limit("1b", matrices=True), digits=2)
    return listed(
        [
            f"Measured here, on {threads()} threads: {rates}, {here.written / 1e6:,.0f} MB/s to the disk.",
            f"Measured here: runs of the 7B shape, which kept tokens, took {least:.2f} to {most:.2f} times the limit; "
            f"of 1B's shape, with matrices, {again} times.",
            "Assumed: the disk reads as fast as it writes (the stored rate of reading is that of the file cache, in "
            "which such files have no room); the ratio to the limit is that of 7B; all machines are as this one.",
            f"Assumed, not measured here: {ASSUMED.link / 1e9:g} GB/s into each machine.",
            f"Assumed, not measured here: data sheets, in float32 and float64: {cards}.",
            "The minutes of a card are the least that it could take, with this disk. Nobody has run it on one here.",
        ]
    )


def breaks() -> str:
    """Where it breaks first, each with its number."""
    return "\n\n".join(f"**{model.name}**\n\n" + listed(broken(model)) for model in MODELS)


def broken(model: Model) -> list[str]:
    """What becomes too much for a model with the long text, the first first."""
    run, short = (run_of(model, text) for text in ("a long text", "a short text"))
    work, least, size, n = run.work(), least_seconds(run, machine()), moved(run), widest(run)
    solving = sum(work[name].double for name in ("selection", "solve")) / len(run.plan.layers)
    share = sum(least[name] for name in ("selection", "solve")) / sum(least.values())
    times = times_the_limit()
    took = minutes(*(factor * solving / machine().double for factor in times))
    client, likely = minutes(shared_seconds(run, 1.0)[1]), minutes(*(shared_seconds(run, one)[1] for one in times))
    needed, less = (added_bytes(one, BATCH_TOKENS) for one in (run, short))
    small = " and ".join(card.name for card in CARDS if needed > card.memory)
    into = {name: gigabytes(size[name] / (WORKERS if name == "workers" else 1)) for name in size}
    solved = f"{solving / 1e12:,.0f} x 10^12 operations in float64 a layer, {took} minutes here"
    beside = f"{gigabytes(needed)} GB in all, {gigabytes(less)} GB with {short.tokens:,} tokens"
    between_all = f"{into['scheduler']} GB into the scheduler, {into['client']} GB into the client"
    files = minutes(least["read"] + least["write"])
    return [
        f"The client: sweep and solve of n = {n:,} take {solved}; "
        f"with their float32 part they are {share:.0%} of the least of one machine. "
        f"Workers do not share them: no number of machines prunes it in less than {client} minutes, and by the ratio "
        f"measured here it is {likely}.",
        f"Memory: X^T X of n = {n:,} is {gigabytes(sums_bytes(run))} GB in float64, and there are several of that "
        f"size at once: {beside}." + (f" Too much for {small}." if small else ""),
        f"The network: {between_all}, {into['workers']} GB into each of {WORKERS} workers.",
        f"The disk: {gigabytes(disk_bytes(run))} GB at once; {files} minutes to read and write, which more machines "
        "do not shorten.",
    ]


def listed(points: list[str]) -> str:
    """As a list of Markdown, in lines of a page."""
    return "\n".join(textwrap.fill(f"- {point}", 120, subsequent_indent="  ") for point in points)


def text() -> str:
    """What stands between the marks of the page."""
    parts = (shapes(), costs(), "What the numbers rest on:\n\n" + rests_on(), "## Where it breaks first\n\n" + breaks())
    return "\n\n".join(parts)


def page() -> str:
    """The page as it should be."""
    return between(PAGE.read_text("utf-8"), START, END, text())


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(text())


if __name__ == "__main__":
    main()
