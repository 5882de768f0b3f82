"""Explorers: controls above, a picture and facts below, an answer to every move of a control.

All numbers come from cached statistics (see `lessons`) and parameter arithmetic. No control calls a model, so the
answer is there at once; only the planner's button does, which says so.
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

from comp_lib.analysis.frames import FURTHEST
from comp_lib.errors import InputError
from comp_lib.hybrid_granularity.measured import measured_plan
from comp_lib.hybrid_granularity.paper import paper_plan
from comp_lib.hybrid_granularity.uniform import uniform_plan
from comp_lib.importance.widths import Sensitivity
from comp_lib.plan import Plan, PlanRequest
from comp_lib.plots.base import Picture, mime_bundle
from comp_lib.shape import Shape
from course.layer_importance import LayerStudy, rank_gap, ranks

from ..figures.hybrid_granularity import plot_widths
from ..figures.layer_importance import METRICS, plot_layer
from ..figures.matrix_condition import plot_energy_condition
from ..hybrid_granularity import layer_errors, water_filling_plan
from . import alert

IN_ROUNDS, ONE_LOOK = "full-condition, in rounds", "full-condition, one look"
CHOICES = (IN_ROUNDS, ONE_LOOK, "energy", "condition alone", "wanda-sp", "activation", "magnitude")
UNIFORM, PER_LAYER, MEASURED = "uniform", "the paper's, by importance", "measured, by divergence"
WATER, BY_HAND = "water-filling, by error", "by hand"
BYTES = 4  # of a parameter
Line = tuple[float, float, float]
Loss = tuple[float, float, float]  # mean and its interval
Measure = Callable[[Plan], Loss]


class Explorer(VBox):  # type: ignore[misc]  # ipywidgets brings no types
    """Rows of controls, then `image` and `facts`; heights in pixels, so that the page does not jump."""

    def __init__(self, rows: Sequence[Sequence[Widget]], image_height: int, height: int) -> None:
        self.image = HTML(layout=Layout(min_height=f"{image_height}px"))
        self.facts = HTML(layout=Layout(min_height="5em"))
        boxes = [HBox(row) for row in rows]
        super().__init__([*boxes, self.image, self.facts], layout=Layout(min_height=f"{height}px"))
        for control in chain(*rows):
            if control.has_trait("continuous_update"):  # no answer while a slider is on its way
                control.continuous_update = False
            control.observe(self._draw, "value")
        self._draw()

    @abstractmethod
    def answer(self) -> tuple[Picture, str]:
        """The picture and the facts (HTML) for what the controls say. Raises InputError: it cannot be had."""

    def _draw(self, change: object = None) -> None:
        """Show the answer; a wrong wish gets a sentence, and the last good picture stays."""
        try:
            figure, facts = self.answer()
            self.image.value, self.facts.value = mime_bundle(figure)["text/html"], facts
        except InputError as error:
            self.facts.value = alert(error)


def shared(description: str, width: int = 30) -> dict[str, Any]:
    """Arguments that all controls share: a description, and a width in em."""
    layout = Layout(width=f"{width}em")
    return {"description": description, "style": {"description_width": "8em"}, "layout": layout}


class LayerExplorer(Explorer):
    """How one layer turns each token, and its place among all. Controls `layer`, `metric`, `sequence`."""

    def __init__(self, study: LayerStudy, layer: int = 0) -> None:
        self._study = study
        which = f"number of a text, 0 to {study.cosine.shape[1] - 1}"
        self.layer = IntSlider(layer, 0, len(study.influence) - 1, **shared("layer", 26))
        self.metric = Dropdown(options=list(METRICS), **shared("metric", 26))
        self.sequence = IntText(0, tooltip=which, **shared("sequence", 12))
        super().__init__([(self.layer, self.metric, self.sequence)], image_height=340, height=480)

    def answer(self) -> tuple[Picture, str]:
        layer, study = self.layer.value, self._study
        figure = plot_layer(study, layer, self.metric.value, self.sequence.value)
        influence, harm, last = study.influence, study.mean_harm, len(study.influence)
        low, high = study.harm_interval[layer].tolist()
        gap = int(rank_gap(influence, harm)[layer])
        by, harmed = (1 + int(ranks(values)[layer]) for values in (influence, harm))
        verdict = "the two agree on it"
        if gap:
            verdict = (
                f"the proxy puts it {abs(gap)} place{'s' * (abs(gap) > 1)} too {'low' if gap > 0 else 'high'}"
            )
        return figure, (
            f"<p>Layer {layer}: block influence {influence[layer]:.4f} (place {by} of {last}), loss increase "
            f"{harm[layer]:.3f} nats per token (95%: {low:.3f} to {high:.3f}; place {harmed} of {last}; place 1 goes "
            f"first): {verdict}.</p>"
        )


def energies(frame: pd.DataFrame) -> pd.Series:
    """H_ii ||w_i||^2 over ||X W||^2 of each row of `analysis.neurons`, ridge included: cost times condition squared."""
    return frame.cost * frame.condition**2


class NeuronExplorer(Explorer):
    """Every neuron of a layer, energy against condition. Controls `layer`, `metric`, `share` (% to remove), `place`.

    neurons, curves: the frames of `analysis` of these names, of the same layers. `place` picks a neuron by its cost, 1
    being the cheapest.
    """

    def __init__(self, neurons: pd.DataFrame, curves: pd.DataFrame, layer: int | None = None) -> None:
        self._neurons = {number: rows for number, rows in neurons.groupby("layer")}
        self._curves = {number: rows for number, rows in curves.groupby("layer")}
        first = min(self._neurons) if layer is None else layer
        self.layer = SelectionSlider(options=sorted(self._neurons), value=first, **shared("layer"))
        self.metric = Dropdown(options=CHOICES, **shared("choose by"))
        self.share = IntSlider(20, 0, int(100 * FURTHEST), **shared("remove (%)"))
        self.place = IntSlider(1, 1, len(self._neurons[first]), **shared("place by cost"))
        super().__init__([(self.layer, self.metric), (self.share, self.place)], image_height=450, height=620)

    def removed(self, metric: str | None = None) -> NDArray[np.bool_]:
        """Which neurons of the layer go by `metric`, by default the one chosen (n,), bool."""
        frame, metric = self._neurons[self.layer.value], metric or self.metric.value
        swept = int(frame.removed_at.notna().sum())  # a sweep ends at whole steps, a little before FURTHEST
        count = min(round(self.share.value / 100 * len(frame)), swept)
        if metric == IN_ROUNDS:
            return np.asarray(frame.removed_at * len(frame) < count + 0.5)
        worth = {ONE_LOOK: frame.cost, "condition alone": 1.0 / frame.condition, "energy": energies(frame)}
        chosen = worth[metric] if metric in worth else frame[metric.replace("-", "_")]
        return np.isin(np.arange(len(frame)), np.argsort(chosen.to_numpy(), kind="stable")[:count])

    def answer(self) -> tuple[Picture, str]:
        frame, gone = self._neurons[self.layer.value], self.removed()
        energy, condition, cost = (
            column.to_numpy() for column in (energies(frame), frame.condition, frame.cost)
        )
        self.place.max = len(frame)  # a narrow layer has fewer
        layer, metric, place = self.layer.value, self.metric.value, self.place.value
        picked = int(np.argsort(cost, kind="stable")[place - 1])
        title = f"Layer {layer}: {gone.sum():,} of {len(frame):,} neurons go by {metric}"
        sentences = [
            f"What goes holds {energy[gone].sum() / energy.sum():.1%} of the neurons' energy; its costs, one at a "
            f"time, add up to {cost[gone].sum():.2%} of ‖Y‖²."
        ]
        if metric == IN_ROUNDS:
            left = np.interp(gone.sum(), self._curves[layer].gone, self._curves[layer].error)
            sentences.append(
                f"Gone together, with the rest re-tuned, they leave an error of {left:.2%} of ‖Y‖²."
            )
        verdicts = [
            f"{'goes' if self.removed(by)[picked] else 'stays'} by {by}" for by in ("energy", ONE_LOOK)
        ]
        sentences.append(
            f"Neuron {picked}: energy {energy[picked]:.3%}, condition {condition[picked]:.2f} (median "
            f"{np.median(condition):.2f}), cost {cost[picked]:.4%} of ‖Y‖², number {place} of {len(cost)} from the "
            f"cheapest. It {'goes' if gone[picked] else 'stays'} here; it {' and '.join(verdicts)}."
        )
        figure = plot_energy_condition(energy, condition, gone, title, picked)
        return figure, "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


class Planner(Explorer):
    """A plan made by hand: which layers go, how wide the others are; what it weighs, and what it loses when asked.

    Controls: `ratio` (%), `dropped` (numbers of layers), `widths` (how they are set); with BY_HAND, `layer` and
    `width` change one layer of the plan shown. What the error curves predict is always there; `measure_button` carries
    the plan out and says what the model loses, which takes a while, and `measured` keeps the answers.

    shape: of the dense model; sensitivity: of its layers; importance: one number for each layer, for the paper's
    widths; line: (fixed, layer, neuron) of the time of a token in ms; measure: loss of a plan over the dense model with
    its interval, (mean, low, high); task: what to look for; options: of `PlanRequest`. `plan` is the plan shown, None
    while the request cannot be met.
    """

    def __init__(
        self,
        shape: Shape,
        sensitivity: Sensitivity,
        importance: Sequence[float],
        line: Line | None = None,
        measure: Measure | None = None,
        task: str = "",
        **options: Any,
    ) -> None:
        self.shape, self.sensitivity, self.line, self.measure, self.options = (
            shape,
            sensitivity,
            line,
            measure,
            options,
        )
        self.importance = [float(value) for value in importance]
        self.plan: Plan | None = None
        self.measured: dict[Plan, Loss] = {}
        self.ratio = IntSlider(20, 1, 60, **shared("remove (%)"))
        self.widths = Dropdown(options=(UNIFORM, PER_LAYER, MEASURED, WATER, BY_HAND), **shared("widths"))
        self.dropped = SelectMultiple(options=range(shape.layers), rows=6, **shared("drop layers", 16))
        step = options.get("multiple", 64)
        self.layer = IntSlider(0, 0, shape.layers - 1, disabled=True, **shared("layer"))
        self.width = IntSlider(
            shape.neurons[0], step, max(shape.neurons), step, disabled=True, **shared("its neurons")
        )
        left = VBox([self.ratio, self.widths, self.layer, self.width])
        self.measure_button = Button(
            description="measure its loss", disabled=measure is None, layout=Layout(width="12em")
        )
        self.measure_button.on_click(self._measure)
        self.results = HTML(layout=Layout(min_height="4em"))
        super().__init__([(self.ratio, self.widths, self.layer, self.width, self.dropped)], 400, 720)
        rows = [HBox([left, self.dropped]), self.image, self.facts, self.measure_button, self.results]
        self.children = [HTML(f"<p><b>Task.</b> {html.escape(task)}</p>"), *rows] if task else rows

    def _make(self) -> Plan:
        request = PlanRequest(self.shape, self.ratio.value / 100, list(self.dropped.value), **self.options)
        if self.widths.value == BY_HAND:
            return self._by_hand(request)
        if self.widths.value == PER_LAYER:
            return paper_plan(request, self.importance)
        if self.widths.value == MEASURED:
            return measured_plan(request, self.sensitivity)
        return (
            water_filling_plan(request, self.sensitivity)
            if self.widths.value == WATER
            else uniform_plan(request)
        )

    def _by_hand(self, request: PlanRequest) -> Plan:
        """The plan shown with one layer's width changed; layers that come back have all their neurons."""
        shown = {} if self.plan is None else dict(zip(self.plan.layers, self.plan.neurons, strict=True))
        widths = {layer: shown.get(layer, self.shape.neurons[layer]) for layer in request.layers}
        if self.layer.value in widths:
            widths[self.layer.value] = min(self.width.value, self.shape.neurons[self.layer.value])
        return request.plan(tuple(widths.values()))

    def _draw(self, change: Any = None) -> None:
        """As all explorers; by hand, another layer's slider starts at that layer's width."""
        by_hand = self.widths.value == BY_HAND
        self.layer.disabled = self.width.disabled = not by_hand
        owner = getattr(change, "owner", None)
        if by_hand and self.plan is not None and owner in (self.layer, self.widths):
            shown = dict(zip(self.plan.layers, self.plan.neurons, strict=True))
            self.width.value = shown.get(self.layer.value, self.width.value)
        super()._draw(change)

    def answer(self) -> tuple[Picture, str]:
        try:
            plan = self._make()
        except InputError:
            self.plan, self.image.value = None, ""
            raise
        self.plan = plan
        errors = layer_errors(self.sensitivity, self.shape, plan)
        before, after = self.shape, self.shape.with_widths(plan.neurons, plan.kv_groups)
        rows = {
            "goes": f"{plan.removed:.1%} of the decoder",
            "parameters": f"{after.total:,} of {before.total:,}",
            "megabytes": f"{after.total * BYTES / 1e6:,.1f} of {before.total * BYTES / 1e6:,.1f}",
            "predicted error in the stream, sum over the MLPs": f"{float(errors.nansum()):.2%}",
        }
        if plan.removed < plan.ratio:
            rows["goes"] += f", less than the {plan.ratio:.0%} asked for: narrow more"
        if self.line is not None:
            fixed, layer, neuron = self.line
            times = [fixed + layer * shape.layers + neuron * sum(shape.neurons) for shape in (after, before)]
            rows["predicted time of a token"] = f"{times[0]:.1f} of {times[1]:.1f} ms"
        rows["measured loss over the dense model"] = _told(self.measured.get(plan))
        cells = "".join(
            f"<tr><td>{name}&ensp;</td><td><b>{value}</b></td></tr>" for name, value in rows.items()
        )
        return plot_widths(plan, before.neurons, errors.tolist()), f"<table>{cells}</table>"

    def _measure(self, button: object = None) -> None:
        """Carry the plan out; the button waits until that is done."""
        if self.plan is None or self.measure is None or self.plan in self.measured:
            return
        self.measure_button.disabled, self.measure_button.description = True, "measuring ..."
        try:
            self.measured[self.plan] = self.measure(self.plan)
        except InputError as error:
            self.results.value = alert(error)
            return
        finally:
            self.measure_button.disabled, self.measure_button.description = False, "measure its loss"
        best_first = sorted(self.measured.items(), key=lambda item: item[1][0])
        lines = (
            f"<li>{_told(loss)}: {plan.removed:.1%} gone, {len(plan.dropped)} layers dropped, "
            f"{min(plan.neurons)} to {max(plan.neurons)} neurons</li>"
            for plan, loss in best_first
        )
        self.results.value = f"<p>Measured so far, best first:</p><ol>{''.join(lines)}</ol>"
        super()._draw()


def _told(loss: Loss | None) -> str:
    """A measured loss in words."""
    if loss is None:
        return "not measured yet"
    mean, low, high = loss
    return f"{mean:.3f} nats per token ({low:.3f} to {high:.3f})"
