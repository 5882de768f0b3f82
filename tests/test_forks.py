"""What runs where the imports have been made sees what Python itself would show it, and ends as it would."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

SEEN = "import json, os, sys; print(json.dumps([sys.argv, os.environ['MINE'], os.getcwd(), sys.stdin.read()]))"
SLOW = "import time; print('now', flush=True); time.sleep(60)"


def test_a_script_has_what_is_its_own(python, tmp_path):
    own = {"input": "said", "env": os.environ | {"MINE": "\u00e9"}, "cwd": tmp_path}
    done = subprocess.run([*python, "-c", SEEN, "-m", "x y"], capture_output=True, text=True, **own)
    assert json.loads(done.stdout) == [["-c", "-m", "x y"], "\u00e9", str(tmp_path), "said"] and done.stderr == ""


@pytest.mark.parametrize(
    ("code", "returned", "said"),
    [("raise SystemExit(3)", 3, ""), ("1 / 0", 1, "ZeroDivisionError"), ("raise SystemExit('no')", 1, "no")],
)
def test_it_ends_as_it_ends(python, code, returned, said):
    done = subprocess.run([*python, "-c", code], capture_output=True, text=True)
    assert done.returncode == returned and said in done.stderr and done.stdout == ""


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGKILL", None)])
def test_a_signal_gets_through(python, number):
    begun = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    begun["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*python, "-c", SLOW], **begun) as script:
        assert script.stdout.readline() == "now\n"
        script.send_signal(number)
        assert script.stdout.read() == ""  # nobody is left who could write
        assert script.wait(30) == -number
