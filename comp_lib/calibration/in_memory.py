"""Texts that a caller has in memory, as a source of calibration text: a list, or a column of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..utils.arguments import check_type
from ..utils.errors import InputError
from .texts import TEXTS, can_be_a_path, check_encodable, judging_texts, load_text

Source = str | Path | Sequence[str]
"""What calibrates: a name or a path (see `shares`), or texts in memory."""


class GivenTexts(tuple[str, ...]):
    """Texts in memory, which count as one text. `str` says how many, as a card and a refusal do."""

    __slots__ = ()

    def __str__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"{len(self):,} text{plural} in memory"

    __repr__ = __str__

    @property
    def joined(self) -> str:
        """All texts, with an empty line between two of them."""
        return "\n\n".join(self)


def as_source(name: str, value: object, example: str = "shipped") -> str | Path | GivenTexts:
    """`value`, with a sequence of texts, or a column of a data frame, as `GivenTexts`.

    Raises InputError, which calls the argument `name` and gives the `example`, for any other value: an empty
    list, empty texts, names of texts or files in place of texts, or things of another type among them.
    """
    if isinstance(value, GivenTexts):
        return value
    if isinstance(value, Mapping) or hasattr(value, "columns"):
        raise InputError(
            expected=f"{name} to be one column of texts",
            got=f"a {type(value).__name__} of several",
            hint="name the column that has the texts, such as data['text']",
        )
    if hasattr(value, "tolist"):  # a column of pandas
        value = value.tolist()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        check_type(name, value, "the name or the path of a text, or a list of texts", example)
        path: str | Path = value  # type: ignore[assignment]  # `check_type` lets nothing else pass
        return path
    for number, text in enumerate(value):
        if not isinstance(text, str):
            raise InputError(
                expected=f"{name} to be a list of texts",
                got=f"{type(text).__name__} as {name}[{number}]",
                hint="take the column that has the texts, such as data['text']",
            )
        check_encodable(f"{name}[{number}]", text)
    if len(value) > 0 and all(map(_is_name, value)):
        raise InputError(
            expected=f"{name} to be a list of texts",
            got=f"one of names, such as {value[0]!r}",
            hint="give what is in the files: [open(name).read() for name in names]",
        )
    texts = GivenTexts(value)
    if not texts.joined.strip():
        raise InputError(
            expected=f"{name} to be a list of texts with words in it",
            got="an empty list" if len(texts) == 0 else f"{len(texts)} empty ones",
            hint="choose others",
        )
    return texts


def _is_name(text: str) -> bool:
    """Whether this is the name of a text, or of a file, and no text itself."""
    if text in TEXTS:
        return True
    return text != "" and can_be_a_path(Path(text)) and Path(text).is_file()


def read_judging_texts(judged_on: Source) -> dict[str, str]:
    """The texts that judge, by their labels in a table; texts in memory count as one.

    Raises InputError as `as_source` and `load_text` do.
    """
    source = as_source("judged_on", judged_on, example="evaluation:code")
    if isinstance(source, GivenTexts):
        return {str(source): source.joined}
    return {label: load_text(text_name) for label, text_name in judging_texts(source).items()}
