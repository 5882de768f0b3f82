"""Healing: a pruned model learns again what its parent answers, by low-rank changes folded into its weights.

The parent's answers teach, on text that the parent wrote, so no data is needed (self-distillation):

    L = mean_t KL(p_t || q_t),      p_t, q_t: next token after x_1 ... x_t, by the parent, the pruned model,
    dL / dz_t = (q_t - p_t) / T,    z_t the logits of the pruned model, T the number of tokens.

Each linear in the layers gets a change of low rank (LoRA; Hu et al., arXiv 2106.09685), which is trained and
at the end added to the weights, here W (m, n) as torch stores them, y = W x,

    W' = W + (alpha / r) B A,     A (r, n) random, B (m, r) = 0 at the start,

so that before the first step nothing is changed. One sequence at a time passes through both models: with a
wide vocabulary, its logits are the largest tensors here.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..decoder.run import evaluation_mode
from ..decoder.structure import check_model
from ..decoder.tokens import check_length, check_same_vocabulary, checked_tokens
from ..decoder.types import CausalLM, Model
from ..evaluation.divergence import divergence_terms
from ..utils.arguments import (
    check_package,
    check_seed,
    check_type,
    check_whole_number,
    is_number,
    plain_number,
)
from ..utils.errors import InputError, NoNumber
from ..utils.progress import Progress, check_progress, no_progress

JUDGING_SEQUENCES = 8  # sequences, the last ones, that judge before and after, and do not teach
WARM_UP_SHARE = 0.1  # part of the steps in which the learning rate rises; then it falls in a straight line
GRADIENT_NORM_LIMIT = 1.0  # largest norm of the gradient of a step; a larger gradient is scaled down


@dataclass(frozen=True)
class HealingSettings:
    """The settings of a training.

    Raises InputError unless steps, batch_size, rank and alpha are whole numbers above 0, learning_rate is a
    finite number above 0, and seed is a whole number from 0.

    >>> HealingSettings(steps=0)
    Traceback (most recent call last):
    comp_lib.utils.errors.InputError: expected steps as a whole number above 0, got 0: the smallest is 1
    """

    steps: int = 100
    """Steps of AdamW."""
    batch_size: int = 4
    """Sequences in a step."""
    rank: int = 8
    """Rank r of the changes."""
    alpha: int = 16
    """The changes are multiplied by alpha / r."""
    learning_rate: float = 1e-3
    """The highest learning rate."""
    seed: int = 0
    """Decides the A at the start."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, plain_number(getattr(self, name)))  # the class is frozen
        for name in ("steps", "batch_size", "rank", "alpha"):
            check_whole_number(name, getattr(self, name), 1)
        rate = self.learning_rate
        if not is_number(rate) or not 0.0 < rate < math.inf:
            raise InputError(
                expected="learning_rate as a finite number above 0", got=repr(rate), hint="1e-3 is usual"
            )
        check_seed(self.seed)


@dataclass(frozen=True)
class HealingResult:
    """A healed model, and how it was judged on sequences that did not teach."""

    model: CausalLM = field(repr=False)
    """The copy, with the changes in its weights."""
    divergence_before: float
    """Divergence from the parent before the training, nats per token."""
    divergence_after: float
    """The same after the training."""


def heal(
    model: Model,
    ids: Tensor,
    *,
    parent: Model,
    settings: HealingSettings = HealingSettings(),
    progress: Progress = no_progress,
) -> HealingResult:
    """Train a copy of `model` on ids (S, L) towards the answers of `parent`.

    The last JUDGING_SEQUENCES sequences do not teach: they judge.

    Args:
        parent: the model whose answers teach, mostly the one that was pruned.
        settings: how long and how strongly it is trained.
        progress: called after each step of the training.

    Raises InputError for arguments of a wrong type, for models of different vocabularies, for too few or too
    long sequences, and where peft is missing; NoNumber where the training does not converge.
    """
    for either in (model, parent):
        check_model(either)
    check_healing(settings)
    check_progress(progress)
    ids = checked_tokens(ids, model.config.vocab_size)
    check_same_vocabulary(model, parent)
    for either in (model, parent):
        check_length(ids.shape[1], either.config.max_position_embeddings)
    check_amount(len(ids), settings)
    check_package("peft", "heal")
    training_ids = ids[:-JUDGING_SEQUENCES]
    judging_ids = ids[-JUDGING_SEQUENCES:]
    adapted = _with_low_rank_changes(model, settings)
    with evaluation_mode(adapted, parent):
        before = _mean_divergence(adapted, parent, judging_ids)
        _train(adapted, training_ids, parent, settings, progress)
        healed = adapted.merge_and_unload().requires_grad_(False)
        after = _mean_divergence(healed, parent, judging_ids)
    if not math.isfinite(after):
        raise NoNumber(
            expected="a training that converges",
            got=f"a divergence of {after}",
            hint="lower the learning rate",
        )
    return HealingResult(healed, before, after)


