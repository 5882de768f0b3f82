"""Planner: a budget, layers to drop, a way to set the widths; what the plan would look like, weigh and err.

Everything comes from cached curves and parameter arithmetic; no model is called, so the answer is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipywidgets import HTML, Dropdown, HBox, IntSlider, Layout, VBox
from torch import Tensor

from ..errors import InputError
from ..hybrid_granularity.paper import paper_plan
from ..hybrid_granularity.uniform import uniform_plan
from ..lessons.hybrid_granularity import layer_errors, water_filling_plan
from ..plan import Plan, PlanRequest
from ..plots.base import html_image
from ..plots.hybrid_granularity import plot_widths
from ..shape import Shape
from . import alert

UNIFORM, PER_LAYER, WATER = "uniform", "per layer, by importance", "per layer, water-filling"
WIDTHS = (UNIFORM, PER_LAYER, WATER)
MOST_DROPPED = 8  # layers


class Planner(VBox):
    """Controls `ratio` (%), `of`, `dropped` (layers), `widths`; views `image` and `facts`; `plan` is the plan shown.

    shape: of the dense model; curves: of `studies.neurons.error_curves`; importance: one number for each layer, in
    whose order layers are dropped; line: (a, b) of `studies.planning.latency_line`, to predict time as well; itemsize:
    bytes of a parameter. `plan` is None while the request cannot be met.
    """

    def __init__(
        self,
        shape: Shape,
        curves: dict[str, Tensor],
        importance: Sequence[float],
        *,
        line: tuple[float, float] | None = None,
        multiple: int = 64,
        itemsize: int = 4,
        parent: str = "",
    ):
        self.shape, self.curves, self.line, self.multiple = shape, curves, line, multiple
        self.importance, self.itemsize, self.parent = [float(value) for value in importance], itemsize, parent
        self.plan: Plan | None = None
        look = {"style": {"description_width": "8em"}, "layout": Layout(width="30em")}
        most = min(MOST_DROPPED, shape.layers - 1)
        self.ratio = IntSlider(20, 1, 60, description="remove (%)", continuous_update=False, **look)
        self.of = Dropdown(options=("decoder", "model"), description="of the", **look)
        self.dropped = IntSlider(0, 0, most, description="layers to drop", continuous_update=False, **look)
        self.widths = Dropdown(options=WIDTHS, description="widths", **look)
        self.image, self.facts = HTML(layout=Layout(min_height="400px")), HTML(layout=Layout(min_height="8em"))
        controls = (self.ratio, self.of, self.dropped, self.widths)
        super().__init__(
            [HBox(controls[:2]), HBox(controls[2:]), self.image, self.facts], layout=Layout(min_height="620px")
        )
        for control in controls:
            control.observe(self._draw, "value")
        self._draw()

    def _make(self) -> Plan:
        order = sorted(range(self.shape.layers), key=self.importance.__getitem__)
        options = {
            "of": self.of.value,
            "drop": order[: self.dropped.value],
            "multiple": self.multiple,
            "parent": self.parent,
        }
        ratio = self.ratio.value / 100
        if self.widths.value == PER_LAYER:
            return paper_plan(PlanRequest(self.shape, ratio, **options), self.importance)
        if self.widths.value == WATER:
            return water_filling_plan(PlanRequest(self.shape, ratio, **options), self.curves)
        return uniform_plan(PlanRequest(self.shape, ratio, **options))

    def _draw(self, _=None) -> None:
        try:
            self.plan = self._make()
            errors = layer_errors(self.curves, self.shape, self.plan)
        except InputError as error:
            self.plan, self.image.value = None, ""
            self.facts.value = alert(error)
            return
        self.image.value = html_image(plot_widths(self.plan, self.shape.neurons, errors.tolist()))
        after = self.shape.with_widths(self.plan.neurons, self.plan.kv_groups)
        rows = [
            ("predicted error, mean over the parent's MLPs", f"{float(errors.mean()):.2%}"),
            ("parameters", f"{after.total:,} of {self.shape.total:,}"),
            ("megabytes", f"{after.total * self.itemsize / 1e6:,.1f} of {self.shape.total * self.itemsize / 1e6:,.1f}"),
        ]
        if self.line is not None:
            a, b = self.line
            before, left = (sum(a + b * n for n in widths) for widths in (self.shape.neurons, self.plan.neurons))
            rows.append(("predicted time of the decoder", f"{left:.1f} of {before:.1f} ms"))
        cells = "".join(f"<tr><td>{name}&ensp;</td><td><b>{value}</b></td></tr>" for name, value in rows)
        self.facts.value = f"<table>{cells}</table>"
