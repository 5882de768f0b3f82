"""The checks of a call: all that can be refused before any text is read or any weight changes.

Settings check themselves when they are made (`settings`). Here they meet the model, its tokens and a plan.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..decoder.decoder import Decoder, as_decoder
from ..decoder.shape import Shape
from ..decoder.structure import check_layers, check_linears, check_model, has_inseparable_groups
from ..decoder.surgery import check_biases
from ..decoder.tokens import check_length, checked_tokens
from ..decoder.types import Model
from ..hybrid_granularity.narrowing import check_two_sequences
from ..hybrid_granularity.plan import Plan
from ..utils.errors import InputError, warn_once
from ..utils.machine import available_device
from .methods import method_of
from .planning import complete_settings, planner_of
from .settings import WIDTHS_BY_HARM, CompleteSettings, Settings


def check_settings_for(model: Model | Decoder, settings: CompleteSettings) -> None:
    """Raises InputError for settings that no plan for `model` can meet, before any text is read."""
    decoder = as_decoder(model)
    shape = Shape.of(decoder)
    if has_inseparable_groups(decoder.structure):
        expected = f"all KV groups of {decoder.config.model_type} to stay, which cannot go one by one"
        if method_of(settings.method).removes_groups:
            got = f"the method {settings.method}, which removes some"
            raise InputError(expected=expected, got=got, hint="choose another method")
        if settings.kv_groups is not None and settings.kv_groups < min(shape.kv_groups):
            raise InputError(
                expected=expected, got=settings.kv_groups, hint="leave kv_groups (--kv-groups) out"
            )
    if settings.adds_biases:
        check_biases(decoder.structure)
    planner_of(settings).check_settings(shape, settings)


def checked_settings(settings: object) -> Settings:
    """Return `settings`.

    Raises InputError where they are something else than a `Settings`.
    """
    if not isinstance(settings, Settings):
        hint = "such as Settings(ratio=0.2), from comp_lib"
        if isinstance(settings, Plan):
            hint = "write plan= before a plan"
        raise InputError(expected="settings as Settings(...)", got=reprlib.repr(settings), hint=hint)
    return settings


def check_plan(plan: Plan, model: Model | Decoder, settings: CompleteSettings) -> None:
    """Raises InputError unless `plan` can be carried out on `model`."""
    decoder = as_decoder(model)
    shape = Shape.of(decoder)
    unnamed = plan.kept_neurons is None or plan.kept_groups is None
    if unnamed and method_of(settings.method).names_what_stays:
        raise InputError(
            expected=f"a plan that names what stays, as those of the method {settings.method} do",
            got="a plan that has widths only",
            hint="leave the plan out, or choose another method",
        )
    if plan.parent_layers != shape.layer_count:
        raise InputError(
            expected=f"a plan for {shape.layer_count} layers",
            got=f"one for {plan.parent_layers}",
            hint="take a plan for this model, or leave the plan out",
        )
    is_finished = plan.kept_neurons is not None
    if is_finished and not settings.adds_biases and not plan.removes_what_it_says(shape):
        raise InputError(
            expected=f"a plan for this model, of which {plan.removed:.1%} of the decoder go",
            got=f"one that removes {plan.removed_share(shape):.1%} of it, so of another model",
            hint="take a plan for this model, or leave the plan out",
        )
    if not is_finished and not settings.adds_biases and not plan.removes_what_it_says(shape):
        warn_once(
            f"the plan says that it removes {plan.removed:.1%} of the decoder; "
            f"of this model it removes {plan.removed_share(shape):.1%}"
        )
    _check_widths("neurons", plan, plan.neurons, plan.kept_neurons, shape.neurons)
    _check_widths("KV groups", plan, plan.kv_groups, plan.kept_groups, shape.kv_groups)
    for layer, count in zip(plan.layers, plan.kv_groups, strict=True):
        if count < shape.kv_groups[layer] and has_inseparable_groups(decoder.structure):
            raise InputError(
                expected=f"all {shape.kv_groups[layer]} KV groups of a model whose groups cannot go",
                got=f"{count} in layer {layer}",
                hint="leave the plan out, and kv_groups, too",
            )


def _check_widths(
    units: str,
    plan: Plan,
    counts: Sequence[int],
    kept: Sequence[Sequence[int]] | None,
    full_widths: Sequence[int],
) -> None:
    """Check that each layer of the plan keeps only what the parent's layer has.

    Args:
        units: what is counted, in words: "neurons" or "KV groups".
        counts: how many of them each layer of the plan keeps.
        kept: their indices, ascending, where the plan names them.
        full_widths: how many each layer of the parent has.

    Raises InputError where a layer would keep more.
    """
    for position, (layer, count) in enumerate(zip(plan.layers, counts, strict=True)):
        needed = count
        if kept is not None:
            needed = max(count, kept[position][-1] + 1)
        if needed > full_widths[layer]:
            raise InputError(
                expected=f"at most {full_widths[layer]} {units} in layer {layer}",
                got=needed,
                hint="take a plan for this model, or leave the plan out",
            )


def checked_call(
    model: Any, ids: object, settings: object, plan: Plan | None = None
) -> tuple[Tensor, CompleteSettings]:
    """Check what a run was given. Returns the tokens ids (S, L) as int64, and the settings for this model.

    Raises InputError for all that can be refused before any work.
    """
    settings = checked_settings(settings)
    device = available_device(settings.device, double=True)
    if not isinstance(model, Decoder):
        check_model(model)
    if plan is not None and not isinstance(plan, Plan):
        raise InputError(expected="a Plan", got=type(plan).__name__, hint="Plan.load reads one from a file")
    decoder = as_decoder(model)
    check_layers(decoder.structure)
    check_linears(decoder.structure)
    tokens = checked_tokens(ids, decoder.config.vocab_size)
    check_length(tokens.shape[1], decoder.config.max_position_embeddings)
    settings = replace(complete_settings(decoder, settings), device=str(device))
    if plan is None:
        check_settings_for(decoder, settings)
        if settings.widths in WIDTHS_BY_HARM:
            check_two_sequences(tokens)
    else:
        check_plan(plan, decoder, settings)
        if settings.adds_biases:
            check_biases(decoder.structure)
    return tokens, settings
