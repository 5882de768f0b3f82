"""The one error that a user can cause.

Every message is a single line in three parts: what was expected, what came, what to do. The command line shows it
as it is and exits with code 2; anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, refused by name before any work starts."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_visible, " ".join(message.split()))))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the sentence (IPython's protocol)."""
        return [f"{type(self).__name__}: {self}"]


def _visible(letter: str) -> str:
    """What came may be half of a character, or tell a terminal what to do: then its number stands for it."""
    hidden = not letter.isprintable()
    return letter.encode("unicode-escape").decode() if hidden else letter


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint for an unknown name: the closest of `options`, else all of them.

    >>> nearest("wandasp", ["wanda-sp", "random"])
    "did you mean 'wanda-sp'?"
    """
    options = list(options)
    close = difflib.get_close_matches(word.lower(), options, n=2, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"choose one of {', '.join(options)}"
