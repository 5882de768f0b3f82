"""GGUF files: converted once, to float32 safetensors in the user's cache folder, and memory-mapped from then on."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import gguf
import platformdirs
import torch
from tokenizers import pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..system import hashes
from ..system.atomic import check_room
from .gguf_file import check_rope, metadata, open_gguf
from .reading import check_finite, quiet, read_config, read_tokenizer, read_weights

# About one decoder layer of SmolLM2. Each file is a memory map of its own, and the system takes back the memory of a
# map only when no tensor of it is left: one large file would keep the whole dense model in memory until the end of a
# pruning run that replaces its layers one by one.
SHARD_SIZE = "16MB"
CONVERSION = 2  # counts up when a conversion changes, so that those of older versions are not read
STAGING = ".converting-"  # prefix of unfinished folders in the cache


def cache_folder() -> Path:
    """Where converted models are kept: COMP_LIB_CACHE, else the user's cache folder."""
    return Path(os.environ.get("COMP_LIB_CACHE") or platformdirs.user_cache_dir("comp-lib")).expanduser()


def is_gguf(name: str | Path) -> bool:
    path = Path(name).expanduser()
    return path.suffix == ".gguf" and path.is_file()


def open_gguf_model(path: str | Path) -> tuple[Path, PreTrainedConfig, PreTrainedTokenizerBase]:
    """A GGUF file, the config and the tokenizer in it. Raises InputError as `load_model` does."""
    path = Path(path).expanduser()
    reader = open_gguf(path)
    with quiet():
        config = read_config(str(path.parent), gguf_file=path.name)
        check_rope(reader, path.name)
        tokenizer = read_tokenizer(str(path.parent), gguf_file=path.name)
        restore_pre_tokenizer(tokenizer, metadata(reader, gguf.Keys.Tokenizer.PRE))
    return path, config, tokenizer


def restore_pre_tokenizer(tokenizer: PreTrainedTokenizerBase, rule: str | None) -> None:
    """Let `tokenizer`, which transformers read from GGUF, part all digits if the rule is `smollm`: it forgets to.

    rule: llama.cpp's name for how a text is cut into words, where the file has one.
    """
    if rule == "smollm":
        digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])


def convert_gguf(path: Path) -> Path:
    """Folder with the model of a GGUF file as float32 safetensors: converted now, or before by anyone of this user.

    The folder is named after the SHA-256 of the file, and appears complete or not at all.
    Raises InputError: broken file, not LLaMA-class, not finite, or no room.
    """
    target = cache_folder() / f"gguf-{CONVERSION}-{hashes.of_file(path)}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=STAGING) as temporary:
            staged = Path(temporary) / "model"
            _convert(path, staged)
            try:
                os.rename(staged, target)
            except OSError:
                if not target.is_dir():  # else another process was quicker, with the same file
                    raise
    except OSError as error:
        got = f"{error}; free it, or set COMP_LIB_CACHE"
        raise InputError(f"expected to write a converted model to {target.parent}, got {got}") from error
    return target


def _convert(path: Path, folder: Path) -> None:
    """Read a GGUF file, check what it holds, and save it to `folder`."""
    path, config, tokenizer = open_gguf_model(path)
    with quiet():
        source = {"source": str(path.parent), "gguf_file": path.name}
        model = read_weights(dtype=torch.float32, config=config, **source)  # reading the file's header takes seconds
        check_finite(model)
        needed = sum(parameter.nbytes for parameter in model.parameters())
        hint = f"free some in {cache_folder()}, or set COMP_LIB_CACHE"
        check_room(folder.parent, needed, f"the converted {path.name}", hint)
        # the weights are plain floats now, and must not claim to be quantised when they are saved
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        tokenizer.save_pretrained(folder)


def _sweep(cache: Path) -> None:
    """Delete what conversions left that were killed: nobody works on one for a day."""
    for folder in cache.glob(f"{STAGING}*"):
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder)
