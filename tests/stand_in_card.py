"""A card where there is none: tensors that say they are on another device, compute on the CPU, and refuse to mix.

`torch` sends every operation through a dispatch mode. What was asked for on DEVICE is wrapped there: its numbers are an
ordinary tensor inside. Two tensors on different devices in one operation are refused as CUDA refuses them: only copies
may have them, an operation element by element a number of the CPU, and a tensor on the card indices of the CPU. Views
and writing in place reach the same numbers. As with cuSOLVER, a Cholesky factor of what is not finite claims to be one.

What it cannot show: a card's speed and memory, copies that are not waited for, and how a card rounds.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy:0")  # torch knows the name, and leaves what is behind it to others
COPIES = ("copy_", "_to_copy")
INDEXED = ("index", "index_put", "index_put_")


class OnCard(torch.Tensor):
    """A tensor whose numbers are `inner`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        options = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        options["dispatch_sizes_strides_policy"] = "sizes"  # asked of `inner`, which may be squeezed in place
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device=DEVICE, **options)
        made.inner = inner.detach()
        return made.requires_grad_(requires_grad)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})

    def tolist(self):
        return self.inner.tolist()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = OnCard(self.inner.clone(), self.requires_grad)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if is_parameter(self) else copy
        return memo[id(self)]


def is_parameter(tensor):
    return isinstance(tensor, torch.nn.Parameter)


class StandInCard(TorchDispatchMode):
    """While it is entered, DEVICE is there. `moved`: bytes that came from it to the CPU, by a copy each."""

    def __init__(self):
        super().__init__()
        self.moved = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {}, self.moved)


def computed(function, args, kwargs, moved=None):
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    ours = {id(value.inner): value for value in tensors if isinstance(value, OnCard)}
    name, asked = function.overloadpacket.__name__, kwargs.get("device")
    if name == "_has_compatible_shallow_copy_type":  # whether a module's `.to` may keep its parameter: never
        return False
    pointwise = torch.Tag.pointwise in function.tags
    strangers = [value for value in tensors if not isinstance(value, OnCard) and (value.dim() or not pointwise)]
    if name in INDEXED and isinstance(args[0], OnCard):
        strangers = [value for value in args[2:3] if value.dim() and not isinstance(value, OnCard)]
    if ours and strangers and name not in COPIES:
        shapes = [tuple(value.shape) for value in strangers]
        raise RuntimeError(f"expected all tensors on one device, {name} got {shapes} on the CPU and others on the card")
    there = bool(ours) if asked is None else torch.device(asked).type == DEVICE.type
    if name == "copy_":
        there = isinstance(args[0], OnCard)
    if ours and not there and moved is not None:
        moved.append(sum(value.inner.nbytes for value in tensors if isinstance(value, OnCard)))
    plain = {key: "cpu" if key == "device" and there else value for key, value in kwargs.items()}
    inner = tree_map(lambda value: value.inner if isinstance(value, OnCard) else value, (args, plain))
    done = function(*inner[0], **inner[1])
    if name == "linalg_cholesky_ex" and there and done[0].isnan().any():
        done[1].zero_()
    if not there:
        return done

    def wrapped(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, OnCard):
            return value
        return ours[id(value)] if id(value) in ours else OnCard(value)  # in place: the same tensor

    return tree_map(wrapped, done)
