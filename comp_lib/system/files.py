"""Files: written as a whole or not at all, tensors read from them one at a time, and hashes of what is in them.

A file or folder is written under another name beside its place, `NAME.partial-<random>`, and then takes its name. A
killed process leaves the old file as it was (of a folder: see `take_name`), and a `.partial-` that its user deletes.

Tensors come from safetensors, which hold numbers and no code: each is mapped, copied and let go.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import InputError, refusing

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
LARGEST = 5_000_000_000  # bytes of a file of weights, as users of the Hub expect
SMALL = (".json", ".jinja", ".model", ".txt")  # endings of what is not weights, and decides the result too
FLOATS = ("F64", "F32", "BF16", "F16")  # what weights may be stored as
COMPLETE, AGAIN = "complete safetensors", "fetch or save it again"
PACKAGE = Path(__file__).parents[1]
NO_PART_OF_A_MODEL = {
    "_name_or_path",
    "transformers_version",
    "dtype",
}  # fields of a config; tensors have a dtype
PIECE = 16 << 20  # bytes of a file, or values of a tensor, read at a time
ROWS = 512  # of a matrix at a time: what is touched of a file counts as memory until the file is closed
WHOLE_NUMBERS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # bytes -> a dtype to view them as


def resolved(path: str | Path) -> Path:
    """The one name of a file or folder, without links and `~`. Raises InputError for a home that is not there."""
    with refusing("a place on this machine", str(path)[:100], "name another"):
        str(path).encode()  # a name that is no text cannot be opened again
        return Path(path).expanduser().resolve()


def check_room(folder: Path, needed_bytes: int, what: object) -> None:
    """Raises InputError unless the disk of `folder` has room for so many bytes, which `what` needs."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        needed, got = f"{needed_bytes / 1e6:,.0f} MB of free disk space for {what}", f"{free / 1e6:,.0f} MB"
        raise InputError(f"expected {needed}, got {got}: make room or choose another place")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A name beside `target`, for a file or folder to write, which takes that name if the block ends well.

    If not, what was written is deleted. Raises InputError when the system refuses to write it (a full disk, say).
    """
    partial = target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            fsync(path)
        take_name(partial, target)
    except BaseException as error:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            got = f"{error}: make room or choose another place; what was there stays"
            raise InputError(f"expected to write {target}, got {got}") from error
        raise


def take_name(partial: Path, target: Path) -> None:
    """Give the finished file or folder `partial` the name of `target`; a folder that had it is deleted.

    That folder is first renamed: a process killed between the two renames leaves both, and none of that name.
    """
    old = None
    if target.is_dir():
        old = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
        os.replace(target, old)
    os.replace(partial, target)
    fsync(target.parent)
    if old is not None:
        shutil.rmtree(old)


def write_atomically(path: Path, content: bytes) -> None:
    """All of it under that name, or what was there before. Where that is a link, it is what the link leads to."""
    with staged(resolved(path)) as partial:
        partial.write_bytes(content)


def fsync(path: Path) -> None:
    """Let a file or folder reach the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and has no need to
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """The path of a file to write, without links. Raises InputError unless it is new, or a file to `overwrite`."""
    target = resolved(path)
    if not os.access(target.parent, os.W_OK | os.X_OK) or not target.parent.is_dir():
        raise InputError(
            f"expected a file in a folder that can be written to, got {path}: make it, or choose another"
        )
    if os.path.lexists(target) and not (overwrite and target.is_file()):
        advice = "choose another name, or replace a file with --overwrite"
        raise InputError(f"expected a new file, got {path}, which is there: {advice}")
    return target


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file says. Raises InputError unless it is an object in an ordinary file."""
    with refusing("a file with an object in JSON", str(path), AGAIN):
        if not path.is_file():  # a pipe would let the reader wait for ever
            raise ValueError("none")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        return content


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
            with refusing("a weight_map that names files", str(index), AGAIN):
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
            with refusing(COMPLETE, str(path), AGAIN), safe_open(path, framework="pt") as file:
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
        with refusing(COMPLETE, str(path), AGAIN), safe_open(path, framework="pt") as file:
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
            f"expected finite weights, got NaN or infinity in {name}; {AGAIN}, or take dtype float32"
        )
    return tensor


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, to read into or to write from.

    >>> as_bytes(torch.ones(2)).nbytes
    8
    """
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def hash_of_value(value: Any) -> str:
    """SHA-256, in hex, of anything that JSON can hold, whatever the order of its keys.

    >>> hash_of_value({"a": 1, "b": 2}) == hash_of_value({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_of_tensor(values: Tensor) -> str:
    """Of the numbers, their dtype and shape."""
    head = f"{values.dtype}{tuple(values.shape)}".encode()
    return hashlib.sha256(head + as_bytes(values.detach().cpu())).hexdigest()


def hash_of_file(path: Path) -> str:
    """Of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(PIECE):
            digest.update(block)
    return digest.hexdigest()


def hash_of_model(model: nn.Module) -> str:
    """Of the names, shapes and numbers of its tensors, and of its config, which may rotate or mask otherwise.

    Of the numbers a spread sample, and a sum over all bits, which one changed weight changes.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        total = sum(int(part.sum()) for part in flat.view(WHOLE_NUMBERS[flat.itemsize]).split(PIECE))
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{total}".encode())
        digest.update(flat[:: max(1, flat.numel() // 64)].float().cpu().numpy().tobytes())
    config: Any = model.config
    fields = json.loads(config.to_json_string())
    kept = {name: fields[name] for name in fields.keys() - NO_PART_OF_A_MODEL}
    return hash_of_value([digest.hexdigest()[:16], kept])[:16]


@functools.cache
def hash_of_code() -> str:
    """Of all modules of this package: a stored result never meets a formula other than its own."""
    code = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.glob("**/*.py")}
    return hash_of_value(code)[:16]
