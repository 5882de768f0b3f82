"""Planner: a budget, layers to drop, a way to set the widths; what the plan would look like, weigh and err.

Everything comes from cached curves and parameter arithmetic; no model is called, so the answer is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ipywidgets import Dropdown, IntSlider
from torch import Tensor

from ..errors import InputError
from ..hybrid_granularity.paper import paper_plan
from ..hybrid_granularity.uniform import uniform_plan
from ..lessons.hybrid_granularity import layer_errors, water_filling_plan
from ..plan import Plan, PlanRequest
from ..plots.base import Picture
from ..plots.hybrid_granularity import plot_widths
from ..shape import Shape
from .explorer import Explorer, shared

UNIFORM, PER_LAYER, WATER = "uniform", "per layer, by importance", "per layer, water-filling"
WIDTHS = (UNIFORM, PER_LAYER, WATER)
MOST_DROPPED = 8  # layers


class Planner(Explorer):
    """Controls `ratio` (%), `of`, `dropped` (layers), `widths`; views `image` and `facts`; `plan` is the plan shown.

    shape: of the dense model; curves: of `lessons.dense_stream.error_curves`; importance: one number for each layer, in
    whose order layers are dropped; line: (a, b) of `lessons.hybrid_granularity.latency_line`, to predict time as well;
    itemsize: bytes of a parameter. `plan` is None while the request cannot be met.
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
    ) -> None:
        self.shape, self.curves, self.line, self.multiple = shape, curves, line, multiple
        self.importance, self.itemsize, self.parent = [float(value) for value in importance], itemsize, parent
        self.plan: Plan | None = None
        self.ratio = IntSlider(20, 1, 60, **shared("remove (%)"))
        self.of = Dropdown(options=("decoder", "model"), **shared("of the"))
        self.dropped = IntSlider(0, 0, min(MOST_DROPPED, shape.layers - 1), **shared("layers to drop"))
        self.widths = Dropdown(options=WIDTHS, **shared("widths"))
        super().__init__([(self.ratio, self.of), (self.dropped, self.widths)], image_height=400, height=620)

    def _make(self) -> Plan:
        drop = np.argsort(self.importance, kind="stable")[: self.dropped.value].tolist()
        options = {"of": self.of.value, "drop": drop, "multiple": self.multiple, "parent": self.parent}
        request = PlanRequest(self.shape, self.ratio.value / 100, **options)
        if self.widths.value == PER_LAYER:
            return paper_plan(request, self.importance)
        return water_filling_plan(request, self.curves) if self.widths.value == WATER else uniform_plan(request)

    def answer(self) -> tuple[Picture, str]:
        try:
            self.plan = plan = self._make()
            errors = layer_errors(self.curves, self.shape, plan)
        except InputError:
            self.plan, self.image.value = None, ""
            raise
        before, after = self.shape, self.shape.with_widths(plan.neurons, plan.kv_groups)
        sizes = [shape.total * self.itemsize / 1e6 for shape in (after, before)]
        rows = {
            "predicted error, mean over the parent's MLPs": f"{float(errors.mean()):.2%}",
            "parameters": f"{after.total:,} of {before.total:,}",
            "megabytes": f"{sizes[0]:,.1f} of {sizes[1]:,.1f}",
        }
        if self.line is not None:
            a, b = self.line
            times = [sum(a + b * n for n in shape.neurons) for shape in (after, before)]
            rows["predicted time of the decoder"] = f"{times[0]:.1f} of {times[1]:.1f} ms"
        cells = "".join(f"<tr><td>{name}&ensp;</td><td><b>{value}</b></td></tr>" for name, value in rows.items())
        return plot_widths(plan, before.neurons, errors.tolist()), f"<table>{cells}</table>"
