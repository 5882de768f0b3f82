"""A folder whose layers differ in width, as one that any vLLM takes, with nothing set and no comp-lib beside it.

A config.json cannot say what vLLM's class for such layers asks for (see `vllm_plugin`): it wants objects, and JSON
becomes dictionaries. What every runtime reads is a Llama whose layers are all alike. So each layer is filled up with
zeros to the widest, which changes nothing that the model computes:

    a neuron    rows of gate and up, column of down = 0     act(0) * 0 = 0 is added
    a KV group  rows of q, k and v, columns of o = 0        its queries see all keys alike, whose values are 0

and a step that a layer lacks is one of zeros only.

The price is that narrow layers are as large and as slow as the widest again; layers that pruning dropped stay away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from ..models.load import open_model
from ..models.per_layer_llama import CompLlamaConfig, widest
from ..models.reading import read_generation
from ..models.save import CARD_FILE, PER_LAYER, REGISTER, check_destination, estimated_bytes, foreign_files
from ..models.skeleton import skeleton
from ..report import Progress, no_progress
from ..scale.model_on_disk import Streamed
from ..shape import Shape
from ..system.atomic import resolved, staged
from ..system.tensor_files import CODES, PIECE, Layout, rows_in

FILLED = (
    "All layers of this folder are as wide as the widest: the narrower ones are filled up with zeros, which changes "
    "nothing that the model computes. Any runtime that reads Llama loads it; the tables above are of the model without."
)


@dataclass(frozen=True)
class Exported:
    """A folder for vLLM, and parameters before and after filling up."""

    folder: Path
    own: int
    filled: int


def export_vllm(
    model: str | Path, folder: str | Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> Exported:
    """Write `model`, a folder whose layers differ in width, to `folder` as a plain Llama that computes the same.

    The tensors pass in pieces, so little of a large model is in memory. The folder appears complete or not at all.
    Raises InputError, before anything is written, for a model that needs no such thing, for a folder that cannot be
    written; later only for weights that are not finite.
    """
    check_destination(folder, overwrite, sources=[model])
    place, config, tokenizer = open_model(model)
    if not isinstance(config, CompLlamaConfig):
        got = f"{config.model_type}: vllm serve takes it as it is"
        raise InputError(f"expected a folder whose layers differ in width (comp_llama), got {got}")
    _check_groups(config)
    dtype = skeleton(config).dtype
    # refuses files that are not as config.json says
    given = Streamed(place, config, dtype if dtype in CODES else torch.float32)
    stock = widest(config, given.shape)
    stock.architectures = ["LlamaForCausalLM"]
    filled = skeleton(stock)
    sizes = {name: tuple(tensor.shape) for name, tensor in filled.named_parameters()}  # a tied head once
    after = Shape.of(filled)
    check_destination(folder, overwrite, estimated_bytes(after, given.dtype), [model])
    own = given.skeleton.state_dict().keys()
    generation, layout = read_generation(str(place), config), Layout(sizes, given.dtype)
    with staged(resolved(folder)) as partial:
        partial.mkdir(parents=True)
        stock.save_pretrained(partial)
        generation.to_json_file(partial / "generation_config.json")
        tokenizer.save_pretrained(partial)
        if (place / CARD_FILE).is_file():
            card = (place / CARD_FILE).read_text("utf-8", errors="replace")
            (partial / CARD_FILE).write_text(card.replace(PER_LAYER, FILLED).replace(REGISTER, ""), "utf-8")
        layout.create(partial)

        def told(done: int, name: str) -> Iterator[Tensor]:
            there = name in own  # it is not where a layer lacks that step
            pieces: Iterator[Tensor] = given.files.pieces(name, given.dtype) if there else iter(())
            yield from filled_up(pieces, sizes[name], given.dtype)
            progress("exporting", done, len(sizes))

        layout.write(partial, {name: told(done, name) for done, name in enumerate(sizes, 1)})
    return Exported(Path(folder).expanduser(), given.shape.total, after.total)


def filled_up(pieces: Iterator[Tensor], size: tuple[int, ...], dtype: torch.dtype) -> Iterator[Tensor]:
    """A tensor that comes in pieces of whole rows, with zeros behind its rows and columns up to this size."""
    missing = size[0]
    for piece in pieces:
        missing -= len(piece)
        yield pad(piece, [0, size[1] - piece.shape[1]]) if len(size) == 2 else piece
    step = rows_in(PIECE, size, dtype)
    for start in range(0, missing, step):
        yield torch.zeros(min(step, missing - start), *size[1:], dtype=dtype)


def _check_groups(config: CompLlamaConfig) -> None:
    """Raises InputError unless all KV heads are shared by as many query heads: a stock config has one number."""
    layers = [(place, layer) for place, layer in enumerate(config.per_layer_config) if layer.num_attention_heads]
    shared = {place: layer.num_attention_heads // layer.num_key_value_heads for place, layer in layers}
    first = min(shared)
    if (other := next((place for place, count in shared.items() if count != shared[first]), None)) is not None:
        got = f"{shared[other]} in layer {other} and {shared[first]} in layer {first}: serve it with comp-lib installed"
        raise InputError(f"expected as many query heads to a KV head in each layer, got {got}")
