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
from ..shape import Shape
from ..system.files import resolved, staged
from .load import open_model
from .own_widths import config_of
from .save import CARD_FILE, OWN_WIDTHS, PLAN_FILE, REGISTER, check_destination, estimated_bytes, write_weights
from .skeleton import filled, skeleton

FILLED = (
    "All layers of this folder are as wide as the widest: the narrower ones are filled up with zeros, which changes "
    "nothing that the model computes. Any runtime loads it; the tables above are of the model without."
)


def export_padded(model: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write `model`, a folder whose layers differ in width, to the folder `out` in its family's stock form.

    The filled model is in memory as a whole. Raises InputError, before anything is written, for a model that is stock
    already, and for a folder that cannot be written. Returns the folder.
    """
    small, files, tokenizer = open_model(model)
    shape = Shape.of(small)
    if shape.stock:
        got = f"{small.config.model_type} with one for all: every runtime takes it as it is"
        raise InputError(f"expected a folder whose layers differ in width, got {got}")
    large = skeleton(config_of(small.config, filled_shape(shape)), small.dtype)
    large.generation_config = small.generation_config
    check_destination(out, overwrite, estimated_bytes(Shape.of(large), small.dtype))
    places: dict[str, tuple[Tensor, int]] = {}
    for index, (own, wide) in enumerate(zip(*(family_of(one).layers(one) for one in (small, large)), strict=True)):
        places |= {f"model.layers.{index}.{name}": at for name, at in _places(own, wide).items()}

    def read(name: str) -> Tensor:
        tensor, size = files.read(name, small.dtype), large.get_parameter(name).shape
        if tensor.shape == size:
            return tensor
        indices, dimension = places[name]
        return torch.zeros(size, dtype=tensor.dtype).index_copy_(dimension, indices, tensor)

    result = filled(large, read)
    with staged(resolved(out)) as partial:
        write_weights(partial, result)
        tokenizer.save_pretrained(partial)
        register = REGISTER.format(json.dumps(result.config.model_type))
        for name in (PLAN_FILE, CARD_FILE):
            if (files.place / name).is_file():
                text = (files.place / name).read_text("utf-8").replace(OWN_WIDTHS, FILLED).replace(register, "")
                (partial / name).write_text(text, "utf-8")
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
