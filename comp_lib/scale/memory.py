"""The most memory that a run from disk to disk takes, known before it starts.

What is there at once, in the dense layer that takes most: one decoder layer; the statistics of the text (`Gram`: a few
n x n matrices in float64; `Rows`: the tokens and a few T x T matrices); and the tokens in flight, of which there can be
fewer. Hidden states are in files. Counted are the matrices, by the largest of these moments: the text is
watched, a ridge is chosen, the sweep begins, the survivors are solved for. (Our count, tested against the resident
memory of real runs.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..calibration.stream import BATCH_TOKENS, LOGITS
from ..errors import InputError
from ..hybrid_granularity.uniform import layers_needed, uniform_plan
from ..plan import Plan
from ..prune import IMPORTANCE_SEQUENCES
from ..prune_layer import form_of_sums
from ..recovery.least_squares import outputs_judged
from ..settings import PEERS, Settings
from ..shape import Shape
from ..statistics.few_tokens import PANEL
from ..statistics.gram import Gram
from ..statistics.products import TERMS
from ..system.atomic import bytes_in
from ..system.machine import resident_bytes
from .limit import Run
from .model_on_disk import Streamed

BATCHES = (2048, 1024, 512, 256, 128)  # tokens in flight, the most that fit
SLACK = 1.05  # what the allocator keeps beside what is asked of it
WORKSPACE = 64 << 20  # of the libraries that multiply, and what transformers still imports
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30, "TIB": 2.0**40}


def bytes_of(words: str) -> int:
    """Bytes in words such as 3GB or 1.5 GiB. Raises InputError for others."""
    number, unit = words.strip().upper().rstrip("KMGTIB"), words.strip().upper().lstrip("0123456789. ")
    try:
        size = float(number) * UNITS[unit]
    except (ValueError, KeyError) as error:
        got = f"{words[:40]!r}: say a number and a unit"
        raise InputError(f"expected memory such as 3GB or 800MB, got {got}") from error
    if not 1e6 <= size <= 1e15:
        raise InputError(f"expected memory from 1MB to 1000TB, got {words[:40]!r}: choose one of those")
    return int(size)


def check_limit(memory: int | str | None, shared: bool, device: str) -> None:
    """Raises InputError for a limit of memory where the tokens in flight are of other processes, or on a card."""
    if memory is not None and shared:
        raise InputError(
            "expected --memory or --scheduler, got both: the tokens in flight are the workers', leave one out"
        )
    if memory is not None and torch.device(device).type != "cpu":
        got = f"--device {device}: what is on a card is not counted, so leave one out"
        raise InputError(f"expected --memory with --device cpu, got {got}")


def probable_plan(shape: Shape, settings: Settings) -> Plan:
    """Widths such as the plan will have; which layers go is not known yet, and does not matter here.

    Raises InputError for measured widths, whose search takes what is not counted here.
    """
    if settings.widths == "measured":
        wanted = "widths uniform or per-layer with --memory"
        raise InputError(f"expected {wanted}, got measured: their search is not counted")
    request, count = settings.request(shape), settings.layer_count(shape.layers)
    count = layers_needed(request) if count is None else count
    return uniform_plan(replace(request, drop=range(shape.layers - count, shape.layers)))


def judges_layers(run: Run) -> bool:
    """Whether the run asks what the model answers without each layer."""
    some_go = len(run.plan.layers) < run.shape.layers
    return some_go or run.settings.widths == "per-layer" or run.settings.attentions > 0


def needed_bytes(run: Run, batch: int, head: int = 0, windows: int = 0) -> int:
    """The most resident memory, in bytes, that `run` takes with so many tokens in flight; this process included.

    head: parameters of the model's head, where something is judged by its answer; windows: tokens of the text on which
    both models are measured.
    """
    return resident_bytes() + added_bytes(run, batch, head, windows)


def added_bytes(run: Run, batch: int, head: int = 0, windows: int = 0) -> int:
    """What `run` adds to a process at most: `needed_bytes` without what is resident already."""
    states = 3.0 * windows  # before and behind a layer, and behind the norm
    if judges_layers(run):  # states behind each layer, of the sequences on which layers are judged
        states = max(states, float(IMPORTANCE_SEQUENCES * run.length * (run.shape.layers + 2)))
    beside = run.state * (1.2 * head + states * run.shape.hidden) + (12.0 * LOGITS if head else 0.0)
    if run.settings.method in PEERS:  # a planner keeps the states of all the text, before and behind a layer
        beside = max(beside, run.state * 2.0 * run.tokens * run.shape.hidden)
    flight = max(min(batch, run.tokens), run.length)  # no sequence is cut
    if head:  # what is judged by its answer goes through the layers as many at a time as anywhere
        flight = max(flight, min(BATCH_TOKENS, windows or run.tokens))
    return WORKSPACE + round(SLACK * max(_layer(run, flight), beside))


def batch_for(run: Run, memory: int, head: int = 0, windows: int = 0) -> int:
    """The most tokens in flight with which `run` takes at most `memory` bytes.

    Raises InputError, with the least that would do, when no number of them does.
    """
    fitting = [batch for batch in BATCHES if needed_bytes(run, batch, head, windows) <= memory]
    if not fitting:
        least = needed_bytes(run, BATCHES[-1], head, windows)
        ways = "allow more, or give fewer calibration tokens"
        ways += ", or compute in bfloat16 with --dtype" if run.state == 4 else ""
        got = f"{memory / 1e6:,.0f} MB: {ways}"
        raise InputError(f"expected --memory of at least {least / 1e6:,.0f} MB for this run, got {got}")
    return fitting[0]


def work_of(
    model: Streamed, size: tuple[int, ...], settings: Settings, plan: Plan, saved: torch.dtype | None = None
) -> Run:
    """What there is to do for a calibration text of that size (S, L); saved: dtype of the new weights, None: as now."""
    (sequences, length), dtype = size, saved or model.dtype
    stored = sum(map(bytes_in, model.files.files))
    return Run(model.shape, plan, settings, sequences, length, stored, dtype.itemsize, model.dtype.itemsize)


def check_memory(
    model: Streamed, size: tuple[int, ...], settings: Settings, windows: int, memory: int, plan: Plan | None = None
) -> int:
    """Tokens in flight with which a run over a text of that size (S, L) takes at most `memory` bytes.

    windows: tokens on which both models are measured, 0 for not at all. Raises InputError when no number fits.
    """
    work = work_of(model, size, settings, plan or probable_plan(model.shape, settings))
    head = model.config.vocab_size * model.shape.hidden if windows or judges_layers(work) else 0
    return batch_for(work, memory, head, windows)


def _layer(run: Run, batch: int) -> float:
    """One decoder layer and all that pruning it takes, of the layer that takes most."""
    shape, most = run.shape, 0.0
    widths = dict(zip(run.plan.layers, zip(run.plan.kv_groups, run.plan.neurons, strict=True), strict=True))
    for layer in range(shape.layers):
        weights = run.state * shape.layer(layer)
        groups, neurons = widths.get(layer, (shape.kv_groups[layer], shape.neurons[layer]))
        for which, block, whole, keep in (
            ("attention", shape.head_dim * shape.group_heads, shape.kv_groups[layer], groups),
            ("mlp", 1, shape.neurons[layer], neurons),
        ):
            n = whole * block
            flying = batch * (4.0 * run.state * (n + 2 * shape.hidden) + 4.0 * (n + shape.hidden))
            narrow = whole != keep or (which == "mlp" and run.settings.two_streams)
            statistics = _statistics(run, Narrowing(n, keep * block, block), flying) if narrow else 0.0
            most = max(most, weights + flying, weights + statistics)
    return most


@dataclass(frozen=True)
class Narrowing:
    """A dense layer of `inputs` in blocks of `block`, of which `kept` inputs stay."""

    inputs: int
    kept: int
    block: int


def _statistics(run: Run, size: Narrowing, flying: float) -> float:
    """The most at once beside the weights of the layer."""
    t, m, single, double = run.tokens, run.shape.hidden, 4.0, 8.0
    n, k = size.inputs, size.kept
    outside = run.settings.two_streams
    if form_of_sums(run.settings, t, n) is Gram:
        sums = double * (n * n + (n * m if outside else 0))
        watched = 2 * sums + flying + single * n * (n + m)
        ridge = 2 * sums + double * (n * m * (1 if outside else 3) + 3 * k * k + 4 * k * m)
        swept = sums + double * (2 * n * n + 3 * n * m)
        solved = sums + double * (2 * n * m + 2 * k * k + k * n + 3 * k * m)
        return max(watched, ridge, 3 * sums, swept, solved)
    sums = single * t * (n + (m if outside else 0))
    single_weights = 0.0 if run.state == 4 else single * n * m  # statistics want them in float32
    judged, half = outputs_judged(m), t / 2
    gone = min(n - k, max(32 * size.block, n // 64))  # inputs that go in a round
    watched = 1.5 * sums + flying
    ridge = sums + single * (n + t) * judged + double * (5 * half * half + 5 * half * judged)
    inverted = sums + double * (2 * t * t + 2 * t * max(PANEL, size.block))
    swept = sums + single * n * m + double * (t * t + t * (PANEL + 2 * gone) + 3 * gone * n)
    missing = single * t * m
    solved = sums + max(missing + double * (t * t + 3 * t * TERMS), missing + single * (n * m + TERMS * (2 * m + t)))
    shrunk = single * 2 * n * m + run.state * k * m
    return single_weights + max(watched, ridge, 2 * sums, inverted, swept, solved, shrunk)
