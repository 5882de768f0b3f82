"""What the neurons of a dense model are worth: statistics that notebooks 02 and 03 and two widgets draw from.

Everything here looks at the *dense* stream: no layer before the one in question has been pruned. That is what makes
the numbers of one layer reusable, whatever the plan will be; `prune` itself gathers anew behind each pruned layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, through
from ..errors import InputError
from ..importance.matrix_condition import condition_numbers, sweep
from ..importance.neurons import RIDGE, Dense, metric
from ..shape import Shape
from ..statistics.gram import Gram, residual_energy
from ..statistics.gram import token_weights as inverse_norms
from ..statistics.solve import penalty
from ..surgery import upstream
from .cache import cached

WHICH = ("mlp", "attention")
FURTHEST = 0.6  # share of the neurons up to which error curves go: beyond it a layer is better dropped


def dense_layer(model: nn.Module, layer: int, which: str = "mlp") -> tuple[nn.Linear, int]:
    """down_proj or o_proj of a layer, and how many of its inputs can only go together.

    Raises InputError: no such layer, or `which` is neither "mlp" nor "attention".
    """
    count = len(model.model.layers)
    if which not in WHICH:
        raise InputError(f"expected 'mlp' or 'attention', got {which!r}: name one of the two dense layers")
    if not 0 <= layer < count:
        raise InputError(f"expected a layer from 0 to {count - 1}, got {layer}: choose one of these")
    module = model.model.layers[layer]
    if which == "mlp":
        return module.mlp.down_proj, 1
    return module.self_attn.o_proj, module.self_attn.head_dim * module.self_attn.num_key_value_groups


def walk_to(model: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Hidden states (S, L, d) that flow into a layer of the dense model, and the rotary embedding."""
    hidden = embed(model, ids)
    rope = rotary(model, ids.shape[1], hidden.device, hidden.dtype)
    for module in model.model.layers[:layer]:
        hidden = through(module, hidden, rope, hidden.device)
    return hidden, rope


@torch.no_grad()
def layer_tokens(model: nn.Module, ids: Tensor, layer: int, which: str = "mlp") -> dict[str, Tensor]:
    """What a dense layer reads, token by token: x (T, n), and norms (T,) of the residual stream behind it.

    For as many tokens as fit in memory; `layer_gram` needs none of them at once.
    """
    dense_layer(model, layer, which)

    def compute() -> dict[str, Tensor]:
        hidden, rope = walk_to(model, ids, layer)
        module, inputs, norms = model.model.layers[layer], [], []
        for rows in batches(*ids.shape):
            out, x = attention_step(module, hidden[rows], rope)
            if which == "mlp":
                out, x = mlp_step(module, out)
            inputs.append(x.flatten(0, -2))
            norms.append(1.0 / inverse_norms(out).flatten())
        return {"x": torch.cat(inputs), "norms": torch.cat(norms)}

    return cached("layer-tokens", model, ids, {"layer": layer, "which": which}, compute)


@torch.no_grad()
def layer_grams(model: nn.Module, ids: Tensor, layer: int) -> dict[str, Tensor]:
    """What one walk to a layer of the dense stream finds, kept together.

    "mlp-weighted", "mlp-plain", "attention-weighted", "attention-plain": C = X^T X (n, n), float64, of down_proj and
    o_proj, tokens weighted by 1 / ||h_t|| or not; "stream" (S, L, d): the hidden states that flow into the layer.
    """
    dense_layer(model, layer)

    def compute() -> dict[str, Tensor]:
        hidden, rope = walk_to(model, ids, layer)
        grams = grams_of(model.model.layers[layer], hidden, rope, (True, False))[0]
        found = {f"{name}-{'weighted' if weighted else 'plain'}": gram.xtx for (name, weighted), gram in grams.items()}
        return found | {"stream": hidden}

    return cached("layer-grams", model, ids, {"layer": layer}, compute)


def layer_gram(
    model: nn.Module, ids: Tensor, layer: int, which: str = "mlp", token_weights: bool = True
) -> dict[str, Tensor]:
    """xtx: C = X^T X (n, n), float64, of a layer's down_proj ("mlp") or o_proj ("attention") on the dense stream."""
    dense_layer(model, layer, which)
    return {"xtx": layer_grams(model, ids, layer)[f"{which}-{'weighted' if token_weights else 'plain'}"]}


