"""Checks of what a caller gave: values of the right type and size, and the nearest word for an unknown one.

Each refusal is an `errors.InputError`, which names the argument.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import numbers
import reprlib
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError

LARGEST_INTEGER = 2**63 - 1  # the largest seed that torch takes; the limit of other whole numbers, too
LONGEST_WORD = 100  # letters of an unknown word that are compared
LEAST_LIKENESS = 0.5  # of an option to an unknown word, 0 to 1, for which it is offered
# the kinds of parameters that have names for a caller
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
Called = TypeVar("Called", bound=Callable[..., Any])


def suggestion(word: str, options: Iterable[str], otherwise: str = "") -> str:
    """A hint for an unknown word: the nearest of `options`, and of equally near ones each, in their order.

    otherwise: the hint where none is near; "": all of them.

    >>> suggestion("wandasp", ["wanda-sp", "random"])
    "did you mean 'wanda-sp'?"
    """
    options = list(options)
    matcher = difflib.SequenceMatcher(None, b=word[:LONGEST_WORD].lower())
    likeness: dict[str, float] = {}  # 0 to 1
    for option in options:
        matcher.set_seq1(option.lower())
        likeness[option] = matcher.ratio()
    highest = max(likeness.values(), default=0.0)
    if highest >= LEAST_LIKENESS:
        nearest = [option for option in likeness if likeness[option] == highest]
        return f"did you mean {' or '.join(map(repr, nearest))}?"
    return otherwise or f"choose one of {', '.join(options)}"


def is_number(value: object) -> bool:
    """Whether a value is a number: True and False, which Python counts among them, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain_number(value: object) -> Any:
    """A number of NumPy as the number of Python that it is; anything else as it came."""
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        return value.item()
    return value


def takes(function: Callable[..., Any], *arguments: object) -> bool:
    """Whether a function can be called with these arguments, as far as its signature is known."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is written in C
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def check_whole_number(name: str, value: object, minimum: int) -> None:
    """Raises InputError, which names the field, for anything but an integer from `minimum` on."""
    if type(value) is not int or value < minimum:
        expected = f"{name} as a whole number above {minimum - 1}"
        hint = f"such as {minimum}"
        if isinstance(value, str):
            hint = "write it without quotes"
        elif type(value) is int:
            hint = f"the smallest is {minimum}"
        raise InputError(expected=expected, got=repr(value), hint=hint)


def check_switch(name: str, value: object) -> None:
    """Raises InputError, which names the field, for a value that is neither True nor False."""
    if not isinstance(value, bool):
        expected = f"{name} to be True or False"
        hint = f"such as {name}=True"
        if isinstance(value, str):
            hint = "write it without quotes"
        raise InputError(expected=expected, got=reprlib.repr(value), hint=hint)


def check_type(
    name: str, value: object, description: str, example: object, *, allowed: tuple[type, ...] = (str, Path)
) -> None:
    """Raises InputError, which names the argument, for a value of a type that is not allowed.

    description: what the value should be, in words, such as "the name of a text".
    """
    if not isinstance(value, allowed):
        expected = f"{name} to be {description}"
        raise InputError(expected=expected, got=reprlib.repr(value), hint=f"such as {example!r}")


def check_seed(seed: object) -> None:
    """Raises InputError for anything but a whole number from 0 that torch can take."""
    if type(seed) is not int or not 0 <= seed <= LARGEST_INTEGER:
        raise InputError(
            expected="seed to be a whole number from 0", got=repr(seed), hint="0 is the usual one"
        )


def check_ratio(ratio: float) -> None:
    """Raises InputError for a ratio of parameters to remove that is not above 0 and below 1."""
    if not 0.0 < ratio < 1.0:  # NaN is in no interval
        raise InputError(
            expected="ratio to be between 0 and 1 (such as 0.2)",
            got=repr(ratio),
            hint="0.2 removes a fifth of the decoder",
        )


def check_package(package: str, extra: str) -> None:
    """Raises InputError unless the `package` is installed, which our extra `extra` brings."""
    if importlib.util.find_spec(package) is None:
        raise InputError(expected=f"the package {package}", got="none", hint=pip_command(extra))


def pip_command(*extras: str) -> str:
    """The command that installs these of our extras beside the Python that runs, activated or not."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{shlex.quote(str(python))} -m pip install 'comp-lib[{','.join(extras)}]'"
