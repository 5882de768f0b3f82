"""Shares: which texts a source has, and how many sequences each of them gets."""

from __future__ import annotations

from collections import Counter

import pytest

from comp_lib.calibration.mixtures import (
    MIXTURES,
    SHIPPED,
    WRITTEN,
    allot,
    sequence_limits,
    shares_of,
    text_hashes,
    texts_of,
)
from comp_lib.utils.errors import InputError


def test_shares_of_a_mixture(tmp_path, monkeypatch):
    shares = shares_of("mine.txt+general")
    assert shares["mine.txt"] == pytest.approx(0.5)
    assert sum(shares.values()) == pytest.approx(1.0)
    weights = SHIPPED | WRITTEN
    assert set(shares) == {"mine.txt", *weights}
    for text_name, weight in weights.items():
        assert shares[text_name] == pytest.approx(0.5 * weight / sum(weights.values()))
    assert shares_of("calibration:code") == {"calibration:code": 1.0}
    (tmp_path / "a+b").write_text("words")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general").write_text("words")
    assert len(shares_of("general")) > 1, "a mixture's name wins"
    assert shares_of("./general") == {"./general": 1.0}
    assert shares_of(tmp_path / "a+b") == {f"{tmp_path}/a+b": 1.0}, "a file may be called so"


def test_one_mixture_alone_needs_no_model():
    without_model = [name for name in MIXTURES if WRITTEN.keys().isdisjoint(shares_of(name))]
    assert without_model == ["shipped"]


def test_a_part_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match=r"write \+ between two texts: 'general\+self'"):
        texts_of("general, self")
    with pytest.raises(InputError, match="'self:opening', no such file"):
        text_hashes("general+self:opening")


def test_texts_take_turns():
    assert allot({"a": 0.5, "b": 0.25, "c": 0.25}, 8, {}, "") == [*"abcaabca"]


def test_each_text_of_a_source_gets_a_sequence():
    turns = allot({"a": 0.98, "b": 0.01, "c": 0.01}, 10, {}, "")
    assert Counter(turns) == {"a": 8, "b": 1, "c": 1}


def test_others_take_over_from_a_text_that_is_too_short():
    turns = allot({"a": 0.5, "b": 0.25, "c": 0.25}, 8, {"a": 2}, "")
    assert Counter(turns) == {"a": 2, "b": 3, "c": 3}
    with pytest.raises(InputError, match="at most 5 sequences of the 2 texts in 'mix', got 6"):
        allot({"a": 0.5, "b": 0.5}, 6, {"a": 2, "b": 3}, "mix")


def test_few_sequences_of_a_mixture_that_ships_are_of_its_largest_texts():
    turns = allot(shares_of("general"), 4, {}, "general")
    assert {*turns} == {"calibration:questions", *list(SHIPPED)[:3]}


def test_only_a_mixture_is_limited_by_what_ships():
    """A text alone, or a file, says that it is too short. What is written stays in proportion to the rest."""
    assert sequence_limits({"calibration": 1.0}, {"calibration": 3}) == {}
    assert sequence_limits(shares_of("calibration+mine.txt"), {"calibration": 3, "mine.txt": 5}) == {
        "calibration": 3
    }
    windows = dict.fromkeys(SHIPPED, 10)
    limits = sequence_limits(shares_of("general+mine.txt"), windows | {"mine.txt": 5})
    assert limits == windows | dict.fromkeys(WRITTEN, round(10 * len(SHIPPED) / sum(SHIPPED.values())))
