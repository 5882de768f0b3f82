"""A search over widths in the manner of Týr-the-Pruner: does one find better widths than `best` measures?

    python benchmarks/search.py [--rounds N]

Each layer is refitted alone at many widths (levels), to 128 x 256 tokens of `general`; the levels lie on disk. A search
by evolution starts from the widths of `best`: of the children of a plan, in each of which neurons moved between layers,
those nearest to the dense model on 2,048 tokens go on to 16,384, the best of these to 64,000, and it takes its parent's
place if it is nearer there too. None of these tokens is in a fit. Then COMP carries out both plans, and the evaluation
texts of all kinds judge. What was found is kept in benchmarks/search.json.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import HERE, parser_of, settings_of, write_json
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from comp_lib.calibration.stream import batches, embed, rotary
from comp_lib.calibration.text import KINDS, windows_of
from comp_lib.calibration.tokens import calibration_tokens
from comp_lib.evaluation.by_kind import judge
from comp_lib.evaluation.confidence import confidence_intervals
from comp_lib.families import parts
from comp_lib.families.frame import head
from comp_lib.families.protocol import Model
from comp_lib.importance.neurons import RIDGE
from comp_lib.importance.widths import narrowed, smallest
from comp_lib.models.load import load_model
from comp_lib.plan import Plan
from comp_lib.planning import make_plan
from comp_lib.prune import prune
from comp_lib.shape import Shape
from comp_lib.surgery import shallow_copy, shrink

FILE = HERE / "search.json"
STEP = 64  # neurons between two levels
SEED, FITTED, LENGTH = 0, 128, 256
CHILDREN, STAGES = 24, ((8, 4), (64, 1), (250, 1))  # judged sequences, and how many plans they let pass
MOVES = 3  # most pairs of layers between which a child moves STEP neurons


def make_levels(model: Model, ids: Tensor, folder: Path) -> None:
    """A file for each layer and width: the refitted weights V (n, m), zero where a neuron went."""
    stream, rope = embed(model, ids), rotary(model, ids.shape[1], "cpu", torch.float32)
    for index, layer in enumerate(model.model.layers):
        weight = parts(layer)["mlp"].linear.weight.detach().T
        curve, gram, _ = narrowed(layer, stream, rope, STEP, RIDGE)
        for gone in range(STEP, len(weight) - smallest(len(weight)), STEP):
            kept = torch.ones(len(weight), dtype=torch.bool).index_fill(0, curve.order[:gone], False)
            refitted = gram.refit(weight, kept.nonzero().flatten(), RIDGE)
            save_file(
                {"weight": refitted.float().contiguous()},
                folder / f"{index}-{len(weight) - gone}.safetensors",
            )


def assembled(model: Model, widths: Sequence[int], folder: Path) -> Model:
    """The model with layers of those widths, taken from their files."""
    small = shallow_copy(model)
    for index, (layer, width) in enumerate(zip(small.model.layers, widths, strict=True)):
        if width < parts(layer)["mlp"].linear.in_features:
            weight = load_file(folder / f"{index}-{width}.safetensors")["weight"]
            shrink(layer, "mlp", weight.any(1).nonzero().flatten(), weight)
    return small


def states(model: Model, ids: Tensor) -> Tensor:
    """What the head reads, (S, L, d)."""
    return torch.cat([model.model(input_ids=ids[rows], use_cache=False)[0] for rows in batches(*ids.shape)])


def divergence(model: Model, dense: Tensor, small: Tensor) -> float:
    """mean_t KL(p_t || q_t) from what the head reads in two models, (S, L, d) each."""
    pieces = zip(*(stream.flatten(0, 1).split(512) for stream in (dense, small)), strict=True)
    answers = ([head(model, part).log_softmax(-1) for part in pair] for pair in pieces)
    total = sum(float(F.kl_div(q, p, reduction="sum", log_target=True)) for p, q in answers)
    return total / dense[..., 0].numel()


def child_of(widths: Sequence[int], full: int, chance: random.Random) -> tuple[int, ...]:
    """A plan in which STEP neurons moved, up to MOVES times, from one layer to another."""
    child = list(widths)
    for _ in range(chance.randint(1, MOVES)):
        child[
            chance.choice([layer for layer, width in enumerate(child) if width - STEP > smallest(full)])
        ] -= STEP
        child[chance.choice([layer for layer, width in enumerate(child) if width + STEP <= full])] += STEP
    return tuple(child)


def search(
    model: Model, ids: Tensor, start: Plan, folder: Path, rounds: int
) -> tuple[tuple[int, ...], list[float]]:
    """The widths found, and the divergence on all of `ids` (S, L) at the start and after each round."""
    chance, best, full, dense = (
        random.Random(SEED),
        start.neurons,
        Shape.of(model).neurons[0],
        states(model, ids),
    )

    def far(widths: tuple[int, ...], count: int) -> float:
        return divergence(model, dense[:count], states(assembled(model, widths, folder), ids[:count]))

    found = [far(best, len(ids))]
    for _ in range(rounds):
        plans = [child_of(best, full, chance) for _ in range(CHILDREN)]
        for count, passing in STAGES:
            distances = {widths: far(widths, count) for widths in plans}
            plans = sorted(distances, key=distances.__getitem__)[:passing]
        best, nearest = min((best, found[-1]), (plans[0], distances[plans[0]]), key=lambda pair: pair[1])
        found.append(nearest)
        print(f"divergence {nearest:.4f}, of the best child {distances[plans[0]]:.4f}", flush=True)
    return best, found


@torch.no_grad()
def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    count = FITTED + STAGES[-1][0]
    ids = calibration_tokens("general", tokenizer, model=model, sequences=count, length=LENGTH, seed=SEED)
    fitted, settings = (
        ids[:FITTED],
        settings_of(f'{{"widths": "measured", "aim": "dense", "multiple": {STEP}}}'),
    )
    start = make_plan(model, fitted, settings)
    with tempfile.TemporaryDirectory() as folder:
        make_levels(model, fitted, Path(folder))
        widths, divergences = search(model, ids[FITTED:], start, Path(folder), arguments.rounds)
    windows = windows_of("kinds", tokenizer, length=512, sequences=8)
    losses = {}
    for name, plan in {"start": start, "found": replace(start, neurons=widths)}.items():
        kinds = judge(prune(model, fitted, settings, plan=plan).model, windows).kinds
        losses[name] = {kind: list(kinds[kind].losses) for kind in KINDS}
    more = [np.subtract(losses["found"][kind], losses["start"][kind])[None] for kind in KINDS]
    low, high = confidence_intervals(*more)[0]
    print(
        f"loss of the plan found, above that of the start: {np.mean(more):.4f} nats ({low:.4f} to {high:.4f})"
    )
    plans = {"start": start.neurons, "found": widths}
    write_json(FILE, {"model": arguments.model, "plans": plans, "divergences": divergences, "losses": losses})


if __name__ == "__main__":
    main()
