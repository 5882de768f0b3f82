"""The one error that a user can cause.

Every message is a single line in three parts: what was expected, what came, what to do. The command line shows it
as it is and exits with code 2, and so it does with what the system refuses (OSError); anything else that escapes is a
bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

PANIC, NO_ROOM = "PanicException", "OutOfMemoryError"  # of tokenizers (no `Exception`), and of torch: by name
LONGEST = 500  # characters of somebody else's error


class InputError(ValueError):
    """Bad input, refused by name before any work starts."""

    def __init__(self, message: str) -> None:
        # what came may be half of a character, or tell a terminal what to do: then its number stands for it
        letters = " ".join(message.split())
        super().__init__(
            "".join(x if x.isprintable() else x.encode("unicode-escape").decode() for x in letters)
        )

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the sentence (IPython's protocol)."""
        return [f"{type(self).__name__}: {self}"]


@contextmanager
def refusing(expected: str, place: str, advice: str) -> Iterator[None]:
    """Whatever other people's code raises in the block, an InputError says: it only worked on what is in `place`.

    transformers and tokenizers have no error of their own for a file that makes no sense: on the way through such a
    file they raise whatever comes, bare `Exception` and panics of Rust among it.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if (name := type(error).__name__) == NO_ROOM or (not isinstance(error, Exception) and name != PANIC):
            raise
        got = f"{place!r}: {name}: {str(error)[:LONGEST]}; {advice}"
        raise InputError(f"expected {expected}, got {got}") from error


def suggestion(word: str, options: Iterable[str]) -> str:
    """A hint for an unknown name: the closest of `options`, else all of them.

    >>> suggestion("wandasp", ["wanda-sp", "random"])
    "did you mean 'wanda-sp'?"
    """
    options = list(options)
    close = difflib.get_close_matches(word.lower(), options, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"choose one of {', '.join(options)}"


def check_package(package: str, extra: str) -> None:
    """Raises InputError, which says what to type, unless the `package` that `extra` brings is here."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"expected the package {package}, got none: pip install 'comp-lib[{extra}]'")
