"""One layer of the decoder, in five visible steps: gather, choose, recover, shrink, pass on.

`comp.prune_layers` calls `prune_layer` for each layer. `Streams` is what passes from one layer to the next:
the hidden states (S, L, d) of the calibration text in the pruned model and, where the least squares aim at
it, in the dense model. They are in a tensor, or in anything that is sliced like one
(`disk.work_folder.StatesFile`).

A *dense layer* is here one of the two linears, o_proj and down_proj, that write to the residual stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .families.find import parts
from .families.probe import dense_target, gain_behind, stream_behind
from .families.protocol import STEPS, Layer, Step
from .families.run import LayerArguments, run_step
from .importance.neurons import METRICS, RIDGE, Problem, Selection, energy
from .plan import Plan
from .recovery import RECOVERIES
from .recovery.least_squares import choose_ridge
from .settings import Settings
from .shape import Shape
from .statistics.few_tokens import TokenStatistics
from .statistics.gram import Gram, Statistics, token_weight, tokens_for_gram
from .surgery import Refit, add_biases, inputs_of_blocks, shrink, upstream
from .walk import batches


class States(Protocol):
    """Hidden states (S, L, d) of all sequences, sliced by sequences: a tensor, or a file."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...

    def __setitem__(self, rows: slice, values: Tensor, /) -> None: ...


class NewStates(Protocol):
    """Makes room for hidden states, as `torch.empty` does."""

    def __call__(self, shape: Sequence[int], /, *, dtype: torch.dtype) -> States: ...


@dataclass(frozen=True)
class LayerReport:
    """What happened to one decoder layer that stays."""

    layer: int  # in the parent
    # ||X W - X V||^2 / ||X W||^2 of down_proj after recovery, over the calibration text.
    # Its tokens are weighted as the settings say.
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


@dataclass(frozen=True)
class Run:
    """What is the same for all layers of a run."""

    settings: Settings
    plan: Plan
    shape: Shape  # of the parent
    arguments: LayerArguments  # what the parent hands its layers
    new_states: NewStates = torch.empty


@dataclass
class Streams:
    """What one layer leaves to the next."""

    pruned: States  # hidden states in the pruned model
    dense: States | None  # hidden states in the dense model; None where no recovery aims at them
    may_differ: bool = False  # whether the two may differ by now
    # where the lambdas of the last layer are in the grid of lambdas
    ridge_positions: dict[Step, int] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)  # of metrics that draw

    @classmethod
    def start(cls, pruned: States, settings: Settings, plan: Plan, shape: Shape) -> Streams:
        """Streams before the first layer, where both models have the same hidden states.

        shape: of the parent.
        """
        dense = pruned if settings.aims_at_dense(plan, shape) else None
        return cls(pruned, dense, generator=torch.Generator().manual_seed(settings.seed))


@dataclass(frozen=True)
class Task:
    """What is to become of one dense layer."""

    step: Step
    full_width: int  # neurons or KV groups that it has
    keep: int  # how many of them stay
    kept_by_plan: Sequence[int] | None  # those that the plan names; None: the metric chooses

    @classmethod
    def of(cls, run: Run, index: int, step: Step) -> Task:
        """The task for a step of layer `index` of the parent, which stays."""
        plan = run.plan
        position = plan.layers.index(index)
        if step == "mlp":
            kept_neurons = None if plan.kept_neurons is None else plan.kept_neurons[position]
            return cls(step, run.shape.neurons[index], plan.neurons[position], kept_neurons)
        kept_groups = None if plan.kept_groups is None else plan.kept_groups[position]
        return cls(step, run.shape.kv_groups[index], plan.kv_groups[position], kept_groups)


@dataclass(frozen=True)
class Evidence:
    """What the calibration text says of one dense layer."""

    problem: Problem
    # inputs X of the dense layer (S, L, n) for `pass_on`; None where they take more room than the statistics
    inputs: Tensor | None
    ridge_position: int | None  # of the chosen lambda in the grid; None where the lambda was given


