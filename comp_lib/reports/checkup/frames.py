"""Frames of layers, and of what is in them: neurons, KV groups, and the error against the width.

All frames come from one pass over the layers of the model, which is cached: the first frame takes the time,
the others take none. For few tokens the sums are kept in their dual form (`statistics.few_tokens`), as the
method itself does.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...decoder.structure import layers_of, parts
from ...decoder.types import STEPS, Device, Layer, Model, Step
from ...decoder.walk import LayerVisit, walk
from ...evaluation.confidence import confidence_intervals
from ...importance.layers import cosine_distance, sequence_loss_increase
from ...importance.matrix_condition import condition_numbers, scores_of, sweep
from ...importance.neuron_metrics import METRICS
from ...importance.problem import Problem
from ...importance.statistics.few_tokens import empty_statistics
from ...importance.statistics.solve import Inverse, penalty
from ...importance.statistics.sums import Statistics, token_weight
from ...utils.errors import InputError
from ...utils.progress import Progress, no_progress
from .columns import Sample, load_or_compute, tidy

LayerNumbers = Collection[int] | None
"""The layers of a frame; None: all layers."""
Tables = dict[str, dict[str, Tensor]]
"""The tables of one layer: name of a frame -> its columns."""
PARTS = ("layer", *STEPS)
# The part of a layer's neurons that a curve removes. Where more would go, the layer is better dropped.
SWEPT_SHARE = 0.6
ROUNDS = 24  # points of a curve, if it removed all neurons of the layer
RIVALS = ("wanda-sp", "activation", "magnitude")  # metrics that stand beside our scores of neurons


def layers(
    model: Model,
    sample: Sample,
    judged: Sample | None = None,
    device: Device = "cpu",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Every layer by block influence on `sample`, and by loss increase on `judged`: COLUMNS["layers"].

    Args:
        judged: None measures no loss increase, which takes about layers / 2 passes over it.
        progress: called after each layer.
    """
    tables_of_layers = _examine_layers(model, sample, list(range(len(layers_of(model)))), device, progress)
    rows: list[dict[str, Any]] = []
    for part in PARTS:
        distances = torch.stack([tables["layers"][part] for tables in tables_of_layers])
        rows += _rows_of_layers(sample, distances, part, "block influence")
    if judged is not None:
        rows += _rows_of_layers(
            judged, layer_loss_increase(model, judged, device, progress), "layer", "loss increase"
        )
    return tidy("layers", rows, model, sample.seed)


def layer_loss_increase(
    model: Model, sample: Sample, device: Device = "cpu", progress: Progress = no_progress
) -> Tensor:
    """`importance.layers.sequence_loss_increase`, cached: (layers, S), nats per token."""
    measure = partial(sequence_loss_increase, model, sample.ids, device, progress)
    increase: Tensor = load_or_compute("loss increase", model, sample.ids, [], measure)
    return increase


def _rows_of_layers(sample: Sample, values: Tensor, part: str, measure: str) -> list[dict[str, Any]]:
    """A row for each layer: the mean of its values (layers, S), and its interval."""
    means = values.mean(1).tolist()
    bounds = confidence_intervals(values.double().numpy()).tolist()
    rows = []
    for layer, (mean, (low, high)) in enumerate(zip(means, bounds, strict=True)):
        rows.append(
            {
                "part": part,
                "measure": measure,
                "kind": sample.name,
                "windows": len(sample.ids),
                "tokens": sample.ids.numel(),
                "layer": layer,
                "value": mean,
                "low": low,
                "high": high,
            }
        )
    return rows


def neurons(
    model: Model, sample: Sample, indices: LayerNumbers = None, device: Device = "cpu"
) -> pd.DataFrame:
    """Worth of each MLP neuron of the layers `indices` (None: all); columns: COLUMNS["neurons"].

    Raises InputError for a layer that the model does not have.
    """
    return _frame("neurons", model, sample, indices, device)


def groups(
    model: Model, sample: Sample, indices: LayerNumbers = None, device: Device = "cpu"
) -> pd.DataFrame:
    """Worth of each KV group of the layers `indices` (None: all); columns: COLUMNS["groups"]."""
    return _frame("groups", model, sample, indices, device)


def curves(
    model: Model, sample: Sample, indices: LayerNumbers = None, device: Device = "cpu"
) -> pd.DataFrame:
    """Error of the MLP against its width, in the layers `indices` (None: all); columns: COLUMNS["curves"]."""
    return _frame("curves", model, sample, indices, device)


def _frame(name: str, model: Model, sample: Sample, indices: LayerNumbers, device: Device) -> pd.DataFrame:
    """The frame of that name, of these layers.

    Raises InputError for no layer, or for a layer that the model does not have.
    """
    count = len(layers_of(model))
    chosen = sorted(set(range(count) if indices is None else indices))
    absent = set(chosen) - set(range(count))
    if absent or not chosen:
        raise InputError(
            expected=f"layers from 0 to {count - 1}", got=min(absent, default="none"), hint="choose others"
        )
    frames = []
    for index, tables in zip(chosen, _examine_layers(model, sample, chosen, device), strict=True):
        frame = pd.DataFrame(tables[name])
        frames.append(frame.assign(layer=index, kind=sample.name, tokens=sample.ids.numel()))
    return tidy(name, pd.concat(frames, ignore_index=True), model, sample.seed)


