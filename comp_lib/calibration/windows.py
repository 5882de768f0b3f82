"""Windows of token ids that calibrate: they show a method what the model does.

A window is a stretch of consecutive tokens, cut out of a text. The windows that a run of pruning or healing
takes are its *sequences*, (S, L). Some of these may be held out, to judge a fit.

Every statistic of a pruning run is a sum over the few thousand tokens of its calibration batch. So the
windows are drawn under a seed, and never from the text that will judge the result, whose windows are made in
`evaluation.windows`. What a source of text is: see `shares`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..decoder.structure import check_model
from ..decoder.tokens import check_length
from ..decoder.types import Model
from ..utils.arguments import check_seed, check_whole_number, plain_number
from ..utils.errors import InputError
from ..utils.progress import Progress, check_progress, no_progress
from .defaults import USUAL_LENGTH, USUAL_SEQUENCES
from .in_memory import Source, as_source
from .mixtures import WRITTEN, allot, load_apart_from, sequence_limits, shares_of
from .self_generated import write_texts
from .texts import TEXTS, encode, opening_tokens, start_token


@dataclass(frozen=True)
class Calibration:
    """Which text calibrates, and how much of it.

    The value only describes the text; `tokens` draws it.

    Args:
        source: a text, "self", a mixture, or several of these with "+" between: see `shares`. Or texts in
            memory: a list of strings, or a column of a data set.
        sequences: how many sequences. None: `prune_model` takes the number of its preset, of a mixture
            one that suits the widest layer; `tokens` takes USUAL_SEQUENCES.
        length: tokens in each sequence, at least 2.
        seed: it decides which windows are drawn, in which order, and what the model writes.

    Raises InputError for a value of the wrong type or size. A text that cannot be read is refused when it is
    drawn.

    Half of these 64 sequences are from the file, and the others from texts that ship:

    >>> calibration = Calibration("notes.txt+shipped", sequences=64)
    >>> shares = shares_of(calibration.source)
    >>> round(shares["notes.txt"], 2), round(shares["calibration:code"], 2)
    (0.5, 0.05)
    >>> Calibration(length=1)
    Traceback (most recent call last):
    comp_lib.utils.errors.InputError: expected length as a whole number above 1, got 1: the smallest is 2
    """

    source: Source = "general"
    sequences: int | None = None
    length: int = USUAL_LENGTH
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", as_source("calibration", self.source))
        for name in ("sequences", "length", "seed"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        if self.sequences is not None:
            check_whole_number("sequences", self.sequences, 1)
        check_whole_number("length", self.length, 2)
        check_seed(self.seed)

    def tokens(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model: Model | None = None,
        judged_on: Source | None = None,
        progress: Progress = no_progress,
    ) -> Tensor:
        """Draw the windows, token ids (S, L): see `calibration_tokens`.

        S is USUAL_SEQUENCES where `sequences` is None.
        """
        return calibration_tokens(
            self.source,
            tokenizer,
            model=model,
            sequences=USUAL_SEQUENCES if self.sequences is None else self.sequences,
            length=self.length,
            seed=self.seed,
            judged_on=judged_on,
            progress=progress,
        )


def calibration_tokens(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model: Model | None = None,
    sequences: int = USUAL_SEQUENCES,
    length: int = USUAL_LENGTH,
    seed: int = 0,
    judged_on: Source | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """Draw `sequences` windows of `length` tokens that do not overlap: token ids (S, L).

    Each window begins with what the tokenizer puts before a text. Some tokenizers put nothing there. With
    such a tokenizer every other window of each text gets a start token, with two exceptions: a source that
    consists of TEXTS alone, and a source with text that the model wrote after a start token.

    Args:
        source: name or path of a text, "self", a mixture, or several with "+" between (see `shares`). Or
            texts in memory: a list of strings, or a column of a data set.
        model: writes the text where the source asks for it (WRITTEN); None: no model is there to do so.
        seed: decides which windows are drawn, in which order, and what the model writes.
        judged_on: the text that will judge the result, by name or path, or texts in memory. It may not be a
            calibration text.
        progress: called while `model` writes.

    Raises InputError for too little text, for the text that judges among the calibration texts, where a model
    has to write and none is given, and for windows that are too long for the model that is given.
    """
    source = as_source("source", source)
    check_whole_number("sequences", sequences, 1)
    check_whole_number("length", length, 2)
    check_progress(progress)
    if model is not None:
        check_model(model)
        check_length(length, model.config.max_position_embeddings)
    shares = shares_of(source)
    _check_writer(model, shares, source)
    texts = load_apart_from(judged_on, source)
    ids = {text_name: encode(tokenizer, text) for text_name, text in texts.items()}
    opening = opening_tokens(tokenizer)
    window_counts = {text_name: len(values) // (length - len(opening)) for text_name, values in ids.items()}
    text_of_row = allot(shares, sequences, sequence_limits(shares, window_counts), source)
    rows: dict[str, list[int]] = {text_name: [] for text_name in shares}
    for row, text_name in enumerate(text_of_row):
        rows[text_name].append(row)

    tokens = torch.empty(sequences, length, dtype=torch.long)
    for text_name, values in ids.items():
        count = len(rows[text_name])
        name = f"calibration text in {text_name!r}"
        windows = cut_windows(values, opening, length, count, name, windows="sequences")
        tokens[rows[text_name]] = _draw_windows(windows, count, seed)
    written_rows: list[int] = []
    for text_name in shares:
        if text_name in WRITTEN:
            written_rows += rows[text_name]
    if written_rows and model is not None:
        writers = [text_of_row[row] for row in written_rows]
        tokens[written_rows] = write_texts(model, tokenizer, writers, length, seed, progress)
    if len(opening) == 0 and not _is_bare(source):
        _put_start_tokens(tokens, list(rows.values()), start_token(tokenizer))
    return tokens


def cut_windows(
    ids: Tensor, opening: Tensor, length: int, minimum: int, name: str, *, windows: str = "windows"
) -> Tensor:
    """Consecutive windows (S, L) of the ids (N,) of a text, `opening` (k,) before each.

    Raises InputError, which calls the text `name` and its windows `windows`, unless there are `minimum` of
    them.
    """
    span = length - len(opening)  # tokens that the text has in each window
    if len(ids) < minimum * span:
        raise InputError(
            expected=f"at least {minimum * span} tokens of {name} for {minimum} x {length}",
            got=len(ids),
            hint=f"take a longer text, or ask for fewer or shorter {windows}",
        )
    spans = ids[: len(ids) // span * span].view(-1, span)
    return torch.cat([opening.expand(len(spans), -1), spans], 1)


def _draw_windows(windows: Tensor, count: int, seed: int) -> Tensor:
    """`count` different windows of these (S, L), in random order: (count, L)."""
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    return windows[order[:count]]


def _is_bare(source: Source) -> bool:
    """Whether a source consists of TEXTS alone: no mixture, no file, nothing written or in memory."""
    return set(str(source).split("+")) <= set(TEXTS)


def _put_start_tokens(tokens: Tensor, rows_of_texts: Sequence[Sequence[int]], start: int | None) -> None:
    """Put a start token before every other window of each text, in `tokens` (S, L) itself.

    The last token of the window is lost. After a start token that it has never seen, a pruned Qwen2.5-Coder
    0.5B loses 6 nats a sentence (benchmarks/RESULTS.md). Nothing is done without a start token, or where what
    the model wrote has it already.
    """
    if start is None or start in tokens[:, 0]:
        return
    for position, rows in enumerate(rows_of_texts):
        chosen = rows[position % 2 :: 2]  # one text begins with its first window, the next with its second
        tokens[chosen, 1:] = tokens[chosen, :-1]
        tokens[chosen, 0] = start


def _check_writer(model: Model | None, shares: Mapping[str, float], source: Source) -> None:
    """Raises InputError where some text of `source` is to be written, and no model is there to write it."""
    if model is None and not WRITTEN.keys().isdisjoint(shares):
        raise InputError(
            expected=f"a model for the calibration {str(source)!r}, since it writes some of that text",
            got="none",
            hint="pass model=, or choose text that is there, such as 'shipped'",
        )
