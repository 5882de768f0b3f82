"""Two checkpoints side by side: base and tuned, dense and pruned, before and after healing.

They must read the same tokens into a stream of the same width. Layers are matched by their number, or, where whole
layers were dropped, by the plan that a pruned checkpoint carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..calibration.stream import embed, rotary, through, to_device
from ..errors import InputError
from ..evaluation.by_kind import ByKind
from ..families import family_of
from ..families.protocol import Device, Layer, Model
from ..models.load import open_model
from ..models.save import PLAN_FILE
from ..plan import Plan
from ..shape import Shape
from .columns import tidy
from .costs import rows_of
from .frames import intervals
from .one_pass import one_pass
from .sample import Sample

SILENT = 1e-4  # of a layer's mean energy: a neuron below it writes nothing that counts


def plan_in(name: str | Path) -> Plan | None:
    """The plan that a pruned checkpoint carries, None where the folder has none. Raises InputError for a broken one."""
    folder = Path(name).expanduser()
    path = (folder if folder.exists() else open_model(name)[0]) / PLAN_FILE
    return Plan.load(path) if path.is_file() else None


def paired(one: tuple[str, Model], two: tuple[str, Model]) -> tuple[Model, Model, Plan | None]:
    """Two models, by their names, as they can be compared, the larger first; the plan that the other carries.

    Raises InputError as `match`.
    """
    (_, first), (name, other) = sorted((one, two), key=lambda named: -Shape.of(named[1]).decoder)
    plan = plan_in(name)
    match(first, other, plan)
    return first, other, plan


def match(model: Model, other: Model, plan: Plan | None = None) -> tuple[dict[int, int], Plan | None]:
    """Layers of `model` -> of `other`, and its `plan`, if it was pruned from `model` by that one.

    A pruned model and its healed copy carry the same plan, and neither was pruned from the other.
    Raises InputError for models of other widths or vocabularies, or with layers that cannot be matched.
    """
    sizes = [(each.config.hidden_size, each.config.vocab_size) for each in (model, other)]
    if sizes[0] != sizes[1]:
        expected = f"another model with a stream of {sizes[0][0]} numbers and {sizes[0][1]:,} tokens in its vocabulary"
        raise InputError(f"expected {expected}, got {sizes[1][0]} and {sizes[1][1]:,}: compare relatives only")
    whole, left = Shape.of(model), Shape.of(other)
    if plan is not None and plan.parent_layers == whole.layers and plan.neurons == left.neurons != whole.neurons:
        return {layer: place for place, layer in enumerate(plan.layers)}, plan
    if whole.layers != left.layers:
        got = f"{left.layers}, and no {PLAN_FILE} that says which of them stayed"
        raise InputError(f"expected another model with {whole.layers} layers, got {got}: compare with its parent")
    return {layer: layer for layer in range(whole.layers)}, None


@torch.no_grad()
def changed_layers(
    model: Model, other: Model, sample: Sample, plan: Plan | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """How each layer of `model` differs in `other`, on the same text; columns: COLUMNS["changed_layers"].

    Raises InputError as `match` does.
    """
    places, plan = match(model, other, plan)
    (layers, energies, states), (other_layers, other_energies, other_states) = (
        _walked(one, sample, device) for one in (model, other)
    )
    rows: list[dict[str, Any]] = []
    for index, (layer, energy, state) in enumerate(zip(layers, energies, states, strict=True)):
        fires = energy > SILENT * energy.mean()
        row = {"layer": index, "kind": sample.name, "tokens": sample.tokens, "windows": len(sample.ids)}
        row |= {"neurons": len(energy), "died": int(fires.sum()), "died_energy": 1.0}
        if (place := places.get(index)) is not None:
            turns = 1.0 - cosine_similarity(state.float(), other_states[place].float(), dim=-1).mean(1).double()
            row |= {"other_layer": place, "stream": float(turns.mean())}
            [(row["low"], row["high"])] = intervals(turns[None])
            row["weights"] = _weight_change(layer, other_layers[place])
            kept = plan.kept_neurons[place] if plan is not None and plan.kept_neurons is not None else None
            row |= _died(energy, other_energies[place], fires, kept)
        rows.append(row)
    return tidy("changed_layers", rows, model, sample.seed)


def _walked(model: Model, sample: Sample, device: Device) -> tuple[list[Layer], list[Tensor], list[Tensor]]:
    """Each layer, its neurons' own energies (n,), float64, tokens weighted, and the stream behind it (S, L, d)."""
    layers = list(family_of(model).layers(model))
    energies = [looked["mlp:energy"] for looked in one_pass(model, sample, range(len(layers)), device)]
    states = [embed(model, sample.ids)]
    rope = rotary(model, sample.ids.shape[1], device, states[0].dtype)
    for layer in layers:
        states.append(through(to_device(layer, device), states[-1], rope, device))
    return layers, energies, states[1:]


def _weight_change(layer: Layer, other: Layer) -> float:
    """||W' - W|| / ||W|| over all weights of the layers, NaN where one has another shape."""
    ours, theirs = (dict(one.named_parameters()) for one in (layer, other))
    if any(name not in theirs or theirs[name].shape != weight.shape for name, weight in ours.items()):
        return math.nan
    change = sum(float((theirs[name].float() - weight.float()).square().sum()) for name, weight in ours.items())
    return float((change / sum(float(weight.float().square().sum()) for weight in ours.values())) ** 0.5)


def _died(energy: Tensor, other: Tensor, fires: Tensor, kept: Sequence[int] | None) -> dict[str, float]:
    """How many neurons fire in the first model and not in the other, and the share of the energy that they had."""
    if kept is None and len(other) != len(energy):
        return {"died": max(0, len(energy) - len(other)), "died_energy": math.nan}  # nobody says which
    there = torch.arange(len(energy)) if kept is None else torch.tensor(kept, dtype=torch.long)
    alive = torch.zeros(len(energy), dtype=torch.bool)
    alive[there] = other > SILENT * other.mean()
    died = fires & ~alive
    return {"died": int(died.sum()), "died_energy": float(energy[died].sum() / energy.sum().clamp_min(1e-300))}


def changed_kinds(model: Model, judged: ByKind, seed: int = 0) -> pd.DataFrame:
    """Where two models disagree, by kind of text; columns: COLUMNS["changed_kinds"].

    judged: the other one beside `model`, as `evaluation.by_kind.judge` gives it.
    """
    return tidy("changed_kinds", rows_of(judged), model, seed)
