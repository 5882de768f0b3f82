"""What the neurons of a dense model are worth: statistics that notebooks 02 and 03 and two widgets draw from.

Everything here looks at the *dense* stream: no layer before the one in question has been pruned. That is what makes
the numbers of one layer reusable, whatever the plan will be; `prune` itself gathers anew behind each pruned layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, through
from ..errors import InputError
from ..families import dense_layer, family_of
from ..families.protocol import STEPS, Layer, Model, Rope, Which
from ..importance.matrix_condition import condition_numbers, sweep
from ..importance.neurons import RIDGE, Dense, metric
from ..shape import Shape
from ..statistics.gram import Gram, Sums, token_weights
from ..statistics.solve import penalty
from ..surgery import block_size, upstream
from .cache import Tensors, cached

FURTHEST = 0.6  # share of the neurons up to which error curves go: beyond it a layer is better dropped


def layer_of(model: Model, layer: int, which: Which = "mlp") -> Layer:
    """A decoder layer, by its number. Raises InputError: no such layer, or no such dense layer in it."""
    layers = family_of(model).layers(model)
    if which not in STEPS:
        raise InputError(f"expected 'mlp' or 'attention', got {which!r}: name one of the two dense layers")
    if not 0 <= layer < len(layers):
        raise InputError(f"expected a layer from 0 to {len(layers) - 1}, got {layer}: choose one of these")
    return layers[layer]


def weight_of(layer: Layer, which: Which = "mlp") -> Tensor:
    """W (n, m), float64, of a layer's down_proj or o_proj, for y = X W."""
    return dense_layer(layer, which).weight.detach().T.double()


def walk(model: Model, hidden: Tensor, rope: Rope, layers: slice) -> Tensor:
    """Hidden states (S, L, d) through these layers of the model."""
    for layer in family_of(model).layers(model)[layers]:
        hidden = through(layer, hidden, rope, hidden.device)
    return hidden


def walk_to(model: Model, ids: Tensor, layer: int) -> tuple[Tensor, Rope]:
    """Hidden states (S, L, d) that flow into a layer of the dense model, and the rotary embedding."""
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], hidden.device, hidden.dtype)
    return walk(model, hidden, rope, slice(layer)), rope


def watched(layer: Layer, which: Which, hidden: Tensor, rope: Rope) -> Iterator[tuple[Tensor, Tensor]]:
    """One residual step, batch by batch: the stream behind it (B, L, d), and what its dense layer reads (B, L, n)."""
    for rows in batches(*hidden.shape[:2]):
        yield mlp_step(layer, hidden[rows]) if which == "mlp" else attention_step(layer, hidden[rows], rope)


def sums_of(layer: Layer, hidden: Tensor, rope: Rope, weighted: bool = True) -> tuple[dict[Which, Sums], Tensor]:
    """Sums of both dense layers, tokens `weighted` or not, and the hidden states behind the layer (S, L, d)."""
    sums: dict[Which, Sums] = {}
    for which in STEPS:
        sums[which] = Gram.zeros(dense_layer(layer, which).in_features, device=hidden.device)
        streams = []
        for stream, x in watched(layer, which, hidden, rope):
            sums[which].add(x, weight=token_weights(stream) if weighted else None)
            streams.append(stream)
        hidden = torch.cat(streams)
    return sums, hidden


@cached
def layer_tokens(model: Model, ids: Tensor, layer: int, which: Which = "mlp") -> Tensors:
    """What a dense layer reads, token by token: x (T, n), and norms (T,) of the residual stream behind it.

    For as many tokens as fit in memory; `layer_grams` needs none of them at once.
    """
    module = layer_of(model, layer, which)
    hidden, rope = walk_to(model, ids, layer)
    for step in STEPS[: STEPS.index(which) + 1]:
        streams, inputs = zip(*watched(module, step, hidden, rope), strict=True)
        hidden = torch.cat(streams)
    return {"x": torch.cat(inputs).flatten(0, -2), "norms": 1.0 / token_weights(hidden).flatten()}


@cached
def layer_grams(model: Model, ids: Tensor, layer: int) -> Tensors:
    """C = X^T X (n, n), float64, of both dense layers, from one walk to a layer of the dense stream.

    "mlp-weighted", "mlp-plain", "attention-weighted", "attention-plain": tokens weighted by 1 / ||h_t|| or not.
    """
    module = layer_of(model, layer)
    hidden, rope = walk_to(model, ids, layer)
    sums = {name: sums_of(module, hidden, rope, name == "weighted")[0] for name in ("weighted", "plain")}
    return {f"{which}-{name}": sums[name][which].matrix() for name in sums for which in STEPS}


