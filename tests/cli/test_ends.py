"""Beginnings and ends: what help imports, an output that nobody takes, and a run that says that it goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from command import FEW, content, ran, run
from rich.progress import Progress

from comp_lib.importance.neurons import METRICS
from comp_lib.settings import METHODS, PRESETS, PRESETS_IN_WORDS


def test_help_imports_nothing_heavy():
    """But for `prune --help`, which reads the tables of methods and presets: see below."""
    code = "import sys; from comp_lib.cli.app import app; [app([*words, '--help'], standalone_mode=False) "
    code += "for words in ([], ['compare'])]; "
    code += "print([name for name in ('torch', 'transformers', 'numpy', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--scheduler" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_the_help_of_prune_has_four_groups_and_names_what_is_in_the_tables(monkeypatch):
    monkeypatch.setitem(METRICS, "my-metric", METRICS["magnitude"])
    monkeypatch.setitem(PRESETS, "my-preset", PRESETS["stock"])
    said = " ".join(re.sub("[│╭╮╰╯─*]", " ", ran("prune", "--help").output).split())
    groups = [said.index(f" {name} --") for name in ("Basic", "Quality", "Resources", "Research")]
    flags = [said.index(f"--{name}") for name in ("out", "preset", "dtype", "method")]
    assert sorted(groups + flags) == [place for pair in zip(groups, flags, strict=True) for place in pair]
    assert said.index("--help") < groups[1]
    for name in (*METHODS, *METRICS, *PRESETS, *PRESETS_IN_WORDS.values()):
        assert name in said
    assert PRESETS_IN_WORDS.keys() == PRESETS.keys() - {"my-preset"}


@pytest.mark.skipif(os.name == "nt", reason="closes a pipe as POSIX does")
def test_a_closed_output_leaves_no_traceback(python):
    """From the start, and by a reader that has gone."""
    program = [sys.executable, "-m", "comp_lib", "--help"]
    first = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *program], stderr=subprocess.PIPE, text=True)
    reader, writer = os.pipe()
    os.close(reader)
    second = subprocess.run([*python, "-m", "comp_lib", "doctor"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert first.stderr == second.stderr == "" and first.returncode in (0, 1, 2)
    assert second.returncode == 1  # it did not get its words out


GRID = "--methods magnitude --ratios 0.2 --seeds 1 --sequences 8 --length 24 --multiple 4 --windows 2 --window 32"


@pytest.mark.parametrize("words", [["prune", *FEW], ["compare", *GRID.split()]], ids=lambda words: words[0])
def test_ctrl_c_in_a_run_that_goes_on_says_so(words, parent, tmp_path, monkeypatch):
    update = Progress.update
    first, *options = words

    def press(bars, task, **numbers):
        update(bars, task, **numbers)
        if (bars.tasks[task].description, numbers["completed"]) in (("pruning", 1), ("runs", 0)):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", press)
        stopped = run(first, parent, "--out", tmp_path / "out", *options)
    assert stopped.exit_code == 130
    assert "stays, and the same command goes on from there" in stopped.stderr
    if first == "prune":  # how `compare` goes on: test_grid.py
        for out in (tmp_path / "out", tmp_path / "calm" / "out"):
            ran(first, parent, "--out", out, *options)
        assert content(tmp_path / "out") == content(tmp_path / "calm" / "out")
