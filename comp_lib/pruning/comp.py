"""COMP, on one page: plan, then walk the decoder once, layer by layer.

The plan says how many layers, neurons and KV groups stay (`planning.make_plan`). Then, for each layer
(`prune_layer.prune_layer`), five phases:

1. `gather` sums up statistics of the calibration text in the layer as it was, and chooses the ridge of the
   refit by held-out text;
2. `choose` says by the metric which neurons (and KV groups) stay;
3. a recovery refits the weights that stay to the output that the layer had;
4. `shrink` makes the tensors smaller;
5. `pass_on` sends the text through the pruned layer: the next layer is fitted to what it will really see.

The attention of a layer goes through the five phases first, then its MLP.

The loop, `prune_layers`, is the same for a model in memory (`prune`) and on disk (`prune_to` in
`checkpoints`): it takes layers from a `Decoder` and gives them to a `Sink`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..decoder.decoder import Decoder, ModelInMemory, as_decoder
from ..decoder.own_widths.meta_model import give_true_config
from ..decoder.run import layer_arguments
from ..decoder.shape import Shape
from ..decoder.surgery import keep_layers, shallow_copy, update_config
from ..decoder.types import CausalLM, Model
from ..decoder.walk import batches
from ..hybrid_granularity.plan import Plan
from ..utils.arguments import check_switch, check_type
from ..utils.files import hide_folders
from ..utils.numbers import check_finite
from ..utils.progress import Progress, check_progress, no_progress
from .checks import checked_call
from .planning import make_plan
from .prune_layer import CarriedState, RunContext, States, prune_layer
from .pruned import Pruned
from .report import LayerReport, Report, finished_plan
from .settings import CompleteSettings, Settings
from .sink import MemorySink, Sink


@torch.no_grad()  # not inference mode: the tensors of the result must be ordinary ones
def prune(
    model: Model,
    ids: Tensor,
    settings: Settings | None = None,
    *,
    plan: Plan | None = None,
    model_name: str = "",
    progress: Progress = no_progress,
    inplace: bool = False,
) -> Pruned:
    """Prune `model` on calibration tokens ids (S, L).

    With one width for all layers, pruning takes the time of about two forward passes of the dense model and
    of the solves. The aim "dense" adds a walk of the same text through the dense model. Estimated widths add
    a pass over 1,536 tokens and, for each layer, one over about 130; measured widths may take as long as all
    the rest. Pruning takes memory for the hidden states of all tokens, one layer and a few n x n matrices.
    The recovery "bias" adds parameters, which the `removed` of the plan counts.

    Args:
        settings: all that decides the outcome, besides the model and the tokens; None: `Settings()`, which
            is the preset "tailored" with a ratio of 0.2.
        plan: how much stays; the metric then chooses the neurons and KV groups. A plan that names them
            (`kept_neurons` and `kept_groups`, as a finished plan does) is carried out to the letter. With a
            plan, what `settings` say of `ratio`, `drop_layers`, `layer_metric`, `widths`, `kv_groups` and
            `multiple` is ignored. None: a plan is made by `settings`.
        model_name: the name of the model, for the plan; "": the one that the model has of itself.
        progress: called after each step; with its report where a layer is finished.
        inplace: whether the layers of `model` are given up one by one, which halves the memory. Otherwise
            `model` stays as it is, and the result shares the tensors that do not change. A run in place that
            stops half way leaves a model of no use: load it anew.

    The model that comes back is of transformers' class and config for its widths, so its `save_pretrained`
    writes a folder that can be loaded; `save_model` adds the plan, a card and the tokenizer.

    Raises InputError before any work when the settings or the plan cannot be met, or when a weight is NaN or
    infinite.

        from comp_lib import Calibration, Settings, load_model, prune, save_model

        model, tokenizer = load_model("smollm2-135m")
        ids = Calibration("shipped", sequences=16, length=256).tokens(tokenizer, model=model)
        pruned = prune(model, ids, Settings(ratio=0.2))
        pruned.plan.removed  # 0.2 or a little more
        save_model(pruned, "build/small", tokenizer)
    """
    started = time.perf_counter()
    if settings is None:
        settings = Settings()
    ids, settings = checked_call(model, ids, settings, plan)
    check_type("model_name", model_name, "the name of the model", example="smollm2-135m", allowed=(str,))
    check_progress(progress)
    check_switch("inplace", inplace)
    for weight_name, weight in model.named_parameters():
        check_finite(weight_name, weight)
    before = Shape.of(model)
    plan_given = plan is not None
    name = model_name or hide_folders(model.name_or_path or "")
    if plan is None:
        plan = make_plan(model, ids, settings, name, progress)
    else:
        plan = replace(plan, parent=model_name or plan.parent or name)
    small = model if inplace else shallow_copy(model)
    decoder = ModelInMemory(small, give_up_layers=inplace)
    reports = prune_layers(decoder, ids, settings, plan, MemorySink(small), progress)
    keep_layers(small, plan.layers)
    update_config(small)
    give_true_config(small)
    after = Shape.of(small)
    plan = finished_plan(plan, reports, before, after)
    seconds = time.perf_counter() - started
    report = Report(settings, ids.numel(), tuple(reports), seconds, plan_given=plan_given)
    return Pruned(cast("CausalLM", small), plan, report, before, after)


def prune_layers(
    model: Model | Decoder,
    ids: Tensor,
    settings: CompleteSettings,
    plan: Plan,
    sink: Sink,
    progress: Progress = no_progress,
) -> list[LayerReport]:
    """Prune each layer of `model` by the `plan` on ids (S, L), and give it to the `sink`.

    This is the loop of the method. Returns the reports of the layers that stay.
    """
    decoder = as_decoder(model)
    shape = Shape.of(decoder)
    carried, reports = sink.resume()
    if carried is None:
        carried = CarriedState.start(embed_text(decoder, ids, sink), settings, plan, shape)
    arguments = layer_arguments(decoder.structure, ids.shape[1], settings.device, carried.pruned_stream.dtype)
    run = RunContext(settings, plan, shape, arguments, sink.new_states)
    for index in range(len(reports), shape.layer_count):
        layer = decoder.layer(index, settings.device)
        report = prune_layer(run, index, layer, carried)
        sink.put(index, layer, report, carried)
        del layer  # before the next one is read
        reports.append(report)
        progress("pruning", index + 1, shape.layer_count, report)
    return [report for report in reports if report is not None]


def embed_text(decoder: Decoder, ids: Tensor, sink: Sink) -> States:
    """Embed the text ids (S, L), and return hidden states (S, L, d) that the sink keeps."""
    first = decoder.embed(ids[:1])
    hidden = sink.new_states((*ids.shape, first.shape[-1]), dtype=first.dtype)
    for rows in batches(*ids.shape):
        hidden[rows] = decoder.embed(ids[rows])
    return hidden
