"""Healing: a pruned model learns again what its parent answers, by low-rank changes folded into its weights.

The parent's answers teach, on text that the parent wrote, so no data is needed (self-distillation):

    L = sum_t KL(p_t || q_t),     p_t, q_t: next token after x_1 ... x_t, by the parent, by the pruned model,
    dL / dz_t = q_t - p_t,        z_t the logits of the pruned model.

Each linear in the layers gets a change of low rank (LoRA; Hu et al., arXiv 2106.09685), which is trained and
at the end added to the weights,

    W' = W + (alpha / r) B A,     A (r, n) random, B (m, r) = 0 at the start,

so that before the first step nothing is changed. One sequence at a time passes through both models: with a
wide vocabulary, its logits are the largest tensors here.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .calibration.defaults import USUAL_SEQUENCES
from .calibration.shares import text_hashes
from .calibration.windows import Calibration
from .divergence import divergence_terms
from .errors import InputError, check_seed, check_whole_number
from .families.run import check_length, evaluation_mode
from .families.types import Model
from .models.load import load_model, load_with_room, open_model
from .models.save import (
    PLAN_FILE,
    Provenance,
    calibration_hashes,
    check_destination,
    hide_folders,
    save_checkpoint,
)
from .plan import Plan
from .progress import Progress, no_progress
from .shape import Shape

JUDGING_SEQUENCES = 8  # sequences, the last ones, that judge before and after, and do not teach
WARM_UP_SHARE = 0.1  # part of the steps in which the learning rate rises; then it falls in a straight line
GRADIENT_NORM_LIMIT = 1.0  # largest norm of the gradient of a step; a larger gradient is scaled down


@dataclass(frozen=True)
class HealingSettings:
    """The settings of a training.

    Raises InputError for steps, batch, rank or alpha that are no whole number above 0, for a rate that is no
    finite number above 0, and for a seed that is no whole number.

    >>> HealingSettings(steps=0)
    Traceback (most recent call last):
    comp_lib.errors.InputError: expected steps as a whole number above 0, got 0: the smallest is 1
    """

    steps: int = 100
    """Steps of AdamW."""
    batch: int = 4
    """Sequences in a step."""
    rank: int = 8
    """Rank r of the changes."""
    alpha: int = 16
    """The changes are multiplied by alpha / r."""
    rate: float = 1e-3
    """The highest learning rate."""
    seed: int = 0
    """Decides the A at the start."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rank", "alpha"):
            check_whole_number(name, getattr(self, name), 1)
        is_number = isinstance(self.rate, int | float) and not isinstance(self.rate, bool)
        if not is_number or not 0.0 < self.rate < math.inf:
            raise InputError(
                expected="rate as a finite number above 0", got=repr(self.rate), hint="1e-3 is usual"
            )
        check_seed(self.seed)


class HealingResult(NamedTuple):
    """A healed model, and how it was judged on sequences that did not teach."""

    model: Model
    divergence_before: float
    """Divergence from the parent before the training, nats per token."""
    divergence_after: float
    """The same after the training."""


def heal(
    model: Model,
    ids: Tensor,
    parent: Model,
    healing: HealingSettings = HealingSettings(),
    progress: Progress = no_progress,
) -> HealingResult:
    """Train a copy of `model` on ids (S, L) towards the answers of `parent`.

    The last JUDGING_SEQUENCES sequences do not teach: they judge.

    Raises InputError for too few sequences, and where the training does not converge.
    """
    minimum = JUDGING_SEQUENCES + healing.batch
    if len(ids) < minimum:
        raise InputError(
            expected=f"at least {minimum} sequences ({JUDGING_SEQUENCES} judge, {healing.batch} make a step)",
            got=len(ids),
            hint="ask for more",
        )
    training_ids = ids[:-JUDGING_SEQUENCES]
    judging_ids = ids[-JUDGING_SEQUENCES:]
    adapted = _with_low_rank_changes(model, healing)
    with evaluation_mode(adapted, parent):
        before = _mean_divergence(adapted, parent, judging_ids)
        _train(adapted, training_ids, parent, healing, progress)
        healed = adapted.merge_and_unload().requires_grad_(False)
        after = _mean_divergence(healed, parent, judging_ids)
    if not math.isfinite(after):
        raise InputError(
            expected="a training that converges", got=f"a divergence of {after}", hint="lower the rate"
        )
    return HealingResult(healed, before, after)


def _with_low_rank_changes(model: Model, healing: HealingSettings) -> Any:
    """A copy of `model` (peft's) in which only A and B of each linear are trainable."""
    import peft

    config = peft.LoraConfig(
        r=healing.rank, lora_alpha=healing.alpha, lora_dropout=0.0, target_modules="all-linear"
    )
    with torch.random.fork_rng(devices=[]):  # A is drawn from the global state
        torch.manual_seed(healing.seed)
        # A deep copy, since a pruned model shares tensors with its parent.
        return peft.get_peft_model(copy.deepcopy(model), config)


