"""GGUF files, read as they are: the header, the config and the tokenizer in it, and one tensor at a time.

A header is a list of named values and a list of tensors. `GgufTensors` gives the tensors under the names of
transformers, with the interface of `tensors.StoredTensors`. The blocks of a row are expanded to floats
when they are read, and `layout` says how a tensor of the model is put together from them.

A file that `write` made has the model's config.json in it, which says all that llama.cpp's own fields cannot:
the widths of each layer, scaled positions, the type of the model where its architecture is a host.

Why `gguf.GGUFReader` does not read the header: it makes a numpy array of each length and each string. Of
SmolLM2's 98 MB, with 98,000 strings, it takes 8 s and 165 MB; the code below takes 0.1 s and 9 MB. It also
needs more than 20 s for a header of 60 bytes that claims a list of 2^60 strings, and it accepts a header
whose vocabulary is a number.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import gguf
import numpy as np
import torch
from tokenizers import normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from ...decoder.shape import Shape
from ...decoder.types import Model
from ...decoder.weight_names import weight_shapes
from ...utils.errors import InputError, refusing
from ...utils.hashes import hash_of_file
from ...utils.numbers import check_finite
from ..tensors import StoredTensors
from .architectures import choose_architecture
from .layout import Layout, Piece, layouts_of
from .metadata import SAFETENSORS_HINT, check_metadata, scaled_rope
from .tokenizer import (
    KIND_KEY,
    RULE_KEY,
    SENTENCEPIECE,
    SPACE,
    begins_texts,
    check_tokenizer_metadata,
    has_whole_words,
)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# type of a value -> letter of `struct`
NUMBER_CODES = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING_TYPE = 8
LIST_TYPE = 9
COMPLETE_GGUF = "a complete GGUF file"
WRITE_AGAIN_HINT = "fetch or write it again"
ROWS_AT_ONCE = (
    4096  # rows that are converted at a time: gguf's functions take the memory of their result twice
)
CONFIG_KEY = "comp_lib.config"  # our own: the config.json of the model, as text
# llama.cpp's name of an architecture -> the model type of transformers, where they differ
MODEL_TYPES = {"gemma3": "gemma3_text"}


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as the header of a GGUF file describes it."""

    shape: tuple[int, ...]
    """Sizes in the order of torch."""
    gguf_type: gguf.GGMLQuantizationType
    """Type of its numbers."""
    start: int
    """Position of its first byte, from the end of the header."""
    row_bytes: int
    """Size of a row, or of all of a vector."""

    @property
    def n_bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape[:-1]) * self.row_bytes


class GgufFile:
    """The header of a GGUF file: its `metadata` (key -> value) and its `tensors` (name -> record)."""

    def __init__(self, path: str | Path) -> None:
        """Read the header.

        Raises InputError for a missing file, another kind of file, and a truncated one.
        """
        self.path = Path(path).expanduser()
        with refusing(COMPLETE_GGUF, str(path), WRITE_AGAIN_HINT):
            file = self.path.open("rb")
        with file:
            header = _Header(file, self.path.stat().st_size, str(path))
            self.metadata, self.tensors = header.read()
        tokens = self.metadata.get("tokenizer.ggml.tokens", [])
        if not isinstance(tokens, list):
            raise header.damaged("a vocabulary that is no list")
        self.vocabulary_size = len(tokens)
        alignment = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise header.damaged("an alignment that is no number of bytes")
        self.data_start = header.position + -header.position % alignment
        data_size = max((tensor.start + tensor.n_bytes for tensor in self.tensors.values()), default=0)
        if self.data_start + data_size > header.file_size:
            raise header.damaged("an end that comes too early")

    def config_fields(self) -> dict[str, Any]:
        """The fields of a config.json that say what the metadata say.

        Raises InputError for metadata that no such field can say, and for a damaged config.json.
        """
        if CONFIG_KEY in self.metadata:
            return self._own_fields()
        config_names = cast("dict[str, Any]", GGUF_CONFIG_MAPPING)  # architecture -> key of the file -> field
        architecture = str(self.metadata.get("general.architecture"))[:60]
        if architecture not in config_names:
            raise InputError(
                expected="an architecture that transformers reads from GGUF",
                got=f"{architecture!r} in {self.path}",
                hint=SAFETENSORS_HINT,
            )
        fields: dict[str, Any] = {"vocab_size": self.vocabulary_size}
        for key, value in self.metadata.items():
            prefix, _, suffix = key.partition(".")
            field = config_names.get(prefix, {}).get(suffix)
            if field:
                fields[field] = value
        fields["tie_word_embeddings"] = "output.weight" not in self.tensors
        if architecture == "gemma3" and "head_dim" in fields:
            fields["query_pre_attn_scalar"] = fields["head_dim"]  # by which llama.cpp divides, not by 256
        fields["model_type"] = MODEL_TYPES.get(architecture, architecture)
        return fields

    def _own_fields(self) -> dict[str, Any]:
        """The fields of the config.json in the file.

        Raises InputError unless the file has the text of a config.json.
        """
        with refusing(COMPLETE_GGUF, f"{self.path}: {CONFIG_KEY}", WRITE_AGAIN_HINT):
            fields = json.loads(self.metadata[CONFIG_KEY])
        if not isinstance(fields, dict):
            raise InputError(
                expected=COMPLETE_GGUF,
                got=f"{self.path} with a {CONFIG_KEY} that is no object",
                hint=WRITE_AGAIN_HINT,
            )
        return fields

    def tokenizer(self) -> Any:
        """The tokenizer in the file.

        Raises InputError for one that llama.cpp reads otherwise.
        """
        check_tokenizer_metadata(self.metadata, self.path)
        tokenizer: Any = PreTrainedTokenizerFast(
            gguf_file=self.path.name,
            name_or_path=str(self.path.parent),
            add_bos_token=begins_texts(self.metadata),
        )
        if has_whole_words(self.metadata):
            tokenizer.backend_tokenizer.model.ignore_merges = True
        if self.metadata.get(RULE_KEY) == "smollm":  # transformers does not separate the digits
            digits = pre_tokenizers.Digits(individual_digits=True)
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
        if self.metadata.get(KIND_KEY) == SENTENCEPIECE:  # a space before a text, or none, as it says
            spaces: list[Any] = [normalizers.Replace(" ", SPACE)]
            if self.metadata.get("tokenizer.ggml.add_space_prefix", True):
                spaces.insert(0, normalizers.Prepend(SPACE))
            tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(spaces)
            tokenizer.backend_tokenizer.pre_tokenizer = None
        return tokenizer


