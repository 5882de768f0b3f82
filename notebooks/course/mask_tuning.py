"""Behind lesson 04: what masks are tuned from, layer by layer, and a model into which they are folded.

As in `dense_stream`, each layer is fitted to what the *dense* model feeds it. The solves, the guards and the experiment
stand in the lesson's cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from comp_lib.families import layers_of
from comp_lib.families.protocol import Model
from comp_lib.importance.neurons import Dense
from comp_lib.recovery.mask_tuning import fold_mask
from comp_lib.statistics.gram import contributions
from comp_lib.surgery import shallow_copy, shrink, update_config

from .dense_stream import as_dense, sums_of, walk_to, watched, weight_of


class LayerSums(NamedTuple):
    """What an MLP's masks are tuned from: G (n, n), float64, and its down_proj as the metrics see it."""

    plain: Tensor  # tokens as loud as they are
    problem: Dense  # of tokens divided by the norm of their stream


def sums_of_layers(model: Model, ids: Tensor, ridge: float = 1e-2) -> Iterator[LayerSums]:
    """The sums of each layer of the dense model, on ids (S, L)."""
    hidden, rope = walk_to(model, ids, 0)
    for layer in layers_of(model):
        hidden = torch.cat([stream for stream, _ in watched(layer, "attention", hidden, rope)])
        sums, hidden = sums_of(layer, "mlp", hidden, rope)
        plain = contributions(sums["plain"].matrix(), weight_of(layer))
        yield LayerSums(plain, as_dense(layer, "mlp", sums["weighted"], ridge))


def with_masks(model: Model, kept: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Model:
    """A smaller model: the neurons `kept`, (k,) in each layer, stay; masks (k,) go into down_proj; None: all ones."""
    smaller = shallow_copy(model)
    for index, layer in enumerate(layers_of(smaller)):
        weight, stay = weight_of(layer), kept[index]
        values = torch.ones(len(stay)) if masks is None else masks[index]
        shrink(layer, "mlp", stay, fold_mask(weight, stay, values.to(weight)))
    update_config(smaller)
    return smaller
