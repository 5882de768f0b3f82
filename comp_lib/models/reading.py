"""transformers' readers, made strict: what users can cause becomes an InputError, and no gap is filled by chance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging

from ..errors import InputError
from ..families import check_config
from ..families.protocol import Model
from ..system.tensor_files import finite

EMBEDDED = "smollm2-135m"  # the model that a wheel brings: its name stands in every refusal


def read(reader: Callable[..., Any], source: str, **options: Any) -> Any:
    """Call one of transformers' `from_pretrained`, quietly; what users can cause becomes an InputError."""
    expected, advice = "a readable model", "fetch or save it again"
    if not Path(source).is_dir():
        expected = f"{EMBEDDED!r}, a folder, a .gguf file or a reachable Hub id"
        advice = "check the spelling and the connection, or use a local folder"
    try:
        with quiet():
            return reader(source, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError) as error:
        place = str(Path(source, options["gguf_file"])) if "gguf_file" in options else source
        raise InputError(f"expected {expected}, got {place!r}: {type(error).__name__}: {error}; {advice}") from error


def read_config(source: str, **options: Any) -> PreTrainedConfig:
    """Refuse what `source` is before its weights are read: by its own words first, then as transformers reads it."""
    fields, _ = read(PreTrainedConfig.get_config_dict, source, **options)
    check_config(fields)
    config: PreTrainedConfig = read(AutoConfig.from_pretrained, source, **options)
    check_config(config.to_dict())
    return config


def read_weights(source: str, dtype: torch.dtype, **options: Any) -> Model:
    """The model, each of its weights from the file: transformers would fill gaps with random numbers."""
    # mismatched sizes are to be reported to us instead of to the log
    options |= {"attn_implementation": "sdpa", "use_safetensors": True, "ignore_mismatched_sizes": True}
    model, report = read(AutoModelForCausalLM.from_pretrained, source, dtype=dtype, output_loading_info=True, **options)
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


def check_finite(model: Model) -> None:
    """Raises InputError that names the first parameter with a NaN or an infinity in it."""
    for name, tensor in model.named_parameters():
        finite(name, tensor.detach())


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
