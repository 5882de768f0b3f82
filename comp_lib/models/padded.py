"""A folder whose layers differ in width as one that every runtime loads, with no comp_lib beside it.

What every runtime reads is a stock folder, whose layers are all alike. So each layer is filled up with zeros to the
widest, which changes nothing that the model computes:

    a neuron    rows of gate and up, column of down = 0     act(0) * 0 = 0 is added
    a KV group  rows of q, k and v, columns of o = 0        its queries see all keys alike, whose values are 0

The price is that narrow layers are as large and as slow as the widest again; layers that pruning dropped stay away.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..families import family_of, parts
from ..families.protocol import Layer
from ..report import Progress, no_progress
from ..shape import Shape
from ..system.atomic import resolved, staged
from .load import open_model, weights_of
from .own_widths import config_of, stock_type
from .reading import quiet, read_generation
from .save import (
    CARD_FILE,
    LARGEST,
    OWN_WIDTHS,
    PLAN_FILE,
    REGISTER,
    check_destination,
    estimated_bytes,
    share,
    text_beside,
)
from .skeleton import filled, skeleton

FILLED = (
    "All layers of this folder are as wide as the widest: the narrower ones are filled up with zeros, which changes "
    "nothing that the model computes. Any runtime loads it; the tables above are of the model without."
)


def export_padded(
    model: str | Path, out: str | Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> Path:
    """Write `model`, a folder whose layers differ in width, to the folder `out` in its family's stock form.

    The filled model is in memory as a whole. Raises InputError, before anything is written, for a model that is stock
    already, and for a folder that cannot be written. Returns the folder.
    """
    check_destination(out, overwrite, sources=[model])
    place, config, tokenizer = open_model(model)
    small = skeleton(config)
    shape = Shape.of(small)
    if shape.stock:
        got = f"{config.model_type} with one for all: every runtime takes it as it is"
        raise InputError(f"expected a folder whose layers differ in width, got {got}")
    large = skeleton(config_of(config, filled_shape(shape)), small.dtype)
    check_destination(out, overwrite, estimated_bytes(Shape.of(large), small.dtype), [model])
    files = weights_of(place, small)
    places: dict[str, tuple[Tensor, int]] = {}
    for index, (own, wide) in enumerate(zip(*(family_of(one).layers(one) for one in (small, large)), strict=True)):
        places |= {f"model.layers.{index}.{name}": at for name, at in _places(own, wide).items()}
    done = 0

    def read(name: str) -> Tensor:
        nonlocal done
        done += 1
        progress("padding", done, len(files.shapes))
        tensor, size = files.read(name, small.dtype), large.get_parameter(name).shape
        if tensor.shape == size:
            return tensor
        indices, dimension = places[name]
        return torch.zeros(size, dtype=tensor.dtype).index_copy_(dimension, indices, tensor)

    result = filled(large, read)
    result.generation_config = read_generation(place, config)
    with staged(resolved(out)) as partial:
        with quiet():
            result.save_pretrained(partial, max_shard_size=LARGEST)
            tokenizer.save_pretrained(partial)
        register = REGISTER.format(json.dumps(stock_type(config)))
        card = text_beside(place, CARD_FILE).replace(OWN_WIDTHS, FILLED).replace(register, "")
        for name, text in ((PLAN_FILE, text_beside(place, PLAN_FILE)), (CARD_FILE, card)):
            if text:
                (partial / name).write_text(text, "utf-8")
        share(partial)
    return Path(out).expanduser()


def filled_shape(shape: Shape) -> Shape:
    """All layers as wide as the widest, with a number of heads that a stock config takes.

    Raises InputError where no such number is left below the width of the stream.
    """
    for groups in range(max(shape.kv_groups), shape.hidden // shape.group_heads + 1):
        alike = shape.with_widths((max(shape.neurons),) * shape.layers, (groups,) * shape.layers)
        if alike.stock:
            return alike
    got = f"{max(shape.kv_groups)} KV groups of {shape.group_heads}: load the folder with comp_lib"
    raise InputError(f"expected KV groups that can be filled up to heads that divide {shape.hidden}, got {got}")


def _places(own: Layer, wide: Layer) -> dict[str, tuple[Tensor, int]]:
    """Where the numbers of a narrow layer stand in a wide one: tensor -> (indices, dimension that they count)."""
    places: dict[str, tuple[Tensor, int]] = {}
    for which, part in parts(own).items():
        wide_rows = parts(wide)[which].rows
        for name, rows in part.rows.items():
            at = torch.empty(rows.numel(), dtype=torch.long)
            at[rows.flatten()] = wide_rows[name][: len(rows)].flatten()
            places |= {f"{part.name}.{name}.{kind}": (at, 0) for kind in ("weight", "bias")}
        places[f"{part.name}.{part.dense}.weight"] = torch.arange(part.linear.in_features), 1
    return places
