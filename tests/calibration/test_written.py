"""Text that the model writes: by the model's own probabilities, under a seed, from four kinds of beginnings, once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from comp_lib.calibration import written as module
from comp_lib.calibration.written import BEGINNINGS, WAYS, draw_prefixes, sample, write_texts
from comp_lib.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


class Bare:
    bos_token_id = eos_token_id = None


class NoStart(Bare):
    eos_token_id = 1


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama()


def starts(count, token=0):
    return [torch.tensor([token])] * count


def test_it_is_deterministic_and_leaves_the_global_state_alone(tokenizer, model):
    state = torch.get_rng_state()
    one, two = (sample(model, starts(3), 12, seed=5) for _ in range(2))
    other = sample(model, starts(3), 12, seed=6)
    assert torch.equal(state, torch.get_rng_state())
    assert one.shape == (3, 12) and torch.equal(one, two) and not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in one}) == 3


def test_the_start_token(tokenizer):
    assert [start.tolist() for start in draw_prefixes(tokenizer, ["self"] * 3, 512, 9)] == [
        [tokenizer.bos_token_id]
    ] * 3
    assert [start.tolist() for start in draw_prefixes(NoStart, ["self"] * 3, 512, 9)] == [[1]] * 3
    assert len({start.item() for start in draw_prefixes(Bare, ["self"] * 4, 512, 9)}) > 1


def test_each_way_begins_as_it_says(tokenizer):
    found = dict(zip(WAYS, draw_prefixes(tokenizer, WAYS, 512, 200), strict=True))
    assert found["self"].tolist() == [tokenizer.bos_token_id]
    assert found["self:random"].shape == (2,) and found["self:random"][0] == tokenizer.bos_token_id
    assert (
        tokenizer.decode(found["self:openings"][1:]) in BEGINNINGS["self:openings"]
        and found["self:openings"][0] == tokenizer.bos_token_id
    )
    assert found["self:requests"][0] == tokenizer.bos_token_id
    asked = tokenizer.decode(found["self:requests"][1:])
    assert asked.startswith("Question: ") and asked.endswith("\nAnswer:"), (
        "this tokenizer has no chat template"
    )


def test_requests_go_through_the_chat_template(tokenizer):
    class Chatting:
        chat_template, bos_token_id = "there is one", 0

        def apply_chat_template(self, turns, tokenize, add_generation_prompt):
            assert [turn["role"] for turn in turns] == ["user"] and add_generation_prompt and not tokenize
            return f"<{turns[0]['content']}>"

        def __call__(self, *args, **kwargs):
            return tokenizer(*args, **kwargs)

    (asked,) = draw_prefixes(Chatting(), ["self:requests"], 512, 200)
    words = tokenizer.decode(asked)
    assert words[0] == "<" and words[-1] == ">"


def test_a_chat_template_that_fails_is_named(tokenizer):
    broken = copy.deepcopy(tokenizer)
    broken.chat_template = "{{ messages[0]['content'] | no_such_filter }}"
    with pytest.raises(InputError, match="chat template that works.*no_such_filter.*mend it"):
        draw_prefixes(broken, ["self:requests"], 512, 200)


def test_openings_differ_until_all_are_used(tokenizer):
    found = {
        tuple(start.tolist())
        for start in draw_prefixes(tokenizer, ["self:openings"] * len(BEGINNINGS["self:openings"]), 512, 200)
    }
    assert len(found) == len(BEGINNINGS["self:openings"])


def test_it_follows_the_model_without_its_cache(model):
    """Against brute force: the same draws from logits that are computed anew for each position."""
    begun = [torch.tensor([3, 4, 5]), torch.tensor([7]), torch.tensor([9, 9])]
    ids = sample(model, begun, 40, seed=2)
    generator = torch.Generator().manual_seed(2)
    expected = torch.tensor([[3], [7], [9]])
    with torch.no_grad():
        for position in range(1, 40):
            probabilities = model(expected, use_cache=False).logits[:, -1].softmax(-1)
            reached = probabilities.double().cumsum(-1)
            chance = torch.rand(3, 1, generator=generator, dtype=torch.float64) * reached[:, -1:]
            drawn = (reached <= chance).sum(-1, keepdim=True)
            for row, start in enumerate(begun):
                if position < len(start):
                    drawn[row, 0] = start[position]
            expected = torch.cat([expected, drawn], dim=1)
    assert torch.equal(ids, expected)


def test_it_samples_from_the_whole_distribution(model):
    """Frequencies of the second token against the probabilities of the model, at temperature 1."""
    drawn = sample(model, starts(4000), 2, 0)[:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[0]])).logits[0, -1].softmax(-1)
    distance = (F.one_hot(drawn, 512).float().mean(0) - expected).abs().sum() / 2
    sharper = (
        expected**2 / (expected**2).sum() - expected
    ).abs().sum() / 2  # temperature 0.5, for the scale of it
    assert distance < 0.15 < sharper


def test_it_goes_on_after_the_end_of_a_text(tiny_llama):
    model = tiny_llama(eos_token_id=1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = 100 * model.model.norm.weight.sign()
    model.generation_config.max_length = 4
    ids = sample(model, starts(2), 12, 0)
    assert ids.shape == (2, 12) and (ids == 1).any()


def test_it_can_be_trained_on(tiny_llama):
    model = tiny_llama()
    ids = sample(model, starts(2), 6, 0)
    model(input_ids=ids, labels=ids).loss.backward()  # an inference tensor could not be saved for backward
    assert torch.isfinite(model.model.embed_tokens.weight.grad).all()


def test_it_is_written_once(tokenizer, tiny_llama, monkeypatch):
    model = tiny_llama()
    first = write_texts(model, tokenizer, WAYS, 16, seed=1)
    monkeypatch.setattr(module, "sample", lambda *args: pytest.fail("written again"))
    assert torch.equal(write_texts(model, tokenizer, WAYS, 16, seed=1), first)
    for other in (
        (model, WAYS, 16, 2),
        (model, WAYS, 12, 1),
        (model, WAYS[::-1], 16, 1),
        (tiny_llama(seed=1), WAYS, 16, 1),
    ):
        with pytest.raises(pytest.fail.Exception):
            write_texts(other[0], tokenizer, *other[1:])


def test_a_damaged_entry_is_written_anew(tokenizer, model, tmp_path):
    first = write_texts(model, tokenizer, WAYS, 16)
    (entry,) = (tmp_path / "written").iterdir()
    entry.write_bytes(entry.read_bytes()[:20])
    assert torch.equal(write_texts(model, tokenizer, WAYS, 16), first)


def test_tokens_that_were_added_to_the_tokenizer_alone_are_named(tiny_llama, tokenizer, own_cache):
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    own.chat_template = "{% for turn in messages %}<|im_start|>{{ turn.content }}{% endfor %}"
    with pytest.raises(
        InputError, match="expected tokens below 512, of which the model has embeddings, got 512"
    ):
        write_texts(tiny_llama(), own, ("self:requests",), 16)
