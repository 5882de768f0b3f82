"""What travels between the client and the workers: tensors, and what holds some.

Tensors go as their bytes, whatever their dtype, beside the pickle and not in it, so that nobody copies them to send
them. They land in memory that torch has laid out: how a product is rounded may depend on where its factors begin. What
lies on a card is copied to the CPU, and from there to the card of who opens it.

A layer goes tensor by tensor, each in its own `Numbers`, and the rest of it in a frame: surgery replaces tensors and
never writes to them, so that what it leaves as it was need not be sent twice.

Nothing heavy is imported until a parcel is made or opened: the scheduler, which hands parcels on, needs no torch.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


class Numbers:
    """A tensor: its bytes as they came, until somebody asks for it."""

    def __init__(self, dtype: str, shape: tuple[int, ...], content: Any, tensor: Tensor | None = None) -> None:
        """content: anything with the buffer protocol; None where the tensor itself is given."""
        self.dtype, self.shape = dtype, shape
        self._held = content, tensor  # one of them; a worker has several threads, so both change at once
        self._elsewhere: Tensor | None = None  # on the card of this process

    @classmethod
    def of(cls, tensor: Tensor) -> Numbers:
        """Of a tensor, whose memory they share if that is on the CPU."""
        tensor = tensor.detach().cpu().contiguous()
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), None, tensor)

    @property
    def tensor(self) -> Tensor:
        """To be read only: whoever asks gets the same."""
        content, tensor = self._held
        if tensor is None:
            import torch

            from ..system.tensor_files import as_bytes

            tensor = torch.empty(self.shape, dtype=getattr(torch, self.dtype))
            as_bytes(tensor)[:] = memoryview(content).cast("B")
            self._held = None, tensor
        return tensor

    def on(self, device: str | torch.device) -> Tensor:
        """The tensor on a device, where it stays as long as these numbers: many tasks need the same layer."""
        if str(device) == "cpu":
            return self.tensor
        if self._elsewhere is None:
            self._elsewhere = self.tensor.to(device)
        return self._elsewhere

    def _bytes(self) -> Any:
        content, tensor = self._held
        if tensor is None:
            return content
        from ..system.tensor_files import as_bytes

        return as_bytes(tensor)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        content = pickle.PickleBuffer(self._bytes()) if protocol >= 5 else bytes(self._bytes())
        return Numbers, (self.dtype, self.shape, content)

    def __sizeof__(self) -> int:
        """By which Dask decides where to compute, and when memory is full."""
        return 200 + int(memoryview(self._bytes()).nbytes)


class Parcel:
    """Something with tensors in it: a frame in which each has a number, and the tensors."""

    def __init__(self, frame: bytes, numbers: Sequence[Numbers]) -> None:
        self.frame, self.numbers = frame, list(numbers)

    @classmethod
    def of(cls, value: Any) -> Parcel:
        """Raises whatever pickle raises for what it cannot take."""
        frame, tensors = take_apart(value)
        return cls(frame, [Numbers.of(tensor) for tensor in tensors])

    def open(self, device: str | torch.device = "cpu") -> Any:
        """The value, made anew around the tensors, on that device."""
        return put_together(self.frame, self.numbers, device)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parcel, (self.frame, self.numbers)

    def __sizeof__(self) -> int:
        return len(self.frame) + sum(numbers.__sizeof__() for numbers in self.numbers)


def take_apart(value: Any) -> tuple[bytes, list[Tensor]]:
    """(the frame, the tensors in their order, each once)."""
    file = io.BytesIO()
    taker = _Taker(file)
    taker.dump(value)
    return file.getvalue(), taker.tensors


def put_together(frame: bytes, numbers: Sequence[Numbers], device: str | torch.device = "cpu") -> Any:
    """What `take_apart` took apart, on a device of this process; parameters ask for no gradient."""
    return _Giver(io.BytesIO(frame), numbers, device).load()


class _Taker(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        import torch

        super().__init__(file, protocol=5)
        self.kinds = torch.Tensor, torch.nn.Parameter
        self.tensors: list[Tensor] = []
        self.places: dict[int, int] = {}

    def persistent_id(self, value: Any) -> tuple[int, bool] | None:
        tensor, parameter = self.kinds
        if not isinstance(value, tensor):
            return None
        if id(value) not in self.places:
            self.places[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self.places[id(value)], isinstance(value, parameter)


class _Giver(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, numbers: Sequence[Numbers], device: str | torch.device) -> None:
        super().__init__(file)
        self.numbers, self.device, self.made = numbers, device, dict[tuple[int, bool], Any]()

    def persistent_load(self, name: tuple[int, bool]) -> Any:
        if name not in self.made:
            import torch

            place, parameter = name
            tensor = self.numbers[place].on(self.device)
            self.made[name] = torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor
        return self.made[name]
