"""Text of two models, and how long it takes."""

from __future__ import annotations

import pytest
import torch

from comp_lib.evaluation.generation import continuation
from comp_lib.utils.errors import InputError

PROMPT = "The sea is"


@pytest.fixture(scope="module")
def models(tiny_llama):
    return tiny_llama(), tiny_llama(seed=1, intermediate_size=32)


def greedy(model, ids, tokens, stop=True):
    """The most likely token, step by step, without a cache; past an end of text unless `stop`."""
    with torch.no_grad():
        for _ in range(tokens):
            following = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, following], dim=1)
            if stop and int(following) == model.generation_config.eos_token_id:
                break
    return ids


def test_a_continuation_is_the_most_likely_text(models, tokenizer):
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    expected = tokenizer.decode(greedy(models[0], ids, 12)[0, ids.shape[1] :], skip_special_tokens=True)
    assert continuation(models[0], tokenizer, PROMPT, 12) == expected
    assert continuation(models[0], tokenizer, PROMPT, 12) != continuation(models[1], tokenizer, PROMPT, 12)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"num_beams": 3},
        {"do_sample": True, "temperature": 2.0},
        {"stop_strings": ["e"]},
    ],
    ids=str,
)
def test_what_a_folder_says_of_generation_changes_no_continuation(tiny_llama, tokenizer, settings):
    """Many checkpoints that were taught to chat bring a penalty for repetition."""
    model = tiny_llama()
    expected = continuation(model, tokenizer, PROMPT, 12)
    model.generation_config.update(**settings)
    assert continuation(model, tokenizer, PROMPT, 12) == expected
    assert all(getattr(model.generation_config, name) == value for name, value in settings.items())


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ("  \n", 5, "an empty one"),
        (PROMPT, 0, "another number"),
        (PROMPT, 1000, "within 128 tokens"),
        ("sea " * 200, 5, "shorten"),
        (
            "caf\udce9",
            5,
            r"prompt that can be written as UTF-8, got 'caf\\udce9' in it",
        ),
        (None, 5, "expected a prompt, got NoneType"),
        (b"sea", 5, "expected a prompt, got bytes"),
    ],
)
def test_what_cannot_be_continued(models, tokenizer, prompt, tokens, message):
    with pytest.raises(InputError, match=message) as caught:
        continuation(models[0], tokenizer, prompt, tokens)
    assert "\n" not in str(caught.value)


def test_it_ends_where_the_model_says(tiny_llama, tokenizer):
    model = tiny_llama()
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    third = greedy(model, ids, 3, stop=False)
    model.generation_config.eos_token_id = third[0, -1].item()
    assert continuation(model, tokenizer, PROMPT, 12) == tokenizer.decode(third[0, ids.shape[1] :])
