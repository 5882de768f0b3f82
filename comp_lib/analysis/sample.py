"""The text that a check-up looks at: windows of a few kinds, drawn under a seed.

Windows of the kinds take turns, so that the first few hold every kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calibration.text import KINDS
from ..calibration.tokens import calibration_tokens
from ..errors import InputError
from .columns import ALL


@dataclass(frozen=True)
class Sample:
    """Windows of text as token ids."""

    ids: Tensor  # (S, L)
    kinds: tuple[str, ...]  # of each window (S,)
    seed: int = 0

    @property
    def tokens(self) -> int:
        return self.ids.numel()

    @property
    def name(self) -> str:
        """The kind of all windows, or `all`."""
        return self.kinds[0] if len(set(self.kinds)) == 1 else ALL

    def first(self, windows: int) -> Sample:
        """The first so many windows."""
        return Sample(self.ids[:windows], self.kinds[:windows], self.seed)


def draw(tokenizer: Any, kinds: Sequence[str] = KINDS, windows: int = 2, length: int = 128, seed: int = 0) -> Sample:
    """`windows` windows of `length` tokens of the calibration text of each of `kinds`.

    Raises InputError for a kind that does not ship, and for more than there is of one.
    """
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(f"expected each kind of text once, at least one, got {', '.join(kinds) or 'none'}: mend that")
    size: dict[str, Any] = {"sequences": windows, "length": length, "seed": seed}
    drawn = [calibration_tokens(f"calibration:{kind}", tokenizer, **size) for kind in kinds]
    return Sample(torch.stack(drawn, 1).flatten(0, 1), tuple(kinds) * windows, seed)
