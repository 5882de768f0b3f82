"""Models that nobody has pruned here, on paper: `python benchmarks/large.py` writes the table of docs/large-models.md.

Nothing is measured by this. The work is what limit.py counts from the shapes. The rates are those of limit.json; how
many times the least a run takes is that of the runs of the 7B shape in scale.json and long_text.json. A test asks
whether the page says what this makes.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from functools import cache

from common import HERE, ROOT, between, markdown, read_json
from limit import Machine, Run, least, stored_rows
from transformers import LlamaConfig

from comp_lib.hybrid_granularity.uniform import drop_count, uniform_plan
from comp_lib.models.skeleton import skeleton
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import enough

PAGE = ROOT / "docs" / "large-models.md"
START, END = "<!-- written by benchmarks/large.py -->", "<!-- end of what benchmarks/large.py wrote -->"
SETTINGS = Settings(ratio=0.2, multiple=64)  # as of the measured runs
TEXTS = {"a short text": (8, 128), "a long text": (256, 256)}  # sequences, and tokens of each
SINGLE, DOUBLE = 4, 8  # bytes


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
    Model("Qwen2.5 7B", 3584, 28, 28, 4, 18944, 152064),
    Model("Llama-2 70B", 8192, 80, 64, 8, 28672, 32000),
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
    shape = shape_of(model)
    request = SETTINGS.request(shape)
    gone = drop_count(request, "auto")  # which ones does not matter here
    plan = uniform_plan(replace(request, drop=range(shape.layers - gone, shape.layers)))
    return Run(shape, plan, *TEXTS[text], stored=2 * shape.total)


def machine() -> Machine:
    """The one of limit.json; files are read no faster than they are written.

    The stored rate of reading is that of the system's file cache, in which such files have no room.
    """
    row = read_json(HERE / "limit.json")
    rates, disk = row["gigaflops"]["7b"], 1e6 * row["written_megabytes_a_second"]
    single, double = 1e9 * rates["float32"], 1e9 * rates["float64"]
    return Machine(single, single, double, min(disk, 1e6 * row["read_megabytes_a_second"]), disk)


def times_the_least() -> tuple[float, float]:
    """How many times the least the measured runs of the 7B shape in float32 took: the least and the most of them."""
    rows = [row for row in stored_rows() if row["shape"] == "7b" and "bfloat16" not in row["command"]]
    found = [row["seconds"] / least(row) for row in rows]
    return min(found), max(found)


def sums_bytes(run: Run) -> float:
    """Of the sums of the widest dense layer: X^T X in float32, or few tokens themselves and their products."""
    n, tokens = max(run.shape.neurons), run.tokens
    return float(SINGLE * n**2 if tokens >= enough(n) else DOUBLE * tokens**2 + SINGLE * tokens * n)


def span(*values: float, digits: int = 0) -> str:
    """As words, from the least to the most; one where they look alike."""
    return " to ".join(dict.fromkeys(f"{value:,.{digits}f}" for value in values))


def column(model: Model, text: str) -> dict[str, str]:
    """Work, memory and hours of a model with a text."""
    run = run_of(model, text)
    shape, plan, work = run.shape, run.plan, run.work()
    hours = machine().seconds(work) / 3600
    return {
        "parameters (billions)": f"{shape.total / 1e9:,.2f}",
        "layers; width; neurons": f"{shape.layers}; {shape.hidden:,}; {shape.neurons[0]:,}",
        "neurons that stay; layers that go": f"{plan.neurons[0]:,}; {len(plan.dropped)}",
        "tokens": f"{run.tokens:,}",
        "sums are kept as": "matrices" if run.tokens >= enough(max(shape.neurons)) else "the tokens",
        "a layer in float32, GB": span(SINGLE * shape.layer(0) / 1e9, digits=1),
        "its sums, GB (several of that size at once)": span(sums_bytes(run) / 1e9, digits=1),
        "operations, float32 (10^15)": span((work.model + work.single) / 1e15, digits=1),
        "operations, float64 (10^15)": span(work.double / 1e15, digits=2),
        "read, GB": span(work.read / 1e9),
        "written, GB": span(work.written / 1e9),
        "at least, hours": span(hours, digits=1),
        "**hours**": span(*(factor * hours for factor in times_the_least()), digits=1),
    }


def text() -> str:
    """What stands between the marks of the page."""
    columns = {f"{model.name}, {words}": column(model, words) for model in MODELS for words in TEXTS}
    names = next(iter(columns.values()))
    rows = [[name, *(cells[name] for cells in columns.values())] for name in names]
    here, threads = machine(), read_json(HERE / "limit.json")["threads"]
    points = (
        f"Measured here, on {threads} threads: {here.single / 1e9:.0f} GFLOP/s in float32, {here.double / 1e9:.0f} in "
        f"float64, {here.written / 1e6:,.0f} MB/s to the disk.",
        f"Measured here: runs of the 7B shape took {span(*times_the_least(), digits=2)} times the least.",
        "Assumed: the disk reads as fast as it writes; the ratio to the least is that of 7B, where no measured run "
        "kept matrices.",
    )
    rests = "\n".join(textwrap.fill(f"- {point}", 120, subsequent_indent="  ") for point in points)
    return f"{markdown(['', *columns], rows)}\n\nWhat the numbers rest on:\n\n{rests}"


def page() -> str:
    """The page as it should be."""
    return between(PAGE.read_text("utf-8"), START, END, text())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(text())
