"""How good a model is, and how far it has moved from another.

A model is judged by the loss per token, in nats, over windows of text; position 1 of a window is not predicted:

    loss = - mean_t log p(x_t | x_<t),    perplexity = exp(loss).

A pruned model is compared with its dense parent position by position, over the whole vocabulary, by

    KL = mean_t sum_v p_dense(v) (log p_dense(v) - log p_pruned(v)) >= 0,

zero only if nothing changed, and by the share of positions at which both put the same token first. Perplexity alone can
hide a change: a pruned model may lose what it knew and still guess the next word as well on average.

Every number is a mean over sequences of equal length. Each sequence's own value is kept, for `intervals` of the mean.

Papers report WikiText-2: the test split, its rows joined with two line ends, cut into consecutive windows of 2,048
tokens (or as many as the model takes), no window seeing the one before: `--text wikitext2 --length 2048`. A tokenizer
that begins each text with a token of its own has it before the first window alone in papers, and before each one here.

Logits are by far the largest tensors here (49,152 columns for SmolLM2), so the head is applied to a few hundred
positions at a time and the whole (B, L, V) never exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..calibration.text import evaluation_tokens as evaluation_tokens
from ..errors import InputError
from ..families.frame import check_ids, head
from ..families.protocol import Model
from ..progress import Progress, no_progress
from .confidence import Interval, intervals

MEASURES = ("dense_loss", "loss", "increase", "kl", "top1_agreement")
BATCH = 4  # sequences that pass at once
HEAD_ROWS = 256  # positions whose logits are in memory at once: 50 MB for a vocabulary of 49,152


@dataclass(frozen=True)
class Evaluation:
    """Quality of a model on a text; what defaults to None is there where it was compared with a dense model."""

    by_sequence: dict[str, tuple[float, ...]]  # `values` of each sequence
    tokens: int  # predicted ones
    loss: float  # nats per token
    dense_loss: float | None = None
    increase: float | None = None  # of the loss above the dense model's, nats per token
    kl: float | None = None  # nats per token, from dense to this model
    top1_agreement: float | None = None  # share of positions, 0 to 1

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss of each sequence, nats per token."""
        return self.by_sequence["loss"]

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity_of(self.loss)

    def values(self) -> dict[str, float]:
        """`loss`, and where a dense model was compared with, `dense_loss`, `increase`, `kl` and `top1_agreement`."""
        return {name: getattr(self, name) for name in self.by_sequence}

    def intervals(self) -> dict[str, Interval | None]:
        """95% intervals of `values` and of `perplexity`; `increase` is paired. None where `confidence` has none."""
        found = intervals([self.by_sequence])
        bounds = found["loss"]
        return found | {"perplexity": bounds and (perplexity_of(bounds[0]), perplexity_of(bounds[1]))}


def perplexity(
    model: Model, ids: Tensor, progress: Progress = no_progress, what: str = "measuring"
) -> Evaluation:
    """Loss and perplexity of `model` on `ids` (S, L); `what` names it to `progress`."""
    return _evaluation([model], ids, progress, what)


def compare(
    model: Model, dense: Model, ids: Tensor, progress: Progress = no_progress, what: str = "measuring"
) -> Evaluation:
    """`perplexity` of `model` and of `dense`, their KL divergence and top-1 agreement, in one pass over `ids` (S, L).

    Raises InputError when the two have different vocabularies.
    """
    ours, theirs = (one.get_output_embeddings().out_features for one in (model, dense))
    if ours != theirs:
        got = f"{ours} and {theirs} tokens; compare a model with its parent"
        raise InputError(f"expected two models with one vocabulary, got {got}")
    return _evaluation([model, dense], ids, progress, what)


@torch.inference_mode()
def _evaluation(models: list[Model], ids: Tensor, progress: Progress, what: str) -> Evaluation:
    """Of the first of `models`; a second one is the dense model that it is compared with."""
    check_ids(ids, models[0].config.vocab_size)
    parts = []
    for rows in ids.split(BATCH):
        parts.append(_of_sequences(models, rows))
        progress(what, sum(map(len, parts)), len(ids))
    columns = dict(
        zip(MEASURES if len(models) > 1 else ["loss"], torch.cat(parts).T, strict=True)
    )  # (S,) each
    by_sequence = {name: tuple(column.tolist()) for name, column in columns.items()}
    means = {name: column.mean().item() for name, column in columns.items()}
    return Evaluation(by_sequence, ids[:, 1:].numel(), **means)


def _of_sequences(models: list[Model], rows: Tensor) -> Tensor:
    """The loss of each sequence of `rows` (B, L), or with a dense model all MEASURES: (B, 1 or 5)."""
    states, parts = (
        [],
        [],
    )  # of what the head reads to predict all but the first token of each row, (B (L-1), d)
    for model in models:
        ids = rows.to(next(model.parameters()).device)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        states.append(hidden[:, :-1].flatten(0, 1).split(HEAD_ROWS))
    for targets, *inputs in zip(
        rows[:, 1:].flatten().split(HEAD_ROWS), *states, strict=True
    ):  # R of B (L-1) tokens
        logits = [head(model, state).float() for model, state in zip(models, inputs, strict=True)]
        log_q, *dense = (each.log_softmax(-1).to(logits[0].device) for each in logits)  # (R, V)
        targets = targets.to(log_q.device)
        loss = F.nll_loss(log_q, targets, reduction="none").double()  # (R,)
        values = [loss]
        for log_p in dense:
            dense_loss = F.nll_loss(log_p, targets, reduction="none").double()
            divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
            agreement = log_p.argmax(-1) == log_q.argmax(-1)
            values = [dense_loss, loss, loss - dense_loss, divergence, agreement]
        parts.append(torch.stack([value.cpu().double() for value in values], 1))  # (R, 1 or 5)
    return torch.cat(parts).view(len(rows), rows.shape[1] - 1, -1).mean(1)


def perplexity_of(loss: float) -> float:
    """exp(loss); a ruined model may be worse than a float can say."""
    return math.inf if loss > 700 else math.exp(loss)
