"""Hybrids, measured: the same budget spent on layers, KV groups and neurons in different ways.

    python benchmarks/hybrids.py [--model gemma3-270m] [--rows N]

Measures up to N of the plans that benchmarks/hybrids.json lacks, and keeps them there; lesson 03 draws them.
One thing varies: where the budget goes. All plans are carried out on the same 8 x 128 tokens of all kinds of
`data/calibration`. In a layer the neurons go in the order of one sweep over the dense model. What stays is
refitted to the dense stream with one ridge. Then 16 windows of 128 tokens judge, two of each kind of
`data/evaluation`; their losses are kept one by one. Layers go greedily by the loss on 4 x 64 tokens of
calibration. The divergences by which widths are measured come from 12 x 128 tokens to fit and 4 x 128 to
judge.

A budget is a share of the decoder's parameters, or of the time of a token, which is a line through the
measurements of on_device.json (llama.cpp, f16). Another model than the included one has a file of its own,
hybrids-MODEL.json, and budgets of parameters only. (The stored rows of attentions and MLPs that were left out
are of older code.)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from common import HERE, ROOT, parser_of, read_json
from on_device import PLANS
from torch import Tensor

from comp_lib.calibration.texts import KINDS
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.surgery import keep_layers, shallow_copy
from comp_lib.decoder.types import Model
from comp_lib.evaluation.loss import measure_loss
from comp_lib.evaluation.windows import windows_of
from comp_lib.hybrid_granularity.by_harm import plan_by_harm
from comp_lib.hybrid_granularity.measured import JUDGING_SEQUENCES, MeasuredHarm, measure_harm
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.layers import sequence_loss_increase
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.files import write_atomically

sys.path.insert(0, str(ROOT / "notebooks"))
from course.hybrid_granularity import named_plan, stored_harm, water_filling_plan  # noqa: E402

MULTIPLE = 32
RATIOS = (0.2, 0.3, 0.5)
RIDGE = 1.0
SEED = 0
GREEDY_SHARE = 0.6  # of the layers are taken away one by one: enough to halve the time of a token
REFIT = slice(0, 8)  # sequences to which all plans are refitted
LAYER_JUDGES = (slice(0, 4), slice(0, 64))  # sequences and tokens that judge the removal of layers


def file_of(model: str) -> Path:
    return HERE / ("hybrids.json" if model == INCLUDED_MODEL else f"hybrids-{model}.json")


def keep(stored: dict[str, Any]) -> None:
    """Writes `stored` into its file: a line for each list of numbers and for each row."""
    lines = []
    for name, value in stored.items():
        nested = value and isinstance(value, list) and isinstance(value[0], list | dict)
        if nested:
            rows = ",\n  ".join(map(json.dumps, value))
            content = f"[\n  {rows}\n ]"
        else:
            content = json.dumps(value)
        lines.append(f' "{name}": {content}')
    write_atomically(file_of(stored["model"]), ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def tokens(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """ids (16, 128) that calibrate and windows (16, 128) that judge."""
    source = "+".join(f"calibration:{kind}" for kind in KINDS)
    ids = calibration_tokens(source, tokenizer, sequences=16, length=128, seed=SEED)
    windows_by_text = windows_of("kinds", tokenizer, 128, 2)
    return ids, torch.cat(list(windows_by_text.values()))


def greedy(model: Model, ids: Tensor) -> tuple[list[int], list[float]]:
    """The layers in the order in which they go, and the increase of the loss without each alone.

    The search is lazy, because harm mostly grows as layers go: in each round it tries the layer whose last
    known harm is least, until that layer has been tried in this round.
    """
    alone = sequence_loss_increase(model, ids).mean(1).tolist()
    dense_loss = measure_loss(model, ids).loss
    order: list[int] = []
    harm = dict(enumerate(alone))  # of the layers that are left, when they were last tried
    while len(order) < round(GREEDY_SHARE * len(alone)):
        fresh: set[int] = set() if order else set(harm)
        while (mildest := min(harm, key=harm.__getitem__)) not in fresh:
            removed = {*order, mildest}
            small = shallow_copy(model)
            keep_layers(small, [layer for layer in range(len(alone)) if layer not in removed])
            harm[mildest] = measure_loss(small, ids).loss - dense_loss
            fresh.add(mildest)
        order.append(mildest)
        del harm[mildest]
    return order, alone


def look(model: Model, name: str, ids: Tensor, windows: Tensor) -> dict[str, Any]:
    """What all plans rest on."""
    shape = Shape.of(model)
    removed = shape.neurons[0] - uniform_plan(PlanRequest(shape, RATIOS[0], multiple=MULTIPLE)).neurons[0]
    measured = measure_harm(model, ids, removed)
    counts = list(range(0, measured.sweeps[0].counts.max().item() + 1, MULTIPLE))
    fitted = (len(ids) - JUDGING_SEQUENCES) * ids.shape[
        1
    ]  # tokens: an error per token is a share of the stream's energy
    curves = []
    for layer in range(shape.layer_count):
        errors = measured.errors(layer, shape.neurons[layer])[counts].tolist()
        curves.append([float(f"{error:.4g}") / fitted for error in errors])
    order, alone = greedy(model, ids[LAYER_JUDGES])
    return {
        "model": name,
        "seed": SEED,
        "ridge": RIDGE,
        "multiple": MULTIPLE,
        "dense": list(measure_loss(model, windows).losses),
        "line": list(astuple(line(shape))) if name == INCLUDED_MODEL else [],
        "gone": removed,
        "kl": measured.harm.tolist(),
        "greedy": order,
        "harm": alone,
        "curves": curves,
        "order": [swept.order.tolist() for swept in measured.sweeps],
        "rows": [],
    }


@dataclass(frozen=True)
class Case:
    """A plan to measure."""

    name: str
    budget: str  # "parameters" or "time"
    ratio: float
    plan: Plan
    refit: bool = True

    @property
    def key(self) -> tuple[str, str, float]:
        """By which its row is found."""
        return self.name, self.budget, self.ratio


@dataclass(frozen=True)
class SpeedLine:
    """Milliseconds of a token: fixed + layer for each layer + neuron for each neuron."""

    fixed: float
    layer: float
    neuron: float

    def time(self, layers: int, neurons: int) -> float:
        return self.fixed + self.layer * layers + self.neuron * neurons

    def narrowed(self, shape: Shape, layers: int, ratio: float) -> int:
        """The widest multiple with which so many layers take at most 1 - ratio of the time; <= 0: none."""
        allowed = (1 - ratio) * self.time(shape.layer_count, sum(shape.neurons))
        remaining = allowed - self.time(layers, 0)
        return min(shape.neurons[0], int(remaining / self.neuron / layers) // MULTIPLE * MULTIPLE)


def timed_plan(shape: Shape, name: str) -> Plan:
    """The plan of a model whose speed was measured (on_device.py)."""
    if name == "dense":
        return PlanRequest(shape, 0.5, drop=range(0), multiple=MULTIPLE).plan_with(shape.neurons)
    ratio, layers = PLANS[name]
    return uniform_plan(PlanRequest(shape, ratio, drop=range(layers), multiple=MULTIPLE))


def line(shape: Shape) -> SpeedLine:
    """Least squares through the stored measurements, of models with layers or neurons gone."""
    rows = []
    times = []
    for measured in read_json(HERE / "on_device.json")["speed"]["f16"]["models"]:
        plan = timed_plan(shape, measured["name"])
        rows.append((1, len(plan.layers), sum(plan.neurons)))
        times.append(1000 / np.median(measured["decode"]))
    coefficients = np.linalg.lstsq(np.array(rows, float), np.array(times), rcond=None)[0]
    return SpeedLine(*coefficients.tolist())


def cases(shape: Shape, stored: dict[str, Any]) -> Iterator[Case]:
    """All plans, the more important ratios first."""
    measured = stored_harm(stored)
    at_fifth, *at_rest = (list(by_parameters(shape, stored, ratio, measured)) for ratio in (0.2, 0.5, 0.3))
    yield from at_fifth
    for plans in at_rest:
        yield from plans[:4]
    for ratio in RATIOS if stored["line"] else ():
        yield from by_time(shape, stored, ratio)
    for plans in at_rest:
        yield from plans[4:]


def by_time(shape: Shape, stored: dict[str, Any], ratio: float) -> Iterator[Case]:
    """The plans that save one share of the time of a token."""
    full_width = shape.neurons[0]
    speed = SpeedLine(*stored["line"])
    for name, dropped in (("neurons, uniform", 0), ("few layers, uniform", few_layers(shape, ratio))):
        width = speed.narrowed(shape, shape.layer_count - dropped, ratio)
        if 10 * width >= full_width:
            yield Case(name, "time", ratio, as_plan(shape, stored["greedy"][:dropped], width))
    needed = next(
        dropped
        for dropped in range(shape.layer_count)
        if speed.narrowed(shape, shape.layer_count - dropped, ratio) == full_width
    )
    plan = as_plan(shape, stored["greedy"][:needed], full_width)
    yield Case("layers only, refitted", "time", ratio, plan)


def few_layers(shape: Shape, ratio: float) -> int:
    """How many whole layers a third of the budget pays for."""
    return round(ratio * shape.layer_count / 3)


def as_plan(shape: Shape, drop: Sequence[int], width: int, ratio: float = 0.0001) -> Plan:
    request = PlanRequest(shape, ratio, drop=drop, multiple=MULTIPLE)
    return request.plan_with((width,) * len(request.layers))


def by_parameters(
    shape: Shape, stored: dict[str, Any], ratio: float, measured: MeasuredHarm
) -> Iterator[Case]:
    """The plans for one share of the decoder's parameters."""
    request = partial(PlanRequest, shape, ratio, multiple=MULTIPLE)
    case = partial(Case, budget="parameters", ratio=ratio)
    few = stored["greedy"][: few_layers(shape, ratio)]
    layers_only = as_plan(
        shape, stored["greedy"][: round(ratio * shape.layer_count)], shape.neurons[0], ratio
    )
    yield case("neurons, uniform", plan=uniform_plan(request()))
    yield case("layers only, refitted", plan=layers_only)
    yield case("few layers, uniform", plan=uniform_plan(request(drop=few)))
    yield case("neurons, measured", plan=plan_by_harm(request(), measured))
    yield case("neurons, paper", plan=paper_plan(request(), stored["harm"]))
    yield case("neurons, water-filling", plan=water_filling_plan(request(), measured))
    yield case("layers only", plan=layers_only, refit=False)
    if shape.kv_groups[0] > 1:
        yield case("KV groups, uniform", plan=uniform_plan(request(kv_groups=shape.kv_groups[0] - 1)))
    yield case("few layers, measured", plan=plan_by_harm(request(drop=few), measured))


