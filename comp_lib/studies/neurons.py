"""What the neurons of a dense model are worth: statistics that notebooks 02 and 03 and two widgets draw from.

Everything here looks at the *dense* stream: no layer before the one in question has been pruned. That is what makes
the numbers of one layer reusable, whatever the plan will be; `prune` itself gathers anew behind each pruned layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..cache import cached
from ..errors import InputError
from ..gram import Gram
from ..gram import token_weights as inverse_norms
from ..importance.condition import spd_inverse, sweep
from ..importance.neurons import Dense
from ..prune import upstream
from ..shape import Shape
from ..stream import attention_step, batches, embed, mlp_step, rotary, through

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


def _into(model: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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
        hidden, rope = _into(model, ids, layer)
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
def layer_gram(
    model: nn.Module, ids: Tensor, layer: int, which: str = "mlp", token_weights: bool = True
) -> dict[str, Tensor]:
    """xtx: C = X^T X (n, n), float64, of a layer's down_proj ("mlp") or o_proj ("attention") on the dense stream.

    One walk to the layer finds the four of them (both dense layers, tokens weighted by 1 / ||h_t|| or not).
    """
    dense_layer(model, layer, which)

    def compute() -> dict[str, Tensor]:
        hidden, rope = _into(model, ids, layer)
        grams = _grams(model.model.layers[layer], hidden, rope, (True, False))[0]
        return {f"{name}-{'weighted' if weighted else 'plain'}": gram.xtx for (name, weighted), gram in grams.items()}

    found = cached("layer-gram", model, ids, {"layer": layer}, compute)
    return {"xtx": found[f"{which}-{'weighted' if token_weights else 'plain'}"]}


def _grams(
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
    model: nn.Module,
    ids: Tensor,
    layer: int,
    which: str = "mlp",
    ridge: float = 1e-2,
    token_weights: bool = True,
) -> Dense:
    """A layer's down_proj or o_proj as the metrics see it (cached statistics, weights of the model)."""
    linear, block = dense_layer(model, layer, which)
    xtx = layer_gram(model, ids, layer, which, token_weights)["xtx"]
    weight = linear.weight.detach().T.double().cpu()  # (n, m)
    return Dense(xtx, weight, upstream(model.model.layers[layer], which).cpu(), block, ridge)


@torch.no_grad()
def error_curves(model: nn.Module, ids: Tensor, ridge: float = 1e-2, block_rounds: int = 64) -> dict[str, Tensor]:
    """Error against width, for every layer at once: what is lost when so many neurons or KV groups go.

    Each layer is swept on its own (full least squares, `block_rounds` neurons a round, at most 60% of them) while the
    dense model streams by once. Returns, for K rounds and widest layers:

        counts (K + 1,)         neurons gone: 0, block_rounds, 2 block_rounds, ...
        errors (layers, K + 1)  ||X W - X V||^2 / ||X W||^2 of down_proj, tokens weighted; NaN beyond a narrow layer
        group_counts (g,) and group_errors (layers, g): the same for KV groups and o_proj
    """
    if block_rounds < 1:
        raise InputError(f"expected at least 1 neuron a round, got {block_rounds}: raise block_rounds")
    shape = Shape.of(model)
    rounds = math.floor(FURTHEST * max(shape.neurons) / block_rounds)
    counts = torch.arange(rounds + 1) * block_rounds
    group_counts = torch.arange(max(shape.kv_groups))

    def compute() -> dict[str, Tensor]:
        hidden, rope = _into(model, ids, 0)
        errors, group_errors = [], []
        for index, module in enumerate(model.model.layers):
            grams, hidden = _grams(module, hidden, rope, (True,))
            for which, asked, found in (("mlp", counts, errors), ("attention", group_counts, group_errors)):
                linear, block = dense_layer(model, index, which)
                weight = linear.weight.detach().T.double()
                per_round = block_rounds if which == "mlp" else 1
                found.append(_curve(grams[which, True].xtx, weight, ridge, asked, block, per_round))
        return {"errors": torch.stack(errors), "group_errors": torch.stack(group_errors)}

    found = cached("error-curves", model, ids, {"ridge": ridge, "block_rounds": block_rounds}, compute)
    return {"counts": counts, "group_counts": group_counts, **found}


def _curve(xtx: Tensor, weight: Tensor, ridge: float, counts: Tensor, block: int, per_round: int) -> Tensor:
    """Relative error of one dense layer after each of `counts` removals (K + 1,), starting with none."""
    inverse, used = spd_inverse(xtx, ridge * float(xtx.diagonal().mean()))
    blocks = len(weight) // block
    possible = counts[(counts > 0) & (counts < blocks)]
    curve = torch.full((len(counts),), float("nan"), dtype=torch.float64)
    curve[0] = 0.0
    if len(possible):
        found = sweep(inverse, weight, int(possible[-1]), block=block, per_round=per_round)
        # what the sweep counts is the error plus the ridge's penalty r ||W - V||^2, which is no error of the layer
        energy = float((weight * (xtx @ weight)).sum())
        curve[1 : len(possible) + 1] = ((found.errors - used * found.moved) / max(energy, 1e-300)).clamp_min(0.0)
    return curve
