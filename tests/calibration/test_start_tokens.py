"""Start tokens of several texts: half of all windows get one, however few windows each text has."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from comp_lib.calibration.mixtures import allot, shares_of
from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import calibration_tokens


@pytest.mark.parametrize("windows_of_each", [1, 2, 3])
def test_texts_take_turns_at_who_has_one_window_more_with_a_start_token(
    windows_of_each, bare_tokenizer, tmp_path
):
    """Of texts with one window each every other one gets a start token: not all of them, and not none."""
    text = load_text("calibration")
    paths = [tmp_path / f"{number}.txt" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_text(text[3000 * number : 3000 * (number + 1)], "utf-8")
    source = "+".join(map(str, paths))
    ids = calibration_tokens(source, bare_tokenizer, sequences=4 * windows_of_each, length=16)
    started = ids[:, 0] == bare_tokenizer.bos_token_id
    assert int(started.sum()) == 2 * windows_of_each
    if windows_of_each == 1:
        assert started.tolist() == [True, False, True, False]


def test_half_of_each_text_begins_as_a_reader_begins(bare_tokenizer, short_file):
    """With the start token, else the end token."""
    draw = partial(calibration_tokens, tokenizer=bare_tokenizer, sequences=20, length=16)
    for source in (short_file, f"{short_file}+calibration:code", "shipped"):
        bare_tokenizer.bos_token = "<s>"
        bare_tokenizer.eos_token = "</s>"
        ids = draw(source)
        turns = allot(shares_of(source), 20, {}, source)
        is_started = ids[:, 0] == bare_tokenizer.bos_token_id
        for text_name in set(turns):
            flags = [flag for flag, turn in zip(is_started.tolist(), turns, strict=True) if turn == text_name]
            assert abs(sum(flags) - len(flags) / 2) <= 0.5
        bare_tokenizer.bos_token = None
        assert (draw(source)[is_started, 0] == bare_tokenizer.eos_token_id).all()
        bare_tokenizer.eos_token = None
        plain = draw(source)
        assert torch.equal(ids[~is_started], plain[~is_started])
        assert torch.equal(ids[is_started, 1:], plain[is_started, :-1])


def test_windows_that_the_model_writes_begin_so_already(bare_tokenizer, short_file, tiny_llama, own_cache):
    draw = partial(calibration_tokens, tokenizer=bare_tokenizer, model=tiny_llama(), sequences=20, length=16)
    start = bare_tokenizer.bos_token_id
    assert draw(f"{short_file}+self")[:, 0].eq(start).tolist() == [False, True] * 10
    assert start in draw(f"{short_file}+self:random")[:, 0], "a random token is no start token"


def test_bare_texts_get_no_start_tokens(bare_tokenizer):
    ids = calibration_tokens("calibration+calibration:code", bare_tokenizer, sequences=20, length=16)
    assert bare_tokenizer.bos_token_id not in ids[:, 0]
