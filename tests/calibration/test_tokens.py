"""Calibration: the same seed gives the same tokens, windows never overlap, and the evaluated text is refused."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from tokenizers import processors

from comp_lib.calibration.encoding import encode, opening_tokens
from comp_lib.calibration.shares import MIXTURES, SHIPPED, WRITTEN, allot, shares_of, text_hashes
from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import calibration_tokens
from comp_lib.errors import InputError


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama()


@pytest.fixture
def short(tmp_path):
    """Much shorter than what ships, of which it is the beginning."""
    path = tmp_path / "short.txt"
    path.write_text(load_text("calibration")[:3000])
    return path


@pytest.fixture
def bare(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return made


def test_windows_are_cut_from_the_text_and_never_overlap(tokenizer):
    length, own = 64, 63  # the tokenizer begins each text with <s>
    ids = encode(tokenizer, load_text("calibration"))
    windows = {tuple(ids[i : i + own].tolist()): i for i in range(0, len(ids) - own + 1, own)}
    drawn = calibration_tokens("calibration", tokenizer, sequences=50, length=length)
    assert drawn.shape == (50, length) and drawn.dtype == torch.long
    assert (drawn[:, 0] == tokenizer.bos_token_id).all()
    starts = [windows[tuple(row[1:].tolist())] for row in drawn]  # KeyError: not a window of the text
    assert len(set(starts)) == 50
    assert starts != sorted(starts)


def test_every_window_can_be_drawn_and_a_tokenizer_that_begins_with_nothing_adds_nothing(tokenizer, bare):
    assert opening_tokens(tokenizer).tolist() == [tokenizer.bos_token_id] and opening_tokens(bare).tolist() == []
    ids = encode(bare, load_text("calibration"))
    for one, first in ((tokenizer, 1), (bare, 0)):
        drawn = calibration_tokens("calibration", one, sequences=3, length=len(ids) // 3 + first)[:, first:]
        assert sorted(drawn.flatten().tolist()) == sorted(ids[: drawn.numel()].tolist())


def test_half_of_each_text_begins_as_a_reader_begins(bare, short, model, own_cache):
    """With the start token, else the end token; where the model writes windows they begin so already."""
    drawn, known = (
        partial(calibration_tokens, tokenizer=bare, model=model, sequences=20, length=16),
        bare.bos_token_id,
    )
    assert drawn(f"{short}+self")[:, 0].eq(known).tolist() == [False, True] * 10
    assert (
        known not in drawn("calibration+calibration:code")[:, 0]
        and known in drawn(f"{short}+self:random")[:, 0]
    )
    for source in (short, f"{short}+calibration:code", "shipped"):
        begun, turns = drawn(source), allot(shares_of(source), 20, {}, source)
        has = begun[:, 0] == known
        for text in set(turns):
            assert (
                abs(sum(yes - 0.5 for yes, turn in zip(has.tolist(), turns, strict=True) if turn == text))
                <= 0.5
            )
        bare.bos_token = None
        assert (drawn(source)[has, 0] == bare.eos_token_id).all()
        bare.eos_token = None
        plain = drawn(source)
        assert torch.equal(begun[~has], plain[~has]) and torch.equal(begun[has, 1:], plain[has, :-1])
        bare.bos_token, bare.eos_token = "<s>", "</s>"


def test_the_seed_decides(tokenizer, short):
    def draw(seed):
        return calibration_tokens(short, tokenizer, sequences=8, length=32, seed=seed)

    state = torch.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(state, torch.get_rng_state())


def test_too_short_a_text_says_what_is_needed_and_there(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short a text")
    got = len(encode(tokenizer, path.read_text()))
    with pytest.raises(InputError, match=rf"at least 310 tokens.*short.txt. for 10 x 32, got {got}:"):
        calibration_tokens(path, tokenizer, sequences=10, length=32)


@pytest.mark.parametrize(("sequences", "length"), [(0, 32), (-1, 32), (4, 1), (4, 0)])
@pytest.mark.parametrize("source", ["calibration", "self"])
def test_sizes_that_make_no_sense(tokenizer, model, source, sequences, length):
    with pytest.raises(InputError, match=f"got {sequences} x {length}"):
        calibration_tokens(source, tokenizer, model=model, sequences=sequences, length=length)


def test_the_evaluated_text_is_refused_under_any_name(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = load_text("evaluation")
    (tmp_path / "copy.txt").write_text(text, "utf-8")
    (tmp_path / "part.txt").write_text(text[5000:40000], "utf-8")
    (tmp_path / "more.txt").write_text("Preface.\n\n" + text + "\n\nThe end.", "utf-8")
    (tmp_path / "link.txt").symlink_to(tmp_path / "copy.txt")
    small = {"sequences": 2, "length": 16}
    for source in ("evaluation", "copy.txt", tmp_path / "copy.txt", "part.txt", "more.txt", "link.txt"):
        with pytest.raises(InputError, match="which are the same; calibrate on another"):
            calibration_tokens(source, tokenizer, evaluated="evaluation", **small)
    (tmp_path / "code.txt").write_text(load_text("evaluation:code") + "\n\nThe end.", "utf-8")  # one of eight
    for source, judged in (
        ("calibration", "calibration"),
        ("code.txt", "kinds"),
        ("evaluation:code", "kinds"),
    ):
        with pytest.raises(InputError, match="which are the same"):
            calibration_tokens(source, tokenizer, evaluated=judged, **small)
    assert calibration_tokens("calibration", tokenizer, evaluated="copy.txt", **small).shape == (2, 16)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_self_needs_a_model(tokenizer):
    with pytest.raises(InputError, match="expected a model"):
        calibration_tokens("self", tokenizer, sequences=2, length=8)


def test_a_mixture_takes_turns(tokenizer, model, short, own_cache):
    """So that any part of the sequences holds every source."""
    options = dict(model=model, length=16, seed=3)
    mixed = calibration_tokens(f"{short}+self", tokenizer, sequences=5, **options)
    assert torch.equal(mixed[0::2], calibration_tokens(short, tokenizer, sequences=3, **options))
    assert torch.equal(mixed[1::2], calibration_tokens("self", tokenizer, sequences=2, **options))
    with pytest.raises(InputError, match="at least 2 sequences of the 2 texts in '.*short.txt.self', got 1"):
        calibration_tokens(f"{short}+self", tokenizer, sequences=1, **options)
    with pytest.raises(InputError, match="expected calibration text apart from the evaluated text"):
        calibration_tokens("self+evaluation", tokenizer, sequences=2, evaluated="evaluation", **options)


def test_shares_of_a_mixture(tmp_path, monkeypatch):
    found = shares_of("mine.txt+general")
    assert found["mine.txt"] == pytest.approx(0.5) and sum(found.values()) == pytest.approx(1.0)
    inside = SHIPPED | WRITTEN
    assert set(found) == {"mine.txt", *inside}
    for text, weight in inside.items():
        assert found[text] == pytest.approx(0.5 * weight / sum(inside.values()))
    assert shares_of("calibration:code") == {"calibration:code": 1.0}
    (tmp_path / "a+b").write_text("words")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general").write_text("words")
    assert len(shares_of("general")) > 1 and shares_of("./general") == {"./general": 1.0}, "a mixture's name wins"
    assert shares_of(tmp_path / "a+b") == {f"{tmp_path}/a+b": 1.0}, "a file may be called so"


def test_a_mixture_that_ships_has_every_kind(tokenizer, model, own_cache):
    assert [mixture for mixture in MIXTURES if WRITTEN.keys().isdisjoint(shares_of(mixture))] == ["shipped"]
    drawn = calibration_tokens("general", tokenizer, model=model, sequences=40, length=16, seed=1)
    counts = Counter(allot(shares_of("general"), 40, {}, ""))
    assert counts.total() == 40
    for text, count in counts.items():
        if text in SHIPPED:
            alone = calibration_tokens(text, tokenizer, sequences=count, length=16, seed=1).tolist()
            assert all(row in drawn.tolist() for row in alone), text


def test_a_part_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="'self:opening', no such file"):
        text_hashes("general+self:opening")


def test_sequences_are_allotted_by_share_and_never_beyond_the_room():
    assert allot({"a": 0.5, "b": 0.25, "c": 0.25}, 8, {}, "") == [*"abcaabca"], "they take turns"
    assert Counter(allot({"a": 0.98, "b": 0.01, "c": 0.01}, 10, {}, "")) == {"a": 8, "b": 1, "c": 1}, (
        "each gets one"
    )
    taken = allot({"a": 0.5, "b": 0.25, "c": 0.25}, 8, {"a": 2}, "")
    assert Counter(taken) == {"a": 2, "b": 3, "c": 3}, "others take over"
    assert {*allot(shares_of("general"), 4, {}, "general")} == {"calibration:questions", *list(SHIPPED)[:3]}
    with pytest.raises(InputError, match="at most 5 sequences of the 2 texts in 'mix', got 6"):
        allot({"a": 0.5, "b": 0.5}, 6, {"a": 2, "b": 3}, "mix")
