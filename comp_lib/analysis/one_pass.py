"""One pass over the layers of a model: all that the frames of layers, neurons, groups, spectra and curves stand on.

The text streams by, one layer in memory at a time, so that a model on disk will do. What is kept of a layer are a few
vectors in the cache; a pass that was cut off goes on behind the last layer that is there.

With fewer tokens than inputs the sums are kept in their dual form (`statistics.few_tokens`), as the method itself does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, sent, through, to_device
from ..families import dense_layer, family_of
from ..families.protocol import STEPS, Device, Layer, Model, Rope, Which
from ..importance.matrix_condition import scores_of, sweep
from ..importance.neurons import RIDGE, Dense, metric
from ..statistics.few_tokens import TokenStatistics
from ..statistics.gram import Gram, Statistics, contributions, token_weights
from ..statistics.solve import Inverse, penalty, ridged, spd_inverse
from ..surgery import block_size, upstream
from ..system import hashes
from ..system.cache import fetch
from .sample import Sample
from .store import Tensors, entry, fingerprint, keep

PARTS = ("layer", *STEPS)
FURTHEST = 0.6  # share of a layer's neurons up to which removal is followed: beyond it a layer is better dropped
POINTS = 24  # removals of a whole layer are looked at in so many steps
RIVALS = ("wanda-sp", "activation", "magnitude")  # metrics that the scores of neurons are compared with
STAND_INS = 5  # neurons that are named for each
ROWS = 256  # of the inverse, in memory at once


@torch.no_grad()
def one_pass(
    model: Model, sample: Sample, layers: Collection[int] | None = None, *, device: Device = "cpu"
) -> Iterator[Tensors]:
    """What is known of each of `layers` (None: all), first to last; tensors on the CPU, float64 or int64, S windows:

    turn:PART (S,)        1 - mean cosine between the states before and after, for PART of PARTS
    and for each of STEPS, the dense layer of n inputs in g blocks (neurons, KV groups), W (n, m), as STEP:
    STEP:energy (g,)      ||x_i||^2 ||w_i||^2 summed over a block, over ||X W||^2; tokens weighted
    STEP:condition (n,)   kappa
    STEP:cost (g,)        what is lost with the block alone, over ||X W||^2
    STEP:mask_cost (g,)   the same if only a mask is re-tuned; NaN for blocks of several inputs, and in the dual form
    STEP:order (g,)       place in the order of removal, from 1; 0: it stays
    STEP:counts, STEP:errors (K,)     blocks gone, and what is lost with them over ||X W||^2
    STEP:C, STEP:G        eigenvalues, the largest first; G is empty in the dual form
    mlp:stand_ins, mlp:coefficients (n, k)    who stands in for a neuron, strongest first, and with what coefficient
    mlp:NAME (n,)         scores of the metrics RIVALS

    Memory: the hidden states of the sample, a layer, its sums, and three matrices of their size.
    """
    modules = family_of(model).layers(model)
    asked = range(len(modules)) if layers is None else layers
    key = [fingerprint(model), hashes.of_tensor(sample.ids)]
    paths = [entry("one_pass", "layer", *key, index) for index in range(len(modules))]
    known = {index: fetch(paths[index]) for index in asked}  # read once: others add to them and clear them
    last = max((index for index, kept in known.items() if kept is None), default=-1)
    hidden = embed(model, sample.ids) if last >= 0 else torch.empty(0)
    rope = rotary(model, sample.ids.shape[1], device, hidden.dtype)
    for index, path in enumerate(paths):
        if index <= last:
            layer, before = to_device(modules[index], device), hidden
            if index in known and known[index] is None:
                hidden = torch.empty_like(before)  # filled by the look
                known[index] = keep(path, _look(layer, before, hidden, rope))
            else:
                hidden = through(layer, before, rope, device)
            del layer, before  # before the next one is read
        if index in known:
            kept = known.pop(index)
            assert kept is not None  # for the type: what was not known has been looked at
            yield kept


def _look(layer: Layer, hidden: Tensor, after: Tensor, rope: Rope) -> Tensors:
    """All about one layer; the text (S, L, d) goes from `hidden` to `after`, which is filled."""
    sums: dict[Which, Statistics] = {}
    tokens = hidden.shape[0] * hidden.shape[1]
    for which in STEPS:
        linear = dense_layer(layer, which)
        form: type[Statistics] = TokenStatistics if tokens < linear.in_features else Gram
        sums[which] = form.zeros(linear.in_features, device=linear.weight.device)
    turns: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for rows in batches(*hidden.shape[:2]):
        first = sent(hidden[rows], linear.weight.device)
        middle, x = attention_step(layer, first, rope)
        last, y = mlp_step(layer, middle)
        sums["attention"].add(x, weight=token_weights(middle))
        sums["mlp"].add(y, weight=token_weights(last))
        after[rows] = last
        for part, (one, other) in zip(PARTS, ((first, last), (first, middle), (middle, last)), strict=True):
            turns[part].append(1.0 - cosine_similarity(one.float(), other.float(), dim=-1).mean(1).double())
    found = {f"turn:{part}": torch.cat(values) for part, values in turns.items()}
    for which in STEPS:
        weight = dense_layer(layer, which).weight.detach().T.to(sums[which].precision)  # (n, m)
        owned = upstream(layer, which).to(weight.device)
        of_step = _units(Dense(sums.pop(which), weight, owned, block_size(layer, which), RIDGE), which == "mlp")
        found |= {f"{which}:{name}": values for name, values in of_step.items()}
    return found


def _units(dense: Dense, neurons: bool) -> Tensors:
    """What the blocks of one dense layer are worth, alone and together."""
    sums, weight, block = dense.sums, dense.weight, dense.block
    whole = max(sums.energy(weight), torch.finfo(torch.float64).tiny)
    energy = sums.diagonal()
    own = energy * weight.square().sum(1)
    found = _spectra(dense)
    found["mask_cost"] = _mask_costs(dense) / whole
    held = penalty(energy, dense.ridge)
    inverse = sums.inverse(dense.ridge, block)
    condition = ((energy + held) * inverse.diagonal()).clamp_min(1.0).sqrt()
    if neurons:
        found |= _stand_ins(inverse, energy.clamp_min(torch.finfo(torch.float64).tiny))
        found |= {name: metric(name)(dense, dense.blocks, torch.Generator()).scores.double() for name in RIVALS}
    step = max(1, dense.blocks // POINTS)
    removed = max(1, int(FURTHEST * dense.blocks / step)) * step if dense.blocks > 1 else 0
    cost = scores_of(inverse.blocks, weight) / whole
    swept = sweep(inverse, weight, removed, block=block, per_round=step, held=held.to(weight))
    order = torch.zeros(dense.blocks, dtype=torch.long)
    order[swept.order] = torch.arange(1, removed + 1)
    nothing = swept.errors.new_zeros(1)
    return found | {
        "energy": dense.per_block(own) / whole,
        "condition": condition,
        "cost": cost.double(),
        "order": order,
        "counts": torch.cat([nothing.long(), swept.counts]),
        "errors": torch.cat([nothing, ((swept.errors - swept.moved) / whole).clamp_min(0.0)]),
    }


def _mask_costs(dense: Dense) -> Tensor:
    """What is lost with each block if only a mask is re-tuned (g,); NaN where that is not known."""
    if dense.block > 1 or not isinstance(dense.sums, Gram):
        return torch.full((dense.blocks,), torch.nan, dtype=torch.float64)
    # no name for the matrix: it is let go as soon as it is factored
    inverse, _ = spd_inverse(ridged(contributions(dense.xtx, dense.weight), dense.ridge))
    return 1.0 / inverse.diagonal()


def _spectra(dense: Dense) -> Tensors:
    """Eigenvalues of C and of G, the largest first, none below 0."""

    def spectrum(matrix: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(matrix)
        return values.flip(0).clamp_min(0.0)

    if isinstance(dense.sums, TokenStatistics):
        rows = dense.sums.rows.double()  # of X X^T and X^T X all but zeros are the same
        return {"C": spectrum(rows @ rows.T), "G": torch.empty(0, dtype=torch.float64)}
    return {"C": spectrum(dense.xtx), "G": spectrum(contributions(dense.xtx, dense.weight))}


def _stand_ins(inverse: Inverse, energy: Tensor) -> Tensors:
    """Who stands in for each neuron: the best prediction of x_i from the others is sum_j c_ij x_j, c_ij = -P_ij / P_ii.

    energy: C_ii (n,). The strongest are those whose term c_ij x_j is largest over the text.
    """
    count, own, loud = len(energy), inverse.diagonal(), energy.sqrt()
    most = min(STAND_INS, count - 1)
    names = torch.empty(count, most, dtype=torch.long)
    shares = torch.empty(count, most, dtype=torch.float64)
    for index in torch.arange(count, device=energy.device).split(ROWS):
        coefficients = -inverse.rows(index) / own[index, None]  # (r, n)
        coefficients[torch.arange(len(index), device=index.device), index] = 0.0
        best = (coefficients.abs() * loud).topk(most).indices
        names[index.cpu()], shares[index.cpu()] = best.cpu(), coefficients.gather(1, best).cpu()
    return {"stand_ins": names, "coefficients": shares}
