"""What a neuron does: the tokens on which it fires, and the tokens that its output pushes up and down.

A neuron of an MLP reads the stream and writes x_i w_i to it, w_i being its row of down_proj. What w_i means to the
model is read as if nothing came after it: through the final norm and the unembedding,

    logits of neuron i = head(norm(w_i)).

That is exact for the last layer but for what else is in the stream, and a hint elsewhere. Where the family puts a norm
behind down_proj, that norm is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..calibration.stream import attention_step, batches, embed, mlp_step, rotary, sent, through, to_device
from ..errors import InputError
from ..families import dense_layer, family_of
from ..families.protocol import Device, Model
from .columns import tidy
from .one_pass import one_pass
from .sample import Sample
from .store import Tensors, fingerprint
from .unit_frames import check_layers

BEFORE, AFTER = 10, 5  # tokens of the context that is shown
FIRES, UP, DOWN = "fires on", "pushes up", "pushes down"
Row = dict[str, Any]


def tokens_of(
    model: Model,
    tokenizer: Any,
    sample: Sample,
    layer: int,
    neurons: Sequence[int],
    most: int = 6,
    stand_ins: int = 2,
    device: Device = "cpu",
) -> pd.DataFrame:
    """What neurons of a layer do, and the same of who stands in for them; columns: COLUMNS["tokens_of"].

    most: tokens of each reading; stand_ins: how many of each neuron's, at most `one_pass.STAND_INS`.
    Raises InputError for a layer or a neuron that is not there.
    """
    check_layers(model, [layer])
    [known] = one_pass(model, sample, [layer], device=device)
    width = len(known["mlp:energy"])
    for neuron in neurons:
        if not 0 <= neuron < width:
            raise InputError(f"expected neurons from 0 to {width - 1}, got {neuron}: choose among these")
    pairs = [pair for neuron in neurons for pair in _with_stand_ins(known, neuron, stand_ins)]
    names = sorted({name for name, _, _ in pairs})
    fired, written = _activations(model, sample, layer, names, device)
    logits = _logits(model, written)
    rows: list[Row] = []
    for name, of, coefficient in pairs:
        place = names.index(name)
        readings = (_firing(tokenizer, sample, fired[..., place], most), _pushed(tokenizer, logits[place], most))
        asked = {"layer": layer, "neuron": name, "of": of, "coefficient": coefficient, "kind": sample.name}
        rows += [asked | row for reading in readings for row in reading]
    return tidy("tokens_of", rows, fingerprint(model), sample.seed)


def _with_stand_ins(known: Tensors, neuron: int, most: int) -> Iterator[tuple[int, int, float]]:
    """(neuron, the one that it is shown for, coefficient): the neuron itself, then who stands in for it."""
    yield neuron, neuron, 1.0
    names, coefficients = known["mlp:stand_ins"][neuron].tolist(), known["mlp:coefficients"][neuron].tolist()
    for name, coefficient in list(zip(names, coefficients, strict=True))[:most]:
        yield name, neuron, coefficient


@torch.no_grad()
def _activations(
    model: Model, sample: Sample, layer: int, names: Sequence[int], device: Device
) -> tuple[Tensor, Tensor]:
    """x of these neurons on every token (S, L, k), and what they write (k, d)."""
    layers, hidden = family_of(model).layers(model), embed(model, sample.ids)
    rope = rotary(model, sample.ids.shape[1], device, hidden.dtype)
    for index in range(layer):
        hidden = through(to_device(layers[index], device), hidden, rope, device)
    module = to_device(layers[layer], device)
    parts = []
    for rows in batches(*hidden.shape[:2]):
        _, x = mlp_step(module, attention_step(module, sent(hidden[rows], device), rope)[0])
        parts.append(x[..., names].float().cpu())
    return torch.cat(parts), dense_layer(module, "mlp").weight.detach().T[names].cpu()


@torch.no_grad()
def _logits(model: Model, written: Tensor) -> Tensor:
    """What a unit of each row (k, d) adds to the logits, through norm and unembedding: (k, vocabulary)."""
    family = family_of(model)
    logits: Tensor = family.head(model, family.final_norm(model, written.to(family.embedding(model).weight)))
    return logits.float().cpu()


def _firing(tokenizer: Any, sample: Sample, fired: Tensor, most: int) -> Iterator[Row]:
    """The tokens on which a neuron fires most, whatever the sign; fired (S, L)."""
    length = fired.shape[1]
    for place, index in enumerate(fired.abs().flatten().topk(min(most, fired.numel())).indices.tolist()):
        window, position = divmod(index, length)
        ids = sample.ids[window].tolist()
        yield {
            "reading": FIRES,
            "place": place + 1,
            "token": tokenizer.decode(ids[position : position + 1]),
            "before": tokenizer.decode(ids[max(0, position - BEFORE) : position]),
            "after": tokenizer.decode(ids[position + 1 : position + 1 + AFTER]),
            "value": float(fired[window, position]),
            "tokens": sample.tokens,
        }


def _pushed(tokenizer: Any, logits: Tensor, most: int) -> Iterator[Row]:
    """The tokens of the vocabulary with the highest and the lowest of logits (V,)."""
    for reading, sign in ((UP, 1), (DOWN, -1)):
        for place, token in enumerate((sign * logits).topk(min(most, len(logits))).indices.tolist()):
            words = {"token": tokenizer.decode([token]), "before": "", "after": ""}
            size = {"value": float(logits[token]), "tokens": len(logits)}
            yield {"reading": reading, "place": place + 1} | words | size
