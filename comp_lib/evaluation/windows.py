"""Windows of token ids that judge a model: consecutive, from the start of each text that judges."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..calibration.defaults import USUAL_WINDOW
from ..calibration.in_memory import Source, read_judging_texts
from ..calibration.texts import encode, opening_tokens
from ..calibration.windows import cut_windows
from ..utils.arguments import check_whole_number, plain_number


def windows_of(
    judged_on: Source, tokenizer: Any, window_length: int = USUAL_WINDOW, window_count: int | None = None
) -> dict[str, Tensor]:
    """Windows (S, L) of the text that judges, by its name; for EVERY_KIND those of each of KINDS.

    Args:
        judged_on: name or path of the text, or texts in memory, which count as one.
        window_length: tokens of each window.
        window_count: how many windows of each text; None: all full windows; of several texts the longest
            gives only as many as the second longest, since it weighs no more than that in their mean.

    Raises InputError as `read_judging_texts` and `evaluation_tokens` do.
    """
    windows_by_text = {
        label: evaluation_tokens(tokenizer, text, window_length, window_count)
        for label, text in read_judging_texts(judged_on).items()
    }
    if window_count is None and len(windows_by_text) > 1:
        *_, second_most, _ = sorted(map(len, windows_by_text.values()))
        windows_by_text = {label: ids[:second_most] for label, ids in windows_by_text.items()}
    return windows_by_text


def evaluation_tokens(
    tokenizer: Any, text: str, window_length: int = USUAL_WINDOW, window_count: int | None = None
) -> Tensor:
    """Consecutive windows from the start of `text`, token ids (S, L).

    Each window begins with what the tokenizer puts before a text.

    Args:
        window_length: tokens of each window.
        window_count: how many windows; None: all that are full.

    Raises InputError for a text that has fewer tokens.
    """
    window_length = plain_number(window_length)
    window_count = plain_number(window_count)
    check_whole_number("window_length", window_length, 2)
    if window_count is not None:
        check_whole_number("window_count", window_count, 1)
    ids = encode(tokenizer, text)
    opening = opening_tokens(tokenizer)
    all_windows = cut_windows(ids, opening, window_length, window_count or 1, "evaluation text")
    return all_windows[:window_count]
