"""What lesson 04 needs besides its cells: the sums that masks are tuned from, and models with masks.

As in `dense_stream`, each layer is fitted to what the *dense* model feeds it. The lesson's cells hold the
solves, the guards and the experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from comp_lib.decoder.structure import layers_of
from comp_lib.decoder.surgery import shallow_copy, shrink, update_config
from comp_lib.decoder.types import Model
from comp_lib.decoder.walk import walk
from comp_lib.importance.problem import Problem
from comp_lib.importance.statistics.sums import contributions
from comp_lib.recovery.mask_tuning import fold_mask

from .dense_stream import behind_attention, layer_of, problem_from_statistics, step_statistics, weight_of


class LayerSums(NamedTuple):
    """What the mask of an MLP is tuned from: G (n, n), float64, and its down_proj as the metrics see it."""

    plain: Tensor  # G, of the tokens as they are
    problem: Problem  # of tokens divided by the norm of their stream

    @property
    def weighted(self) -> Tensor:
        """G (n, n) of tokens divided by the norm of their stream."""
        return contributions(self.problem.xtx, self.problem.weight)


def sums_of_layers(model: Model, ids: Tensor, ridge: float = 1e-2) -> Iterator[LayerSums]:
    """The sums of each layer of the dense model, on ids (S, L)."""
    for visit in walk(model, ids, model.device):
        middle = behind_attention(visit.layer, visit.before, visit.arguments)
        statistics, visit.after = step_statistics(visit.layer, "mlp", middle, visit.arguments)
        plain = contributions(statistics["plain"].xtx, weight_of(visit.layer))
        layer = layer_of(model, visit.index)  # the problem outlives the visit
        yield LayerSums(plain, problem_from_statistics(layer, "mlp", statistics["weighted"], ridge))


def random_neurons(model: Model, keep: int, seed: int) -> Tensor:
    """Which `keep` neurons stay in each layer, drawn at random: (layers, keep), ascending."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for layer in layers_of(model):
        drawn = torch.rand(len(weight_of(layer)), generator=generator, dtype=torch.float64)
        chosen.append(drawn.topk(keep).indices.sort().values)
    return torch.stack(chosen)


def tune(
    model: Model,
    ids: Tensor,
    draws: Mapping[str, Tensor],
    way: Callable[[LayerSums, Tensor], Tensor],
) -> dict[str, Tensor]:
    """A mask of each layer of each draw (layers, k), by `way(sums of the layer, its neurons)`, ids (S, L)."""
    masks: dict[str, list[Tensor]] = {name: [] for name in draws}
    for layer, sums in enumerate(sums_of_layers(model, ids)):
        for name, kept in draws.items():
            masks[name].append(way(sums, kept[layer]))
    return {name: torch.stack(each) for name, each in masks.items()}


def with_masks(model: Model, kept: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Model:
    """A smaller model that keeps the neurons `kept`, (k,) in each layer.

    The masks (k,) are folded into down_proj; without `masks` all of them are ones.
    """
    if masks is None:
        masks = [torch.ones(len(neurons)) for neurons in kept]
    smaller = shallow_copy(model)
    for index, layer in enumerate(layers_of(smaller)):
        weight = weight_of(layer)
        neurons = kept[index]
        shrink(layer, "mlp", neurons, fold_mask(weight, neurons, masks[index].to(weight)))
    update_config(smaller)
    return smaller
