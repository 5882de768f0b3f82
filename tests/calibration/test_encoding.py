"""Token ids of a text, and the tokens with which it begins."""

from __future__ import annotations

import torch

from comp_lib.calibration.texts import encode, load_text, opening_tokens, start_token


def test_encode_is_the_text_and_nothing_more(tokenizer, caplog):
    text = load_text("evaluation")
    ids = encode(tokenizer, text)
    assert ids.dtype == torch.long
    assert ids.ndim == 1
    assert len(ids) > tokenizer.model_max_length  # which deserves no warning: windows are cut out of it
    assert not caplog.records
    assert tokenizer.decode(ids) == text
    assert tokenizer(text[:99])["input_ids"][0] == tokenizer.bos_token_id != ids[0]


def test_what_stands_before_a_text_is_asked_of_the_tokenizer(tokenizer, bare_tokenizer):
    assert opening_tokens(tokenizer).tolist() == [tokenizer.bos_token_id]
    assert opening_tokens(bare_tokenizer).tolist() == []


def test_a_reader_starts_with_the_start_token_else_with_the_end_token(bare_tokenizer):
    assert start_token(bare_tokenizer) == bare_tokenizer.bos_token_id
    bare_tokenizer.bos_token = None
    assert start_token(bare_tokenizer) == bare_tokenizer.eos_token_id
    bare_tokenizer.eos_token = None
    assert start_token(bare_tokenizer) is None
