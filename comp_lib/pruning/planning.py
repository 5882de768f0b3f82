"""Planning: how much of each layer is removed, before any weight is touched.

Each method has a planner, a module that is named in PLANNERS. `planners.comp` says first which whole layers
go, as many as the ratio needs, and then the width of each layer that stays. Those of baselines plan the
whole model in their own ways.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torch import Tensor

from ..decoder.decoder import Decoder, as_decoder
from ..decoder.families import family_of
from ..decoder.shape import Shape
from ..decoder.types import Model
from ..hybrid_granularity.plan import Plan
from ..hybrid_granularity.uniform import GGUF_BLOCK
from ..utils.progress import Progress, no_progress
from .methods import method_of
from .planners import comp as comp_planner
from .planners import flap, llm_pruner, shortgpt, slimgpt
from .settings import CompleteSettings, Settings


class Planner(Protocol):
    """A module that decides how much of a model goes, or also what."""

    def make_plan(
        self, decoder: Decoder, ids: Tensor, settings: CompleteSettings, name: str, progress: Progress, /
    ) -> Plan:
        """The plan for the model called `name`, from what it does with tokens ids (S, L)."""

    def check_settings(self, shape: Shape, settings: CompleteSettings, /) -> None:
        """Raises InputError, before any text is read, for settings that no plan can meet."""


PLANNERS: dict[str, Planner] = {
    "comp": comp_planner,
    "llm-pruner": llm_pruner,
    "flap": flap,
    "slimgpt": slimgpt,
    "shortgpt": shortgpt,
}


def make_plan(
    model: Model | Decoder,
    ids: Tensor,
    settings: Settings,
    name: str = "",
    progress: Progress = no_progress,
) -> Plan:
    """The plan that `settings` ask for, on calibration tokens ids (S, L).

    Raises InputError when they cannot be met.
    """
    settings = complete_settings(model, settings)
    return planner_of(settings).make_plan(as_decoder(model), ids, settings, name, progress)


def complete_settings(model: Model | Decoder, settings: Settings) -> CompleteSettings:
    """The settings with the method's own recovery and widths in place of None, for the family of `model`."""
    return settings.completed(biases=bool(family_of(as_decoder(model).config).bias_fields))


def planner_of(settings: Settings) -> Planner:
    """The planner of the method."""
    return PLANNERS[method_of(settings.method).planner]


def why_more_was_removed(plan: Plan, settings: Settings, parent_shape: Shape) -> str:
    """One line that says why a plan by these settings removes clearly more than was asked for."""
    multiple = settings.multiple
    all_neurons = tuple(parent_shape.neurons[index] for index in plan.layers)
    unnarrowed = replace(plan, neurons=all_neurons, kept_neurons=None)
    method = method_of(settings.method)
    if method.whole_layers_only:
        reason = f"{settings.method} removes nothing but whole layers"
    elif unnarrowed.removed_share(parent_shape) > plan.ratio:
        reason = "the whole layers or KV groups that go are larger"
    elif multiple not in (None, 1) and not method.names_what_stays:
        reason = f"widths are multiples of {multiple}: multiple {max(1, multiple // 4)} comes nearer"
        if multiple == GGUF_BLOCK:
            reason += ", but most GGUF files need 32"
    else:
        reason = "no finer step of the widths comes nearer"
    return f"{plan.removed:.1%} went where {plan.ratio:.1%} was asked for: {reason}"
