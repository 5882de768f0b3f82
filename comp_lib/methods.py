"""The methods by name, for whoever says one: who plans for it, which settings it leaves, what follows the
cut.

A method that is not in METHODS can be any neuron metric of `importance.neurons.METRICS`, one of your own for
instance. Nothing that is slow to import stands here: help is made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RECOVERY_NAMES = ("least-squares", "mask", "bias", "none")  # of `recovery.RECOVERIES`


@dataclass(frozen=True)
class Method:
    """What is special about one method."""

    recovery: str = "none"
    """What its makers do after the cut, one of RECOVERY_NAMES (LLM-Pruner fine-tunes, which no method here
    may).
    """
    recovery_without_biases: str | None = None
    """The same where the model's family has no room for biases; None: the same."""
    neuron_metric: str | None = None
    """What chooses the neurons, "condition" for COMP's; None: the metric of the method's own name."""
    planner: str | None = None
    """Name of its planner in `baselines.PLANNERS`; None: COMP's planners."""
    names_what_stays: bool = False
    """Whether its plan names the neurons and KV groups that stay, so that no metric chooses."""
    removes_groups: bool = False
    """Whether it always removes KV groups."""
    whole_layers_only: bool = False
    needs_gradients: bool = False
    """Whether it looks at the gradients of all weights at once, so that the model must be in memory."""
    allowed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Settings that are not free: name -> values that they may have."""


METHODS = {
    "comp": Method(recovery="least-squares", neuron_metric="condition"),
    "magnitude": Method(),
    "wanda-sp": Method(),
    "random": Method(),
    "llm-pruner": Method(
        planner="llm-pruner",
        names_what_stays=True,
        removes_groups=True,
        needs_gradients=True,
        allowed={"layers": ("auto", 0), "widths": ("uniform",)},
    ),
    "flap": Method(
        recovery="bias",
        recovery_without_biases="none",
        planner="flap",
        names_what_stays=True,
        removes_groups=True,
        allowed={"layers": ("auto", 0), "widths": ("uniform",), "kv_groups": (None,)},
    ),
    "slimgpt": Method(
        recovery="least-squares",
        neuron_metric="condition",
        planner="slimgpt",
        allowed={"layers": ("auto", 0), "widths": ("uniform",)},
    ),
    "shortgpt": Method(
        planner="shortgpt",
        names_what_stays=True,
        whole_layers_only=True,
        allowed={
            "layers": ("auto",),
            "kv_groups": (None,),
            "widths": ("uniform",),
            "recovery": ("least-squares", "mask", "none"),  # no bias: no channel goes whose mean it could be
        },
    ),
}
OWN_METRIC = Method(recovery="least-squares")
"""Of a metric that is no published method: it gets COMP's refit, to be compared with COMP's metric."""


def method_of(name: str) -> Method:
    """The method of that name; OWN_METRIC for the name of any other neuron metric."""
    return METHODS.get(name, OWN_METRIC)


def default_recovery(name: str, biases: bool = True) -> str:
    """What follows the cut by the method of that name. biases: whether the model's family has room for them."""
    method = method_of(name)
    if not biases and method.recovery_without_biases is not None:
        return method.recovery_without_biases
    return method.recovery
