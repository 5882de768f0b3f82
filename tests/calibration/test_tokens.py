"""Calibration: the same seed gives the same tokens, windows never overlap, and the evaluated text is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from comp_lib.calibration.text import encode, load_text
from comp_lib.calibration.tokens import SAMPLE_BATCH, calibration_tokens, check_source, sample_from_model, sources
from comp_lib.errors import InputError


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama()


def test_windows_are_cut_from_the_text_and_never_overlap(tokenizer):
    length = 64
    ids = encode(tokenizer, load_text("calibration"))
    windows = {tuple(ids[i : i + length].tolist()): i for i in range(0, len(ids) - length + 1, length)}
    drawn = calibration_tokens("calibration", tokenizer, sequences=50, length=length)
    assert drawn.shape == (50, length) and drawn.dtype == torch.long
    starts = [windows[tuple(row.tolist())] for row in drawn]  # KeyError: not a window of the text
    assert len(set(starts)) == 50
    assert starts != sorted(starts)


def test_every_window_can_be_drawn(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(load_text("calibration")[:3000])
    ids = encode(tokenizer, path.read_text())
    length = len(ids) // 3
    drawn = calibration_tokens(path, tokenizer, sequences=3, length=length)
    assert sorted(drawn.flatten().tolist()) == sorted(ids[: 3 * length].tolist())


def test_the_seed_decides(tokenizer):
    def draw(seed):
        return calibration_tokens("calibration", tokenizer, sequences=8, length=32, seed=seed)

    state = torch.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(state, torch.get_rng_state())


def test_too_short_a_text_says_what_is_needed_and_there(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short a text")
    got = len(encode(tokenizer, path.read_text()))
    with pytest.raises(InputError, match=rf"at least 320 tokens.*\(10 x 32\), got {got} from .*short.txt"):
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
    with pytest.raises(InputError, match="which are the same"):
        calibration_tokens("calibration", tokenizer, evaluated="calibration", **small)
    assert calibration_tokens("calibration", tokenizer, evaluated="copy.txt", **small).shape == (2, 16)


# --- the model's own text ---------------------------------------------------------------------------------------------


def test_self_needs_a_model(tokenizer):
    with pytest.raises(InputError, match="expected a model"):
        calibration_tokens("self", tokenizer, sequences=2, length=8)


def test_self_is_deterministic_and_leaves_the_global_state_alone(tokenizer, model):
    state = torch.get_rng_state()
    one = calibration_tokens("self", tokenizer, model=model, sequences=3, length=12, seed=5)
    two = calibration_tokens("self", tokenizer, model=model, sequences=3, length=12, seed=5)
    other = calibration_tokens("self", tokenizer, model=model, sequences=3, length=12, seed=6)
    assert torch.equal(state, torch.get_rng_state())
    assert one.shape == (3, 12) and torch.equal(one, two) and not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in one}) == 3


def test_self_starts_with_the_start_token(tokenizer, model):
    class Bare:
        bos_token_id = eos_token_id = None

    class NoStart(Bare):
        eos_token_id = 1

    assert (sample_from_model(model, tokenizer, 4, 3)[:, 0] == tokenizer.bos_token_id).all()
    assert (sample_from_model(model, NoStart, 4, 3)[:, 0] == 1).all()
    assert len(sample_from_model(model, Bare, 4, 3)[:, 0].unique()) > 1


def test_self_follows_the_model_without_its_cache(tokenizer, model):
    """Against brute force: the same draws from logits that are computed anew for each position."""
    ids = sample_from_model(model, tokenizer, 8, 40, seed=2)
    generator = torch.Generator().manual_seed(2)
    torch.randint(512, (8, 1), generator=generator)  # the first token, which the tokenizer overrules
    expected = torch.full((8, 1), tokenizer.bos_token_id)
    with torch.no_grad():
        for _ in range(39):
            probabilities = model(expected, use_cache=False).logits[:, -1].softmax(-1)
            expected = torch.cat([expected, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    assert torch.equal(ids, expected)


def test_self_samples_from_the_whole_distribution(tokenizer, model):
    """Frequencies of the second token against the probabilities of the model, at temperature 1."""
    rows = 4000
    drawn = sample_from_model(model, tokenizer, rows, 2)[:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1].softmax(-1)
    distance = (F.one_hot(drawn, 512).float().mean(0) - expected).abs().sum() / 2
    sharper = (expected**2 / (expected**2).sum() - expected).abs().sum() / 2  # temperature 0.5, for the scale of it
    assert distance < 0.15 < sharper


def test_self_goes_on_after_the_end_of_a_text(tokenizer, tiny_llama):
    model = tiny_llama(eos_token_id=1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = 100 * model.model.norm.weight.sign()
    model.generation_config.max_length = 4
    ids = sample_from_model(model, tokenizer, 2, 12)
    assert ids.shape == (2, 12) and (ids == 1).any()


def test_self_reports_progress_up_to_the_end(tokenizer, model):
    calls = []
    sample_from_model(
        model, tokenizer, SAMPLE_BATCH + 2, 4, progress=lambda what, done, total: calls.append((done, total))
    )
    total = (SAMPLE_BATCH + 2) * 4
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_the_sample_can_be_trained_on(tokenizer, tiny_llama):
    model = tiny_llama()
    ids = sample_from_model(model, tokenizer, 2, 6)
    model(input_ids=ids, labels=ids).loss.backward()  # an inference tensor could not be saved for backward
    assert torch.isfinite(model.model.embed_tokens.weight.grad).all()


def test_a_mixture_takes_turns(tokenizer, model, tmp_path):
    """So that any part of the sequences holds every source."""
    options = dict(model=model, length=16, seed=3)
    mixed = calibration_tokens("calibration+self", tokenizer, sequences=5, **options)
    assert torch.equal(mixed[0::2], calibration_tokens("calibration", tokenizer, sequences=3, **options))
    assert torch.equal(mixed[1::2], calibration_tokens("self", tokenizer, sequences=2, **options))
    with pytest.raises(InputError, match="each of the 2 texts in 'calibration.self', got 1 in all"):
        calibration_tokens("calibration+self", tokenizer, sequences=1, **options)
    with pytest.raises(InputError, match="expected calibration text apart from the evaluated text"):
        calibration_tokens("self+evaluation", tokenizer, sequences=2, evaluated="evaluation", **options)


def test_a_file_may_have_a_plus_sign_in_its_name(tmp_path):
    path = tmp_path / "c+self"
    path.write_text("words")
    assert sources(path) == (path,)
    check_source(path)
    with pytest.raises(InputError, match="no such file"):
        check_source(f"self+{tmp_path / 'none'}")
