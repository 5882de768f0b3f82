"""Hybrids, measured: the same budget spent on layers, KV groups and neurons in different ways.

    python benchmarks/hybrids.py [--model gemma3-270m] [--rows N]

Measures up to N of the plans that benchmarks/hybrids.json lacks, and keeps them there; lesson 03 draws them. One
thing varies: where the budget goes. All plans are carried out on the same 8 x 128 tokens of all kinds of
`data/calibration`; in a layer the neurons go in the order of one sweep over the dense model; what stays is refitted to
the dense stream with one ridge; 16 windows of 128 tokens judge, two of each kind of `data/evaluation`, whose losses
are kept one by one. Layers go greedily by the loss on 4 x 64 tokens of calibration. The divergences by which widths are
measured come from 12 x 128 tokens to fit and 4 x 128 to judge.

Budgets are a share of the decoder's parameters, or of the time of a token as a line through the measurements of
on_device.json (llama.cpp, f16) puts it. Another model than the included one has a file of its own, hybrids-MODEL.json,
and budgets of parameters only. (The stored rows of attentions and MLPs that were left out are of older code.)
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

import numpy as np
import torch
from common import HERE, ROOT, parser_of, read_json
from on_device import PLANS
from torch import Tensor

from comp_lib.calibration.texts import KINDS
from comp_lib.calibration.windows import calibration_tokens, windows_of
from comp_lib.evaluation.loss import perplexity
from comp_lib.families.protocol import Model
from comp_lib.hybrid_granularity.measured import measured_plan
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.layers import sequence_loss_increase
from comp_lib.importance.widths import HELD, Sensitivity, sensitivity
from comp_lib.models.load import EMBEDDED, load_model
from comp_lib.plan import Plan, PlanRequest
from comp_lib.prune import prune
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.surgery import keep_layers, shallow_copy
from comp_lib.system.atomic import write_atomically

sys.path.insert(0, str(ROOT / "notebooks"))
from course.hybrid_granularity import named_plan, stored_sensitivity, water_filling_plan  # noqa: E402

MULTIPLE, RATIOS = 32, (0.2, 0.3, 0.5)
RIDGE = 1.0
SEED = 0
GREEDY = 0.6  # of the layers are taken away one by one: enough to halve the time of a token
REFIT = slice(0, 8)  # sequences to which all plans are refitted
SHORT = slice(0, 4), slice(0, 64)  # sequences and tokens that judge whole layers


def file_of(model: str) -> Path:
    return HERE / ("hybrids.json" if model == EMBEDDED else f"hybrids-{model}.json")


def keep(found: dict[str, Any]) -> None:
    """Into its file: a line for each list of numbers and for each row."""
    lines = []
    for name, value in found.items():
        nested = value and isinstance(value, list) and isinstance(value[0], list | dict)
        rows = ",\n  ".join(map(json.dumps, value)) if nested else ""
        lines.append(f' "{name}": ' + (f"[\n  {rows}\n ]" if nested else json.dumps(value)))
    write_atomically(file_of(found["model"]), ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def tokens(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """ids (16, 128) that calibrate and windows (16, 128) that judge."""
    every = "+".join(f"calibration:{kind}" for kind in KINDS)
    ids = calibration_tokens(every, tokenizer, sequences=16, length=128, seed=SEED)
    return ids, torch.cat(list(windows_of("kinds", tokenizer, 128, 2).values()))


def greedy(model: Model, ids: Tensor) -> tuple[list[int], list[float]]:
    """The layers in the order in which they go, and the increase of the loss without each alone.

    Lazily: harm mostly grows as layers go, so of a round only those are tried whose last harm is least, until one that
    has just been tried stays in front.
    """
    alone = sequence_loss_increase(model, ids).mean(1).tolist()
    whole, order, last = perplexity(model, ids).loss, list[int](), dict(enumerate(alone))
    while len(order) < round(GREEDY * len(alone)):
        fresh: set[int] = set() if order else set(last)
        while (first := min(last, key=last.__getitem__)) not in fresh:
            small, gone = shallow_copy(model), {*order, first}
            keep_layers(small, [layer for layer in range(len(alone)) if layer not in gone])
            last[first] = perplexity(small, ids).loss - whole
            fresh.add(first)
        order.append(first)
        del last[first]
    return order, alone


def look(model: Model, name: str, ids: Tensor, windows: Tensor) -> dict[str, Any]:
    """What all plans rest on."""
    shape, short = Shape.of(model), ids[SHORT]
    lost = shape.neurons[0] - uniform_plan(PlanRequest(shape, RATIOS[0], multiple=MULTIPLE)).neurons[0]
    minds = sensitivity(model, ids, lost)
    steps = range(0, minds.curves[0].counts.max().item() + 1, MULTIPLE)
    fitted = (len(ids) - HELD) * ids.shape[1]  # tokens: an error per token is a share of the stream's energy
    sums = (minds.errors(layer, shape.neurons[layer])[list(steps)] for layer in range(shape.layers))
    order, alone = greedy(model, short)
    return {
        "model": name,
        "seed": SEED,
        "ridge": RIDGE,
        "multiple": MULTIPLE,
        "dense": list(perplexity(model, windows).losses),
        "line": list(astuple(line(shape))) if name == EMBEDDED else [],
        "gone": lost,
        "kl": minds.harm.tolist(),
        "greedy": order,
        "harm": alone,
        "curves": [[float(f"{error:.4g}") / fitted for error in curve.tolist()] for curve in sums],
        "order": [curve.order.tolist() for curve in minds.curves],
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


@dataclass(frozen=True)
class SpeedLine:
    """Milliseconds of a token: fixed + layer for each layer + neuron for each neuron."""

    fixed: float
    layer: float
    neuron: float

    def time(self, layers: int, neurons: int) -> float:
        return self.fixed + self.layer * layers + self.neuron * neurons

    def narrowed(self, shape: Shape, layers: int, ratio: float) -> int:
        """The widest multiple with which so many layers take at most 1 - ratio of the time; 0 or less: none."""
        left = (1 - ratio) * self.time(shape.layers, sum(shape.neurons)) - self.time(layers, 0)
        return min(shape.neurons[0], int(left / self.neuron / layers) // MULTIPLE * MULTIPLE)


def timed_plan(shape: Shape, name: str) -> Plan:
    """The plan of a model whose speed was measured (on_device.py)."""
    ratio, layers = {"dense": (0.0, 0), **PLANS}[name]
    request = PlanRequest(shape, ratio or 0.5, drop=range(layers), multiple=MULTIPLE)
    return uniform_plan(request) if ratio else request.plan(shape.neurons)


def line(shape: Shape) -> SpeedLine:
    """Least squares through the stored measurements, of models with layers or neurons gone."""
    rows, times = [], []
    for each in read_json(HERE / "on_device.json")["speed"]["f16"]["models"]:
        plan = timed_plan(shape, each["name"])
        rows.append((1, len(plan.layers), sum(plan.neurons)))
        times.append(1000 / np.median(each["decode"]))
    return SpeedLine(*np.linalg.lstsq(np.array(rows, float), np.array(times), rcond=None)[0].tolist())


def cases(shape: Shape, found: dict[str, Any]) -> Iterator[Case]:
    """All plans, the more important ratios first."""
    minds = stored_sensitivity(found)
    first, *others = ([*by_parameters(shape, found, ratio, minds)] for ratio in (0.2, 0.5, 0.3))
    yield from first
    for each in others:
        yield from each[:4]
    full = shape.neurons[0]
    for ratio in RATIOS if found["line"] else ():
        speed = SpeedLine(*found["line"])
        for name, count in (("neurons, uniform", 0), ("few layers, uniform", some(shape, ratio))):
            width = speed.narrowed(shape, shape.layers - count, ratio)
            if 10 * width >= full:
                yield Case(name, "time", ratio, as_plan(shape, found["greedy"][:count], width))
        counts = range(shape.layers)
        many = next(count for count in counts if speed.narrowed(shape, shape.layers - count, ratio) == full)
        yield Case("layers only, refitted", "time", ratio, as_plan(shape, found["greedy"][:many], full))
    for each in others:
        yield from each[4:]


def some(shape: Shape, ratio: float) -> int:
    """A third of the budget in whole layers."""
    return round(ratio * shape.layers / 3)


def as_plan(shape: Shape, drop: Sequence[int], width: int, ratio: float = 0.0001) -> Plan:
    request = PlanRequest(shape, ratio, drop=drop, multiple=MULTIPLE)
    return request.plan((width,) * len(request.layers))


def by_parameters(shape: Shape, found: dict[str, Any], ratio: float, minds: Sensitivity) -> Iterator[Case]:
    """The plans for one share of the decoder's parameters."""
    request = partial(PlanRequest, shape, ratio, multiple=MULTIPLE)
    case = partial(Case, budget="parameters", ratio=ratio)
    few, many = some(shape, ratio), round(ratio * shape.layers)
    yield case("neurons, uniform", plan=uniform_plan(request()))
    only = as_plan(shape, found["greedy"][:many], shape.neurons[0], ratio)
    yield case("layers only, refitted", plan=only)
    yield case("few layers, uniform", plan=uniform_plan(request(drop=found["greedy"][:few])))
    yield case("neurons, measured", plan=measured_plan(request(), minds))
    yield case("neurons, paper", plan=paper_plan(request(), found["harm"]))
    yield case("neurons, water-filling", plan=water_filling_plan(request(), minds))
    yield case("layers only", plan=only, refit=False)
    if shape.kv_groups[0] > 1:
        yield case("KV groups, uniform", plan=uniform_plan(request(kv_groups=shape.kv_groups[0] - 1)))
    yield case("few layers, measured", plan=measured_plan(request(drop=found["greedy"][:few]), minds))


