"""Beginnings and ends: what help imports, an output that nobody takes, a run that says that it goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from inspect import signature
from itertools import chain

import pytest
from command import QUICK_FLAGS, content, ran, run
from rich.console import Console

from comp_lib.calibration.texts import KINDS
from comp_lib.cli import console
from comp_lib.cli.prune import prune
from comp_lib.pruning.methods import METHODS
from comp_lib.pruning.settings import DEFAULTS, PRESETS

pytestmark = pytest.mark.slow


def test_help_imports_nothing_heavy():
    code = "import sys; from comp_lib.cli.app import app; [app([*command, '--help'], standalone_mode=False) "
    code += "for command in ([], ['prune'], ['compare'])]; "
    code += "print([name for name in ('torch', 'transformers', 'numpy', 'pandas') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--scheduler" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_help_of_prune_has_four_groups_and_names_what_is_in_the_tables():
    text = " ".join(re.sub("[│╭╮╰╯─*]", " ", ran("prune", "--help").output).split())
    groups = [text.index(f" {name} --") for name in ("Options", "Quality", "Resources", "Research")]
    flags = [text.index(f"--{name}") for name in ("out", "preset", "dtype", "method")]
    assert sorted(groups + flags) == list(chain(*zip(groups, flags, strict=True))), (
        "a flag after each heading"
    )
    assert text.index("--help") < groups[1]
    missing = [name for name in (*METHODS, *PRESETS) if not re.search(rf"[ (]{name}[,;. ]", text)]
    assert not missing
    assert "(default: tailored; for baselines stock, or their own widths)." in text
    assert {name: signature(prune).parameters[name].default for name in DEFAULTS} == DEFAULTS


@pytest.mark.skipif(os.name == "nt", reason="closes a pipe as POSIX does")
def test_a_closed_output_leaves_no_traceback(python):
    """From the start, and by a reader that has gone."""
    program = [sys.executable, "-m", "comp_lib", "--help"]
    first = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *program], stderr=subprocess.PIPE, text=True)
    reader, writer = os.pipe()
    os.close(reader)
    second = subprocess.run(
        [*python, "-m", "comp_lib", "doctor"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert first.stderr == second.stderr == ""
    assert first.returncode in (0, 1, 2)
    assert second.returncode == 1  # it did not get its words out


GRID = ["--methods", "magnitude", "--ratios", "0.2", "--seeds", "1", "--sequences", "8", "--length", "24"]
GRID += ["--multiple", "4", "--window-count", "2", "--window-length", "32"]


@pytest.mark.parametrize(("command", "flags"), [("prune", QUICK_FLAGS), ("compare", GRID)])
def test_ctrl_c_in_a_run_that_goes_on_says_so(command, flags, parent, tmp_path, monkeypatch):
    def press(line, err):
        if line.startswith(("pruning: 1 of", "runs: 0 of")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(console, "echo", press)
        stopped = run(command, parent, "--out", tmp_path / "out", *flags)
    assert stopped.exit_code == 130
    assert "stays, and the same command goes on from there" in stopped.stderr
    if command == "prune":  # how `compare` goes on: test_grid.py
        for out in (tmp_path / "out", tmp_path / "calm" / "out"):
            ran(command, parent, "--out", out, *flags)
        assert content(tmp_path / "out") == content(tmp_path / "calm" / "out")


def test_a_log_gets_a_line_a_layer_and_a_terminal_bars(parent, tmp_path, monkeypatch):
    lines = ran("prune", parent, "--out", tmp_path / "m", *QUICK_FLAGS).stderr.splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("pruning")] == [
        f"pruning: {n} of 3" for n in (1, 2, 3)
    ]
    assert all(len(line) < 60 and "\r" not in line for line in lines)
    lines = ran("evaluate", parent, "--window-length", "32", "--window-count", "2").stderr.splitlines()
    *progress_lines, warning, reason = lines
    assert [line.split(":")[0] for line in progress_lines] == list(KINDS)
    # the numbers of this model are random
    assert warning.endswith("than by chance, so there is nothing to prune yet.")
    assert "guessing among" in reason
    terminal = Console(stderr=True, force_terminal=True, width=100)
    monkeypatch.setattr(console, "error_output", terminal)
    with terminal.capture() as capture, console.progress_bars() as bars:
        bars("pruning", 1, 3)
    assert "1/3" in capture.get()
    assert "\x1b" in capture.get()
