"""GGUF files: opened whole or refused, converted once, or read as they are.

`convert_gguf` writes float32 safetensors to the user's cache folder, memory-mapped from then on. `GgufTensors` converts
nothing: it reads one tensor at a time, under the names of transformers and with the interface of
`tensor_files.TensorFiles`. Blocks of a row are expanded to floats when they are read, and the pages of the mapped file
are given back at once. llama.cpp pairs the two halves of a rotary head in another order, so the rows of q and k are put
back as transformers has them.
"""

from __future__ import annotations

import functools
import json
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError, refusing
from ..families import family_called
from ..system import hashes
from ..system.atomic import check_room, staged
from ..system.machine import cache_folder
from ..system.tensor_files import PIECE, finite, read_ahead, rows_in
from .gguf_header import check_header
from .reading import quiet, read_config, read_tokenizer, read_weights

# About one decoder layer of SmolLM2. Each file is a memory map of its own, and the system takes back the memory of a
# map only when no tensor of it is left: one large file would keep the whole dense model in memory until the end of a
# pruning run that replaces its layers one by one.
SHARD_SIZE = "16MB"
STAMP = "converted.stamp"  # in a conversion: what its files were like when they were written
PARSING = threading.RLock()
CONVERSION = 3  # counts up when a conversion changes, so that those of older versions are not read


def is_gguf(name: str | Path) -> bool:
    try:
        path = Path(name).expanduser()
        return path.suffix == ".gguf" and path.is_file()
    except (RuntimeError, OSError):  # a home that is not there, a name that no file system takes: nothing of that kind
        return False


