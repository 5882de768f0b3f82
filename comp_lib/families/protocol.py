"""The words that all of the library shares: a model, its layers, the two steps of a layer.

COMP looks at a decoder layer as two residual steps, each of which ends in a dense layer that writes to the stream:

    r  = h + out(o_proj(X_o)),      h' = r + out(down_proj(X))

`out` is nothing at all, a number, or a norm: `reach` finds out which.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

Model = Any
"""A decoder with `config`, `model` and `lm_head`. Read layer by layer, it has a `skeleton` too, without numbers."""
Layer = nn.Module
Device = torch.device | str
Which = Literal["attention", "mlp"]
"""One of the two residual steps of a layer."""
STEPS: tuple[Which, Which] = ("attention", "mlp")
