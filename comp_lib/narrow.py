"""One dense layer that writes to the residual stream, made narrower: watch, choose, re-tune, shrink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from . import dual
from .dual import Rows
from .gram import Gram, contributions, residual_energy, token_weights
from .importance.neurons import RIDGE, Dense, Selection, energy, metric
from .recover import fold_mask, least_squares, mean_bias, only, tune_mask
from .report import Watch
from .ridge import RidgeSearch
from .settings import Settings
from .stream import batches
from .surgery import shrink_attention, shrink_mlp, spread


@dataclass
class Outcome:
    """Of one dense layer."""

    kept: Tensor  # KV groups or neurons, ascending
    error: float = 0.0  # ||X W - X V||^2 / ||X W||^2
    condition: Tensor | None = None  # kappa of each input
    mask_mean: float | None = None
    mask_variance: float | None = None
    ridge: float | None = None


@dataclass(frozen=True)
class Statistics:
    """Sums one dense layer's statistics over sequences: hidden and reference (S, L, d), as in `narrow`, -> Gram."""

    layer: nn.Module
    which: str  # "attention" or "mlp"
    step: Callable  # the layer's residual step
    weighted: bool  # by `token_weights`
    kind: type[Gram] = Gram  # or its dual form

    def __call__(self, hidden: Tensor, reference: Tensor | None) -> Gram:
        linear = dense_layer(self.layer, self.which)
        device = linear.weight.device
        gram = self.kind.zeros(linear.in_features, None if reference is None else linear.out_features, device)
        for rows in batches(*hidden.shape[:2]):
            before = hidden[rows].to(device)
            out, x = self.step(self.layer, before)
            target = None
            if reference is not None:
                target = reference[rows].to(device) - before
                target = target if linear.bias is None else target - linear.bias
            gram.add(x, target, token_weights(out) if self.weighted else None)
        return gram


Gather = Callable[[Statistics, Tensor, Tensor | None], Gram]


def at_once(statistics: Statistics, hidden: Tensor, reference: Tensor | None) -> Gram:
    """The `Gather` of one process; `shards.over` makes the one of a cluster."""
    return statistics(hidden, reference)


