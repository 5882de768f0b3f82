"""Where text comes from, and how it becomes one row of token ids.

Two sets of texts travel with the library, of the same KINDS: `calibration`, from which the statistics of a pruning
run are drawn, and `evaluation`, on which the result is judged. They share no topic, so that a good score cannot come
from having seen the subject. The corpora that papers report on are fetched through `datasets`; between their rows
stands what GPTQ, SparseGPT and Wanda put there, since perplexity depends on it. Anything else is a text file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, refusing, suggestion

SHIPPED = ("calibration", "evaluation")
KINDS = ("prose", "encyclopedia", "code", "dialogue", "reference", "questions", "mathematics", "structured")
# a wheel carries the texts beside the code, a source checkout one folder up
DATA_FOLDERS = tuple(folder / "data" for folder in Path(__file__).parents[1:3])


# Name -> dataset on the Hub, subset, split that papers report, column, and what papers put between rows.
CORPORA = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "text", "\n\n"),
    "ptb": ("ptb-text-only/ptb_text_only", None, "test", "sentence", " "),
    "c4": ("allenai/c4", None, "validation", "text", " "),
}
C4_ROWS = 1100  # how many papers read, of a split's first file
EVERY_KIND = "kinds"  # the evaluation texts of all kinds
TEXTS = (*SHIPPED, EVERY_KIND, *(f"{name}:{kind}" for name in SHIPPED for kind in KINDS), *CORPORA)


def load_text(name_or_path: str | Path) -> str:
    """The text of that name, or of that file (UTF-8).

    Names are `calibration`, `evaluation`, `kinds`, `wikitext2`, `ptb` and `c4`. The first two take one of KINDS after a
    colon, as in `calibration:code`, and are `prose` without; `kinds` is the evaluation texts of all kinds; a corpus
    takes a split, as in `wikitext2:validation`. A name wins over a file of the same name: write `./calibration` for
    the file.

    Raises:
        InputError: no such name or file, not readable, not UTF-8, empty, or a corpus that cannot be fetched.
    """
    name, _, split = str(name_or_path).partition(":")
    if str(name_or_path) == EVERY_KIND:
        return "\n\n\n".join(load_text(f"evaluation:{kind}") for kind in KINDS)
    if name in CORPORA:
        return _corpus_text(name, split)
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


def check_ids(ids: Tensor, vocabulary: int) -> None:
    """Raises InputError for a token that was added to the tokenizer, and not to the model."""
    if ids.numel() and int(ids.max()) >= vocabulary:
        got = f"{int(ids.max())}: take the tokenizer that belongs to the model, or another text"
        raise InputError(f"expected tokens below {vocabulary}, of which the model has embeddings, got {got}")


def opening(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """What the tokenizer puts before each text: its beginning-of-sequence token, (1,), or nothing, (0,).

    A model that was taught with that token reads badly without: Gemma 3 270M loses 1.6 nats per token.
    """
    first, ids = tokenizer.bos_token_id, tokenizer("", verbose=False)["input_ids"]
    return torch.tensor([first] if first is not None and ids[:1] == [first] else [], dtype=torch.long)


def _corpus_text(name: str, split: str) -> str:
    """Rows of a public corpus as one text."""
    try:
        import datasets
    except ImportError as error:
        advice = "pip install 'comp-lib[evaluate]', or pass a text file"
        raise InputError(f"expected the library `datasets` for {name!r}, got none; {advice}") from error
    path, subset, usual, column, between = CORPORA[name]
    split = split or usual
    # the Hub keeps a converted copy of the dataset ptb, a script, which `datasets` no longer runs, on this branch
    revision = "refs/convert/parquet" if name == "ptb" else None
    files = {split: f"en/c4-{split}.00000-of-*.json.gz"} if name == "c4" else None
    try:
        rows = datasets.load_dataset(path, subset, split=split, revision=revision, data_files=files)
    except (OSError, ValueError, RuntimeError) as error:  # offline, unknown split, a change on the Hub
        got = f"{type(error).__name__}: {error}; go online once, choose another split, or pass a text file"
        raise InputError(f"expected to fetch {name!r}, split {split!r}, from the Hub, got {got}") from error
    return between.join(rows[: C4_ROWS if name == "c4" else len(rows)][column])
