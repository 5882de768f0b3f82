"""Texts: every source reads, every bad one is refused in words that help."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
from conftest import DATA

from comp_lib.calibration import texts as texts_module
from comp_lib.calibration.texts import KINDS, TEXT_SETS, encode, judging_texts, load_text
from comp_lib.utils.errors import InputError


def pieces(name: str) -> list[str]:
    return load_text(name).strip().split("\n\n\n")


@pytest.mark.parametrize("name", TEXT_SETS)
def test_shipped_texts_are_those_in_data(name):
    assert load_text(name) == (DATA / f"{name}.txt").read_text("utf-8")


def test_installed_texts_are_found_first(tmp_path, monkeypatch):
    (tmp_path / "calibration.txt").write_text("from the wheel")
    monkeypatch.setattr(texts_module, "DATA_FOLDERS", (tmp_path, *texts_module.DATA_FOLDERS))
    assert load_text("calibration") == "from the wheel"
    assert load_text("evaluation") != "from the wheel"


@pytest.mark.parametrize("name", ["calibration", "evaluation:code"])
def test_a_text_that_is_not_installed_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(texts_module, "DATA_FOLDERS", (tmp_path,))
    with pytest.raises(
        InputError, match=r"expected \S+\.txt, which comes with comp_lib, .*install comp-lib again"
    ):
        load_text(name)


def grams(name: str, size: int = 8) -> set[tuple[str, ...]]:
    text_words = re.findall(r"\w+", load_text(name).lower())
    return {tuple(text_words[start : start + size]) for start in range(len(text_words) - size + 1)}


def test_no_eight_words_in_a_row_stand_on_both_sides():
    """Of any kind: what calibrates says nothing of what judges."""
    calibration = set().union(*(grams(f"calibration:{kind}") for kind in KINDS))
    evaluation = set().union(*(grams(f"evaluation:{kind}") for kind in KINDS))
    assert len(calibration) > 50_000
    assert len(evaluation) > 20_000
    assert not calibration & evaluation


def test_prose_is_the_text_without_a_kind_and_an_unknown_kind_is_named():
    assert load_text("calibration:prose") == load_text("calibration")
    assert (
        load_text("evaluation:prose")
        == load_text("evaluation")
        == (DATA / "evaluation.txt").read_text("utf-8")
    )
    assert load_text("evaluation:code") == (DATA / "evaluation" / "code.txt").read_text("utf-8")
    with pytest.raises(InputError, match="calibration:cod'.*did you mean 'calibration:code'"):
        load_text("calibration:cod")


@pytest.mark.real
def test_shipped_texts_are_as_long_as_their_readme_says(real_model):
    table = (DATA / "README.md").read_text("utf-8")
    for side, min_tokens in (("calibration", 8_000), ("evaluation", 4_000)):
        for kind in KINDS:
            name = f"{side}:{kind}"
            file = f"{side}.txt" if kind == "prose" else f"{side}/{kind}.txt"
            tokens = len(encode(real_model[1], load_text(name)))
            text_words = len(load_text(name).split())
            assert tokens >= min_tokens
            assert f"| `{file}` | {len(pieces(name))} | {text_words:,} | {tokens:,} |" in table


@pytest.mark.parametrize("content", ["Grüße, 世界\n", "\ufeffwith a byte order mark"])
def test_a_file(tmp_path, content):
    path = tmp_path / "my.txt"
    path.write_text(content, "utf-8")
    assert load_text(path) == load_text(str(path)) == content.lstrip("\ufeff")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda path: None, ["no such file", "check the path"]),
        (lambda path: path.mkdir(), ["the folder", "name a file in it"]),
        (lambda path: path.write_text(""), ["empty"]),
        (lambda path: path.write_text(" \n\n"), ["empty"]),
        (lambda path: path.write_bytes(b"caf\xe9"), ["UTF-8", "0xe9", "position 3", "iconv"]),
        (lambda path: path.symlink_to(path), ["no such file"]),
    ],
    ids=["missing", "folder", "empty", "blank", "latin1", "loop"],
)
def test_bad_files(tmp_path, make, parts):
    path = tmp_path / "bad.txt"
    make(path)
    with pytest.raises(InputError) as raised:
        load_text(path)
    message = str(raised.value)
    assert all(part in message for part in ["expected", "got", "bad.txt", *parts]), message
    assert "\n" not in message


def test_a_name_that_is_no_text_is_refused_since_no_card_could_hold_it(tmp_path):
    path = tmp_path / "caf\udce9.txt"
    path.write_text("some text", "utf-8")
    with pytest.raises(
        InputError, match=r"name of a text that can be written as UTF-8, got .*caf\\udce9"
    ) as raised:
        load_text(path)
    assert "\n" not in str(raised.value)


def test_text_with_half_a_character_is_refused_before_it_is_encoded(tokenizer):
    with pytest.raises(InputError, match=r"text that can be written as UTF-8, got 'some caf\\udce9' in it"):
        encode(tokenizer, "some caf\udce9" + " and more" * 1000)
    with pytest.raises(InputError, match="expected text, got NoneType"):
        encode(tokenizer, None)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("notez.txt", "did you mean 'notes.txt'?"),
        ("sub/note.txt", "check the path; the current folder is {tmp}"),
        ("evaluation, notes.txt", "did you mean 'notes.txt'?"),
        ("Hello, world. A text of its own", "a text itself goes in a list: [text]"),
        ("two\nlines", "a text itself goes in a list: [text]"),
        ("The water cycle " * 500, "a text itself goes in a list: [text]"),
        ("nothing-like-it", "choose one of calibration, evaluation, kinds"),
    ],
)
def test_a_missing_file_gets_the_files_beside_it_and_a_name_the_names(tmp_path, monkeypatch, name, hint):
    (tmp_path / "notes.txt").write_text("some text", "utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(hint.format(tmp=tmp_path))):
        load_text(name)


def test_no_name_is_shown_as_it_was_given():
    with pytest.raises(InputError, match="name of a text, got '', no such file"):
        load_text("")


def test_every_kind_judges_under_one_name():
    texts = judging_texts("kinds")
    assert list(texts) == list(KINDS)
    assert texts["code"] == "evaluation:code"
    assert load_text("kinds") == "\n\n\n".join(map(load_text, texts.values()))
    assert judging_texts("evaluation:code") == {"evaluation:code": "evaluation:code"}


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(InputError, match="did you mean 'wikitext2'"):
        load_text("wikitext-2")


# --- WikiText-2 ---------------------------------------------------------------------------------------------


def replace_datasets(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, __spec__="here"))


@pytest.mark.parametrize(("name", "split"), [("wikitext2", "test"), ("wikitext2:train", "train")])
def test_wikitext_is_asked_for_and_joined_as_in_papers(monkeypatch, name, split):
    calls = []

    def load_dataset(path, subset, **options):
        calls.append((path, subset, options))
        return {"text": ["", " = Title = \n", "a\n"]}

    replace_datasets(monkeypatch, load_dataset)
    assert load_text(name) == "\n\n = Title = \n\n\na\n"
    assert calls == [("Salesforce/wikitext", "wikitext-2-raw-v1", {"split": split})]


def test_wikitext_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"expected the package datasets.*'comp-lib\[evaluate\]'"):
        load_text("wikitext2")


@pytest.mark.parametrize(
    "error", [ConnectionError("offline"), ValueError('Unknown split "x"'), FileNotFoundError("x")]
)
def test_wikitext_out_of_reach(monkeypatch, error):
    def load_dataset(*args, **options):
        raise error

    replace_datasets(monkeypatch, load_dataset)
    with pytest.raises(InputError) as raised:
        load_text("wikitext2:train")
    for part in ("wikitext2", "train", type(error).__name__, "pass a text file"):
        assert part in str(raised.value)
