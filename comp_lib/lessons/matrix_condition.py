"""Metrics on trial: what they say of the neurons of `down_proj`, and what removing neurons was then measured to cost.

Three judges, from near to far: the error of the layer's own output with all others re-tuned, on the calibration text
and on a text it never saw; the same when many neurons go at once; the perplexity of the model. (Notebook 02.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..families import family_of
from ..families.protocol import Model
from ..importance.matrix_condition import block_scores, condition_numbers, sweep
from ..importance.neurons import METRICS, RIDGE, Dense, full_sweep, metric, top
from ..recovery.bias import unchanged
from ..statistics.gram import Gram, contributions
from ..statistics.solve import least_squares, penalty, spd_inverse
from ..surgery import shallow_copy, shrink_mlp
from .cache import Tensors, cached
from .dense_stream import as_dense, dense_problem, energy_of, layer_gram, loss_behind, relative_error, sums_of, walk_to

Names = Sequence[str]
READINGS = (*METRICS, "condition alone", "share of output")
SWEPT = ("full-condition", "mask-condition")  # by COMP, in rounds
ONE_LOOK = "full-condition, one look"  # the same scores, but the lowest go at once: no rounds


def readings(dense: Dense, names: Names = READINGS) -> Tensors:
    """Every way to score the inputs of a dense layer before any has gone: name -> (n,), larger is worth more.

    The metrics of `importance.neurons` (COMP's two before their first round, energy squared), and two that COMP is
    not: "condition alone", 1 / kappa, and "share of output", <a_i, Y> = (G 1)_i, which may be negative.
    """
    scores: Tensors = {}
    if "full-condition" in names or "condition alone" in names:
        matrix, inverse = dense.full_problem()
        kappa = condition_numbers(matrix, inverse)
        scores |= {"full-condition": block_scores(inverse, dense.weight), "condition alone": 1.0 / kappa}
    if "mask-condition" in names:
        matrix, inverse = dense.mask_problem()
        scores["mask-condition"] = matrix.diagonal() / condition_numbers(matrix, inverse).square()
    if "share of output" in names:
        scores["share of output"] = contributions(dense.xtx, dense.weight).sum(1)
    for name in set(names) & (set(METRICS) - set(scores)):
        values = metric(name)(dense, dense.blocks, torch.Generator().manual_seed(0)).scores
        scores[name] = values.square() if name == "energy" else values
    return {name: scores[name] for name in names}


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
    dense, other = dense_problem(model, ids, layer), layer_gram(model, unseen, layer)["xtx"]
    whole, whole_unseen = energy_of(dense.xtx, dense.weight), energy_of(other, dense.weight)
    target, held, rows = dense.xtx @ dense.weight, penalty(dense.xtx.diagonal(), dense.ridge), []
    for neuron in neurons:
        kept = (torch.arange(dense.blocks) != neuron).nonzero().flatten()
        gap = dense.weight - least_squares(dense.xtx, target, dense.weight, kept, dense.ridge)
        error, pull = energy_of(dense.xtx, gap), float(held @ gap.square().sum(1))
        rows.append([error / whole, energy_of(other, gap) / whole_unseen, (error + pull) / whole])
    return dict(zip(("retuned", "unseen", "objective"), torch.tensor(rows).double().T, strict=True))


@cached
def choice_errors(
    model: Model, ids: Tensor, unseen: Tensor, layer: int, remove: int, ridge: float = RIDGE, names: Names = READINGS
) -> Tensors:
    """Error of down_proj when `remove` neurons go by each of `names`, READINGS or ONE_LOOK; COMP's two go in rounds.

    name -> (3,): not re-tuned, re-tuned, and the latter on the text `unseen`, as shares of ||X W||^2 with tokens
    weighted; "kept:name" (k,): the neurons that stay.
    """
    dense, other = dense_problem(model, ids, layer, ridge=ridge), layer_gram(model, unseen, layer)["xtx"]
    errors: Tensors = {}
    for name, (kept, fitted) in _choices(dense, dense.blocks - remove, names).items():
        cases = ((dense.xtx, unchanged(dense.weight, kept)), (dense.xtx, fitted), (other, fitted))
        shares = [relative_error(xtx, dense.weight, new) for xtx, new in cases]
        errors |= {f"kept:{name}": kept, name: torch.tensor(shares, dtype=torch.float64)}
    return errors


def _choices(dense: Dense, keep: int, names: Names) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> inputs that stay (keep,), by COMP's sweep or by scores, and the weights V (n, m) fitted to them."""
    target, choices = dense.xtx @ dense.weight, {}
    scored = {name: "full-condition" if name == ONE_LOOK else name for name in names if name not in SWEPT}
    scores = readings(dense, tuple(scored.values()))
    for name in names:
        chosen = metric(name)(dense, keep, torch.Generator()) if name in SWEPT else top(scores[scored[name]], keep)
        fitted = chosen.retuned  # full-condition's sweep ends with the fit
        if fitted is None:
            fitted = least_squares(dense.xtx, target, dense.weight, chosen.kept, dense.ridge)
        choices[name] = chosen.kept, fitted
    return choices


@cached
def ridge_errors(
    model: Model, ids: Tensor, unseen: Tensor, layer: int, remove: int, ridges: Sequence[float]
) -> Tensors:
    """What the ridge does when `remove` neurons go by full-condition: one number for each of `ridges` (R,).

    "seen" and "unseen": error re-tuned, on either text; "condition": the median kappa before anything goes; "even seen"
    and "even unseen": the errors with the penalty of plain ridge regression, lambda mean(diag C) for all inputs alike.
    """
    xtx, other = layer_gram(model, ids, layer)["xtx"], layer_gram(model, unseen, layer)["xtx"]
    mean, rows = torch.diag(xtx.diagonal().mean().expand(len(xtx))), []
    for ridge in ridges:
        dense = as_dense(model, layer, Gram.of(xtx), ridge=ridge)
        swept, condition = full_sweep(dense, dense.blocks - remove)
        even = sweep(spd_inverse(xtx + ridge * mean)[0], dense.weight, remove)
        errors = [relative_error(c, dense.weight, fit.weights) for fit in (swept, even) for c in (xtx, other)]
        rows.append([*errors, float(condition.median())])
    names = ("seen", "unseen", "even seen", "even unseen", "condition")
    return dict(zip(names, torch.tensor(rows).double().T, strict=True))


@cached
def weighting_errors(model: Model, ids: Tensor, unseen: Tensor, layer: int, remove: int) -> Tensors:
    """What dividing each token by ||h_t|| changes: "errors" (2, 2) of down_proj on `unseen`, `remove` neurons gone.

    Rows: chosen and fitted with weighted tokens, with plain ones. Columns: measured with weighted tokens, with plain.
    """
    rows, weightings = [], (True, False)
    judges = [layer_gram(model, unseen, layer, token_weights=weighted)["xtx"] for weighted in weightings]
    for weighted in weightings:
        dense = dense_problem(model, ids, layer, token_weights=weighted)
        swept, _ = full_sweep(dense, dense.blocks - remove)
        rows.append([relative_error(judge, dense.weight, swept.weights) for judge in judges])
    return {"errors": torch.tensor(rows, dtype=torch.float64)}


@cached
def metric_perplexities(
    model: Model, ids: Tensor, evaluated: Tensor, layers: Sequence[int], fraction: float, names: Names = READINGS
) -> Tensors:
    """Perplexity on `evaluated` when a fraction of the neurons of some layers goes by each metric.

    All statistics are of the dense stream. name -> (2,): without recovery, and with least squares; "dense" (1,).
    """
    first, family = min(layers), family_of(model)
    hidden, rope = walk_to(model, ids, first)
    plain, tuned = ({name: shallow_copy(model) for name in names} for _ in range(2))
    for index in range(first, max(layers) + 1):
        sums, hidden = sums_of(family.layers(model)[index], hidden, rope)
        if index in layers:
            dense = as_dense(model, index, sums["mlp"])
            keep = dense.blocks - round(fraction * dense.blocks)
            for name, (kept, fitted) in _choices(dense, keep, names).items():
                shrink_mlp(family.layers(plain[name])[index], kept)
                shrink_mlp(family.layers(tuned[name])[index], kept, fitted)
    hidden, rope = walk_to(model, evaluated, first)  # up to there all models are the same

    def judged(*models: Model) -> Tensor:
        return torch.stack([loss_behind(pruned, hidden, rope, first, evaluated) for pruned in models]).exp()

    return {name: judged(plain[name], tuned[name]) for name in names} | {"dense": judged(model)}
