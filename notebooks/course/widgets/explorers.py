"""Explorers: controls above, a picture and facts below, and an answer to every move of a control.

All numbers come from cached statistics (see `course.cache`) and from arithmetic on parameters. No control
calls a model, so the answer comes at once. Only the planner's button calls one, and says so.
"""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from ipywidgets import (
    HTML,
    Button,
    Dropdown,
    HBox,
    IntSlider,
    IntText,
    Layout,
    SelectionSlider,
    SelectMultiple,
    VBox,
    Widget,
)
from numpy.typing import NDArray

from comp_lib.decoder.shape import Shape
from comp_lib.hybrid_granularity.by_harm import plan_by_harm
from comp_lib.hybrid_granularity.measured import MeasuredHarm
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.plan import Plan, PlanRequest
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.reports.checkup.frames import SWEPT_SHARE
from comp_lib.reports.plots.base import Picture, mime_bundle
from comp_lib.utils.errors import InputError
from course.layer_importance import LayerStudy, rank_gap, ranks

from ..figures.hybrid_granularity import plot_widths
from ..figures.layer_importance import METRICS, plot_layer
from ..figures.matrix_condition import plot_energy_condition
from ..hybrid_granularity import layer_errors, water_filling_plan
from . import WithStill, alert

# ways to choose neurons, as a control shows them
IN_ROUNDS = "full-condition, in rounds"
ONE_LOOK = "full-condition, one look"
CHOICES = (IN_ROUNDS, ONE_LOOK, "energy", "condition alone", "wanda-sp", "activation", "magnitude")
# ways to set the widths of a plan, as a control shows them
UNIFORM = "uniform"
PER_LAYER = "the paper's, by importance"
MEASURED = "measured, by divergence"
WATER = "water-filling, by error"
BY_HAND = "by hand"
MEASURE_LABEL = "measure its loss"  # of the planner's button
BYTES = 4  # of a parameter
Line = tuple[float, float, float]  # of the time of a token in ms: (fixed, for each layer, for each neuron)
Loss = tuple[float, float, float]  # increase over the dense model, nats per token, and its interval
Measure = Callable[[Plan], Loss]


class Explorer(WithStill, VBox):  # type: ignore[misc]  # ipywidgets brings no types
    """Rows of controls, then `image` and `facts`; heights are fixed, so that the page does not jump."""

    def __init__(self, rows: Sequence[Sequence[Widget]], image_height: int, height: int) -> None:
        self.image = HTML(layout=Layout(min_height=f"{image_height}px"))
        self.facts = HTML(layout=Layout(min_height="5em"))
        boxes = [HBox(row) for row in rows]
        super().__init__([*boxes, self.image, self.facts], layout=Layout(min_height=f"{height}px"))
        for control in chain(*rows):
            if control.has_trait("continuous_update"):  # no answer while a slider moves
                control.continuous_update = False
            control.observe(self._draw, "value")
        self._draw()

    def still(self) -> str:
        return f"{self.image.value}{self.facts.value}"

    @abstractmethod
    def answer(self) -> tuple[Picture, str]:
        """The picture and the facts (HTML) for what the controls say. Raises InputError if there are none."""

    def _draw(self, change: object = None) -> None:
        """Show the answer. Wrong input is answered with a sentence, and the last good picture stays."""
        try:
            figure, facts = self.answer()
            self.image.value = mime_bundle(figure)["text/html"]
            self.facts.value = facts
        except InputError as error:
            self.facts.value = alert(error)


def shared(description: str, width: int = 30) -> dict[str, Any]:
    """Arguments that all controls share: a description, and a width in em."""
    layout = Layout(width=f"{width}em")
    return {"description": description, "style": {"description_width": "8em"}, "layout": layout}


