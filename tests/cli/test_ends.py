"""Ends of commands: a talk that is interrupted leaves no model behind, a run says that it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from command import FEW, content, run

from comp_lib.cli.console import ProgressBars
from comp_lib.on_device import llama_cpp

# The command itself; what it calls is a stand-in that is slow at one stage, and says when it is there.
TALK = """
import sys, time, types
stage = sys.argv[1]

def slow(here):
    if stage == here:
        print("now", flush=True)
        time.sleep(60)

def export_gguf(model, file, kind, progress):
    file.write_bytes(b"a model")
    slow("export")
    return file

def start(file, context, threads):
    slow("load")

def answer(server, messages, tokens, say):
    slow("answer")
    return ""

sys.modules["comp_lib.on_device.gguf_export"] = types.SimpleNamespace(export_gguf=export_gguf)
llama_cpp = types.SimpleNamespace(start=start, answer=answer, check_installed=lambda: None)
sys.modules["comp_lib.on_device.llama_cpp"] = llama_cpp
from comp_lib.cli.app import app
app(["chat", "model"])
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["export", "load", "answer"])
def test_an_interrupted_talk_leaves_no_model(python, tmp_path, stage, number):
    own = {
        "env": os.environ | {"TMPDIR": str(tmp_path)},
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    talk = subprocess.Popen(
        [*python, "-c", TALK, stage], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **own
    )
    with talk:
        talk.stdin.write("Hello\n")
        talk.stdin.flush()
        while "now" not in talk.stdout.readline():
            assert talk.poll() is None
        assert list(tmp_path.rglob("model.gguf"))
        talk.send_signal(number)
        assert talk.wait(30) != 0
    assert not list(tmp_path.iterdir())


def test_ctrl_c_stops_an_answer_and_is_not_lost():
    seen = []

    def handle_chat_completions(request, receive):
        """As llama.cpp does: it goes on until it is told to stop, and exceptions in `receive` are its own affair."""
        while not receive({"choices": [{"delta": {"content": "on and "}}]}):
            seen.append("on and ")
            time.sleep(0.01)

    def say(text):
        if len(seen) > 3:
            raise KeyboardInterrupt

    server = SimpleNamespace(handle_chat_completions=handle_chat_completions)
    with pytest.raises(KeyboardInterrupt):
        llama_cpp.answer(server, [], 10, say)
    assert 3 < len(seen) < 1000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["cache"]])
def test_a_full_disk_behind_the_output_is_one_line(words):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "comp_lib", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2 and "No space left" in ended.stderr and len(ended.stderr.splitlines()) == 1


GRID = "--methods magnitude --ratios 0.2 --seeds 1 --sequences 8 --length 24 --multiple 4 --windows 2 --window 32"


@pytest.mark.parametrize("words", [["prune", *FEW], ["compare", *GRID.split()]], ids=lambda words: words[0])
def test_ctrl_c_in_a_run_that_goes_on_says_so(words, parent, tmp_path, monkeypatch):
    told = ProgressBars.__call__
    first, *options = words

    def press(bars, what, done, total, report=None):
        told(bars, what, done, total, report)
        if (what, done) in (("pruning", 1), ("cells", 0)):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBars, "__call__", press)
        stopped = run(first, parent, "--out", tmp_path / "out", *options)
    assert stopped.exit_code == 130
    assert "what is finished stays, and the same command goes on" in stopped.stderr
    if first == "prune":  # how `compare` goes on: test_grid.py
        for out in (tmp_path / "out", tmp_path / "calm" / "out"):
            assert run(first, parent, "--out", out, *options).exit_code == 0
        assert content(tmp_path / "out") == content(tmp_path / "calm" / "out")
