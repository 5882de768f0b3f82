"""The lambda slider of lesson 04: what the strength of the pull does to a mask, and which guard would let it pass.

All masks are solved before the first answer and cached, so that a move of the slider only draws.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipywidgets import Dropdown, SelectionSlider
from torch import Tensor

from comp_lib.plots.base import Picture
from comp_lib.recovery.mask_tuning import MAX_VARIANCE

from ..cache import Tensors
from ..figures.mask_tuning import plot_ridge_path
from ..mask_tuning import LARGEST, mask_error, ridge_path
from .explorers import Explorer, shared

PULLS = {  # name -> (one penalty for all, what it pulls to)
    "own energy, to 1": (False, 1.0),
    "own energy, to 0": (False, 0.0),
    "mean energy, to 1": (True, 1.0),
    "mean energy, to 0": (True, 0.0),
}


class MaskExplorer(Explorer):
    """Masks of a layer, tuned on G `fitted` (n, n) and judged by others, name -> G (n, n).

    draws: who stays, name -> (k,). Controls: `ridge` (lambda), `who` (stays), `pull` (the penalty). The first call
    solves for every lambda, for a few seconds.
    """

    def __init__(self, fitted: Tensor, judged: Tensors, draws: Tensors, ridges: Sequence[float], title: str) -> None:
        self.ridges, self.title = list(ridges), title
        self.paths = {
            who: {
                name: ridge_path(fitted, judged, kept, ridges, toward, even) for name, (even, toward) in PULLS.items()
            }
            for who, kept in draws.items()
        }
        self.nothing = {
            who: {name: mask_error(gram, kept) for name, gram in judged.items()} for who, kept in draws.items()
        }
        options = [(f"{ridge:.4g}", place) for place, ridge in enumerate(ridges)]
        self.ridge = SelectionSlider(options=options, value=0, **shared("λ", 34))
        self.who = Dropdown(options=list(draws), **shared("who stays", 26))
        self.pull = Dropdown(options=list(PULLS), **shared("penalty", 26))
        super().__init__([(self.ridge,), (self.who, self.pull)], image_height=370, height=520)

    def answer(self) -> tuple[Picture, str]:
        who, place = self.who.value, self.ridge.value
        path, nothing = self.paths[who][self.pull.value], self.nothing[who]
        mask, passing = path["masks"][place], guards(path["masks"])
        errors = {name: path[name] for name in nothing}
        passed = [name for name, passes in passing.items() if passes[place]]
        facts = "; ".join(f"{name} {float(values[place]):,.1%}" for name, values in errors.items())
        figure = plot_ridge_path(self.ridges, errors, nothing, passing, f"{self.title}: {who}", place)
        return figure, (
            f"<p>λ = {self.ridges[place]:.4g}: variance {float(mask.var(unbiased=False)):.3g}, largest factor "
            f"{float(mask.abs().max()):.3g}; passes: {' and '.join(passed) or 'no guard'}.</p>"
            f"<p>Error left: {facts}.</p>"
        )


def guards(masks: Tensor) -> dict[str, list[bool]]:
    """Which of the masks (R, k) each guard would let pass."""
    calm, small = masks.var(-1, unbiased=False) <= MAX_VARIANCE, masks.abs().amax(-1) <= LARGEST
    return {"variance guard": calm.tolist(), "size guard": small.tolist()}
