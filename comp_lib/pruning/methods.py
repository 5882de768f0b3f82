"""The methods by name: who plans for a method, which settings it leaves free, what follows its cut.

The name of a method that is not in METHODS can be any neuron metric of
`importance.neuron_metrics.METRICS`, for instance one of your own. The help of the command line is made from
this table, so nothing here is slow to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..recovery.names import RECOVERY_NAMES, RecoveryName


@dataclass(frozen=True)
class Method:
    """What is special about one method."""

    recovery: RecoveryName = "none"
    """What its makers do after the cut, one of RECOVERY_NAMES.

    The makers of LLM-Pruner fine-tune, which comp-lib leaves to `healing`, after any method.
    """
    preset: Literal["stock", "tailored"] = "stock"
    """The preset used where none is named.

    "stock" (one width) for published baselines, "tailored" for COMP.
    """
    recovery_without_biases: RecoveryName | None = None
    """The recovery in a family without room for biases; None: `recovery`."""
    neuron_metric: str | None = None
    """The metric that chooses the neurons, "condition" for COMP's; None: the one with the method's name."""
    planner: str = "comp"
    """Name of its planner in `planning.PLANNERS`."""
    narrows_alike: bool = True
    """Whether all layers that it narrows keep one width where `Settings.widths` is "uniform"."""
    names_what_stays: bool = False
    """Whether its plan names the neurons and KV groups that stay, so that no metric chooses."""
    removes_groups: bool = False
    """Whether it always removes KV groups."""
    whole_layers_only: bool = False
    """Whether it removes nothing but whole layers."""
    needs_gradients: bool = False
    """Whether it looks at the gradients of all weights at once, so that the model must be in memory."""
    allowed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Settings that are not free: name -> values that they may have."""


METHODS = {
    "comp": Method(recovery="least-squares", preset="tailored", neuron_metric="condition"),
    "magnitude": Method(),
    "wanda-sp": Method(),
    "random": Method(),
    "llm-pruner": Method(
        planner="llm-pruner",
        narrows_alike=False,
        names_what_stays=True,
        removes_groups=True,
        needs_gradients=True,
        allowed={"drop_layers": ("auto", 0), "widths": ("uniform",)},
    ),
    "flap": Method(
        recovery="bias",
        recovery_without_biases="none",
        planner="flap",
        narrows_alike=False,
        names_what_stays=True,
        removes_groups=True,
        allowed={"drop_layers": ("auto", 0), "widths": ("uniform",), "kv_groups": (None,)},
    ),
    "slimgpt": Method(
        recovery="least-squares",
        neuron_metric="condition",
        planner="slimgpt",
        narrows_alike=False,
        allowed={"drop_layers": ("auto", 0), "widths": ("uniform",)},
    ),
    "shortgpt": Method(
        planner="shortgpt",
        names_what_stays=True,
        whole_layers_only=True,
        allowed={
            "drop_layers": ("auto",),
            "kv_groups": (None,),
            "widths": ("uniform",),
            # no bias, which would stand for the mean of a channel: none goes
            "recovery": tuple(name for name in RECOVERY_NAMES if name != "bias"),
        },
    ),
}
OWN_METRIC = Method(recovery="least-squares", preset="tailored")
"""For a metric that is no published method: it gets COMP's widths and refit, to be compared."""


def method_of(name: str) -> Method:
    """The method of that name; OWN_METRIC for the name of any other neuron metric."""
    return METHODS.get(name, OWN_METRIC)


def default_recovery(name: str, biases: bool = True) -> RecoveryName:
    """The recovery that follows the cut by the method of that name.

    biases: whether the model's family has room for them.
    """
    method = method_of(name)
    if not biases and method.recovery_without_biases is not None:
        return method.recovery_without_biases
    return method.recovery
