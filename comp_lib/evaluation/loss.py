"""How good a model is, and how far it has moved from another.

A model is judged by the loss per token, in nats, over windows of text; position 1 of a window is not predicted:

    loss = - mean_t log p(x_t | x_<t),    perplexity = exp(loss).

A pruned model is compared with its dense parent position by position, over the whole vocabulary:

    KL = mean_t sum_v p_dense(v) (log p_dense(v) - log p_pruned(v)) >= 0,

which is zero only if nothing changed, and the share of positions at which both put the same token first. Perplexity
alone can hide a change: a pruned model may lose what it knew and still guess the next word as well on average.

Every number is a mean over sequences of equal length, and each sequence's own value is kept: `intervals` draws them
anew to tell how far the mean can be trusted (see confidence.py).

Papers report WikiText-2: the test split, its rows joined with two line ends, cut into consecutive windows of 2,048
tokens (or as many as the model takes), no window seeing the one before. That is `--text wikitext2 --length 2048`, or

    evaluation_tokens(tokenizer, load_text("wikitext2"), length=2048)

We put no beginning-of-text token in front; papers whose tokenizer adds one have it once, before the first window.

Logits are by far the largest tensors here (49,152 columns for SmolLM2), so the head is applied to a few hundred
positions at a time and the whole (B, L, V) never exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..calibration.text import encode
from ..errors import InputError
from ..families import family_of
from ..report import Progress, no_progress
from .confidence import bootstrap_interval

HEAD_ROWS = 256  # positions whose logits are in memory at once: 50 MB for a vocabulary of 49,152


@dataclass(frozen=True)
class Evaluation:
    """Quality of a model on a text; the fields after `sequences` only where it was compared with a dense model."""

    loss: float  # nats per token
    perplexity: float
    tokens: int  # predicted ones
    sequences: int
    dense_loss: float | None = None
    dense_perplexity: float | None = None
    kl: float | None = None  # nats per token, from dense to this model
    top1_agreement: float | None = None  # share of positions, 0 to 1
    # the same for each sequence; the last three empty where nothing was compared
    losses: tuple[float, ...] = ()
    dense_losses: tuple[float, ...] = ()
    kls: tuple[float, ...] = ()
    agreements: tuple[float, ...] = ()

    @property
    def increase(self) -> float | None:
        """Loss above the dense model's, nats per token."""
        return None if self.dense_loss is None else self.loss - self.dense_loss

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals over sequences, by the name of what they belong to; `increase` is paired."""
        found = {"loss": bootstrap_interval(self.losses, level, seed)}
        found["perplexity"] = tuple(map(_exp, found["loss"]))
        if self.dense_losses:
            differences = [ours - theirs for ours, theirs in zip(self.losses, self.dense_losses, strict=True)]
            for name, values in ("increase", differences), ("kl", self.kls), ("top1_agreement", self.agreements):
                found[name] = bootstrap_interval(values, level, seed)
        return found


def evaluation_tokens(tokenizer, text: str, length: int = 512, sequences: int | None = None) -> torch.Tensor:
    """Consecutive windows from the start of `text`, (S, L); all whole ones unless `sequences` says how many.

    Raises:
        InputError: the text has fewer tokens than asked for.
    """
    if length < 2 or (sequences is not None and sequences < 1):
        raise InputError(f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them")
    ids = encode(tokenizer, text)  # (N,)
    needed = length * (sequences or 1)
    if len(ids) < needed:
        raise InputError(
            f"expected at least {needed} tokens of evaluation text ({sequences or 1} x {length}), got {len(ids)};"
            " take a longer text, or fewer or shorter sequences"
        )
    return ids[: len(ids) // length * length].view(-1, length)[:sequences]


def perplexity(
    model: nn.Module, ids: torch.Tensor, batch: int = 4, progress: Progress = no_progress, what: str = "measuring"
) -> Evaluation:
    """Loss and perplexity of `model` on `ids` (S, L); `what` names it to `progress`."""
    return _walk(model, None, ids, batch, progress, what)


def compare(
    model: nn.Module,
    dense: nn.Module,
    ids: torch.Tensor,
    batch: int = 4,
    progress: Progress = no_progress,
    what: str = "measuring",
) -> Evaluation:
    """`perplexity` of `model` and of `dense`, their KL divergence and top-1 agreement, in one walk over `ids` (S, L).

    Raises:
        InputError: the two models have different vocabularies.
    """
    ours, theirs = (each.get_output_embeddings().out_features for each in (model, dense))
    if ours != theirs:
        raise InputError(
            f"expected two models with one vocabulary, got {ours} and {theirs} tokens; compare a model with its parent"
        )
    return _walk(model, dense, ids, batch, progress, what)


@torch.inference_mode()
def _walk(
    model: nn.Module, dense: nn.Module | None, ids: torch.Tensor, batch: int, progress: Progress, what: str
) -> Evaluation:
    if ids.ndim != 2 or ids.shape[0] < 1 or ids.shape[1] < 2:
        raise InputError(
            f"expected token ids of shape (sequences >= 1, length >= 2), got {tuple(ids.shape)}; see evaluation_tokens"
        )
    measured = []  # for each batch (1 or 4, B): loss, dense loss, KL, agreement of each sequence
    for start in range(0, len(ids), batch):
        rows = ids[start : start + batch]
        targets = rows[:, 1:].flatten()  # (B (L-1),)
        hidden = _hidden(model, rows)
        dense_hidden = None if dense is None else _hidden(dense, rows)
        parts = []
        for begin in range(0, len(targets), HEAD_ROWS):
            part = slice(begin, begin + HEAD_ROWS)
            log_q = _log_probabilities(model, hidden[part])  # (R, V)
            values = [-_picked(log_q, targets[part])]
            if dense is not None:
                log_p = _log_probabilities(dense, dense_hidden[part]).to(log_q.device)
                divergence = nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
                values += [-_picked(log_p, targets[part]), divergence, log_p.argmax(-1) == log_q.argmax(-1)]
            parts.append(torch.stack([value.cpu().double() for value in values]))  # (1 or 4, R)
        measured.append(torch.cat(parts, 1).unflatten(1, (len(rows), -1)).mean(-1))
        progress(what, start + len(rows), len(ids))
    each = torch.cat(measured, 1)  # (1 or 4, S)
    tokens = ids.shape[0] * (ids.shape[1] - 1)
    losses, *compared = (tuple(values) for values in each.tolist())
    loss, *means = each.mean(1).tolist()
    if dense is None:
        return Evaluation(loss, _exp(loss), tokens, len(ids), losses=losses)
    dense_loss, kl, agreement = means
    dense_losses, kls, agreements = compared
    return Evaluation(
        loss,
        _exp(loss),
        tokens,
        len(ids),
        dense_loss,
        _exp(dense_loss),
        kl,
        agreement,
        losses,
        dense_losses,
        kls,
        agreements,
    )


def _hidden(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """What the head reads to predict all but the first token of each row, (B (L-1), d)."""
    rows = rows.to(next(model.parameters()).device)
    return model.base_model(input_ids=rows, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)


def _log_probabilities(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next token, (R, V), in float32 whatever the model computes in."""
    return family_of(model).head(model, hidden).float().log_softmax(-1)


def _picked(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token that came, (R,)."""
    return log_probabilities.gather(-1, targets.to(log_probabilities.device)[:, None]).squeeze(-1)


def _exp(loss: float) -> float:
    """Perplexity; a ruined model may be worse than a float can say."""
    return math.inf if loss > 700 else math.exp(loss)
