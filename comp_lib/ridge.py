"""The ridge of the full least-squares problem, chosen by text that the fit has not seen.

How strongly should the survivors be held to their old weights? The fewer tokens, the more: a fit to 1,000 tokens says
little about 1,500 neurons, one to 80,000 says a lot. Statistics are sums over tokens, so both halves of the calibration
text are at hand: V is fitted to the first for each lambda of a grid, and judged on the second by

    ||Y* - X V||^2 - ||Y*||^2 = tr(V^T C V) - 2 tr(V^T B)        with C and B of the second half.

The whole text then gets the same pull in absolute terms: lambda times its share of the tokens. (Our derivation.)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import dual
from .gram import Gram
from .recover import least_squares

GRID = tuple(0.01 * 3.0**k for k in range(8))  # 0.01 to 21.9, relative to each input's own energy


class RidgeSearch:
    """Looks for lambda layer by layer, each time beside the place where the last layer's was: lambdas change slowly."""

    def __init__(self) -> None:
        self.place: int | None = None

    def choose(self, seen: Gram, held: Gram, weight: Tensor, kept: Tensor) -> float:
        """Lambda for both halves together: `seen` is fitted, `held` judges; weight W (n, m), kept inputs (k,)."""
        places = range(len(GRID)) if self.place is None else range(max(0, self.place - 1), self.place + 2)
        ridges = GRID[places.start : places.stop]
        errors = held_out_errors(seen, held, weight, kept, ridges)
        self.place = places.start + errors.index(min(errors))
        return GRID[self.place] * seen.tokens / (seen.tokens + held.tokens)


def held_out_errors(seen: Gram, held: Gram, weight: Tensor, kept: Tensor, ridges: Sequence[float]) -> list[float]:
    """||Y* - X V||^2 - ||Y*||^2 on the tokens of `held`, for V fitted to those of `seen` with each lambda."""
    if isinstance(seen, dual.Rows):
        return dual.held_out_errors(seen, held, weight, kept, ridges)
    target, inner, outer = seen.target(weight), held.xtx[kept][:, kept], held.target(weight)[kept]
    fits = (least_squares(seen.xtx, target, weight, kept, ridge)[kept] for ridge in ridges)  # (k, m)
    return [float((fitted * (inner @ fitted - 2.0 * outer)).sum()) for fitted in fits]
