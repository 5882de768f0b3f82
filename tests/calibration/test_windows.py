"""Windows: the same seed draws the same ones, they never overlap, and the evaluated text is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from comp_lib.calibration.defaults import USUAL_SEQUENCES
from comp_lib.calibration.mixtures import SHIPPED, allot, shares_of
from comp_lib.calibration.texts import encode, load_text
from comp_lib.calibration.windows import Calibration, calibration_tokens
from comp_lib.utils.errors import InputError


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama()


def test_windows_are_cut_from_the_text_and_never_overlap(tokenizer):
    length = 64
    span = 63  # the tokenizer begins each text with <s>
    ids = encode(tokenizer, load_text("calibration"))
    positions = {tuple(ids[i : i + span].tolist()): i for i in range(0, len(ids) - span + 1, span)}
    drawn = calibration_tokens("calibration", tokenizer, sequences=50, length=length)
    assert drawn.shape == (50, length)
    assert drawn.dtype == torch.long
    assert (drawn[:, 0] == tokenizer.bos_token_id).all()
    starts = [positions[tuple(row[1:].tolist())] for row in drawn]  # KeyError: not a window of the text
    assert len(set(starts)) == 50
    assert starts != sorted(starts)


def test_every_window_can_be_drawn_and_a_tokenizer_that_begins_with_nothing_adds_nothing(
    tokenizer, bare_tokenizer
):
    ids = encode(bare_tokenizer, load_text("calibration"))
    for reader, opening in ((tokenizer, 1), (bare_tokenizer, 0)):
        length = len(ids) // 3 + opening
        drawn = calibration_tokens("calibration", reader, sequences=3, length=length)[:, opening:]
        assert sorted(drawn.flatten().tolist()) == sorted(ids[: drawn.numel()].tolist())


def test_the_seed_decides(tokenizer, short_file):
    def draw(seed):
        return calibration_tokens(short_file, tokenizer, sequences=8, length=32, seed=seed)

    state = torch.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(state, torch.get_rng_state())


def test_too_short_a_text_says_what_is_needed_and_there(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short a text")
    count = len(encode(tokenizer, path.read_text()))
    with pytest.raises(InputError, match=rf"at least 310 tokens.*short.txt. for 10 x 32, got {count}:"):
        calibration_tokens(path, tokenizer, sequences=10, length=32)


@pytest.mark.parametrize(("sequences", "length"), [(0, 32), (-1, 32), (4, 1), (4, 0)])
@pytest.mark.parametrize("source", ["calibration", "self"])
def test_sizes_that_make_no_sense(tokenizer, model, source, sequences, length):
    wrong = sequences if sequences < 1 else length
    with pytest.raises(InputError, match=f"whole number above [01], got {wrong}:"):
        calibration_tokens(source, tokenizer, model=model, sequences=sequences, length=length)


def test_the_evaluated_text_is_refused_under_any_name(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = load_text("evaluation")
    (tmp_path / "copy.txt").write_text(text, "utf-8")
    (tmp_path / "part.txt").write_text(text[5000:40000], "utf-8")
    (tmp_path / "longer.txt").write_text("Preface.\n\n" + text + "\n\nThe end.", "utf-8")
    (tmp_path / "link.txt").symlink_to(tmp_path / "copy.txt")
    size = {"sequences": 2, "length": 16}
    for source in ("evaluation", "copy.txt", tmp_path / "copy.txt", "part.txt", "longer.txt", "link.txt"):
        with pytest.raises(InputError, match="which are the same: calibrate on another"):
            calibration_tokens(source, tokenizer, judged_on="evaluation", **size)
    code = load_text("evaluation:code")  # one of the eight kinds
    (tmp_path / "code.txt").write_text(code + "\n\nThe end.", "utf-8")
    for source, judged_on in (
        ("calibration", "calibration"),
        ("code.txt", "kinds"),
        ("evaluation:code", "kinds"),
    ):
        with pytest.raises(InputError, match="which are the same"):
            calibration_tokens(source, tokenizer, judged_on=judged_on, **size)
    assert calibration_tokens("calibration", tokenizer, judged_on="copy.txt", **size).shape == (2, 16)


# --- mixtures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["self", "general", "calibration+self:random"])
def test_text_that_a_model_writes_needs_one_and_is_called_as_it_was_asked_for(source, tokenizer):
    with pytest.raises(InputError, match="expected a model") as raised:
        calibration_tokens(source, tokenizer, sequences=2, length=8)
    assert f"for the calibration {source!r}" in str(raised.value)
    assert str(raised.value).count("'self'") == (source == "self")


def test_a_mixture_takes_turns(tokenizer, model, short_file, own_cache):
    """So that any part of the sequences holds every source."""
    options = dict(model=model, length=16, seed=3)
    mixed = calibration_tokens(f"{short_file}+self", tokenizer, sequences=5, **options)
    assert torch.equal(mixed[0::2], calibration_tokens(short_file, tokenizer, sequences=3, **options))
    assert torch.equal(mixed[1::2], calibration_tokens("self", tokenizer, sequences=2, **options))
    with pytest.raises(InputError, match="at least 2 sequences of the 2 texts in '.*short.txt.self', got 1"):
        calibration_tokens(f"{short_file}+self", tokenizer, sequences=1, **options)
    with pytest.raises(InputError, match="expected calibration text apart from the text that judges"):
        calibration_tokens("self+evaluation", tokenizer, sequences=2, judged_on="evaluation", **options)


def test_a_mixture_that_ships_has_every_kind(tokenizer, model, own_cache):
    drawn = calibration_tokens("general", tokenizer, model=model, sequences=40, length=16, seed=1).tolist()
    counts = Counter(allot(shares_of("general"), 40, {}, ""))
    assert counts.total() == 40
    for text_name, count in counts.items():
        if text_name in SHIPPED:
            alone = calibration_tokens(text_name, tokenizer, sequences=count, length=16, seed=1).tolist()
            assert all(row in drawn for row in alone), text_name


# --- a value ------------------------------------------------------------------------------------------------


def test_a_calibration_draws_what_calibration_tokens_draws(tokenizer, model, short_file, own_cache):
    calibration = Calibration(f"{short_file}+self", sequences=4, length=16, seed=3)
    arguments = dict(model=model, sequences=4, length=16, seed=3)
    expected = calibration_tokens(f"{short_file}+self", tokenizer, **arguments)
    assert torch.equal(calibration.tokens(tokenizer, model=model), expected)
    assert Calibration(short_file, length=4).tokens(tokenizer).shape == (USUAL_SEQUENCES, 4)
    with pytest.raises(InputError, match="which are the same"):
        Calibration("calibration", 4).tokens(tokenizer, judged_on="calibration")
    labels = []
    Calibration("self", 2, 8, seed=9).tokens(
        tokenizer, model=model, progress=lambda label, *_: labels.append(label)
    )
    assert set(labels) == {"writing text"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": 5}, "calibration to be the name or the path of a text, or a list of texts, got 5:"),
        ({"source": None}, "calibration to be the name or the path of a text, or a list of texts, got None:"),
        ({"sequences": 0}, "sequences as a whole number above 0, got 0"),
        ({"sequences": "8"}, "sequences as a whole number above 0, got '8'"),
        ({"sequences": True}, "sequences as a whole number above 0, got True"),
        ({"length": 1}, "length as a whole number above 1, got 1"),
        ({"length": 2.0}, "length as a whole number above 1, got 2.0"),
        ({"length": None}, "length as a whole number above 1, got None"),
        ({"seed": 1.0}, "seed to be a whole number from 0, got 1.0"),
        ({"seed": 2**70}, "seed to be a whole number"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused_in_one_line(values, message):
    with pytest.raises(InputError) as raised:
        Calibration(**values)
    assert f"expected {message}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_calibration_is_a_value():
    assert Calibration(Path("notes.txt")) == Calibration(source=Path("notes.txt"))
    assert len({Calibration(), Calibration("general", None, 256, 0)}) == 1
