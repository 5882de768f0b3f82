"""What `comp-lib prune` and `demo` do: check, measure, prune, measure, save.

From disk to disk where the method can; with the whole model in memory where it must, which is said.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from ..errors import InputError
from .console import check_length, err, progress_bars

EVALUATED = 12  # windows of text measured before and after, unless asked otherwise


def carry_out(
    model_name,
    folder,
    settings,
    calibration,
    sequences,
    length,
    dtype,
    evaluate_on,
    overwrite,
    budget=None,
    save_dtype=None,
) -> dict:
    """Returns what the commands show: shapes before and after, plan, report, and perplexities measured."""
    from .. import __version__
    from ..calibration.text import load_text
    from ..calibration.tokens import SELF, calibration_tokens, check_source, sources
    from ..evaluation.loss import evaluation_tokens
    from ..models import save as checkpoint
    from ..models.load import DTYPES, EMBEDDED, EMBEDDED_LICENCE, EMBEDDED_SOURCE, load_model
    from ..scale.model_on_disk import open_streamed
    from ..shape import Shape

    settings.check()
    save_dtype = save_dtype or dtype
    if save_dtype not in DTYPES:
        raise InputError(f"expected --save-dtype to be {', '.join(DTYPES)}, got {save_dtype!r}: choose one of them")
    prose = None if evaluate_on == "none" else load_text(evaluate_on)
    check_source(calibration)
    reason = _needs_whole(settings, calibration, budget)
    if reason:
        checkpoint.check_place(folder, overwrite, source=model_name)
        err.print(f"comp-lib: {reason} needs the whole model in memory; a run that is cut off begins anew", style="dim")
    model, tokenizer = load_model(model_name, dtype) if reason else open_streamed(model_name, dtype)
    shape = Shape.of(model)
    if reason:
        checkpoint.check_destination(folder, overwrite, checkpoint.estimated_bytes(shape, save_dtype), model_name)
    check_length(model, length)
    window = min(512, model.config.max_position_embeddings)
    with progress_bars() as progress:
        windows = None if prose is None else evaluation_tokens(tokenizer, prose, window, EVALUATED)
        ids = calibration_tokens(
            calibration,
            tokenizer,
            model=model,
            sequences=sequences,
            length=length,
            seed=settings.seed,
            evaluated=None if prose is None else evaluate_on,
            progress=progress,
        )
        kinds = [
            "text sampled from the model itself" if part == SELF else f"the text '{Path(part).name}'"
            for part in sources(calibration)
        ]
        embedded = model_name == EMBEDDED
        card = checkpoint.Provenance(
            parent=EMBEDDED_SOURCE if embedded else model_name,
            parent_shape=shape,
            parent_licence=EMBEDDED_LICENCE if embedded else None,
            method=settings.neuron_metric,
            recovery=settings.recovery,
            version=__version__,
            settings=asdict(settings),
            calibration=f"{sequences} x {length} tokens of {' and '.join(kinds)}, drawn with seed {settings.seed}",
        )
        job = (
            folder,
            model,
            tokenizer,
            ids,
            settings,
            card,
            model_name,
            DTYPES[save_dtype],
            windows,
            Path(evaluate_on).name,
            overwrite,
            progress,
        )
        return {"before": shape} | (_in_memory(*job, budget) if reason else _in_files(*job))


def _needs_whole(settings, calibration, budget) -> str | None:
    """What it is that cannot go layer by layer, or None."""
    from ..calibration.tokens import SELF, sources
    from ..scale.prune_to import whole_model

    if SELF in sources(calibration):
        return "text sampled from the model"
    if budget is not None:
        return "a budget in time"
    return whole_model(settings)


def _in_files(folder, model, tokenizer, ids, settings, card, name, dtype, windows, text, overwrite, progress) -> dict:
    from ..scale.prune_to import Saving, prune_to

    saving = Saving(name=name, dtype=dtype, windows=windows, text=text, card=card, overwrite=overwrite)
    done = prune_to(folder, model, tokenizer, ids, settings, saving=saving, progress=progress)
    measured = ()
    if windows is not None:
        measured = ((text, windows[:, 1:].numel(), done.dense_perplexity, done.perplexity),)
    return {"after": done.after, "plan": done.plan, "report": done.report, "measured": measured}


def _in_memory(
    folder, model, tokenizer, ids, settings, card, name, dtype, windows, text, overwrite, progress, budget
) -> dict:
    from ..evaluation.loss import perplexity
    from ..models import save as checkpoint
    from ..models.per_layer_llama import check_widths
    from ..on_device.time_budget import timed_plan
    from ..prune import Planned, make_plan, prune
    from ..shape import Shape

    shape = Shape.of(model)
    if budget is None:
        planned = make_plan(model, ids, settings, name, progress)
    else:
        plan, *_ = timed_plan(model, ids, settings, *budget, name=name, progress=progress)
        planned = Planned(plan)
        settings = replace(settings, ratio=plan.removed, layers=len(plan.dropped))
        card = replace(card, settings=asdict(settings) | {"budget": f"{budget[0]}={budget[1]:g}"})
    plan = planned.plan
    check_widths(model.config, shape.with_widths(plan.neurons, plan.kv_groups))
    dense = None if windows is None else perplexity(model, windows, progress=progress, what="measuring dense")
    pruned = prune(model, ids, settings, plan=planned, name=name, progress=progress, inplace=True)
    if windows is not None:
        small = perplexity(pruned.model, windows, progress=progress, what="measuring pruned")
        card = replace(card, perplexities=((text, dense.tokens, dense.perplexity, small.perplexity),))
    small = pruned.model.to(dtype)
    checkpoint.save_checkpoint(folder, small, tokenizer, pruned.plan, card, overwrite=overwrite)
    return {"after": Shape.of(small), "plan": pruned.plan, "report": pruned.report, "measured": card.perplexities}