def measure(model: Model, case: Case, stored: dict[str, Any], ids: Tensor, windows: Tensor) -> dict[str, Any]:
    plan = named_plan(case.plan, stored["order"], Shape.of(model))
    settings = Settings(aim="dense" if case.refit else "self", ridge=RIDGE)
    pruned = prune(model, ids, settings, plan=plan)
    losses = measure_loss(pruned.model, windows).losses
    row = {
        "name": case.name,
        "budget": case.budget,
        "ratio": case.ratio,
        "removed": round(pruned.plan.removed, 6),
        "dropped": list(plan.dropped),
        "neurons": list(plan.neurons),
        "kv_groups": max(plan.kv_groups),
        "losses": [round(loss, 4) for loss in losses],
    }
    mean = np.mean(row["losses"])
    print(f"{case.name}, {case.ratio:.0%} of the {case.budget}: {mean:.3f} nats", flush=True)
    return row


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="most rows to measure in this run")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no other row is begun")
    arguments = parser.parse_args()
    started = time.monotonic()
    model, tokenizer = models.load(arguments.model)
    file = file_of(arguments.model)
    ids, windows = tokens(tokenizer)
    with torch.no_grad():
        if not file.exists():
            keep(look(model, arguments.model, ids, windows))
        stored = read_json(file)
        finished = {(row["name"], row["budget"], row["ratio"]) for row in stored["rows"]}
        missing = [case for case in cases(Shape.of(model), stored) if case.key not in finished]
        for case in missing[: arguments.rows]:
            if time.monotonic() > started + 60 * arguments.minutes:
                break
            stored["rows"].append(measure(model, case, stored, ids[REFIT], windows))
            keep(stored)
            missing = missing[1:]
    print(f"{len(missing)} rows to go")


if __name__ == "__main__":
    main()
