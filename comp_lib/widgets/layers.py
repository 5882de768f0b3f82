"""Layer explorer: choose a layer and a metric; see how it turns each token, and where it stands among the others.

All numbers come from one cached study (`studies.layers`); moving a control only draws anew.
"""

from __future__ import annotations

from ipywidgets import HTML, Dropdown, HBox, IntSlider, IntText, Layout, VBox
from torch import Tensor, nn

from ..errors import InputError
from ..importance.layer_study import LayerStudy, rank_gap, ranks
from ..lessons.layer_importance import layer_study
from ..plots.base import html_image
from ..plots.layer_importance import METRICS, plot_layer
from . import alert


class LayerExplorer(VBox):
    """Controls `layer`, `metric`, `sequence`; views `image` and `facts`. Nothing here calls a model."""

    def __init__(self, study: LayerStudy, layer: int = 0):
        self._study = study
        layers, sequences = len(study.influence), study.cosine.shape[1]
        wide, size, short = {"description_width": "6em"}, Layout(width="26em"), Layout(width="12em")
        self.layer = IntSlider(
            layer, 0, layers - 1, description="layer", style=wide, layout=size, continuous_update=False
        )
        self.metric = Dropdown(
            options=[name for name in METRICS if len(study.rounds) or "greedy" not in name],
            description="metric",
            style=wide,
            layout=size,
        )
        self.sequence = IntText(
            0,
            description="sequence",
            style=wide,
            layout=short,
            continuous_update=False,
            tooltip=f"number of a text, 0 to {sequences - 1}",
        )
        self.image, self.facts = HTML(layout=Layout(min_height="340px")), HTML(layout=Layout(min_height="5em"))
        controls = (self.layer, self.metric, self.sequence)
        super().__init__([HBox(controls), self.image, self.facts], layout=Layout(min_height="480px"))
        for control in controls:
            control.observe(self._draw, "value")
        self._draw()

    def _draw(self, change: object = None) -> None:
        layer, study = self.layer.value, self._study
        try:
            figure = plot_layer(study, layer, self.metric.value, self.sequence.value)
        except InputError as error:
            self.facts.value = alert(error)
            return
        self.image.value = html_image(figure)
        gap, last = int(rank_gap(study.influence, study.mean_harm)[layer]), len(study.influence)
        by, harmed = (1 + int(ranks(values)[layer]) for values in (study.influence, study.mean_harm))
        verdict = "the two agree on it"
        if gap:
            verdict = f"the proxy puts it {abs(gap)} place{'s' * (abs(gap) > 1)} too {'low' if gap > 0 else 'high'}"
        self.facts.value = (
            f"<p>Layer {layer}: block influence {study.influence[layer]:.4f} (place {by} of {last}), loss increase "
            f"{study.mean_harm[layer]:.3f} ± {study.harm_error[layer]:.3f} nats per token (place {harmed} of {last}; "
            f"place 1 goes first): {verdict}.</p>"
        )


def layer_explorer(model: nn.Module, ids: Tensor, greedy: int = 3, layer: int = 0) -> LayerExplorer:
    """The explorer for `model` on the calibration tokens `ids` (S, L); the first call walks through the model."""
    return LayerExplorer(layer_study(model, ids, greedy), layer)
