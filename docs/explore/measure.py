"""Take the numbers of docs/explore.html from SmolLM2 by comp_lib: `python docs/explore/measure.py PART`

    python docs/explore/measure.py layer      part 3: one layer's Gram matrix, and the race (two minutes)
    python docs/explore/measure.py budget     part 4: plans, from benchmarks/hybrids.json (seconds)
    python docs/explore/measure.py tokens     part 5: attention, norms, losses without a layer (a minute)
    python docs/explore/measure.py costs      part 1: texts and losses at eleven ratios (hours, see --minutes)

Each part keeps its numbers in docs/explore/numbers, from where `make explore` takes them. The part "costs"
prunes twenty times: it keeps each result at once, and a later call goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packing import from_half_bytes, from_triangle, half_bytes, triangle_of
from torch import Tensor

from comp_lib import __version__
from comp_lib.calibration.texts import EVERY_KIND, KINDS
from comp_lib.calibration.windows import Calibration
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import layers_of, parts
from comp_lib.decoder.types import Model
from comp_lib.decoder.walk import walk
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_interval
from comp_lib.evaluation.generation import continuation
from comp_lib.evaluation.windows import windows_of
from comp_lib.hybrid_granularity.by_harm import HARM_EXPONENT, plan_by_harm
from comp_lib.hybrid_granularity.measured import gather_and_pass
from comp_lib.hybrid_granularity.narrowing import smallest_width
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.matrix_condition import Sweep, sweep
from comp_lib.importance.neuron_metrics import METRICS
from comp_lib.importance.problem import RIDGE, Problem
from comp_lib.importance.statistics.solve import least_squares, penalty, spd_inverse, with_ridge
from comp_lib.importance.statistics.sums import MatrixStatistics
from comp_lib.pruning.comp import prune
from comp_lib.pruning.settings import Settings
from comp_lib.utils.files import write_atomically

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "notebooks"))
from course.hybrid_granularity import stored_harm  # noqa: E402

NUMBERS = HERE / "numbers"
SEED = 0

# Part 1.
RATIOS = (0.2, 0.5, 0.1, 0.3, 0.4, 0.05, 0.15, 0.25, 0.35, 0.45)  # and 0, the dense model
WAYS = ("stock", "tailored")
CALIBRATION = "general"
SEQUENCES = 128
LENGTH = 256
WINDOW = 512
NEW_TOKENS = 40
PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "The author of Romeo and Juliet is",
    "The planet that is nearest to the Sun is",
    "The water cycle begins when the sun",
    "def is_prime(n):",
    "Question: What is 7 times 8? Answer:",
    "Dear Anna, thank you for your letter.",
)

# Part 3.
LAYER = 15
LAYER_SEQUENCES = 64
OUTPUTS = 128
PER_ROUND = 32
FEWEST = 160  # the narrowest width of the page: a tenth, as plans have it, and a multiple of PER_ROUND
COMPARED_WIDTH = 1120  # the width of a fifth off the decoder

# Part 4.
BUDGET_RATIOS = tuple(step / 20 for step in range(1, 11))
BUDGET_PLANS = {  # the page's name of a plan -> its name in benchmarks/hybrids.json
    "uniform": "neurons, uniform",
    "measured": "neurons, measured",
    "layers": "layers only, refitted",
    "groups": "KV groups, uniform",
}

# Part 5.
TEXTS = {
    "prose": "The old lighthouse keeper climbed the stairs every evening. When the lamp was lit, he wrote "
    "the weather into his book and waited for the ships to pass.",
    "facts": "Paris is the capital of France, and Berlin is the capital of Germany. The capital of Italy is "
    "Rome, and the capital of Spain is Madrid.",
    "code": 'def add(a, b):\n    """Return the sum of a and b."""\n    return a + b\n\nprint(add(2, 3))\n',
}
SILENCED_LAYER = 11  # the layer whose MLP makes the first state long (lesson 01)


def commit() -> str:
    """The commit at which the numbers are taken."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def made(part: str, text: str) -> dict[str, Any]:
    """Where numbers come from; text: what was read, in words."""
    return {
        "command": f"python docs/explore/measure.py {part}",
        "commit": commit(),
        "model": INCLUDED_MODEL,
        "text": text,
        "seed": SEED,
        "versions": f"comp-lib {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def say(words: str) -> None:
    """A line for the one who waits."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def keep(name: str, values: dict[str, Any]) -> None:
    """Write the numbers of a part: a line for each of its fields."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    NUMBERS.mkdir(exist_ok=True)
    write_atomically(NUMBERS / f"{name}.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def rounded(values: Tensor | Sequence[float], digits: int = 6) -> list[float]:
    """Numbers with so many significant digits."""
    return [float(f"{float(value):.{digits}g}") for value in values]


# ---------------------------------------------------------------------- part 1: costs


def quality(model: Model, tokenizer: Any, windows: dict[str, Tensor], removed: float) -> dict[str, Any]:
    """What the page says of a model: its size, its losses by kind of text, and what it writes."""
    shape = Shape.of(model)
    judged = judge(model, windows)
    return {
        "removed": round(removed, 4),
        "parameters": shape.total_parameters,
        "bytes": 2 * shape.total_parameters,
        "neurons": list(shape.neurons),
        "losses": {kind: round(evaluation.loss, 4) for kind, evaluation in judged.texts.items()},
        "texts": [continuation(model, tokenizer, prompt, NEW_TOKENS) for prompt in PROMPTS],
    }


def measure_costs(minutes: float) -> None:
    """Prune by each of WAYS at each of RATIOS, as far as the numbers lack it and `minutes` last."""
    file = NUMBERS / "costs.json"
    text = f"calibration {CALIBRATION!r}, {SEQUENCES} x {LENGTH} tokens; judged on the evaluation texts"
    stored: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    started = time.monotonic()
    model, tokenizer = load_model(INCLUDED_MODEL)
    windows = windows_of(EVERY_KIND, tokenizer, WINDOW)
    if not stored:
        stored = {
            "made": made("costs", text),
            "window": WINDOW,
            "kinds": list(KINDS),
            "prompts": list(PROMPTS),
        }
        stored["dense"] = quality(model, tokenizer, windows, 0.0)
        stored["runs"] = {way: {} for way in WAYS}
        keep("costs", stored)
    missing = [(ratio, way) for ratio in RATIOS for way in WAYS if str(ratio) not in stored["runs"][way]]
    ids = None
    for ratio, way in missing:
        if time.monotonic() > started + 60 * minutes:
            break
        if ids is None:
            ids = Calibration(CALIBRATION, SEQUENCES, LENGTH, SEED).tokens(tokenizer, model=model)
        pruned = prune(model, ids, Settings.preset(way, ratio=ratio))
        run = quality(pruned.model, tokenizer, windows, pruned.plan.removed)
        stored["runs"][way][str(ratio)] = run | {"commit": commit()}
        keep("costs", stored)
        mean = np.mean([*run["losses"].values()])
        say(f"{way} {ratio:.0%}: {mean:.3f} nats, {time.monotonic() - started:.0f} s")
    left = sum(str(ratio) not in stored["runs"][way] for ratio in RATIOS for way in WAYS)
    say(f"{left} of {len(RATIOS) * len(WAYS)} runs to go")


# ---------------------------------------------------------------------- part 3: layer


def layer_sums(model: Model, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """C (n, n) of the inputs of a layer's down_proj on ids (S, L), and its weights W (n, d), float64."""
    for visit in walk(model, ids):
        if visit.index == layer:
            statistics = gather_and_pass(visit.layer, visit.before.clone(), visit.arguments)
            weight = parts(visit.layer)["mlp"].output_linear.weight.detach().T.double()
            return statistics.xtx.double(), weight
    raise IndexError(f"expected a layer of the model, got {layer}")


def packed_layer(xtx: Tensor, weight: Tensor, outputs: int) -> tuple[bytes, bytes, float]:
    """R above its diagonal and W in `outputs` principal outputs, in half precision; their share of energy.

    R is C with each input divided by its length; W (n, outputs) is multiplied by that length, and its largest
    number is 1. The principal outputs are those directions of the output in which the layer writes most.
    """
    lengths = xtx.diagonal().clamp_min(1e-300).sqrt()
    correlations = xtx / lengths[:, None] / lengths
    scaled = lengths[:, None] * weight
    energies, directions = torch.linalg.eigh(scaled.T @ correlations @ scaled)  # ascending
    principal = scaled @ directions[:, -outputs:].flip(1)
    share = float(energies[-outputs:].sum() / energies.sum())
    return half_bytes(triangle_of(correlations)), half_bytes(principal / principal.abs().max()), share


def unpacked_layer(gram: bytes, weights: bytes, size: int) -> tuple[Tensor, Tensor]:
    """R (n, n) and W (n, m), as a page computes with them."""
    return from_triangle(from_half_bytes(gram), size), from_half_bytes(weights).reshape(size, -1)


def price_sweep(xtx: Tensor, weight: Tensor, remove: int, per_round: int | None = None) -> Sweep:
    """The sweep of comp_lib by price, with the ridge of the library."""
    inverse, _ = spd_inverse(with_ridge(xtx, RIDGE))
    penalties = penalty(xtx.diagonal(), RIDGE)
    return sweep(inverse, weight, remove, per_round=per_round, input_penalties=penalties)


def race(gram: Tensor, weight: Tensor, remove: int, per_round: int) -> dict[str, Any]:
    """Errors, as shares of the output's energy, by price, by energy and at random, refitted and not."""
    size = len(gram)
    problem = Problem(
        MatrixStatistics.of(gram), weight, upstream_norms=lambda: weight.new_zeros(size), ridge=RIDGE
    )
    energy = float((weight * (gram @ weight)).sum())
    swept = price_sweep(gram, weight, remove, per_round)
    generator = torch.Generator().manual_seed(SEED)
    orders = {"price": swept.order}
    for name in ("energy", "random"):
        scores = METRICS[name](problem, size - remove, generator).scores
        orders[name] = torch.argsort(scores, stable=True)[:remove]
    counts = swept.counts.tolist()
    found: dict[str, Any] = {"counts": counts, "random_order": orders["random"].tolist()}
    for name, order in orders.items():
        bare = []
        fitted = []
        for count in counts:
            kept = torch.ones(size, dtype=torch.bool)
            kept[order[:count]] = False
            lost = weight * ~kept[:, None]
            bare.append(float((lost * (gram @ lost)).sum()) / energy)
            if name != "price":
                refit = least_squares(gram, gram @ weight, weight, kept.nonzero().flatten(), RIDGE)
                gap = weight - refit
                fitted.append(float((gap * (gram @ gap)).sum()) / energy)
        if name == "price":
            fitted = (swept.errors / energy).tolist()
        found[name] = {"bare": rounded(bare), "refitted": rounded(fitted)}
    return found


def measure_layer(minutes: float) -> None:
    """The Gram matrix of one layer and its weights, and what comp_lib makes of them."""
    model, tokenizer = load_model(INCLUDED_MODEL)
    ids = Calibration("shipped", LAYER_SEQUENCES, LENGTH, SEED).tokens(tokenizer)
    with torch.no_grad():
        xtx, weight = layer_sums(model, ids, LAYER)
    size = len(xtx)
    gram_bytes, weight_bytes, share = packed_layer(xtx, weight, OUTPUTS)
    gram, principal = unpacked_layer(gram_bytes, weight_bytes, size)
    removed = size - COMPARED_WIDTH
    whole = price_sweep(xtx, weight, removed, PER_ROUND)
    energy = float((weight * (xtx @ weight)).sum())
    NUMBERS.mkdir(exist_ok=True)
    write_atomically(NUMBERS / "layer_gram.bin", gram_bytes)
    write_atomically(NUMBERS / "layer_weights.bin", weight_bytes)
    text = (
        f"calibration 'shipped', {LAYER_SEQUENCES} x {LENGTH} tokens, each divided by the length of its state"
    )
    values = {
        "made": made("layer", text),
        "layer": LAYER,
        "size": size,
        "outputs": principal.shape[1],
        "ridge": RIDGE,
        "per_round": PER_ROUND,
        "fewest": FEWEST,
        "energy_share": round(share, 4),
        "compared_width": COMPARED_WIDTH,
        "whole_error": float(whole.errors[-1]) / energy,
        "race": race(gram, principal, size - FEWEST, PER_ROUND),
    }
    keep("layer", values)
    found = values["race"]["price"]["refitted"][removed // PER_ROUND - 1]
    say(f"error at {COMPARED_WIDTH}: {found:.4%} as packed, {values['whole_error']:.4%} of all outputs")
    say(f"the {OUTPUTS} principal outputs have {share:.1%} of the energy")


# ---------------------------------------------------------------------- part 4: budget


def budget_plans(shape: Shape, record: dict[str, Any], ratio: float) -> dict[str, Plan]:
    """The four ways to spend a budget, by the page's names."""
    multiple = record["multiple"]
    request = PlanRequest(shape, ratio, multiple=multiple)
    dropped = record["greedy"][: round(ratio * shape.layer_count)]
    layers = PlanRequest(shape, ratio, drop=dropped, multiple=multiple)
    fewer_groups = PlanRequest(shape, ratio, kv_groups=shape.kv_groups[0] - 1, multiple=multiple)
    return {
        "uniform": uniform_plan(request),
        "measured": plan_by_harm(request, stored_harm(record)),
        "layers": layers.plan_with((shape.neurons[0],) * len(layers.layers)),
        "groups": uniform_plan(fewer_groups),
    }


def predicted_harms(record: dict[str, Any], removed: Sequence[int]) -> list[float]:
    """The predicted harm of each layer that loses so many neurons, as `plan_by_harm` adds it up."""
    harms = stored_harm(record)
    found = []
    for layer, count in enumerate(removed):
        errors = harms.errors(layer, record["multiple"] * (len(record["curves"][layer]) - 1))
        share = float(errors[count] / errors[harms.removals[layer]])
        found.append(float(harms.harm[layer]) ** HARM_EXPONENT * share)
    return found


def measure_budget(minutes: float) -> None:
    """Plans at all ratios, the curves that predict their harm, and the losses that are stored."""
    record = json.loads((ROOT / "benchmarks" / "hybrids.json").read_text("utf-8"))
    model, _ = load_model(INCLUDED_MODEL)
    shape = Shape.of(model)
    dense = np.array(record["dense"])
    plans: dict[str, Any] = {}
    for ratio in BUDGET_RATIOS:
        for name, plan in budget_plans(shape, record, ratio).items():
            widths = [0] * shape.layer_count
            for layer, width in zip(plan.layers, plan.neurons, strict=True):
                widths[layer] = width
            row = {"widths": widths, "kv_groups": max(plan.kv_groups), "removed": round(plan.removed, 4)}
            for stored in record["rows"]:
                key = (stored["budget"], stored["ratio"], stored["name"])
                if key == ("parameters", ratio, BUDGET_PLANS[name]):
                    gaps = (np.array(stored["losses"]) - dense).tolist()
                    row["increase"] = rounded([np.mean(gaps), *confidence_interval(gaps)], 4)
            plans.setdefault(name, {})[str(ratio)] = row
    text = "16 windows of 128 tokens, two of each kind of the evaluation texts (benchmarks/hybrids.py)"
    curves = [rounded(row, 4) for row in record["curves"]]
    values = {
        "made": made("budget", text),
        "neurons": list(shape.neurons),
        "kv_groups": shape.kv_groups[0],
        "multiple": record["multiple"],
        "exponent": HARM_EXPONENT,
        "removed": int(record["gone"]),
        "fewest": record["multiple"] * -(-smallest_width(shape.neurons[0]) // record["multiple"]),
        "neuron_parameters": shape.neuron_parameters,
        "group_parameters": shape.group_parameters,
        "layer_parameters": shape.parameters_of_layer(0),
        "dense_loss": round(float(dense.mean()), 4),
        "harm": rounded(record["kl"], 5),
        "curves": curves,
        "plans": plans,
    }
    keep("budget", values)


# ---------------------------------------------------------------------- part 5: tokens


@torch.no_grad()
def token_losses(model: Model, states: Tensor, ids: Tensor) -> Tensor:
    """-log p of each token of ids (L,) but the first, (L - 1,), from the last layer's states (1, L, d)."""
    decoder_logits = model.lm_head(model.model.norm(states))[0].float()  # (L, V)
    log_probabilities = decoder_logits[:-1].log_softmax(-1)
    return -log_probabilities[torch.arange(len(ids) - 1), ids[1:]]


@torch.no_grad()
def text_numbers(model: Model, tokenizer: Any, text: str, silenced: int) -> dict[str, Any]:
    """What part 5 shows of a text: attention, norms, and each token's loss, also without each layer.

    silenced: the layer whose MLP writes nothing at position 0, in one more row of losses.
    """
    ids = tokenizer(text, return_tensors="pt")["input_ids"]  # (1, L)
    attention = attention_maps(model, ids)
    without: list[Tensor] = []
    norms = []
    silent = torch.empty(0)
    for visit in walk(model, ids):
        without = [visit.send_through(stream) for stream in without]
        without.append(visit.before)
        if visit.index > silenced:
            silent = visit.send_through(silent)
        if visit.index == silenced:
            silent = silent_first(visit)
        norms.append(visit.before[0].norm(dim=-1))
        last = visit.after
    norms.append(last[0].norm(dim=-1))
    losses = [token_losses(model, stream, ids[0]) for stream in (last, *without, silent)]
    return {
        "tokens": [tokenizer.decode([token]) for token in ids[0].tolist()],
        "attention": attention,
        "norms": [rounded(row, 4) for row in norms],
        "loss": rounded(losses[0], 4),
        "without": [rounded(row, 4) for row in losses[1:-1]],
        "silenced": rounded(losses[-1], 4),
    }


def silent_first(visit: Any) -> Tensor:
    """The states after a layer whose MLP writes nothing at position 0."""

    def write_nothing(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(1, torch.tensor([0]), 0.0)

    hook = visit.layer.mlp.register_forward_hook(write_nothing)
    states = visit.send_through(visit.before)
    hook.remove()
    return states


def attention_maps(model: Model, ids: Tensor) -> list[str]:
    """For each layer the mean over its heads: two letters (hexadecimal, 255 is 100%) for each share.

    The positions that look come one after the other, and each looks at itself and at those before it.
    """
    model.set_attn_implementation("eager")  # the one that returns its maps
    maps = model(input_ids=ids, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    rows, columns = torch.tril_indices(ids.shape[1], ids.shape[1])
    letters = []
    for layer in maps:
        shares = layer[0].mean(0)[rows, columns]
        letters.append(bytes((255 * shares).round().clamp(0, 255).to(torch.uint8).tolist()).hex())
    return letters


def measure_tokens(minutes: float) -> None:
    """Attention, norms and losses of the three texts."""
    model, tokenizer = load_model(INCLUDED_MODEL)
    values: dict[str, Any] = {
        "made": made("tokens", "three short texts of this page"),
        "layers": len(layers_of(model)),
        "silenced_layer": SILENCED_LAYER,
        "texts": {name: text_numbers(model, tokenizer, text, SILENCED_LAYER) for name, text in TEXTS.items()},
    }
    keep("tokens", values)


PARTS: dict[str, Callable[[float], None]] = {
    "costs": measure_costs,
    "layer": measure_layer,
    "budget": measure_budget,
    "tokens": measure_tokens,
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Take the numbers of a part of docs/explore.html.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no other pruning is begun")
    options = parser.parse_args(arguments)
    PARTS[options.part](options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
