"""Text of two models, and how long it takes."""

from __future__ import annotations

import copy

import pytest
import torch

from comp_lib.errors import InputError
from comp_lib.evaluation import generation
from comp_lib.evaluation.generation import continuation, ratio

PROMPT = "The sea is"


@pytest.fixture(scope="module")
def models(tiny_llama):
    return tiny_llama(), tiny_llama(seed=1, intermediate_size=32)


def greedy(model, ids, tokens, stop=True):
    """The most likely token, again and again, without a cache; past an end of text unless told to `stop` there."""
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
    "told",
    [{"repetition_penalty": 1.5}, {"num_beams": 3}, {"do_sample": True, "temperature": 2.0}, {"stop_strings": ["e"]}],
    ids=str,
)
def test_what_a_folder_says_of_generation_changes_no_continuation(tiny_llama, tokenizer, told):
    """Many checkpoints that were taught to chat bring a penalty for repetition."""
    model = tiny_llama()
    expected = continuation(model, tokenizer, PROMPT, 12)
    model.generation_config.update(**told)
    assert continuation(model, tokenizer, PROMPT, 12) == expected
    assert all(getattr(model.generation_config, name) == value for name, value in told.items())


def test_a_token_that_the_model_does_not_know_is_named(models, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    with pytest.raises(InputError, match="expected tokens below 512, .* got 512: take the tokenizer that belongs"):
        continuation(models[0], own, "<|im_start|>Hello", 5)


@pytest.mark.parametrize(
    ("prompt", "tokens", "words"),
    [
        ("  \n", 5, "an empty one"),
        (PROMPT, 0, "another number"),
        (PROMPT, 1000, "within 128 tokens"),
        ("sea " * 200, 5, "shorten"),
    ],
)
def test_what_cannot_be_continued(models, tokenizer, prompt, tokens, words):
    with pytest.raises(InputError, match=words) as caught:
        continuation(models[0], tokenizer, prompt, tokens)
    assert "\n" not in str(caught.value)


def test_what_is_timed_is_the_greedy_continuation(models, monkeypatch):
    """The clock counts calls of the model: the first token ends after one, each of the others after one more."""
    ids, fed = torch.arange(3, 23)[None], []
    hook = models[0].register_forward_pre_hook(
        lambda module, arguments, named: fed.append(named["input_ids"]), with_kwargs=True
    )
    monkeypatch.setattr(generation.time, "perf_counter", lambda: float(len(fed)))
    try:
        assert generation.timed(models[0], ids, 5) == (1.0, 5.0)
    finally:
        hook.remove()
    assert torch.equal(torch.cat(fed, 1), greedy(models[0], ids, 5, stop=False))


def test_ratios_are_taken_round_by_round():
    # the machine became slow in the last round, for both
    assert ratio((20.0, 22.0, 4.0), (10.0, 10.0, 2.0)) == (2.0, 2.0, 2.2)


def test_as_many_tokens_as_asked_for_even_after_an_end_of_text(tiny_llama):
    model = tiny_llama()
    ids = torch.arange(3, 8)[None]
    free = greedy(model, ids, 1)[0, -1].item()
    model.generation_config.eos_token_id = free  # the very first token would end the text
    assert generation._generate(model, ids, 6, min_new_tokens=6).shape == (1, 11)