@dataclass
class Narrower:
    """Narrows the dense layers of a decoder, one after the other, as `settings` say."""

    settings: Settings
    watch: Watch
    generator: torch.Generator
    gather: Gather = at_once
    searches: dict[str, RidgeSearch] = field(default_factory=lambda: {"mlp": RidgeSearch(), "attention": RidgeSearch()})

    def narrow(
        self,
        layer: nn.Module,
        which: str,
        step: Callable,
        hidden: Tensor,
        reference: Tensor | None,
        keep: int,
        fixed: tuple[int, ...] | None = None,
    ) -> Outcome:
        """Keep the best `keep` KV groups or neurons of a decoder layer, or just the `fixed` ones.

        which: "attention" or "mlp"; step: its residual step; hidden (S, L, d): what enters the step; reference
        (S, L, d): the stream that the step should lead to, None for the layer's own.
        """
        weight = dense_layer(layer, which).weight.detach().T  # (n, m)
        kind = self._kind(weight, hidden)
        weight = weight.to(torch.float32 if kind is Rows else torch.float64)
        block = 1 if which == "mlp" else layer.self_attn.head_dim * layer.self_attn.num_key_value_groups
        owned = upstream(layer, which)
        searched = self.settings.ridge == "auto" and self.settings.recovery == "least-squares" and len(hidden) > 1
        ridge = RIDGE if self.settings.ridge == "auto" else self.settings.ridge
        streams = hidden.chunk(2 if searched else 1)
        references = [None] * len(streams) if reference is None else reference.chunk(len(streams))
        statistics = Statistics(layer, which, step, self.settings.token_weights, kind)
        grams = [self.gather(statistics, *both) for both in zip(streams, references, strict=True)]
        self.watch.look()
        if searched:
            search = self.searches[which]
            # who stays matters little for how hard to hold them: a cheap metric will do
            likely = energy(Dense(grams[0].xtx, weight, owned, block), keep, self.generator).kept
            likely = likely if fixed is None else torch.tensor(fixed)
            inputs = spread(likely.to(weight.device), block)
            ridge = search.choose(*grams, weight, inputs)
            self.watch.look()
        gram = sum(grams[1:], grams[0])
        del grams
        dense = Dense(gram.xtx, weight, owned, block, ridge)
        chosen = self._choose(dense, keep, fixed, self.generator)
        self.watch.look()
        inputs = spread(chosen.kept.to(weight.device), block)
        found, new_weight = self._recover(gram, dense, chosen, inputs)
        self.watch.look()
        own = residual_energy(gram.xtx, weight, torch.zeros_like(weight))
        error, bias = residual_energy(gram.xtx, weight, new_weight), None
        if self.settings.recovery == "bias":
            bias = mean_bias(gram.mean, weight, inputs)
            error += gram.bias_energy(weight - new_weight, bias)
        (shrink_mlp if which == "mlp" else shrink_attention)(layer, chosen.kept, new_weight, bias)
        return Outcome(chosen.kept, error / own if own > 0.0 else 0.0, chosen.condition, *found)

    def _kind(self, weight: Tensor, hidden: Tensor) -> type[Gram]:
        """The dual form where it is the smaller one and the method has it."""
        fewer = hidden.shape[0] * hidden.shape[1] < len(weight)
        masked = self.settings.recovery == "mask" or self.settings.neuron_metric == "mask-condition"
        return Rows if fewer and not masked else Gram

    def _choose(
        self, dense: Dense, keep: int, fixed: tuple[int, ...] | None, generator: torch.Generator
    ) -> Selection:
        if fixed is not None:
            return Selection(torch.tensor(fixed), torch.full((dense.blocks,), torch.nan))
        return metric(self.settings.neuron_metric)(dense, keep, generator)

    def _recover(
        self, gram: Gram, dense: Dense, chosen: Selection, inputs: Tensor
    ) -> tuple[tuple[float | None, float | None, float | None], Tensor]:
        """(mask mean, mask variance, ridge) and V (n, m) of the recovery that the settings ask for."""
        recovery = self.settings.recovery
        if recovery in ("none", "bias"):  # a bias leaves the weights alone
            return (None, None, None), only(dense.weight, inputs)
        if recovery == "mask":
            mask = tune_mask(contributions(gram.xtx, dense.weight), inputs, dense.ridge)
            return (mask.mean, mask.variance, mask.ridge), fold_mask(dense.weight, inputs, mask)
        if gram.xty is None and chosen.retuned is not None:  # the sweep solved this very problem on its way
            return (None, None, dense.ridge), chosen.retuned
        if isinstance(gram, Rows):
            return (None, None, dense.ridge), dual.least_squares(gram, dense.weight, inputs, dense.ridge)
        fitted = least_squares(gram.xtx, gram.target(dense.weight), dense.weight, inputs, dense.ridge)
        return (None, None, dense.ridge), fitted


def dense_layer(layer: nn.Module, which: str) -> nn.Linear:
    """What writes to the residual stream in a step of a decoder layer: "attention" or "mlp"."""
    return layer.mlp.down_proj if which == "mlp" else layer.self_attn.o_proj


def upstream(layer: nn.Module, which: str) -> Tensor:
    """Squared norm of the weights that produce each input of the dense layer: (n,), float64.

    For a KV group, k and v belong to several query heads: their share is split evenly among them.
    """

    def norms(linear: nn.Linear) -> Tensor:
        parts = linear.weight.detach().split(1024)  # doubled at once, the matrix of a large layer is a gigabyte
        return torch.cat([part.double().square().sum(1) for part in parts])

    if which == "mlp":
        return norms(layer.mlp.gate_proj) + norms(layer.mlp.up_proj)
    attention = layer.self_attn
    repeats, head = attention.num_key_value_groups, attention.head_dim
    keys = (norms(attention.k_proj) + norms(attention.v_proj)) / repeats
    return norms(attention.q_proj) + keys.reshape(-1, 1, head).expand(-1, repeats, head).flatten()