def grams_of(
    module: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], weightings: tuple[bool, ...]
) -> tuple[dict[tuple[str, bool], Gram], Tensor]:
    """Gram statistics of both dense layers for each weighting, and the hidden states behind the layer (S, L, d)."""
    linears = {"attention": module.self_attn.o_proj, "mlp": module.mlp.down_proj}
    grams = {
        (which, weighted): Gram.zeros(linear.in_features, device=hidden.device)
        for which, linear in linears.items()
        for weighted in weightings
    }
    after = torch.empty_like(hidden)
    for rows in batches(*hidden.shape[:2]):
        middle, x_attention = attention_step(module, hidden[rows], rope)
        after[rows], x_mlp = mlp_step(module, middle)
        for (which, weighted), gram in grams.items():
            x, out = (x_attention, middle) if which == "attention" else (x_mlp, after[rows])
            gram.add(x, weight=inverse_norms(out) if weighted else None)
    return grams, after


def dense_problem(
    model: nn.Module, ids: Tensor, layer: int, which: str = "mlp", ridge: float = RIDGE, token_weights: bool = True
) -> Dense:
    """A layer's down_proj or o_proj as the metrics see it (cached statistics, weights of the model)."""
    xtx = layer_gram(model, ids, layer, which, token_weights)["xtx"]
    return as_dense(model, layer, xtx, which, ridge)


def as_dense(model: nn.Module, layer: int, xtx: Tensor, which: str = "mlp", ridge: float = RIDGE) -> Dense:
    """The same from C (n, n) at hand."""
    linear, block = dense_layer(model, layer, which)
    weight = linear.weight.detach().T.double().cpu()  # (n, m)
    return Dense(Gram.of(xtx), weight, upstream(model.model.layers[layer], which).cpu(), block, ridge)


def error_curves(
    model: nn.Module, ids: Tensor, ridge: float = RIDGE, block_rounds: int | None = None
) -> dict[str, Tensor]:
    """Error against width, for every layer at once: what is lost when so many neurons or KV groups go.

    Each layer is swept on its own (full least squares, `block_rounds` neurons a round, by default a 24th of the widest
    layer, at most 60% of them) while the dense model streams by once. Returns, for K rounds of the widest layer:

        counts (K + 1,)         neurons gone: 0, block_rounds, 2 block_rounds, ...
        errors (layers, K + 1)  ||X W - X V||^2 / ||X W||^2 of down_proj, tokens weighted; NaN beyond a narrow layer
        group_counts (g,) and group_errors (layers, g): the same for KV groups and o_proj
    """
    found = survey(model, ids, ridge, block_rounds)
    return {name: found[name] for name in ("counts", "errors", "group_counts", "group_errors")}


@torch.no_grad()
def survey(model: nn.Module, ids: Tensor, ridge: float = RIDGE, block_rounds: int | None = None) -> dict[str, Tensor]:
    """All layers in one walk: `error_curves`, and for each neuron (layers, n) of down_proj, NaN in a narrow layer:

    energy     H_ii ||w_i||^2 as a share of ||X W||^2, H_ii = (1 + lambda) C_ii
    condition  kappa; energy / condition^2 is the cost
    order      its place in the sweep's order of removal, from 1; 0: the sweep ends before
    wanda-sp, activation, magnitude: scores of those metrics
    """
    shape = Shape.of(model)
    widest = max(shape.neurons)
    block_rounds = max(1, widest // 24) if block_rounds is None else block_rounds
    if block_rounds < 1:
        raise InputError(f"expected at least 1 neuron a round, got {block_rounds}: raise block_rounds")
    counts = torch.arange(math.floor(FURTHEST * widest / block_rounds) + 1) * block_rounds
    group_counts = torch.arange(max(shape.kv_groups))

    def compute() -> dict[str, Tensor]:
        hidden, rope = walk_to(model, ids, 0)
        tables: list[dict[str, Tensor]] = []
        for index, module in enumerate(model.model.layers):
            grams, hidden = grams_of(module, hidden, rope, (True,))
            table = {}
            for which, asked, name in (("mlp", counts, ""), ("attention", group_counts, "group_")):
                linear, block = dense_layer(model, index, which)
                weight = linear.weight.detach().T.double()
                dense = Dense(grams[which, True], weight, upstream(module, which), block, ridge)
                table[f"{name}errors"], facts = _curve(dense, asked, block_rounds if which == "mlp" else 1)
                if which == "mlp":
                    table |= {fact: _padded(values, widest) for fact, values in facts.items()}
            tables.append(table)
        return {name: torch.stack([table[name] for table in tables]) for name in tables[0]}

    found = cached("neuron-survey", model, ids, {"ridge": ridge, "block_rounds": block_rounds}, compute)
    return {"counts": counts, "group_counts": group_counts, **found}


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
        found = sweep(inverse, dense.weight, int(possible[-1]), block=dense.block, per_round=per_round, held=held)
        curve[1 : len(possible) + 1] = ((found.errors - found.moved) / whole).clamp_min(0.0)
        order[found.order] = torch.arange(1.0, len(found.order) + 1)
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
    return residual_energy(xtx, matrix, torch.zeros_like(matrix))
