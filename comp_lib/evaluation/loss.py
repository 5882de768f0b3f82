"""How good a model is, and how far it has moved from another.

A model is judged by the loss per token, in nats, over windows of text; position 1 of a window is not
predicted:

    loss = - mean_t log p(x_t | x_<t),    perplexity = exp(loss).

A pruned model is compared with its parent position by position, over the whole vocabulary, by

    KL = mean_t sum_v p_parent(v) (log p_parent(v) - log p_pruned(v)) >= 0,

zero only if nothing changed, and by the share of positions at which both put the same token first. Perplexity
alone can hide a change: a pruned model may lose what it knew and still guess the next word as well on
average.

Every number is a mean over sequences of equal length. The value of each sequence is kept, for the intervals.

Papers report WikiText-2: the test split, its rows joined with two line ends, cut into consecutive windows of
2,048 tokens (or as many as the model takes), no window seeing the window before: `--judged-on wikitext2
--window-length 2048`. Where a tokenizer begins each text with a special token, papers have it before the
first window alone, and this library before each window.

Logits are by far the largest tensors here (49,152 columns for SmolLM2), so the head is applied to a few
hundred positions at a time and the whole (B, L, V) never exists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from ..decoder.run import evaluation_mode, head
from ..decoder.structure import check_model
from ..decoder.tokens import check_length, check_same_vocabulary, checked_tokens
from ..decoder.types import Model
from ..utils.errors import refusing
from ..utils.numbers import check_numbers
from ..utils.progress import Progress, no_progress
from .confidence import Intervals
from .divergence import divergence_terms

BATCH = 4  # sequences that pass at once
HEAD_ROWS = 256  # positions whose logits are in memory at once: 50 MB for a vocabulary of 49,152


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How good a model is; only a comparison with a parent sets the fields that may be None."""

    dense_loss: float | None = None
    """The loss of the parent, nats per token."""
    loss: float
    """The loss of the model itself, nats per token."""
    increase: float | None = None
    """`loss` - `dense_loss`, nats per token."""
    kl: float | None = None
    """KL divergence from the parent to this model, nats per token."""
    top1_agreement: float | None = None
    """Share of positions at which both put the same token first, 0 to 1."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity_of(self.loss)

    @property
    def values(self) -> dict[str, float]:
        """What was measured, by the names of the fields, in the order of MEASURES."""
        return {measure: getattr(self, measure) for measure in MEASURES if getattr(self, measure) is not None}


@dataclass(frozen=True, kw_only=True)
class Comparison(Measures):
    """How good a model is beside its parent: both losses are there."""

    dense_loss: float
    increase: float


MEASURES = tuple(field.name for field in fields(Measures))


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measures):
    """Quality of a model on a text."""

    by_sequence: dict[str, tuple[float, ...]] = field(repr=False)
    """Measure -> its value for each sequence."""
    token_count: int
    """How many tokens are predicted."""

    @classmethod
    def of(cls, columns: Mapping[str, Tensor], ids: Tensor) -> Self:
        """The evaluation on ids (S, L) with these values (S,) of each measure."""
        by_sequence = {measure: tuple(column.tolist()) for measure, column in columns.items()}
        means = {measure: column.mean().item() for measure, column in columns.items()}
        return cls(by_sequence=by_sequence, token_count=ids[:, 1:].numel(), **means)

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss of each sequence, nats per token."""
        return self.by_sequence["loss"]

    @property
    def intervals(self) -> Intervals:
        """95% intervals of the measures."""
        return Intervals.of([self.by_sequence])


@dataclass(frozen=True, kw_only=True)
class ComparedEvaluation(Comparison, Evaluation):
    """Quality of a model on a text beside that of its parent."""

    @classmethod
    def of_losses(cls, dense_losses: Tensor, losses: Tensor, ids: Tensor) -> Self:
        """The comparison on ids (S, L) of which only the losses (S,) of both models are known."""
        return cls.of({"dense_loss": dense_losses, "loss": losses, "increase": losses - dense_losses}, ids)


