"""How much is removed: the plan of a run, before any weight is touched and as it was carried out, and its checks.

Whole layers first, as many as the ratio needs, by layer importance (`importance`); then the width of each layer that
stays (`hybrid_granularity`). Baselines that plan the whole model by themselves are in `baselines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from .baselines import PLANNERS, llm_pruner
from .baselines.slimgpt import plan as slimgpt_plan
from .errors import InputError
from .families import whole_attention
from .families.protocol import Model
from .hybrid_granularity.measured import measured_plan
from .hybrid_granularity.paper import paper_plan
from .hybrid_granularity.uniform import BLOCK, drop_count, parameters_left, uniform_plan
from .importance.layers import layers_to_drop
from .importance.widths import reference_losses, sensitivity
from .plan import Plan
from .progress import Progress, no_progress
from .prune_layer import LayerReport, Report
from .settings import Settings
from .shape import Shape
from .surgery import check_biases

IMPORTANCE_SEQUENCES = (
    4  # calibration sequences on which whole layers are judged: a ranking needs fewer than a fit
)


def make_plan(
    model: Model, ids: Tensor, settings: Settings, name: str = "", progress: Progress = no_progress
) -> Plan:
    """The plan that `settings` ask for, on calibration tokens ids (S, L). Raises InputError when they cannot be met."""
    shape = Shape.of(model)
    if settings.method in PLANNERS:
        return PLANNERS[settings.method](model, ids, settings, name, progress)
    request = settings.request(shape, name)
    if settings.method == "slimgpt":
        return slimgpt_plan(request)
    count = drop_count(request, settings.layers)
    if count or settings.widths == "per-layer":
        judged = ids[:IMPORTANCE_SEQUENCES]
        drop, importance = layers_to_drop(
            settings.layer_metric, model, judged, count, settings.device, progress
        )
        request = replace(request, drop=drop)
        if settings.widths == "per-layer":
            return paper_plan(request, importance.tolist())
    plan = uniform_plan(request)
    if settings.widths == "uniform" or not (
        losses := reference_losses(shape, plan)
    ):  # or no neuron has to go
        return plan
    ridge = None if isinstance(settings.ridge, str) else settings.ridge
    weighted, device = settings.token_weights, settings.device
    measured = sensitivity(
        model, ids, losses, ridge=ridge, weighted=weighted, device=device, progress=progress
    )
    return measured_plan(request, measured)


def why_more(plan: Plan, settings: Mapping[str, Any]) -> str:
    """Why the `plan` that came of these settings removes clearly more than was asked for, in one line."""
    why = "no finer step of the widths comes nearer"
    if settings["method"] == "shortgpt":
        why = "shortgpt removes nothing but whole layers"
    elif (multiple := settings["multiple"]) not in (None, 1):
        why = f"widths are multiples of {multiple}: --multiple {max(1, multiple // 4)} comes nearer"
        why += ", but most GGUF files need 32" if multiple == BLOCK else ""
    elif len(plan.layers) < plan.parent_layers or settings["kv_groups"] is not None:
        why = "the whole layers or KV groups that go are larger"
    return f"{plan.removed:.1%} went where {plan.ratio:.1%} was asked for: {why}"


def concluded(
    plan: Plan, finished: Sequence[LayerReport], settings: Settings, ids: Tensor, before: Shape, after: Shape
) -> tuple[Plan, Report]:
    """The plan as it was carried out, and the report, whose seconds are still to be filled in."""
    plan = replace(
        plan,
        kept_neurons=tuple(tuple(layer.kept_neurons) for layer in finished),
        kept_groups=tuple(tuple(layer.kept_groups) for layer in finished),
        removed=(before.decoder - after.decoder) / before.decoder,
    )
    return plan, Report(settings=asdict(settings), tokens=ids.numel(), layers=tuple(finished), seconds=0.0)


def check_length(model: Model, length: int) -> None:
    """Raises InputError when `model` takes no sequences of so many tokens."""
    if length > (longest := model.config.max_position_embeddings):
        raise InputError(
            f"expected sequences of at most {longest} tokens, the model's, got {length}: shorten them"
        )


def check_request(model: Model, settings: Settings) -> None:
    """Raises InputError, before any text is read, for settings that no plan for `model` can meet."""
    shape = Shape.of(model)
    request = settings.request(shape)
    fewer = settings.kv_groups is not None and settings.kv_groups < min(shape.kv_groups)
    if whole_attention(model) and (fewer or settings.method in PLANNERS and settings.method != "shortgpt"):
        wanted = f"all KV groups of {model.config.model_type} to stay, which cannot go one by one"
        got = f"{settings.method} with {settings.kv_groups or 'fewer'}: leave --kv-groups out, choose another method"
        raise InputError(f"expected {wanted}, got {got}")
    if settings.recovery == "bias":
        check_biases(model)
    if settings.method == "llm-pruner":
        llm_pruner.widths(shape, settings)
    elif settings.method == "slimgpt":
        slimgpt_plan(request)
    elif settings.method not in PLANNERS:
        count = drop_count(request, settings.layers)
        largest = sorted(
            range(shape.layers), key=shape.layer, reverse=True
        )  # with which the ratio is in reach first
        uniform_plan(replace(request, drop=largest[:count]))
    elif settings.method != "shortgpt":  # whole layers need no width
        parameters_left(request, settings.layers)


def check_plan(plan: Plan, model: Model, settings: Settings) -> None:
    """Raises InputError unless `plan` can be carried out on `model`."""
    shape = Shape.of(model)
    if settings.method in PLANNERS and (plan.kept_neurons is None or plan.kept_groups is None):
        wanted = f"a plan that names what stays, as those of the method {settings.method} do"
        raise InputError(
            f"expected {wanted}, got one of widths: leave the plan out, or choose another method"
        )
    if plan.parent_layers != shape.layers:
        raise InputError(
            f"expected a plan for {shape.layers} layers, got one for {plan.parent_layers}: plan anew"
        )
    for what, counts, named, whole in (
        ("neurons", plan.neurons, plan.kept_neurons, shape.neurons),
        ("KV groups", plan.kv_groups, plan.kept_groups, shape.kv_groups),
    ):
        for place, (layer, count) in enumerate(zip(plan.layers, counts, strict=True)):
            most = max(count, named[place][-1] + 1) if named else count
            if most > whole[layer]:
                raise InputError(
                    f"expected at most {whole[layer]} {what} in layer {layer}, got {most}: plan anew"
                )
            if what == "KV groups" and count < whole[layer] and whole_attention(model):
                got = f"{count} in layer {layer}: plan anew"
                raise InputError(
                    f"expected all {whole[layer]} KV groups of a model whose groups cannot go, got {got}"
                )


def check_call(model: Any, ids: object, settings: object, plan: Plan | None = None) -> Tensor:
    """The tokens ids (S, L) as int64. Raises InputError for all that can be told of a run before any work."""
    if not isinstance(settings, Settings):
        raise InputError(
            f"expected settings as Settings(...), got {type(settings).__name__}: import it from comp_lib"
        )
    if not hasattr(model, "config"):
        raise InputError(
            f"expected a model, got {type(model).__name__}: load_model loads it, prune_model takes a name"
        )
    whole_attention(model)  # raises for a layer of another kind
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not len(ids) or ids.shape[1] < 2:
        got = f"shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(
            f"expected calibration tokens, a tensor (S, L) with L of at least 2, got {got}: give text"
        )
    vocabulary = model.config.vocab_size
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        got = f"{ids.min():g} to {ids.max():g}" if whole else str(ids.dtype)
        raise InputError(
            f"expected tokens from 0 to {vocabulary - 1}, got {got}: use the tokenizer of this model"
        )
    if plan is None:
        check_request(model, settings)
        if settings.widths == "measured" and len(ids) < 2:
            raise InputError(
                "expected 2 or more sequences for measured widths, got 1: one of them judges; give more"
            )
    else:
        check_plan(plan, model, settings)
        if settings.recovery == "bias":
            check_biases(model)
    return ids.long()
