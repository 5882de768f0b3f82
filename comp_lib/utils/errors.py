"""What is said to a user: the error that one can cause, how errors of foreign code become it, and remarks.

Every message is a single line: what was expected, what came, and mostly what to do. The command line
shows the line and exits with code 2, for a NoNumber with 1. It does the same with what the system refuses
(OSError) and with a device that runs out of memory. Any other error that escapes is a bug of ours and keeps
its traceback. With COMP_LIB_DEBUG=1 in the environment, or `--debug` on the command line, an InputError keeps
its traceback too, with the error that caused it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parents[1]
DEBUG_VARIABLE = "COMP_LIB_DEBUG"  # name of an environment variable
# Name of what tokenizers raises: it is no subclass of `Exception`, and can be imported from nowhere.
RUST_PANIC = "PanicException"
OUT_OF_MEMORY = "OutOfMemoryError"  # name of torch's error, since importing torch takes seconds
FOREIGN_MESSAGE_LENGTH = 500  # characters of a foreign error that are shown
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
    """A ratio that cannot be reached with what may go, or a loss that even the smallest ratio exceeds.

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
