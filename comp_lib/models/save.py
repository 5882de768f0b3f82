"""Checkpoint: a folder on disk that says what it is, and that is never half written.

The folder holds `config.json`, the weights as safetensors, the tokenizer, `generation_config.json`, a model card
(`README.md`) and the plan (`comp_plan.json`). Weights up to 5 GB are one `model.safetensors`, more are shards of that
size and an index. With stock widths it is a plain folder of the parent's family, which any runtime loads; with widths
that differ from layer to layer it needs `import comp_lib.models.per_layer_llama` first, and the card says so. Nothing
in it tells of the machine that made it, and the same input gives the same bytes.

Writing is atomic (see `atomic`): whenever the process dies, the folder is the old one, the new one, or absent.
`check_destination` and `save_checkpoint` clean up after a process that died.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..families.protocol import Model
from ..plan import Plan
from ..shape import Shape
from ..system.atomic import check_room, resolved, staged, tidy
from ..system.tensor_files import LARGEST
from .model_card import Provenance as Provenance
from .model_card import model_card, shareable
from .per_layer_llama import as_heterogeneous, as_stock, check_widths

CARD_FILE, PLAN_FILE = "README.md", "comp_plan.json"
SMALL_FILES = 16 << 20  # bytes, generously, of all that is not weights: mostly the tokenizer
USABLE = os.R_OK | os.W_OK | os.X_OK


def save_checkpoint(
    folder: str | Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    card: Provenance,
    *,
    overwrite: bool = False,
) -> Path:
    """Write `model` (as surgery left it; it is not changed) with all that belongs to it. Returns the folder.

    Raises InputError for what `check_destination` and `check_widths` refuse, before anything is written.
    """
    shape = Shape.of(model)
    check_widths(model.config, shape)
    check_destination(folder, overwrite, estimated_bytes(shape, model.dtype), model.config.name_or_path or None)
    target = resolved(folder)
    described = as_stock(model, shape) if shape.stock else as_heterogeneous(model, shape)
    with staged(target, overwrite) as partial:
        described.save_pretrained(partial, max_shard_size=LARGEST)
        save_papers(partial, target.name, tokenizer, shape, plan, card)
    return Path(folder).expanduser()


def save_papers(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerBase, shape: Shape, plan: Plan, card: Provenance
) -> None:
    """All that belongs to the checkpoint `name` beside its weights and its config."""
    tokenizer.save_pretrained(folder)
    replace(plan, parent=shareable(plan.parent)).save(folder / PLAN_FILE)
    (folder / CARD_FILE).write_text(model_card(name, shape, plan, card), encoding="utf-8")


def estimated_bytes(shape: Shape, dtype: torch.dtype | str) -> int:
    """Bytes that a checkpoint of this shape takes on disk, rounded up generously."""
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return shape.total * dtype.itemsize + SMALL_FILES


def check_destination(
    folder: str | Path, overwrite: bool = False, needed_bytes: int = 0, source: str | Path | None = None
) -> None:
    """Raises InputError unless `folder` can be written, so that no hour of work ends in a refusal.

    `source` is the model to prune, as the user named it: its own files are never overwritten. The only thing that
    this function may change on disk is what an interrupted save left there.
    """
    target = resolved(folder)
    above = next(path for path in (*target.parents, target) if os.path.exists(path))  # "/", at last, does
    if not above.is_dir() or not os.access(above, USABLE):
        raise InputError(f"expected a folder that can be written to, got {above}: choose another place for {folder}")
    tidy(target)
    origin = None if source is None else resolved(source)  # of a Hub id, a path that need not exist
    if os.path.exists(target) and not target.is_dir():
        raise InputError(f"expected a new folder, got the file {folder}: choose another name")
    if origin is not None and os.path.exists(origin) and target in (origin, *origin.parents):
        raise InputError(f"expected a folder apart from the model to prune, got {folder}: choose another name")
    if os.path.ismount(target) or (os.path.exists(target) and not os.access(target, USABLE)):
        raise InputError(f"expected a folder that can be replaced, got {folder}: choose a new folder inside it")
    if os.path.exists(target) and any(target.iterdir()):
        if not overwrite:
            got = f"{folder} with files in it: choose another name or say --overwrite"
            raise InputError(f"expected a new or an empty folder, got {got}")
        if not (target / "config.json").is_file() or not any(target.glob("*.safetensors")):
            got = f"{folder}, which does not look like one: delete it yourself or choose another name"
            raise InputError(f"expected a checkpoint to overwrite (config.json, *.safetensors), got {got}")
    check_room(above, needed_bytes, folder)
