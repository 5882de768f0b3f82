"""What happens to one decoder layer, given the hidden states that enter it.

The walk knows nothing of where layers come from and where they go: `prune` takes them from a model in memory and puts
them back, `prune_to` reads them from files and writes them to others. It carries what layers pass on to each other:
the hidden states of the calibration text, in the pruned model and, where the target needs them, in the dense one.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .narrow import Gather, Narrower, Outcome, at_once
from .plan import Plan
from .report import LayerReport, Watch
from .settings import Settings
from .shape import Shape
from .states import States
from .stream import attention_step, batches, embed, mlp_step, rotary
from .surgery import add_biases


@dataclass(frozen=True)
class Done:
    """What became of one layer that stays."""

    report: LayerReport
    kept_neurons: tuple[int, ...]
    kept_groups: tuple[int, ...]


class Walk:
    """Takes the layers of `model` in their order, narrows those that stay as `plan` says, and moves the text on."""

    def __init__(
        self, model: nn.Module, ids: Tensor, settings: Settings, plan: Plan, shape: Shape, watch: Watch,
        gather: Gather = at_once, folder: Path | None = None,
    ) -> None:  # fmt: skip
        """ids (S, L); shape: of `model`, of which only what stands before and beside the layers is read.

        folder: where hidden states are kept, instead of in memory.
        """
        self.settings, self.plan, self.shape, self.watch = settings, plan, shape, watch
        self.device = torch.device(settings.device)
        self.narrower = Narrower(settings, watch, torch.Generator().manual_seed(settings.seed), gather)
        first = embed(model, ids[:1])
        size = (*ids.shape, first.shape[-1])
        self.hidden = first.new_empty(size) if folder is None else States.create(folder, size, first.dtype)
        for rows in batches(*ids.shape):
            self.hidden[rows] = embed(model, ids[rows])
        self.attend = partial(attention_step, rope=rotary(model, ids.shape[1], self.device, first.dtype))
        # the dense model's stream, which the target "dense" aims at, walks beside the pruned one
        aimed = settings.target == "dense" and settings.recovery == "least-squares"
        self.dense = self.hidden if aimed else None
        self.touched = False  # whether the two streams differ by now

    def take(self, index: int, layer: nn.Module) -> Done | None:
        """Narrow `layer`, number `index` of the parent, in place, and pass the text through it. None: it is to go."""
        start = time.perf_counter()
        if self.settings.recovery == "bias":
            add_biases(layer)
        middle = None
        if self.dense is not None:
            middle = self._advance(layer, self.attend, self.dense)
            self.dense = self._advance(layer, mlp_step, middle)
        if index not in self.plan.layers:
            self.touched = True
            return None
        plan, place = self.plan, self.plan.layers.index(index)
        groups, neurons = plan.kv_groups[place], plan.neurons[place]

        attention = Outcome(torch.arange(self.shape.kv_groups[index]))
        if groups < self.shape.kv_groups[index]:
            fixed = None if plan.kept_groups is None else plan.kept_groups[place]
            attention = self.narrower.narrow(layer, "attention", self.attend, self.hidden, middle, groups, fixed)
            self.touched = True
        self.hidden = self._advance(layer, self.attend, self.hidden)

        mlp = Outcome(torch.arange(self.shape.neurons[index]))
        if neurons < self.shape.neurons[index] or (self.dense is not None and self.touched):
            fixed = None if plan.kept_neurons is None else plan.kept_neurons[place]
            mlp = self.narrower.narrow(layer, "mlp", mlp_step, self.hidden, self.dense, neurons, fixed)
            self.touched = True
        self.hidden = self._advance(layer, mlp_step, self.hidden)
        report = _report(index, attention, mlp, time.perf_counter() - start, self.watch.look())
        return Done(report, tuple(mlp.kept.tolist()), tuple(attention.kept.tolist()))

    def carried(self) -> dict[str, object]:
        """What the next layers need of this one, as JSON: a walk that keeps its states in files can `restore` it."""
        return {
            "hidden": self.hidden.path.name,
            "dense": None if self.dense is None else self.dense.path.name,
            "touched": self.touched,
            "searches": {which: search.place for which, search in self.narrower.searches.items()},
            "generator": base64.b64encode(bytes(self.narrower.generator.get_state().tolist())).decode(),
        }

    def restore(self, carried: dict, folder: Path) -> None:
        """Go on from where another walk with the same request `carried` it."""
        shape, dtype = self.hidden.shape, self.hidden.dtype
        self.hidden = States(folder / carried["hidden"], shape, dtype)
        self.dense = None if carried["dense"] is None else States(folder / carried["dense"], shape, dtype)
        self.touched = carried["touched"]
        for which, place in carried["searches"].items():
            self.narrower.searches[which].place = place
        state = torch.tensor(list(base64.b64decode(carried["generator"])), dtype=torch.uint8)
        self.narrower.generator.set_state(state)

    def _advance(self, layer: nn.Module, step: Callable, hidden: Tensor | States) -> Tensor | States:
        """All sequences through one residual step."""
        out = hidden.like() if isinstance(hidden, States) else torch.empty_like(hidden)
        for rows in batches(*hidden.shape[:2]):
            out[rows] = step(layer, hidden[rows].to(self.device))[0]
        return out


def _report(index: int, attention: Outcome, mlp: Outcome, seconds: float, peak: float) -> LayerReport:
    return LayerReport(
        layer=index,
        neurons=len(mlp.kept),
        kv_groups=len(attention.kept),
        error=mlp.error,
        attention_error=attention.error,
        condition_median=None if mlp.condition is None else float(mlp.condition.median()),
        condition_max=None if mlp.condition is None else float(mlp.condition.max()),
        mask_mean=mlp.mask_mean,
        mask_variance=mlp.mask_variance,
        ridge=mlp.ridge,
        seconds=seconds,
        peak_megabytes=peak,
    )
