"""One layer of the decoder, in five phases: gather, choose, recover, shrink, pass on.

A layer is two residual *steps*, "attention" and "mlp". Each step ends in its *output linear*, o_proj or
down_proj, which writes to the residual *stream*: the hidden states (S, L, d) of all sequences between two
steps. A *block* is the inputs of an output linear that go together: one neuron of the MLP, or the heads of
one KV group. `prune_step` takes one step through five *phases*:

1. gather     `gather` sums up statistics of the text, and chooses the ridge of the recovery by held-out text
2. choose     `choose` says by the metric which blocks of inputs stay
3. recover    one of `recovery.recoveries.RECOVERIES` refits the weights that stay
4. shrink     `surgery.shrink` makes the tensors smaller
5. pass on    `pass_on` sends the text through the step as it is now

`comp.prune_layers` calls `prune_layer` for each layer. `CarriedState` is what passes from one to the next:
the stream of the calibration text in the pruned model. Where the least squares aim at the dense model, its
stream is there too. Both are *states*: a tensor, or anything that is sliced like one
(`from_disk.work_folder.StatesFile`).
"""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..decoder.blocks import inputs_of_blocks
from ..decoder.probe import OutputPath, stream_after
from ..decoder.run import LayerArguments, run_step
from ..decoder.shape import Shape
from ..decoder.structure import Part, parts
from ..decoder.surgery import add_biases, shrink
from ..decoder.types import STEPS, Layer, Step
from ..decoder.walk import batches
from ..hybrid_granularity.plan import Plan
from ..importance.neuron_metrics import METRICS, energy
from ..importance.problem import Problem, Selection, ridge_or_usual
from ..importance.statistics.few_tokens import empty_statistics
from ..importance.statistics.sums import Statistics, token_weight
from ..recovery.least_squares import choose_ridge
from ..recovery.recoveries import RECOVERIES
from ..recovery.refit import Refit
from ..utils.errors import InputError
from .report import LayerReport
from .settings import CompleteSettings


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
class RunContext:
    """Values that are the same for all layers of a run."""

    settings: CompleteSettings
    """The settings of the run."""
    plan: Plan
    """How much of each layer stays."""
    shape: Shape
    """The shape of the parent."""
    arguments: LayerArguments
    """The arguments that the parent hands its layers."""
    new_states: NewStates = torch.empty
    """A function that makes room for hidden states."""


