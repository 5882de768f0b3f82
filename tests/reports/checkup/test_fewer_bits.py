"""The rival in fewer bits: rounded as a file holds it, judged on the same windows, and told in the box."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from comp_lib.checkpoints.export import export_gguf
from comp_lib.checkpoints.gguf.write import as_stored
from comp_lib.evaluation.by_kind import judge
from comp_lib.reports.checkup import dense_quality, fewer_bits
from comp_lib.reports.checkup.fewer_bits import FEW_BITS, ON_THE_GRID, FewerBits
from comp_lib.reports.checkup.recommendation import describe_bits


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(hidden_size=64, intermediate_size=64)  # two blocks a row: one would be turned in itself


@pytest.fixture(scope="module")
def windows_by_text():
    generator = torch.Generator().manual_seed(0)
    return {kind: torch.randint(512, (8, 12), generator=generator) for kind in ("one", "two")}


@torch.no_grad()
def rounded(model):
    small = copy.deepcopy(model)
    for name, weight in small.named_parameters():
        weight.copy_(as_stored(name, weight, FEW_BITS))
    return small


def test_price_and_sizes_are_those_of_the_files(model, windows_by_text, own_cache, tokenizer, tmp_path):
    bits = fewer_bits(model, windows_by_text)
    expected = judge(rounded(model), windows_by_text, model)
    assert bits.increase == pytest.approx(expected.mean.increase, abs=1e-6)
    assert (bits.low, bits.high) == pytest.approx(expected.intervals.increase, abs=1e-6)
    assert bits.moved > ON_THE_GRID
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for kind, megabytes in (("q4_1", bits.megabytes), ("q8_0", bits.megabytes_before)):
        file = export_gguf(tmp_path / "model", tmp_path / f"{kind}.gguf", kind)
        names_and_words = file.stat().st_size / 1e6 - megabytes
        assert 0 < names_and_words < 0.1
    assert bits.equal_ratio == pytest.approx(1 - 20 / 34)  # bytes of a block of 32


def test_weights_that_were_in_4_bits_before_pay_as_others_do(model, windows_by_text, own_cache):
    before = rounded(model)
    bits = fewer_bits(before, windows_by_text)
    assert bits.moved < ON_THE_GRID / 10
    assert bits.was_rounded
    assert not fewer_bits(model, windows_by_text).was_rounded
    judged_again = judge(rounded(before), windows_by_text, before).mean
    assert abs(judged_again.increase) < 1e-5
    turned = copy.deepcopy(before)
    distance = size = 0.0
    for name, weight in turned.named_parameters():
        weight.data = as_stored(name, weight.data.roll(16, -1), FEW_BITS).roll(-16, -1)
        if "proj" in name:
            old = before.get_parameter(name)
            distance += float((weight - old).detach().square().sum())
            size += float(old.detach().square().sum())
    assert bits.increase == pytest.approx(judge(turned, windows_by_text, before).mean.increase, abs=1e-6)
    fresh = fewer_bits(model, windows_by_text).moved
    assert (distance / size) ** 0.5 == pytest.approx(fresh, rel=0.2)  # as weights that lay on no grid


def test_rows_that_are_no_complete_blocks_have_no_price(tiny_llama, windows_by_text, own_cache):
    assert fewer_bits(tiny_llama(intermediate_size=48), windows_by_text) is None


def test_the_dense_model_comes_from_the_cache(model, windows_by_text, own_cache, monkeypatch):
    first = dense_quality(model, windows_by_text)
    monkeypatch.setattr(model, "forward", None)
    monkeypatch.setattr(model.model, "forward", None)
    assert dense_quality(model, windows_by_text) == first
    assert first.texts["one"].token_count == 8 * 11


@pytest.mark.parametrize(
    ("moved", "low", "phrase"),
    [
        (
            0.07,
            0.08,
            "97 MB, in 8 bits (q8_0) 143 MB. Rounding its weights to 4 bits costs 0.10 (0.08",
        ),
        (
            0.07,
            math.nan,
            "costs 0.10 nats per token. To reach 97 MB in 8 bits, 41% of the decoder would have to go.",
        ),
        (
            0.001,
            0.08,
            "rounded again on a shifted grid: 0.10 (0.08 to 0.12) nats per token.",
        ),
        (0.001, 0.08, "rounded to 4 bits before, so 4 bits cost nothing more."),
    ],
)
def test_the_box_tells_price_and_sizes(moved, low, phrase):
    bits = FewerBits(0.1, low, 0.12, megabytes=97.2, megabytes_before=142.9, moved=moved)
    [line] = describe_bits(bits)
    assert phrase in line
    assert ("rounded to 4 bits before" in line) == (moved < ON_THE_GRID)
