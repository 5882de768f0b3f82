"""Texts by name or by file, and their token ids.

Two sets of texts travel with the library, of the same KINDS: `calibration`, from which the statistics of a
pruning run are drawn, and `evaluation`, on which the result is judged. They share no topic, so that a good
score cannot come from having seen the subject. The text that most papers report on, WikiText-2, is fetched
through `datasets`. Anything else is a text file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..utils.arguments import check_package, check_type, suggestion
from ..utils.errors import InputError, refusing

TEXT_SETS = ("calibration", "evaluation")
KINDS = ("prose", "encyclopedia", "code", "dialogue", "reference", "questions", "mathematics", "structured")
# a wheel carries the texts beside the code, a source checkout has them one folder further up
DATA_FOLDERS = tuple(folder / "data" for folder in Path(__file__).parents[1:3])
SHOWN_LETTERS = 20  # letters of a text that are shown before a part of a character
LONGEST_NAME = 255  # bytes of the name of a file, or of a folder on the way to it
LONGEST_PATH = 4000  # bytes of a path
SHOWN_NAME_LETTERS = 200  # letters of the name of a text that a refusal shows
WORDS_OF_A_TEXT = 3  # spaces in a name that is taken for a text itself
TEXT_ITSELF_HINT = "check the spelling; a text itself goes in a list: [text]"
WIKITEXT = "wikitext2"
EVERY_KIND = "kinds"  # the evaluation texts of all kinds
TEXTS = (*TEXT_SETS, EVERY_KIND, *(f"{name}:{kind}" for name in TEXT_SETS for kind in KINDS), WIKITEXT)


def load_text(name_or_path: str | Path) -> str:
    """The text of that name, or of that file (UTF-8).

    The names are `calibration`, `evaluation`, `kinds` and `wikitext2`. The first two take one of KINDS after
    a colon, as in `calibration:code`; without it they are `prose`. `kinds` is the evaluation texts of all
    kinds. `wikitext2` is the test split of WikiText-2; `wikitext2:train` is another split. A name wins over a
    file: write `./calibration` for the file.

    Raises InputError for anything but a string or a path, a name or file that does not exist, a file that
    is empty, not readable or not UTF-8, and a text that cannot be fetched. A name that UTF-8 cannot hold is
    refused, too, since a model's card has the names of its texts.
    """
    return read_text(name_or_path, TEXTS)


def read_text(name_or_path: str | Path, names: Iterable[str], *, joined: bool = False) -> str:
    """`load_text`, for a caller who takes these `names`, of which a refusal offers the nearest.

    joined: whether the caller takes several names with "+" between them, which a refusal then says.
    """
    check_type("a text", name_or_path, "the name or the path of one", example="evaluation:code")
    text_name = str(name_or_path)
    check_encodable("the name of a text", text_name)
    if text_name == EVERY_KIND:
        return "\n\n\n".join(load_text(kind_text) for kind_text in judging_texts(EVERY_KIND).values())
    if text_name.split(":")[0] == WIKITEXT:
        return _load_wikitext(split=text_name.removeprefix(WIKITEXT).removeprefix(":") or "test")
    path = _shipped_file(text_name) if text_name in TEXTS else Path(os.path.expanduser(name_or_path))
    shown_name = text_name[:SHOWN_NAME_LETTERS]
    if not can_be_a_path(path):
        raise InputError(
            expected="a text file or the name of a text",
            got=f"{shown_name!r} and more, which is too long",
            hint=TEXT_ITSELF_HINT,
        )
    if text_name and path.is_dir():
        raise InputError(expected="a text file", got=f"the folder {text_name!r}", hint="name a file in it")
    advice = "check its permissions, or convert it, for example with iconv -t utf-8"
    with refusing("readable text in UTF-8", str(path), advice):
        # utf-8-sig, since a byte order mark is no part of the text
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else None
    if text is None:
        raise InputError(
            expected="a text file or the name of a text",
            got=f"{shown_name!r}, no such file",
            hint=_hint_for_no_text(path, names, joined),
        )
    if not text.strip():
        raise InputError(expected="some text", got=f"the empty file {str(path)!r}", hint="choose another")
    return text


def can_be_a_path(path: Path) -> bool:
    """Whether a system can have a file of that name; it has none whose name is a text of 5,000 letters."""
    parts = [len(os.fsencode(part)) for part in path.parts]
    return max(parts, default=0) <= LONGEST_NAME and sum(parts) <= LONGEST_PATH


def _hint_for_no_text(path: Path, names: Iterable[str], joined: bool) -> str:
    """What to do about a text that is neither one of `names` nor a file.

    A path is compared with the files beside where it should be, and a name with `names`.
    """
    parts = [part.strip() for part in str(path).split(",")]
    if joined and len(parts) > 1 and any(part in names or Path(part).is_file() for part in parts):
        return f"write + between two texts: {'+'.join(parts)!r}"
    if "\n" in str(path) or path.name.count(" ") >= WORDS_OF_A_TEXT:
        return TEXT_ITSELF_HINT
    if path.suffix == "" and path == Path(path.name):
        return suggestion(str(path), names)
    folder = path.parent
    can_be_read = folder.is_dir() and os.access(folder, os.R_OK)
    files = sorted(file.name for file in folder.iterdir()) if can_be_read else []
    return suggestion(path.name, files, otherwise=f"check the path; the current folder is {Path.cwd()}")


def judging_texts(judged_on: str | Path) -> dict[str, str | Path]:
    """The texts that judge, by their labels in a table: for EVERY_KIND those of all KINDS.

    judged_on: name or path of the text, or EVERY_KIND.

    >>> judging_texts("notes.txt")
    {'notes.txt': 'notes.txt'}
    """
    if str(judged_on) == EVERY_KIND:
        return {kind: f"evaluation:{kind}" for kind in KINDS}
    return {str(judged_on): judged_on}


def _shipped_file(text_name: str) -> Path:
    """The file of a text that ships: the wheel's before that of a checkout."""
    set_name, _, kind = text_name.partition(":")
    file_name = f"{set_name}.txt" if kind in ("", "prose") else f"{set_name}/{kind}.txt"
    return find_shipped(file_name, DATA_FOLDERS)


