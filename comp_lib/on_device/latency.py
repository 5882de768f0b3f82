"""How long a decoder of given widths takes on this machine. (Our addition.)

Time, like parameters, adds up over what is there:

    t(widths) = fixed + sum over the layers of (layer + group * KV groups + neuron * neurons)

`fixed` is what no plan changes: embedding, head, the runtime's work for each call; `layer` what a layer costs whatever
its widths: norms, launches, attention over the tokens before. Narrowing saves only the last terms, dropping a layer all
three: this is why depth and width, equal in parameters, differ in time.

A fit to models of several depths and widths, by least squares on relative errors with no coefficient below 0, gives the
widest width that meets a budget, for each number of layers dropped. Which of these does least harm, no formula here can
say (lesson 03).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ..shape import Shape

Widths = tuple[tuple[int, ...], tuple[int, ...]]  # (neurons, KV groups), one entry for each layer


@dataclass(frozen=True)
class CostModel:
    """Milliseconds: of a token that is written ("decode"), or of a prompt that is read ("prefill")."""

    kind: str
    fixed: float
    layer: float
    group: float
    neuron: float
    misfit: float = 0.0  # largest relative error over the models that it was fitted to

    def milliseconds(self, neurons: Sequence[int], kv_groups: Sequence[int]) -> float:
        """Of a model with these widths, one entry for each layer."""
        return self.fixed + self.layer * len(neurons) + self.group * sum(kv_groups) + self.neuron * sum(neurons)


def fit(kind: str, widths: Sequence[Widths], milliseconds: Sequence[float]) -> CostModel:
    """The cost model of least squared relative error, all of its coefficients at least 0.

    widths and milliseconds: one entry for each model timed. Where all have the same widths in some term, what that term
    costs counts as `fixed` or `layer`: nothing in the data could tell them apart.
    """
    terms = np.array([[1.0, len(neurons), sum(groups), sum(neurons)] for neurons, groups in widths])  # (models, 4)
    times = np.asarray(milliseconds, dtype=float)
    per_layer = terms[:, 2:] / terms[:, 1:2]
    varies = np.array([True, np.ptp(terms[:, 1]) > 0, *(np.ptp(per_layer, axis=0) > 0)])
    scale = terms.max(axis=0)
    rows = (terms / scale / times[:, None])[:, varies]
    costs = np.zeros(4)
    costs[varies] = nnls(rows, np.ones(len(times)))[0] / scale[varies]
    misfit = float(np.abs(terms @ costs / times - 1).max())
    fixed, layer, group, neuron = costs.tolist()
    return CostModel(kind, fixed, layer, group, neuron, misfit)


def candidates(cost: CostModel, shape: Shape, share: float, multiple: int) -> list[tuple[int, int]]:
    """(layers dropped, neurons in each that stays) for each number of layers with which `share` of the time is met.

    Each at its widest, a multiple or all, and at least a tenth. Up to the first that needs no narrowing: to drop more
    layers would only do more harm. The widths of `shape` are taken as its narrowest layer's.
    """
    neurons, groups = min(shape.neurons), min(shape.kv_groups)
    allowed = share * cost.milliseconds(shape.neurons, shape.kv_groups) * (1 + 1e-12)
    pairs = []
    for dropped in range(shape.layers):
        layers = shape.layers - dropped
        for width in (neurons, *range((neurons - 1) // multiple * multiple, 0, -multiple)):
            if 10 * width >= neurons and cost.milliseconds((width,) * layers, (groups,) * layers) <= allowed:
                pairs.append((dropped, width))
                break
        if pairs and pairs[-1][1] == neurons:
            break
    return pairs