class _Header:
    """The header of a GGUF file, read from its start, piece by piece."""

    def __init__(self, file: BinaryIO, file_size: int, name: str) -> None:
        """`file` is at its first byte; `name` is its name in error messages."""
        self.file = file
        self.file_size = file_size
        self.name = name
        self.position = 0  # of the next byte

    def damaged(self, reason: str) -> InputError:
        """The error for a file with `reason`, such as "an end that comes too early"."""
        return InputError(expected=COMPLETE_GGUF, got=f"{self.name!r} with {reason}", hint=WRITE_AGAIN_HINT)

    def read(self) -> tuple[dict[str, Any], dict[str, TensorRecord]]:
        """The metadata, and the tensors by name.

        Raises InputError where they make no sense, or end too early.
        """
        if (
            self.file_size < len(MAGIC)
            or self.read_bytes(len(MAGIC)) != MAGIC
            or self.read_number("I") not in VERSIONS
        ):
            raise self.damaged("another beginning than that of GGUF, version 2 or 3")
        tensor_count = self.read_number("Q")
        value_count = self.read_number("Q")
        metadata = {}
        for _ in range(value_count):
            key = self.read_text()
            metadata[key] = self.read_value(self.read_number("I"))
        tensors: dict[str, TensorRecord] = {}
        for _ in range(tensor_count):
            name = self.read_text()
            if name in tensors:
                raise self.damaged(f"the tensor {name} twice")
            tensors[name] = self.read_tensor()
        return metadata, tensors

    def read_bytes(self, count: int) -> bytes:
        if count > self.file_size - self.position:
            raise self.damaged("an end that comes too early")
        self.position += count
        return self.file.read(count)

    def read_number(self, code: str) -> Any:
        """`code` is a letter of `struct`."""
        (number,) = struct.unpack(f"<{code}", self.read_bytes(struct.calcsize(f"<{code}")))
        return number

    def read_text(self) -> str:
        encoded = self.read_bytes(self.read_number("Q"))
        try:
            return encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("text that is not UTF-8") from error

    def read_value(self, value_type: int) -> Any:
        if value_type == STRING_TYPE:
            return self.read_text()
        if value_type == LIST_TYPE:
            item_type = self.read_number("I")
            count = self.read_number("Q")
            if item_type == STRING_TYPE:
                return [self.read_text() for _ in range(count)]
            code = self.number_code(item_type)  # a list of lists does not exist
            content = self.read_bytes(count * struct.calcsize(f"<{code}"))
            return list(struct.unpack(f"<{count}{code}", content))
        return self.read_number(self.number_code(value_type))

    def number_code(self, value_type: int) -> str:
        if value_type not in NUMBER_CODES:
            raise self.damaged(f"a value of the unknown type {value_type}")
        return NUMBER_CODES[value_type]

    def read_tensor(self) -> TensorRecord:
        dimensions = [self.read_number("Q") for _ in range(self.read_number("I"))]
        type_number = self.read_number("I")
        start = self.read_number("Q")
        if not dimensions:
            raise self.damaged("a tensor without a shape")
        try:
            gguf_type = gguf.GGMLQuantizationType(type_number)
        except ValueError as error:
            raise self.damaged(f"a tensor of the unknown type {type_number}") from error
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[gguf_type]
        if dimensions[0] % block_values:
            raise self.damaged(f"rows of {dimensions[0]} numbers in blocks of {block_values}")
        row_bytes = dimensions[0] // block_values * block_bytes
        return TensorRecord(tuple(reversed(dimensions)), gguf_type, start, row_bytes)


