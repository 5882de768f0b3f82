"""Text that the model writes: by its own probabilities, under a seed, from four kinds of beginnings, once."""

from __future__ import annotations

import copy
import importlib
import inspect

import pytest
import torch
from conftest import DATA
from torch.nn import functional as F
from variants import build

from comp_lib.calibration import self_generated as written_module
from comp_lib.calibration.self_generated import (
    WRITERS,
    draw_prefixes,
    load_beginnings,
    load_shipped_texts,
    sample,
    write_texts,
)
from comp_lib.calibration.texts import DATA_FOLDERS
from comp_lib.calibration.windows import Calibration, calibration_tokens
from comp_lib.cli.use import report
from comp_lib.pruning.settings import PRESET_TABLE
from comp_lib.utils.errors import InputError
from comp_lib.utils.hashes import hash_of_model

pytestmark = pytest.mark.usefixtures("own_cache")


class WithoutSpecialTokens:
    """The fields of a tokenizer that has neither a start nor an end token."""

    bos_token_id = None
    eos_token_id = None


class WithEndToken(WithoutSpecialTokens):
    eos_token_id = 1


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama()


def starts(count, token=0):
    return [torch.tensor([token])] * count


def test_it_is_deterministic_and_leaves_the_global_state_alone(tokenizer, model):
    state = torch.get_rng_state()
    ids = sample(model, starts(3), 12, seed=5)
    assert ids.shape == (3, 12)
    assert torch.equal(sample(model, starts(3), 12, seed=5), ids)
    assert not torch.equal(sample(model, starts(3), 12, seed=6), ids)
    assert torch.equal(state, torch.get_rng_state())
    assert len({tuple(row.tolist()) for row in ids}) == 3


def test_a_model_in_training_mode_writes_the_same():
    calm = build(attention_dropout=0.5)
    training = build(attention_dropout=0.5).train()
    prefixes = [torch.tensor([3])] * 2
    assert torch.equal(sample(training, prefixes, 12, seed=0), sample(calm, prefixes, 12, seed=0))
    assert training.training


def test_the_start_token(tokenizer):
    for reader, start in ((tokenizer, tokenizer.bos_token_id), (WithEndToken, 1)):
        assert [prefix.tolist() for prefix in draw_prefixes(reader, ["self"] * 3, 512, 9)] == [[start]] * 3
    random_starts = draw_prefixes(WithoutSpecialTokens, ["self"] * 4, 512, 9)
    assert len({prefix.item() for prefix in random_starts}) > 1


def test_each_way_begins_as_it_says(tokenizer):
    prefixes = dict(zip(WRITERS, draw_prefixes(tokenizer, WRITERS, 512, 200), strict=True))
    assert all(prefix[0] == tokenizer.bos_token_id for prefix in prefixes.values())
    assert len(prefixes["self"]) == 1
    assert len(prefixes["self:random"]) == 2
    assert tokenizer.decode(prefixes["self:openings"][1:]) in load_beginnings()["self:openings"]
    request = tokenizer.decode(prefixes["self:requests"][1:])  # this tokenizer has no chat template
    assert request.startswith("Question: ")
    assert request.endswith("\nAnswer:")


