"""GGUF files, read as they are: the header, the config and the tokenizer in it, and one tensor at a time.

A header is a list of named values and a list of tensors. `GgufTensors` gives the tensors under the names of
transformers, with the interface of `system.tensors.TensorFiles`. Blocks of a row are expanded to floats when they are
read. llama.cpp pairs the two halves of a rotary head in another order, so the rows of q and k are put back as
transformers has them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

import gguf

from ..errors import InputError, refusing
from ..families import family_of
from ..families.protocol import Model
from ..system.hashes import hash_of_file
from ..system.tensors import TensorFiles, finite

NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # types of values -> struct's letters
STRING, LIST = 8, 9
ADVICE = "use the same model as safetensors"
RENAMED = {"gemma3": "gemma3_text"}  # what llama.cpp calls an architecture -> transformers, where they differ


@dataclass(frozen=True)
class Stored:
    """A tensor in a GGUF file."""

    shape: tuple[int, ...]  # as torch counts
    kind: gguf.GGMLQuantizationType
    start: int  # its first byte, from the end of the header
    row_bytes: int  # of a row, or of all of a vector

    @property
    def n_bytes(self) -> int:
        return prod(self.shape[:-1]) * self.row_bytes


class GgufFile:
    """What the header of a GGUF file says: `metadata` (key -> value) and `tensors` (name -> where it is)."""

    def __init__(self, path: str | Path) -> None:
        """Raises InputError: no such file, another kind of file, truncated."""
        self.path = Path(path).expanduser()
        with (
            refusing("a complete GGUF file", str(path), "fetch or write it again"),
            self.path.open("rb") as stream,
        ):
            if stream.read(4) != b"GGUF" or _number(stream, "I") not in (2, 3):
                raise ValueError("another beginning than that of GGUF, version 2 or 3")
            tensors, values = _number(stream, "Q"), _number(stream, "Q")
            self.metadata = {_text(stream): _value(stream, _number(stream, "I")) for _ in range(values)}
            self.tensors = {_text(stream): _stored(stream) for _ in range(tensors)}
            self.vocabulary = len(self.metadata.get("tokenizer.ggml.tokens", ()))
            alignment = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
            self.header_bytes = stream.tell() + -stream.tell() % alignment
            last = self.header_bytes + max(
                (one.start + one.n_bytes for one in self.tensors.values()), default=0
            )
            if len(self.tensors) < tensors or last > stream.seek(0, 2):
                raise ValueError("a tensor that is there twice, or an end that comes too early")

    def config_fields(self) -> dict[str, Any]:
        """config.json as the metadata have it. Raises InputError for what its fields cannot say."""
        known = cast("dict[str, Any]", GGUF_CONFIG_MAPPING)
        architecture = str(self.metadata.get("general.architecture"))[:60]
        if architecture not in known:
            got = f"{architecture!r} in {self.path}; {ADVICE}"
            raise InputError(f"expected an architecture that transformers reads from GGUF, got {got}")
        if scaling := [
            name for name in (*self.metadata, *self.tensors) if ".rope.scal" in name or name[:5] == "rope_"
        ]:
            got = f"{self.path} with {scaling[0]}, which is not converted; {ADVICE}"
            raise InputError(f"expected a GGUF file without rope scaling, got {got}")
        fields: dict[str, Any] = {"vocab_size": self.vocabulary}
        for key, value in self.metadata.items():
            prefix, _, rest = key.partition(".")
            if name := known.get(prefix, {}).get(rest):
                fields[name] = value
        fields |= {"tie_word_embeddings": "output.weight" not in self.tensors}
        return fields | {"model_type": RENAMED.get(architecture, architecture)}

    def tokenizer(self) -> Any:
        """The tokenizer in the file."""
        tokenizer: Any = PreTrainedTokenizerFast(gguf_file=self.path.name, name_or_path=str(self.path.parent))
        if self.metadata.get("tokenizer.ggml.pre") == "smollm":  # transformers forgets to part its digits
            bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
            parted = [pre_tokenizers.Digits(individual_digits=True), bytes_]
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parted)
        return tokenizer


def _number(stream: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]


def _text(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "Q")).decode("utf-8")


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _text(stream)
    if kind != LIST:
        return _number(stream, NUMBERS[kind])
    inner, count = _number(stream, "I"), _number(stream, "Q")
    if inner == STRING:
        return [_text(stream) for _ in range(count)]
    codes = f"<{count}{NUMBERS[inner]}"  # of lists in a list there are none
    return list(struct.unpack(codes, stream.read(struct.calcsize(codes))))


def _stored(stream: BinaryIO) -> Stored:
    shape = tuple(_number(stream, "Q") for _ in range(_number(stream, "I")))[::-1]
    kind, start = gguf.GGMLQuantizationType(_number(stream, "I")), _number(stream, "Q")
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return Stored(shape, kind, start, shape[-1] // block * size)


class GgufTensors(TensorFiles):
    """The tensors of the model in a GGUF file, by transformers' names."""

    def __init__(self, file: GgufFile, meta_model: Model) -> None:
        """meta_model: what the config of `file` describes. Raises InputError for a tensor that has no name there."""
        self.config, self.family, self.first = meta_model.config, family_of(meta_model), file.header_bytes
        self.place, self.files = file.path, [file.path]
        arch = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.family.gguf), None)
        if arch is None:
            raise InputError(
                f"expected a model type that is read from GGUF, got {self.config.model_type}; {ADVICE}"
            )
        known = gguf.get_tensor_name_map(arch, self.config.num_hidden_layers)
        left = dict(file.tensors)
        stored = {
            name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in meta_model.state_dict()
        }
        self.tensors = {name: left.pop(key) for name, key in stored.items() if key in left}
        if left:
            got = f"{len(left)} unexpected in {file.path.name} ({', '.join(sorted(left)[:3])})"
            raise InputError(f"expected the weights that its metadata describe, got {got}; {ADVICE}")
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        self.stored = {name: tensor.kind.name for name, tensor in self.tensors.items()}

    def read(self, name: str, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The tensor, or `rows` (k,) of a matrix other than q and k, in memory of its own; a vector comes whole.

        Raises InputError for a NaN or an infinity in it.
        """
        tensor = self.tensors[name]
        start = self.first + tensor.start
        data = numpy.memmap(self.place, mode="r", offset=start, shape=(*tensor.shape[:-1], tensor.row_bytes))
        with refusing(
            "weights of a type that can be read", f"{name} in {self.place}", "export the model again"
        ):
            chosen = numpy.array(data if rows is None or data.ndim == 1 else data[rows.numpy()])
            values = numpy.asarray(gguf.dequantize(chosen, tensor.kind), dtype=numpy.float32)
        if name.endswith("norm.weight"):
            values -= self.family.gguf_norm_shift
        part = name.split(".")[-2]
        if part in self.family.gguf_interleaved:
            heads = getattr(self.config, self.family.gguf_interleaved[part])
            values = (
                values.reshape(heads, len(values) // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
            )
        return finite(name, torch.from_numpy(values).to(dtype))

    def fingerprint(self) -> str:
        """A short name for the content: the whole of it, for such files are small."""
        return hash_of_file(self.place)[:16]
