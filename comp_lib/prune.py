"""COMP, on one page: plan, then walk the decoder once, layer by layer.

For each layer that stays: (1) watch the calibration text pass, gathering the Gram statistics of its dense layers;
(2) choose which neurons and KV groups go; (3) re-tune what stays; (4) shrink the tensors; (5) let the text pass
through the pruned layer, so that the next layer is tuned on what it will really see.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field

import psutil
import torch
from torch import Tensor, nn

from .errors import InputError, nearest
from .gram import Gram, contributions, residual_energy, token_weights
from .importance.layers import LAYER_METRICS, layers_to_drop
from .importance.neurons import Dense, Selection, metric
from .plan import Plan, check_ratio, paper_plan, uniform_plan
from .recover import fold_mask, least_squares, only, tune_mask
from .shape import Shape
from .stream import Progress, attention_step, batches, embed, mlp_step, no_progress, rotary, to_device
from .surgery import keep_layers, shrink_attention, shrink_mlp, spread, update_config

METHODS = ("comp", "magnitude", "wanda-sp", "random")
RECOVERIES = ("least-squares", "mask", "none")
IMPORTANCE_SEQUENCES = 8  # calibration sequences on which whole layers are judged: a ranking needs fewer than a fit


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of `prune`, besides the model and the tokens."""

    ratio: float = 0.2  # parameters to remove, at least
    of: str = "decoder"  # what the ratio refers to: "decoder" or "model"
    method: str = "comp"  # one of METHODS, or any name in importance.neurons.METRICS
    layers: int | str = "auto"  # whole layers to drop; "auto": only as many as widths alone cannot carry
    layer_metric: str = "greedy"  # block influence is the paper's, but fooled by some layers
    widths: str = "uniform"  # "uniform": stock checkpoint; "per-layer": by layer importance
    kv_groups: int | None = None  # KV groups to keep in each layer; None: all
    recovery: str = "least-squares"  # one of RECOVERIES
    target: str = "self"  # of the least squares: the layer's own output, or the "dense" model's stream
    ridge: float = 1e-2  # relative to the mean energy of an input; "dense" overfits sooner and wants more
    token_weights: bool = True  # divide each token by the norm of its residual stream
    multiple: int = 64  # widths are multiples of this
    seed: int = 0
    device: str = "cpu"  # where one layer at a time computes

    def check(self) -> None:
        """Raises InputError by the name of what is wrong."""
        check_ratio(self.ratio, self.of)
        for name, value, options in (
            ("recovery", self.recovery, RECOVERIES),
            ("target", self.target, ("self", "dense")),
            ("widths", self.widths, ("uniform", "per-layer")),
            ("layer metric", self.layer_metric, LAYER_METRICS),
        ):
            if value not in options:
                raise InputError(f"expected {name} to be one of {', '.join(options)}, got {value!r}: {nearest(value, options)}")
        if self.method != "comp":
            metric(self.method)
        if isinstance(self.layers, str) and self.layers != "auto":
            raise InputError(f"expected layers to be a number or 'auto', got {self.layers!r}: say how many may go")
        if not self.ridge > 0.0:
            raise InputError(f"expected a ridge above 0, got {self.ridge:g}: 0.01 suits the target 'self', 0.1 'dense'")

    @property
    def neuron_metric(self) -> str:
        """COMP's metric presumes its recovery, so the recovery decides which of the two it is."""
        if self.method != "comp":
            return self.method
        return "full-condition" if self.recovery == "least-squares" else "mask-condition"


@dataclass(frozen=True)
class LayerReport:
    """What happened to one decoder layer."""

    layer: int  # in the parent
    neurons: int
    kv_groups: int
    error: float  # ||X W - X V||^2 / ||X W||^2 of down_proj over the calibration text, after recovery
    attention_error: float  # the same for o_proj
    condition_median: float | None  # kappa of the neurons before anything went
    condition_max: float | None
    mask_mean: float | None
    mask_variance: float | None
    ridge: float | None  # lambda with which the recovery was solved
    seconds: float
    peak_megabytes: float  # resident memory of the process, highest seen so far


@dataclass(frozen=True)
class Report:
    """What `prune` did, and what it took."""

    settings: dict
    tokens: int  # of calibration
    layers: tuple[LayerReport, ...]
    layer_importance: tuple[float, ...] | None  # by the layer metric, for every layer of the parent; None: not needed
    seconds: float
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Pruned:
    model: nn.Module
    plan: Plan
    report: Report


@dataclass
class _Outcome:
    """Of one dense layer."""

    kept: Tensor
    error: float = 0.0
    condition: Tensor | None = None
    mask_mean: float | None = None
    mask_variance: float | None = None
    ridge: float | None = None