def prune_layer(run: Run, index: int, layer: Layer, streams: Streams) -> LayerReport | None:
    """Narrow `layer`, number `index` of the parent, in place, and move the streams behind it.

    Returns None where the plan drops the layer.
    """
    start = time.perf_counter()
    if run.settings.recovery == "bias":
        add_biases(layer)
    targets = advance_dense(run, layer, streams)
    if index not in run.plan.layers:
        streams.may_differ = True
        return None
    attention = prune_step(run, layer, Task.of(run, index, "attention"), targets.get("attention"), streams)
    mlp = prune_step(run, layer, Task.of(run, index, "mlp"), targets.get("mlp"), streams)
    return LayerReport(
        layer=index,
        error=mlp.error,
        attention_error=attention.error,
        ridge=mlp.ridge,
        seconds=time.perf_counter() - start,
        kept_neurons=tuple(mlp.kept.tolist()),
        kept_groups=tuple(attention.kept.tolist()),
    )


def advance_dense(run: Run, layer: Layer, streams: Streams) -> dict[Step, States]:
    """Move the dense stream, if there is one, through the layer as it is.

    Returns the dense stream (S, L, d) behind each step, which is the target of that step.
    """
    targets = dict[Step, States]()
    if streams.dense is not None:
        for step in STEPS:
            behind = run.new_states(tuple(streams.dense.shape), dtype=streams.dense.dtype)
            pass_on(run, layer, step, streams.dense, behind)
            streams.dense = behind
            targets[step] = behind
    return targets


def prune_step(run: Run, layer: Layer, task: Task, target: States | None, streams: Streams) -> Refit:
    """Take the five steps for one dense layer.

    target (S, L, d): the stream that it should lead to; None: the stream that it leads to as it is.
    """
    refit = Refit(torch.arange(task.full_width))
    inputs = None
    if needs_refit(task, streams):
        gathered = gather(run, layer, task, target, streams)
        inputs = gathered.inputs
        if gathered.ridge_position is not None:
            streams.ridge_positions[task.step] = gathered.ridge_position
        selection = choose(run, gathered.problem, task, streams.generator)
        refit = RECOVERIES[run.settings.recovery](gathered.problem, selection)
        del gathered, selection  # matrices of the size of the layer
        shrink(layer, task.step, refit.kept, refit.weight, refit.bias)
        refit = replace(refit, weight=None)
        streams.may_differ = True
    kept_inputs = None if inputs is None else (inputs, refit.kept)
    if task.step == "mlp":
        # The stream between the two steps belongs to this layer alone, so it may be written over.
        pass_on(run, layer, task.step, streams.pruned, streams.pruned, kept_inputs)
    else:
        behind = run.new_states(tuple(streams.pruned.shape), dtype=streams.pruned.dtype)
        pass_on(run, layer, task.step, streams.pruned, behind, kept_inputs)
        streams.pruned = behind
    return refit


def needs_refit(task: Task, streams: Streams) -> bool:
    """Whether blocks go, or an MLP that keeps all of them can make good the errors of earlier layers."""
    can_make_good = task.step == "mlp" and streams.dense is not None and streams.may_differ
    return task.keep < task.full_width or can_make_good


