"""What the columns of each frame mean, with their units: one place, to which a test holds every frame.

All frames have the same index: `model`, a short name for the content of its tensors; `seed`, with which the text was
drawn; `kind` of text, or `all` for those that were looked at together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

INDEX = ("model", "seed", "kind")
ALL = "all"  # kinds taken together
LOW, HIGH = "lower end of the 95% interval of {}", "upper end of the 95% interval of {}"
TOKENS = "number of tokens behind the row"
WINDOWS = "number of windows of text behind the row"
LAYER = "number of the decoder layer, from 0"
PART = "attention or mlp: the step of the layer"

COLUMNS: dict[str, dict[str, str]] = {
    "layers": {
        "layer": LAYER,
        "part": "what is looked at: layer (the whole), attention or mlp",
        "measure": "block influence, harm, or greedy (harm once the layers of the rounds before are gone)",
        "round": "layers that are gone already (greedy; else 0)",
        "value": "block influence: 1 - mean cosine, no unit; harm and greedy: nats per token of loss added",
        "low": LOW.format("value over the windows, same unit"),
        "high": HIGH.format("value over the windows, same unit"),
        "windows": WINDOWS,
        "tokens": TOKENS,
    },
    "neurons": {
        "layer": LAYER,
        "neuron": "number of the MLP neuron in its layer, from 0",
        "energy": "share of the sum of all neurons' own energies ||x_i||^2 ||w_i||^2 in the layer, 0 to 1",
        "condition": "kappa_i, at least 1, no unit: how well the others can stand in for it",
        "cost": "share of ||X W||^2 lost with it alone, the others' weights re-tuned, 0 to 1 (full-condition score)",
        "mask_cost": "the same with a mask re-tuned (mask-condition score); NaN where the tokens are too few for it",
        "removed_at": "share of the layer's neurons that are gone once it goes, 0 to 1; NaN: it stays to the end",
        "wanda_sp": "score of Wanda-sp, sum_j |w_ij| ||x_i||, tokens weighted, no unit",
        "activation": "||x_i||, tokens weighted, no unit",
        "magnitude": "norm of all weights that the neuron owns, no unit",
        "stand_ins": "the neurons that stand in for it, the strongest first, with commas",
        "coefficients": "their coefficients in x_i = sum_j c_ij x_j, in the same order, with commas, no unit",
        "tokens": TOKENS,
    },
    "groups": {
        "layer": LAYER,
        "group": "number of the KV group in its layer, from 0",
        "energy": "share of the sum of all groups' own energies in the layer, 0 to 1",
        "condition": "largest kappa_i among the group's inputs, at least 1, no unit",
        "cost": "share of ||X W||^2 of o_proj lost with it alone, the others' weights re-tuned, 0 to 1",
        "removed_at": "share of the layer's groups that are gone once it goes, 0 to 1; NaN: it stays to the end",
        "tokens": TOKENS,
    },
    "spectra": {
        "layer": LAYER,
        "part": PART,
        "matrix": "C (X^T X of the dense layer's inputs) or G (Gram matrix of their contributions)",
        "place": "place of the eigenvalue, from 1, the largest",
        "share": "eigenvalue over the sum of all, 0 to 1",
        "cumulative": "sum of the shares up to this place, 0 to 1",
        "effective_rank": "exp of the entropy of the shares, 1 to `size`, no unit",
        "size": "number of eigenvalues that can differ from 0: inputs, or tokens where those are fewer",
        "tokens": TOKENS,
    },
    "curves": {
        "layer": LAYER,
        "part": PART,
        "gone": "neurons (mlp) or KV groups (attention) gone",
        "width": "neurons or KV groups that are left",
        "share_gone": "gone over all, 0 to 1",
        "error": "||X W - X V||^2 / ||X W||^2 of the dense layer, the rest re-tuned, 0 to 1",
        "tokens": TOKENS,
    },
    "costs": {
        "way": "how the plan was made: see cost_frame.WAYS, or the name of a method",
        "ratio": "part of the decoder's parameters to remove, as asked, 0 to 1",
        "removed": "the same as reached, 0 to 1",
        "dense_loss": "loss of the dense model, nats per token",
        "loss": "loss of the pruned model, nats per token",
        "increase": "loss - dense_loss, nats per token",
        "low": LOW.format("increase over the windows, paired, nats per token"),
        "high": HIGH.format("increase over the windows, paired, nats per token"),
        "kl": "KL divergence from the dense model, nats per token",
        "kl_low": LOW.format("kl, nats per token"),
        "kl_high": HIGH.format("kl, nats per token"),
        "agreement": "share of positions with the same first choice as the dense model's, 0 to 1",
        "agreement_low": LOW.format("agreement"),
        "agreement_high": HIGH.format("agreement"),
        "parameters": "parameters of the pruned model",
        "layers_left": "decoder layers of the pruned model",
        "least_width": "neurons of its narrowest layer",
        "most_width": "neurons of its widest layer",
        "faster": "decode speed over the dense model's, median of the rounds, no unit",
        "faster_low": "smallest of the rounds",
        "faster_high": "largest of the rounds",
        "seconds": "time that pruning took, s",
        "windows": WINDOWS,
        "tokens": TOKENS,
    },
    "tasks": {
        "task": "name of the task in lm-eval",
        "which": "dense, or the way and the ratio of the pruned model",
        "accuracy": "share of items for which the right answer is the most likely one, 0 to 1",
        "low": LOW.format("accuracy over the items"),
        "high": HIGH.format("accuracy over the items"),
        "items": "items behind the row",
        "tokens": "tokens of calibration text that the pruned model was fitted to",
    },
    "latency": {
        "what": "decode (a token that is written) or prefill (a prompt that is read)",
        "term": "what takes the time: fixed, of each layer, KV groups, neurons",
        "milliseconds": "time of the term for the whole model, ms, as fitted to the fastest of the rounds",
        "share": "of the sum over the terms, 0 to 1",
        "low": "milliseconds less the largest misfit of the model of cost, ms",
        "high": "milliseconds plus that misfit, ms",
        "misfit": "largest relative error over the cuts that were timed, no unit",
        "tokens": "tokens read (prefill) or written (decode) in a round",
    },
    "tokens_of": {
        "layer": LAYER,
        "neuron": "number of the MLP neuron that the row is about",
        "of": "the neuron that was asked for: itself, or one that it stands in for",
        "coefficient": "of this neuron in x_of = sum_j c_j x_j, no unit; 1 for the neuron itself",
        "reading": "fires on (a token of the text), pushes up or pushes down (a token of the vocabulary)",
        "place": "place in its list, from 1, the strongest",
        "token": "the token",
        "before": "text before it; empty for tokens of the vocabulary",
        "after": "text after it; empty for tokens of the vocabulary",
        "value": "activation x_i of the neuron there; or the logit that a unit of its output gives, through the norm",
        "tokens": "tokens that were looked at: of the text, or of the vocabulary",
    },
    "changed_layers": {
        "layer": "number of the decoder layer in the first model, from 0",
        "other_layer": "its number in the other model; NaN: the layer was dropped",
        "stream": "1 - mean cosine of both models' states behind the layer, no unit; NaN: dropped",
        "low": LOW.format("stream over the windows"),
        "high": HIGH.format("stream over the windows"),
        "weights": "||W' - W|| / ||W|| over all weights of the layer, 0 for unchanged; NaN where a shape differs",
        "neurons": "MLP neurons of the layer in the first model",
        "died": "neurons that fire in the first model and are gone or silent in the other",
        "died_energy": "share of the layer's own energies, in the first model, that those had, 0 to 1",
        "windows": WINDOWS,
        "tokens": TOKENS,
    },
    "changed_kinds": {
        "loss": "of the first model, nats per token",
        "other_loss": "of the other model, nats per token",
        "increase": "other_loss - loss, nats per token",
        "low": LOW.format("increase over the windows, paired, nats per token"),
        "high": HIGH.format("increase over the windows, paired, nats per token"),
        "kl": "KL divergence from the first model to the other, nats per token",
        "kl_low": LOW.format("kl, nats per token"),
        "kl_high": HIGH.format("kl, nats per token"),
        "agreement": "share of positions with the same first choice, 0 to 1",
        "agreement_low": LOW.format("agreement"),
        "agreement_high": HIGH.format("agreement"),
        "windows": WINDOWS,
        "tokens": TOKENS,
    },
    "changed_prompts": {
        "place": "place, from 1, the largest difference",
        "prompt": "the beginning of a window of text",
        "first": "what the first model goes on to say, greedy",
        "other": "what the other model goes on to say",
        "kl": "KL divergence on the window that the prompt begins, nats per token",
        "tokens": TOKENS,
    },
}


def tidy(frame: str, rows: Iterable[Mapping[str, Any]], model: str, seed: int) -> pd.DataFrame:
    """The frame of that name from rows, each with its `kind` and all of its columns."""
    names = list(COLUMNS[frame])
    table = pd.DataFrame(list(rows), columns=["kind", *names])
    table.insert(0, "model", model)
    table.insert(1, "seed", seed)
    return table.set_index(list(INDEX))
