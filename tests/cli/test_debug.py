"""`--debug`: a refusal shows where it comes from, and stays a refusal."""

from __future__ import annotations

import pytest
from command import QUICK_FLAGS, refused, run

from comp_lib.cli.app import COMMANDS
from comp_lib.utils.errors import DEBUG_VARIABLE

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The variable that the flag sets is taken back after each test."""
    monkeypatch.setenv(DEBUG_VARIABLE, "0")


@pytest.mark.parametrize("position", [0, 1, 4], ids=["before the command", "after it", "at the end"])
def test_debug_shows_the_cause_and_then_the_line(parent, tmp_path, position):
    (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
    arguments = ["evaluate", parent, "--judged-on", tmp_path / "latin.txt"]
    refused(run(*arguments), ["UnicodeDecodeError"])
    arguments.insert(position, "--debug")
    result = run(*arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert lines[0] == "Traceback (most recent call last):"
    assert any("in load_text" in line for line in lines)
    cause = next(number for number, line in enumerate(lines) if line.startswith("UnicodeDecodeError: "))
    refusal = next(number for number, line in enumerate(lines) if "InputError: expected" in line)
    assert cause < refusal < len(lines) - 1
    assert [line for line in lines if line.startswith("comp-lib: ")] == lines[-1:]
    assert lines[-1].startswith("comp-lib: expected readable text in UTF-8")


def test_debug_of_what_the_system_refuses(parent, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("comp_lib.checkpoints.load.load_model", fail)
    result = run("inspect", parent, "--debug")
    assert result.exit_code == 2
    assert "in fail" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "comp-lib: expected the system to allow it, got [Errno 28]"
    )


def test_every_command_takes_debug(parent, tmp_path):
    """After it as before it: what is refused is another thing."""
    for command in COMMANDS:
        result = run(command.__name__, "--no-such-flag", "--debug")
        assert result.exit_code == 2
        assert "no-such-flag" in result.stderr
        assert "--debug" not in result.stderr
    assert run("doctor", "--debug").exit_code in (0, 1)


def test_debug_changes_nothing_for_a_command_that_succeeds(parent, tmp_path):
    result = run("prune", parent, "--out", tmp_path / "small", *QUICK_FLAGS, "--debug")
    assert result.exit_code == 0
    assert "Traceback" not in result.output