def gather(run: Run, layer: Layer, task: Task, target: States | None, streams: Streams) -> Evidence:
    """Step 1: the statistics of the text in the dense layer, and the ridge that suits them.

    The search for the ridge fits weights to the first half of the text and judges them on the second.
    """
    settings = run.settings
    hidden = streams.pruned
    count, length, _ = hidden.shape
    part = parts(layer)[task.step]
    linear = part.linear
    inputs = None
    if task.step == "mlp" and count * length <= linear.in_features:
        inputs = torch.empty(count, length, linear.in_features, dtype=hidden.dtype, device=settings.device)
    searched = settings.ridge == "auto" and settings.recovery == "least-squares" and count > 1
    size = math.ceil(count / 2) if searched else count
    halves = []  # or all of the text, where no ridge is searched
    for first in range(0, count, size):
        sequences = slice(first, min(first + size, count))
        halves.append(sum_statistics(run, layer, task.step, hidden, target, sequences, inputs))
    problem_of = partial(
        Problem,
        weight=linear.weight.detach().T.to(halves[0].precision),  # W (n, m)
        upstream=partial(upstream, layer, task.step),
        block=part.block,
        gain=gain_behind(layer, task.step),
    )
    if not searched:
        ridge = RIDGE if isinstance(settings.ridge, str) else settings.ridge
        return Evidence(problem_of(halves[0], ridge=ridge), inputs, None)
    problem = problem_of(halves[0])
    if task.kept_by_plan is None:
        # The best ridge depends little on which neurons stay, so a cheap metric will do here.
        likely = energy(problem, task.keep, streams.generator).kept
    else:
        likely = torch.tensor(task.kept_by_plan)
    kept = inputs_of_blocks(likely.to(problem.weight.device), part.block)
    last_position = streams.ridge_positions.get(task.step)
    ridge, position = choose_ridge(halves[0], halves[1], problem.weight, kept, problem.gain, last_position)
    return Evidence(problem_of(halves[0] + halves[1], ridge=ridge), inputs, position)


def sum_statistics(
    run: Run,
    layer: Layer,
    step: Step,
    hidden: States,
    target: States | None,
    sequences: slice,
    inputs: Tensor | None,
) -> Statistics:
    """The statistics of the dense layer over some `sequences`.

    If `inputs` (S, L, n) is given, the inputs of the dense layer are written to it.
    """
    settings = run.settings
    linear = parts(layer)[step].linear
    device = linear.weight.device
    length = hidden.shape[1]
    needs_matrix = settings.recovery == "mask" or settings.neuron_metric == "mask-condition"
    few = hidden.shape[0] * length < tokens_for_gram(linear.in_features)
    kind: type[Statistics] = TokenStatistics if few and not needs_matrix else Gram
    outputs = None if target is None else linear.out_features
    statistics = kind.zeros(linear.in_features, outputs, device)
    for batch in batches(sequences.stop - sequences.start, length):
        rows = slice(sequences.start + batch.start, sequences.start + batch.stop)
        before = hidden[rows].to(device)
        after, x = run_step(layer, step, before, run.arguments)
        target_output = None
        if target is not None:
            target_output = dense_target(layer, step, target[rows].to(device) - before, x)
        weights = token_weight(after) if settings.token_weights else None
        del before, after  # the products need their memory
        if inputs is not None:
            inputs[rows] = x
        statistics.add(x, target_output, weights)
        del x, target_output  # the next ones need their memory
    return statistics


def choose(run: Run, problem: Problem, task: Task, generator: torch.Generator) -> Selection:
    """Step 2: which blocks stay, the best `task.keep` by the metric, or those that the plan names."""
    if task.kept_by_plan is not None:
        no_scores = torch.full((problem.blocks,), torch.nan)
        return Selection(torch.tensor(task.kept_by_plan), no_scores)
    return METRICS[run.settings.neuron_metric](problem, task.keep, generator)


def pass_on(
    run: Run,
    layer: Layer,
    step: Step,
    hidden: States,
    out: States,
    kept_inputs: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Step 5: all sequences through one residual step, from `hidden` to `out`, which may be the same.

    kept_inputs: inputs X (S, L, n) of the dense layer as it was, and the indices (k,) of those that stay.
    With them X is not computed again.
    """
    for rows in batches(*hidden.shape[:2]):
        before = hidden[rows].to(run.settings.device)
        if kept_inputs is None:
            out[rows] = run_step(layer, step, before, run.arguments)[0]
        else:
            inputs, kept = kept_inputs
            out[rows] = stream_behind(layer, step, before, inputs[rows][..., kept])
