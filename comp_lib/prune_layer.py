"""One layer in five visible steps: watch, choose, re-tune, shrink, pass on.

What happens to a decoder layer, given the hidden states that enter it. Nothing here knows where layers come from and
where they go: `prune` takes them from a model in memory and puts them back, `scale.prune_to` reads them from files and
writes them to others. What layers pass on to each other is the hidden states of the calibration text: in the pruned
model and, where the least squares aim at it, in the dense one.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .calibration.stream import Step, attention_step, batches, embed, mlp_step, rotary, sent
from .families import dense_layer, family_of_layer
from .families.protocol import STEPS, Layer, Model, Which
from .importance.neurons import RIDGE, Dense, Selection, energy, metric
from .plan import Plan
from .recovery.bias import mean_bias, unchanged
from .recovery.least_squares import RidgeSearch
from .recovery.mask_tuning import Mask, fold_mask, tune_mask
from .report import LayerReport, PeakMemory
from .settings import Settings
from .shape import Shape
from .statistics.few_tokens import TokenStatistics
from .statistics.gram import Gram, Statistics, contributions, token_weights
from .surgery import add_biases, block_size, shrink, spread, upstream
from .system.clock import phase
from .system.machine import release_memory

PHASE: dict[Which, str] = {"attention": "attention", "mlp": "MLP"}  # as `system.clock` calls the two steps


class Stream(Protocol):
    """Hidden states (S, L, d) of all sequences, wherever they are."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __len__(self) -> int: ...


class HiddenStates(Stream, Protocol):
    """Those that are here: a tensor, or `scale.states_on_disk.States`."""

    def __getitem__(self, rows: slice) -> Tensor: ...
    def __setitem__(self, rows: slice, values: Tensor) -> None: ...
    def chunk(self, parts: int) -> Any: ...


@dataclass(frozen=True)
class Watching:
    """How the calibration text is watched in one dense layer: it may happen elsewhere, on a part of the sequences."""

    layer: Layer
    which: Which
    step: Step
    weighted: bool  # tokens by 1 / ||h||, see `token_weights`
    form: type[Statistics] = Gram  # or TokenStatistics, for few tokens
    batch: int | None = None  # tokens in flight, see `batches`

    def __call__(self, hidden: HiddenStates, reference: HiddenStates | None) -> Statistics:
        """The sums over all sequences.

        hidden (S, L, d) enters the step; reference (S, L, d) is the stream that the step should lead to, None for the
        layer's own.
        """
        linear, family = dense_layer(self.layer, self.which), family_of_layer(self.layer)
        device = linear.weight.device
        sums = self.form.zeros(linear.in_features, None if reference is None else linear.out_features, device)
        for rows in batches(len(hidden), hidden.shape[1], self.batch):
            with phase(PHASE[self.which]):
                before = sent(hidden[rows], device)
                after, x = self.step(self.layer, before)
            with phase("Gram"):
                target = None
                if reference is not None:
                    change = sent(reference[rows], device) - before
                    target = family.dense_target(self.layer, self.which, change, x)
                sums.add(x, target, token_weights(after) if self.weighted else None)
        return sums


class Carrier(Protocol):
    """Does what is to be done over all sequences: `Here`, or on the machines of `scale.shards`."""

    @property
    def room(self) -> Callable[..., Any]:
        """Makes space for hidden states here, called as torch.empty(shape, dtype=...)."""

    def sums(self, watching: Watching, hidden: Any, reference: Any, parts: int) -> list[Statistics]:
        """What `watching` sums over each of at most `parts` runs of the sequences; a reference may be None."""

    def through(self, layer: Layer, step: Step, hidden: Any) -> Stream:
        """All sequences through one residual step."""

    def settled(self, hidden: Any) -> HiddenStates:
        """What has come through a layer, brought here."""


