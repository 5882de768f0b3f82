"""What the explorers share: controls above, a picture and facts below, an answer to every move of a control."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from ipywidgets import HTML, HBox, Layout, VBox, Widget

from ..errors import InputError
from ..plots.base import Picture, html_image
from . import alert


class Explorer(VBox):  # type: ignore[misc]  # ipywidgets brings no types
    """Rows of controls, then `image` and `facts`; heights in pixels, so that the page does not jump."""

    def __init__(self, rows: Sequence[Sequence[Widget]], image_height: int, height: int) -> None:
        self.image = HTML(layout=Layout(min_height=f"{image_height}px"))
        self.facts = HTML(layout=Layout(min_height="5em"))
        boxes = [HBox(row) for row in rows]
        super().__init__([*boxes, self.image, self.facts], layout=Layout(min_height=f"{height}px"))
        for control in chain(*rows):
            if control.has_trait("continuous_update"):  # no answer while a slider is on its way
                control.continuous_update = False
            control.observe(self._draw, "value")
        self._draw()

    def answer(self) -> tuple[Picture, str]:
        """The picture and the facts (HTML) for what the controls say. Raises InputError: it cannot be had."""
        raise NotImplementedError

    def _draw(self, change: object = None) -> None:
        """Show the answer; a wrong wish gets a sentence, and the last good picture stays."""
        try:
            figure, facts = self.answer()
        except InputError as error:
            self.facts.value = alert(error)
            return
        self.image.value, self.facts.value = html_image(figure), facts


def shared(description: str, width: int = 30) -> dict[str, Any]:
    """Arguments that all controls share: a description, and a width in em."""
    layout = Layout(width=f"{width}em")
    return {"description": description, "style": {"description_width": "8em"}, "layout": layout}
