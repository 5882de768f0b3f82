"""How long a decoder of given widths takes on this machine. (Our addition.)

Time, like parameters, adds up over what is there:

    t(widths) = fixed + sum over the layers of (layer + group * KV groups + neuron * neurons)

`fixed` is what no plan changes: embedding, head, the runtime's work for each call; `layer` what a layer costs whatever
its widths: norms, launches, attention over the tokens before. Narrowing saves only the last terms, dropping a layer all
three: this is why depth and width, equal in parameters, differ in time.

The model itself is timed, cut to a few depths and widths (values do not matter for time, so the first layers and
neurons will do), in turns; the fit is least squares on relative errors, of the fastest run of each cut, with no
coefficient below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from ..evaluation.generation import measure_speed, prompt_ids
from ..families import family_of
from ..families.protocol import Model
from ..report import Progress, no_progress
from ..shape import Shape
from ..surgery import keep_layers, shallow_copy, shrink_attention, shrink_mlp, update_config

Widths = tuple[tuple[int, ...], tuple[int, ...]]  # (neurons, KV groups), one entry for each layer


@dataclass(frozen=True)
class CostModel:
    """Milliseconds: of a token that is written ("decode"), or of a prompt that is read ("prefill")."""

    kind: str
    fixed: float
    layer: float
    group: float
    neuron: float
    misfit: float = 0.0  # largest relative error over the cuts that it was fitted to

    def milliseconds(self, neurons: Sequence[int], kv_groups: Sequence[int]) -> float:
        """Of a model with these widths, one entry for each layer."""
        return self.fixed + self.layer * len(neurons) + self.group * sum(kv_groups) + self.neuron * sum(neurons)

    def parts(self, shape: Shape) -> dict[str, float]:
        """Milliseconds of each term, for a model of this shape."""
        terms = {"fixed": self.fixed, "of each layer": self.layer * shape.layers}
        return terms | {"KV groups": self.group * sum(shape.kv_groups), "neurons": self.neuron * sum(shape.neurons)}


def fit(kind: str, widths: Sequence[Widths], milliseconds: Sequence[float]) -> CostModel:
    """The cost model of least squared relative error, all of its coefficients at least 0.

    widths and milliseconds: one entry for each model timed. Where all have the same widths in some term, what that term
    costs counts as `fixed` or `layer`: nothing in the data could tell them apart.
    """
    terms = np.array([[1.0, len(neurons), sum(groups), sum(neurons)] for neurons, groups in widths])  # (cuts, 4)
    times = np.asarray(milliseconds, dtype=float)
    per_layer = terms[:, 2:] / terms[:, 1:2]
    varies = np.array([True, np.ptp(terms[:, 1]) > 0, *(np.ptp(per_layer, axis=0) > 0)])
    scale = terms.max(axis=0)
    rows = (terms / scale / times[:, None])[:, varies]
    costs = np.zeros(4)
    costs[varies] = nnls(rows, np.ones(len(times)))[0] / scale[varies]
    misfit = float(np.abs(terms @ costs / times - 1).max())
    fixed, layer, group, neuron = costs.tolist()
    return CostModel(kind, fixed, layer, group, neuron, misfit)


def cuts(shape: Shape) -> list[Widths]:
    """Few shapes that tell the terms apart: the whole, half the layers, narrow ones, both, and fewer KV groups."""
    neurons, groups = min(shape.neurons), min(shape.kv_groups)
    half, narrow = max(1, shape.layers // 2), max(1, neurons // 4)
    deep = [(shape.layers, neurons, groups), (half, neurons, groups)]
    thin = [(shape.layers, narrow, groups), (half, max(1, neurons // 2), groups)]
    fewer = [(shape.layers, neurons, 1)] if groups > 1 else []
    return [((width,) * layers, (kept,) * layers) for layers, width, kept in (*deep, *thin, *fewer)]


def cut(model: Model, widths: Widths) -> Model:
    """`model` cut to its first layers, neurons and KV groups: for timing, where no value matters."""
    smaller, shape = shallow_copy(model), Shape.of(model)
    keep_layers(smaller, range(len(widths[0])))
    layers = family_of(smaller).layers(smaller)
    for index, (layer, neurons, groups) in enumerate(zip(layers, *widths, strict=True)):
        if neurons < shape.neurons[index]:
            shrink_mlp(layer, torch.arange(neurons))
        if groups < shape.kv_groups[index]:
            shrink_attention(layer, torch.arange(groups))
    update_config(smaller)
    return smaller


def measure(
    model: Model, prompt: int = 128, new_tokens: int = 8, rounds: int = 5, progress: Progress = no_progress
) -> dict[str, CostModel]:
    """The cost models of both kinds for `model` in transformers, on its device and with torch's threads.

    prompt: tokens that are read, within the model's context; new_tokens: written after the first, whose mean is taken.
    Memory: the cuts' narrower layers, less than twice the model in all.
    """
    widths = cuts(Shape.of(model))
    models = [cut(model, each) for each in widths]
    ids = torch.tensor([prompt_ids(min(prompt, model.config.max_position_embeddings - new_tokens))])
    speeds = measure_speed(models, ids, new_tokens, rounds, progress)
    decode = [1e3 / max(speed.decode) for speed in speeds]
    prefill = [1e3 * ids.shape[1] / max(speed.prefill) for speed in speeds]
    return {"decode": fit("decode", widths, decode), "prefill": fit("prefill", widths, prefill)}
