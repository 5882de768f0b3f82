"""A folder whose layers differ in width, padded with zeros: every runtime loads it (docs/serving.md)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..decoder.own_widths.meta_model import config_with_widths, fill, make_meta_model
from ..decoder.own_widths.modelling_file import file_name
from ..decoder.shape import Shape
from ..decoder.structure import layers_of, parts
from ..decoder.types import Layer
from ..decoder.weight_names import weight_shapes
from ..utils.arguments import check_switch, check_type
from ..utils.errors import InputError, warn_once
from ..utils.files import check_link, resolve, stage
from .card import OWN_WIDTHS_NOTE, TRUST, WITH_COMP_LIB_NOTE
from .load import open_model
from .new_folder import PLAN_FILE, check_new_folder
from .own_texts import CARD_FILE, write_card
from .save import write_weights

PADDED_NOTE = (
    "All layers of this folder are as wide as the widest: the narrower ones are filled up with zeros, which "
    "changes nothing that the model computes. Any runtime loads it; the tables above are of the model "
    "without."
)


def export_padded(name: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write `name`, a folder whose layers differ in width, in its family's stock form to the folder `out`.

    Returns the folder. All of the padded model is in memory.

    Args:
        name: of the folder.
        overwrite: whether an earlier result in `out` may be replaced.

    Raises InputError, before anything is written, for arguments of a wrong type, for a model that is stock
    already, for a plan or a card that is a link to somewhere else, and for a folder that cannot be written.
    """
    check_type("name", name, "the folder of a model", example="build/small")
    check_type("out", out, "the name of a folder", example="build/padded")
    check_switch("overwrite", overwrite)
    narrow, files, tokenizer = open_model(name)
    shape = Shape.of(narrow)
    if shape.fits_stock_config:
        raise InputError(
            expected="a folder whose layers differ in width",
            got=f"{narrow.config.model_type} with one for all",
            hint="every runtime takes it as it is",
        )
    for copied_file in (PLAN_FILE, CARD_FILE):
        check_link(files.path, files.path / copied_file)
    wide = make_meta_model(config_with_widths(narrow.config, padded_shape(shape)), narrow.dtype)
    wide.generation_config = narrow.generation_config
    check_new_folder(out, overwrite, Shape.of(wide).total_parameters * narrow.dtype.itemsize, files.path)
    tensors = {name: files.read(name, narrow.dtype) for name in weight_shapes(narrow)}
    for index, (narrow_layer, wide_layer) in enumerate(zip(layers_of(narrow), layers_of(wide), strict=True)):
        _pad(tensors, f"model.layers.{index}", narrow_layer, wide_layer)
    result = fill(wide, tensors.__getitem__)
    with stage(resolve(out)) as partial:
        write_weights(partial, result)
        tokenizer.save_pretrained(partial)
        _copy_metadata(files.path, partial, result.config.model_type)
    return Path(out).expanduser()


def _copy_metadata(source: Path, target: Path, model_type: str) -> None:
    """Copy the plan and the card, if the source has them.

    The new card does not say that the folder brings a file of Python.
    """
    if (source / PLAN_FILE).is_file():
        (target / PLAN_FILE).write_bytes((source / PLAN_FILE).read_bytes())
    if (source / CARD_FILE).is_file():
        text = (source / CARD_FILE).read_text("utf-8", errors="replace")
        note = OWN_WIDTHS_NOTE.format(file=file_name(model_type))
        if note not in text:
            warn_once(f"{CARD_FILE} of the source has another note on loading: correct it in the new folder")
        text = text.replace(note, PADDED_NOTE)
        write_card(target, text.replace(TRUST, "").replace(WITH_COMP_LIB_NOTE, ""))


def padded_shape(shape: Shape) -> Shape:
    """The shape whose layers are all as wide as the widest, with a number of heads that a stock config takes.

    Raises InputError where no such number is left below the width of the stream.
    """
    neurons = (max(shape.neurons),) * shape.layer_count
    widest_groups = max(shape.kv_groups)
    for groups in range(widest_groups, shape.hidden_size // shape.group_heads + 1):
        uniform_shape = shape.with_widths(neurons, (groups,) * shape.layer_count)
        if uniform_shape.fits_stock_config:
            return uniform_shape
    raise InputError(
        expected=f"KV groups that can be filled up to heads that divide {shape.hidden_size}",
        got=f"{widest_groups} KV groups of {shape.group_heads}",
        hint="load the folder with comp_lib",
    )


def _pad(tensors: dict[str, Tensor], prefix: str, narrow: Layer, wide: Layer) -> None:
    """Pad the tensors of a narrow layer, whose names begin with `prefix`, to their sizes in a wide layer."""
    wide_parts = parts(wide)
    for step, part in parts(narrow).items():
        wide_part = wide_parts[step]
        part_name = f"{prefix}.{part.name}"
        for name, rows in part.producer_rows.items():
            outputs = getattr(wide_part.module, name).out_features
            # the rows of the blocks that the narrow layer has
            new_rows = wide_part.producer_rows[name][: len(rows)].flatten()
            for key in {f"{part_name}.{name}.weight", f"{part_name}.{name}.bias"} & tensors.keys():
                tensor = tensors[key]
                tensors[key] = tensor.new_zeros(outputs, *tensor.shape[1:])
                tensors[key][new_rows] = tensor[rows.flatten()]
        key = f"{part_name}.{part.output_name}.weight"
        missing_inputs = wide_part.output_linear.in_features - part.output_linear.in_features
        tensors[key] = nn.functional.pad(tensors[key], (0, missing_inputs))
