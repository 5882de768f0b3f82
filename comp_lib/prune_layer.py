"""One layer of the decoder, in five visible steps: gather, choose, recover, shrink, pass on.

`comp.prune_layers` calls `prune_layer` for each layer. `Streams` is what passes from one layer to the next:
the hidden states (S, L, d) of the calibration text in the pruned model. Where the least squares aim at the
dense model, its hidden states are there too. They are in a tensor, or in anything that is sliced like one
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
from .statistics.few_tokens import empty_statistics
from .statistics.gram import Statistics, token_weight
from .surgery import Refit, add_biases, shrink, upstream
from .walk import batches


class States(Protocol):
    """Hidden states (S, L, d) of all sequences, in a tensor or a file that is sliced by sequences."""

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

    layer: int
    """Its index in the parent."""
    error: float
    """||X W - X V||^2 / ||X W||^2 of down_proj after the recovery, over the calibration text.

    The tokens are weighted as the settings say.
    """
    attention_error: float
    """The same for o_proj."""
    ridge: float | None
    """The lambda with which the recovery of down_proj was solved; None: it solves nothing."""
    seconds: float
    """What the layer took."""
    kept_neurons: Sequence[int]
    """Indices of the neurons that stay, ascending."""
    kept_groups: Sequence[int]
    """Indices of the KV groups that stay, ascending."""


@dataclass(frozen=True)
class Report:
    """What `prune` did, and what it took."""

    settings: dict[str, Any]  # the fields of `Settings`
    tokens: int  # in the calibration text
    layers: tuple[LayerReport, ...]  # of the layers that stay
    seconds: float  # of the last attempt, where an earlier one was cut off


@dataclass(frozen=True)
class Run:
    """What is the same for all layers of a run."""

    settings: Settings  # what was asked for
    plan: Plan  # how much of each layer stays
    shape: Shape  # of the parent
    arguments: LayerArguments  # what the parent hands its layers
    new_states: NewStates = torch.empty  # makes room for hidden states


@dataclass
class Streams:
    """What one layer leaves to the next."""

    pruned: States
    """The hidden states in the pruned model."""
    dense: States | None
    """The hidden states in the dense model; None where no recovery aims at them."""
    may_differ: bool = False
    """Whether the two may differ by now."""
    ridge_positions: dict[Step, int] = field(default_factory=dict)
    """Where the lambdas of the last layer are in the grid of lambdas."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """From which a metric draws that is random."""

    @classmethod
    def start(cls, pruned: States, settings: Settings, plan: Plan, shape: Shape) -> Streams:
        """Streams before the first layer, where both models have the same hidden states.

        shape: that of the parent.
        """
        dense = pruned if settings.aims_at_dense(plan, shape) else None
        return cls(pruned, dense, generator=torch.Generator().manual_seed(settings.seed))


@dataclass(frozen=True)
class Task:
    """What is to become of one dense layer."""

    step: Step  # the step that ends in the dense layer
    full_width: int  # how many neurons or KV groups it has
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
    """What the metric decides and the recovery solves."""
    inputs: Tensor | None
    """The inputs X of the dense layer (S, L, n), for `pass_on`.

    None: they are not kept, since they take more room than the statistics.
    """
    ridge_position: int | None
    """Where the chosen lambda is in the grid of lambdas; None: the lambda was given."""


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
        evidence = gather(run, layer, task, target, streams)
        inputs = evidence.inputs
        if evidence.ridge_position is not None:
            streams.ridge_positions[task.step] = evidence.ridge_position
        selection = choose(run, evidence.problem, task, streams.generator)
        refit = RECOVERIES[run.settings.recovery](evidence.problem, selection)
        del evidence, selection  # they have matrices of the size of the layer
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
    """Whether the dense layer has to be solved anew.

    It has to where blocks go. An MLP that keeps all its blocks can make good the errors of earlier layers.
    """
    can_make_good = task.step == "mlp" and streams.dense is not None and streams.may_differ
    return task.keep < task.full_width or can_make_good


def gather(run: Run, layer: Layer, task: Task, target: States | None, streams: Streams) -> Evidence:
    """Step 1: gather the statistics of the text in the dense layer, and the ridge that suits them."""
    settings = run.settings
    hidden = streams.pruned
    count, length, _ = hidden.shape
    linear = parts(layer)[task.step].linear
    inputs = None
    if task.step == "mlp" and count * length <= linear.in_features:
        inputs = torch.empty(count, length, linear.in_features, dtype=hidden.dtype, device=settings.device)
    if settings.ridge == "auto" and settings.recovery == "least-squares" and count > 1:
        return search_ridge(run, layer, task, target, streams, inputs)
    ridge = RIDGE if isinstance(settings.ridge, str) else settings.ridge
    statistics = sum_statistics(run, layer, task.step, hidden, target, slice(0, count), inputs)
    return Evidence(problem_of(layer, task.step, statistics, ridge), inputs, None)


def search_ridge(
    run: Run,
    layer: Layer,
    task: Task,
    target: States | None,
    streams: Streams,
    inputs: Tensor | None,
) -> Evidence:
    """The evidence with the ridge that serves held-out text best.

    The search fits weights to the first half of the text and judges them on the second.

    inputs (S, L, n): where the inputs of the dense layer are written to; None: they are not kept.
    """
    hidden = streams.pruned
    count = hidden.shape[0]
    half = math.ceil(count / 2)
    fitted = sum_statistics(run, layer, task.step, hidden, target, slice(0, half), inputs)
    held_out = sum_statistics(run, layer, task.step, hidden, target, slice(half, count), inputs)
    problem = problem_of(layer, task.step, fitted)
    if task.kept_by_plan is None:
        # The best ridge depends little on which neurons stay, so a cheap metric will do here.
        likely = energy(problem, task.keep, streams.generator).kept
    else:
        likely = torch.tensor(task.kept_by_plan)
    kept = problem.inputs_of(likely)
    last_position = streams.ridge_positions.get(task.step)
    ridge, position = choose_ridge(fitted, held_out, problem.weight, kept, problem.gain, last_position)
    return Evidence(replace(problem, statistics=fitted + held_out, ridge=ridge), inputs, position)


def problem_of(layer: Layer, step: Step, statistics: Statistics, ridge: float = RIDGE) -> Problem:
    """The dense layer of a step, as metrics and recoveries see it."""
    part = parts(layer)[step]
    return Problem(
        statistics,
        weight=part.linear.weight.detach().T.to(statistics.precision),  # W (n, m)
        upstream=partial(upstream, layer, step),
        block=part.block,
        ridge=ridge,
        gain=gain_behind(layer, step),
    )


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

    inputs (S, L, n): where the inputs of the dense layer are written to; None: they are not kept.
    """
    settings = run.settings
    linear = parts(layer)[step].linear
    device = linear.weight.device
    count, length, _ = hidden.shape
    statistics = empty_statistics(
        linear.in_features,
        None if target is None else linear.out_features,
        count * length,
        device,
        needs_matrix=settings.recovery == "mask" or settings.neuron_metric == "mask-condition",
    )
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
    """Step 2: say which blocks stay, the best by the metric or those that the plan names."""
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
    """Step 5: send all sequences through one residual step, from `hidden` to `out`.

    The two may be the same.

    kept_inputs: inputs X (S, L, n) of the dense layer as it was, and the indices (k,) of those that stay.
        With them X is not computed again; None: it is.
    """
    for rows in batches(*hidden.shape[:2]):
        before = hidden[rows].to(run.settings.device)
        if kept_inputs is None:
            out[rows] = run_step(layer, step, before, run.arguments)[0]
        else:
            inputs, kept = kept_inputs
            out[rows] = stream_behind(layer, step, before, inputs[rows][..., kept])
