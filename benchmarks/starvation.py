"""Which part of COMP starves on a wide layer, the choice of neurons or the refit? And what feeds it?

    python benchmarks/starvation.py --model qwen-coder-0.5b --layers 4,20

A layer's down_proj loses as many neurons as a fifth of the decoder needs. What is left is judged by its error
||X W - X V||^2 / ||X W||^2 on the evaluation texts, where squares are weighted by 1/|h| (in the fit by 1/|h|^2). Each
variant sees 2, 4, ... calibration tokens for each neuron; "all" is the largest amount. Everything else is dense, so
this is the harm of one layer. A row for each layer and amount goes into starvation.json; prints the means.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import torch
from common import HERE, keep_row, options, read_json
from torch import Tensor

from comp_lib.calibration.stream import attention_step, batches, embed, mlp_step, rotary, through
from comp_lib.calibration.windows import calibration_tokens, windows_of
from comp_lib.families import parts
from comp_lib.families.layer import gain_behind
from comp_lib.families.protocol import Layer
from comp_lib.importance.neurons import Problem, energy, full_condition
from comp_lib.models.load import load_model
from comp_lib.recovery.bias import unchanged
from comp_lib.recovery.least_squares import GRID, choose_ridge
from comp_lib.shape import Shape
from comp_lib.statistics.gram import Gram, token_weight

RATIO, WINDOWS, WINDOW = 0.2, 4, 256  # of the decoder; of each kind of text; tokens
RANK, MIXTURES, APART = (
    256,
    2,
    0.5,
)  # of C where the rest is taken for diagonal; mixed tokens for each; how far at most
SETTLED = 3  # rounds of subspace iteration
ROWS = HERE / "starvation.json"


def gathered(layer: Layer, before: Tensor, mixed: int = 0) -> Gram:
    """The sums of down_proj over the stream `before` the MLP (S, L, d), and over so many mixtures for each token."""
    sums, generator = Gram.zeros(parts(layer)["mlp"].linear.in_features), torch.Generator().manual_seed(0)
    for rows in batches(*before.shape[:2]):
        stream = before[rows].flatten(0, 1)
        for turn in range(1 + mixed):
            part = torch.rand(len(stream), 1, generator=generator) * APART * (turn > 0)
            other = stream[torch.randperm(len(stream), generator=generator)]
            after, x = mlp_step(layer, (stream + part * (other - stream))[None])
            sums.add(x, token_weight=token_weight(after))
    return sums


def low_rank(sums: Gram) -> Gram:
    """The same sums with C = Q (Q^T C Q) Q^T of rank RANK, and what is missing of its diagonal."""
    basis = torch.randn(len(sums.xtx), RANK, dtype=sums.precision, generator=torch.Generator().manual_seed(0))
    for _ in range(SETTLED):
        basis = torch.linalg.qr(sums.xtx @ basis)[0]
    matrix = basis @ (basis.T @ sums.xtx @ basis) @ basis.T
    return replace(sums, xtx=matrix + torch.diag((sums.diagonal() - matrix.diagonal()).clamp_min(0.0)))


def study(layer: Layer, before: Tensor, judged: Tensor, keep: int, width: int, cures: int) -> list[dict]:
    """A row for each amount of text: before and judged (S, L, d) are the stream before the MLP.

    cures: the most tokens for each neuron with which cures other than text are tried.
    """
    weight, gain = parts(layer)["mlp"].linear.weight.detach().T, gain_behind(layer, "mlp")
    held = [(x[0], token_weight(after)[0]) for after, x in (mlp_step(layer, one[None]) for one in judged)]
    starts = [0] + [
        round(width * 2**k / before.shape[1]) for k in range(12) if width * 2**k <= before[..., 0].numel()
    ]
    pieces = [gathered(layer, before[first:last]) for first, last in zip(starts, starts[1:], strict=False)]
    weight, upto, rows = weight.to(pieces[0].precision), [pieces[0]], []
    for piece in pieces[1:]:
        upto.append(upto[-1] + piece)

    def dense(sums: Gram, ridge: float) -> Problem:
        return Problem(sums, weight, lambda: weight.new_zeros(len(weight)), ridge=ridge, gain=gain)

    def price(sums: Gram, ridge: float) -> Tensor:
        return full_condition(dense(sums, ridge), keep, torch.Generator()).kept

    def errors(fitted: Tensor) -> list[float]:
        old, gap = weight.float(), (weight - fitted).float()
        return [
            float((trust @ (x @ gap).square()).sum() / (trust @ (x @ old).square()).sum())
            for x, trust in held
        ]

    def ridge_of(seen: Gram, other: Gram) -> float:
        likely = energy(dense(seen, 0.1), keep, torch.Generator()).kept
        return GRID[choose_ridge(seen, other, weight, likely, gain)[1]] / 2

    best = ridge_of(upto[-2], pieces[-1])
    fed = price(upto[-1], best)
    for place in range(1, len(pieces)):
        sums, half, other = upto[place], upto[place - 1], pieces[place]
        ridge = ridge_of(half, other)
        own, cheap = price(sums, ridge), energy(dense(sums, ridge), keep, torch.Generator()).kept
        variants = {
            "price, refit": sums.refit(weight, own, ridge),
            "price, no refit": unchanged(weight, own),
            "price of all, refit": sums.refit(weight, fed, ridge),
            "price, refit of all": upto[-1].refit(weight, own, best),
            "price of all, refit of all": upto[-1].refit(weight, fed, best),
            "energy, refit": sums.refit(weight, cheap, ridge),
            "energy, no refit": unchanged(weight, cheap),
        }
        if 2**place <= cures:
            plain, more = low_rank(sums), gathered(layer, before[: starts[place + 1]], MIXTURES)
            lifted = ridge_of(gathered(layer, before[: starts[place]], MIXTURES), other)
            flat = ridge_of(low_rank(half), other)
            variants |= {
                "price with 3 times the ridge": sums.refit(weight, price(sums, 3 * ridge), ridge),
                "price with a tenth of the ridge": sums.refit(weight, price(sums, ridge / 10), ridge),
                "refit with 3 times the ridge": sums.refit(weight, own, 3 * ridge),
                "low rank and diagonal": plain.refit(weight, price(plain, flat), flat),
                "mixed tokens": more.refit(weight, price(more, lifted), lifted),
                "mixed tokens in the choice": sums.refit(weight, price(more, lifted), ridge),
            }
        judged_as = {name: errors(fitted) for name, fitted in variants.items()}
        rows.append({"tokens_per_neuron": 2**place, "ridge": ridge, "errors": judged_as})
        print(
            2**place, {name: f"{sum(each) / len(each):.2%}" for name, each in judged_as.items()}, flush=True
        )
        gc.collect()
    return rows


@torch.inference_mode()
def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--calibration", default="shipped")
    parser.add_argument("--layers", default="4,20")
    parser.add_argument("--cures", type=int, default=16, help="tokens a neuron up to which cures are tried")
    told = parser.parse_args()
    model, tokenizer = load_model(told.model)
    shape, layers = Shape.of(model), model.model.layers
    ids = calibration_tokens(
        told.calibration, tokenizer, model=model, sequences=told.sequences, length=told.length
    )
    windows = torch.cat([*windows_of("kinds", tokenizer, WINDOW, WINDOWS).values()])
    hidden, judged = embed(model, ids), embed(model, windows)
    rope, short = rotary(model, told.length, "cpu", hidden.dtype), rotary(model, WINDOW, "cpu", hidden.dtype)
    for index in range(1 + max(chosen := [int(one) for one in told.layers.split(",")])):
        if index in chosen:
            before = torch.cat(
                [attention_step(layers[index], hidden[rows], rope)[0] for rows in batches(*ids.shape)]
            )
            width = shape.neurons[index]
            keep = width - round(RATIO * shape.decoder / shape.layers / shape.neuron_parameters)
            for row in study(
                layers[index],
                before,
                attention_step(layers[index], judged, short)[0],
                keep,
                width,
                told.cures,
            ):
                asked = {"model": told.model, "layer": index, "calibration": told.calibration}
                keep_row(ROWS, asked | row, ("ridge", "errors"))
            del before
        hidden, judged = (
            through(layers[index], hidden, rope, "cpu"),
            through(layers[index], judged, short, "cpu"),
        )
        print(f"layer {index} is through", flush=True)
    rows = [row for row in read_json(ROWS) if row["model"] == told.model]
    for amount in sorted({row["tokens_per_neuron"] for row in rows}):
        same = [row["errors"] for row in rows if row["tokens_per_neuron"] == amount]
        means = {name: sum(sum(one[name]) / len(one[name]) for one in same) / len(same) for name in same[0]}
        print(amount, ", ".join(f"{name} {value:.2%}" for name, value in means.items()))


if __name__ == "__main__":
    main()
