"""Before and after: two models go on from the same prompt, side by side."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets
from torch import nn

from comp_lib.errors import InputError
from comp_lib.evaluation.generation import continuation
from comp_lib.shape import Shape

from . import alert

HEIGHT, STATUS_HEIGHT = "220px", "56px"  # of the two texts, and of two lines: the page below must not jump
MOST = 200  # new tokens


class GenerationBox(widgets.VBox):  # type: ignore[misc]  # ipywidgets brings no types
    """A prompt, a button, and what `dense` and `pruned` say. Display it, or drive it: set `prompt.value`, `run()`."""

    def __init__(
        self, dense: nn.Module, pruned: nn.Module, tokenizer: Any, prompt: str = "", tokens: int = 40
    ) -> None:
        self.models, self.tokenizer = (dense, pruned), tokenizer
        wide, two_lines = widgets.Layout(width="98%"), widgets.Layout(height=STATUS_HEIGHT, overflow="auto")
        self.prompt = widgets.Text(prompt, description="Prompt", continuous_update=False, layout=wide)
        self.tokens = widgets.IntSlider(tokens, 1, MOST, description="New tokens", continuous_update=False)
        self.button = widgets.Button(
            description="Generate", button_style="primary", tooltip="Let both models go on"
        )
        self.status = widgets.HTML("Press Generate: both models go on from the prompt.", layout=two_lines)
        self.texts = tuple(
            widgets.HTML(layout=widgets.Layout(width="50%", padding="0 12px")) for _ in self.models
        )
        self._write("", "")
        self.button.on_click(lambda _: self.run())
        controls = widgets.HBox([self.tokens, self.button])
        texts = widgets.HBox(list(self.texts), layout=widgets.Layout(height=HEIGHT, overflow="auto"))
        super().__init__([self.prompt, controls, self.status, texts])

    def run(self) -> None:
        """Generate with both models; wrong input is said in a sentence, and the texts stay as they were."""
        self.button.disabled = True
        self.status.value = "Both models are writing ..."
        try:
            prompt, tokens = self.prompt.value, self.tokens.value
            self._write(*(continuation(model, self.tokenizer, prompt, tokens) for model in self.models))
            self.status.value = "The same prompt, greedy: it will be the same text next time."
        except InputError as error:
            self.status.value = alert(error)
        finally:
            self.button.disabled = False

    def _write(self, *texts: str) -> None:
        for box, model, name, text in zip(self.texts, self.models, ("dense", "pruned"), texts, strict=True):
            prompt = f"{html.escape(self.prompt.value)}<b>{html.escape(text)}</b>" if text else "..."
            box.value = (
                f"<h4>{name}: {Shape.of(model).total:,} parameters</h4>"
                f'<p style="white-space: pre-wrap; line-height: 1.5">{prompt}</p>'
            )
