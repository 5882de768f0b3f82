"""What is said to a user: the error that one can cause, how errors of foreign code become it, and remarks.

Every message is a single line: what was expected, what came, and mostly what to do. The command line
shows the line and exits with code 2. It does the same with what the system refuses (OSError). Anything else
that escapes is a bug of ours and keeps its traceback. With COMP_LIB_DEBUG=1 in the environment, or `--debug`
on the command line, an InputError keeps its traceback too, with the error that caused it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import logging
import os
import reprlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parent
DEBUG_VARIABLE = "COMP_LIB_DEBUG"  # name of an environment variable
# Name of what tokenizers raises: it is no subclass of `Exception`, and can be imported from nowhere.
RUST_PANIC = "PanicException"
OUT_OF_MEMORY = "OutOfMemoryError"  # name of torch's error, since importing torch takes seconds
FOREIGN_MESSAGE_LENGTH = 500  # characters of a foreign error that are shown
LARGEST_INTEGER = 2**63 - 1  # the largest seed that torch takes; the limit of other whole numbers, too
LONGEST_WORD = 100  # letters of an unknown word that are compared
LEAST_LIKENESS = 0.5  # of an option to an unknown word, 0 to 1, for which it is offered
# the kinds of parameters that have names for a caller
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
Called = TypeVar("Called", bound=Callable[..., Any])
# Errors that only a mistake in a program raises.
BUGS = (AssertionError, AttributeError, IndexError, KeyError, NameError, TypeError)


class InputError(ValueError):
    """Bad input, refused by name: before any work starts where it can be known then.

    >>> print(InputError(expected="a number", got="'abc'", hint="such as 0.2"))
    expected a number, got 'abc': such as 0.2
    """

    def __init__(self, *, expected: str, got: object, hint: str = "") -> None:
        """Make the sentence "expected EXPECTED, got GOT: HINT".

        Each run of white space becomes one space, and control characters are made visible.
        """
        self.expected = expected
        self.got = str(got)
        self.hint = hint
        sentence = f"expected {expected}, got {got}"
        if hint:
            sentence = f"{sentence}: {hint}"
        super().__init__(as_printable(sentence))

    def __reduce__(self) -> tuple[Callable[[], InputError], tuple[()]]:
        """How it passes from one process to another: by its three parts (pickle's protocol)."""
        return functools.partial(type(self), expected=self.expected, got=self.got, hint=self.hint), ()

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the sentence (IPython's protocol)."""
        if in_debug_mode():
            import traceback

            return "".join(traceback.format_exception(self)).splitlines()
        return [f"{type(self).__name__}: {self}"]


class OutOfReach(InputError):
    """A ratio that cannot be reached with what may go.

    A caller that tries several ratios goes on after it, and after no other InputError.
    """


class NoNumber(InputError):
    """A measured value that is NaN or infinite, which is shown and saved nowhere.

    Only the work could tell that the input makes no sense. The command line ends with exit code 1.
    """


def as_printable(text: str) -> str:
    """`text` as one line.

    What cannot be printed is shown by its number: half a character, or a code that steers a terminal.
    """
    line = " ".join(text.split())
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode-escape").decode() for letter in line
    )


@functools.cache
def warn_once(line: str) -> None:
    """Write `line` to the log, which shows it on stderr; once in a process."""
    log.warning("%s", as_printable(line))


def in_debug_mode() -> bool:
    """Whether an InputError is to be shown with its traceback."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


@contextmanager
def refusing(expected: str, source: str, hint: str) -> Iterator[None]:
    """Turn any exception of foreign code in the block into an InputError.

    transformers and tokenizers have no error of their own for a file that makes no sense. They raise all
    kinds, among them bare `Exception` and panics of Rust. A bug in our own code stays what it is (see
    `is_bug_of_ours`), and so does a lack of memory.

    source: the file or value that the foreign code reads.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        name = type(error).__name__
        foreign = isinstance(error, Exception) or name == RUST_PANIC
        if not foreign or name == OUT_OF_MEMORY or is_bug_of_ours(error):
            raise
        message = str(error)[:FOREIGN_MESSAGE_LENGTH]
        raise InputError(expected=expected, got=f"{source!r}: {name}: {message}", hint=hint) from error


def is_bug_of_ours(error: BaseException) -> bool:
    """Whether a line of this package itself raised one of BUGS."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, BUGS):
        return False
    return Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


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


def known_keywords(*names: str, elsewhere: Mapping[str, str] | None = None) -> Callable[[Called], Called]:
    """A decorator for a function or a class: an unknown keyword is refused, and the nearest is offered.

    Args:
        names: keywords that it takes beside its parameters.
        elsewhere: keywords that belong to something else -> the hint that says to what.
    """
    hints = elsewhere or {}

    def decorate(called: Called) -> Called:
        if isinstance(called, type):
            called.__init__ = decorate(called.__init__)  # type: ignore[misc]
            return called
        parameters = inspect.signature(called).parameters.values()
        own_names = [one.name for one in parameters if one.kind in NAMED and one.name not in ("self", "cls")]
        options = (*own_names, *names)

        @functools.wraps(called)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            for keyword in keywords:
                if keyword not in options:
                    name = called.__qualname__.removesuffix(".__init__")
                    hint = hints.get(keyword) or suggestion(keyword, options)
                    raise InputError(expected=f"keywords that {name} has", got=repr(keyword), hint=hint)
            return called(*arguments, **keywords)

        return checked  # type: ignore[return-value]  # which is called as `called` is

    return decorate


def check_whole_number(name: str, value: object, minimum: int) -> None:
    """Raises InputError, which names the field, for a value that is no integer or below `minimum`."""
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
    name: str, value: object, description: str, example: str, *, allowed: tuple[type, ...] = (str, Path)
) -> None:
    """Raises InputError, which names the argument, for a value of a type that is not allowed.

    description: what the value should be, in words, such as "the name of a text".
    """
    if not isinstance(value, allowed):
        expected = f"{name} to be {description}"
        raise InputError(expected=expected, got=reprlib.repr(value), hint=f"such as {example!r}")


def check_seed(seed: object) -> None:
    """Raises InputError for a seed that is no integer, or one that torch cannot take."""
    if type(seed) is not int or abs(seed) > LARGEST_INTEGER:
        raise InputError(expected="seed to be a whole number", got=repr(seed), hint="0 is the usual one")


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