def find_shipped(name: str, folders: Iterable[Path]) -> Path:
    """The file or folder `name` that travels with the library, in the first of `folders` that has it.

    Raises InputError where none has it: the installation is incomplete.
    """
    for folder in folders:
        path = folder / name
        if path.exists():
            return path
    raise InputError(
        expected=f"{name}, which comes with comp_lib",
        got="an installation without it",
        hint="install comp-lib again",
    )


def _load_wikitext(split: str) -> str:
    """WikiText-2 with what GPTQ, SparseGPT and Wanda put between its rows, since perplexity depends on it."""
    check_package("datasets", "evaluate")
    advice = "go online once, choose another split, or pass a text file"
    with refusing(f"to fetch {WIKITEXT} from the Hub", f"split {split}", advice):
        from datasets import load_dataset

        # only here are the rows read from the disk
        rows = list(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)["text"])
    return "\n\n".join(rows)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Token ids of a long text, (N,), without special tokens: windows are cut out of its middle.

    Raises InputError for anything but a tokenizer and a text.
    """
    check_tokenizer(tokenizer)
    check_encodable("text", text)
    # verbose=False: the text may well be longer than the model's context, but no window of it will be
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def check_encodable(name: str, text: object) -> None:
    """Raises InputError, which says what `text` is, for anything but text, or a part of a character in it.

    Python has such parts where the system or a terminal gave other bytes than UTF-8.
    """
    if not isinstance(text, str):
        raise InputError(expected=name, got=type(text).__name__, hint="write it in quotes")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        letters = text[max(0, error.start - SHOWN_LETTERS) : error.end]
        raise InputError(
            expected=f"{name} that can be written as UTF-8",
            got=f"{letters!r} in it",
            hint="type it anew, or convert it with iconv -t utf-8",
        ) from error


def check_tokenizer(tokenizer: object) -> None:
    """Raises InputError unless `tokenizer` is a tokenizer, and not its name, say."""
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        raise InputError(
            expected="a tokenizer",
            got=type(tokenizer).__name__,
            hint="load_model returns one beside the model",
        )


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The tokens that begin each text: the beginning-of-sequence token, (1,), or nothing, (0,).

    A model that was taught with that token reads badly without: Gemma 3 270M loses 1.6 nats per token.
    """
    bos_token = tokenizer.bos_token_id
    ids_of_nothing = tokenizer("", verbose=False)["input_ids"]
    if bos_token is None or ids_of_nothing[:1] != [bos_token]:
        return torch.empty(0, dtype=torch.long)
    return torch.tensor([bos_token])


def start_token(tokenizer: Any) -> int | None:
    """The token with which a reader starts a text: the tokenizer's beginning of a sequence, else its end."""
    bos_token: int | None = tokenizer.bos_token_id
    return tokenizer.eos_token_id if bos_token is None else bos_token