def _train(model: Any, ids: Tensor, parent: Model, healing: HealingSettings, progress: Progress) -> None:
    """Train `model` in place, so that its answers on ids (S, L) come nearer to the answers of `parent`."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    for step in range(healing.steps):
        optimizer.zero_grad()
        start = step * healing.batch
        for number in range(start, start + healing.batch):
            sequence = ids[number % len(ids)]  # all sequences teach before one teaches again
            loss = _divergence(model, parent, sequence) / healing.batch
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM_LIMIT)
        optimizer.param_groups[0]["lr"] = learning_rate(step, healing)
        optimizer.step()
        progress("healing", step + 1, healing.steps)


def divergence(logits: Tensor, parent_logits: Tensor) -> Tensor:
    """Mean over tokens of KL(p || q), nats: logits z of q (T, V) and of p (T, V) -> ()."""
    log_q = logits.float().log_softmax(-1)
    log_p = parent_logits.float().log_softmax(-1)
    return divergence_terms(log_p, log_q).sum() / len(log_q)


def learning_rate(step: int, healing: HealingSettings) -> float:
    """Learning rate of a step: it rises for WARM_UP_SHARE of the steps, then falls in a line towards 0."""
    warm_up_steps = max(1, round(WARM_UP_SHARE * healing.steps))
    rising = (step + 1) / warm_up_steps
    falling = (healing.steps - step) / max(1, healing.steps - warm_up_steps)
    return healing.rate * min(rising, falling)


def _divergence(model: Model, parent: Model, sequence: Tensor) -> Tensor:
    """Divergence of the model's answers from the parent's on a sequence of tokens (L,), with its gradient."""
    ids = sequence[None].to(parent.device)
    with torch.no_grad():
        parent_logits = parent(input_ids=ids, use_cache=False).logits[0]
    logits = model(input_ids=ids, use_cache=False).logits[0]
    return divergence(logits, parent_logits)


@torch.no_grad()
def _mean_divergence(model: Model, parent: Model, ids: Tensor) -> float:
    """Mean divergence over the sequences ids (S, L), nats per token."""
    return sum(_divergence(model, parent, sequence).item() for sequence in ids) / len(ids)


def heal_folder(
    model: str | Path,
    parent: str | Path,
    out: str | Path,
    healing: HealingSettings = HealingSettings(),
    calibration: Calibration = Calibration("written", USUAL_SEQUENCES),  # noqa: B008  a frozen value
    *,
    overwrite: bool = False,
    force: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> HealingResult:
    """Heal `model`, a folder that `comp-lib prune` wrote, by `parent`, on the text of `calibration`.

    The training computes in float32; the files in `out` get the dtype of the pruned model. Only the weights,
    the tokenizer and the plan of `model` are read, so no other file of it gets into `out`.

    Args:
        calibration: the text; its last JUDGING_SEQUENCES sequences do not teach.
        overwrite: whether a pruned model that is in `out` is replaced.
        force: whether a model is saved even if it got no better on the sequences that did not teach.

    Raises InputError, before any work, for a parent from which `model` cannot have been pruned, and for what
    `save_checkpoint` refuses; after the training, unless `force`, for a model that got no better.
    """
    hashes = text_hashes(calibration.source)
    meta_model, files, tokenizer = open_model(model)
    size = Shape.of(meta_model).total_parameters * meta_model.dtype.itemsize
    check_destination(out, overwrite, size, files.path, parent)
    check_length(calibration.length, meta_model.config.max_position_embeddings)
    plan = Plan.load(files.path / PLAN_FILE)
    meta_parent, _, _ = open_model(parent)
    _check_parent(meta_model, meta_parent, plan)
    parent_model, _ = load_model(parent, device=device)
    pruned_model, _ = load_with_room(model, device=device, copies=2)
    ids = calibration.tokens(tokenizer, model=parent_model, progress=progress)
    healed = heal(pruned_model, ids, parent_model, healing, progress)
    if healed.divergence_after >= healed.divergence_before and not force:
        raise InputError(
            expected=f"less divergence from {hide_folders(parent)} on text that did not teach",
            got=f"{healed.divergence_before:.4f} before and {healed.divergence_after:.4f} after",
            hint="lower the rate, raise the number of sequences, or force it",
        )
    history = (
        f"what the card of {hide_folders(model)} says, then healed on "
        f"{len(ids)} x {calibration.length} tokens of {hide_folders(calibration.source)} "
        "towards the parent's answers: "
        f"divergence {healed.divergence_before:.3f} before, "
        f"{healed.divergence_after:.3f} nats per token after"
    )
    card = Provenance(
        str(parent),
        Shape.of(parent_model),
        history,
        vars(healing) | {"sequences": len(ids), "length": calibration.length},
        hashes=(*calibration_hashes(files.path), *hashes),
    )
    converted_model = healed.model.to(meta_model.dtype)  # type: ignore[arg-type]
    save_checkpoint(out, converted_model, tokenizer, plan, card, overwrite=overwrite)
    return healed


def _check_parent(pruned: Model, parent: Model, plan: Plan) -> None:
    """Raises InputError unless `pruned`, with this plan, can have been made of `parent`, by their sizes."""
    expected_sizes = (pruned.config.vocab_size, Shape.of(pruned).hidden, plan.parent_layers)
    sizes = (parent.config.vocab_size, Shape.of(parent).hidden, Shape.of(parent).layers)
    if sizes != expected_sizes:
        description = "the parent, with {:,} tokens, a stream {} numbers wide and {} layers"
        raise InputError(
            expected=description.format(*expected_sizes),
            got="{:,} tokens, {} numbers and {} layers".format(*sizes),
            hint="name the model that was pruned",
        )
