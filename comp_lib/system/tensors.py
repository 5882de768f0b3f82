"""Tensors of a model folder, read from its files one at a time.

They come from safetensors, which hold numbers and no code: each is mapped, copied and let go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import InputError, refusing
from .atomic import DAMAGED_HINT, read_object
from .hashes import hash_of_file, hash_of_value

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
LARGEST = 5_000_000_000  # bytes of a file of weights, as users of the Hub expect
SMALL = (".json", ".jinja", ".model", ".txt")  # endings of what is not weights, and decides the result too
FLOATS = ("F64", "F32", "BF16", "F16")  # what weights may be stored as
COMPLETE = "complete safetensors"
ROWS = 512  # of a matrix at a time: what is touched of a file counts as memory until the file is closed
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def weight_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a model, a tied head once."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


class TensorFiles:
    """The tensors of a model folder, by name."""

    def __init__(self, folder: str | Path) -> None:
        """Opens what transformers would: `model.safetensors`, else the files that its index names.

        Raises InputError: neither is there, or a file is missing or cut off.
        """
        self.place = Path(folder)
        single, index = self.place / SINGLE, self.place / INDEX
        if single.is_file():
            self.files = [single]
        elif index.exists():
            with refusing("a weight_map that names files", str(index), DAMAGED_HINT):
                names = set(read_object(index)["weight_map"].values())
                if any(Path(name).name != name or not (self.place / name).is_file() for name in names):
                    raise ValueError("names of something else than files beside it")
                self.files = sorted(self.place / name for name in names)
        else:
            pickles = sorted(
                path.name for path in self.place.iterdir() if path.suffix in (".bin", ".pt", ".pth")
            )
            got = f"{', '.join(pickles[:3]) or 'none'}; pickles can run code and are not read"
            advice = "save the model with save_pretrained first"
            raise InputError(f"expected weights as *.safetensors in {str(folder)!r}, got {got}: {advice}")
        self.where: dict[str, Path] = {}
        self.stored: dict[str, str] = {}  # one of FLOATS
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            with refusing(COMPLETE, str(path), DAMAGED_HINT), safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  not a dictionary
                    part = file.get_slice(name)
                    if name in self.where or part.get_dtype() not in FLOATS:
                        raise ValueError(f"{name} twice, or in {part.get_dtype()}")
                    self.where[name], self.stored[name] = path, part.get_dtype()
                    self.shapes[name] = tuple(part.get_shape())

    def read(self, name: str, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The tensor, or its `rows` (k,) as (k, columns), in memory of its own.

        Raises InputError for a NaN or an infinity in it.
        """
        if rows is not None and len(rows) > ROWS:
            return torch.cat([self.read(name, dtype, part) for part in rows.split(ROWS)])
        path = self.where[name]
        with refusing(COMPLETE, str(path), DAMAGED_HINT), safe_open(path, framework="pt") as file:
            stored = file.get_tensor(name)
            tensor = stored.to(dtype, copy=True) if rows is None else stored[rows].to(dtype)
        return finite(name, tensor)

    def fingerprint(self) -> str:
        """A short name for the content of the folder: weights, config and tokenizer, all of each."""
        small = [path for path in self.place.iterdir() if path.suffix in SMALL and path.is_file()]
        return hash_of_value({path.name: hash_of_file(path) for path in sorted({*self.files, *small})})[:16]


def finite(name: str, tensor: Tensor) -> Tensor:
    """`tensor`. Raises InputError that names it when there is a NaN or an infinity in it."""
    low, high = torch.aminmax(tensor)  # without a second tensor of this size
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InputError(
            f"expected finite weights, got NaN or infinity in {name}; {DAMAGED_HINT}, or take dtype float32"
        )
    return tensor