def measure_loss(
    model: Model, ids: Tensor, progress: Progress = no_progress, label: str = "measuring"
) -> Evaluation:
    """Loss and perplexity of `model` on `ids` (S, L); `label` names the work to `progress`.

    Raises InputError for anything but a model and tokens, and for sequences that are longer than the model's
    context; NoNumber for a loss that is NaN or infinite.
    """
    check_model(model)
    return Evaluation.of(_columns([model], ids, progress, label), ids)


def compare_losses(
    model: Model, parent: Model, ids: Tensor, progress: Progress = no_progress, label: str = "measuring"
) -> ComparedEvaluation:
    """Losses of `model` and of `parent`, KL divergence and top-1 agreement, in one pass over `ids` (S, L).

    Raises InputError when the two have different vocabularies, and as `measure_loss` does.
    """
    for either in (model, parent):
        check_model(either)
    check_same_vocabulary(model, parent)
    return ComparedEvaluation.of(_columns([model, parent], ids, progress, label), ids)


@torch.inference_mode()
def _columns(models: list[Model], ids: Tensor, progress: Progress, label: str) -> dict[str, Tensor]:
    """The measures of the first of some checked `models`, beside its parent, the second, if any.

    Returns the values (S,) of each measure.
    """
    for model in models:
        ids = checked_tokens(ids, model.config.vocab_size)
        check_length(ids.shape[1], model.config.max_position_embeddings)
    measures = MEASURES if len(models) > 1 else ("loss",)
    chunks = []
    sequences = 0
    with evaluation_mode(*models):
        for batch in ids.split(BATCH):
            rows = _measures_by_sequence(models, batch)
            for measure, column in zip(measures, rows.T, strict=True):
                check_numbers(measure, column)
            chunks.append(rows)
            sequences += len(batch)
            progress(label, sequences, len(ids))
    return dict(zip(measures, torch.cat(chunks).T, strict=True))


def _measures_by_sequence(models: list[Model], ids: Tensor) -> Tensor:
    """The loss of each sequence of ids (B, L): (B, 1); with a parent all MEASURES: (B, 5)."""
    chunks_of_models = [_states(model, ids).split(HEAD_ROWS) for model in models]
    chunks_of_targets = ids[:, 1:].flatten().split(HEAD_ROWS)  # R of the B (L-1) tokens in each
    chunks = []
    for targets, *states in zip(chunks_of_targets, *chunks_of_models, strict=True):
        logits = [head(model, rows).float() for model, rows in zip(models, states, strict=True)]
        device = logits[0].device
        log_probabilities = [values.log_softmax(-1).to(device) for values in logits]  # (R, V) of each model
        chunks.append(_measures_by_token(targets.to(device), *log_probabilities))
    measures = torch.cat(chunks)  # (B (L-1), 1 or 5)
    return measures.view(len(ids), ids.shape[1] - 1, -1).mean(1)


def _states(model: Model, ids: Tensor) -> Tensor:
    """Hidden states that predict all but the first token of each of ids (B, L): (B (L-1), d)."""
    ids = ids.to(next(model.parameters()).device)
    with refusing("a model that runs on tokens", type(model).__name__, "load it anew, or choose another"):
        hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1].flatten(0, 1)


def _measures_by_token(targets: Tensor, log_q: Tensor, log_p: Tensor | None = None) -> Tensor:
    """The loss of each of the targets (R,): (R, 1); with log p of a parent all MEASURES: (R, 5).

    The result is on the CPU.

    Args:
        log_q: log-probabilities of the next token by the model (R, V).
        log_p: the same by its parent.
    """
    loss = F.nll_loss(log_q, targets, reduction="none").double()  # (R,)
    if log_p is None:
        columns = [loss]
    else:
        dense_loss = F.nll_loss(log_p, targets, reduction="none").double()
        divergence = divergence_terms(log_p, log_q).sum(-1)
        agreement = log_p.argmax(-1) == log_q.argmax(-1)
        columns = [dense_loss, loss, loss - dense_loss, divergence, agreement]
    return torch.stack([column.cpu().double() for column in columns], 1)


def perplexity_of(loss: float) -> float:
    """exp(loss), or infinity where a model is worse than a float can say."""
    return math.inf if loss > 700 else math.exp(loss)
