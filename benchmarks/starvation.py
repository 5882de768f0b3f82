"""Which part of COMP starves on a wide layer, the choice of neurons or the refit? And what feeds it?

    python benchmarks/starvation.py --model qwen-coder-0.5b --layers 4,20

A layer's down_proj loses as many neurons as a fifth of the decoder needs. What is left is judged by its error
||X W - X V||^2 / ||X W||^2 on the evaluation texts, where squares are weighted by 1/|h| (in the fit by
1/|h|^2). Each variant sees 2, 4, ... calibration tokens for each neuron; "all" is the largest amount.
Everything else is dense, so this is the harm of one layer. A row for each layer and amount goes into
starvation.json; the means are printed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import add
from statistics import fmean

import models
import torch
from common import HERE, keep_row, options, read_json
from torch import Tensor

from comp_lib.calibration.windows import calibration_tokens
from comp_lib.decoder.probe import OutputPath
from comp_lib.decoder.run import attention_step, embed, layer_arguments, mlp_step
from comp_lib.decoder.shape import Shape
from comp_lib.decoder.structure import parts
from comp_lib.decoder.types import Layer
from comp_lib.decoder.walk import batches, send_through
from comp_lib.evaluation.windows import windows_of
from comp_lib.importance.neuron_metrics import energy, full_condition
from comp_lib.importance.problem import Problem
from comp_lib.importance.statistics.solve import keep_rows
from comp_lib.importance.statistics.sums import MatrixStatistics, token_weight
from comp_lib.recovery.least_squares import RIDGES, choose_ridge

RATIO = 0.2  # of the decoder
WINDOWS = 4  # of each kind of text, which judge
WINDOW = 256  # tokens of a window
DOUBLINGS = 12  # of the text for each neuron, at most
RANK = 256  # of C where the rest is taken for diagonal
MIXTURES = 2  # mixed tokens for each token
MIXING_SHARE = 0.5  # of the way to another token, at most
SUBSPACE_ROUNDS = 3  # of the iteration that finds the subspace of C
ROWS = HERE / "starvation.json"


def gathered(layer: Layer, before: Tensor, mixtures: int = 0) -> MatrixStatistics:
    """The sums of down_proj over the stream `before` the MLP (S, L, d), and over mixtures of each token."""
    statistics = MatrixStatistics.zeros(parts(layer)["mlp"].output_linear.in_features)
    generator = torch.Generator().manual_seed(0)
    for rows in batches(*before.shape[:2]):
        stream = before[rows].flatten(0, 1)
        for turn in range(1 + mixtures):
            share = torch.rand(len(stream), 1, generator=generator) * MIXING_SHARE * (turn > 0)
            partners = stream[torch.randperm(len(stream), generator=generator)]
            after, x = mlp_step(layer, (stream + share * (partners - stream))[None])
            statistics.add(x, token_weight=token_weight(after))
    return statistics


def low_rank(statistics: MatrixStatistics) -> MatrixStatistics:
    """The same sums with C = Q (Q^T C Q) Q^T of rank RANK, and what is missing of its diagonal."""
    basis = torch.randn(
        len(statistics.xtx), RANK, dtype=statistics.precision, generator=torch.Generator().manual_seed(0)
    )
    for _ in range(SUBSPACE_ROUNDS):
        basis = torch.linalg.qr(statistics.xtx @ basis)[0]
    matrix = basis @ (basis.T @ statistics.xtx @ basis) @ basis.T
    rest = (statistics.diagonal() - matrix.diagonal()).clamp_min(0.0)
    return replace(statistics, _xtx=matrix + torch.diag(rest))


@dataclass(frozen=True)
class DownProj:
    """The down_proj of a layer, of whose neurons `keep` are to stay."""

    weight: Tensor  # W (n, m), in the precision of the sums
    gain: Tensor | None  # (m,), as in Problem
    keep: int

    def problem(self, statistics: MatrixStatistics, ridge: float) -> Problem:
        def no_upstream_norms() -> Tensor:
            return self.weight.new_zeros(len(self.weight))

        return Problem(statistics, self.weight, no_upstream_norms, ridge=ridge, gain=self.gain)

    def by_price(self, statistics: MatrixStatistics, ridge: float) -> Tensor:
        """The neurons that COMP keeps, (keep,)."""
        return full_condition(self.problem(statistics, ridge), self.keep, torch.Generator()).kept

    def by_energy(self, statistics: MatrixStatistics, ridge: float) -> Tensor:
        """The loudest neurons, (keep,)."""
        return energy(self.problem(statistics, ridge), self.keep, torch.Generator()).kept

    def ridge(self, fitted: MatrixStatistics, held_out: MatrixStatistics) -> float:
        """The ridge for the text of both, as the loudest neurons need it."""
        kept = self.by_energy(fitted, 0.1)
        _, position = choose_ridge(fitted, held_out, self.weight, kept, self.gain)
        return RIDGES[position] / 2


@dataclass(frozen=True)
class Judges:
    """The evaluation texts as they reach a down_proj."""

    inputs: list[Tensor]  # X (L, n) of each sequence
    token_weights: list[Tensor]  # (L,)

    @classmethod
    def of(cls, layer: Layer, before: Tensor) -> Judges:
        """From the stream before the MLP (S, L, d)."""
        inputs = []
        token_weights = []
        for sequence in before:
            after, x = mlp_step(layer, sequence[None])
            inputs.append(x[0])
            token_weights.append(token_weight(after)[0])
        return cls(inputs, token_weights)

    def errors(self, weight: Tensor, fitted: Tensor) -> list[float]:
        """||X W - X V||^2 / ||X W||^2 of each sequence, with weighted tokens; W and V are (n, m)."""
        weight = weight.float()
        gap = weight - fitted.float()
        errors = []
        for x, weights in zip(self.inputs, self.token_weights, strict=True):
            lost = (weights @ (x @ gap).square()).sum()
            total = (weights @ (x @ weight).square()).sum()
            errors.append(float(lost / total))
        return errors


def study(layer: Layer, before: Tensor, judged: Tensor, keep: int, cures: int) -> Iterator[dict]:
    """A row for each amount of text: before and judged (S, L, d) are the stream before the MLP.

    cures: the most tokens for each neuron with which cures other than text are tried.
    """
    linear = parts(layer)["mlp"].output_linear
    judges = Judges.of(layer, judged)
    # the text is cut into pieces, which end (in sequences) where a neuron has 1, 2, 4, ... tokens
    length = before.shape[1]
    amounts = [2**k for k in range(DOUBLINGS) if linear.in_features * 2**k <= before[..., 0].numel()]
    ends = [round(linear.in_features * amount / length) for amount in amounts]
    pieces = [gathered(layer, before[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    totals = list(accumulate(pieces, add))
    weight = linear.weight.detach().T.to(pieces[0].precision)
    down_proj = DownProj(weight, OutputPath.of(layer, "mlp").gain, keep)

    all_sums = totals[-1]
    all_ridge = down_proj.ridge(totals[-2], pieces[-1])
    all_kept = down_proj.by_price(all_sums, all_ridge)
    for index in range(1, len(pieces)):
        statistics = totals[index]
        half = totals[index - 1]
        held_out = pieces[index]
        ridge = down_proj.ridge(half, held_out)
        kept = down_proj.by_price(statistics, ridge)
        loudest = down_proj.by_energy(statistics, ridge)
        variants = {
            "price, refit": statistics.refit(weight, kept, ridge),
            "price, no refit": keep_rows(weight, kept),
            "price of all, refit": statistics.refit(weight, all_kept, ridge),
            "price, refit of all": all_sums.refit(weight, kept, all_ridge),
            "price of all, refit of all": all_sums.refit(weight, all_kept, all_ridge),
            "energy, refit": statistics.refit(weight, loudest, ridge),
            "energy, no refit": keep_rows(weight, loudest),
        }
        if amounts[index] <= cures:
            sharper = down_proj.by_price(statistics, 3 * ridge)
            softer = down_proj.by_price(statistics, ridge / 10)
            rank_statistics = low_rank(statistics)
            mixed_sums = gathered(layer, before[: ends[index]], MIXTURES)
            mixed_half = gathered(layer, before[: ends[index - 1]], MIXTURES)
            mixed_ridge = down_proj.ridge(mixed_half, held_out)
            rank_ridge = down_proj.ridge(low_rank(half), held_out)
            rank_kept = down_proj.by_price(rank_statistics, rank_ridge)
            mixed_kept = down_proj.by_price(mixed_sums, mixed_ridge)
            variants |= {
                "price with 3 times the ridge": statistics.refit(weight, sharper, ridge),
                "price with a tenth of the ridge": statistics.refit(weight, softer, ridge),
                "refit with 3 times the ridge": statistics.refit(weight, kept, 3 * ridge),
                "low rank and diagonal": rank_statistics.refit(weight, rank_kept, rank_ridge),
                "mixed tokens": mixed_sums.refit(weight, mixed_kept, mixed_ridge),
                "mixed tokens in the choice": statistics.refit(weight, mixed_kept, ridge),
            }
        errors = {name: judges.errors(weight, fitted) for name, fitted in variants.items()}
        print(amounts[index], {name: f"{fmean(values):.2%}" for name, values in errors.items()}, flush=True)
        yield {"tokens_per_neuron": amounts[index], "ridge": ridge, "errors": errors}
        gc.collect()


@torch.inference_mode()
def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--calibration", default="shipped")
    parser.add_argument("--layers", default="4,20")
    parser.add_argument("--cures", type=int, default=16, help="tokens a neuron up to which cures are tried")
    arguments = parser.parse_args()
    model, tokenizer = models.load(arguments.model)
    shape = Shape.of(model)
    removed = round(
        RATIO * shape.decoder_parameters / shape.layer_count / shape.neuron_parameters
    )  # neurons of a layer
    ids = calibration_tokens(
        arguments.calibration,
        tokenizer,
        model=model,
        sequences=arguments.sequences,
        length=arguments.length,
    )
    windows = torch.cat([*windows_of("kinds", tokenizer, WINDOW, WINDOWS).values()])
    hidden = embed(model, ids)
    judged = embed(model, windows)
    text_arguments = layer_arguments(model, arguments.length, "cpu", hidden.dtype)
    window_arguments = layer_arguments(model, WINDOW, "cpu", hidden.dtype)
    chosen = [int(number) for number in arguments.layers.split(",")]
    for index in range(1 + max(chosen)):
        layer = model.model.layers[index]
        if index in chosen:
            before = torch.cat(
                [attention_step(layer, hidden[rows], text_arguments)[0] for rows in batches(*ids.shape)]
            )
            judged_before, _ = attention_step(layer, judged, window_arguments)
            request = {"model": arguments.model, "layer": index, "calibration": arguments.calibration}
            keep = shape.neurons[index] - removed
            for row in study(layer, before, judged_before, keep, arguments.cures):
                keep_row(ROWS, request | row, ("ridge", "errors"))
            del before
        hidden = send_through(layer, hidden, text_arguments, "cpu")
        judged = send_through(layer, judged, window_arguments, "cpu")
        print(f"layer {index} is through", flush=True)
    print_means([row for row in read_json(ROWS) if row["model"] == arguments.model])


def print_means(rows: list[dict]) -> None:
    """The mean error of each variant over layers and judges, for each amount of text."""
    for amount in sorted({row["tokens_per_neuron"] for row in rows}):
        errors = [row["errors"] for row in rows if row["tokens_per_neuron"] == amount]
        means = {name: fmean(fmean(layer[name]) for layer in errors) for name in errors[0]}
        print(amount, ", ".join(f"{name} {value:.2%}" for name, value in means.items()))


if __name__ == "__main__":
    main()
