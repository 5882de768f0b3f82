"""The hash of a model: it tells apart models whose weights are the same numbers in another order."""

from __future__ import annotations

import pytest
import torch
from variants import build

from comp_lib.utils.hashes import PIECE_SIZE, SAMPLE_SIZE, hash_of_model

pytestmark = pytest.mark.slow

NAME = "model.layers.0.mlp.down_proj.weight"


def swap(tensor, first, second):
    """Let the numbers at two positions of a contiguous tensor change places."""
    values = tensor.data.view(-1)
    assert values[first] != values[second]
    values[[first, second]] = values[[second, first]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("distance", [1, 2, PIECE_SIZE])
def test_two_weights_that_change_places_make_another_model(dtype, distance):
    model = build("gqa", intermediate_size=PIECE_SIZE // 16).to(dtype)
    weight = model.state_dict()[NAME]
    step = weight.numel() // SAMPLE_SIZE
    assert weight.numel() > PIECE_SIZE
    assert step > 4
    before = hash_of_model(model)
    first = step + 1
    # neither is in the sample
    assert first % step
    assert (first + distance) % step
    swap(weight, first, first + distance)
    assert hash_of_model(model) != before
    swap(weight, first, first + distance)
    assert hash_of_model(model) == before


def test_a_changed_weight_at_the_end_of_a_last_short_piece_makes_another_model():
    model = build("gqa", intermediate_size=PIECE_SIZE // 16 + 1)
    weight = model.state_dict()[NAME]
    assert weight.numel() % PIECE_SIZE
    before = hash_of_model(model)
    weight.data.view(-1)[-1] += 1
    assert hash_of_model(model) != before
