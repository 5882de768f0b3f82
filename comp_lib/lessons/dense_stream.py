"""What the neurons of a dense model are worth: statistics that notebooks 02 and 03 and two widgets draw from.

Everything here looks at the *dense* stream: no layer before the one in question has been pruned. That is what makes
the numbers of one layer reusable, whatever the plan will be; `prune` itself gathers anew behind each pruned layer.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.stream import Step, attention_step, batches, embed, mlp_step, rotary, sequence_losses, through
from ..errors import InputError
from ..evaluation.loss import perplexity
from ..families import family_of
from ..families.protocol import STEPS, Layer, Model, Rope, Which
from ..importance.matrix_condition import condition_numbers, sweep
from ..importance.neurons import RIDGE, Dense, metric
from ..prune_layer import Watching
from ..shape import Shape
from ..statistics.gram import Gram, Sums
from ..statistics.gram import token_weights as inverse_norms
from ..statistics.solve import penalty
from ..surgery import block_size, dense_layer, upstream
from .cache import Tensors, cached

FURTHEST = 0.6  # share of the neurons up to which error curves go: beyond it a layer is better dropped


def layer_of(model: Model, layer: int, which: Which = "mlp") -> Layer:
    """A decoder layer, by its number.

    Raises InputError: no such layer, or `which` is neither "mlp" nor "attention".
    """
    layers = family_of(model).layers(model)
    if which not in STEPS:
        raise InputError(f"expected 'mlp' or 'attention', got {which!r}: name one of the two dense layers")
    if not 0 <= layer < len(layers):
        raise InputError(f"expected a layer from 0 to {len(layers) - 1}, got {layer}: choose one of these")
    return layers[layer]


def weight_of(layer: Layer, which: Which = "mlp") -> Tensor:
    """W (n, m), float64, of a layer's down_proj or o_proj, for y = X W."""
    return dense_layer(layer, which).weight.detach().T.double()


