"""Checkpoint: a folder on disk that says what it is, and that is never half written.

The folder holds `config.json`, the weights as safetensors, the tokenizer, `generation_config.json`, a model
card (`README.md`) and the plan (`comp_plan.json`). Weights up to 5 GB are one `model.safetensors`, more are
shards of that size and an index. With stock widths it is a plain folder of the parent's family, which any
runtime loads. With widths that differ from layer to layer it brings a file of Python that transformers needs
(see `own_widths`), and the card says so. Nothing in it tells of the machine that made it, and the same input
gives the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..calibration.texts import check_tokenizer
from ..decoder.families import TYPE_PREFIX
from ..decoder.own_widths.meta_model import with_true_config
from ..decoder.shape import Shape
from ..decoder.types import Model
from ..hybrid_granularity.plan import Plan
from ..pruning.pruned import Pruned
from ..utils.arguments import check_switch, check_type
from ..utils.files import hide_folders, read_object, resolve, stage
from .card import Provenance, model_card
from .load import silence_transformers
from .new_folder import PLAN_FILE, check_new_folder
from .own_texts import write_card
from .tensors import LARGEST_FILE_BYTES


def save_model(
    pruned: Pruned, out: str | Path, tokenizer: PreTrainedTokenizerBase, *, overwrite: bool = False
) -> Path:
    """Write what `prune` returned to the folder `out`, with its plan and a model card, and return the folder.

    The numbers are saved in the dtype of the model. `load_model` reads the folder.

    Args:
        tokenizer: of the model; it is saved, too.
        overwrite: whether an earlier pruned model in `out` may be replaced.

    Raises InputError, before anything is written, for a folder that has files in it.

        pruned = prune(model, ids, Settings(ratio=0.2))
        save_model(pruned, "build/small", tokenizer)
    """
    check_type("pruned", pruned, "what prune returned", example="prune(model, ids)", allowed=(Pruned,))
    check_type("out", out, "the name of a folder", example="build/small")
    check_tokenizer(tokenizer)
    check_switch("overwrite", overwrite)
    text = f"{pruned.report.token_count:,} tokens"
    parent_name = pruned.plan.parent or hide_folders(pruned.model.name_or_path) or "a model"
    settings = pruned.report.settings.stated(plan_given=pruned.report.plan_given)
    provenance = Provenance(parent_name, pruned.parent_shape, text, settings)
    return save_checkpoint(out, pruned.model, tokenizer, pruned.plan, provenance, overwrite=overwrite)


def save_checkpoint(
    out: str | Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    provenance: Provenance,
    *,
    overwrite: bool = False,
) -> Path:
    """Write `model`, as surgery left it, with all that belongs to it to `out`, and return the folder.

    The model is not changed.

    Raises InputError, before anything is written, for what `check_new_folder` refuses.
    """
    shape = Shape.of(model)
    target = resolve(out)
    check_new_folder(out, overwrite, shape.total_parameters * model.dtype.itemsize)
    result = with_true_config(model)
    with stage(target) as partial:
        write_weights(partial, result)
        save_metadata(partial, target.name, tokenizer, shape, plan, provenance)
    return Path(out).expanduser()


def write_weights(folder: Path, model: Model) -> None:
    """Write the config and the weights of `model`.

    The files of weights get the permissions of the config: safetensors alone would write them as 0600.
    """
    with silence_transformers():
        model.save_pretrained(folder, max_shard_size=LARGEST_FILE_BYTES)
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


def save_metadata(
    folder: Path,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    shape: Shape,
    plan: Plan,
    provenance: Provenance,
) -> None:
    """Write all files of the checkpoint `name` but its weights and its config, which must be there."""
    tokenizer.save_pretrained(folder)
    shared_plan = replace(plan, parent=hide_folders(plan.parent))
    (folder / PLAN_FILE).write_text(shared_plan.to_json(), encoding="utf-8")
    model_type = read_object(folder / "config.json")["model_type"].removeprefix(TYPE_PREFIX)
    write_card(folder, model_card(name, shape, plan, provenance, model_type))