def test_beginnings_that_are_not_installed_are_refused_in_one_line(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(written_module, "DATA_FOLDERS", (tmp_path,))
    with pytest.raises(InputError, match=r"expected beginnings\.json, which comes with comp_lib"):
        draw_prefixes(tokenizer, WRITERS, 512, 200)


def test_requests_go_through_the_chat_template(tokenizer):
    class Chatting:
        chat_template = "there is one"
        bos_token_id = 0

        def apply_chat_template(self, turns, tokenize, add_generation_prompt):
            assert [turn["role"] for turn in turns] == ["user"]
            assert add_generation_prompt
            assert not tokenize
            return f"<{turns[0]['content']}>"

        def __call__(self, *args, **kwargs):
            return tokenizer(*args, **kwargs)

    (prefix,) = draw_prefixes(Chatting(), ["self:requests"], 512, 200)
    request = tokenizer.decode(prefix)
    assert request[0] == "<"
    assert request[-1] == ">"


def test_a_chat_template_that_fails_is_named(tokenizer):
    broken = copy.deepcopy(tokenizer)
    broken.chat_template = "{{ messages[0]['content'] | no_such_filter }}"
    with pytest.raises(InputError, match="chat template that works.*no_such_filter.*correct it"):
        draw_prefixes(broken, ["self:requests"], 512, 200)


def test_openings_differ_until_all_are_used(tokenizer):
    count = len(load_beginnings()["self:openings"])
    prefixes = draw_prefixes(tokenizer, ["self:openings"] * count, 512, 200)
    assert len({tuple(prefix.tolist()) for prefix in prefixes}) == count


def test_it_follows_the_model_without_its_cache(model):
    """Against brute force: the same draws from logits that are computed anew for each position."""
    prefixes = [torch.tensor([3, 4, 5]), torch.tensor([7]), torch.tensor([9, 9])]
    ids = sample(model, prefixes, 40, seed=2)
    generator = torch.Generator().manual_seed(2)
    expected = torch.tensor([[3], [7], [9]])
    with torch.no_grad():
        for position in range(1, 40):
            probabilities = model(expected, use_cache=False).logits[:, -1].softmax(-1)
            cumulative = probabilities.double().cumsum(-1)
            threshold = torch.rand(3, 1, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
            drawn = (cumulative <= threshold).sum(-1, keepdim=True)
            for row, prefix in enumerate(prefixes):
                if position < len(prefix):
                    drawn[row, 0] = prefix[position]
            expected = torch.cat([expected, drawn], dim=1)
    assert torch.equal(ids, expected)


def test_it_samples_from_the_whole_distribution(model):
    """Frequencies of the second token against the probabilities of the model, at temperature 1."""
    drawn = sample(model, starts(4000), 2, 0)[:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[0]])).logits[0, -1].softmax(-1)
    distance = (F.one_hot(drawn, 512).float().mean(0) - expected).abs().sum() / 2
    sharper = expected**2 / (expected**2).sum()  # at temperature 0.5, for the scale of a distance
    assert distance < 0.15 < (sharper - expected).abs().sum() / 2


def test_it_goes_on_after_the_end_of_a_text(tiny_llama):
    model = tiny_llama(eos_token_id=1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = 100 * model.model.norm.weight.sign()
    model.generation_config.max_length = 4
    ids = sample(model, starts(2), 12, 0)
    assert ids.shape == (2, 12)
    assert (ids == 1).any()


def test_it_can_be_trained_on(tiny_llama):
    model = tiny_llama()
    ids = sample(model, starts(2), 6, 0)
    model(input_ids=ids, labels=ids).loss.backward()  # an inference tensor could not be saved for backward
    assert torch.isfinite(model.model.embed_tokens.weight.grad).all()


def test_it_is_written_once(tokenizer, tiny_llama, monkeypatch):
    model = tiny_llama()
    first = write_texts(model, tokenizer, WRITERS, 16, seed=1)
    monkeypatch.setattr(written_module, "sample", lambda *args: pytest.fail("written again"))
    assert torch.equal(write_texts(model, tokenizer, WRITERS, 16, seed=1), first)
    for parent, writers, length, seed in (
        (model, WRITERS, 16, 2),
        (model, WRITERS, 12, 1),
        (model, WRITERS[::-1], 16, 1),
        (tiny_llama(seed=1), WRITERS, 16, 1),
    ):
        with pytest.raises(pytest.fail.Exception):
            write_texts(parent, tokenizer, writers, length, seed)


@pytest.fixture
def script(monkeypatch):
    """The script that makes the files in data/written."""
    monkeypatch.syspath_prepend(DATA / "written")
    return importlib.import_module("make_written")


def never_called(*args, **kwargs):
    """In place of `sample`, for a model that shall not write."""
    pytest.fail("the model was asked to write")


@pytest.mark.parametrize("source", ["general", "self"])  # each text of `self` begins with the same token
def test_a_text_that_ships_serves_its_model_and_seed_alone(
    source, script, tokenizer, tiny_llama, tmp_path, monkeypatch
):
    def draw(parent, seed=0, sequences=16):
        return calibration_tokens(source, tokenizer, model=parent, sequences=sequences, length=32, seed=seed)

    model = tiny_llama()
    written_here = draw(model)
    shipped = tmp_path / "data" / "written"
    shipped.mkdir(parents=True)
    script.write_file(shipped, "a tiny model", model, tokenizer, source, (16,), length=32, seed=0)
    monkeypatch.setattr(written_module, "DATA_FOLDERS", (tmp_path / "data", *DATA_FOLDERS))
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(written_module, "sample", never_called)
    assert torch.equal(draw(model), written_here)
    assert not (tmp_path / "empty").exists()
    other_model = tiny_llama(seed=1)
    for parent, seed, sequences in ((model, 1, 16), (model, 0, 40), (other_model, 0, 16)):
        with pytest.raises(pytest.fail.Exception):
            draw(parent, seed, sequences)


def test_an_entry_of_the_cache_that_may_not_be_read_is_refused(tokenizer, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path))
    text = Calibration("general", sequences=16, length=16)
    text.tokens(tokenizer, model=tiny_llama())
    (entry,) = tmp_path.glob("written/*.safetensors")
    entry.unlink()
    entry.mkdir()
    with pytest.raises(InputError, match=f"^expected to read {entry}, got .*: delete it"):
        text.tokens(tokenizer, model=tiny_llama())