def layer_step(layer: Layer, hidden: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """Both residual steps of a layer: h (B, L, d) -> h' (B, L, d), and what down_proj reads (B, L, n)."""
    return mlp_step(layer, attention_step(layer, hidden, rope)[0])


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


def loss_behind(model: Model, hidden: Tensor, rope: Rope, first: int, ids: Tensor) -> Tensor:
    """Loss on ids (S, L), nats per token, (), given the hidden states (S, L, d) that flow into the layer `first`."""
    return sequence_losses(model, walk(model, hidden, rope, slice(first, None)), ids).mean()


@cached
def text_loss(model: Model, ids: Tensor) -> Tensor:
    """Loss () of a model on ids (S, L), nats per token. Cached."""
    return torch.tensor(perplexity(model, ids).loss)


@cached
def layer_tokens(model: Model, ids: Tensor, layer: int, which: Which = "mlp") -> Tensors:
    """What a dense layer reads, token by token: x (T, n), and norms (T,) of the residual stream behind it.

    For as many tokens as fit in memory; `layer_gram` needs none of them at once.
    """
    module = layer_of(model, layer, which)
    hidden, rope = walk_to(model, ids, layer)
    inputs, norms = [], []
    for rows in batches(*ids.shape):
        after, x = (layer_step if which == "mlp" else attention_step)(module, hidden[rows], rope)
        inputs.append(x.flatten(0, -2))
        norms.append(1.0 / inverse_norms(after).flatten())
    return {"x": torch.cat(inputs), "norms": torch.cat(norms)}


@cached
def layer_grams(model: Model, ids: Tensor, layer: int) -> Tensors:
    """C = X^T X (n, n), float64, of both dense layers, from one walk to a layer of the dense stream.

    "mlp-weighted", "mlp-plain", "attention-weighted", "attention-plain": tokens weighted by 1 / ||h_t|| or not.
    """
    module = layer_of(model, layer)
    hidden, rope = walk_to(model, ids, layer)
    grams: Tensors = {}
    for name, weighted in (("weighted", True), ("plain", False)):
        sums, _ = sums_of(module, hidden, rope, weighted)
        grams |= {f"{which}-{name}": sums[which].matrix() for which in STEPS}
    return grams


def layer_gram(model: Model, ids: Tensor, layer: int, which: Which = "mlp", token_weights: bool = True) -> Tensors:
    """xtx: C = X^T X (n, n), float64, of a layer's down_proj ("mlp") or o_proj ("attention") on the dense stream."""
    layer_of(model, layer, which)
    return {"xtx": layer_grams(model, ids, layer)[f"{which}-{'weighted' if token_weights else 'plain'}"]}


def sums_of(layer: Layer, hidden: Tensor, rope: Rope, weighted: bool = True) -> tuple[dict[Which, Sums], Tensor]:
    """Sums of both dense layers, tokens `weighted` or not, and the hidden states behind the layer (S, L, d)."""
    steps: dict[Which, Step] = {"attention": partial(attention_step, rope=rope), "mlp": mlp_step}
    sums: dict[Which, Sums] = {}
    for which, step in steps.items():
        behind: list[Tensor] = []

        def recorded(*inputs: Any, step: Step = step, behind: list[Tensor] = behind) -> tuple[Tensor, Tensor]:
            after, x = step(*inputs)
            behind.append(after)
            return after, x

        sums[which], hidden = Watching(layer, which, recorded, weighted)(hidden, None), torch.cat(behind)
    return sums, hidden


def dense_problem(
    model: Model, ids: Tensor, layer: int, which: Which = "mlp", ridge: float = RIDGE, token_weights: bool = True
) -> Dense:
    """A layer's down_proj or o_proj as the metrics see it (cached statistics, weights of the model)."""
    xtx = layer_gram(model, ids, layer, which, token_weights)["xtx"]
    return as_dense(model, layer, Gram.of(xtx), which, ridge)


def as_dense(model: Model, layer: int, sums: Sums, which: Which = "mlp", ridge: float = RIDGE) -> Dense:
    """The same from sums at hand, on their device."""
    module = layer_of(model, layer, which)
    weight, owned = (values.to(sums.x.device) for values in (weight_of(module, which), upstream(module, which)))
    return Dense(sums, weight, owned, block_size(module, which), ridge)


def error_curves(model: Model, ids: Tensor, ridge: float = RIDGE, block_rounds: int | None = None) -> Tensors:
    """Error against width, for every layer at once: what is lost when so many neurons or KV groups go.

    Each layer is swept on its own (full least squares, `block_rounds` neurons a round, by default a 24th of the widest
    layer, at most 60% of them) while the dense model streams by once. Returns, for K rounds of the widest layer:

        counts (K + 1,)         neurons gone: 0, block_rounds, 2 block_rounds, ...
        errors (layers, K + 1)  ||X W - X V||^2 / ||X W||^2 of down_proj, tokens weighted; NaN beyond a narrow layer
        group_counts (g,) and group_errors (layers, g): the same for KV groups and o_proj
    """
    facts = survey(model, ids, ridge, block_rounds)
    return {name: facts[name] for name in ("counts", "errors", "group_counts", "group_errors")}


@cached
def survey(model: Model, ids: Tensor, ridge: float = RIDGE, block_rounds: int | None = None) -> Tensors:
    """All layers in one walk: `error_curves`, and for each neuron (layers, n) of down_proj, NaN in a narrow layer:

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
    counts = torch.arange(math.floor(FURTHEST * widest / per_round) + 1) * per_round
    group_counts = torch.arange(max(shape.kv_groups))
    hidden, rope = walk_to(model, ids, 0)
    tables: list[dict[str, Tensor]] = []
    for index in range(shape.layers):
        sums, hidden = sums_of(layer_of(model, index), hidden, rope)
        errors, facts = _curve(as_dense(model, index, sums["mlp"], "mlp", ridge), counts, per_round)
        group_errors, _ = _curve(as_dense(model, index, sums["attention"], "attention", ridge), group_counts, 1)
        facts = {name: _padded(values, widest) for name, values in facts.items()}
        tables.append({"errors": errors, "group_errors": group_errors, **facts})
    stacked = {name: torch.stack([table[name] for table in tables]) for name in tables[0]}
    return {"counts": counts, "group_counts": group_counts, **stacked}


def _padded(values: Tensor, width: int) -> Tensor:
    return nn.functional.pad(values.double(), (0, width - len(values)), value=float("nan"))


def _curve(dense: Dense, counts: Tensor, per_round: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Relative error of a dense layer after each of `counts` removals (K + 1,), and its inputs' facts for `survey`."""
    matrix, inverse = dense.full_problem()
    whole = max(energy_of(dense.xtx, dense.weight), 1e-300)
    possible = counts[(counts > 0) & (counts < dense.blocks)]
    curve = torch.full((len(counts),), float("nan"), dtype=torch.float64)
    curve[0] = 0.0
    order = torch.zeros(dense.blocks)
    if len(possible):
        held = penalty(dense.xtx.diagonal(), dense.ridge)
        swept = sweep(inverse, dense.weight, int(possible[-1]), block=dense.block, per_round=per_round, held=held)
        curve[1 : len(possible) + 1] = ((swept.errors - swept.moved) / whole).clamp_min(0.0)
        order[swept.order] = torch.arange(1.0, len(swept.order) + 1)
    facts = {
        "energy": matrix.diagonal() * dense.weight.square().sum(1) / whole,
        "order": order,
        "condition": condition_numbers(matrix, inverse),
    }
    for name in ("wanda-sp", "activation", "magnitude"):
        facts[name] = metric(name)(dense, dense.blocks, torch.Generator()).scores
    return curve, facts


def energy_of(xtx: Tensor, matrix: Tensor) -> float:
    """||X M||^2 = tr(M^T C M): C (n, n), M (n, m)."""
    return Gram.of(xtx).energy(matrix)


def relative_error(xtx: Tensor, weight: Tensor, fitted: Tensor) -> float:
    """||X W - X V||^2 / ||X W||^2: C (n, n), weight W and fitted V (n, m)."""
    return energy_of(xtx, weight - fitted) / energy_of(xtx, weight)
