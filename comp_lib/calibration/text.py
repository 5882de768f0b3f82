"""Where text comes from, and how it becomes one row of token ids, or the windows on which models are judged.

Two sets of texts travel with the library, of the same KINDS: `calibration`, from which the statistics of a pruning
run are drawn, and `evaluation`, on which the result is judged. They share no topic, so that a good score cannot come
from having seen the subject. The text that most papers report on, WikiText-2, is fetched through `datasets`. Anything
else is a text file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, check_package, refusing, suggestion

TEXT_SETS = ("calibration", "evaluation")
KINDS = ("prose", "encyclopedia", "code", "dialogue", "reference", "questions", "mathematics", "structured")
# a wheel carries the texts beside the code, a source checkout one folder up
DATA_FOLDERS = tuple(folder / "data" for folder in Path(__file__).parents[1:3])
WIKITEXT = "wikitext2"
EVERY_KIND = "kinds"  # the evaluation texts of all kinds
TEXTS = (*TEXT_SETS, EVERY_KIND, *(f"{name}:{kind}" for name in TEXT_SETS for kind in KINDS), WIKITEXT)


def load_text(name_or_path: str | Path) -> str:
    """The text of that name, or of that file (UTF-8).

    Names are `calibration`, `evaluation`, `kinds` and `wikitext2`. The first two take one of KINDS after a colon, as in
    `calibration:code`, and are `prose` without; `kinds` is the evaluation texts of all kinds; `wikitext2` is the test
    split, and takes another, as in `wikitext2:train`. A name wins over a file: write `./calibration` for the file.

    Raises InputError: no such name or file, not readable, not UTF-8, empty, or a text that cannot be fetched.
    """
    name, _, split = str(name_or_path).partition(":")
    if str(name_or_path) == EVERY_KIND:
        return "\n\n\n".join(load_text(f"evaluation:{kind}") for kind in KINDS)
    if name == WIKITEXT:
        return _wikitext(split or "test")
    path = Path(name_or_path)
    if str(name_or_path) in TEXTS:
        place = f"{name}.txt" if split in ("", "prose") else f"{name}/{split}.txt"
        path = next((file for folder in DATA_FOLDERS if (file := folder / place).is_file()), path)
    advice = "check its permissions, or convert it, for example with iconv -t utf-8"
    with refusing("readable text in UTF-8", str(path), advice):
        if not path.is_file():
            got = f"{str(path)!r}, no such file; {suggestion(str(path), TEXTS)}"
            raise InputError(f"expected a text file or the name of a text, got {got}")
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no part of the text
    if not text.strip():
        raise InputError(f"expected some text, got the empty file {str(path)!r}; choose another")
    return text


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Token ids of a long text, (N,), without special tokens: windows are cut out of its middle."""
    # verbose=False: the text may well be longer than the model's context, but no window of it will be
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def opening(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """What the tokenizer puts before each text: its beginning-of-sequence token, (1,), or nothing, (0,).

    A model that was taught with that token reads badly without: Gemma 3 270M loses 1.6 nats per token.
    """
    first, ids = tokenizer.bos_token_id, tokenizer("", verbose=False)["input_ids"]
    return torch.tensor([first] if first is not None and ids[:1] == [first] else [], dtype=torch.long)


def start_token(tokenizer: Any) -> int | None:
    """The token with which a reader starts a text: the tokenizer's beginning-of-sequence token, else its end token."""
    first: int | None = tokenizer.bos_token_id
    return tokenizer.eos_token_id if first is None else first


def windows_of(
    name: str | Path, tokenizer: Any, length: int = 512, sequences: int | None = None
) -> dict[str, Tensor]:
    """Windows (S, L) of the text of that name or file, by its name; of each of KINDS, in order, for EVERY_KIND.

    All whole ones, or that many `sequences`. Raises InputError as `load_text` and `evaluation_tokens` do.
    """
    texts = {kind: f"evaluation:{kind}" for kind in KINDS} if str(name) == EVERY_KIND else {str(name): name}
    return {
        each: evaluation_tokens(tokenizer, load_text(text), length, sequences) for each, text in texts.items()
    }


def evaluation_tokens(tokenizer: Any, text: str, length: int = 512, sequences: int | None = None) -> Tensor:
    """Consecutive windows from the start of `text`, (S, L); all whole ones unless `sequences` says how many.

    Each begins with what the tokenizer puts before a text.

    Raises InputError when the text has fewer tokens than asked for.
    """
    if length < 2 or (sequences is not None and sequences < 1):
        raise InputError(
            f"expected at least 1 sequence of at least 2 tokens, got {sequences} x {length}; raise them"
        )
    return cut(encode(tokenizer, text), opening(tokenizer), length, sequences or 1, "evaluation text")[
        :sequences
    ]


def cut(ids: Tensor, first: Tensor, length: int, least: int, what: str) -> Tensor:
    """Consecutive windows (S, L) of the ids (N,) of a text, `first` (k,) before each.

    what: names the text. Raises InputError unless there are `least` windows.
    """
    own = length - len(first)
    if len(ids) < least * own:
        got = f"got {len(ids)}; take a longer text, or ask for less of it"
        raise InputError(f"expected at least {least * own} tokens of {what} for {least} x {length}, {got}")
    windows = ids[: len(ids) // own * own].view(-1, own)
    return torch.cat([first.expand(len(windows), -1), windows], 1)


def _wikitext(split: str) -> str:
    """WikiText-2 with what GPTQ, SparseGPT and Wanda put between its rows, since perplexity depends on it."""
    check_package("datasets", "evaluate")
    advice = "go online once, choose another split, or pass a text file"
    with refusing(f"to fetch {WIKITEXT} from the Hub", f"split {split}", advice):
        from datasets import load_dataset

        return "\n\n".join(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)["text"])