class GgufTensors(StoredTensors):
    """The tensors of the model in a GGUF file, whose stored types are names of `GGMLQuantizationType`."""

    def __init__(self, file: GgufFile, meta_model: Model) -> None:
        """meta_model: the model that the config of `file` describes.

        Raises InputError for a model type that is not read from GGUF, and for a tensor that the model lacks.
        """
        self.config = meta_model.config
        architecture = choose_architecture(meta_model.config, Shape.of(meta_model))
        stated = file.metadata.get("general.architecture")
        if stated != architecture.name:
            raise InputError(
                expected=f"the architecture {architecture.name}, which the model in it has",
                got=f"{str(stated)[:60]!r} as general.architecture of {file.path}",
                hint=SAFETENSORS_HINT,
            )
        check_metadata(file.metadata, meta_model, architecture, file.path)
        _, factors = scaled_rope(meta_model, architecture)
        self.data_start = file.data_start
        self.path = file.path
        self.files = [file.path]
        self.tensors = file.tensors
        # name of a tensor of the model -> its pieces: (name of a tensor of the file, first row in it, piece)
        self.places: dict[str, list[tuple[str, int, Piece]]] = {}
        unexpected = set(file.tensors) - set(factors)
        misshapen = set()
        for stored_name, layout in layouts_of(meta_model, architecture).items():
            if stored_name in unexpected:
                unexpected.discard(stored_name)
                self._add_pieces(stored_name, layout)
                if file.tensors[stored_name].shape != layout.shape:
                    misshapen |= {piece.source for piece in layout.pieces}
        altered = {name for name, values in factors.items() if not self._holds(name, values)}
        problems = {"unexpected": unexpected, "of another shape": misshapen, "missing or altered": altered}
        for problem, names in problems.items():
            if names:
                examples = ", ".join(sorted(names)[:3])
                raise InputError(
                    expected="the weights that its metadata describe",
                    got=f"{len(names)} {problem} in {file.path.name} ({examples})",
                    hint=SAFETENSORS_HINT,
                )
        self.shapes = {}
        self.stored_types = {}
        for name, size in weight_shapes(meta_model).items():
            places = self.places.get(name, [])
            if sum(piece.rows for _, _, piece in places) == size[0]:
                self.shapes[name] = size
                self.stored_types[name] = file.tensors[places[0][0]].gguf_type.name

    def _holds(self, name: str, values: np.ndarray) -> bool:
        """Whether the vector `name` of the file has these `values`, up to the rounding of another machine."""
        if name not in self.tensors or self.tensors[name].shape != values.shape:
            return False
        return np.allclose(self._expand(name, name, slice(None)), values, rtol=1e-4, atol=0)

    def _add_pieces(self, stored_name: str, layout: Layout) -> None:
        """Note where the tensors of the model are of which a tensor of the file has rows."""
        first_row = 0
        for piece in layout.pieces:
            places = self.places.setdefault(piece.source, [])
            if all(piece.start != known.start for _, _, known in places):  # else a second table of tokens
                places.append((stored_name, first_row, piece))
            first_row += piece.rows

    def read(self, name: str, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The tensor, or `rows` (k,) of a matrix, in memory of its own.

        A vector is read entirely.

        Raises InputError for a NaN or an infinity in it.
        """
        places = self.places[name]
        stored_name, _, piece = places[0]
        if len(self.shapes[name]) == 1:
            rows = None
        if rows is not None and len(places) == 1 and piece.head_dim is None:
            values = piece.from_file(self._expand(name, stored_name, rows.numpy()))
        else:
            pieces = []
            for stored_name, first_row, piece in places:
                values = self._expand(name, stored_name, slice(first_row, first_row + piece.rows))
                pieces.append(piece.from_file(values))
            values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            values = values if rows is None else values[rows.numpy()]
        tensor = torch.from_numpy(values).to(dtype)
        check_finite(name, tensor)
        return tensor

    def _expand(self, name: str, stored_name: str, rows: slice | np.ndarray) -> np.ndarray:
        """The numbers of `rows` of a tensor of the file, which has rows of the tensor `name` of the model."""
        record = self.tensors[stored_name]
        stored = np.memmap(
            self.path,
            mode="r",
            offset=self.data_start + record.start,
            shape=(*record.shape[:-1], record.row_bytes),
        )
        with refusing(
            "weights of a type that can be read", f"{name} in {self.path}", "export the model again"
        ):
            if stored.ndim == 1:
                return _dequantised(stored, record)
            blocks = stored[rows]
            values = np.empty((len(blocks), *record.shape[1:]), dtype=np.float32)
            for start in range(0, len(blocks), ROWS_AT_ONCE):
                group = slice(start, start + ROWS_AT_ONCE)
                values[group] = _dequantised(blocks[group], record)
        return values

    def fingerprint(self) -> str:
        """A short name for the content: all bytes of the file, for such files are small."""
        return hash_of_file(self.path)[:16]


def _dequantised(stored: np.ndarray, record: TensorRecord) -> np.ndarray:
    """The numbers in `stored` bytes of the tensor that `record` describes; the bytes are read into memory."""
    return np.asarray(gguf.dequantize(np.array(stored), record.gguf_type), dtype=np.float32)