def dense_problem(
    model: Model, ids: Tensor, layer: int, which: Which = "mlp", ridge: float = RIDGE, weighted: bool = True
) -> Dense:
    """A layer's down_proj ("mlp") or o_proj ("attention") as the metrics see it, tokens `weighted` or not."""
    module, name = layer_of(model, layer, which), f"{which}-{'weighted' if weighted else 'plain'}"
    return as_dense(module, which, Gram.of(layer_grams(model, ids, layer)[name]), ridge)


def as_dense(layer: Layer, which: Which, sums: Sums, ridge: float = RIDGE) -> Dense:
    """The same from sums at hand, on their device."""
    weight, owned = (values.to(sums.x.device) for values in (weight_of(layer, which), upstream(layer, which)))
    return Dense(sums, weight, owned, block_size(layer, which), ridge)


@cached
def survey(model: Model, ids: Tensor, ridge: float = RIDGE, block_rounds: int | None = None, every: int = 1) -> Tensors:
    """What is lost when so many neurons or KV groups go, and what each neuron is like: layers 0, `every`, 2 `every` ...

    All in one walk, a row for each of these layers.

    Each layer is swept on its own (full least squares, `block_rounds` neurons a round, by default a 24th of the widest
    layer, at most 60% of them) while the dense model streams by. Returns, for K rounds of the widest layer:

        counts (K + 1,)         neurons gone: 0, block_rounds, 2 block_rounds, ...
        errors (layers, K + 1)  ||X W - X V||^2 / ||X W||^2 of down_proj, tokens weighted; NaN beyond a narrow layer
        group_counts (g,) and group_errors (layers, g): the same for KV groups and o_proj

    and for each neuron (layers, n) of down_proj, NaN in a narrow layer:

        energy     H_ii ||w_i||^2 as a share of ||X W||^2, H_ii = (1 + lambda) C_ii
        condition  kappa; energy / condition^2 is the cost
        order      its place in the sweep's order of removal, from 1; 0: the sweep ends before
        wanda-sp, activation, magnitude: scores of those metrics
    """
    shape = Shape.of(model)
    widest = max(shape.neurons)
    per_round = max(1, widest // 24) if block_rounds is None else block_rounds
    if per_round < 1:
        raise InputError(f"expected at least 1 neuron a round, got {per_round}: raise block_rounds")
    counts = torch.arange(int(FURTHEST * widest / per_round) + 1) * per_round
    group_counts = torch.arange(max(shape.kv_groups))
    hidden, rope = walk_to(model, ids, 0)
    tables: list[Tensors] = []
    for number, layer in enumerate(family_of(model).layers(model)):
        if number % every:
            hidden = through(layer, hidden, rope, hidden.device)
            continue
        sums, hidden = sums_of(layer, hidden, rope)
        groups = _swept(as_dense(layer, "attention", sums["attention"], ridge), group_counts, 1)
        neurons = _swept(as_dense(layer, "mlp", sums["mlp"], ridge), counts, per_round)
        tables.append(neurons | {"group_errors": groups["errors"]})
    columns = {name: [table[name] for table in tables] for name in tables[0]}
    padded = {name: pad_sequence(rows, True, padding_value=torch.nan) for name, rows in columns.items()}
    return {"counts": counts, "group_counts": group_counts, **padded}


def _swept(dense: Dense, counts: Tensor, per_round: int) -> Tensors:
    """Of one dense layer: its errors after as many of `counts` (K + 1,) removals as it has room for; facts (n,)."""
    matrix, inverse = dense.full_problem()
    whole = max(dense.sums.energy(dense.weight), 1e-300)
    removed, held = int(counts[counts < dense.blocks][-1]), penalty(dense.xtx.diagonal(), dense.ridge)
    swept = sweep(inverse, dense.weight, removed, block=dense.block, per_round=per_round, held=held)
    errors = ((swept.errors - swept.moved) / whole).clamp_min(0.0)
    order = torch.zeros(dense.blocks, dtype=torch.float64)
    order[swept.order] = torch.arange(1.0, removed + 1, dtype=torch.float64)
    scored = ("wanda-sp", "activation", "magnitude")
    return {
        "errors": torch.cat([errors.new_zeros(1), errors]),
        "energy": matrix.diagonal() * dense.weight.square().sum(1) / whole,
        "order": order,
        "condition": condition_numbers(matrix, inverse),
        **{name: metric(name)(dense, dense.blocks, torch.Generator()).scores for name in scored},
    }
