"""What the checks of all exercises share: they call an answer, look at it, and say whether it is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Wrong(AssertionError):
    """An answer that is not right yet; the message says what is wrong."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the sentence (IPython's protocol)."""
        return [f"Not yet: {self}"]


@cache
def real_model() -> tuple[Any, Any]:
    """SmolLM2-135M and its tokenizer.

    Loaded once, and only here: an exercise without a model starts in two seconds.
    """
    from comp_lib.models.load import INCLUDED_MODEL, load_model

    return load_model(INCLUDED_MODEL)


@cache
def real_outline() -> Any:
    """SmolLM2-135M without its numbers: all its shapes, in a second."""
    from comp_lib.models.load import INCLUDED_MODEL, open_model

    return open_model(INCLUDED_MODEL)[0]


def call(function: Callable, *arguments, grad: bool = False, returns: bool = True):
    """The answer of a learner's function. Raises Wrong for a stub, or where nothing comes back."""
    blank = f"nothing to check yet: `{function.__name__}` still has a blank, `...`"
    try:
        with torch.set_grad_enabled(grad):
            answer = _plain(function(*arguments))
    except (NotImplementedError, TypeError, AttributeError) as error:
        if "ellipsis" in str(error):
            raise Wrong(blank) from error
        if not isinstance(error, NotImplementedError):
            raise
        raise Wrong(
            f"nothing to check yet: `{function.__name__}` still raises NotImplementedError"
        ) from error
    if answer is Ellipsis:
        raise Wrong(blank)
    if answer is None and returns:
        raise Wrong(f"`{function.__name__}` returns nothing: end it with `return`")
    return answer


def _plain(answer):
    """An answer with Python's own numbers in place of numpy's and PyTorch's, in lists and tuples too."""
    if isinstance(answer, np.generic) or (isinstance(answer, Tensor) and answer.ndim == 0):
        return answer.item()
    if isinstance(answer, list | tuple):
        plain = [_plain(value) for value in answer]
        return tuple(plain) if isinstance(answer, tuple) else plain  # PyTorch has tuples that no list makes
    return answer


def check_shape(name: str, answer: object, shape: tuple[int, ...]) -> None:
    """Raises Wrong unless the answer, which a sentence calls `name`, is a tensor of this shape."""
    if not isinstance(answer, Tensor):
        raise Wrong(f"expected {name} as a tensor, got {type(answer).__name__}")
    if tuple(answer.shape) != shape:
        raise Wrong(f"expected {name} of shape {shape}, got {tuple(answer.shape)}")


def alike(answer: Tensor, expected: Tensor) -> bool:
    """Whether the two are equal but for rounding, in shape too."""
    if answer.shape != expected.shape:
        return False
    return torch.allclose(answer.to(expected), expected, rtol=1e-6, atol=1e-9)


def spot(answer: Tensor, mistake: Tensor, sentence: str) -> None:
    """Raises Wrong with `sentence` if the answer is what a known mistake gives."""
    if alike(answer, mistake):
        raise Wrong(sentence)


def accept(sentence: str) -> None:
    """Tells the learner that the answer is right."""
    print(f"Right: {sentence}.")


def dense_layer(n: int, m: int = 4) -> tuple[Tensor, Tensor]:
    """Tokens X (20, n) that are correlated, and weights W (n, m), float64."""
    generator = torch.Generator().manual_seed(n)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    independent = draw(20, n)
    mixing = torch.eye(n, dtype=torch.float64) + 0.5 * draw(n, n)
    return independent @ mixing, draw(n, m)
