"""What a plan will cost before anything is pruned, and what it cost afterwards: statistics behind notebook 03.

Prediction. The error curve e_l(k) of a layer (see `survey`) says which part of its MLP's output is lost when k neurons
go and the rest is re-tuned. A plan therefore has a predicted error without any run of the model:

    predicted(plan) = mean over the parent's layers of e_l(n_l - width_l), and 1 for a layer that is dropped.

Naive water-filling minimises just that. Whether the *model* agrees is another question, since a relative error says
nothing of how much of the stream the layer writes, nor of what the layers behind it do with the error.
`narrowing_harm` asks the model itself.

Latency. A decoder layer with n neurons takes about a + b n milliseconds: narrowing saves only the second part, dropping
the layer both. `layer_latency` measures, `latency_line` fits. (All of this file is our addition to the method.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration.stream import rotary
from ..errors import InputError
from ..evaluation.loss import perplexity
from ..families import family_of
from ..families.protocol import Model
from ..hybrid_granularity.measured import fill
from ..hybrid_granularity.uniform import uniform_plan
from ..importance.neurons import RIDGE
from ..importance.widths import interpolated, narrowed, with_weights
from ..on_device.latency import milliseconds
from ..plan import SMALLEST_SHARE, Plan, PlanRequest
from ..prune import prune
from ..settings import Settings
from ..shape import Shape
from ..surgery import shallow_copy, shrink_mlp
from .cache import Tensors, cached
from .dense_stream import loss_behind, walk, walk_to, weight_of


def full_curve(curves: Tensors, layer: int, neurons: int) -> Tensor:
    """Relative error of a layer's MLP with 0, 1, ..., `neurons` neurons gone: (neurons + 1,), float64.

    curves: what `survey` returns, counts (K,) and errors (layers, K). Straight lines join the measured
    points; behind the last one, a line leads to the one more point that is known: with no neuron left the error is 1.
    """
    counts, errors = curves["counts"].double(), curves["errors"][layer].double()
    known = ~errors.isnan() & (counts > 0) & (counts < neurons)
    counts = nn.functional.pad(counts[known], (0, 1), value=float(neurons))
    return interpolated(counts, nn.functional.pad(errors[known], (0, 1), value=1.0), neurons)


def layer_errors(curves: Tensors, shape: Shape, plan: Plan) -> Tensor:
    """Predicted relative error of each MLP of the parent under a plan, 1 if dropped: (parent layers,), float64.

    shape: of the parent. KV groups that go do not count. Naive water-filling minimises the mean of these.
    Raises InputError when the three do not fit together.
    """
    counts = shape.layers, plan.parent_layers, len(curves["errors"])
    if len(set(counts)) > 1:
        got = "{} layers in the shape, {} in the plan and {} curves".format(*counts)
        raise InputError(f"expected one decoder in all three, got {got}: plan for the model that the curves come from")
    errors = torch.ones(shape.layers, dtype=torch.float64)
    for layer, width in zip(plan.layers, plan.neurons, strict=True):
        errors[layer] = full_curve(curves, layer, shape.neurons[layer])[shape.neurons[layer] - width]
    return errors


def water_filling_plan(request: PlanRequest, curves: Tensors, worth: Sequence[float] | Tensor | None = None) -> Plan:
    """Always narrow next the layer that loses least error per parameter, by one step to the next lower multiple.

    worth: what one unit of a layer's relative error counts, one per parent layer; None is the naive choice, 1 for all.
    No layer falls under a tenth of its neurons, rounded down. Raises InputError as `uniform_plan` does.
    """
    uniform = uniform_plan(request)  # can it be reached?
    shape, multiple = request.shape, request.multiple
    worth = [1.0] * shape.layers if worth is None else [float(value) for value in worth]
    if len(worth) != shape.layers:
        raise InputError(f"expected one worth for each of {shape.layers} layers, got {len(worth)}")
    harms = {}
    for layer in request.layers:
        full = shape.neurons[layer]
        narrowest = int(SMALLEST_SHARE * full + 1e-6) // multiple * multiple  # as in `plan`, which checked the request
        harms[layer] = worth[layer] * full_curve(curves, layer, full)[: full - narrowest + 1]
    whole = tuple(shape.neurons[layer] for layer in request.layers)
    missing = (request.ratio - request.removed(whole)) * (shape.decoder if request.of == "decoder" else shape.total)
    widths = fill(shape, harms, sum(whole) - math.ceil(missing / shape.neuron_parameters - 1e-9), multiple)
    return uniform if widths is None else request.plan(widths)  # None: too little room for steps of this size


@cached
def narrowing_harm(model: Model, ids: Tensor, held: Tensor, gone: int, layers: Sequence[int]) -> Tensors:
    """One layer at a time loses `gone` neurons, re-tuned on ids (S, L); what does the model lose on `held` (S', L)?

    Returns, one entry for each of `layers`, ascending:
        layers  the layers
        error   ||X W - X V||^2 / ||X W||^2 of its down_proj on ids, tokens weighted: what the error curves show
        share   ||X W||^2 / ||h||^2, mean over tokens: how much of the stream behind the layer this MLP writes
        harm    increase of the loss on `held`, nats per token, all other layers dense
    Cost: a walk over ids, a sweep per layer, and the rest of the model on `held` per layer. Cached.
    """
    family, layers, widths = family_of(model), sorted(layers), dict(enumerate(Shape.of(model).neurons))
    if not layers or not all(0 < gone < widths.get(index, 0) for index in layers):
        asked = f"layers from 0 to {len(widths) - 1} and fewer neurons to remove than they have"
        raise InputError(f"expected {asked}, got layers {layers} and {gone} neurons: choose others")
    (stream, rope), (judged, judged_rope) = walk_to(model, ids, 0), walk_to(model, held, 0)
    rows, done = [], 0
    for index in layers:
        layer, between = family.layers(model)[index], slice(done, index)
        stream, judged = walk(model, stream, rope, between), walk(model, judged, judged_rope, between)
        _, gram, fitted = narrowed(layer, stream, rope, gone, RIDGE, fewest=widths[index] - gone)
        judged, changed = with_weights(layer, judged, judged_rope, fitted)
        own, lost = (gram.energy(weight) for weight in (weight_of(layer), weight_of(layer) - fitted))
        done = index + 1
        loss = float(loss_behind(model, changed, judged_rope, done, held))
        rows.append((lost / max(own, 1e-300), own / gram.tokens, loss))
    whole = float(loss_behind(model, judged, judged_rope, done, held))
    error, share, loss = torch.tensor(rows, dtype=torch.float64).T
    measured = {"error": error, "share": share, "harm": loss - whole}
    return {"layers": torch.tensor(layers)} | {name: values.float() for name, values in measured.items()}


@cached
def outcome(
    model: Model, ids: Tensor, evaluated: Tensor, plan: Plan, settings: Settings | None = None
) -> dict[str, float | Tensor]:
    """Prune by `plan` on ids (S, L) and evaluate on `evaluated` (S', L'). Cached.

    Returns loss (nats per token), perplexity, parameters (of the pruned model), and errors (layers of the plan,): the
    relative error that was left in each down_proj, on the stream of the *pruned* model.
    """
    pruned = prune(model, ids, settings or Settings(), plan=plan)
    judged, report = perplexity(pruned.model, evaluated), pruned.report
    errors = torch.tensor([layer.error for layer in report.layers], dtype=torch.float64)
    numbers = {"loss": judged.loss, "perplexity": judged.perplexity, "parameters": report.parameters_after}
    return numbers | {"errors": errors}


@torch.inference_mode()
def layer_latency(model: Model, widths: Sequence[int], tokens: int = 128, repeats: int = 7, stack: int = 6) -> Tensors:
    """Time that one decoder layer takes for `tokens` tokens at each width: widths (W,), milliseconds (W, repeats).

    A stack of `stack` layers is timed and divided by their number: a single one would stay in the processor's cache,
    which a whole model does not.
    """
    layers = family_of(model).layers(model)[:stack]
    full = min(Shape.of(model).neurons[: len(layers)])
    if not widths or min(widths) < 1 or max(widths) > full:
        raise InputError(f"expected widths from 1 to {full} neurons, got {list(widths)}: the layers have no more")
    parameter = next(model.parameters())
    hidden = torch.randn(1, tokens, parameter.shape[-1], dtype=parameter.dtype, device=parameter.device)
    rope = rotary(model, tokens, parameter.device, parameter.dtype)

    def run(stack: nn.Module) -> None:
        for layer in stack.children():
            layer(hidden, position_embeddings=rope, attention_mask=None)

    stacks = [shallow_copy(layers) for _ in widths]
    for smaller, width in zip(stacks, widths, strict=True):
        for layer in smaller.children():
            shrink_mlp(layer, torch.arange(width))
    times = milliseconds([partial(run, smaller) for smaller in stacks], repeats)
    return {"widths": torch.tensor(list(widths)), "milliseconds": times / len(layers)}


def latency_line(measured: dict[str, Tensor]) -> tuple[float, float]:
    """(a, b) of the least-squares line a + b n through the fastest run of each width: ms, and ms per neuron."""
    widths, fastest = measured["widths"].double(), measured["milliseconds"].double().min(1).values
    a, b = np.polynomial.polynomial.polyfit(widths, fastest, 1).tolist()
    return a, b


def width_for_latency(line: tuple[float, float], neurons: int, ratio: float, multiple: int = 64) -> int:
    """The widest multiple with which a layer takes at most (1 - ratio) of its full time.

    Raises InputError when even the narrowest takes longer: then only dropping layers reaches the budget.
    """
    a, b = line
    full = a + b * neurons
    width = int(((1.0 - ratio) * full - a) / b) // multiple * multiple if b > 0 else 0
    if width < multiple:
        got = f"{ratio:.0%} less time where the neurons take only {b * neurons / full:.0%} of it"
        raise InputError(f"expected a budget that narrowing can reach, got {got}: drop layers")
    return min(width, neurons)
