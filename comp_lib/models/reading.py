"""transformers' readers, made strict: what users can cause becomes an InputError, and no gap is filled by chance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..errors import InputError, refusing
from ..families import check_config
from ..families.protocol import Model
from ..system.tensor_files import TensorFiles
from ..system.untrusted import read_object, short
from .door import HEAD, check_generation, check_sizes, honoured
from .skeleton import attention, skeleton

EMBEDDED = "smollm2-135m"  # the model that a wheel brings: its name stands in every refusal
IGNORED = "rotary_emb.inv_freq"  # old Llama folders hold what the config says already
PROBE = "I'll pay 12.5 for it,\n\u65e5\u672c!"  # words, digits, signs, a line end, another script


def read(reader: Callable[..., Any], source: str, what: str = "model", **options: Any) -> Any:
    """Call one of transformers' `from_pretrained`, quietly; what users can cause becomes an InputError."""
    expected, advice = f"a readable {what}", "fetch or save it again"
    if not Path(source).is_dir():
        expected = f"{EMBEDDED!r}, a folder, a .gguf file or a reachable Hub id"
        advice = "check the spelling and the connection, or use a local folder"
    place = str(Path(source, options["gguf_file"])) if "gguf_file" in options else source
    with refusing(expected, place, advice), quiet():
        return reader(source, trust_remote_code=False, **options)


def read_config(source: str, **options: Any) -> PreTrainedConfig:
    """What a folder or a GGUF file (option `gguf_file`) describes, its words and sizes checked (see `door`).

    Attention is always computed by torch: a folder may not name a kernel for transformers to fetch.
    Raises InputError for what does not fit, before any weight is read.
    """
    if "gguf_file" in options:
        fields, _ = read(PreTrainedConfig.get_config_dict, source, **options)
    elif not (Path(source) / "config.json").exists():
        raise InputError(f"expected a model folder with config.json, got {source!r} without; choose another")
    else:
        fields = read_object(Path(source) / "config.json")
    check_config(fields)
    kept = honoured(fields, source)
    with refusing("a config.json that can be built", source, "fetch or save it again"), quiet():
        config: PreTrainedConfig = AutoConfig.for_model(**kept, name_or_path=source)
        config._attn_implementation = attention(config)
        check_sizes(config.to_dict(), source)
        skeleton(config)  # proves that the model can be built
    return config


def read_tokenizer(source: str, config: PreTrainedConfig, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model. Raises InputError unless the model has its tokens, and it a template."""
    # it comes with the config that has been checked, so that the file is not asked again
    options |= {"config": config}
    tokenizer: PreTrainedTokenizerBase = read(AutoTokenizer.from_pretrained, source, "tokenizer", **options)
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template or ""]
    if not all(isinstance(text, str) for text in texts):
        got = f"{short(template)} in {source}; save the tokenizer again"
        raise InputError(f"expected a chat template that is a text, got {got}")
    with refusing("a readable tokenizer", source, "fetch or save it again"):
        core = getattr(tokenizer, "backend_tokenizer", None)
        ids = [*tokenizer(PROBE)["input_ids"], *(core.get_vocab(with_added_tokens=False).values() if core else ())]
    if max(ids, default=0) >= config.vocab_size:
        got = f"{max(ids)} in the tokenizer of {source}; take the tokenizer that belongs to the model"
        raise InputError(f"expected tokens below vocab_size, {config.vocab_size}, got {got}")
    return tokenizer


def read_generation(folder: str, config: PreTrainedConfig) -> GenerationConfig:
    """How a model's text is written, by its folder. Raises InputError for what could not be saved again."""
    with refusing("a generation_config.json that makes sense", folder, "correct it, or delete that file"), quiet():
        if not (Path(folder) / "generation_config.json").exists():
            return GenerationConfig.from_model_config(config)
        check_generation(Path(folder), config.vocab_size)
        generation: GenerationConfig = GenerationConfig.from_pretrained(folder)
        generation.validate()
        generation.to_json_string()
        return generation


def read_weights(source: str, dtype: torch.dtype, config: PreTrainedConfig, **options: Any) -> Model:
    """The model, each of its weights from the file: transformers would fill gaps with random numbers."""
    # mismatched sizes are to be reported to us instead of to the log
    options |= {"attn_implementation": attention(config), "use_safetensors": True, "ignore_mismatched_sizes": True}
    options |= {"config": config, "output_loading_info": True}
    model, report = read(AutoModelForCausalLM.from_pretrained, source, dtype=dtype, **options)
    shapes = [name for name, *_ in report["mismatched_keys"]]
    problems = {"missing": report["missing_keys"], "unexpected": report["unexpected_keys"], "of another shape": shapes}
    check_names(problems, source)
    return model


def check_names(problems: Mapping[str, Collection[str]], place: str | Path) -> None:
    """Raises InputError for the first problem (what is wrong -> names of weights) that has any names."""
    for problem, names in problems.items():
        if names:
            got = f"{len(names)} {problem} in {place} ({', '.join(sorted(names)[:3])})"
            raise InputError(f"expected the weights that config.json describes, got {got}; fetch or save it again")


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
    check_names(problems, place)


def check_finite(files: TensorFiles, dtype: torch.dtype) -> None:
    """Raises InputError that names the first weight in which, as `dtype`, there is a NaN or an infinity."""
    for name in files.shapes:
        if not name.endswith(IGNORED):
            for _ in files.pieces(name, dtype):  # each is looked at when it is read
                pass


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters in them is raised as InputError instead.

    Bars for what takes minutes stay: a download from the Hub, the one conversion of a GGUF file.
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
