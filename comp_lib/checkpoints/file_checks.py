"""The checks of a model's files: fields of its config, special tokens and weights, before they are used."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ..decoder.types import Model
from ..decoder.weight_names import EMBEDDING, HEAD, weight_shapes
from ..utils.arguments import LARGEST_INTEGER
from ..utils.errors import InputError
from ..utils.files import SAVE_AGAIN_HINT
from .tensors import StoredTensors

REDUNDANT_TENSOR = "rotary_emb.inv_freq"  # old Llama folders hold what the config says already
# names of the fields of a config.json that count layers, heads or columns of weights
SIZE_FIELD = r"num_.*|.*_(size|dim|rank)"
EPSILON_FIELD = r".*(eps|epsilon)"  # what is added to a mean of squares before its root is taken
LAYER_OF_TENSOR = r"(?:model\.layers|blk)\.(\d+)\."  # of a folder, and of a GGUF file


def limits_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """How many layers the tensors of these shapes belong to, and the largest of all their sizes."""
    matches = [re.match(LAYER_OF_TENSOR, name) for name in shapes]
    layers = {match[1] for match in matches if match}
    return len(layers), max((size for shape in shapes.values() for size in shape), default=0)


def check_fields(fields: Mapping[str, Any], limits: tuple[int, int]) -> None:
    """Check the numbers in the `fields` of a config.json before anything is made of them.

    limits: the most layers, and the largest other size, that the tensors of the model allow.

    Raises InputError, which names the field, for NaN, infinity, a negative epsilon, a size above its limit,
    and a window that is no number of tokens, which not every family checks.
    """
    layers, largest_size = limits
    pending: list[tuple[str, Any]] = list(fields.items())
    while pending:  # rather than a call in a call: a field can be very deep
        field, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{field}.{name}"[-60:], part) for name, part in value.items()]
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise InputError(expected=f"{field} as finite numbers", got=str(value)[:60], hint=SAVE_AGAIN_HINT)
        name = field.rpartition(".")[2]
        if re.fullmatch(EPSILON_FIELD, name) and isinstance(value, int | float) and value < 0:
            expected = f"{field} as a number that is not negative"
            raise InputError(expected=expected, got=str(value)[:60], hint=SAVE_AGAIN_HINT)
        whole = type(value) is int and 0 <= value <= LARGEST_INTEGER
        if name == "sliding_window" and value is not None and not whole:
            expected = f"{field} as a whole number of tokens"
            raise InputError(expected=expected, got=str(value)[:60], hint=SAVE_AGAIN_HINT)
        limit = layers if name == "num_hidden_layers" else largest_size
        if type(value) is int and value > limit and re.fullmatch(SIZE_FIELD, name):
            raise InputError(
                expected=f"{field} of at most {limit}, as the tensors in the files have it",
                got=str(value)[:60],
                hint=SAVE_AGAIN_HINT,
            )


def check_special_tokens(config: GenerationConfig, path: Path) -> None:
    """Check the tokens that end and fill a text, from a generation_config.json, else from the config.

    Raises InputError, which names the field, unless they are whole numbers.
    """
    for name in ("eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        for token in value if isinstance(value, list) else [value]:
            if token is not None and (type(token) is not int or abs(token) > LARGEST_INTEGER):
                raise InputError(
                    expected=f"{name} as whole numbers",
                    got=f"{str(value)[:60]!r} in {path}",
                    hint=SAVE_AGAIN_HINT,
                )


def check_weights(meta_model: Model, files: StoredTensors) -> None:
    """Check that `files` hold the weights of `meta_model` and no others.

    A tied head may be stored beside the embedding if it is equal to it.

    Raises InputError for weights that are missing, not expected, or of another shape.
    """
    tied = meta_model.config.tie_word_embeddings
    ignored = (REDUNDANT_TENSOR, HEAD) if tied else (REDUNDANT_TENSOR,)
    expected = weight_shapes(meta_model)
    stored = {name: shape for name, shape in files.shapes.items() if not name.endswith(ignored)}
    common_names = expected.keys() & stored.keys()
    problems = {
        "missing": expected.keys() - stored.keys(),
        "unexpected": stored.keys() - expected.keys(),
        "of another shape": {name for name in common_names if expected[name] != stored[name]},
    }
    for problem, names in problems.items():
        if names:
            examples = ", ".join(sorted(names)[:3])
            raise InputError(
                expected="the weights that config.json describes",
                got=f"{len(names)} {problem} in {files.path} ({examples})",
                hint=SAVE_AGAIN_HINT,
            )
    if tied and {EMBEDDING, HEAD} <= files.shapes.keys():
        embedding = files.read(EMBEDDING, torch.float32)
        head = files.read(HEAD, torch.float32)
        if not torch.equal(embedding, head):
            raise InputError(
                expected="one table of tokens, as tie_word_embeddings says",
                got=f"{HEAD} with other numbers in {files.path}",
                hint="set tie_word_embeddings to false, or remove that tensor",
            )