class LayerExplorer(Explorer):
    """How one layer turns each token, and its rank among all. Controls: `layer`, `metric`, `sequence`."""

    def __init__(self, study: LayerStudy, layer: int = 0) -> None:
        self._study = study
        tooltip = f"number of a text, 0 to {study.cosine.shape[1] - 1}"
        self.layer = IntSlider(layer, 0, len(study.influence) - 1, **shared("layer", 26))
        self.metric = Dropdown(options=list(METRICS), **shared("metric", 26))
        self.sequence = IntText(0, tooltip=tooltip, **shared("sequence", 12))
        super().__init__([(self.layer, self.metric, self.sequence)], image_height=340, height=480)

    def answer(self) -> tuple[Picture, str]:
        study = self._study
        layer = self.layer.value
        figure = plot_layer(study, layer, self.metric.value, self.sequence.value)
        influence = study.influence
        harm = study.mean_harm
        layers = len(influence)
        low, high = study.harm_interval[layer].tolist()
        influence_rank = 1 + int(ranks(influence)[layer])
        harm_rank = 1 + int(ranks(harm)[layer])
        verdict = _verdict(int(rank_gap(influence, harm)[layer]))
        facts = (
            f"<p>Layer {layer}: block influence {influence[layer]:.4f} (place {influence_rank} of {layers}), "
            f"loss increase {harm[layer]:.3f} nats per token (95%: {low:.3f} to {high:.3f}; place "
            f"{harm_rank} of {layers}; place 1 goes first): {verdict}.</p>"
        )
        return figure, facts


def _verdict(gap: int) -> str:
    """The rank gap of a layer (see `rank_gap`) in words."""
    if gap == 0:
        return "the two agree on it"
    noun = "place" if abs(gap) == 1 else "places"
    direction = "low" if gap > 0 else "high"
    return f"the proxy puts it {abs(gap)} {noun} too {direction}"


def energies(frame: pd.DataFrame) -> pd.Series:
    """H_ii ||w_i||^2 / ||X W||^2 of each row of `analysis.neurons`, ridge included.

    It is the cost times the condition squared.
    """
    return frame.cost * frame.condition**2


class NeuronExplorer(Explorer):
    """Every neuron of a layer, energy against condition. Controls: `layer`, `metric`, `share`, `place`.

    neurons, curves: the frames of `analysis` with these names, of the same layers. `share` is how many
    neurons to remove, in percent. `place` picks a neuron by the rank of its cost, where 1 is the cheapest.
    """

    def __init__(self, neurons: pd.DataFrame, curves: pd.DataFrame, layer: int | None = None) -> None:
        self._neurons = {number: rows for number, rows in neurons.groupby("layer")}
        self._curves = {number: rows for number, rows in curves.groupby("layer")}
        if layer is None:
            layer = min(self._neurons)
        self.layer = SelectionSlider(options=sorted(self._neurons), value=layer, **shared("layer"))
        self.metric = Dropdown(options=CHOICES, **shared("choose by"))
        self.share = IntSlider(20, 0, int(100 * SWEPT_SHARE), **shared("remove (%)"))
        self.place = IntSlider(1, 1, len(self._neurons[layer]), **shared("place by price"))
        super().__init__([(self.layer, self.metric), (self.share, self.place)], image_height=450, height=620)

    def removed(self, metric: str | None = None) -> NDArray[np.bool_]:
        """Which neurons of the layer `metric` removes: (n,), bool; by default the metric of the control."""
        metric = metric or self.metric.value
        frame = self._neurons[self.layer.value]
        # a sweep ends at whole steps, a little before SWEPT_SHARE
        swept_count = int(frame.removed_at.notna().sum())
        count = min(round(self.share.value / 100 * len(frame)), swept_count)
        if metric == IN_ROUNDS:
            return np.asarray(frame.removed_at * len(frame) < count + 0.5)
        if metric == ONE_LOOK:
            scores = frame.cost
        elif metric == "condition alone":
            scores = 1.0 / frame.condition
        elif metric == "energy":
            scores = energies(frame)
        else:
            scores = frame[metric.replace("-", "_")]
        lowest = np.argsort(scores.to_numpy(), kind="stable")[:count]
        return np.isin(np.arange(len(frame)), lowest)

    def answer(self) -> tuple[Picture, str]:
        layer = self.layer.value
        metric = self.metric.value
        frame = self._neurons[layer]
        energy = energies(frame).to_numpy()
        condition = frame.condition.to_numpy()
        cost = frame.cost.to_numpy()
        removed = self.removed()
        self.place.max = len(frame)  # a narrow layer has fewer
        cost_rank = self.place.value
        picked = int(np.argsort(cost, kind="stable")[cost_rank - 1])
        title = f"Layer {layer}: {removed.sum():,} of {len(frame):,} neurons are removed by {metric}"
        sentences = [
            f"The removed neurons hold {energy[removed].sum() / energy.sum():.1%} of all energy. "
            f"Their prices, one at a time, add up to {cost[removed].sum():.2%} of ‖Y‖²."
        ]
        if metric == IN_ROUNDS:
            curve = self._curves[layer]
            error = np.interp(removed.sum(), curve.gone, curve.error)
            sentences.append(
                f"Removed together, with the others refitted, they leave an error of {error:.2%} of ‖Y‖²."
            )
        by_energy = _fate(self.removed("energy")[picked])
        by_cost = _fate(self.removed(ONE_LOOK)[picked])
        sentences.append(
            f"Neuron {picked}: energy {energy[picked]:.3%}, condition {condition[picked]:.2f} (median "
            f"{np.median(condition):.2f}), price {cost[picked]:.4%} of ‖Y‖², number {cost_rank} of "
            f"{len(cost)} from the cheapest. It {_fate(removed[picked])} here; it {by_energy} by energy and "
            f"{by_cost} by {ONE_LOOK}."
        )
        figure = plot_energy_condition(energy, condition, removed, title, picked)
        return figure, "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def _fate(removed: np.bool_) -> str:
    """What happens to a neuron, as the verb of a sentence."""
    return "is removed" if removed else "stays"


