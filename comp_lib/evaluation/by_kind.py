"""How good a model is on each kind of text that ships, and on the mean over the kinds.

One text can hide a loss: a pruned model may keep its prose and forget how to write code. So every kind is judged by
itself, by what `loss` measures, and the mean gives each kind the same weight, however long its text is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..families.protocol import Model
from ..progress import Progress, no_progress
from .confidence import Interval, intervals
from .loss import Evaluation, compare, perplexity

Row = tuple[
    dict[str, float], dict[str, Interval | None]
]  # value of each measure; its 95% interval, where it has one


@dataclass(frozen=True)
class ByKind:
    """Quality of a model on several texts, and on their mean."""

    kinds: dict[str, Evaluation]  # of each text, by its name

    @property
    def mean(self) -> dict[str, float]:
        """Mean over kinds of what `Evaluation.values` gives: nats per token, but for `top1_agreement`, 0 to 1."""
        rows = [one.values() for one in self.kinds.values()]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def intervals(self) -> dict[str, Interval | None]:
        """95% intervals of `mean`, see `confidence`; None where there is none."""
        return intervals([one.by_sequence for one in self.kinds.values()])

    def rows(self) -> dict[str, Row]:
        """Values and 95% intervals of each text, as they came; of several, at the end, of their mean: `mean of 8`."""
        texts = {name: (one.values(), one.intervals()) for name, one in self.kinds.items()}
        return texts | ({f"mean of {len(texts)}": (self.mean, self.intervals())} if len(texts) > 1 else {})


def judge(
    model: Model,
    windows: Mapping[str, Tensor],
    dense: Model | None = None,
    *,
    progress: Progress = no_progress,
) -> ByKind:
    """`model` on each of `windows` (S, L), as `windows_of` gives them, beside `dense` where it is given.

    `progress` is told the name of the text and its sequences. Raises InputError as `loss.compare` does.
    """
    if dense is None:
        return ByKind({name: perplexity(model, ids, progress, name) for name, ids in windows.items()})
    return ByKind({name: compare(model, dense, ids, progress, name) for name, ids in windows.items()})
