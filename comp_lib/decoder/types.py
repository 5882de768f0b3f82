"""The types that all of the library shares: a model, its layers, the two steps of a layer.

COMP reads a decoder layer as two residual steps, each of which ends in a linear that writes to the
stream, its output linear:

    r  = h + out(o_proj(X_o)),      h' = r + out(down_proj(X))

`out` is the identity, a multiplication, or a norm: `probe.OutputPath` finds out which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

Layer = nn.Module
Device = torch.device | str
Step = Literal["attention", "mlp"]
"""One of the two residual steps of a layer."""
STEPS: tuple[Step, Step] = ("attention", "mlp")

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor
    from transformers import PreTrainedModel

    Model = PreTrainedModel
    """A causal language model in memory, as transformers builds it."""

    class CausalLM(PreTrainedModel):
        """A model of transformers that can also write text: what this library returns as a model."""

        def generate(self, *args: Any, **options: Any) -> Tensor:
            """Token ids (B, L) of the prompts and of what the model writes after them."""
else:  # importing transformers' class takes a second, and brings packages that pruning has no use for
    Model = nn.Module
    CausalLM = nn.Module