@pytest.mark.real
def test_the_included_model_writes_nothing_for_a_preset_or_a_check_up(real_model, monkeypatch):
    model, tokenizer = real_model
    monkeypatch.setattr(written_module, "sample", never_called)
    check_up_count = inspect.signature(report).parameters["sequences"].default
    for count in {check_up_count} | {preset.sequences for preset in PRESET_TABLE.values()}:
        calibration_tokens("general", tokenizer, model=model, sequences=count)
    with pytest.raises(pytest.fail.Exception):
        calibration_tokens("general", tokenizer, model=model, seed=1)


@pytest.mark.real
def test_the_shipped_windows_are_what_the_included_model_writes(script, real_model):
    """A window of each writer, token by token: what the model draws after the shipped tokens before it.

    On another processor, and in one pass, probabilities differ in their last bits: a token may be another.
    """
    model, tokenizer = real_model
    shipped = load_shipped_texts(hash_of_model(model)).values()
    for sequences, ids in zip((32, 128, 256), sorted(shipped, key=len), strict=True):
        writers = script.writers_of("general", tokenizer, sequences, length=256)
        prefixes = draw_prefixes(tokenizer, writers, model.config.vocab_size, length=256)
        assert ids.shape == (len(writers), 256)
        generator = torch.Generator().manual_seed(0)
        draws = torch.zeros(len(ids), 256, 1, dtype=torch.float64)
        for batch in draws.split(36):  # 36 windows are sampled at once
            for position in range(1, 256):
                batch[:, position] = torch.rand(len(batch), 1, generator=generator, dtype=torch.float64)
        for row in map(writers.index, WRITERS):
            start = len(prefixes[row])
            assert torch.equal(ids[row, :start], prefixes[row])
            with torch.no_grad():
                cumulative = (
                    model(ids[row : row + 1]).logits[0, start - 1 : -1].softmax(-1).double().cumsum(-1)
                )
            drawn = torch.searchsorted(cumulative, draws[row, start:] * cumulative[:, -1:], right=True)[:, 0]
            assert (drawn == ids[row, start:]).float().mean() > 0.98


def test_a_damaged_entry_is_written_anew(tokenizer, model, tmp_path):
    first = write_texts(model, tokenizer, WRITERS, 16)
    (entry,) = (tmp_path / "written").iterdir()
    entry.write_bytes(entry.read_bytes()[:20])
    assert torch.equal(write_texts(model, tokenizer, WRITERS, 16), first)


def test_tokens_that_were_added_to_the_tokenizer_alone_are_named(tiny_llama, tokenizer, own_cache):
    extended = copy.deepcopy(tokenizer)
    extended.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    extended.chat_template = "{% for turn in messages %}<|im_start|>{{ turn.content }}{% endfor %}"
    message = "expected tokens below 512, of which the model has embeddings, got 512"
    with pytest.raises(InputError, match=message):
        write_texts(tiny_llama(), extended, ("self:requests",), 16)