def open_gguf(path: str | Path) -> gguf.GGUFReader:
    """A reader of the GGUF file `path`, of which every tensor is there.

    Raises InputError: no such file, another kind of file, truncated.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"expected a GGUF file, got {path}, which is not there: check the spelling")
    check_header(path)
    with refusing("a complete GGUF file", str(path), "fetch or write it again"):
        return gguf.GGUFReader(str(path))  # maps every tensor


@contextmanager
def parsed_once() -> Iterator[None]:
    """Whoever makes a reader of the same file in the block, or the names of one architecture, gets the same ones.

    Parsing the header takes seconds of Python, and transformers does it for the config, the tokenizer and the weights;
    it makes the map of names anew for each module.
    """
    with PARSING:  # the names are those of the whole process: of two threads, the second waits
        before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
        vars(gguf).update({name: functools.cache(made) for name, made in before.items()})
        try:
            yield
        finally:
            vars(gguf).update(before)


@parsed_once()
def open_gguf_model(path: str | Path) -> tuple[Path, PreTrainedConfig, PreTrainedTokenizerBase]:
    """A GGUF file, the config and the tokenizer in it. Raises InputError as `load_model` does."""
    path = Path(path).expanduser()
    reader, place = open_gguf(path), {"source": str(path.parent), "gguf_file": path.name}
    config = read_config(**place)
    # transformers drops the rope scaling of a GGUF file in silence, and the model would be subtly wrong
    scaling = [key for key in reader.fields if ".rope.scaling." in key]
    scaling += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    if scaling:
        got = f"{path.name} with {scaling[0]}, which cannot be converted faithfully; use the same model as safetensors"
        raise InputError(f"expected a GGUF file without rope scaling, got {got}")
    tokenizer = read_tokenizer(**place, config=config)
    rule = reader.get_field(gguf.Keys.Tokenizer.PRE)
    restore_pre_tokenizer(tokenizer, rule and rule.contents())
    return path, config, tokenizer


def restore_pre_tokenizer(tokenizer: PreTrainedTokenizerBase, rule: str | None) -> None:
    """Let `tokenizer`, which transformers read from GGUF, part all digits if the rule is `smollm`: it forgets to.

    rule: llama.cpp's name for how a text is cut into words, where the file has one.
    """
    if rule == "smollm":
        digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])


def _place(path: Path) -> Path:
    """Where the conversion of a GGUF file belongs."""
    return cache_folder() / f"gguf-{CONVERSION}-{hashes.of_file(path)}"


def converted(path: Path) -> Path | None:
    """Folder with the conversion of a GGUF file, where it was converted before and is whole."""
    return target if _is_whole(target := _place(path)) else None


def convert_gguf(path: Path) -> Path:
    """Folder with the model of a GGUF file as float32 safetensors: converted now, or before by anyone of this user.

    The folder is named after the SHA-256 of the file, and appears complete or not at all. What was damaged since is
    converted anew.
    Raises InputError: broken file, not LLaMA-class, not finite, or no room.
    """
    target = _place(path)
    if _is_whole(target):
        return target
    cache = target.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with staged(target) as partial:  # takes the place of a damaged one, or of an equal one that was quicker
            _convert(path, partial)
            (partial / STAMP).write_text(json.dumps(_stats(partial)), encoding="utf-8")
    except OSError as error:
        got = f"{error}; free it, or set COMP_LIB_CACHE"
        raise InputError(f"expected to write a converted model to {cache}, got {got}") from error
    return target


def _is_whole(folder: Path) -> bool:
    """Whether a conversion is still what was written: disks get full, and people change files."""
    try:
        return bool(json.loads((folder / STAMP).read_text("utf-8")) == _stats(folder))
    except (OSError, ValueError):
        return False


def _stats(folder: Path) -> dict[str, list[int]]:
    """Size and time of the last change of each file but the stamp."""
    paths = [path for path in folder.iterdir() if path.name != STAMP]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


@parsed_once()
def _convert(path: Path, folder: Path) -> None:
    """Read a GGUF file, check what it holds, and save it to `folder`."""
    path, config, tokenizer = open_gguf_model(path)
    # reading the file's header takes seconds: not again for the config
    model = read_weights(str(path.parent), torch.float32, config=config, gguf_file=path.name)
    for name, parameter in model.named_parameters():
        finite(name, parameter.detach())
    needed = sum(parameter.nbytes for parameter in model.parameters())
    hint = f"free some in {cache_folder()}, or set COMP_LIB_CACHE"
    check_room(folder.parent, needed, f"the converted {path.name}", hint)
    # the weights are plain floats now, and must not claim to be quantised when they are saved
    model.hf_quantizer = None
    del model.config.quantization_config
    with quiet():
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        tokenizer.save_pretrained(folder)


class GgufTensors:
    """The tensors of the model in a GGUF file, by transformers' names for `names`."""

    def __init__(self, path: str | Path, config: PreTrainedConfig, names: list[str]) -> None:
        """config: as `open_gguf_model` gives it. Raises InputError: not complete, or a tensor that no name means."""
        self.path, self.config, self.family = Path(path), config, family_called(config.model_type)
        self.folder, self.files, self.reader = self.path.parent, [self.path], open_gguf(path)
        arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.family.gguf)
        known = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
        there = {tensor.name: tensor for tensor in self.reader.tensors}
        stored = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
        self.tensors = {name: there.pop(key) for name, key in stored.items() if key in there}
        if there:
            got = f"{len(there)} unexpected in {self.path.name} ({', '.join(sorted(there)[:3])})"
            advice = "use the same model as safetensors"
            raise InputError(f"expected the weights that its metadata describe, got {got}; {advice}")
        self.shapes = {name: tuple(map(int, reversed(t.shape))) for name, t in self.tensors.items()}

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor, in memory of its own. Raises InputError for a NaN or an infinity in it."""
        values, heads_field = self._expand(name, slice(None), dtype), self.family.gguf_interleaved
        part = name.split(".")[-2]
        if part not in heads_field:
            return values
        heads = getattr(self.config, heads_field[part])
        pairs = values.reshape(heads, len(values) // heads // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(values.shape)

    def ahead(self, prefix: str) -> None:
        """Those tensors will be read soon, see `read_ahead`."""
        for name, tensor in self.tensors.items():
            if name.startswith(prefix):
                read_ahead(self.path, int(tensor.data_offset), int(tensor.n_bytes))

    def rows(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of a matrix other than q and k: index (k,) -> (k, columns)."""
        return self._expand(name, index.numpy(), dtype)

    def pieces(self, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """The tensor, no q or k, in pieces of whole rows."""
        shape = self.shapes[name]
        step = rows_in(PIECE, shape, torch.float32)
        return (self._expand(name, slice(start, start + step), dtype) for start in range(0, shape[0], step))

    def fingerprint(self) -> str:
        """A short name for the content: the whole of it, for such files are small."""
        return str(hashes.of_file(self.path))[:16]

    def _expand(self, name: str, rows: Any, dtype: torch.dtype) -> Tensor:
        """Those rows (what numpy takes as an index) as plain numbers."""
        tensor = self.tensors[name]
        with refusing("weights of a type that can be read", f"{name} in {self.path}", "export the model again"):
            values = numpy.array(gguf.dequantize(tensor.data[rows], tensor.tensor_type), dtype=numpy.float32)
        if name.endswith("norm.weight"):
            values -= self.family.gguf_norm_shift
        mapped = getattr(self.reader.data, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # pages that were read count as this process's until they are given back
        return finite(name, torch.from_numpy(values).to(dtype))
