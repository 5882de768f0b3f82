"""Which processor computes."""

from __future__ import annotations

import torch

from ..errors import InputError


def available_device(name: str) -> torch.device:
    """The device of that name, if it is there."""
    cuda = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    available = cuda if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    available += ["cpu"]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise InputError(f"expected an available device ({', '.join(available)}) or auto, got {name!r}; choose one")
    return torch.device(name)
