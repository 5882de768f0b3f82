"""One pass over the layers of a model: all that the frames of layers, neurons, KV groups and curves stand on.

With fewer tokens than inputs the sums are kept in their dual form (`statistics.few_tokens`), as the method itself does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, through, to_device
from ..families import dense_layer, family_of, parts
from ..families.frame import Rope
from ..families.protocol import STEPS, Device, Layer, Model, Which
from ..importance.matrix_condition import scores_of, sweep
from ..importance.neurons import RIDGE, Dense, metric
from ..statistics.few_tokens import TokenStatistics
from ..statistics.gram import Gram, Statistics, token_weights
from ..statistics.solve import penalty
from ..surgery import upstream
from ..system.cache import remembered
from .harm import entry
from .sample import Sample

Tensors = dict[str, Tensor]
PARTS = ("layer", *STEPS)
FURTHEST = 0.6  # share of a layer's neurons up to which removal is followed: beyond it a layer is better dropped
POINTS = 24  # removals of a whole layer are looked at in so many steps
RIVALS = ("wanda-sp", "activation", "magnitude")  # metrics that the scores of neurons are compared with


def one_pass(model: Model, sample: Sample, layers: Sequence[int], device: Device = "cpu") -> list[Tensors]:
    """What is known of each of `layers`, which rise; tensors on the CPU, float64 or int64, S windows:

    turn:PART (S,)        1 - mean cosine between the states before and after, for PART of PARTS; and for each STEP of
    STEPS, the dense layer of n inputs in g blocks (neurons, KV groups), W (n, m):
    STEP:energy (g,)      ||x_i||^2 ||w_i||^2 summed over a block, over ||X W||^2; tokens weighted
    STEP:condition (n,)   kappa
    STEP:cost (g,)        what is lost with the block alone, over ||X W||^2
    STEP:order (g,)       place in the order of removal, from 1; 0: it stays
    STEP:counts, STEP:errors (K,)     blocks gone, and what is lost with them over ||X W||^2
    mlp:NAME (n,)         scores of the metrics RIVALS

    Memory: the hidden states of the sample, the sums of a layer, and three matrices of their size.
    """
    path = entry("layers", model, sample, list(layers))
    looked: list[Tensors] = remembered(path, lambda: list(_walk(model, sample, layers, device)))
    return looked


def _walk(model: Model, sample: Sample, asked: Sequence[int], device: Device) -> Iterator[Tensors]:
    hidden = embed(model, sample.ids)
    rope = rotary(model, sample.ids.shape[1], device, hidden.dtype)
    for index, module in enumerate(list(family_of(model).layers(model))[: max(asked, default=-1) + 1]):
        layer, before = to_device(module, device), hidden
        if index in asked:
            hidden = torch.empty_like(before)  # filled by the look
            yield _look(layer, before, hidden, rope)
        else:
            hidden = through(layer, before, rope, device)


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
        first = hidden[rows].to(linear.weight.device)
        middle, x = attention_step(layer, first, rope)
        last, y = mlp_step(layer, middle)
        sums["attention"].add(x, weight=token_weights(middle))
        sums["mlp"].add(y, weight=token_weights(last))
        after[rows] = last
        for part, (one, other) in zip(PARTS, ((first, last), (first, middle), (middle, last)), strict=True):
            turns[part].append(1.0 - cosine_similarity(one.float(), other.float(), dim=-1).mean(1).double())
    looked = {f"turn:{part}": torch.cat(values) for part, values in turns.items()}
    for which in STEPS:
        weight = dense_layer(layer, which).weight.detach().T.to(sums[which].precision)  # (n, m)
        owned = upstream(layer, which).to(weight.device)
        dense = Dense(sums.pop(which), weight, owned, parts(layer)[which].block, RIDGE)
        looked |= {f"{which}:{name}": values for name, values in _blocks(dense, which == "mlp").items()}
    return looked


def _blocks(dense: Dense, neurons: bool) -> Tensors:
    """What the blocks of one dense layer are worth, alone and together."""
    sums, weight, block = dense.sums, dense.weight, dense.block
    whole = max(sums.energy(weight), torch.finfo(torch.float64).tiny)
    energy = sums.diagonal()
    ridge = penalty(energy, dense.ridge)
    inverse = sums.inverse(dense.ridge, block)
    step = max(1, dense.blocks // POINTS)
    removed = max(1, int(FURTHEST * dense.blocks / step)) * step if dense.blocks > 1 else 0
    cost = scores_of(inverse.blocks, weight).double() / whole
    condition = ((energy + ridge) * inverse.diagonal()).clamp_min(1.0).sqrt()
    looked = {"energy": dense.per_block(energy * weight.square().sum(1)) / whole, "condition": condition, "cost": cost}
    if neurons:
        looked |= {name: metric(name)(dense, dense.blocks, torch.Generator()).scores.double() for name in RIVALS}
    swept = sweep(inverse, weight, removed, block=block, per_round=step, held=ridge.to(weight))  # spoils the inverse
    looked["order"] = torch.zeros(dense.blocks, dtype=torch.long)
    looked["order"][swept.order] = torch.arange(1, removed + 1)
    nothing = swept.errors.new_zeros(1)
    looked["counts"] = torch.cat([nothing.long(), swept.counts])
    looked["errors"] = torch.cat([nothing, ((swept.errors - swept.moved) / whole).clamp_min(0.0)])
    return looked
