"""Two checkpoints side by side: base and tuned, dense and pruned, before and after healing.

They must read the same tokens into a stream of the same width. Layers are matched by their number, or, where whole
layers were dropped, by the plan that a pruned checkpoint carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, sent, to_device
from ..errors import InputError
from ..evaluation.by_kind import ByKind
from ..evaluation.confidence import confidence_intervals
from ..evaluation.generation import continuation
from ..families import dense_layer, family_of
from ..families.protocol import Device, Layer, Model, Rope
from ..models.load import open_model
from ..models.save import PLAN_FILE
from ..models.wheels import WHEELS
from ..plan import Plan
from ..shape import Shape
from ..statistics.gram import token_weights
from .columns import tidy
from .cost_frame import rows_of
from .sample import Sample
from .store import fingerprint

SAME_SHARE = 1e-3  # of the parameters: biases that a peer adds are fewer
SILENT = 1e-4  # of a layer's mean energy: a neuron below it writes nothing that counts
PROMPT, SAID = 24, 16  # tokens of a window that begin it, and tokens of the answers


def plan_in(name: str | Path) -> Plan | None:
    """The plan that a pruned checkpoint carries, None where the folder has none. Raises InputError for a broken one."""
    folder = Path(name).expanduser()
    if not folder.exists() and str(name) not in WHEELS:  # of the Hub: fetched already
        folder = open_model(name)[0]
    path = folder / PLAN_FILE
    return Plan.load(path) if path.is_file() else None


@dataclass(frozen=True)
class Pair:
    """Two models to compare, the parent first where one was pruned from the other."""

    first: Model
    other: Model
    plan: Plan | None  # of the other
    names: tuple[str, str]


def paired(one: tuple[str, Model], two: tuple[str, Model]) -> Pair:
    """Two models with their names, in the order in which they can be compared. Raises InputError as `match`."""
    plan = plan_in(one[0])
    if plan is not None and carried_out(plan, Shape.of(two[1]), Shape.of(one[1])):
        one, two = two, one
    else:
        plan = plan_in(two[0])
    match(one[1], two[1], plan)
    return Pair(one[1], two[1], plan, (Path(one[0]).name, Path(two[0]).name))


def carried_out(plan: Plan, whole: Shape, left: Shape) -> bool:
    """Whether a plan makes a model of the shape `left` from one of the shape `whole`.

    A pruned model and its healed copy carry the same plan, and neither was pruned from the other.
    """
    gone = (whole.decoder - left.decoder) / (whole.decoder if plan.of == "decoder" else whole.total)
    layers = plan.parent_layers == whole.layers and len(plan.layers) == left.layers
    return layers and plan.neurons == left.neurons and abs(gone - plan.removed) < SAME_SHARE


def match(model: Model, other: Model, plan: Plan | None = None) -> tuple[dict[int, int], Plan | None]:
    """Layers of `model` -> of `other`, and its `plan`, if it was pruned from `model` by that one.

    Raises InputError for models of other widths or vocabularies, or with layers that cannot be matched.
    """
    sizes = [(each.config.hidden_size, each.config.vocab_size) for each in (model, other)]
    if sizes[0] != sizes[1]:
        wanted = f"another model with a stream of {sizes[0][0]} numbers and {sizes[0][1]:,} tokens in its vocabulary"
        raise InputError(f"expected {wanted}, got {sizes[1][0]} and {sizes[1][1]:,}: compare relatives only")
    one, two = Shape.of(model), Shape.of(other)
    if plan is not None and carried_out(plan, one, two):
        return {layer: place for place, layer in enumerate(plan.layers)}, plan
    if one.layers != two.layers:
        got = f"{two.layers}, and no {PLAN_FILE} that says which of them stayed"
        raise InputError(f"expected another model with {one.layers} layers, got {got}: compare with its parent")
    return {layer: layer for layer in range(one.layers)}, None


@torch.no_grad()
def changed_layers(
    model: Model, other: Model, sample: Sample, plan: Plan | None = None, device: Device = "cpu"
) -> pd.DataFrame:
    """How each layer of `model` differs in `other`, on the same text; columns: COLUMNS["changed_layers"].

    Both may be read from disk, layer by layer. Raises InputError as `match` does.
    """
    (places, plan), walks = match(model, other, plan), [_Walk(one, sample, device) for one in (model, other)]
    named = None if plan is None else plan.kept_neurons
    rows: list[dict[str, Any]] = []
    for layer in range(len(family_of(model).layers(model))):
        row: dict[str, Any] = {"layer": layer, "kind": sample.name, "tokens": sample.tokens, "windows": len(sample.ids)}
        first, energy = walks[0].through(layer)
        fires = energy > SILENT * energy.mean()
        row |= {"neurons": len(energy), "died": int(fires.sum()), "died_energy": 1.0}
        if layer in places:
            second, other_energy = walks[1].through(places[layer])
            states = (walks[0].hidden, walks[1].hidden)
            turns = 1.0 - cosine_similarity(states[0].float(), states[1].float(), dim=-1).mean(1).double()
            [(low, high)] = confidence_intervals(turns[None].cpu().numpy()).tolist()
            row |= {"other_layer": places[layer], "stream": float(turns.mean()), "low": low, "high": high}
            row |= {"weights": _weight_change(first, second)}
            row |= _died(energy, other_energy, fires, None if named is None else named[places[layer]])
        rows.append(row)
    return tidy("changed_layers", rows, fingerprint(model), sample.seed)


class _Walk:
    """A model's stream, layer by layer."""

    def __init__(self, model: Model, sample: Sample, device: Device) -> None:
        self.layers, self.device = family_of(model).layers(model), device
        self.hidden = embed(model, sample.ids)
        self.rope: Rope = rotary(model, sample.ids.shape[1], device, self.hidden.dtype)

    def through(self, index: int) -> tuple[Layer, Tensor]:
        """The layer, and its neurons' own energies (n,), float64, tokens weighted; `hidden` moves behind it."""
        layer, out = to_device(self.layers[index], self.device), torch.empty_like(self.hidden)
        dense = dense_layer(layer, "mlp")
        energy = torch.zeros(dense.in_features, dtype=torch.float64)
        for rows in batches(*self.hidden.shape[:2]):
            middle, _ = attention_step(layer, sent(self.hidden[rows], self.device), self.rope)
            after, x = mlp_step(layer, middle)
            weighted = x.float() * token_weights(after)[..., None]
            energy += weighted.flatten(0, -2).double().square().sum(0).cpu()
            out[rows] = after
        self.hidden = out
        return layer, energy * dense.weight.detach().double().square().sum(0).cpu()


