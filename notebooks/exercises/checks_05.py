"""Checks for the exercises of lesson 5: the order of the loop, and the capstone's plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from checking import Wrong, accept, call, real_outline
from teaching.rank import SHARE, check, in_words
from torch import Tensor

from comp_lib.errors import InputError
from comp_lib.models.load import INCLUDED_MODEL
from comp_lib.plan import Plan, PlanRequest
from comp_lib.shape import Shape

# --- 1: the order of the loop -------------------------------------------------------------------------------


def check_walk(walk: Callable[[list, Tensor, Callable], tuple[list, Tensor]]) -> None:
    """Exercise 1.

    A layer adds a number to the stream; its smaller form adds half of it, and notes the stream before it.
    """
    inputs: list[float] = []
    layers = [lambda h, step=step: h + step for step in (2.0, 8.0, 32.0)]
    before = list(layers)

    def smaller(layer: Callable[[Tensor], Tensor], h: Tensor) -> Callable[[Tensor], Tensor]:
        inputs.append(float(h))
        return lambda stream: stream + (layer(stream) - stream) / 2

    answer = call(walk, layers, torch.zeros(()), smaller)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("expected two values, the smaller layers and the stream after the last of them")
    if layers != before:
        raise Wrong(
            "the list of the dense layers was changed: the dense model is still needed, make a new list"
        )
    smaller_layers, h = answer
    if len(inputs) != 3 or len(smaller_layers) != 3:
        raise Wrong(f"expected `smaller` to be called once for each of 3 layers, got {len(inputs)} calls")
    if inputs == [0.0, 2.0, 10.0]:
        raise Wrong(
            "each layer was tuned on the *dense* stream: "
            "pass the text through the layer that was made smaller"
        )
    if inputs in ([2.0, 9.0, 37.0], [2.0, 10.0, 42.0], [1.0, 5.0, 21.0]):
        raise Wrong("`smaller` got what comes *out* of the layer: it needs what goes in")
    if inputs == [0.0, 0.0, 0.0]:
        raise Wrong("the text never moved on: every layer was tuned on the stream before the first")
    if inputs != [0.0, 1.0, 5.0]:
        raise Wrong(f"the layers saw {inputs}, expected what the smaller layers before them give: [0, 1, 5]")
    if [float(layer(torch.zeros(()))) for layer in smaller_layers] != [1.0, 4.0, 16.0]:
        raise Wrong("the list that comes back does not hold the smaller layers in their order")
    if float(h) != 21.0:
        raise Wrong(f"after the last smaller layer the stream is 21, got {float(h):g}")
    accept("each layer was tuned on what it will really see")


# --- 2: the capstone ----------------------------------------------------------------------------------------


def check_my_plan(my_plan: Callable[[PlanRequest], Plan]) -> None:
    """Exercise 2."""
    accept(f"the plan keeps {in_words(_allowed(my_plan))}, and can be ranked. `hand_in` saves it")


def _allowed(my_plan: Callable[[PlanRequest], Plan]) -> Plan:
    """The plan that a learner's function makes. Raises Wrong unless the teacher's `rank.py` allows it."""
    plan = call(my_plan, request())
    if not isinstance(plan, Plan):
        raise Wrong(f"expected a plan, got {type(plan).__name__}: `asked.plan_with(widths)` makes one")
    try:
        check(plan, real_outline())
    except InputError as error:
        raise Wrong(str(error)) from error
    return plan


def request() -> PlanRequest:
    """What the capstone asks for: a fifth of the model's decoder, in widths that are multiples of 8."""
    return PlanRequest(Shape.of(real_outline()), SHARE, multiple=8, parent=INCLUDED_MODEL)


def hand_in(my_plan: Callable[[PlanRequest], Plan], name: str) -> None:
    """Save the plan as plans/NAME.json, for the teacher."""
    if not name.isalnum():
        print(
            "Not saved: write your name between the quotes, in letters and digits, and run this cell again."
        )
        return
    plan = _allowed(my_plan)
    path = Path("plans") / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    plan.save(path)
    print(f"Saved as {path.resolve()}: give this file to your teacher.")
