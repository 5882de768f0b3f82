"""The command line as tests call it."""

from __future__ import annotations

from typer.testing import CliRunner

from comp_lib.cli.app import app

# of a run on a tiny model, which is to be quick and not good
FEW = (
    "--sequences",
    "8",
    "--length",
    "24",
    "--multiple",
    "4",
    "--evaluate",
    "none",
    "--calibration",
    "calibration",
)


def run(*arguments):
    """Call a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ran(*arguments):
    """The same, of a command that succeeds."""
    done = run(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def content(folder):
    """What lies in a folder and below: name -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done, words):
    """It ended with one line that says what was expected, and these words."""
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("comp-lib: expected"), done.stderr
    for word in words:
        assert word in lines[0]
