"""Two models continue the same prompt, side by side: the dense one and the pruned one."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets

from comp_lib.decoder.shape import Shape
from comp_lib.decoder.types import Model
from comp_lib.evaluation.generation import continuation
from comp_lib.utils.errors import InputError

from . import WithStill, alert

TEXTS_HEIGHT = "220px"  # fixed, so that the page below does not jump
STATUS_HEIGHT = "56px"  # two lines
MOST_TOKENS = 200  # that can be asked for


class GenerationBox(WithStill, widgets.VBox):  # type: ignore[misc]  # ipywidgets brings no types
    """A prompt, a button, and the texts of both models.

    Display it, or drive it: set `prompt.value`, then call `run()`.
    """

    def __init__(
        self, dense: Model, pruned: Model, tokenizer: Any, prompt: str = "", tokens: int = 40
    ) -> None:
        self.models = (dense, pruned)
        self.tokenizer = tokenizer
        wide = widgets.Layout(width="98%")
        self.prompt = widgets.Text(prompt, description="Prompt", continuous_update=False, layout=wide)
        self.tokens = widgets.IntSlider(
            tokens, 1, MOST_TOKENS, description="New tokens", continuous_update=False
        )
        self.button = widgets.Button(
            description="Generate", button_style="primary", tooltip="Let both models go on"
        )
        two_lines = widgets.Layout(height=STATUS_HEIGHT, overflow="auto")
        self.status = widgets.HTML("Press Generate: both models go on from the prompt.", layout=two_lines)
        self.texts = tuple(
            widgets.HTML(layout=widgets.Layout(width="50%", padding="0 12px")) for _ in self.models
        )
        self._write("", "")
        self.button.on_click(lambda _: self.run())
        controls = widgets.HBox([self.tokens, self.button])
        texts = widgets.HBox(list(self.texts), layout=widgets.Layout(height=TEXTS_HEIGHT, overflow="auto"))
        super().__init__([self.prompt, controls, self.status, texts])

    def run(self) -> None:
        """Generate with both models. Wrong input is answered with a sentence, and the texts stay."""
        self.button.disabled = True
        self.status.value = "Both models are writing ..."
        try:
            prompt = self.prompt.value
            tokens = self.tokens.value
            self._write(*(continuation(model, self.tokenizer, prompt, tokens) for model in self.models))
            self.status.value = "The same prompt, greedy: it will be the same text next time."
        except InputError as error:
            self.status.value = alert(error)
        finally:
            self.button.disabled = False

    def still(self) -> str:
        columns = "".join(
            f'<td style="width: 50%; text-align: left; vertical-align: top">{box.value}</td>'
            for box in self.texts
        )
        return f'<table style="width: 100%"><tr>{columns}</tr></table>'

    def _write(self, *texts: str) -> None:
        """Show the text of each model behind the prompt, or dots instead of an empty text."""
        for box, model, name, text in zip(self.texts, self.models, ("dense", "pruned"), texts, strict=True):
            body = "..."
            if text:
                body = f"{html.escape(self.prompt.value)}<b>{html.escape(text)}</b>"
            box.value = (
                f"<h4>{name}: {Shape.of(model).total_parameters:,} parameters</h4>"
                f'<p style="white-space: pre-wrap; line-height: 1.5">{body}</p>'
            )
