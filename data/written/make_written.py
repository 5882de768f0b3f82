"""What the included model writes for `general` with seed 0: a JSON file in this folder, named by its hash.

    OMP_NUM_THREADS=1 python data/written/make_written.py

For each number of sequences that a preset or `comp-lib report` asks for, the file has the token ids that
`comp_lib.calibration.self_generated` would otherwise sample: minutes of work, which nobody has to repeat.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from comp_lib.calibration.defaults import COMPARED_SEQUENCES
from comp_lib.calibration.mixtures import WRITTEN, allot, load_apart_from, sequence_limits, shares_of
from comp_lib.calibration.self_generated import draw_prefixes, key_of_text, sample
from comp_lib.calibration.texts import encode, opening_tokens
from comp_lib.checkpoints.load import load_model
from comp_lib.checkpoints.wheels import INCLUDED_MODEL
from comp_lib.decoder.types import Model
from comp_lib.pruning.settings import DEFAULTS, PRESET_TABLE
from comp_lib.utils.hashes import hash_of_model

FOLDER = Path(__file__).parent


def writers_of(source: str, tokenizer: PreTrainedTokenizerBase, sequences: int, length: int) -> list[str]:
    """The writers of the windows that the model writes, in the order in which `calibration_tokens` asks."""
    shares = shares_of(source)
    span = length - len(opening_tokens(tokenizer))
    texts = load_apart_from(None, source)
    window_counts = {name: len(encode(tokenizer, text)) // span for name, text in texts.items()}
    text_of_window = allot(shares, sequences, sequence_limits(shares, window_counts), source)
    writers: list[str] = []
    for name in shares:
        if name in WRITTEN:
            writers += [name] * text_of_window.count(name)
    return writers


def write_file(
    folder: Path,
    model_name: str,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    counts: Iterable[int],
    length: int,
    seed: int,
) -> Path:
    """Write the file of `model` into `folder`: its text for each of `counts` sequences of `source`."""
    texts: dict[str, Any] = {}
    for sequences in counts:
        writers = writers_of(source, tokenizer, sequences, length)
        prefixes = draw_prefixes(tokenizer, writers, model.config.vocab_size, length, seed)
        rows = sample(model, prefixes, length, seed).tolist()
        texts[key_of_text(hash_of_model(model), prefixes, length, seed)] = {
            "for": f"{source}, {sequences} x {length} tokens, seed {seed}",
            "ids": rows,
        }
    processor = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}"
    written_on = f"{processor}, {torch.get_num_threads()} thread, {libraries}"
    content = {"model": model_name, "written_on": written_on, "texts": texts}
    path = folder / f"{hash_of_model(model)}.json"
    one_window_a_line = json.dumps(content).replace("], [", "],\n[")
    path.write_text(one_window_a_line + "\n", encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    included_model, its_tokenizer = load_model(INCLUDED_MODEL)
    sequence_counts = {COMPARED_SEQUENCES} | {preset.sequences for preset in PRESET_TABLE.values()}
    write_file(
        FOLDER,
        INCLUDED_MODEL,
        included_model,
        its_tokenizer,
        DEFAULTS["calibration"],
        sorted(sequence_counts),
        DEFAULTS["length"],
        DEFAULTS["seed"],
    )
