"""`comp-lib heal`: the healing of a pruned model that is in a folder, into another folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...calibration.defaults import USUAL_SEQUENCES
from ...calibration.in_memory import Source
from ...calibration.mixtures import text_hashes
from ...calibration.windows import Calibration
from ...decoder.shape import Shape
from ...decoder.tokens import check_length
from ...decoder.types import Model
from ...hybrid_granularity.plan import Plan
from ...recovery.healing import HealingSettings, check_amount, check_healing, heal
from ...utils.arguments import check_package, check_switch, check_type
from ...utils.errors import InputError
from ...utils.files import hide_folders
from ...utils.machine import available_device
from ...utils.progress import Progress, check_progress, no_progress
from ..card import Provenance, calibration_hashes
from ..load import load_model, load_with_room, open_model
from ..new_folder import PLAN_FILE, check_new_folder
from ..save import save_checkpoint


@dataclass(frozen=True)
class HealedFolder:
    """A healed model on disk, and how it was judged on sequences that did not teach."""

    path: Path
    """The folder that has its files."""
    plan: Plan
    """The plan of the model that was healed."""
    divergence_before: float
    """Divergence from the parent before the training, nats per token."""
    divergence_after: float
    """The same after the training."""


def heal_folder(
    name: str | Path,
    out: str | Path,
    *,
    parent_name: str | Path,
    settings: HealingSettings = HealingSettings(),  # noqa: B008  a frozen value
    calibration: Calibration | Source = Calibration("written"),  # noqa: B008  a frozen value
    overwrite: bool = False,
    force: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> HealedFolder:
    """Heal `name`, a folder that `comp-lib prune` wrote, by its parent, on the text of `calibration`.

    The training computes in float32; the files in `out` get the dtype of the pruned model. Only the weights,
    the tokenizer and the plan of `name` are read, so no other file of it gets into `out`.

    Args:
        name: of that folder.
        out: the folder of the healed model.
        parent_name: name or folder of the model that was pruned.
        settings: of the training.
        calibration: the text, as for `prune_model`; its last JUDGING_SEQUENCES sequences do not teach.
        overwrite: whether a pruned model that is in `out` is replaced.
        force: whether a model is saved even if it got no better on the sequences that did not teach.
        device: where both models compute: "cpu", "cuda", "cuda:1", or "auto" for the best.
        progress: called while the parent writes the text, and after each step of the training.

    Raises InputError, before any work, for arguments of a wrong type, where peft is missing, for too few
    sequences, for a parent from which `name` cannot have been pruned, and for what `save_checkpoint` refuses;
    after the training, unless `force`, for a model that got no better.
    """
    for argument, folder in (("name", name), ("out", out), ("parent_name", parent_name)):
        check_type(argument, folder, "the name of a folder", example="build/small")
    check_healing(settings)
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    check_switch("overwrite", overwrite)
    check_switch("force", force)
    check_progress(progress)
    device = str(available_device(device))
    check_package("peft", "heal")
    check_amount(calibration.sequences or USUAL_SEQUENCES, settings)
    hashes = text_hashes(calibration.source)
    meta_model, files, tokenizer = open_model(name)
    size = Shape.of(meta_model).total_parameters * meta_model.dtype.itemsize
    check_new_folder(out, overwrite, size, files.path, parent_name)
    check_length(calibration.length, meta_model.config.max_position_embeddings)
    plan = Plan.load(files.path / PLAN_FILE)
    meta_parent, _, _ = open_model(parent_name)
    _check_parent(meta_model, meta_parent, plan)
    parent_model, _ = load_model(parent_name, device=device)
    pruned_model, _ = load_with_room(name, device=device, copies=2)
    ids = calibration.tokens(tokenizer, model=parent_model, progress=progress)
    healed = heal(pruned_model, ids, parent=parent_model, settings=settings, progress=progress)
    if healed.divergence_after >= healed.divergence_before and not force:
        raise InputError(
            expected=f"less divergence from {hide_folders(parent_name)} on text that did not teach",
            got=f"{healed.divergence_before:.4f} before and {healed.divergence_after:.4f} after",
            hint="lower the learning rate, raise the number of sequences, or force it",
        )
    history = (
        f"what the card of {hide_folders(name)} says, then healed on "
        f"{len(ids)} x {calibration.length} tokens of {hide_folders(calibration.source)} "
        "towards the parent's answers: "
        f"divergence {healed.divergence_before:.3f} before, "
        f"{healed.divergence_after:.3f} nats per token after"
    )
    provenance = Provenance(
        str(parent_name),
        Shape.of(parent_model),
        history,
        vars(settings) | {"sequences": len(ids), "length": calibration.length},
        hashes=(*calibration_hashes(files.path), *hashes),
    )
    converted_model = healed.model.to(meta_model.dtype)  # type: ignore[arg-type]
    path = save_checkpoint(out, converted_model, tokenizer, plan, provenance, overwrite=overwrite)
    return HealedFolder(path, plan, healed.divergence_before, healed.divergence_after)


def _check_parent(pruned: Model, parent: Model, plan: Plan) -> None:
    """Raises InputError unless `pruned`, with this plan, can have been made of `parent`, by their sizes."""
    expected_sizes = (pruned.config.vocab_size, Shape.of(pruned).hidden_size, plan.parent_layers)
    sizes = (parent.config.vocab_size, Shape.of(parent).hidden_size, Shape.of(parent).layer_count)
    if sizes != expected_sizes:
        description = "the parent, with {:,} tokens, a stream {} numbers wide and {} layers"
        raise InputError(
            expected=description.format(*expected_sizes),
            got="{:,} tokens, {} numbers and {} layers".format(*sizes),
            hint="name the model that was pruned",
        )