class Planner(Explorer):
    """A plan made by hand: the layers to drop, the widths of the others, the size, and the loss of the model.

    Controls: `ratio` (%), `dropped` (numbers of layers), `widths` (how they are set). With BY_HAND, `layer`
    and `width` change one layer of the plan shown. The error that the curves predict is always shown.
    `measure_button` carries the plan out and shows what the model loses, which takes a while; `measured`
    keeps the answers.

    shape: of the dense model; harm: of narrowing each layer; importance: one number for each layer, for the
    paper's widths; line: (fixed, layer, neuron) of the time of a token in ms; measure: loss of a plan over
    the dense model with its interval, (mean, low, high); task: what to look for; options: of `PlanRequest`.
    `plan` is the plan shown, None while the request cannot be met.
    """

    def __init__(
        self,
        shape: Shape,
        harm: MeasuredHarm,
        importance: Sequence[float],
        line: Line | None = None,
        measure: Measure | None = None,
        task: str = "",
        **options: Any,
    ) -> None:
        self.shape = shape
        self.harm = harm
        self.line = line
        self.measure = measure
        self.options = options
        self.importance = [float(value) for value in importance]
        self.plan: Plan | None = None
        self.measured: dict[Plan, Loss] = {}
        self.ratio = IntSlider(20, 1, 60, **shared("remove (%)"))
        self.widths = Dropdown(options=(UNIFORM, PER_LAYER, MEASURED, WATER, BY_HAND), **shared("widths"))
        self.dropped = SelectMultiple(options=range(shape.layer_count), rows=6, **shared("drop layers", 16))
        step = options.get("multiple", 64)
        self.layer = IntSlider(0, 0, shape.layer_count - 1, disabled=True, **shared("layer"))
        self.width = IntSlider(
            shape.neurons[0], step, max(shape.neurons), step, disabled=True, **shared("its neurons")
        )
        left = VBox([self.ratio, self.widths, self.layer, self.width])
        self.measure_button = Button(
            description=MEASURE_LABEL, disabled=measure is None, layout=Layout(width="12em")
        )
        self.measure_button.on_click(self._measure)
        self.results = HTML(layout=Layout(min_height="4em"))
        super().__init__([(self.ratio, self.widths, self.layer, self.width, self.dropped)], 400, 720)
        rows = [HBox([left, self.dropped]), self.image, self.facts, self.measure_button, self.results]
        if task:
            rows.insert(0, HTML(f"<p><b>Task.</b> {html.escape(task)}</p>"))
        self.children = rows

    def _make(self) -> Plan:
        """The plan that the controls ask for. Raises InputError if there is none."""
        request = PlanRequest(self.shape, self.ratio.value / 100, list(self.dropped.value), **self.options)
        if self.widths.value == BY_HAND:
            return self._by_hand(request)
        if self.widths.value == PER_LAYER:
            return paper_plan(request, self.importance)
        if self.widths.value == MEASURED:
            return plan_by_harm(request, self.harm)
        if self.widths.value == WATER:
            return water_filling_plan(request, self.harm)
        return uniform_plan(request)

    def _by_hand(self, request: PlanRequest) -> Plan:
        """The plan shown, with the width of one layer changed.

        A layer that is not dropped any more has all its neurons.
        """
        shown_widths = self._shown_widths()
        dense_widths = self.shape.neurons
        widths = {layer: shown_widths.get(layer, dense_widths[layer]) for layer in request.layers}
        changed = self.layer.value
        if changed in widths:
            widths[changed] = min(self.width.value, dense_widths[changed])
        return request.plan_with(tuple(widths.values()))

    def _shown_widths(self) -> dict[int, int]:
        """The widths of the plan that is shown: layer -> neurons; empty while no plan is shown."""
        if self.plan is None:
            return {}
        return dict(zip(self.plan.layers, self.plan.neurons, strict=True))

    def _draw(self, change: Any = None) -> None:
        """As in all explorers; by hand, the slider of the width starts at the width of the layer chosen."""
        by_hand = self.widths.value == BY_HAND
        self.layer.disabled = not by_hand
        self.width.disabled = not by_hand
        moved_control = getattr(change, "owner", None)
        if by_hand and moved_control in (self.layer, self.widths):
            self.width.value = self._shown_widths().get(self.layer.value, self.width.value)
        super()._draw(change)

    def answer(self) -> tuple[Picture, str]:
        try:
            plan = self._make()
        except InputError:
            self.plan = None
            self.image.value = ""
            raise
        self.plan = plan
        errors = layer_errors(self.harm, self.shape, plan)
        before = self.shape
        after = before.with_widths(plan.neurons, plan.kv_groups)
        old_megabytes = before.total_parameters * BYTES / 1e6
        new_megabytes = after.total_parameters * BYTES / 1e6
        rows = {
            "goes": f"{plan.removed:.1%} of the decoder",
            "parameters": f"{after.total_parameters:,} of {before.total_parameters:,}",
            "megabytes": f"{new_megabytes:,.1f} of {old_megabytes:,.1f}",
            "predicted error in the stream, sum over the MLPs": f"{float(errors.nansum()):.2%}",
        }
        if plan.removed < plan.ratio:
            rows["goes"] += f", less than the {plan.ratio:.0%} asked for: narrow more"
        if self.line is not None:
            times = f"{_milliseconds(self.line, after):.1f} of {_milliseconds(self.line, before):.1f} ms"
            rows["predicted time of a token"] = times
        rows["measured loss over the dense model"] = _in_words(self.measured.get(plan))
        cells = [f"<tr><td>{name}&ensp;</td><td><b>{value}</b></td></tr>" for name, value in rows.items()]
        return plot_widths(plan, before.neurons, errors.tolist()), f"<table>{''.join(cells)}</table>"

    def _measure(self, button: object = None) -> None:
        """Carry the plan out; the button waits until that is done."""
        if self.plan is None or self.measure is None or self.plan in self.measured:
            return
        self.measure_button.disabled = True
        self.measure_button.description = "measuring ..."
        try:
            self.measured[self.plan] = self.measure(self.plan)
        except InputError as error:
            self.results.value = alert(error)
            return
        finally:
            self.measure_button.disabled = False
            self.measure_button.description = MEASURE_LABEL
        items = []
        for plan in sorted(self.measured, key=self._mean_loss):
            items.append(
                f"<li>{_in_words(self.measured[plan])}: {plan.removed:.1%} gone, {len(plan.dropped)} layers "
                f"dropped, {min(plan.neurons)} to {max(plan.neurons)} neurons</li>"
            )
        self.results.value = f"<p>Measured so far, best first:</p><ol>{''.join(items)}</ol>"
        super()._draw()

    def _mean_loss(self, plan: Plan) -> float:
        """The mean of a measured loss."""
        mean, _, _ = self.measured[plan]
        return mean


def _milliseconds(line: Line, shape: Shape) -> float:
    """The time of a token in a model of this shape, as the line predicts it."""
    fixed, layer, neuron = line
    return fixed + layer * shape.layer_count + neuron * sum(shape.neurons)


def _in_words(loss: Loss | None) -> str:
    """A measured loss in words."""
    if loss is None:
        return "not measured yet"
    mean, low, high = loss
    return f"{mean:.3f} nats per token ({low:.3f} to {high:.3f})"
