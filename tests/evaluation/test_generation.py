"""Text and speed of two models, and the box that shows the text."""

from __future__ import annotations

import copy

import pytest
import torch
from ipywidgets import Button

from comp_lib.errors import InputError
from comp_lib.evaluation import generation
from comp_lib.evaluation.generation import Speed, continuation, measure_speed, ratio
from course.widgets.generation import GenerationBox

PROMPT = "The sea is"


@pytest.fixture(scope="module")
def models(tiny_llama):
    return tiny_llama(), tiny_llama(seed=1, intermediate_size=32)


def greedy(model, ids, tokens):
    """The most likely token, again and again, without a cache."""
    with torch.no_grad():
        for _ in range(tokens):
            following = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, following], dim=1)
            if int(following) == model.generation_config.eos_token_id:
                break
    return ids


def test_a_continuation_is_the_most_likely_text(models, tokenizer):
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    expected = tokenizer.decode(greedy(models[0], ids, 12)[0, ids.shape[1] :], skip_special_tokens=True)
    assert continuation(models[0], tokenizer, PROMPT, 12) == expected
    assert continuation(models[0], tokenizer, PROMPT, 12) != continuation(models[1], tokenizer, PROMPT, 12)


@pytest.mark.parametrize(
    "told",
    [
        {"repetition_penalty": 1.5},
        {"num_beams": 3},
        {"no_repeat_ngram_size": 1},
        {"do_sample": True, "temperature": 2.0},
        {"return_dict_in_generate": True},
        {"stop_strings": ["e"]},
        {"forced_eos_token_id": 9999},
    ],
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


def test_a_continuation_says_nothing_else(models, tokenizer, capfd):
    continuation(models[0], tokenizer, PROMPT, 3)
    assert capfd.readouterr() == ("", "")


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


def test_speed_is_measured_in_turns(models, monkeypatch):
    """With a clock of our own: one model takes 2 s for a prompt and 0.5 s for each further token, the other half."""
    calls = []

    def timed(model, ids, tokens):
        assert tokens == 8 and ids.shape == (1, 20)
        calls.append(models.index(model))
        return 2.0 / (1 + calls[-1]), 0.5 * tokens / (1 + calls[-1])

    monkeypatch.setattr(generation, "timed", timed)
    one, other = measure_speed(models, torch.zeros(1, 20, dtype=torch.long), new_tokens=8, rounds=2)
    assert one == Speed(prefill=(10.0, 10.0), decode=(2.0, 2.0))
    assert other == Speed(prefill=(20.0, 20.0), decode=(4.0, 4.0))
    assert calls == [0, 1] * 3  # one round to warm up
    assert ratio(other.decode, one.decode) == (2.0, 2.0, 2.0)


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
    assert torch.equal(torch.cat(fed, 1), greedy_anyway(models[0], ids, 5))


def greedy_anyway(model, ids, tokens):
    """The most likely token, again and again, end of text or not, without a cache."""
    with torch.no_grad():
        for _ in range(tokens):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


def test_speed_of_real_calls(models, monkeypatch):
    speeds = measure_speed(models, torch.arange(3, 23)[None], new_tokens=4, rounds=2)
    assert all(len(s.prefill) == len(s.decode) == 2 and min(s.prefill + s.decode) > 0 for s in speeds)


def test_ratios_are_taken_round_by_round():
    # the machine became slow in the last round, for both
    assert ratio((20.0, 22.0, 4.0), (10.0, 10.0, 2.0)) == (2.0, 2.0, 2.2)


def test_as_many_tokens_as_asked_for_even_after_an_end_of_text(tiny_llama):
    model = tiny_llama()
    ids = torch.arange(3, 8)[None]
    free = greedy(model, ids, 1)[0, -1].item()
    model.generation_config.eos_token_id = free  # the very first token would end the text
    assert generation._generate(model, ids, 6, min_new_tokens=6).shape == (1, 11)


# --- the box ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(models, tokenizer):
    return GenerationBox(*models, tokenizer, PROMPT, tokens=8)


def test_nothing_is_generated_before_it_is_asked_for(box):
    assert all("..." in text.value for text in box.texts)
    assert [f"{name}: " in text.value for name, text in zip(("dense", "pruned"), box.texts, strict=True)] == [
        True,
        True,
    ]
    assert box.status.value.startswith("Press Generate")


def test_a_click_writes_both_texts(box, models, tokenizer):
    box.button.click()
    for text, model in zip(box.texts, models, strict=True):
        said = continuation(model, tokenizer, PROMPT, 8)
        plain = text.value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&#x27;", "'")
        assert f"{PROMPT}<b>{said}</b>" in plain.replace("&amp;", "&")
        assert f"{model.num_parameters():,} parameters" in text.value
    assert not box.button.disabled and "expected" not in box.status.value


def test_prompt_and_length_are_obeyed(box):
    box.run()
    before = [text.value for text in box.texts]
    box.prompt.value = "A river"
    box.tokens.value = 3
    assert [text.value for text in box.texts] == before  # not yet
    box.run()
    assert all("A river<b>" in text.value for text in box.texts)


def test_wrong_input_is_a_sentence_and_the_texts_stay(box):
    box.run()
    before = [text.value for text in box.texts]
    box.prompt.value = " "
    box.button.click()
    assert "expected a prompt" in box.status.value and "Traceback" not in box.status.value
    assert [text.value for text in box.texts] == before and not box.button.disabled
    box.prompt.value = PROMPT
    box.button.click()
    assert "expected" not in box.status.value


def test_markup_in_a_prompt_is_text(box):
    box.prompt.value = "<script>alert(1)</script>"
    box.run()
    assert all("<script>" not in text.value and "&lt;script&gt;" in text.value for text in box.texts)


def test_the_button_waits_while_the_models_write(box, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "course.widgets.generation.continuation",
        lambda *arguments: seen.append((box.button.disabled, box.status.value)) or "text",
    )
    box.run()
    assert seen == [(True, "Both models are writing ...")] * 2


def test_the_page_does_not_jump_and_everything_has_a_name(box):
    assert box.children[-1].layout.height.endswith("px") and box.status.layout.height.endswith("px")
    assert (
        box.prompt.description and box.tokens.description and isinstance(box.button, Button) and box.button.description
    )
    assert not box.tokens.continuous_update
