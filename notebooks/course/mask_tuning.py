"""What lesson 04 needs besides its cells: the sums that masks are tuned from, and models with masks.

As in `dense_stream`, each layer is fitted to what the *dense* model feeds it. The lesson's cells hold the
solves, the guards and the experiment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from comp_lib.families.find import layers_of
from comp_lib.families.protocol import Model
from comp_lib.importance.neurons import Problem
from comp_lib.recovery.mask_tuning import fold_mask
from comp_lib.statistics.gram import contributions
from comp_lib.surgery import shallow_copy, shrink, update_config

from .dense_stream import problem_from_sums, sums_of, walk_to, watched, weight_of


class LayerSums(NamedTuple):
    """What the mask of an MLP is tuned from: G (n, n), float64, and its down_proj as the metrics see it."""

    plain: Tensor  # G, of the tokens as they are
    problem: Problem  # of tokens divided by the norm of their stream


def sums_of_layers(model: Model, ids: Tensor, ridge: float = 1e-2) -> Iterator[LayerSums]:
    """The sums of each layer of the dense model, on ids (S, L)."""
    hidden, rope = walk_to(model, ids, 0)
    for layer in layers_of(model):
        hidden = torch.cat([stream for stream, _ in watched(layer, "attention", hidden, rope)])
        sums, hidden = sums_of(layer, "mlp", hidden, rope)
        plain = contributions(sums["plain"].matrix(), weight_of(layer))
        yield LayerSums(plain, problem_from_sums(layer, "mlp", sums["weighted"], ridge))


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
