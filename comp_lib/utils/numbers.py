"""Checks that tensors hold numbers: no NaN and no infinity."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError, NoNumber
from .files import SAVE_AGAIN_HINT


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises InputError, which says `name`, when there is a NaN or an infinity in `tensor`."""
    lowest, highest = torch.aminmax(tensor)  # without a second tensor of this size
    if not (torch.isfinite(lowest) and torch.isfinite(highest)):
        raise InputError(
            expected="finite weights",
            got=f"NaN or infinity in {name}",
            hint=f"{SAVE_AGAIN_HINT}, or take dtype float32",
        )


def check_numbers(measure: str, values: Tensor) -> None:
    """Raises NoNumber, which says `measure`, when one of its values is NaN or infinite."""
    if not values.isfinite().all():
        raise NoNumber(
            expected=f"{measure} as a finite number",
            got=values[~values.isfinite()][0].item(),
            hint="look at the numbers in config.json and the weights, or take dtype float32",
        )