@dataclass
class CarriedState:
    """The state that one layer leaves to the next."""

    pruned_stream: States
    """The hidden states in the pruned model."""
    dense_stream: States | None
    """The hidden states in the dense model; None where no recovery aims at them."""
    may_differ: bool = False
    """Whether the two streams may differ by now."""
    ridge_positions: dict[Step, int] = field(default_factory=dict)
    """Positions in `least_squares.RIDGES` of the ridges of the last layer."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """The source of random numbers, for a metric that draws them."""

    @classmethod
    def start(cls, embedded: States, settings: CompleteSettings, plan: Plan, shape: Shape) -> CarriedState:
        """The state before the first layer, where both models have the same hidden states.

        embedded: the hidden states (S, L, d) of the text before the first layer.
        shape: that of the parent.
        """
        dense_stream = embedded if settings.aims_at_dense(plan, shape) else None
        generator = torch.Generator().manual_seed(settings.seed)
        return cls(embedded, dense_stream, generator=generator)


@dataclass(frozen=True)
class StepWidth:
    """The width that one step of a layer is to have."""

    full: int
    """How many neurons or KV groups it has."""
    keep: int
    """How many of them stay."""
    kept_by_plan: Sequence[int] | None
    """The indices of those that the plan names; None: the metric chooses."""

    @classmethod
    def of(cls, run: RunContext, index: int, step: Step) -> StepWidth:
        """The width of a step of layer `index` of the parent, which stays."""
        plan = run.plan
        position = plan.layers.index(index)
        if step == "mlp":
            kept_neurons = None if plan.kept_neurons is None else plan.kept_neurons[position]
            return cls(run.shape.neurons[index], plan.neurons[position], kept_neurons)
        kept_groups = None if plan.kept_groups is None else plan.kept_groups[position]
        return cls(run.shape.kv_groups[index], plan.kv_groups[position], kept_groups)


@dataclass(frozen=True)
class AimedOutput:
    """What an output linear should put out, so that its step leads to a given stream."""

    path: OutputPath
    """The way from the output linear to the stream."""
    stream: States
    """The stream (S, L, d) that the step should lead to."""

    def target(self, rows: slice, before: Tensor, x: Tensor) -> Tensor:
        """The output (B, L, d) of the sequences `rows`.

        Args:
            before: the hidden states (B, L, d) that enter the step.
            x: the inputs (B, L, n) of the output linear.
        """
        return self.path.target(self.stream[rows].to(before.device) - before, x)


@dataclass(frozen=True)
class StepTask:
    """One step of a layer, with the text that enters it and the stream that it should lead to."""

    run: RunContext
    """What all layers have in common."""
    layer: Layer
    """The layer as it is now."""
    step: Step
    """The step that is narrowed."""
    width: StepWidth
    """How much of it stays."""
    stream: States
    """The hidden states (S, L, d) in the pruned model that enter the step."""
    aimed_stream: States | None
    """The stream (S, L, d) that the step should lead to; None: the one that it leads to as it is."""

    @property
    def part(self) -> Part:
        """The part of the layer that makes the step."""
        return parts(self.layer)[self.step]

    def aimed_output(self) -> AimedOutput | None:
        """What the output linear should put out; None: what it does put out.

        Raises InputError where its outputs reach the stream in a way that `OutputPath` does not know.
        """
        if self.aimed_stream is None:
            return None
        return AimedOutput(OutputPath.of(self.layer, self.step), self.aimed_stream)


@dataclass(frozen=True)
class StoredInputs:
    """The inputs X (S, L, n) of an output linear, kept from `gather` to `pass_on`."""

    values: Tensor
    """The inputs X (S, L, n)."""

    def write(self, rows: slice, x: Tensor) -> None:
        """Keep the inputs x (B, L, n) of the sequences `rows`."""
        self.values[rows] = x

    def read(self, rows: slice, kept_inputs: Tensor) -> Tensor:
        """The inputs (B, L, k) of the sequences `rows` that stay, by their indices (k,)."""
        return self.values[rows][..., kept_inputs]


@dataclass(frozen=True)
class Gathered:
    """All that `gather` learns of one output linear from the calibration text."""

    problem: Problem
    """The problem in which the metric chooses, and which the recovery solves."""
    inputs: StoredInputs | None
    """The inputs of down_proj, to be passed on without their computation; None: they are not kept.

    Those of o_proj never are, and those of down_proj only where the text has no more tokens than inputs.
    """
    ridge_position: int | None
    """Position in `least_squares.RIDGES` of the ridge that was chosen; None: it was given."""


def prune_layer(run: RunContext, index: int, layer: Layer, carried: CarriedState) -> LayerReport | None:
    """Prune `layer`, number `index` of the parent, in place, and move the streams after it.

    Returns None where the plan drops the layer.
    """
    start = time.perf_counter()
    if run.settings.adds_biases:
        add_biases(layer)
    targets = advance_dense_stream(run, layer, carried)
    if index not in run.plan.layers:
        carried.may_differ = True
        return None
    refits = dict[Step, Refit]()
    for step in STEPS:
        width = StepWidth.of(run, index, step)
        task = StepTask(run, layer, step, width, carried.pruned_stream, targets.get(step))
        refits[step] = prune_step(task, carried)
    attention = refits["attention"]
    mlp = refits["mlp"]
    return LayerReport(
        layer=index,
        mlp_error=mlp.error,
        attention_error=attention.error,
        mlp_ridge=mlp.ridge,
        seconds=time.perf_counter() - start,
        kept_neurons=tuple(mlp.kept.tolist()),
        kept_groups=tuple(attention.kept.tolist()),
    )


def advance_dense_stream(run: RunContext, layer: Layer, carried: CarriedState) -> dict[Step, States]:
    """Move the dense stream, if there is one, through the layer as it is.

    Returns the dense stream (S, L, d) after each step, which is the target of that step.
    """
    targets = dict[Step, States]()
    if carried.dense_stream is not None:
        for step in STEPS:
            before = carried.dense_stream
            after = run.new_states(tuple(before.shape), dtype=before.dtype)
            pass_on(run, layer, step, before, after)
            carried.dense_stream = after
            targets[step] = after
    return targets


def prune_step(task: StepTask, carried: CarriedState) -> Refit:
    """Take one step of a layer through the five phases."""
    run = task.run
    layer = task.layer
    width = task.width
    refit = Refit(torch.arange(width.full))
    inputs = None
    block_size = task.part.block_size
    if has_work(task, carried):
        gathered = gather(task, carried)
        inputs = gathered.inputs
        if gathered.ridge_position is not None:
            carried.ridge_positions[task.step] = gathered.ridge_position
        selection = choose(run, gathered.problem, width, carried.generator)
        recover = RECOVERIES[run.settings.recovery]
        refit = recover(gathered.problem, selection)
        del gathered, selection  # they have matrices of the size of the layer
        shrink(layer, task.step, refit.kept, refit.weight, refit.bias_change)
        refit = replace(refit, weight=None)
        carried.may_differ = True
    before = task.stream
    if task.step == "attention":
        # It is not written over: a run on disk that is cut off in this layer begins the layer again from it.
        after = run.new_states(tuple(before.shape), dtype=before.dtype)
    else:
        after = before  # written over: nothing else needs the stream between the two steps
    pass_on(run, layer, task.step, before, after, inputs, inputs_of_blocks(refit.kept, block_size))
    carried.pruned_stream = after
    return refit


def has_work(task: StepTask, carried: CarriedState) -> bool:
    """Whether anything is to be done to the step before the text is passed on.

    True where blocks go, and for an MLP that keeps them all but can make good the errors of earlier layers.
    """
    can_make_good = task.step == "mlp" and carried.dense_stream is not None and carried.may_differ
    return task.width.keep < task.width.full or can_make_good


def gather(task: StepTask, carried: CarriedState) -> Gathered:
    """Phase 1: gather the statistics of the text in the output linear, and the ridge that suits them."""
    settings = task.run.settings
    stream = task.stream
    count, length, _ = stream.shape
    input_count = task.part.output_linear.in_features
    inputs = None
    if task.step == "mlp" and count * length <= input_count:
        size = (count, length, input_count)
        inputs = StoredInputs(torch.empty(size, dtype=stream.dtype, device=settings.device))
    if settings.ridge == "auto" and settings.fits_all_weights and count > 1:
        return search_ridge(task, carried, inputs)
    statistics = sum_statistics(task, slice(0, count), inputs)
    ridge = ridge_or_usual(settings.ridge)
    problem = Problem.of(task.layer, task.step, statistics, ridge)
    return Gathered(problem, inputs, ridge_position=None)


def search_ridge(task: StepTask, carried: CarriedState, inputs: StoredInputs | None) -> Gathered:
    """Gather the statistics, with the ridge that serves held-out text best.

    The search fits weights to the first half of the text and judges them on the second.

    inputs: takes the inputs of the output linear; None: they are not kept.
    """
    width = task.width
    count = task.stream.shape[0]
    half = math.ceil(count / 2)
    fitting = sum_statistics(task, slice(0, half), inputs)
    held_out = sum_statistics(task, slice(half, count), inputs)
    problem = Problem.of(task.layer, task.step, fitting)
    if width.kept_by_plan is None:
        # The best ridge depends little on which neurons stay, so a cheap metric will do here.
        likely = energy(problem, width.keep, carried.generator).kept
    else:
        likely = torch.tensor(width.kept_by_plan)
    kept_inputs = problem.inputs_of(likely)
    last_position = carried.ridge_positions.get(task.step)
    ridge, position = choose_ridge(
        fitting, held_out, problem.weight, kept_inputs, problem.gain, last_position
    )
    return Gathered(replace(problem, statistics=fitting + held_out, ridge=ridge), inputs, position)


def sum_statistics(task: StepTask, sequences: slice, inputs: StoredInputs | None) -> Statistics:
    """Sum the statistics of the output linear over some `sequences`.

    inputs: takes the inputs of the output linear; None: they are not kept.
    """
    run = task.run
    settings = run.settings
    layer = task.layer
    step = task.step
    aim = task.aimed_output()
    output_linear = task.part.output_linear
    device = output_linear.weight.device
    count, length, _ = task.stream.shape
    statistics = empty_statistics(
        output_linear.in_features,
        None if aim is None else output_linear.out_features,
        count * length,  # of the whole text, so that the statistics of two halves have one form
        device,
        needs_matrix=settings.reads_matrix,
    )
    for batch in batches(sequences.stop - sequences.start, length):
        rows = slice(sequences.start + batch.start, sequences.start + batch.stop)
        before = task.stream[rows].to(device)
        after, x = run_step(layer, step, before, run.arguments)
        target_output = None if aim is None else aim.target(rows, before, x)
        weight_of_token = token_weight(after) if settings.token_weights else None
        del before, after  # the products need their memory
        if inputs is not None:
            inputs.write(rows, x)
        statistics.add(x, target_output, weight_of_token)
        del x, target_output  # the next ones need their memory
    return statistics


def choose(run: RunContext, problem: Problem, width: StepWidth, generator: torch.Generator) -> Selection:
    """Phase 2: say which blocks stay, the best by the metric, or all, or those that the plan names."""
    kept = width.kept_by_plan
    if kept is None and width.keep == width.full:
        kept = range(width.full)
    if kept is not None:
        no_scores = torch.full((problem.block_count,), torch.nan)
        return Selection(torch.tensor(kept), no_scores)
    name = run.settings.neuron_metric
    selection = METRICS[name](problem, width.keep, generator)
    _check_selection(selection, problem.block_count, width.keep, name)
    return selection


def _check_selection(selection: Selection, blocks: int, keep: int, name: str) -> None:
    """Raises InputError where a metric, perhaps a user's own, does not return `keep` of `blocks` blocks."""
    hint = "return keep_highest(scores, keep)"
    origin = f"from the metric {name!r}"
    if not isinstance(selection, Selection):
        raise InputError(expected=f"a Selection {origin}", got=type(selection).__name__, hint=hint)
    scores = selection.scores
    for value in (selection.kept, scores):
        if not isinstance(value, Tensor):
            raise InputError(expected=f"two tensors {origin}", got=type(value).__name__, hint=hint)
    if tuple(scores.shape) != (blocks,):
        raise InputError(
            expected=f"one score for each of {blocks} blocks {origin}",
            got=f"scores of the shape {tuple(scores.shape)}",
            hint=f"{hint}, with problem.per_block(values) for values of each input (n,)",
        )
    if selection.kept.ndim != 1 or selection.kept.dtype != torch.int64:
        raise InputError(
            expected=f"the blocks that stay as whole numbers (k,) {origin}",
            got=f"{selection.kept.dtype} of the shape {tuple(selection.kept.shape)}",
            hint=hint,
        )
    kept = selection.kept.tolist()
    if len(kept) != keep or kept != sorted(set(kept)) or not set(kept) <= set(range(blocks)):
        raise InputError(
            expected=f"{keep} ascending numbers of {blocks} blocks {origin}",
            got=f"{len(kept)}, {reprlib.repr(kept)}",
            hint=hint,
        )
    if scores.isnan().any():
        raise InputError(
            expected=f"scores that are numbers {origin}",
            got=f"{scores.isnan().sum()} NaN among {blocks}",
            hint="a neuron that sends nothing has a sum of 0: divide by it with care",
        )


def pass_on(
    run: RunContext,
    layer: Layer,
    step: Step,
    before: States,
    after: States,
    inputs: StoredInputs | None = None,
    kept_inputs: Tensor | None = None,
) -> None:
    """Phase 5: send all sequences through one residual step, from `before` to `after`.

    Args:
        before: the stream (S, L, d) that enters the step.
        after: takes the stream (S, L, d) that leaves it. It may be `before`, which is then written over.
        inputs: the inputs of the output linear as it was, of which those that stay are not computed again.
            None: all are.
        kept_inputs: the indices (k,) of the inputs that stay, where `inputs` are given.
    """
    for rows in batches(*before.shape[:2]):
        entering = before[rows].to(run.settings.device)
        if inputs is None or kept_inputs is None:
            after[rows] = run_step(layer, step, entering, run.arguments)[0]
        else:
            after[rows] = stream_after(layer, step, entering, inputs.read(rows, kept_inputs))
