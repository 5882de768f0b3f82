"""Neuron explorer: every neuron of a layer as a point, energy against condition, and who goes by which metric.

All numbers come from one cached walk (`lessons.dense_stream.survey`); moving a control only draws anew.
"""

from __future__ import annotations

import html

import numpy as np
import torch
from ipywidgets import Dropdown, IntSlider, IntText
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from ..importance.neurons import RIDGE
from ..lessons.dense_stream import FURTHEST, survey
from ..plots.base import Picture
from ..plots.matrix_condition import Values, plot_energy_condition
from .explorer import Explorer, shared

IN_ROUNDS = "full-condition, in rounds"
METRICS = (IN_ROUNDS, "full-condition, one look", "energy", "condition alone", "wanda-sp", "activation", "magnitude")
NOBODY = -1  # no neuron is picked


class NeuronExplorer(Explorer):
    """Controls `layer`, `metric`, `share` (% of neurons to remove), `neuron` (to inspect); views `image` and `facts`.

    statistics: what `survey` returns. Nothing here calls a model.
    """

    def __init__(self, statistics: dict[str, Tensor], layer: int = 0) -> None:
        self._survey = {name: values.numpy() for name, values in statistics.items()}
        self.layer = IntSlider(layer, 0, len(statistics["energy"]) - 1, **shared("layer"))
        self.metric = Dropdown(options=METRICS, **shared("choose by"))
        self.share = IntSlider(20, 0, int(100 * FURTHEST), **shared("remove (%)"))
        self.neuron = IntText(NOBODY, tooltip="number of a neuron to inspect, -1 for none", **shared("neuron"))
        super().__init__([(self.layer, self.metric), (self.share, self.neuron)], image_height=450, height=620)

    def removed(self) -> NDArray[np.bool_]:
        """Which neurons of the layer go by the chosen metric (n,), bool."""
        energy, condition, metric = self._of("energy"), self._of("condition"), self.metric.value
        count = round(self.share.value / 100 * len(energy))
        if metric == IN_ROUNDS:
            order = self._of("order")
            return np.asarray((order > 0) & (order <= count))
        scores = {"full-condition, one look": energy / condition**2, "condition alone": 1.0 / condition}
        worth = scores[metric] if metric in scores else self._of(metric)
        return np.isin(np.arange(len(energy)), np.argsort(worth, kind="stable")[:count])

    def _of(self, name: str) -> Values:
        """Values of the layer's neurons (n,): a narrow layer's row ends in NaN."""
        row: Values = self._survey[name][self.layer.value]
        return row[~np.isnan(row)]

    def answer(self) -> tuple[Picture, str]:
        energy, condition, gone = self._of("energy"), self._of("condition"), self.removed()
        layer, metric, picked, cost = self.layer.value, self.metric.value, self.neuron.value, energy / condition**2
        if not NOBODY <= picked < len(energy):
            raise InputError(f"expected a neuron from 0 to {len(energy) - 1}, got {picked}: choose one, or -1")
        title = f"Layer {layer}: {gone.sum():,} of {len(energy):,} neurons go by {metric}"
        sentences = [
            f"What goes holds {energy[gone].sum() / energy.sum():.1%} of the neurons' energy; its costs, one at a "
            f"time, add up to {cost[gone].sum():.2%} of ‖Y‖²."
        ]
        if metric == IN_ROUNDS:
            left = np.interp(gone.sum(), self._survey["counts"], self._survey["errors"][layer])
            sentences.append(f"Gone together, with the rest re-tuned, they leave an error of {left:.2%} of ‖Y‖².")
        if picked != NOBODY:
            rank = int((cost < cost[picked]).sum()) + 1
            sentences.append(
                f"Neuron {picked}: energy {energy[picked]:.3%}, condition {condition[picked]:.2f}, cost "
                f"{cost[picked]:.4%} of ‖Y‖² (number {rank} of {len(cost)} from the cheapest); "
                f"it {'goes' if gone[picked] else 'stays'}."
            )
        figure = plot_energy_condition(energy, condition, gone, title, None if picked == NOBODY else picked)
        return figure, "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def neuron_explorer(model: nn.Module, ids: Tensor, ridge: float = RIDGE, layer: int = 0) -> NeuronExplorer:
    """The explorer for `model` on the calibration tokens `ids` (S, L); the first call walks through the model."""
    with torch.no_grad():
        return NeuronExplorer(survey(model, ids, ridge), layer)
