"""What mask tuning and least squares do, and what they do when nobody watches: statistics behind notebook 04.

The trap. A mask is tuned on sums over tokens, and without weights the tokens count by their energy. In many models one
token, the first, has activations that are hundreds of times as large as all others, written by a handful of neurons. If
these go, the fit does what it was asked for: it drives the factors of the others up until they imitate that one token,
and what they do to all *other* tokens weighs next to nothing in the sum. The mask's variance shows it, the error that
the fit minimises does not. Two remedies that do not need each other: the guard of `recover.tune_mask`, token weights.

Like `neurons`, everything here fits each layer to what the *dense* model feeds it, so that one walk serves any number
of draws and ways; `prune` itself gathers anew behind each pruned layer. (Our derivation and our experiments.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary
from ..errors import InputError
from ..evaluation.loss import perplexity
from ..plan import Plan
from ..prune import prune
from ..recovery.mask_tuning import MAX_VARIANCE, Mask, fold_mask, solve_mask, tune_mask
from ..settings import Settings
from ..shape import Shape
from ..statistics.gram import Gram, contributions, residual_energy, token_weights
from ..statistics.solve import least_squares
from ..surgery import keep_layers, shallow_copy, shrink_attention, shrink_mlp, update_config
from .cache import cached, to_tensors
from .dense_stream import dense_layer, grams_of, walk_to

# --- masks over a whole model -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way to tune the mask of one layer."""

    ridge: float = 1e-2
    guarded: bool = True  # `tune_mask`; else `naive_mask`, whatever comes out of it
    weighted: bool = False  # tokens divided by the norm of their residual stream
    max_variance: float = MAX_VARIANCE  # of the guard

    def tune(self, gram: Tensor, kept: Tensor) -> Tensor:
        """G (n, n), kept (k,) -> the mask m_K (k,)."""
        if self.guarded:
            return tune_mask(gram, kept, self.ridge, self.max_variance).values
        return naive_mask(gram, kept, self.ridge)