@dataclass(frozen=True)
class Here:
    """The `Carrier` of one process, which works where the layer is."""

    room: Callable[..., Any] = torch.empty
    batch: int | None = None  # tokens in flight, see `batches`

    def sums(self, watching: Watching, hidden: Any, reference: Any, parts: int) -> list[Statistics]:
        streams = hidden.chunk(parts)
        references = [None] * len(streams) if reference is None else reference.chunk(parts)
        watching = replace(watching, batch=self.batch)
        return [watching(*pair) for pair in zip(streams, references, strict=True)]

    def through(self, layer: Layer, step: Step, hidden: Any) -> HiddenStates:
        device = next(layer.parameters()).device
        out: HiddenStates = self.room(tuple(hidden.shape), dtype=hidden.dtype)
        for rows in batches(len(hidden), hidden.shape[1], self.batch):
            out[rows] = step(layer, sent(hidden[rows], device))[0]
        return out

    def settled(self, hidden: Any) -> HiddenStates:
        states: HiddenStates = hidden
        return states


HERE = Here()


@dataclass(frozen=True)
class Retuned:
    """The weights that take over in a dense layer, and how they were found."""

    weight: Tensor | None = None  # V (n, m)
    bias: Tensor | None = None  # (m,)
    mask: Mask | None = None
    ridge: float | None = None  # lambda with which they were solved


@dataclass(frozen=True)
class Narrowed:
    """What became of one dense layer."""

    kept: Tensor  # KV groups or neurons, ascending
    error: float = 0.0  # ||X W - X V||^2 / ||X W||^2
    condition: Tensor | None = None  # kappa of each input
    retuned: Retuned = Retuned()


@dataclass(frozen=True)
class PrunedLayer:
    """What became of one layer that stays."""

    report: LayerReport
    kept_neurons: tuple[int, ...]
    kept_groups: tuple[int, ...]


def form_of_sums(settings: Settings, tokens: int, inputs: int) -> type[Statistics]:
    """What is kept of so many tokens in a dense layer: of fewer than it has inputs the tokens themselves."""
    masked = settings.recovery == "mask" or settings.neuron_metric == "mask-condition"
    return TokenStatistics if tokens < inputs and not masked else Gram  # the mask problem needs the matrix itself