def measure(model: Model, case: Case, found: dict[str, Any], ids: Tensor, windows: Tensor) -> dict[str, Any]:
    shape = Shape.of(model)
    plan = named_plan(case.plan, found["order"], shape)
    settings = Settings(aim="dense" if case.refit else "self", ridge=RIDGE)
    done = prune(model, ids, settings, plan=plan)
    row = {
        "name": case.name,
        "budget": case.budget,
        "ratio": case.ratio,
        "removed": round(done.plan.removed, 6),
        "dropped": list(plan.dropped),
        "neurons": list(plan.neurons),
        "kv_groups": max(plan.kv_groups),
        "losses": [round(loss, 4) for loss in perplexity(done.model, windows).losses],
    }
    print(
        f"{case.name}, {case.ratio:.0%} of the {case.budget}: {np.mean(row['losses']):.3f} nats", flush=True
    )
    return row


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="most rows to measure in this run")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no other row is begun")
    arguments, started = parser.parse_args(), time.monotonic()
    model, tokenizer = load_model(arguments.model)
    file = file_of(arguments.model)
    ids, windows = tokens(tokenizer)
    with torch.no_grad():
        if not file.exists():
            keep(look(model, arguments.model, ids, windows))
        found = read_json(file)
        there = {(row["name"], row["budget"], row["ratio"]) for row in found["rows"]}
        missing = [
            one for one in cases(Shape.of(model), found) if (one.name, one.budget, one.ratio) not in there
        ]
        for one in missing[: arguments.rows]:
            if time.monotonic() > started + 60 * arguments.minutes:
                break
            found["rows"].append(measure(model, one, found, ids[REFIT], windows))
            keep(found)
            missing = missing[1:]
    print(f"{len(missing)} rows to go")


if __name__ == "__main__":
    main()