@dataclass
class _Watch:
    """Peak resident memory, looked at where it is highest."""

    process: psutil.Process = field(default_factory=psutil.Process)
    peak: int = 0

    def look(self) -> float:
        self.peak = max(self.peak, self.process.memory_info().rss)
        return self.peak / 2**20


def share(model: nn.Module) -> nn.Module:
    """A second model with its own structure and config around the same tensors: surgery replaces, never writes."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def make_plan(
    model: nn.Module, ids: Tensor, settings: Settings, name: str = "", progress: Progress = no_progress
) -> tuple[Plan, tuple[float, ...] | None]:
    """The plan that `settings` ask for, and the layer importance it rests on (None where it needed none)."""
    shape = Shape.of(model)
    options = dict(of=settings.of, kv_groups=settings.kv_groups, multiple=settings.multiple, parent=name)
    count = _layers_needed(shape, settings, options) if settings.layers == "auto" else int(settings.layers)
    drop, importance = [], None
    if count or settings.widths == "per-layer":
        judged = ids[:IMPORTANCE_SEQUENCES]
        drop, found = layers_to_drop(settings.layer_metric, model, judged, count, settings.device, progress)
        importance = tuple(found.tolist())
    if settings.widths == "per-layer":
        return paper_plan(shape, settings.ratio, importance, drop=drop, **options), importance
    return uniform_plan(shape, settings.ratio, drop=drop, **options), importance


def _layers_needed(shape: Shape, settings: Settings, options: dict) -> int:
    """The fewest whole layers whose loss leaves the others at least half of their neurons.

    Measured (benchmarks/RESULTS.md): up to there, narrowing all layers costs less than dropping any.
    """
    for count in range(shape.layers):
        try:
            plan = uniform_plan(shape, settings.ratio, drop=range(count), **options)
        except InputError:
            if count + 1 == shape.layers:
                raise
            continue
        if min(plan.neurons) * 2 >= shape.neurons[-1]:
            return count
    return 0


@torch.inference_mode()
def prune(
    model: nn.Module,
    ids: Tensor,
    settings: Settings = Settings(),
    *,
    plan: Plan | None = None,
    name: str = "",
    progress: Progress = no_progress,
    inplace: bool = False,
) -> Pruned:
    """Prune `model` on the calibration tokens `ids` (S, L) and return the smaller model, its plan and a report.

    The given model stays as it is, sharing the tensors that do not change; with `inplace` its layers are given up one
    by one, which halves the memory. Raises InputError before any work when the settings cannot be met.
    Time: about two dense forward passes. Memory: the hidden states of all tokens, one layer, three n x n matrices.
    """
    started, watch = time.perf_counter(), _Watch()
    settings.check()
    before = Shape.of(model)
    importance = None
    if plan is None:
        plan, importance = make_plan(model, ids, settings, name, progress)
    if plan.parent_layers != before.layers:
        raise InputError(f"expected a plan for {before.layers} layers, got one for {plan.parent_layers}: plan anew")
    model = model if inplace else share(model)
    generator = torch.Generator().manual_seed(settings.seed)
    device = torch.device(settings.device)
    hidden = embed(model, ids)
    dense = hidden.clone() if settings.target == "dense" and settings.recovery == "least-squares" else None
    rope = rotary(model, ids.shape[1], device, hidden.dtype)
    reports, kept_neurons, kept_groups = [], [], []
    touched = bool(plan.dropped)  # whether the stream differs from the dense model's

    for index in range(before.layers):
        start = time.perf_counter()
        home = next(model.model.layers[index].parameters()).device
        layer = to_device(model.model.layers[index], device)
        middle = None
        if dense is not None:
            middle = _advance(layer, lambda l, h: attention_step(l, h, rope), dense, device)
            dense = _advance(layer, mlp_step, middle, device)
        if index not in plan.layers:
            continue
        place = plan.layers.index(index)
        refit = dense is not None and touched
        outcomes = []
        for which, step, keep, whole, reference in (
            ("attention", lambda l, h: attention_step(l, h, rope), plan.kv_groups[place], before.kv_groups[index], middle),
            ("mlp", mlp_step, plan.neurons[place], before.neurons[index], dense),
        ):
            outcome = _Outcome(torch.arange(whole))
            if keep < whole or (refit and which == "mlp"):
                outcome = _prune_dense(layer, which, step, hidden, reference, keep, settings, generator, device, watch)
            outcomes.append(outcome)
            hidden = _advance(layer, step, hidden, device)
        touched = touched or plan.neurons[place] < before.neurons[index] or plan.kv_groups[place] < before.kv_groups[index]
        model.model.layers[index] = layer.to(home)
        attention, mlp = outcomes
        kept_groups.append(tuple(attention.kept.tolist()))
        kept_neurons.append(tuple(mlp.kept.tolist()))
        reports.append(
            LayerReport(
                layer=index, neurons=plan.neurons[place], kv_groups=plan.kv_groups[place],
                error=mlp.error, attention_error=attention.error,
                condition_median=None if mlp.condition is None else float(mlp.condition.median()),
                condition_max=None if mlp.condition is None else float(mlp.condition.max()),
                mask_mean=mlp.mask_mean, mask_variance=mlp.mask_variance, ridge=mlp.ridge,
                seconds=time.perf_counter() - start, peak_megabytes=watch.look(),
            )
        )  # fmt: skip
        progress("pruning", place + 1, len(plan.layers))

    keep_layers(model, plan.layers)
    update_config(model)
    plan = Plan(**{**vars(plan), "kept_neurons": tuple(kept_neurons), "kept_groups": tuple(kept_groups)})
    report = Report(
        settings=asdict(settings), tokens=ids.numel(), layers=tuple(reports), layer_importance=importance,
        seconds=time.perf_counter() - started, parameters_before=before.total, parameters_after=Shape.of(model).total,
    )  # fmt: skip
    return Pruned(model, plan, report)


def _advance(layer: nn.Module, step, hidden: Tensor, device: torch.device) -> Tensor:
    """All sequences through one residual step."""
    out = torch.empty_like(hidden)
    for rows in batches(*hidden.shape[:2]):
        out[rows] = step(layer, hidden[rows].to(device))[0]
    return out


def _prune_dense(layer, which, step, hidden, reference, keep, settings, generator, device, watch) -> _Outcome:
    """Watch, choose, re-tune and shrink one of the two dense layers that write to the residual stream."""
    linear = layer.mlp.down_proj if which == "mlp" else layer.self_attn.o_proj
    gram = Gram.zeros(linear.in_features, None if reference is None else linear.out_features, device)
    for rows in batches(*hidden.shape[:2]):
        before = hidden[rows].to(device)
        out, x = step(layer, before)
        target = None
        if reference is not None:
            target = reference[rows].to(device) - before
            target = target if linear.bias is None else target - linear.bias
        gram.add(x, target, token_weights(out) if settings.token_weights else None)
    watch.look()

    weight = linear.weight.detach().T.double()  # (n, m)
    block = 1 if which == "mlp" else layer.self_attn.head_dim * layer.self_attn.num_key_value_groups
    dense = Dense(gram.xtx, weight, _upstream(layer, which), block, settings.ridge)
    chosen = metric(settings.neuron_metric)(dense, keep, generator)
    watch.look()
    inputs = spread(chosen.kept.to(device), block)
    found, new_weight = _recover(gram, dense, chosen, inputs, settings)
    watch.look()
    own = residual_energy(gram.xtx, weight, torch.zeros_like(weight))
    outcome = _Outcome(
        chosen.kept, residual_energy(gram.xtx, weight, new_weight) / max(own, 1e-300), chosen.condition, *found
    )
    (shrink_mlp if which == "mlp" else shrink_attention)(layer, chosen.kept, new_weight)
    return outcome


def _recover(gram: Gram, dense: Dense, chosen: Selection, inputs: Tensor, settings: Settings):
    """(mask mean, mask variance, ridge) and V (n, m) of the recovery that the settings ask for."""
    if settings.recovery == "none":
        return (None, None, None), only(dense.weight, inputs)
    if settings.recovery == "mask":
        mask = tune_mask(contributions(gram.xtx, dense.weight), inputs, settings.ridge)
        return (mask.mean, mask.variance, mask.ridge), fold_mask(dense.weight, inputs, mask)
    if gram.xty is None and chosen.retuned is not None:  # the sweep solved this very problem on its way
        return (None, None, settings.ridge), chosen.retuned
    fitted, _ = least_squares(gram.xtx, gram.target(dense.weight), dense.weight, inputs, settings.ridge)
    return (None, None, settings.ridge), fitted


def _upstream(layer: nn.Module, which: str) -> Tensor:
    """Squared norm of the weights that produce each input of the dense layer: (n,), float64.

    For a KV group, k and v belong to several query heads: their share is split evenly among them.
    """

    def norms(linear: nn.Linear) -> Tensor:
        return linear.weight.detach().double().square().sum(1)

    if which == "mlp":
        return norms(layer.mlp.gate_proj) + norms(layer.mlp.up_proj)
    attention = layer.self_attn
    repeats, head = attention.num_key_value_groups, attention.head_dim
    keys = (norms(attention.k_proj) + norms(attention.v_proj)) / repeats
    return norms(attention.q_proj) + keys.reshape(-1, 1, head).expand(-1, repeats, head).flatten()
