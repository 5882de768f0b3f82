"""Neuron explorer: every neuron of a layer as a point, energy against condition, and who goes by which metric.

All numbers come from one cached walk (`studies.neurons.survey`); moving a control only draws anew.
"""

from __future__ import annotations

import html

import numpy as np
import torch
from ipywidgets import HTML, Dropdown, HBox, IntSlider, IntText, Layout, VBox
from torch import Tensor, nn

from ..errors import InputError
from ..importance.neurons import RIDGE
from ..lessons.dense_stream import FURTHEST, survey
from ..plots.base import html_image
from ..plots.matrix_condition import plot_energy_condition
from . import alert

IN_ROUNDS = "full-condition, in rounds"
METRICS = (IN_ROUNDS, "full-condition, one look", "energy", "condition alone", "wanda-sp", "activation", "magnitude")
NOBODY = -1  # no neuron is picked


class NeuronExplorer(VBox):
    """Controls `layer`, `metric`, `share` (% of neurons to remove), `neuron` (to inspect); views `image` and `facts`.

    found: what `survey` returns. Nothing here calls a model.
    """

    def __init__(self, found: dict[str, Tensor], layer: int = 0):
        self._found = {name: values.numpy() for name, values in found.items()}
        wide = {"description_width": "7em"}
        size = Layout(width="30em")
        last = len(self._found["energy"]) - 1
        self.layer = IntSlider(layer, 0, last, description="layer", style=wide, layout=size, continuous_update=False)
        self.metric = Dropdown(options=METRICS, description="choose by", style=wide, layout=size)
        self.share = IntSlider(
            20, 0, int(100 * FURTHEST), 1, description="remove (%)", style=wide, layout=size, continuous_update=False
        )
        self.neuron = IntText(
            NOBODY,
            description="neuron",
            style=wide,
            layout=size,
            continuous_update=False,
            tooltip="number of a neuron to look at, -1 for none",
        )
        self.image, self.facts = HTML(layout=Layout(min_height="450px")), HTML(layout=Layout(min_height="5em"))
        controls = (self.layer, self.metric, self.share, self.neuron)
        super().__init__(
            [HBox(controls[:2]), HBox(controls[2:]), self.image, self.facts], layout=Layout(min_height="620px")
        )
        for control in controls:
            control.observe(self._draw, "value")
        self._draw()

    def removed(self) -> np.ndarray:
        """Which neurons of the layer go by the chosen metric (n,), bool."""
        energy, condition = self._of("energy"), self._of("condition")
        count = round(self.share.value / 100 * len(energy))
        if self.metric.value == IN_ROUNDS:
            order = self._of("order")
            return (order > 0) & (order <= count)
        scores = {
            "full-condition, one look": lambda: energy / condition**2,
            "energy": lambda: energy,
            "condition alone": lambda: 1.0 / condition,
        }.get(self.metric.value, lambda: self._of(self.metric.value))()
        gone = np.zeros(len(energy), dtype=bool)
        gone[np.argsort(scores, kind="stable")[:count]] = True
        return gone

    def _of(self, name: str) -> np.ndarray:
        """Values of the layer's neurons (n,): a narrow layer's row ends in NaN."""
        row = self._found[name][self.layer.value]
        return row[~np.isnan(row)]

    def _picked(self, neurons: int) -> int | None:
        """The neuron to inspect. Raises InputError: there is no such neuron."""
        if not NOBODY <= self.neuron.value < neurons:
            raise InputError(f"expected a neuron from 0 to {neurons - 1}, got {self.neuron.value}: choose one, or -1")
        return None if self.neuron.value == NOBODY else self.neuron.value

    def _draw(self, change: object = None) -> None:
        energy, condition, gone = self._of("energy"), self._of("condition"), self.removed()
        try:
            picked = self._picked(len(energy))
        except InputError as error:
            self.facts.value = alert(error)
            return
        title = f"Layer {self.layer.value}: {gone.sum():,} of {len(energy):,} neurons go by {self.metric.value}"
        self.image.value = html_image(plot_energy_condition(energy, condition, gone, title, picked))
        cost = energy / condition**2
        sentences = [
            f"What goes holds {energy[gone].sum() / energy.sum():.1%} of the neurons' energy; its costs, one at a "
            f"time, add up to {cost[gone].sum():.2%} of ‖Y‖²."
        ]
        if self.metric.value == IN_ROUNDS:
            error = np.interp(gone.sum(), self._found["counts"], self._found["errors"][self.layer.value])
            sentences.append(f"Gone together, with the rest re-tuned, they leave an error of {error:.2%} of ‖Y‖².")
        if picked is not None:
            rank = int((cost < cost[picked]).sum()) + 1
            sentences.append(
                f"Neuron {picked}: energy {energy[picked]:.3%}, condition {condition[picked]:.2f}, cost "
                f"{cost[picked]:.4%} of ‖Y‖² (number {rank} of {len(cost)} from the cheapest); "
                f"it {'goes' if gone[picked] else 'stays'}."
            )
        self.facts.value = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def neuron_explorer(model: nn.Module, ids: Tensor, ridge: float = RIDGE, layer: int = 0) -> NeuronExplorer:
    """The explorer for `model` on the calibration tokens `ids` (S, L); the first call walks through the model."""
    with torch.no_grad():
        return NeuronExplorer(survey(model, ids, ridge), layer)
