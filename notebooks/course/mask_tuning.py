"""Masks over a whole model, and what they cost: statistics behind notebook 04. The two solves stand in its cells.

As in `dense_stream`, each layer is fitted to what the *dense* model feeds it. (Our derivation and our experiments.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate

from comp_lib.evaluation.loss import perplexity
from comp_lib.families import family_of
from comp_lib.families.protocol import Model
from comp_lib.importance.neurons import metric, top
from comp_lib.plan import Plan
from comp_lib.prune import prune
from comp_lib.recovery.mask_tuning import Mask, fold_mask, solve_mask, tune_mask
from comp_lib.settings import Settings
from comp_lib.shape import Shape
from comp_lib.statistics.gram import contributions
from comp_lib.surgery import shallow_copy, shrink, update_config

from .cache import Tensors, cached
from .dense_stream import as_dense, sums_of, walk_to, watched, weight_of

RIDGE = 1e-2  # lambda of masks, as in the preset "paper"
LARGEST = 10.0  # size of a factor at which Kwon et al. stop


@dataclass(frozen=True)
class Way:
    """A way to tune the mask of one layer. The guards are those of `tune_mask`, which pulls each factor to 1 by its
    own energy: with another penalty there is none."""

    ridge: float = RIDGE
    toward: float = 1.0  # what the penalty pulls the factors to
    even: bool = False  # one penalty for all, by the mean energy; else each neuron's goes by its own
    guard: str = "none"  # "variance", ours, or "size" of a factor, after Kwon et al.
    weighted: bool = False  # tokens divided by the norm of their residual stream

    def tune(self, gram: Tensor, kept: Tensor) -> Tensor:
        """G (n, n), kept (k,) -> the mask m_K (k,)."""
        if self.guard == "none":
            return penalised_mask(gram, kept, self.ridge, self.toward, self.even)
        return (
            bounded_mask(gram, kept, self.ridge) if self.guard == "size" else tune_mask(gram, kept, self.ridge).values
        )


def bounded_mask(gram: Tensor, kept: Tensor, ridge: float, largest: float = LARGEST) -> Tensor:
    """m_K (k,) under the guard of Kwon et al. 2022: one solve, and if any |m_i| is beyond `largest`, all are 1.

    That is our reading of their code. There, tuning ends at the first such layer, which keeps the mask that it had, as
    do all layers behind it; here each layer is judged alone.
    """
    values = solve_mask(gram, kept, ridge)
    return torch.ones_like(values) if values.abs().max() > largest else values


def penalised_mask(gram: Tensor, kept: Tensor, ridge: float, toward: float = 1.0, even: bool = False) -> Tensor:
    """argmin (1 - m)^T G (1 - m) + sum_i D_ii (m_i - toward)^2 over the kept m_i: G (n, n), kept (k,) -> (k,).

    D_ii = lambda G_ii, or lambda mean(diag G) for all neurons alike (`even`).
    """
    energy = gram.diagonal()
    held = ridge * (energy.mean().expand(len(kept)) if even else energy[kept])
    solved: Tensor = torch.linalg.solve(gram[kept][:, kept] + torch.diag(held), gram.sum(1)[kept] + toward * held)
    return solved


def random_kept(model: Model, width: int, seed: int) -> Tensor:
    """`width` neurons of each layer, drawn as `prune` with the method "random" draws them: (layers, width)."""
    neurons, generator = Shape.of(model).neurons, torch.Generator().manual_seed(seed)
    drawn = [torch.rand(count, generator=generator, dtype=torch.float64) for count in neurons]
    return torch.stack([top(scores, width).kept for scores in drawn])


@cached
def masks_of_all_layers(
    model: Model, ids: Tensor, draws: Mapping[str, Tensor | int], ways: Mapping[str, Mapping[str, Way]]
) -> dict[str, Tensors]:
    """Masks of all MLPs, tuned on ids (S, L) in one walk for several draws, each in its own ways. Cached.

    draws: name -> neurons that stay (layers, k), or k: as many as that, chosen by COMP for a mask, tokens weighted;
    ways: draw -> name -> Way. Returns draw -> name of way -> masks (layers, k), and draw -> "kept" -> (layers, k).
    """
    choose, generator = metric("mask-condition"), torch.Generator()
    tuned: list[dict[str, Tensors]] = []
    hidden, rope = walk_to(model, ids, 0)
    for index, layer in enumerate(family_of(model).layers(model)):
        hidden = torch.cat([stream for stream, _ in watched(layer, "attention", hidden, rope)])
        sums, hidden = sums_of(layer, "mlp", hidden, rope)
        grams = {name: contributions(each.matrix(), weight_of(layer)) for name, each in sums.items()}
        masks: dict[str, Tensors] = {}
        for draw, named in ways.items():
            wanted = draws[draw]
            if isinstance(wanted, int):
                kept = choose(as_dense(layer, "mlp", sums["weighted"], RIDGE), wanted, generator).kept
            else:
                kept = wanted[index]
            masks[draw] = {"kept": kept} | {
                name: way.tune(grams["weighted" if way.weighted else "plain"], kept) for name, way in named.items()
            }
        tuned.append(masks)
    stacked: dict[str, Tensors] = default_collate(tuned)
    return stacked


def with_masks(model: Model, kept: Tensor, masks: Tensor | None = None) -> Model:
    """A smaller model: neurons `kept` (layers, k) stay, masks (layers, k) are folded into down_proj; None: all ones."""
    smaller = shallow_copy(model)
    for index, layer in enumerate(family_of(smaller).layers(smaller)):
        weight = weight_of(layer)
        values = torch.ones(kept.shape[1]) if masks is None else masks[index]
        shrink(layer, "mlp", kept[index], fold_mask(weight, kept[index], Mask(values.to(weight), 0.0)))
    update_config(smaller)
    return smaller


@cached
def masked_losses(model: Model, evaluated: Tensor, kept: Tensor, masks: Tensor | None = None) -> Tensor:
    """Loss of `with_masks` on each window of `evaluated` (S, L), nats per token: (S,). Cached."""
    return torch.tensor(perplexity(with_masks(model, kept, masks), evaluated).losses)


@cached
def losses_of_one_choice(
    model: Model, ids: Tensor, evaluated: Tensor, plan: Plan, ways: Mapping[str, Settings]
) -> Tensors:
    """Loss of each window of `evaluated` (S', L') for one set of neurons, recovered on ids (S, L) in several ways.

    The first of `ways` chooses what stays, for all of them; "none" comes on top: the same choice without any recovery.
    Returns name -> (S',), nats per token. Cached.
    """
    losses = {}
    for name, settings in (*ways.items(), ("none", Settings(recovery="none"))):
        pruned = prune(model, ids, settings, plan=plan)
        losses[name], plan = torch.tensor(perplexity(pruned.model, evaluated).losses), pruned.plan
    return losses


def mask_error(gram: Tensor, kept: Tensor, mask: Tensor | None = None) -> float:
    """(1 - m)^T G (1 - m) as a share of 1^T G 1 = ||X W||^2: G (n, n), kept (k,), m_K (k,), None: all ones."""
    gap = torch.ones(len(gram), dtype=gram.dtype, device=gram.device)
    gap[kept] -= 1.0 if mask is None else mask
    return float(gap @ gram @ gap / gram.sum())


@cached
def ridge_path(
    fitted: Tensor,
    judged: Mapping[str, Tensor],
    kept: Tensor,
    ridges: Sequence[float],
    toward: float = 1.0,
    even: bool = False,
) -> Tensors:
    """`penalised_mask` on G `fitted` (n, n) for each lambda: masks (R, k), and errors by each G in `judged` (R,)."""
    masks = [penalised_mask(fitted, kept, ridge, toward, even) for ridge in ridges]
    errors = {name: torch.tensor([mask_error(gram, kept, mask) for mask in masks]) for name, gram in judged.items()}
    return {"masks": torch.stack(masks), **errors}
