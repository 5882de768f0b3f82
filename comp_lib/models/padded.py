"""A folder whose layers differ in width, filled up with zeros to one that every runtime loads (docs/serving.md)."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from ..errors import InputError
from ..families.find import layers_of, parts
from ..families.protocol import Layer
from ..shape import Shape
from ..system.atomic import resolved, staged
from ..system.tensors import weight_shapes
from .load import open_model
from .meta_model import config_of, filled, make_meta_model
from .save import CARD_FILE, OWN_WIDTHS, PLAN_FILE, REGISTER, check_destination, write_weights

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
    large = make_meta_model(config_of(small.config, filled_shape(shape)), small.dtype)
    large.generation_config = small.generation_config
    check_destination(out, overwrite, Shape.of(large).total * small.dtype.itemsize, files.path)
    tensors = {name: files.read(name, small.dtype) for name in weight_shapes(small)}
    for index, (own, wide) in enumerate(zip(*(layers_of(one) for one in (small, large)), strict=True)):
        _fill_up(tensors, f"model.layers.{index}", own, wide)
    result = filled(large, tensors.__getitem__)
    with staged(resolved(out)) as partial:
        write_weights(partial, result)
        tokenizer.save_pretrained(partial)
        register = REGISTER.format(json.dumps(result.config.model_type))
        for name in (PLAN_FILE, CARD_FILE):
            if (files.path / name).is_file():
                text = (
                    (files.path / name).read_text("utf-8").replace(OWN_WIDTHS, FILLED).replace(register, "")
                )
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
    raise InputError(
        f"expected KV groups that can be filled up to heads that divide {shape.hidden}, got {got}"
    )


def _fill_up(tensors: dict[str, Tensor], prefix: str, own: Layer, wide: Layer) -> None:
    """Give the tensors of a narrow layer, called `prefix`, the sizes that they have in a wide one."""
    for which, part in parts(own).items():
        full, place = parts(wide)[which], f"{prefix}.{part.name}"
        for name, rows in part.rows.items():
            for key in {f"{place}.{name}.weight", f"{place}.{name}.bias"} & tensors.keys():
                old = tensors[key]
                tensors[key] = old.new_zeros(getattr(full.module, name).out_features, *old.shape[1:])
                tensors[key][full.rows[name][: len(rows)].flatten()] = old[rows.flatten()]
        key, missing = f"{place}.{part.linear_name}.weight", full.linear.in_features - part.linear.in_features
        tensors[key] = nn.functional.pad(tensors[key], (0, missing))
