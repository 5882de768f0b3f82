"""What mask tuning and least squares do, and what they do when nobody watches: statistics behind notebook 04.

The trap. A mask is tuned on sums over tokens, and without weights the tokens count by their energy. In many models one
token, the first, has activations that are hundreds of times as large as all others, written by a handful of neurons. If
these go, the fit does what it was asked for: it drives the factors of the others up until they imitate that one token,
and what they do to all *other* tokens weighs next to nothing in the sum. The mask's variance shows it, the error that
the fit minimises does not. Two remedies that do not need each other: the guard of `tune_mask`, token weights.

As in `dense_stream`, each layer is fitted to what the *dense* model feeds it. (Our derivation and our experiments.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..errors import InputError
from ..evaluation.loss import perplexity
from ..families import dense_layer, family_of
from ..families.protocol import Model
from ..importance.neurons import top
from ..plan import Plan
from ..prune import prune
from ..recovery.bias import unchanged
from ..recovery.mask_tuning import MAX_VARIANCE, Mask, fold_mask, solve_mask, tune_mask
from ..settings import Settings
from ..shape import Shape
from ..statistics.gram import Gram, contributions
from ..surgery import shallow_copy, shrink_mlp, update_config
from .cache import Tensors, cached
from .dense_stream import layer_of, relative_error, sums_of, text_loss, walk_to, weight_of


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
    return _evenly_held(gram, gram.sum(1), kept, ridge)


def _evenly_held(gram: Tensor, target: Tensor, kept: Tensor, ridge: float, start: Tensor | float = 0.0) -> Tensor:
    """(G_KK + p I)^-1 (target + p start)_K, p = lambda mean(diag G): one penalty for all."""
    penalty = ridge * gram.diagonal().mean()
    inner = gram[kept][:, kept] + penalty * torch.eye(len(kept)).to(gram)
    solved: Tensor = torch.linalg.solve(inner, (target + penalty * start)[kept])
    return solved


def random_kept(model: Model, width: int, seed: int) -> Tensor:
    """`width` neurons of each layer, drawn as `prune` with the method "random" draws them: (layers, width)."""
    neurons, generator = Shape.of(model).neurons, torch.Generator().manual_seed(seed)
    if not 0 < width <= min(neurons):
        raise InputError(f"expected a width from 1 to {min(neurons)}, got {width}: keep as many neurons as there are")
    drawn = [torch.rand(count, generator=generator, dtype=torch.float64) for count in neurons]
    return torch.stack([top(scores, width).kept for scores in drawn])


@cached
def masks_of_all_layers(
    model: Model, ids: Tensor, draws: Mapping[str, Tensor], ways: Mapping[str, Mapping[str, Way]]
) -> dict[str, Tensors]:
    """Masks of all MLPs, tuned on ids (S, L) in one walk for several draws, each in its own ways. Cached.

    draws: name -> neurons that stay (layers, k); ways: draw -> name -> Way. Returns draw -> name of way -> (layers, k).
    """
    layers: list[dict[str, Tensors]] = []
    hidden, rope = walk_to(model, ids, 0)
    for index, layer in enumerate(family_of(model).layers(model)):
        grams, behind = {}, hidden
        for weighted in {way.weighted for named in ways.values() for way in named.values()}:
            sums, behind = sums_of(layer, hidden, rope, weighted)
            grams[weighted] = contributions(sums["mlp"].matrix(), weight_of(layer))
        hidden = behind
        masks: dict[str, Tensors] = {}
        for draw, named in ways.items():
            masks[draw] = {name: way.tune(grams[way.weighted], draws[draw][index]) for name, way in named.items()}
        layers.append(masks)
    stacked: dict[str, Tensors] = default_collate(layers)
    return stacked


def with_masks(model: Model, kept: Tensor, masks: Tensor | None = None) -> Model:
    """A smaller model: neurons `kept` (layers, k) stay, masks (layers, k) are folded into down_proj; None: all ones."""
    smaller = shallow_copy(model)
    for index, layer in enumerate(family_of(smaller).layers(smaller)):
        weight = weight_of(layer)
        values = torch.ones(kept.shape[1]) if masks is None else masks[index]
        shrink_mlp(layer, kept[index], fold_mask(weight, kept[index], Mask(values.to(weight), 0.0)))
    update_config(smaller)
    return smaller


@contextmanager
def mask_hooks(model: Model, kept: Tensor, masks: Tensor) -> Iterator[None]:
    """The same masks at run time, the model as large as before: what down_proj reads is multiplied by m (n,)."""
    with ExitStack() as hooks:
        for index, layer in enumerate(family_of(model).layers(model)):
            linear = dense_layer(layer, "mlp")
            full = torch.zeros_like(linear.weight[0])
            full[kept[index]] = masks[index].to(full)
            hooks.enter_context(linear.register_forward_pre_hook(lambda _, args, full=full: (args[0] * full,)))
        yield


def masked_perplexity(model: Model, evaluated: Tensor, kept: Tensor, masks: Tensor | None = None) -> float:
    """Perplexity of `with_masks` on `evaluated` (S, L). Cached."""
    return float(text_loss(with_masks(model, kept, masks), evaluated).double().exp())


@cached
def recoveries_of_one_choice(
    model: Model, ids: Tensor, evaluated: Tensor, plan: Plan, ways: Mapping[str, Settings]
) -> dict[str, float]:
    """Perplexity on `evaluated` (S', L') of one set of neurons, recovered on ids (S, L) in several ways. Cached.

    The first of `ways` chooses what stays, for all of them; "none" comes on top: the same choice without any recovery.
    """
    losses = {"none": torch.tensor(0.0)}  # its place is the first, its turn the last
    for name, settings in (*ways.items(), ("none", Settings(recovery="none"))):
        pruned = prune(model, ids, settings, plan=plan)
        losses[name], plan = torch.tensor(perplexity(pruned.model, evaluated).loss), pruned.plan
    return {name: float(loss.double().exp()) for name, loss in losses.items()}


def mask_error(gram: Tensor, kept: Tensor, mask: Tensor | None = None) -> float:
    """(1 - m)^T G (1 - m) as a share of 1^T G 1 = ||X W||^2: G (n, n), kept (k,), m_K (k,), None: all ones."""
    gap = torch.ones(len(gram), dtype=gram.dtype, device=gram.device)
    gap[kept] -= 1.0 if mask is None else mask
    return float(gap @ gram @ gap / gram.sum())


def ridge_path(
    fitted: Tensor, judged: Mapping[str, Tensor], kept: Tensor, ridges: Sequence[float], guarded: bool = True
) -> Tensors:
    """Masks tuned on G `fitted` (n, n) for each lambda: variance (R,), and the error by each G in `judged` (R,).

    guarded: the penalty of `solve_mask` (lambda is not raised: this shows why it would be); else `naive_mask`.
    """
    masks = [(solve_mask if guarded else naive_mask)(fitted, kept, ridge) for ridge in ridges]
    errors = {name: torch.tensor([mask_error(gram, kept, mask) for mask in masks]) for name, gram in judged.items()}
    return {"variance": torch.stack([mask.var(unbiased=False) for mask in masks]), **errors}


def ridge_forms(xtx: Tensor, judged: Tensor, weight: Tensor, kept: Tensor, ridges: Sequence[float]) -> Tensors:
    """Least squares on C `xtx` (n, n) under two penalties, for each lambda: relative error by C `judged` (R,).

    "own energy": lambda C_ii for each input, as `least_squares`; "even": lambda mean(diag C) for all inputs alike.
    """
    errors: dict[str, list[float]] = {"own energy": [], "even": []}
    for ridge in ridges:
        own, even = Gram.of(xtx).refit(weight, kept, ridge), torch.zeros_like(weight)
        even[kept] = _evenly_held(xtx, xtx @ weight, kept, ridge, weight)
        for form, fitted in zip(errors, (own, even), strict=True):
            errors[form].append(relative_error(judged, weight, fitted))
    return {form: torch.tensor(values).double() for form, values in errors.items()}


FITS = ("mask", "least squares")


@cached
def token_curve(
    model: Model, ids: Tensor, held: Tensor, layer: int, kept: Tensor, sequences: Sequence[int], ridges: Sequence[float]
) -> Tensors:
    """Error of a layer's down_proj on the tokens of the fit and on others, against how many were fitted. Cached.

    ids (S, L): the fits see the first `sequences[i]` of them; held (S', L): nobody does; kept (k,): neurons that stay.
    Returns, relative to the layer's energy, tokens weighted: fitted and unseen (fits, sizes, ridges) in the order of
    FITS, nothing (2,): without any recovery, on ids and on held.
    """
    module = layer_of(model, layer)
    if not sequences or list(sequences) != sorted({*sequences} & {*range(1, len(ids) + 1)}):
        raise InputError(f"expected rising numbers of sequences up to {len(ids)}, got {list(sequences)}: choose others")
    hidden, rope = walk_to(model, torch.cat([ids, held]), layer)
    weight, rows, done = weight_of(module), [], 0

    def gram(texts: slice) -> Tensor:
        return sums_of(module, hidden[texts], rope)[0]["mlp"].matrix()

    def errors(fitted: Tensor) -> list[float]:
        return [relative_error(xtx, weight, fitted) for xtx in (seen, unseen)]

    unseen = gram(slice(len(ids), None))
    seen = torch.zeros_like(unseen)
    for size in sequences:
        seen, done = seen + gram(slice(done, size)), size
        for ridge in ridges:
            mask = fold_mask(weight, kept, Mask(solve_mask(contributions(seen, weight), kept, ridge), ridge))
            rows.append((errors(mask), errors(Gram.of(seen).refit(weight, kept, ridge))))
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(sequences), len(ridges), len(FITS), 2)
    fitted, others = table.permute(3, 2, 0, 1)
    nothing = torch.tensor(errors(unchanged(weight, kept)), dtype=torch.float64)
    return {"fitted": fitted, "unseen": others, "nothing": nothing}