class LayerPruner:
    """Takes the layers of a model in their order, narrows those that stay as the plan says, and moves the text on."""

    def __init__(
        self,
        model: Model,
        ids: Tensor,
        settings: Settings,
        plan: Plan,
        shape: Shape,
        memory: PeakMemory,
        carrier: Carrier = HERE,
    ) -> None:
        """Of `model`, which has that `shape`, only what stands before and beside the layers is read; ids (S, L)."""
        self.settings, self.plan, self.shape, self.memory = settings, plan, shape, memory
        self.carrier = carrier
        self.device = torch.device(settings.device)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.searches: dict[Which, RidgeSearch] = {which: RidgeSearch() for which in STEPS}
        first = embed(model, ids[:1])
        hidden: HiddenStates = carrier.room((*ids.shape, first.shape[-1]), dtype=first.dtype)
        for rows in batches(*ids.shape):
            hidden[rows] = embed(model, ids[rows])
        self.hidden: Stream = hidden
        rope = rotary(model, ids.shape[1], self.device, first.dtype)
        self.steps: dict[Which, Step] = {"attention": partial(attention_step, rope=rope), "mlp": mlp_step}
        # the dense model's stream, at which the least squares may aim, is carried beside the pruned one
        self.dense: Stream | None = hidden if settings.two_streams else None
        self.differs = False  # whether the two streams differ by now

    def prune_layer(self, index: int, layer: Layer) -> PrunedLayer | None:
        """Narrow `layer`, number `index` of the parent, in place, and pass the text through it. None: it is to go."""
        start = time.perf_counter()
        if self.settings.recovery == "bias":
            add_biases(layer)
        references = self._dense_stream(layer)
        if index not in self.plan.layers:
            self.differs = True
            self._settle()
            return None
        done = {which: self._prune_step(index, layer, which, references[which]) for which in STEPS}
        self._settle()
        attention, mlp = done["attention"], done["mlp"]
        report = LayerReport(
            layer=index,
            neurons=len(mlp.kept),
            kv_groups=len(attention.kept),
            error=mlp.error,
            attention_error=attention.error,
            condition_median=None if mlp.condition is None else float(mlp.condition.median()),
            condition_max=None if mlp.condition is None else float(mlp.condition.max()),
            mask_mean=None if mlp.retuned.mask is None else mlp.retuned.mask.mean,
            mask_variance=None if mlp.retuned.mask is None else mlp.retuned.mask.variance,
            ridge=mlp.retuned.ridge,
            seconds=time.perf_counter() - start,
            peak_megabytes=self.memory.megabytes(),
        )
        return PrunedLayer(report, tuple(mlp.kept.tolist()), tuple(attention.kept.tolist()))

    def _prune_step(self, index: int, layer: Layer, which: Which, reference: Stream | None) -> Narrowed:
        """The five steps, for one dense layer."""
        keep, fixed, whole = self._ordered(index, which)
        if not keep:  # nobody is left to take over
            self.differs = True
            narrowed = Narrowed(torch.arange(0), error=1.0)
            shrink(layer, which, narrowed.kept)
        elif keep == whole and not (which == "mlp" and self.dense is not None and self.differs):
            narrowed = Narrowed(torch.arange(whole))
        else:
            self.differs = True
            dense = self._watch(layer, which, reference, keep, fixed)
            with phase("selection"):
                selection = self._choose(dense, keep, fixed)
            with phase("solve"):
                retuned = self._retune(dense, selection)
                error = _relative_error(dense, retuned)
                del dense  # matrices of the size of the layer, as are the weights that take over
                shrink(layer, which, selection.kept, retuned.weight, retuned.bias)
            narrowed = Narrowed(selection.kept, error, selection.condition, replace(retuned, weight=None))
            del selection, retuned
        self.hidden = self._pass_on(layer, which, self.hidden)
        return narrowed

    def _ordered(self, index: int, which: Which) -> tuple[int, tuple[int, ...] | None, int]:
        """What the plan says of a step: blocks to keep, which ones if it names them, and how many there are."""
        plan, place = self.plan, self.plan.layers.index(index)
        if which == "mlp":
            keep, names, whole = plan.neurons[place], plan.kept_neurons, self.shape.neurons[index]
        else:
            keep, names, whole = plan.kv_groups[place], plan.kept_groups, self.shape.kv_groups[index]
        return keep, None if names is None else names[place], whole

    def _sums(self, layer: Layer, which: Which, reference: Stream | None) -> list[Statistics]:
        """Let the calibration text pass the dense layer: its sums, in two halves where they are to choose a ridge."""
        weight = dense_layer(layer, which).weight  # (m, n)
        form = form_of_sums(self.settings, self.hidden.shape[0] * self.hidden.shape[1], weight.shape[1])
        searched = self.settings.ridge == "auto" and self.settings.recovery == "least-squares"
        parts = 2 if searched and len(self.hidden) > 1 else 1
        watching = Watching(layer, which, self.steps[which], self.settings.token_weights, form)
        halves = self.carrier.sums(watching, self.hidden, reference, parts)
        self.memory.megabytes()
        return halves

    def _watch(
        self, layer: Layer, which: Which, reference: Stream | None, keep: int, fixed: tuple[int, ...] | None
    ) -> Dense:
        """Watch the text pass: the dense layer as metrics and recoveries see it, with the ridge that suits the text."""
        halves = self._sums(layer, which, reference)
        weight = dense_layer(layer, which).weight.detach().T.to(halves[0].precision)  # (n, m)
        block, owned, gain = block_size(layer, which), upstream(layer, which), family_of_layer(layer).gain(layer, which)
        ridge = RIDGE if isinstance(self.settings.ridge, str) else self.settings.ridge
        if len(halves) == 2:
            # who stays matters little for how hard to hold them: a cheap metric will do
            likely = energy(Dense(halves[0], weight, owned, block, gain=gain), keep, self.generator).kept
            likely = likely if fixed is None else torch.tensor(fixed)
            inputs = spread(likely.to(weight.device), block)
            with phase("solve"):
                ridge = self.searches[which].choose(halves[0], halves[1], weight, inputs, gain)
            self._highest(halves[0])
        sums = halves.pop(0)
        while halves:
            sums = sums + halves.pop(0)
        return Dense(sums, weight, owned, block, ridge, gain)

    def _choose(self, dense: Dense, keep: int, fixed: tuple[int, ...] | None) -> Selection:
        """Which blocks stay: the best `keep` by the metric, or those that the plan names."""
        if fixed is not None:
            return Selection(torch.tensor(fixed), torch.full((dense.blocks,), torch.nan))
        selection = metric(self.settings.neuron_metric)(dense, keep, self.generator)
        solved = selection.retuned if dense.sums.own_target else None  # another problem: its weights are in the way
        selection = replace(selection, retuned=solved, curve=None)
        self._highest(dense.sums)
        return selection

    def _highest(self, sums: Statistics) -> None:
        """Take note of the memory where a phase has ended, whose matrices were as large as the layer."""
        self.memory.megabytes()
        if sums.compact:  # of a model that is large for its text
            release_memory()

    def _retune(self, dense: Dense, selection: Selection) -> Retuned:
        """What stays takes over what goes, by the recovery that the settings ask for."""
        recovery, weight, sums = self.settings.recovery, dense.weight, dense.sums
        inputs = spread(selection.kept.to(weight.device), dense.block)
        if recovery == "none":
            return Retuned(unchanged(weight, inputs))
        if recovery == "bias":
            return Retuned(unchanged(weight, inputs), mean_bias(sums.mean, weight, inputs))
        if recovery == "mask":
            mask = tune_mask(contributions(dense.xtx, dense.scaled_weight), inputs, dense.ridge)
            return Retuned(fold_mask(weight, inputs, mask), mask=mask, ridge=mask.ridge)
        if selection.retuned is not None:  # the sweep solved this very problem on its way
            return Retuned(selection.retuned, ridge=dense.ridge)
        return Retuned(sums.refit(weight, inputs, dense.ridge), ridge=dense.ridge)

    def _pass_on(self, layer: Layer, which: Which, hidden: Stream) -> Stream:
        """All sequences through one residual step."""
        with phase(PHASE[which]):
            return self.carrier.through(layer, self.steps[which], hidden)

    def _dense_stream(self, layer: Layer) -> dict[Which, Stream | None]:
        """What the steps of this layer should lead to, where that is the dense model's stream; moves that on."""
        if self.dense is None:
            return {"attention": None, "mlp": None}
        middle = self._pass_on(layer, "attention", self.dense)
        self.dense = self._pass_on(layer, "mlp", middle)
        return {"attention": middle, "mlp": self.dense}

    def _settle(self) -> None:
        self.hidden = self.carrier.settled(self.hidden)
        self.dense = None if self.dense is None else self.carrier.settled(self.dense)

    def progress_made(self) -> dict[str, Any]:
        """What the next layers need of the last ones beside the hidden states, as JSON."""
        return {
            "differs": self.differs,
            "searches": {which: search.place for which, search in self.searches.items()},
            "generator": base64.b64encode(bytes(self.generator.get_state().tolist())).decode(),
        }

    def resume(self, made: dict[str, Any], hidden: HiddenStates, dense: HiddenStates | None) -> None:
        """Go on from where another pruner with the same request was when it had `progress_made`."""
        self.hidden, self.dense, self.differs = hidden, dense, made["differs"]
        for which, search in self.searches.items():
            search.place = made["searches"][which]
        self.generator.set_state(torch.tensor(list(base64.b64decode(made["generator"])), dtype=torch.uint8))


def _relative_error(dense: Dense, retuned: Retuned) -> float:
    """||X W - X V||^2 / ||X W||^2, with the bias where there is one."""
    if retuned.weight is None:
        return 1.0
    own, error = dense.sums.energies(dense.weight, retuned.weight)
    if retuned.bias is not None:
        error += dense.sums.bias_energy(dense.weight - retuned.weight, retuned.bias)
    return error / own if own > 0.0 else 0.0
