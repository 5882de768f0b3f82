"""Layer explorer: choose a layer and a metric; see how it turns each token, and where it stands among the others.

All numbers come from one cached study (`lessons.layer_importance`); moving a control only draws anew.
"""

from __future__ import annotations

from ipywidgets import Dropdown, IntSlider, IntText
from torch import Tensor, nn

from ..importance.layer_study import LayerStudy, rank_gap, ranks
from ..lessons.layer_importance import layer_study
from ..plots.base import Picture
from ..plots.layer_importance import METRICS, plot_layer
from .explorer import Explorer, shared


class LayerExplorer(Explorer):
    """Controls `layer`, `metric`, `sequence`; views `image` and `facts`. Nothing here calls a model."""

    def __init__(self, study: LayerStudy, layer: int = 0) -> None:
        self._study = study
        metrics = [name for name in METRICS if len(study.rounds) or "greedy" not in name]
        which = f"number of a text, 0 to {study.cosine.shape[1] - 1}"
        self.layer = IntSlider(layer, 0, len(study.influence) - 1, **shared("layer", 26))
        self.metric = Dropdown(options=metrics, **shared("metric", 26))
        self.sequence = IntText(0, tooltip=which, **shared("sequence", 12))
        super().__init__([(self.layer, self.metric, self.sequence)], image_height=340, height=480)

    def answer(self) -> tuple[Picture, str]:
        layer, study = self.layer.value, self._study
        figure = plot_layer(study, layer, self.metric.value, self.sequence.value)
        influence, harm, last = study.influence, study.mean_harm, len(study.influence)
        gap = int(rank_gap(influence, harm)[layer])
        by, harmed = (1 + int(ranks(values)[layer]) for values in (influence, harm))
        verdict = "the two agree on it"
        if gap:
            verdict = f"the proxy puts it {abs(gap)} place{'s' * (abs(gap) > 1)} too {'low' if gap > 0 else 'high'}"
        return figure, (
            f"<p>Layer {layer}: block influence {influence[layer]:.4f} (place {by} of {last}), loss increase "
            f"{harm[layer]:.3f} ± {study.harm_error[layer]:.3f} nats per token (place {harmed} of {last}; place 1 goes "
            f"first): {verdict}.</p>"
        )


def layer_explorer(model: nn.Module, ids: Tensor, greedy: int = 3, layer: int = 0) -> LayerExplorer:
    """The explorer for `model` on the calibration tokens `ids` (S, L); the first call walks through the model."""
    return LayerExplorer(layer_study(model, ids, greedy), layer)