def _weight_change(layer: Layer, other: Layer) -> float:
    """||W' - W|| / ||W|| over all weights of the layers, NaN where one has another shape."""
    change = whole = 0.0
    theirs = dict(other.named_parameters())
    for name, ours in layer.named_parameters():
        if name not in theirs or theirs[name].shape != ours.shape:
            return float("nan")
        change += float((theirs[name].float() - ours.float()).square().sum())
        whole += float(ours.float().square().sum())
    return float((change / whole) ** 0.5) if whole else 0.0


def _died(energy: Tensor, other: Tensor, fires: Tensor, kept: Sequence[int] | None) -> dict[str, float]:
    """How many neurons fire in the first model and not in the other, and the share of the energy that they had."""
    if kept is None and len(other) != len(energy):
        return {"died": max(0, len(energy) - len(other)), "died_energy": float("nan")}  # nobody says which
    there = torch.arange(len(energy)) if kept is None else torch.tensor(kept, dtype=torch.long)
    alive = torch.zeros(len(energy), dtype=torch.bool)
    alive[there] = other > SILENT * other.mean()
    died = fires & ~alive
    return {"died": int(died.sum()), "died_energy": float(energy[died].sum() / energy.sum().clamp_min(1e-300))}


def changed_kinds(model: Model, judged: ByKind, seed: int = 0) -> pd.DataFrame:
    """Where two models disagree, by kind of text; columns: COLUMNS["changed_kinds"].

    judged: the other one beside the first, as `evaluation.by_kind.judge` gives it.
    """
    rows = [row | {"loss": row["dense_loss"], "other_loss": row["loss"]} for row in rows_of(judged)]
    return tidy("changed_kinds", rows, fingerprint(model), seed)


def changed_prompts(
    models: tuple[Model, Model], tokenizer: Any, windows: Mapping[str, Tensor], judged: ByKind, most: int = 3
) -> pd.DataFrame:
    """The windows on which two models differ most, and how both go on from their beginnings, greedy.

    Columns: COLUMNS["changed_prompts"]. judged: as for `changed_kinds`, on the same windows.
    """
    places = [(kl, kind, window) for kind, one in judged.kinds.items() for window, kl in enumerate(one.kls)]
    rows: list[dict[str, Any]] = []
    for place, (kl, kind, window) in enumerate(sorted(places, reverse=True)[:most]):
        ids = windows[kind][window]
        prompt = tokenizer.decode(ids[: min(PROMPT, len(ids) // 2)], skip_special_tokens=True)
        said = [continuation(model, tokenizer, prompt, SAID) for model in models]
        row = {"kind": kind, "place": place + 1, "prompt": prompt, "first": said[0], "other": said[1], "kl": kl}
        rows.append(row | {"tokens": len(ids) - 1})
    return tidy("changed_prompts", rows, fingerprint(models[0]), 0)
