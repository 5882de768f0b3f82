"""Blocks: consecutive inputs of an output linear that go or stay together.

A block of `down_proj` is one neuron. A block of `o_proj` holds the inputs of one KV group.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inputs_of_blocks(blocks: Tensor, size: int) -> Tensor:
    """Indices of the inputs that make up `blocks` of `size` inputs each: (k,) -> (k * size,)."""
    return (blocks[:, None] * size + torch.arange(size, device=blocks.device)).flatten()
