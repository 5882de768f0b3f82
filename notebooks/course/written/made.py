"""What a reader's function makes on its way: a check can ask whether a large tensor is among it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ShapesMade(TorchDispatchMode):
    """Remembers the shapes of all tensors that operations make; a view of a tensor is no new one."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {argument.data_ptr() for argument in args if isinstance(argument, Tensor)}
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.data_ptr() not in given:
                self.shapes.add(tuple(value.shape))
        return result
