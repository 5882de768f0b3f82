"""What the neurons of a dense model are worth: statistics that notebooks 02 and 03 and two widgets draw from.

Everything here looks at the *dense* stream: no layer before the one in question has been pruned. That is what makes
the numbers of one layer reusable, whatever the plan will be; `prune` itself gathers anew behind each pruned layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..cache import cached, to_tensors
from ..errors import InputError
from ..gram import Gram, contributions, residual_energy
from ..gram import token_weights as inverse_norms
from ..importance.condition import block_scores, condition_numbers, sweep
from ..importance.neurons import METRICS, Dense, metric, top
from ..prune import share, upstream
from ..recover import least_squares, only
from ..shape import Shape
from ..stream import attention_step, batches, embed, mlp_step, rotary, sequence_losses, through
from ..surgery import shrink_mlp

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


def error_curves(
    model: nn.Module, ids: Tensor, ridge: float = 1e-2, block_rounds: int | None = None
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
def survey(model: nn.Module, ids: Tensor, ridge: float = 1e-2, block_rounds: int | None = None) -> dict[str, Tensor]:
    """All layers in one walk: `error_curves`, and for each neuron (layers, n) of down_proj, NaN in a narrow layer:

        energy     C_ii ||w_i||^2 as a share of ||X W||^2, with the ridge's part of C_ii
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
        hidden, rope = _into(model, ids, 0)
        tables: list[dict[str, Tensor]] = []
        for index, module in enumerate(model.model.layers):
            grams, hidden = _grams(module, hidden, rope, (True,))
            table = {}
            for which, asked, name in (("mlp", counts, ""), ("attention", group_counts, "group_")):
                linear, block = dense_layer(model, index, which)
                weight = linear.weight.detach().T.double()
                dense = Dense(grams[which, True].xtx, weight, upstream(module, which), block, ridge)
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
    xtx, inverse, ridge = dense.full_problem()
    whole = max(_energy(xtx, dense.weight), 1e-300)
    possible = counts[(counts > 0) & (counts < dense.blocks)]
    curve = torch.full((len(counts),), float("nan"), dtype=torch.float64)
    curve[0] = 0.0
    order = torch.zeros(dense.blocks)
    if len(possible):
        found = sweep(inverse, dense.weight, int(possible[-1]), block=dense.block, per_round=per_round)
        # what the sweep counts is the error plus the ridge's penalty r ||W - V||^2, which is no error of the layer
        curve[1 : len(possible) + 1] = ((found.errors - ridge * found.moved) / whole).clamp_min(0.0)
        order[found.order] = torch.arange(1.0, len(found.order) + 1)
    facts = {"energy": (xtx.diagonal() + ridge) * dense.weight.square().sum(1) / whole, "order": order,
             "condition": ((xtx.diagonal() + ridge) * inverse.diagonal()).clamp_min(1.0).sqrt()}  # fmt: skip
    for name in ("wanda-sp", "activation", "magnitude"):
        facts[name] = metric(name)(dense, dense.blocks, torch.Generator()).scores
    return curve, facts


def _energy(xtx: Tensor, matrix: Tensor) -> float:
    """||X M||^2 = tr(M^T C M): C (n, n), M (n, m)."""
    return residual_energy(xtx, matrix, torch.zeros_like(matrix))


