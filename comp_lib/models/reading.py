"""transformers' readers, made strict: what users can cause becomes an InputError, and no gap is filled by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import InputError, refusing
from ..families import check_config
from ..families.protocol import Model
from ..system.tensor_files import TensorFiles
from ..system.untrusted import read_object
from .own_widths import PREFIX, register
from .skeleton import ATTENTION, HEAD, skeleton

EMBEDDED = "smollm2-135m"  # the model that a wheel brings: its name stands in every refusal
EMBEDDING = "model.embed_tokens.weight"
IGNORED = "rotary_emb.inv_freq"  # old Llama folders hold what the config says already
PROBE = "I'll pay 12.5 for it,\n\u65e5\u672c!"  # words, digits, signs, a line end, another script


def read(reader: Callable[..., Any], source: str, what: str = "model", **options: Any) -> Any:
    """Call one of transformers' `from_pretrained`, quietly; what users can cause becomes an InputError."""
    expected, advice = f"a readable {what}", "fetch or save it again"
    if not Path(source).is_dir():
        expected = f"{EMBEDDED!r}, a folder, a .gguf file or a reachable Hub id"
        advice = "check the spelling and the connection, or use a local folder"
    with refusing(expected, str(Path(source, options.get("gguf_file", ""))), advice), quiet():
        return reader(source, trust_remote_code=False, **options)


def read_config(folder: Path) -> PreTrainedConfig:
    """What the config.json of a folder describes. Raises InputError as `checked_config` does."""
    if not (folder / "config.json").exists():
        raise InputError(f"expected a model folder with config.json, got {str(folder)!r} without; choose another")
    return checked_config(read_object(folder / "config.json"), str(folder))


def checked_config(fields: Mapping[str, Any], source: str) -> PreTrainedConfig:
    """What the fields of a config.json describe.

    Attention is always computed by torch: a folder may not name a kernel for transformers to fetch. Raises InputError,
    before any weight is read, for a family that is not known and for what cannot be built.
    """
    check_config(dict(fields))
    kept = {name: value for name, value in fields.items() if name[:1] != "_" and "implementation" not in name}
    kept |= {"name_or_path": source, "attn_implementation": ATTENTION}
    with refusing("a config.json that can be built", source, "fetch or save it again"), quiet():
        if fields["model_type"].startswith(PREFIX):
            register(fields["model_type"].removeprefix(PREFIX))
        config: PreTrainedConfig = AutoConfig.for_model(**kept)
        skeleton(config)
    return config


def read_tokenizer(
    source: str, config: PreTrainedConfig, reader: Callable[..., Any] = AutoTokenizer.from_pretrained, **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model. Raises InputError unless it works, and the model has its tokens."""
    tokenizer: PreTrainedTokenizerBase = read(reader, source, "tokenizer", config=config, **options)
    with refusing("a readable tokenizer", source, "fetch or save it again"):
        core = getattr(tokenizer, "backend_tokenizer", None)
        ids = [*tokenizer(PROBE)["input_ids"], *(core.get_vocab(with_added_tokens=False).values() if core else ())]
    if max(ids, default=0) >= config.vocab_size:
        got = f"{max(ids)} in the tokenizer of {source}; take the tokenizer that belongs to the model"
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


def check_shapes(outline: Model, there: Mapping[str, tuple[int, ...]], place: str | Path) -> None:
    """Raises InputError unless the weights that are `there` are just those of `outline`, a tied head left out."""
    wanted = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    ignored: tuple[str, ...] = (IGNORED,)
    if outline.config.tie_word_embeddings:
        ignored = (IGNORED, HEAD)
        del wanted[HEAD]
    there = {name: shape for name, shape in there.items() if not name.endswith(ignored)}
    problems = {
        "missing": wanted.keys() - there.keys(),
        "unexpected": there.keys() - wanted.keys(),
        "of another shape": {name for name in wanted.keys() & there.keys() if wanted[name] != there[name]},
    }
    for problem, names in problems.items():
        if names:
            got = f"{len(names)} {problem} in {place} ({', '.join(sorted(names)[:3])})"
            raise InputError(f"expected the weights that config.json describes, got {got}; fetch or save it again")


def check_tied(files: TensorFiles) -> None:
    """Raises InputError if a head beside tied embeddings differs from them: nobody knows which one the model means."""
    if not {EMBEDDING, HEAD} <= files.shapes.keys():
        return
    same = files.shapes[EMBEDDING] == files.shapes[HEAD]
    pieces = zip(*(files.pieces(name, torch.float32) for name in (EMBEDDING, HEAD)), strict=True)
    if not same or not all(torch.equal(one, other) for one, other in pieces):
        got = f"{HEAD} with other numbers in {files.place}; set tie_word_embeddings to false, or remove that tensor"
        raise InputError(f"expected one table of tokens, as tie_word_embeddings says, got {got}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters in them is raised as InputError instead.

    Bars for what takes minutes stay: a download from the Hub.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    restore_hub_bars = disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the Hub's too, and the next line takes that back
    restore_hub_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        restore_hub_bars()
