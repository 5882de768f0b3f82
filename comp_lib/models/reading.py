"""transformers' readers, made strict: what users can cause becomes an InputError, and no gap is filled by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import InputError, refusing
from ..families import OWN, check_config, whole_attention
from ..system.tensor_files import AGAIN, read_object
from .own_widths import register
from .skeleton import attention, skeleton

PROBE = "I'll pay 12.5 for it,\n\u65e5\u672c!"  # words, digits, signs, a line end, another script


def read_config(folder: Path) -> PreTrainedConfig:
    """What the config.json of a folder describes. Raises InputError as `checked_config` does."""
    if not (folder / "config.json").exists():
        raise InputError(f"expected a model folder with config.json, got {str(folder)!r} without; choose another")
    return checked_config(read_object(folder / "config.json"), str(folder))


def checked_config(fields: Mapping[str, Any], source: str) -> PreTrainedConfig:
    """What the fields of a config.json describe; how attention is computed is not theirs to say, and no code is run.

    Raises InputError, before any weight is read, for a family that is not known and for what cannot be built.
    """
    check_config(dict(fields))
    kept = {name: value for name, value in fields.items() if name[:1] != "_" and "implementation" not in name}
    kept |= {"name_or_path": source}
    if kept["model_type"] == "mistral" and kept.get("layer_types"):
        kept["model_type"] = "ministral"  # as transformers reads such a folder
    with refusing("a config.json that can be built", source, AGAIN), quiet():
        if fields["model_type"].startswith(OWN):
            register(fields["model_type"].removeprefix(OWN))
        config: PreTrainedConfig = AutoConfig.for_model(**kept)
        config._attn_implementation = attention(config)
        whole_attention(skeleton(config))
    return config


def read_tokenizer(
    folder: Path, config: PreTrainedConfig, reader: Callable[..., Any] = AutoTokenizer.from_pretrained, **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model. Raises InputError unless it works, and the model has its tokens."""
    options |= {} if "gguf_file" in options else {"config": config}  # of which only AutoTokenizer rids itself
    with refusing("a readable tokenizer", str(folder / options.get("gguf_file", "")), AGAIN), quiet():
        tokenizer: PreTrainedTokenizerBase = reader(str(folder), trust_remote_code=False, **options)
        core = getattr(tokenizer, "backend_tokenizer", None)
        ids = [*tokenizer(PROBE)["input_ids"], *(core.get_vocab(with_added_tokens=False).values() if core else ())]
    if max(ids, default=0) >= config.vocab_size:
        got = f"{max(ids)} in the tokenizer of {folder}; take the tokenizer that belongs to the model"
        raise InputError(f"expected tokens below vocab_size, {config.vocab_size}, got {got}")
    return tokenizer


def read_generation(place: Path, config: PreTrainedConfig) -> GenerationConfig:
    """How a model's text is written, by its folder. Raises InputError for what could not be saved again."""
    with refusing("a generation_config.json that makes sense", str(place), "correct it, or delete that file"), quiet():
        if not (place / "generation_config.json").exists():
            return GenerationConfig.from_model_config(config)
        generation: GenerationConfig = GenerationConfig.from_pretrained(place)
        generation.validate()
        generation.to_json_string()
        return generation


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters in them is raised as InputError instead."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