def _examine_layers(
    model: Model,
    sample: Sample,
    indices: list[int],
    device: Device,
    progress: Progress = no_progress,
) -> list[Tables]:
    """The tables of the layers with these indices, in order, on the CPU; cached.

    Memory: the hidden states of the sample, the sums of a layer, and three matrices of their size.
    """

    def compute() -> list[Tables]:
        tables = []
        for visit in walk(model, sample.ids, device):
            if visit.index > max(indices, default=-1):
                break
            if visit.index in indices:
                tables.append(_examine_layer(visit))
                progress("looking at layers", len(tables), len(indices))
        return tables

    tables_of_layers: list[Tables] = load_or_compute("layers", model, sample.ids, indices, compute)
    return tables_of_layers


def _examine_layer(visit: LayerVisit) -> Tables:
    """Let the text pass the layer of a visit, and return all tables of that layer.

    The table "layers" has the cosine distance between the states before and after each of PARTS, (S,).
    """
    layer = visit.layer
    sequences, length, _ = visit.before.shape
    statistics = {step: _empty_statistics(layer, step, sequences * length) for step in STEPS}
    distances: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for batch in visit.passed_batches():
        statistics["attention"].add(batch.inputs["attention"], token_weight=token_weight(batch.between))
        statistics["mlp"].add(batch.inputs["mlp"], token_weight=token_weight(batch.after))
        distances["layer"].append(cosine_distance(batch.before, batch.after))
        distances["attention"].append(cosine_distance(batch.before, batch.between))
        distances["mlp"].append(cosine_distance(batch.between, batch.after))
    tables = {"layers": {part: torch.cat(values) for part, values in distances.items()}}
    tables["groups"] = _group_table(Problem.of(layer, "attention", statistics.pop("attention")))
    problem = Problem.of(layer, "mlp", statistics.pop("mlp"))
    tables["neurons"], tables["curves"] = _neuron_tables(problem)
    return tables


def _empty_statistics(layer: Layer, step: Step, tokens: int) -> Statistics:
    """Statistics, of no token yet, of what the output linear of a step reads in so many `tokens`."""
    linear = parts(layer)[step].output_linear
    return empty_statistics(linear.in_features, None, tokens, linear.weight.device)


def _group_table(problem: Problem) -> dict[str, Tensor]:
    """The columns of the frame of KV groups."""
    inverse = problem.statistics.inverse(problem.ridge, problem.block_size)
    return {"group": torch.arange(problem.block_count)} | _worth_alone(problem, inverse)


def _neuron_tables(problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The columns of the frames of neurons and of curves."""
    inverse = problem.statistics.inverse(problem.ridge, problem.block_size)
    table = {"neuron": torch.arange(problem.block_count)} | _worth_alone(problem, inverse)
    for name in RIVALS:
        scores = METRICS[name](problem, problem.block_count, torch.Generator()).scores
        table[name.replace("-", "_")] = scores.double()
    table["removed_at"], curve = _removal(problem, inverse)
    return table, curve


def _worth_alone(problem: Problem, inverse: Inverse) -> dict[str, Tensor]:
    """Energy, condition and cost of each block (g,); a layer that writes nothing has shares of 0."""
    weight = problem.scaled_weight
    input_energy = problem.statistics.diagonal()  # (n,)
    smallest = torch.finfo(input_energy.dtype).tiny
    energy = problem.per_block(problem.energies)
    inverse_diagonal = inverse.diagonal_blocks.diagonal(dim1=1, dim2=2).flatten()  # P_ii (n,)
    diagonal = input_energy + penalty(input_energy, problem.ridge)  # H_ii (n,)
    condition = condition_numbers(diagonal, inverse_diagonal)
    layer_energy = max(problem.statistics.energy(weight), smallest)
    return {
        "energy": energy / energy.sum().clamp_min(smallest),
        "condition": condition.reshape(problem.block_count, -1).amax(1),
        "cost": scores_of(inverse.diagonal_blocks, weight).double() / layer_energy,
    }


def _removal(problem: Problem, inverse: Inverse) -> tuple[Tensor, dict[str, Tensor]]:
    """The share of neurons that are gone once each goes (n,), and the columns of the frame of curves.

    A neuron that stays to the end has NaN. The values of `inverse` are overwritten.
    """
    count = problem.block_count
    weight = problem.scaled_weight
    per_round = max(1, count // ROUNDS)
    remove = 0
    if count > 1:
        remove = per_round * max(1, int(SWEPT_SHARE * count / per_round))
    input_penalties = penalty(problem.statistics.diagonal(), problem.ridge).to(weight)
    swept = sweep(inverse, weight, remove, per_round=per_round, input_penalties=input_penalties)
    removed_at = torch.full((count,), torch.nan, dtype=torch.float64)
    removed_at[swept.order] = torch.arange(1, remove + 1, dtype=torch.float64) / count
    layer_energy = max(problem.statistics.energy(weight), torch.finfo(torch.float64).tiny)
    errors = (swept.errors / layer_energy).clamp_min(0.0)
    zero = errors.new_zeros(1)  # before anything is removed
    gone_counts = torch.cat([zero.long(), swept.counts])
    curve = {
        "gone": gone_counts,
        "width": count - gone_counts,
        "share_gone": gone_counts.double() / count,
        "error": torch.cat([zero, errors]),
    }
    return removed_at, curve
