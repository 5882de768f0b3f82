"""The box that shows how two models continue a prompt."""

from __future__ import annotations

import html

import pytest

from comp_lib.evaluation.generation import continuation
from course.widgets.generation import GenerationBox

PROMPT = "The sea is"


@pytest.fixture(scope="module")
def models(tiny_llama):
    return tiny_llama(), tiny_llama(seed=1, intermediate_size=32)


@pytest.fixture
def box(models, tokenizer):
    return GenerationBox(*models, tokenizer, PROMPT, tokens=8)


def test_nothing_is_generated_before_it_is_asked_for(box):
    assert all("..." in text.value for text in box.texts)
    assert box.status.value.startswith("Press Generate")
    assert "dense: " in box.texts[0].value
    assert "pruned: " in box.texts[1].value


def test_a_click_writes_both_texts_of_this_prompt_and_length(box, models, tokenizer):
    box.prompt.value = "A river"
    box.tokens.value = 3
    assert all("..." in text.value for text in box.texts)  # not yet
    box.button.click()
    for text, model in zip(box.texts, models, strict=True):
        assert f"A river<b>{continuation(model, tokenizer, 'A river', 3)}</b>" in html.unescape(text.value)
        assert f"{model.num_parameters():,} parameters" in text.value
    assert not box.button.disabled
    assert "expected" not in box.status.value


def test_wrong_input_is_a_sentence_and_the_texts_stay(box):
    box.run()
    before = [text.value for text in box.texts]
    box.prompt.value = " "
    box.button.click()
    assert "expected a prompt" in box.status.value
    assert "Traceback" not in box.status.value
    assert [text.value for text in box.texts] == before
    assert not box.button.disabled
    box.prompt.value = "<script>alert(1)</script>"  # markup is text
    box.button.click()
    assert "expected" not in box.status.value
    assert all("<script>" not in text.value and "&lt;script&gt;" in text.value for text in box.texts)


def test_the_button_waits_while_the_models_write(box, monkeypatch):
    states = []

    def record_state(*arguments):
        states.append((box.button.disabled, box.status.value))
        return "text"

    monkeypatch.setattr("course.widgets.generation.continuation", record_state)
    box.run()
    assert states == [(True, "Both models are writing ...")] * 2


def test_a_still_has_both_texts(box):
    box.run()
    still = box._repr_mimebundle_()["text/html"]
    assert all(text.value in still for text in box.texts)
