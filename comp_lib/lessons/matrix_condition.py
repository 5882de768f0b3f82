"""Metrics on trial: what they say of the neurons of `down_proj`, and what removing neurons was then measured to cost.

Three judges, from near to far: the error of the layer's own output with all others re-tuned, on the calibration text
and on a text it never saw; the same when many neurons go at once; the perplexity of the model. (Notebook 02.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..families.protocol import Model
from ..importance.matrix_condition import condition_numbers, sweep
from ..importance.neurons import METRICS, RIDGE, Dense, full_sweep, metric, top
from ..recovery.bias import unchanged
from ..statistics.gram import contributions
from ..statistics.solve import penalty, spd_inverse
from ..surgery import shallow_copy, shrink_mlp
from .cache import Tensors, cached
from .dense_stream import dense_problem, layer_of, loss_behind, relative_error, walk_to

Names = Sequence[str]
READINGS = (*METRICS, "condition alone", "share of output")
SWEPT = ("full-condition", "mask-condition")  # by COMP, in rounds
ONE_LOOK = "full-condition, one look"  # the same scores, but the lowest go at once: no rounds


def reading(dense: Dense, name: str) -> Tensor:
    """A way to score the inputs of a dense layer before any has gone: (n,), larger is worth more.

    A metric of `importance.neurons` (COMP's two, and ONE_LOOK, before their first round; energy squared), or one of two
    that COMP is not: "condition alone", 1 / kappa, and "share of output", <a_i, Y> = (G 1)_i, which may be negative.
    """
    if name == "share of output":
        return contributions(dense.xtx, dense.weight).sum(1)
    if name == "condition alone":
        return 1.0 / condition_numbers(*dense.full_problem())
    if name == "mask-condition":
        matrix, inverse = dense.mask_problem()
        return matrix.diagonal() / condition_numbers(matrix, inverse).square()
    known = "full-condition" if name == ONE_LOOK else name
    scores = metric(known)(dense, dense.blocks, torch.Generator().manual_seed(0)).scores
    return scores.square() if name == "energy" else scores


def readings(dense: Dense, names: Names = READINGS) -> Tensors:
    """Each of `names`, READINGS or ONE_LOOK -> its `reading` (n,)."""
    return {name: reading(dense, name) for name in names}


def condition_changes(xtx: Tensor) -> Tensor:
    """How much the condition number of C (n, n) falls when one input leaves: cond(C) / cond(C without i), (n,).

    n eigenvalue problems of size n - 1: a reading of "matrix condition" for small matrices only.
    """

    def condition(kept: Tensor) -> float:
        values = torch.linalg.eigvalsh(xtx[kept][:, kept])
        return float(values[-1] / values[0])

    everyone = torch.arange(len(xtx))
    whole = condition(everyone)
    return torch.tensor([whole / condition(everyone[everyone != i]) for i in everyone], dtype=torch.float64)


@cached
def single_removals(model: Model, ids: Tensor, unseen: Tensor, layer: int, neurons: Sequence[int]) -> Tensors:
    """What removing one neuron costs, measured: all others fitted from scratch, once for each of `neurons` (k,).

    Shares of ||X W||^2, tokens weighted: "retuned" (k,) on `ids`, "unseen" (k,) on the other text; "objective" (k,):
    the error on `ids` plus the ridge's penalty, which is what the least squares minimise.
    """
    dense, other = dense_problem(model, ids, layer), dense_problem(model, unseen, layer).xtx
    whole, held, rows = dense.sums.energy(dense.weight), penalty(dense.xtx.diagonal(), dense.ridge), []
    for neuron in neurons:
        kept = (torch.arange(dense.blocks) != neuron).nonzero().flatten()
        fitted = dense.sums.refit(dense.weight, kept, dense.ridge)
        gap = dense.weight - fitted
        error, pull = dense.sums.energy(gap), float(held @ gap.square().sum(1))
        rows.append([error / whole, relative_error(other, dense.weight, fitted), (error + pull) / whole])
    return dict(zip(("retuned", "unseen", "objective"), torch.tensor(rows).double().T, strict=True))


@cached
def choice_errors(
    model: Model, ids: Tensor, unseen: Tensor, layer: int, remove: int, ridge: float = RIDGE, names: Names = READINGS
) -> Tensors:
    """Error of down_proj when `remove` neurons go by each of `names`, READINGS or ONE_LOOK; COMP's two go in rounds.

    name -> (3,): not re-tuned, re-tuned, and the latter on the text `unseen`, as shares of ||X W||^2 with tokens
    weighted; "kept:name" (k,): the neurons that stay.
    """
    dense, other = dense_problem(model, ids, layer, ridge=ridge), dense_problem(model, unseen, layer).xtx
    errors: Tensors = {}
    for name in names:
        kept, fitted = _choice(dense, dense.blocks - remove, name)
        cases = ((dense.xtx, unchanged(dense.weight, kept)), (dense.xtx, fitted), (other, fitted))
        shares = [relative_error(xtx, dense.weight, new) for xtx, new in cases]
        errors |= {f"kept:{name}": kept, name: torch.tensor(shares, dtype=torch.float64)}
    return errors


def _choice(dense: Dense, keep: int, name: str) -> tuple[Tensor, Tensor]:
    """Inputs that stay (keep,), by COMP's sweep or by a reading, and the weights V (n, m) fitted to them."""
    chosen = metric(name)(dense, keep, torch.Generator()) if name in SWEPT else top(reading(dense, name), keep)
    if chosen.retuned is not None:  # full-condition's sweep ends with the fit
        return chosen.kept, chosen.retuned
    return chosen.kept, dense.sums.refit(dense.weight, chosen.kept, dense.ridge)


@cached
def ridge_errors(
    model: Model, ids: Tensor, unseen: Tensor, layer: int, remove: int, ridges: Sequence[float]
) -> Tensors:
    """What the ridge does when `remove` neurons go by full-condition: one number for each of `ridges` (R,).

    "seen" and "unseen": error re-tuned, on either text; "condition": the median kappa before anything goes; "even seen"
    and "even unseen": the errors with the penalty of plain ridge regression, lambda mean(diag C) for all inputs alike.
    """
    dense, other = dense_problem(model, ids, layer), dense_problem(model, unseen, layer).xtx
    xtx, weight, rows = dense.xtx, dense.weight, []
    mean = torch.diag(xtx.diagonal().mean().expand(len(xtx)))
    for ridge in ridges:
        swept, condition = full_sweep(replace(dense, ridge=ridge), dense.blocks - remove)
        even = sweep(spd_inverse(xtx + ridge * mean)[0], weight, remove)
        errors = [relative_error(gram, weight, fit.weights) for fit in (swept, even) for gram in (xtx, other)]
        rows.append([*errors, float(condition.median())])
    names = ("seen", "unseen", "even seen", "even unseen", "condition")
    return dict(zip(names, torch.tensor(rows).double().T, strict=True))


@cached
def weighting_errors(model: Model, ids: Tensor, unseen: Tensor, layer: int, remove: int) -> Tensor:
    """What dividing each token by ||h_t|| changes: errors (2, 2) of down_proj on `unseen`, `remove` neurons gone.

    Rows: chosen and fitted with weighted tokens, with plain ones. Columns: measured with weighted tokens, with plain.
    """
    rows, weightings = [], (True, False)
    judges = [dense_problem(model, unseen, layer, weighted=weighted).xtx for weighted in weightings]
    for weighted in weightings:
        dense = dense_problem(model, ids, layer, weighted=weighted)
        swept, _ = full_sweep(dense, dense.blocks - remove)
        rows.append([relative_error(judge, dense.weight, swept.weights) for judge in judges])
    return torch.tensor(rows, dtype=torch.float64)


@cached
def metric_perplexities(
    model: Model, ids: Tensor, evaluated: Tensor, layers: Sequence[int], fraction: float, names: Names = READINGS
) -> Tensors:
    """Perplexity on `evaluated` when a fraction of the neurons of some layers goes by each metric.

    All statistics are of the dense stream. name -> (2,): without recovery, and with least squares; "dense" (1,).
    """
    models = {name: (shallow_copy(model), shallow_copy(model)) for name in names}
    for index in layers:
        dense = dense_problem(model, ids, index)
        for name, (bare, tuned) in models.items():
            kept, fitted = _choice(dense, dense.blocks - round(fraction * dense.blocks), name)
            shrink_mlp(layer_of(bare, index), kept)
            shrink_mlp(layer_of(tuned, index), kept, fitted)
    hidden, rope = walk_to(model, evaluated, min(layers))  # up to there all models are the same
    losses = {
        name: [loss_behind(pruned, hidden, rope, min(layers), evaluated) for pruned in judged]
        for name, judged in (*models.items(), ("dense", (model,)))
    }
    return {name: torch.stack(values).exp() for name, values in losses.items()}
