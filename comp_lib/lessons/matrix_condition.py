"""Metrics on trial: what they say of the neurons of `down_proj`, and what removing neurons was then measured to cost.

Three judges, from near to far: the error of the layer's own output with all others re-tuned, on the calibration text
and on a text it never saw; the same when many neurons go at once; the perplexity of the model. (Notebook 02.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..calibration.stream import rotary, sequence_losses, through
from ..importance.matrix_condition import block_scores, condition_numbers, sweep
from ..importance.neurons import METRICS, RIDGE, Dense, metric, top
from ..recovery.bias import unchanged
from ..statistics.gram import contributions
from ..statistics.solve import least_squares, penalty, spd_inverse
from ..surgery import shallow_copy, shrink_mlp
from .cache import cached, to_tensors
from .dense_stream import as_dense, dense_problem, energy_of, grams_of, layer_gram, layer_grams, walk_to

READINGS = (*METRICS, "condition alone", "share of output")
SWEPT = ("full-condition", "mask-condition")  # by COMP, in rounds
ONE_LOOK = "full-condition, one look"  # the same scores, but the lowest go at once: no rounds


def readings(dense: Dense, names: Sequence[str] = READINGS) -> dict[str, Tensor]:
    """Every way to score the inputs of a dense layer before any has gone: name -> (n,), larger is worth more.

    The metrics of `importance.neurons` (COMP's two before their first round, energy squared), and two that COMP is
    not: "condition alone", 1 / kappa, and "share of output", <a_i, Y> = (G 1)_i, which may be negative.
    """
    found = {}
    if "full-condition" in names or "condition alone" in names:
        matrix, inverse = dense.full_problem()
        kappa = condition_numbers(matrix, inverse)
        found |= {"full-condition": block_scores(inverse, dense.weight), "condition alone": 1.0 / kappa}
    if "mask-condition" in names:
        matrix, inverse = dense.mask_problem()
        found["mask-condition"] = matrix.diagonal() / condition_numbers(matrix, inverse).square()
    if "share of output" in names:
        found["share of output"] = contributions(dense.xtx, dense.weight).sum(1)
    for name in set(names) & (set(METRICS) - set(found)):
        scores = metric(name)(dense, dense.blocks, torch.Generator().manual_seed(0)).scores
        found[name] = scores.square() if name == "energy" else scores
    return {name: found[name] for name in names}


def condition_changes(xtx: Tensor) -> Tensor:
    """How much the condition number of C (n, n) falls when one input leaves: cond(C) / cond(C without i), (n,).

    n eigenvalue problems of size n - 1: a reading of "matrix condition" for small matrices only.
    """

    def condition(matrix: Tensor) -> float:
        values = torch.linalg.eigvalsh(matrix)
        return float(values[-1] / values[0])

    whole = condition(xtx)
    keep = lambda i: torch.arange(len(xtx)) != i  # noqa: E731
    return torch.tensor([whole / condition(xtx[keep(i)][:, keep(i)]) for i in range(len(xtx))], dtype=torch.float64)


@torch.no_grad()
def single_removals(
    model: nn.Module, ids: Tensor, unseen: Tensor, layer: int, neurons: list[int], ridge: float = RIDGE
) -> dict[str, Tensor]:
    """What removing one neuron costs, measured: all others fitted from scratch, once for each of `neurons` (k,).

    Shares of ||X W||^2, tokens weighted: "retuned" (k,) on `ids`, "unseen" (k,) on the other text; "objective" (k,):
    the error on `ids` plus the ridge's penalty, which is what the least squares minimise.
    """

    def compute() -> dict[str, Tensor]:
        dense = dense_problem(model, ids, layer, ridge=ridge)
        other = layer_gram(model, unseen, layer)["xtx"]
        whole, whole_unseen = energy_of(dense.xtx, dense.weight), energy_of(other, dense.weight)
        target, held, rows = dense.xtx @ dense.weight, penalty(dense.xtx.diagonal(), ridge), []
        for neuron in neurons:
            kept = (torch.arange(dense.blocks) != neuron).nonzero().flatten()
            gap = dense.weight - least_squares(dense.xtx, target, dense.weight, kept, ridge)
            error, pull = energy_of(dense.xtx, gap), float(held @ gap.square().sum(1))
            rows.append([error / whole, energy_of(other, gap) / whole_unseen, (error + pull) / whole])
        return dict(zip(("retuned", "unseen", "objective"), torch.tensor(rows).double().T, strict=True))

    settings = {"layer": layer, "neurons": list(neurons), "ridge": ridge, "unseen": _name(unseen)}
    return cached("single-removals", model, ids, settings, compute)


def _name(ids: Tensor) -> list:
    """Of a second text, among the settings of a cached study."""
    return [list(ids.shape), int((ids.flatten() * torch.arange(1, ids.numel() + 1)).sum())]


@torch.no_grad()
def choice_errors(
    model: nn.Module,
    ids: Tensor,
    unseen: Tensor,
    layer: int,
    remove: int,
    ridge: float = RIDGE,
    names: Sequence[str] = READINGS,
) -> dict[str, Tensor]:
    """Error of down_proj when `remove` neurons go by each of `names`, READINGS or ONE_LOOK; COMP's two go in rounds.

    name -> (3,): not re-tuned, re-tuned, and the latter on the text `unseen`, as shares of ||X W||^2 with tokens
    weighted; "kept:name" (k,): the neurons that stay.
    """

    def compute() -> dict[str, Tensor]:
        dense = dense_problem(model, ids, layer, ridge=ridge)
        other = layer_gram(model, unseen, layer)["xtx"]
        found = {}
        for name, (kept, fitted) in _choices(dense, dense.blocks - remove, names).items():
            plain = _lost(dense.xtx, dense.weight, unchanged(dense.weight, kept))
            tuned, fresh = (_lost(xtx, dense.weight, fitted) for xtx in (dense.xtx, other))
            found |= {f"kept:{name}": kept, name: torch.tensor([plain, tuned, fresh], dtype=torch.float64)}
        return found

    settings = {"layer": layer, "remove": remove, "ridge": ridge, "unseen": _name(unseen), "names": list(names)}
    return cached("choice-errors", model, ids, settings, compute)


def _lost(xtx: Tensor, weight: Tensor, fitted: Tensor) -> float:
    """||X W - X V||^2 / ||X W||^2."""
    return energy_of(xtx, weight - fitted) / energy_of(xtx, weight)


def _choices(dense: Dense, keep: int, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> inputs that stay (keep,), by COMP's sweep or by scores, and the weights V (n, m) fitted to them."""
    target, found = dense.xtx @ dense.weight, {}
    look = {name: "full-condition" if name == ONE_LOOK else name for name in names if name not in SWEPT}
    scores = readings(dense, tuple(look.values()))
    for name in names:
        chosen = metric(name)(dense, keep, torch.Generator()) if name in SWEPT else top(scores[look[name]], keep)
        fitted = chosen.retuned  # full-condition's sweep ends with the fit
        if fitted is None:
            fitted = least_squares(dense.xtx, target, dense.weight, chosen.kept, dense.ridge)
        found[name] = chosen.kept, fitted
    return found


@torch.no_grad()
def ridge_errors(
    model: nn.Module, ids: Tensor, unseen: Tensor, layer: int, remove: int, ridges: Sequence[float]
) -> dict[str, Tensor]:
    """What the ridge does when `remove` neurons go by full-condition: one number for each of `ridges` (R,).

    "seen" and "unseen": error re-tuned, on either text; "condition": the median kappa before anything goes; "even seen"
    and "even unseen": the errors with the penalty of plain ridge regression, lambda mean(diag C) for all inputs alike.
    """

    def compute() -> dict[str, Tensor]:
        xtx, other = layer_gram(model, ids, layer)["xtx"], layer_gram(model, unseen, layer)["xtx"]
        mean, rows = torch.diag(xtx.diagonal().mean().expand(len(xtx))), []
        for ridge in ridges:
            dense = as_dense(model, layer, xtx, ridge=ridge)
            chosen = metric("full-condition")(dense, dense.blocks - remove, torch.Generator())
            even = sweep(spd_inverse(xtx + ridge * mean)[0], dense.weight, remove).weights
            errors = [_lost(c, dense.weight, fitted) for fitted in (chosen.retuned, even) for c in (xtx, other)]
            rows.append([*errors, float(chosen.condition.median())])
        names = ("seen", "unseen", "even seen", "even unseen", "condition")
        return dict(zip(names, torch.tensor(rows).double().T, strict=True))

    settings = {"layer": layer, "remove": remove, "ridges": list(ridges), "unseen": _name(unseen)}
    return cached("ridge-errors", model, ids, settings, compute)


@torch.no_grad()
def weighting_errors(
    model: nn.Module, ids: Tensor, unseen: Tensor, layer: int, remove: int, ridge: float = RIDGE
) -> dict[str, Tensor]:
    """What dividing each token by ||h_t|| changes: "errors" (2, 2) of down_proj on `unseen`, `remove` neurons gone.

    Rows: chosen and fitted with weighted tokens, with plain ones. Columns: measured with weighted tokens, with plain.
    """

    def compute() -> dict[str, Tensor]:
        grams, others, rows = layer_grams(model, ids, layer), layer_grams(model, unseen, layer), []
        for kind in ("mlp-weighted", "mlp-plain"):
            dense = as_dense(model, layer, grams[kind], ridge=ridge)
            chosen = metric("full-condition")(dense, dense.blocks - remove, torch.Generator())
            rows.append([_lost(others[judge], dense.weight, chosen.retuned) for judge in ("mlp-weighted", "mlp-plain")])
        return {"errors": torch.tensor(rows, dtype=torch.float64)}

    settings = {"layer": layer, "remove": remove, "ridge": ridge, "unseen": _name(unseen)}
    return cached("weighting-errors", model, ids, settings, compute)


@torch.no_grad()
def metric_perplexities(
    model: nn.Module,
    ids: Tensor,
    evaluated: Tensor,
    layers: Sequence[int],
    fraction: float,
    ridge: float = RIDGE,
    names: Sequence[str] = READINGS,
) -> dict[str, Tensor]:
    """Perplexity on `evaluated` when a fraction of the neurons of some layers goes by each metric.

    All statistics are of the dense stream. name -> (2,): without recovery, and with least squares; "dense" (1,).
    """

    def compute() -> dict[str, Tensor]:
        first = min(layers)
        hidden = layer_grams(model, ids, first)["stream"]
        rope = rotary(model, ids.shape[1], hidden.device, hidden.dtype)
        models: dict[str, tuple[nn.Module, nn.Module]] = {}
        for layer in range(first, max(layers) + 1):
            grams, hidden = grams_of(model.model.layers[layer], hidden, rope, (True,))
            if layer not in layers:
                continue
            dense = as_dense(model, layer, grams["mlp", True].xtx, ridge=ridge)
            keep = dense.blocks - round(fraction * dense.blocks)
            for name, (kept, fitted) in _choices(dense, keep, names).items():
                plain, tuned = models.setdefault(name, (shallow_copy(model), shallow_copy(model)))
                shrink_mlp(plain.model.layers[layer], kept)
                shrink_mlp(tuned.model.layers[layer], kept, fitted)
        hidden, rope = walk_to(model, evaluated, first)  # up to there all models are the same
        judge = lambda judged: _perplexity_behind(judged, hidden, rope, first, evaluated)  # noqa: E731
        found = {name: [judge(plain), judge(tuned)] for name, (plain, tuned) in models.items()}
        return to_tensors(found | {"dense": [judge(model)]})

    settings = {
        "layers": list(layers),
        "fraction": fraction,
        "ridge": ridge,
        "evaluated": _name(evaluated),
        "names": list(names),
    }
    return cached("metric-perplexities", model, ids, settings, compute)


def _perplexity_behind(model: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], first: int, ids: Tensor) -> float:
    """Perplexity of `ids` (S, L), given the hidden states (S, L, d) that flow into the layer `first`."""
    for module in model.model.layers[first:]:
        hidden = through(module, hidden, rope, hidden.device)
    return float(sequence_losses(model, hidden, ids).mean().exp())