def readings(dense: Dense) -> dict[str, Tensor]:
    """Every way to score the inputs of a dense layer without removing any: name -> (n,), larger is worth more.

    The metrics of `importance.neurons` (those of COMP before their first round), and two that COMP is not: "condition
    alone", 1 / kappa, and "share of output", <a_i, Y> = (G 1)_i, which may be negative.
    """
    generator = torch.Generator().manual_seed(0)
    gram = contributions(dense.xtx, dense.weight)
    _, inverse, ridge = dense.full_problem()
    matrix, mask_inverse = dense.mask_problem()
    energy = (dense.xtx.diagonal() + ridge) * dense.weight.square().sum(1)
    kappa = ((dense.xtx.diagonal() + ridge) * inverse.diagonal()).clamp_min(1.0).sqrt()
    found = {
        "full-condition": block_scores(inverse, dense.weight),
        "mask-condition": matrix.diagonal() / condition_numbers(matrix, mask_inverse).square(),
    }
    found |= {
        name: metric(name)(dense, dense.blocks, generator).scores
        for name in METRICS
        if name not in ("full-condition", "mask-condition", "energy")
    }
    return found | {"energy": energy, "condition alone": 1.0 / kappa, "share of output": gram.sum(1)}


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
    model: nn.Module, ids: Tensor, unseen: Tensor, layer: int, neurons: list[int], ridge: float = 1e-2
) -> dict[str, Tensor]:
    """What removing one neuron costs, measured: all others fitted from scratch, once for each of `neurons` (k,).

    Shares of ||X W||^2, tokens weighted: "retuned" (k,) on `ids`, "unseen" (k,) on the other text, and "objective" (k,),
    the error on `ids` plus the ridge's penalty, which is what the least squares minimise.
    """

    def compute() -> dict[str, Tensor]:
        dense = dense_problem(model, ids, layer, ridge=ridge)
        other = layer_gram(model, unseen, layer)["xtx"]
        whole, whole_unseen = _energy(dense.xtx, dense.weight), _energy(other, dense.weight)
        target, rows = dense.xtx @ dense.weight, []
        for neuron in neurons:
            kept = (torch.arange(dense.blocks) != neuron).nonzero().flatten()
            fitted, used = least_squares(dense.xtx, target, dense.weight, kept, ridge)
            gap = dense.weight - fitted
            error, penalty = _energy(dense.xtx, gap), used * float(gap.square().sum())
            rows.append([error / whole, _energy(other, gap) / whole_unseen, (error + penalty) / whole])
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
    ridge: float = 1e-2,
    names: Sequence[str] | None = None,
    token_weights: bool = True,
) -> dict[str, Tensor]:
    """Error of down_proj when `remove` neurons go by each of `readings` (or of `names`); COMP's two go in rounds.

    name -> (3,): not re-tuned, re-tuned, and the latter on the text `unseen`, as shares of ||X W||^2 with tokens
    weighted or not; "kept:name" (k,): the neurons that stay. "full-condition, one look" takes no rounds.
    """

    def compute() -> dict[str, Tensor]:
        dense = dense_problem(model, ids, layer, "mlp", ridge, token_weights)
        other = layer_gram(model, unseen, layer, "mlp", token_weights)["xtx"]
        target, found = dense.xtx @ dense.weight, {}
        whole, whole_other = _energy(dense.xtx, dense.weight), _energy(other, dense.weight)
        for name, kept in _choices(dense, dense.blocks - remove, names).items():
            plain = dense.weight - only(dense.weight, kept)
            gap = dense.weight - least_squares(dense.xtx, target, dense.weight, kept, ridge)[0]
            seen = [_energy(dense.xtx, plain) / whole, _energy(dense.xtx, gap) / whole]
            errors = torch.tensor([*seen, _energy(other, gap) / whole_other], dtype=torch.float64)
            found |= {f"kept:{name}": kept, name: errors}
        return found

    settings = {"layer": layer, "remove": remove, "ridge": ridge, "unseen": _name(unseen),
                "names": None if names is None else list(names), "token_weights": token_weights}  # fmt: skip
    return cached("choice-errors", model, ids, settings, compute)


def _choices(dense: Dense, keep: int, names: Sequence[str] | None) -> dict[str, Tensor]:
    """Name -> inputs that stay (keep,): COMP's metrics by their sweep, all others by their scores."""
    in_rounds = [name for name in ("full-condition", "mask-condition") if names is None or name in names]
    found = {name: metric(name)(dense, keep, torch.Generator()).kept for name in in_rounds}
    if names is None or set(names) - set(found):
        scored = readings(dense)
        scored["full-condition, one look"] = scored.pop("full-condition")
        del scored["mask-condition"]
        found |= {name: top(scores, keep).kept for name, scores in scored.items() if names is None or name in names}
    return found


@torch.no_grad()
def metric_perplexities(
    model: nn.Module,
    ids: Tensor,
    evaluated: Tensor,
    layers: Sequence[int],
    fraction: float,
    ridge: float = 1e-2,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Perplexity on `evaluated` when a fraction of the neurons of some layers goes by each metric.

    All statistics are of the dense stream. name -> (2,): without recovery, and with least squares; "dense" (1,).
    """

    def compute() -> dict[str, Tensor]:
        first = min(layers)
        hidden, rope = _into(model, ids, first)
        models: dict[str, tuple[nn.Module, nn.Module]] = {}
        for index in range(first, max(layers) + 1):
            module = model.model.layers[index]
            if index not in layers:
                hidden = through(module, hidden, rope, hidden.device)
                continue
            grams, hidden = _grams(module, hidden, rope, (True,))
            xtx, weight = grams["mlp", True].xtx, module.mlp.down_proj.weight.detach().T.double()
            target = xtx @ weight
            dense = Dense(xtx, weight, upstream(module, "mlp"), 1, ridge)
            for name, kept in _choices(dense, dense.blocks - round(fraction * dense.blocks), names).items():
                plain, tuned = models.setdefault(name, (share(model), share(model)))
                shrink_mlp(plain.model.layers[index], kept)
                shrink_mlp(tuned.model.layers[index], kept, least_squares(xtx, target, weight, kept, ridge)[0])
        hidden, rope = _into(model, evaluated, first)  # up to there all models are the same
        judge = lambda judged: _perplexity_behind(judged, hidden, rope, first, evaluated)  # noqa: E731
        found = {name: [judge(plain), judge(tuned)] for name, (plain, tuned) in models.items()}
        return to_tensors(found | {"dense": [judge(model)]})

    settings = {"layers": list(layers), "fraction": fraction, "ridge": ridge, "evaluated": _name(evaluated),
                "names": None if names is None else list(names)}  # fmt: skip
    return cached("metric-perplexities", model, ids, settings, compute)


def _perplexity_behind(
    model: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], first: int, ids: Tensor
) -> float:
    """Perplexity of `ids` (S, L), given the hidden states (S, L, d) that flow into the layer `first`."""
    for module in model.model.layers[first:]:
        hidden = through(module, hidden, rope, hidden.device)
    return float(sequence_losses(model, hidden, ids).mean().exp())
