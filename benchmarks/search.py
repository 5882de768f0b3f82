"""A search over widths in the manner of Týr-the-Pruner: does one find better widths than `best` measures?

    python benchmarks/search.py [--rounds N]

Each layer is refitted alone at many widths (levels), to 128 x 256 tokens of `general`; the levels lie on
disk. A search by evolution starts from the widths of `best`. In each child of a plan neurons moved between
layers. The children nearest to the dense model on 2,048 tokens go on to 16,384, and the best of these to
64,000. The last one takes its parent's place if it is nearer there too. None of these tokens is in a fit.
Then COMP carries out both plans, and the evaluation texts of all kinds judge. The result is kept in
benchmarks/search.json.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import torch
from common import HERE, parser_of, settings_of, write_json
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from comp_lib.calibration.texts import KINDS
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.decoder.run import embed, head, layer_arguments
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import parts
from comp_lib.decoder.surgery import shallow_copy, shrink
from comp_lib.decoder.types import Model
from comp_lib.decoder.walk import batches
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.evaluation.windows import windows_of
from comp_lib.hybrid_granularity.measured import gather_and_pass, sweep_and_refit
from comp_lib.hybrid_granularity.narrowing import smallest_width
from comp_lib.hybrid_granularity.plan import Plan
from comp_lib.importance.problem import RIDGE
from comp_lib.pruning.comp import prune
from comp_lib.pruning.planning import make_plan

FILE = HERE / "search.json"
STEP = 64  # neurons between two levels
SEED = 0
FITTED = 128  # sequences to which the levels are refitted
LENGTH = 256  # tokens of a sequence
CHILDREN = 24
STAGES = ((8, 4), (64, 1), (250, 1))  # sequences that judge, and how many plans they let pass
MOVES = 3  # most pairs of layers between which a child moves STEP neurons


def level_file(folder: Path, layer: int, width: int) -> Path:
    return folder / f"{layer}-{width}.safetensors"


def make_levels(model: Model, ids: Tensor, folder: Path) -> None:
    """A file for each layer and width: the refitted weights V (n, m), zero where a neuron went."""
    stream = embed(model, ids)
    arguments = layer_arguments(model, ids.shape[1], "cpu", torch.float32)
    for index, layer in enumerate(model.model.layers):
        weight = parts(layer)["mlp"].output_linear.weight.detach().T
        neurons = len(weight)
        statistics = gather_and_pass(layer, stream, arguments)
        swept, _ = sweep_and_refit(layer, statistics, STEP, RIDGE)
        for removed in range(STEP, neurons - smallest_width(neurons), STEP):
            kept = torch.ones(neurons, dtype=torch.bool).index_fill(0, swept.order[:removed], False)
            refitted = statistics.refit(weight, kept.nonzero().flatten(), RIDGE)
            file = level_file(folder, index, neurons - removed)
            save_file({"weight": refitted.float().contiguous()}, file)


def assembled(model: Model, widths: Sequence[int], folder: Path) -> Model:
    """The model with layers of those widths, taken from their files."""
    small = shallow_copy(model)
    for index, (layer, width) in enumerate(zip(small.model.layers, widths, strict=True)):
        if width < parts(layer)["mlp"].output_linear.in_features:
            weight = load_file(level_file(folder, index, width))["weight"]
            shrink(layer, "mlp", weight.any(1).nonzero().flatten(), weight)
    return small


def states(model: Model, ids: Tensor) -> Tensor:
    """What the head reads, (S, L, d)."""
    return torch.cat([model.model(input_ids=ids[rows], use_cache=False)[0] for rows in batches(*ids.shape)])


def divergence(model: Model, dense: Tensor, small: Tensor) -> float:
    """mean_t KL(p_t || q_t) from what the head reads in two models, (S, L, d) each."""
    dense_pieces = dense.flatten(0, 1).split(512)
    small_pieces = small.flatten(0, 1).split(512)
    total = 0.0
    for dense_piece, small_piece in zip(dense_pieces, small_pieces, strict=True):
        log_p = head(model, dense_piece).log_softmax(-1)
        log_q = head(model, small_piece).log_softmax(-1)
        total += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
    return total / dense[..., 0].numel()


def child_of(widths: Sequence[int], full_width: int, chance: random.Random) -> tuple[int, ...]:
    """A plan in which STEP neurons moved, up to MOVES times, from one layer to another."""
    child = list(widths)
    for _ in range(chance.randint(1, MOVES)):
        givers = [layer for layer, width in enumerate(child) if width - STEP > smallest_width(full_width)]
        child[chance.choice(givers)] -= STEP
        takers = [layer for layer, width in enumerate(child) if width + STEP <= full_width]
        child[chance.choice(takers)] += STEP
    return tuple(child)


def search(
    model: Model, ids: Tensor, start: Plan, folder: Path, rounds: int
) -> tuple[tuple[int, ...], list[float]]:
    """The best widths, and the divergence on all of `ids` (S, L) at the start and after each round."""
    chance = random.Random(SEED)
    full_width = Shape.of(model).neurons[0]
    dense = states(model, ids)

    def distance(widths: tuple[int, ...], sequences: int) -> float:
        small = assembled(model, widths, folder)
        return divergence(model, dense[:sequences], states(small, ids[:sequences]))

    best = start.neurons
    divergences = [distance(best, len(ids))]
    for _ in range(rounds):
        plans = [child_of(best, full_width, chance) for _ in range(CHILDREN)]
        for sequences, passing in STAGES:
            distances = {widths: distance(widths, sequences) for widths in plans}
            plans = sorted(distances, key=distances.__getitem__)[:passing]
        best_child = plans[0]
        nearest = divergences[-1]
        if distances[best_child] < nearest:
            best = best_child
            nearest = distances[best_child]
        divergences.append(nearest)
        print(f"divergence {nearest:.4f}, of the best child {distances[best_child]:.4f}", flush=True)
    return best, divergences


@torch.no_grad()
def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    model, tokenizer = models.load(arguments.model)
    judging, _ = STAGES[-1]
    ids = calibration_tokens(
        "general", tokenizer, model=model, sequences=FITTED + judging, length=LENGTH, seed=SEED
    )
    fitted = ids[:FITTED]
    settings = settings_of(f'{{"widths": "measured", "aim": "dense", "multiple": {STEP}}}')
    start = make_plan(model, fitted, settings)
    with tempfile.TemporaryDirectory() as folder:
        make_levels(model, fitted, Path(folder))
        widths, divergences = search(model, ids[FITTED:], start, Path(folder), arguments.rounds)
    windows_by_text = windows_of("kinds", tokenizer, window_length=512, window_count=8)
    losses = {}
    for name, plan in {"start": start, "found": replace(start, neurons=widths)}.items():
        kinds = judge(prune(model, fitted, settings, plan=plan).model, windows_by_text).texts
        losses[name] = {kind: list(kinds[kind].losses) for kind in KINDS}
    gaps = [np.subtract(losses["found"][kind], losses["start"][kind])[None] for kind in KINDS]
    low, high = confidence_intervals(*gaps)[0]
    print(
        f"loss of the new plan, above that of the start: {np.mean(gaps):.4f} nats ({low:.4f} to {high:.4f})"
    )
    plans = {"start": start.neurons, "found": widths}
    write_json(FILE, {"model": arguments.model, "plans": plans, "divergences": divergences, "losses": losses})


if __name__ == "__main__":
    main()