def naive_mask(gram: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """What one writes first: m_K = (G_KK + lambda mean(diag G) I)^-1 G_K: 1, for G (n, n), kept (k,): (k,).

    One penalty for all entries, set by the mean energy: where a few neurons hold nearly all energy it is far too strong
    for the rest, and shrinks them to 0; it draws towards 0 instead of 1; and nothing looks at the outcome.
    """
    penalty = ridge * gram.diagonal().mean()
    inner = gram[kept][:, kept] + penalty * torch.eye(len(kept), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(inner, gram[kept].sum(1))


def random_kept(model: nn.Module, width: int, seed: int) -> Tensor:
    """`width` neurons of each layer, drawn as `prune` with the method "random" draws them: (layers, width)."""
    neurons = Shape.of(model).neurons
    if not 0 < width <= min(neurons):
        raise InputError(f"expected a width from 1 to {min(neurons)}, got {width}: keep as many neurons as there are")
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(count, generator=generator, dtype=torch.float64) for count in neurons]
    return torch.stack([torch.argsort(one, descending=True, stable=True)[:width].sort().values for one in drawn])


@torch.no_grad()
def masks_of_all_layers(
    model: nn.Module, ids: Tensor, draws: Mapping[str, Tensor], ways: Mapping[str, Mapping[str, Way]]
) -> dict[str, dict[str, Tensor]]:
    """Masks of all MLPs, tuned on ids (S, L) in one walk for several draws, each in its own ways. Cached.

    draws: name -> neurons that stay (layers, k); ways: draw -> name -> Way. Returns draw -> name of way -> (layers, k).
    """
    wanted = [(draw, name, way) for draw, each in ways.items() for name, way in each.items()]
    needed = tuple({way.weighted for *_, way in wanted})

    def compute() -> dict[str, Tensor]:
        hidden = embed(model, ids)
        rope = rotary(model, ids.shape[1], hidden.device, hidden.dtype)
        found: dict[str, list[Tensor]] = {f"{draw}/{name}": [] for draw, name, _ in wanted}
        for index, layer in enumerate(model.model.layers):
            grams, hidden = grams_of(layer, hidden, rope, needed)
            weight = layer.mlp.down_proj.weight.detach().T.double()  # (n, m)
            problems = {weighted: contributions(grams["mlp", weighted].xtx, weight) for weighted in needed}
            for draw, name, way in wanted:
                found[f"{draw}/{name}"].append(way.tune(problems[way.weighted], draws[draw][index]))
        return {name: torch.stack(masks) for name, masks in found.items()}

    key = {
        draw: [digest(draws[draw]), {name: asdict(way) for name, way in each.items()}] for draw, each in ways.items()
    }
    found = cached("masks", model, ids, key, compute)
    return {draw: {name: found[f"{draw}/{name}"] for name in each} for draw, each in ways.items()}


@torch.no_grad()
def with_masks(model: nn.Module, kept: Tensor, masks: Tensor | None = None) -> nn.Module:
    """A smaller model: neurons `kept` (layers, k) stay, masks (layers, k) are folded into down_proj; None: all ones."""
    smaller = shallow_copy(model)
    for index, layer in enumerate(smaller.model.layers):
        values = torch.ones(kept.shape[1], dtype=torch.float64) if masks is None else masks[index]
        weight = layer.mlp.down_proj.weight.detach().T.double()
        shrink_mlp(layer, kept[index], fold_mask(weight, kept[index], Mask(values.to(weight), 0.0)))
    update_config(smaller)
    return smaller


@contextmanager
def mask_hooks(model: nn.Module, kept: Tensor, masks: Tensor) -> Iterator[None]:
    """The same masks at run time, the model as large as before: what down_proj reads is multiplied by m (n,)."""
    hooks = []
    for index, layer in enumerate(model.model.layers):
        weight = layer.mlp.down_proj.weight
        full = torch.zeros(weight.shape[1], dtype=weight.dtype, device=weight.device)
        full[kept[index]] = masks[index].to(full)
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(lambda module, args, full=full: (args[0] * full,)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def recoveries_of_one_choice(
    model: nn.Module, ids: Tensor, evaluated: Tensor, plan: Plan, ways: Mapping[str, Settings]
) -> dict[str, float]:
    """Perplexity on `evaluated` (S', L') of one set of neurons, recovered on ids (S, L) in several ways. Cached.

    The first of `ways` chooses what stays, for all of them; "none" comes on top: the same choice without any recovery.
    """

    def compute() -> dict[str, Tensor]:
        losses, fixed = {}, plan
        for name, settings in ways.items():
            pruned = prune(model, ids, settings, plan=fixed)
            losses[name], fixed = perplexity(pruned.model, evaluated).loss, pruned.plan
        return to_tensors(
            {name: torch.tensor(loss).double() for name, loss in ({"none": bare(fixed)} | losses).items()}
        )

    def bare(fixed: Plan) -> float:
        smaller = shallow_copy(model)
        for place, index in enumerate(fixed.layers):
            shrink_mlp(smaller.model.layers[index], torch.tensor(fixed.kept_neurons[place]))
            shrink_attention(smaller.model.layers[index], torch.tensor(fixed.kept_groups[place]))
        keep_layers(smaller, fixed.layers)
        update_config(smaller)
        return perplexity(smaller, evaluated).loss

    settings = {name: asdict(each) for name, each in ways.items()}
    key = {"evaluated": digest(evaluated), "plan": plan.to_json(), "ways": settings, "order": list(ways)}
    found = cached("recoveries", model, ids, key, compute)
    return {name: float(found[name].exp()) for name in ("none", *ways)}


def masked_perplexity(model: nn.Module, evaluated: Tensor, kept: Tensor, masks: Tensor | None = None) -> float:
    """Perplexity of `with_masks` on `evaluated` (S, L). Cached."""

    def compute() -> dict[str, Tensor]:
        return to_tensors({"loss": torch.tensor(perplexity(with_masks(model, kept, masks), evaluated).loss).double()})

    key = {"kept": digest(kept), "masks": None if masks is None else digest(masks)}
    return float(cached("masked-loss", model, evaluated, key, compute)["loss"].exp())


def digest(values: Tensor) -> str:
    """A short name for a tensor's values."""
    return hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


# --- one layer --------------------------------------------------------------------------------------------------------


def mask_error(gram: Tensor, kept: Tensor, mask: Tensor | None = None) -> float:
    """(1 - m)^T G (1 - m) as a share of 1^T G 1 = ||X W||^2: G (n, n), kept (k,), m_K (k,), None: all ones."""
    gap = torch.ones(len(gram), dtype=gram.dtype, device=gram.device)
    gap[kept] -= 1.0 if mask is None else mask
    return float(gap @ gram @ gap / gram.sum())


def ridge_path(
    fitted: Tensor, judged: Mapping[str, Tensor], kept: Tensor, ridges: Sequence[float], guarded: bool = True
) -> dict[str, Tensor]:
    """Masks tuned on G `fitted` (n, n) for each lambda: variance (R,), and the error by each G in `judged` (R,).

    guarded: the penalty of `solve_mask` (lambda is not raised: this shows why it would be); else `naive_mask`.
    """
    masks = [(solve_mask if guarded else naive_mask)(fitted, kept, ridge) for ridge in ridges]
    found = {name: torch.tensor([mask_error(gram, kept, mask) for mask in masks]) for name, gram in judged.items()}
    return {"variance": torch.stack([mask.var(unbiased=False) for mask in masks]), **found}


def ridge_forms(
    xtx: Tensor, judged: Tensor, weight: Tensor, kept: Tensor, ridges: Sequence[float]
) -> dict[str, Tensor]:
    """Least squares on C `xtx` (n, n) under two penalties, for each lambda: relative error by C `judged` (R,).

    "own energy": lambda C_ii for each input, as `least_squares`; "even": lambda mean(diag C) for all inputs alike.
    """

    def even(ridge: float) -> Tensor:
        pull = ridge * xtx.diagonal().mean()
        inner = xtx[kept][:, kept] + pull * torch.eye(len(kept), dtype=xtx.dtype)
        fitted = torch.linalg.solve(inner, target[kept] + pull * weight[kept])
        return torch.zeros_like(weight).index_copy(0, kept, fitted)

    target, whole = xtx @ weight, residual_energy(judged, weight, torch.zeros_like(weight))
    fits = {"own energy": lambda ridge: least_squares(xtx, target, weight, kept, ridge), "even": even}
    return {
        form: torch.tensor([residual_energy(judged, weight, fit(ridge)) / whole for ridge in ridges]).double()
        for form, fit in fits.items()
    }


FITS = ("mask", "least squares")


@torch.no_grad()
def token_curve(
    model: nn.Module,
    ids: Tensor,
    held: Tensor,
    layer: int,
    kept: Tensor,
    sequences: Sequence[int],
    ridges: Sequence[float],
) -> dict[str, Tensor]:
    """Error of a layer's down_proj on the tokens of the fit and on others, against how many were fitted. Cached.

    ids (S, L): the fits see the first `sequences[i]` of them; held (S', L): nobody does; kept (k,): neurons that stay.
    Returns, relative to the layer's energy, tokens weighted: fitted and unseen (fits, sizes, ridges) in the order of
    FITS, nothing (2,): without any recovery, on ids and on held.
    """
    dense_layer(model, layer)
    if not sequences or list(sequences) != sorted(set(sequences)) or not 1 <= sequences[0] <= sequences[-1] <= len(ids):
        raise InputError(f"expected rising numbers of sequences up to {len(ids)}, got {list(sequences)}: choose others")

    def compute() -> dict[str, Tensor]:
        both, rope = walk_to(model, torch.cat([ids, held]), layer)
        module = model.model.layers[layer]
        weight = module.mlp.down_proj.weight.detach().T.double()
        bare = torch.zeros_like(weight)
        bare[kept] = weight[kept]

        def gram_of(hidden: Tensor) -> Gram:
            gram = Gram.zeros(len(weight))
            for rows in batches(*hidden.shape[:2]):
                out, x = mlp_step(module, attention_step(module, hidden[rows], rope)[0])
                gram.add(x, weight=token_weights(out))
            return gram

        def error(gram: Gram, new: Tensor) -> float:
            return residual_energy(gram.xtx, weight, new) / residual_energy(gram.xtx, weight, torch.zeros_like(weight))

        unseen, seen, done = gram_of(both[len(ids) :]), Gram.zeros(len(weight)), 0
        fitted, others = ([[] for _ in FITS] for _ in range(2))
        for size in sequences:
            seen, done = seen + gram_of(both[done:size]), size
            tuned, target = contributions(seen.xtx, weight), seen.target(weight)
            for ridge in ridges:
                news = (
                    fold_mask(weight, kept, Mask(solve_mask(tuned, kept, ridge), ridge)),
                    least_squares(seen.xtx, target, weight, kept, ridge),
                )
                for place, new in enumerate(news):
                    fitted[place].append(error(seen, new))
                    others[place].append(error(unseen, new))
        size = (len(FITS), len(sequences), len(ridges))
        return to_tensors(
            {
                "fitted": torch.tensor(fitted, dtype=torch.float64).reshape(size),
                "unseen": torch.tensor(others, dtype=torch.float64).reshape(size),
                "nothing": torch.tensor([error(seen, bare), error(unseen, bare)], dtype=torch.float64),
            }
        )

    key = {
        "held": digest(held),
        "layer": layer,
        "kept": digest(kept),
        "sequences": list(sequences),
        "ridges": list(ridges),
    }
    return cached("token-curve", model, ids, key, compute)
