"""One layer in five visible steps: collect statistics, choose, refit, shrink, pass on.

What happens to a decoder layer, given the hidden states that enter it. `prune` takes the layers from a model in memory,
`disk.from_disk` from files. What one layer passes on to the next is hidden states (S, L, d) of the calibration text,
in the pruned model and, where the least squares aim at it, in the dense one: a tensor, or anything that is sliced like
one (`disk.model_on_disk.States`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .calibration.stream import Step, attention_step, batches, embed, mlp_step, rotary
from .families import parts
from .families.layer import answered, dense_target, gain_behind
from .families.protocol import STEPS, Layer, Model, Which
from .importance.neurons import METRICS, RIDGE, Problem, Selection, energy
from .plan import Plan
from .recovery import RECOVERIES
from .recovery.least_squares import choose_ridge
from .recovery.refit import Refit
from .settings import MUCH, Settings
from .shape import Shape
from .statistics.few_tokens import TokenStatistics
from .statistics.gram import Gram, Statistics, enough, token_weight
from .surgery import add_biases, shrink, spread, upstream

States = Any
"""Hidden states (S, L, d) of all sequences, sliced by sequences."""


@dataclass(frozen=True)
class LayerReport:
    """What happened to one decoder layer that stays."""

    layer: int  # in the parent
    # ||X W - X V||^2 / ||X W||^2 of down_proj after recovery, over the calibration text, weighted as the settings say
    error: float
    attention_error: float  # the same for o_proj
    ridge: float | None  # lambda with which the recovery of down_proj was solved
    seconds: float
    kept_neurons: Sequence[int]  # indices, ascending
    kept_groups: Sequence[int]


@dataclass(frozen=True)
class Report:
    """What `prune` did, and what it took."""

    settings: dict[str, Any]
    tokens: int  # of calibration
    layers: tuple[LayerReport, ...]
    seconds: float  # of the last attempt, where an earlier one was cut off


class LayerPruner:
    """Takes the layers of a model in their order, narrows those that stay as the plan says, and moves the text on."""

    def __init__(
        self,
        model: Model,
        ids: Tensor,
        settings: Settings,
        plan: Plan,
        shape: Shape,
        new_states: Callable[..., States] = torch.empty,
    ) -> None:
        """Of `model`, which has that `shape`, only what stands before the layers is read; ids (S, L).

        new_states: makes space for hidden states, called as torch.empty(shape, dtype=...).
        """
        self.settings, self.plan, self.shape, self.new_states = settings, plan, shape, new_states
        self.device = torch.device(settings.device)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.ridges: dict[Which, int] = {}  # place of the last layer's in the grid
        self.inputs: Tensor | None = None  # of down_proj (S, L, n), of few tokens, from their statistics on
        first = embed(model, ids[:1])
        self.hidden: States = new_states((*ids.shape, first.shape[-1]), dtype=first.dtype)
        for rows in batches(*ids.shape):
            self.hidden[rows] = embed(model, ids[rows])
        rope = rotary(model, ids.shape[1], self.device, first.dtype)
        self.steps: dict[Which, Step] = {"attention": partial(attention_step, rope=rope), "mlp": mlp_step}
        aimed = settings.aim == "dense" or (settings.aim == "auto" and plan.ratio > MUCH)
        walks = aimed and settings.recovery == "least-squares"
        self.dense: States | None = self.hidden if walks else None  # the dense model's, beside the pruned
        self.differs = False  # whether the two streams differ by now

    def prune_layer(self, index: int, layer: Layer) -> LayerReport | None:
        """Narrow `layer`, number `index` of the parent, in place, and pass the text through it. None: it is dropped."""
        start = time.perf_counter()
        if self.settings.recovery == "bias":
            add_biases(layer)
        targets: dict[Which, States] = {}
        for which in STEPS if self.dense is not None else ():
            targets[which] = self.dense = self.pass_on(layer, which, self.dense)
        if index not in self.plan.layers:
            self.differs = True
            return None
        done = {which: self.prune_step(index, layer, which, targets.get(which)) for which in STEPS}
        attention, mlp = done["attention"], done["mlp"]
        return LayerReport(
            layer=index,
            error=mlp.error,
            attention_error=attention.error,
            ridge=mlp.ridge,
            seconds=time.perf_counter() - start,
            kept_neurons=tuple(mlp.kept.tolist()),
            kept_groups=tuple(attention.kept.tolist()),
        )

    def prune_step(self, index: int, layer: Layer, which: Which, target: States | None) -> Refit:
        """The five steps, for one dense layer. target (S, L, d): the stream that it should lead to, None: its own."""
        plan, place = self.plan, self.plan.layers.index(index)
        if which == "mlp":
            keep, kept, whole = plan.neurons[place], plan.kept_neurons, self.shape.neurons[index]
        else:
            keep, kept, whole = plan.kv_groups[place], plan.kept_groups, self.shape.kv_groups[index]
        named = None if kept is None else kept[place]
        if keep == whole and not (which == "mlp" and self.dense is not None and self.differs):
            refit = Refit(torch.arange(whole))
        else:
            self.differs = True
            problem = self.collect_statistics(layer, which, target, keep, named)  # 1
            selection = self.choose(problem, keep, named)  # 2
            refit = RECOVERIES[self.settings.recovery](problem, selection)  # 3
            del problem, selection  # matrices of the size of the layer
            shrink(layer, which, refit.kept, refit.weight, refit.bias)  # 4
            refit = replace(refit, weight=None)
        # the stream between the two steps is this layer's alone, and may be written over
        self.hidden = self.pass_on(
            layer, which, self.hidden, self.hidden if which == "mlp" else None, refit.kept
        )  # 5
        self.inputs = None
        return refit

    def collect_statistics(
        self, layer: Layer, which: Which, target: States | None, keep: int, named: tuple[int, ...] | None
    ) -> Problem:
        """The statistics of the text in the dense layer, and the ridge that suits it (by two halves of the text)."""
        settings, (count, length, _) = self.settings, self.hidden.shape
        searched = settings.ridge == "auto" and settings.recovery == "least-squares" and count > 1
        if which == "mlp" and count * length <= (whole := parts(layer)[which].linear.in_features):
            # no more room than the sums take: what the pruned layer would compute again
            self.inputs = torch.empty(count, length, whole, dtype=self.hidden.dtype, device=self.device)
        size = -(-count // (1 + searched))
        starts = range(0, count, size)
        halves = [self.statistics(layer, which, target, start, min(start + size, count)) for start in starts]
        part, gain = parts(layer)[which], gain_behind(layer, which)
        weight = part.linear.weight.detach().T.to(halves[0].precision)  # W (n, m)
        own = partial(upstream, layer, which)
        make = partial(Problem, weight=weight, upstream=own, block=part.block, gain=gain)
        if not searched:
            return make(halves[0], ridge=RIDGE if isinstance(settings.ridge, str) else settings.ridge)
        # which neurons stay matters little for how hard to hold them: a cheap metric will do
        likely = energy(make(halves[0]), keep, self.generator).kept if named is None else torch.tensor(named)
        inputs, last = spread(likely.to(weight.device), part.block), self.ridges.get(which)
        ridge, self.ridges[which] = choose_ridge(halves[0], halves[1], weight, inputs, gain, last)
        return make(halves[0] + halves[1], ridge=ridge)

    def statistics(
        self, layer: Layer, which: Which, target: States | None, first: int, last: int
    ) -> Statistics:
        """The statistics over sequences `first` to `last` - 1; of few tokens beside so many inputs, the tokens."""
        linear = parts(layer)[which].linear
        masked = self.settings.recovery == "mask" or self.settings.neuron_metric == "mask-condition"
        tokens = self.hidden.shape[0] * self.hidden.shape[1]
        few = tokens < enough(linear.in_features) and not masked  # a mask needs the matrix
        kind: type[Statistics] = TokenStatistics if few else Gram
        outputs = None if target is None else linear.out_features
        statistics = kind.zeros(linear.in_features, outputs, linear.weight.device)
        for rows in batches(last - first, self.hidden.shape[1]):
            rows = slice(first + rows.start, first + rows.stop)
            before = self.hidden[rows].to(linear.weight.device)
            after, x = self.steps[which](layer, before)
            wanted = None
            if target is not None:
                wanted = dense_target(layer, which, target[rows].to(linear.weight.device) - before, x)
            trust = token_weight(after) if self.settings.token_weights else None
            del before, after  # beside the products, and x and wanted while the next ones are made
            if self.inputs is not None:
                self.inputs[rows] = x
            statistics.add(x, wanted, trust)
            del x, wanted
        return statistics

    def choose(self, problem: Problem, keep: int, named: tuple[int, ...] | None) -> Selection:
        """Which blocks stay: the best `keep` by the metric, or those that the plan names."""
        if named is not None:
            return Selection(torch.tensor(named), torch.full((problem.blocks,), torch.nan))
        return METRICS[self.settings.neuron_metric](problem, keep, self.generator)

    def pass_on(
        self,
        layer: Layer,
        which: Which,
        hidden: States,
        out: States | None = None,
        kept: Tensor | None = None,
    ) -> States:
        """All sequences through one residual step, into `out` (may be `hidden`), or new; kept (k,): of the `inputs`."""
        out = self.new_states(tuple(hidden.shape), dtype=hidden.dtype) if out is None else out
        for rows in batches(*hidden.shape[:2]):
            before, x = (
                hidden[rows].to(self.device),
                None if self.inputs is None else self.inputs[rows][..., kept],
            )
            out[rows] = (
                self.steps[which](layer, before)[0] if x is None else answered(layer, which, before, x)
            )
        return out

    def progress_made(self) -> dict[str, Any]:
        """What the next layers need of the last ones beside the hidden states, as JSON."""
        return {
            "differs": self.differs,
            "ridges": self.ridges,
            "generator": self.generator.get_state().tolist(),
        }

    def resume(self, made: dict[str, Any], hidden: States, dense: States | None) -> None:
        """Go on from where another pruner with the same request was when it had `progress_made`."""
        self.hidden, self.dense, self.differs, self.ridges = hidden, dense, made["differs"], made["ridges"]
        self.generator.set_state(torch.tensor(made["generator"], dtype=torch.uint8))
