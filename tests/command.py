"""The command line as tests call it."""

from __future__ import annotations

from typer.testing import CliRunner

from comp_lib.cli.app import app

# flags of a run on a tiny model, which is to be quick and not good
QUICK_FLAGS = (
    *("--sequences", "8"),
    *("--length", "24"),
    *("--multiple", "4"),
    *("--judged-on", "none"),
    *("--calibration", "calibration"),
)


def run(*arguments):
    """Call a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ran(*arguments):
    """Call a command in this process that must succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def content(folder):
    """The files in a folder and below: name -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(result, phrases):
    """A command ended with exit code 2 and one line, which says what was expected and holds these phrases."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("comp-lib: expected"), result.stderr
    for phrase in phrases:
        assert phrase in lines[0]
