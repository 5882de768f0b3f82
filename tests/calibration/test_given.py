"""Texts in memory as calibration: a list, or a column of a data set."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pandas
import pytest
import torch

from comp_lib.calibration.mixtures import text_hashes
from comp_lib.calibration.texts import load_text
from comp_lib.calibration.windows import Calibration, calibration_tokens
from comp_lib.checkpoints.card import calibration_hashes
from comp_lib.checkpoints.from_disk.prune_model import prune_model
from comp_lib.utils.errors import InputError

TEXTS = load_text("calibration").split("\n\n")[:40]


class Column(Sequence):
    """As `datasets` has it: texts that are read when they are asked for."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]


@pytest.mark.parametrize("kind", [list, tuple, Column, pandas.Series])
def test_texts_in_memory_are_read_as_a_file_with_empty_lines_between_them(kind, tokenizer, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(TEXTS), "utf-8")
    size = {"sequences": 6, "length": 24, "seed": 3}
    expected = calibration_tokens(path, tokenizer, **size)
    assert torch.equal(calibration_tokens(kind(TEXTS), tokenizer, **size), expected)
    calibration = Calibration(kind(TEXTS), **size)
    assert torch.equal(calibration.tokens(tokenizer), expected)
    assert text_hashes(calibration.source) == text_hashes(path)


def test_a_tokenizer_without_a_start_token_gets_one_before_every_other_window(bare_tokenizer):
    drawn = calibration_tokens(TEXTS, bare_tokenizer, sequences=6, length=24)
    assert (drawn[:, 0] == bare_tokenizer.bos_token_id).tolist() == [True, False] * 3


def test_a_calibration_of_texts_is_a_value_that_prints_in_a_line():
    calibration = Calibration(Column(TEXTS), sequences=6)
    assert repr(calibration) == "Calibration(source=40 texts in memory, sequences=6, length=256, seed=0)"
    assert calibration == pickle.loads(pickle.dumps(calibration)) == Calibration(list(TEXTS), sequences=6)
    assert hash(calibration) != hash(Calibration(TEXTS[:1], sequences=6))
    assert "1 text in memory" in repr(Calibration(["a text"]))


@pytest.mark.usefixtures("own_cache")
def test_a_model_is_pruned_on_texts_in_memory_and_its_card_says_so(parent, tmp_path):
    calibration = Calibration(TEXTS, sequences=6, length=24)
    options = {"multiple": 4, "judged_on": None, "preset": "stock"}
    verdict = prune_model(parent, tmp_path / "small", calibration=calibration, **options)
    card = (verdict.path / "README.md").read_text("utf-8")
    assert "Calibrated on 6 x 24 tokens of 40 texts in memory, drawn with seed 0." in card
    assert "Made by" not in card, "no command has these texts"
    assert calibration_hashes(verdict.path) == text_hashes(calibration.source)


@pytest.mark.parametrize(
    ("texts", "phrase"),
    [
        ([], "to be a list of texts with words in it, got an empty list:"),
        (["", " \n"], "to be a list of texts with words in it, got 2 empty ones:"),
        ([*TEXTS, 3], "to be a list of texts, got int as {name}[40]: take the column"),
        ([None], "to be a list of texts, got NoneType as {name}[0]: take the column"),
        (Column([{"text": "a"}]), "to be a list of texts, got dict as {name}[0]: take the column"),
        ([["a"]], "to be a list of texts, got list as {name}[0]: take the column"),
        (["half of \udc9f"], "{name}[0] that can be written as UTF-8"),
        ({"text": ["a"]}, "to be one column of texts, got a dict of several: name the column"),
        (pandas.DataFrame({"text": ["a"]}), "to be one column of texts, got a DataFrame of several"),
        (pandas.Series([1, 2]), "to be a list of texts, got int as {name}[0]: take the column"),
        (iter(TEXTS), "to be the name or the path of a text, or a list of texts, got <"),
        (b"text", "to be the name or the path of a text, or a list of texts, got b'text'"),
    ],
    ids=[
        "empty",
        "blank",
        "number",
        "none",
        "dicts",
        "lists",
        "surrogate",
        "mapping",
        "frame",
        "numbers",
        "iterator",
        "bytes",
    ],
)
def test_what_is_no_list_of_texts_is_refused_by_the_name_of_the_argument(texts, phrase, tmp_path):
    calls = {
        "calibration": [lambda: Calibration(texts), lambda: prune_model("m", tmp_path, calibration=texts)],
        "source": [lambda: calibration_tokens(texts, None)],
    }
    for name, call_list in calls.items():
        for call in call_list:
            with pytest.raises(InputError) as error:
                call()
            assert str(error.value).startswith(f"expected {name}")
            assert phrase.format(name=name) in str(error.value)
            assert "\n" not in str(error.value)


@pytest.mark.usefixtures("own_cache")
def test_texts_that_are_too_short_are_refused(tokenizer, parent, tmp_path):
    phrase = "at least 144 tokens of calibration text in '2 texts in memory' for 6 x 24, got"
    calibration = Calibration(["A short text.", "Another."], sequences=6, length=24)
    for call in (
        lambda: calibration.tokens(tokenizer),
        lambda: prune_model(parent, tmp_path / "small", calibration=calibration, multiple=4),
    ):
        with pytest.raises(InputError, match=phrase.replace("144", "(138|144)")):
            call()
    assert not (tmp_path / "small").exists()


def test_texts_that_judge_do_not_calibrate(tokenizer):
    with pytest.raises(InputError, match="apart from the text that judges, got '1 text in memory'"):
        calibration_tokens([load_text("evaluation")], tokenizer, judged_on="evaluation")
