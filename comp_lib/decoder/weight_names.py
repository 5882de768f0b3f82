"""Names of a model's weights, as transformers spells them."""

from __future__ import annotations

from typing import Any

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def weight_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a model; a tied head is left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes
