"""The sentence of an InputError and who sees it, and what `refusing` makes of an exception.

What it makes of the errors of each foreign call is in test_foreign_calls.py.
"""

from __future__ import annotations

import copy
import json
import traceback

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from comp_lib.utils.errors import (
    BUGS,
    DEBUG_VARIABLE,
    OUT_OF_MEMORY,
    PACKAGE,
    RUST_PANIC,
    InputError,
    as_printable,
    in_debug_mode,
    is_bug_of_ours,
    refusing,
)

OURS = str(PACKAGE / "statistics" / "planted.py")
FOREIGN = str(PACKAGE.parent / "site-packages" / "planted.py")


def raise_in(file: str, error: BaseException) -> None:
    """Raises `error` by a line that stands in `file`."""
    exec(compile("raise error", file, "exec"), {"error": error})


def call_through(file: str, function, *arguments):
    """Calls a function by a line that stands in `file`."""
    exec(compile("function(*arguments)", file, "exec"), {"function": function, "arguments": arguments})


# --- Bugs of ours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BUGS)
@pytest.mark.parametrize(("file", "is_ours"), [(OURS, True), (FOREIGN, False)], ids=["ours", "foreign"])
def test_a_mistake_in_a_program_is_ours_where_a_line_of_ours_raises_it(kind, file, is_ours):
    error = kind("planted")
    with pytest.raises(kind):
        raise_in(file, error)
    assert is_bug_of_ours(error) is is_ours


@pytest.mark.parametrize(("caller", "raiser", "is_ours"), [(OURS, FOREIGN, False), (FOREIGN, OURS, True)])
def test_the_line_that_raises_decides_and_not_its_caller(caller, raiser, is_ours):
    error = KeyError("planted")
    with pytest.raises(KeyError):
        call_through(caller, raise_in, raiser, error)
    assert is_bug_of_ours(error) is is_ours


@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError, MemoryError])
def test_an_error_that_data_can_cause_is_no_bug(kind):
    error = kind("planted")
    with pytest.raises(kind):
        raise_in(OURS, error)
    assert not is_bug_of_ours(error)


def test_an_error_that_nobody_raised_is_no_bug():
    assert not is_bug_of_ours(KeyError("planted"))


# --- What `refusing` makes of an exception ------------------------------------------------------------------


def refused(error: BaseException) -> None:
    with refusing("a model", "some/folder", "choose another"):
        raise_in(FOREIGN, error)


@pytest.mark.parametrize(
    "error",
    [Exception("bare"), OSError("bare"), KeyError("bare"), type(RUST_PANIC, (BaseException,), {})("bare")],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_foreign_code_is_the_middle_of_the_sentence(error):
    with pytest.raises(InputError) as raised:
        refused(error)
    middle = f"'some/folder': {type(error).__name__}: {error}"
    assert str(raised.value) == f"expected a model, got {middle}: choose another"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        InputError(expected="a number", got="none"),
        KeyboardInterrupt(),
        SystemExit(3),
        type(OUT_OF_MEMORY, (RuntimeError,), {})("planted"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_mistake_of_a_file_passes(error):
    with pytest.raises(type(error)) as raised:
        refused(error)
    assert raised.value is error
    assert error.__cause__ is None


def test_a_long_message_is_cut():
    with pytest.raises(InputError) as raised:
        refused(ValueError("x" * 100_000))
    assert "x" * 500 in str(raised.value)
    assert len(str(raised.value)) < 600


# --- One line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\tand  a tab", "two lines and a tab"),
        ("  at both ends\r\n", "at both ends"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),  # would colour a terminal, and ring its bell
        ("half of \udc9f", "half of \\udc9f"),  # cannot be printed
        ("right to left: \u202eabc", "right to left: \\u202eabc"),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
        ("C:\\new", "C:\\new"),
        ("", ""),
    ],
)
def test_a_text_as_one_line(text, line):
    assert as_printable(text) == line
    assert as_printable(line) == line


def test_every_part_of_a_sentence_is_printable():
    error = InputError(expected="a\nnumber", got="\x1b[0m", hint="write\n\nanother")
    assert str(error) == "expected a number, got \\x1b[0m: write another"


# --- In a notebook ------------------------------------------------------------------------------------------


@pytest.fixture
def refusal():
    """An InputError with the error of foreign code that caused it."""
    with pytest.raises(InputError) as raised, refusing("a model", "config.json", "save it anew"):
        json.loads("{")
    return raised.value


@pytest.fixture
def shown(tmp_path, capsys):
    """What a notebook shows of an error."""
    without_history = Config(HistoryManager={"enabled": False})
    shell = InteractiveShell(ipython_dir=str(tmp_path), config=without_history)

    def show(error: Exception) -> str:
        shell.showtraceback((type(error), error, error.__traceback__))
        return capsys.readouterr().out.strip()

    return show


@pytest.mark.parametrize("value", [None, "", "0"])
def test_a_notebook_shows_the_sentence(monkeypatch, refusal, shown, value):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(DEBUG_VARIABLE, value)
    assert not in_debug_mode()
    assert shown(refusal) == f"InputError: {refusal}"


def test_a_notebook_shows_the_cause_where_bugs_are_looked_for(monkeypatch, refusal, shown):
    monkeypatch.setenv("COMP_LIB_DEBUG", "1")
    assert in_debug_mode()
    text = shown(refusal)
    assert text == "".join(traceback.format_exception(refusal)).strip()
    assert text.index("JSONDecodeError: ") < text.index("direct cause") < text.index(f"InputError: {refusal}")


def test_an_input_error_passes_from_process_to_process_with_its_three_parts():
    error = InputError(expected="a number", got="abc", hint="write another")
    copied = copy.copy(error)  # by what also passes it between processes
    assert str(copied) == str(error) == "expected a number, got abc: write another"
    assert (copied.expected, copied.got, copied.hint) == ("a number", "abc", "write another")