def check_healing(settings: object) -> None:
    """Raises InputError for settings that are something else than a `HealingSettings`."""
    example = HealingSettings()
    check_type("settings", settings, "HealingSettings(...)", example, allowed=(HealingSettings,))


def check_amount(count: int, settings: HealingSettings) -> None:
    """Raises InputError for fewer sequences than those of a step and those that judge."""
    minimum = JUDGING_SEQUENCES + settings.batch_size
    if count < minimum:
        raise InputError(
            expected=f"at least {minimum} sequences, of which {JUDGING_SEQUENCES} judge",
            got=count,
            hint="ask for more",
        )


def _with_low_rank_changes(model: Model, settings: HealingSettings) -> Any:
    """A copy of `model` (peft's) in which only A and B of each linear are trainable."""
    import peft

    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules="all-linear"
    )
    with torch.random.fork_rng(devices=[]):  # A is drawn from the global state
        torch.manual_seed(settings.seed)
        # A deep copy, since a pruned model shares tensors with its parent.
        return peft.get_peft_model(copy.deepcopy(model), config)


def _train(model: Any, ids: Tensor, parent: Model, settings: HealingSettings, progress: Progress) -> None:
    """Train `model` in place, so that its answers on ids (S, L) come nearer to the answers of `parent`."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    for step in range(settings.steps):
        optimizer.zero_grad()
        start = step * settings.batch_size
        for number in range(start, start + settings.batch_size):
            sequence = ids[number % len(ids)]  # all sequences teach before one teaches again
            loss = _divergence_on(model, parent, sequence) / settings.batch_size
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM_LIMIT)
        optimizer.param_groups[0]["lr"] = rate_of_step(step, settings)
        optimizer.step()
        progress("healing", step + 1, settings.steps)


def divergence(logits: Tensor, parent_logits: Tensor) -> Tensor:
    """Mean over tokens of KL(p || q), nats: logits z of q (T, V) and of p (T, V) -> ()."""
    log_q = logits.float().log_softmax(-1)
    log_p = parent_logits.float().log_softmax(-1)
    return divergence_terms(log_p, log_q).sum() / len(log_q)


def rate_of_step(step: int, settings: HealingSettings) -> float:
    """Learning rate of a step: it rises for WARM_UP_SHARE of the steps, then falls in a line towards 0."""
    warm_up_steps = max(1, round(WARM_UP_SHARE * settings.steps))
    rising = (step + 1) / warm_up_steps
    falling = (settings.steps - step) / max(1, settings.steps - warm_up_steps)
    return settings.learning_rate * min(rising, falling)


def _divergence_on(model: Model, parent: Model, sequence: Tensor) -> Tensor:
    """Divergence of the model's answers from the parent's on a sequence of tokens (L,), with its gradient."""
    ids = sequence[None]
    with torch.no_grad():
        parent_logits = parent(input_ids=ids.to(parent.device), use_cache=False).logits[0]
    logits = model(input_ids=ids.to(model.device), use_cache=False).logits[0]
    return divergence(logits, parent_logits.to(logits.device))


@torch.no_grad()
def _mean_divergence(model: Model, parent: Model, ids: Tensor) -> float:
    """Mean divergence over the sequences ids (S, L), nats per token."""
    return sum(_divergence_on(model, parent, sequence).item() for sequence in ids) / len(ids)
