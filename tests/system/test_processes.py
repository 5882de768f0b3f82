"""Two processes that talk: answers in order whatever else is printed, refusals, and what a dead process said."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from comp_lib.compare import cluster
from comp_lib.errors import InputError
from comp_lib.on_device import benchmark
from comp_lib.system.processes import ProcessError, Worker, module

CHILD = """
import os, sys
from comp_lib.errors import InputError
from comp_lib.system.processes import serve

def answers(messages):
    for message in messages:
        print("a library says something")
        os.system("echo another one")
        if "refuse" in message:
            raise InputError(f"expected nothing, got {message['refuse']}: go")
        if "die" in message:
            sys.exit(message["die"])
        if "crash" in message:
            os.abort()
        yield {"twice": 2 * message["number"], "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}

serve(answers)
"""


def test_each_message_has_its_answer_and_nothing_else():
    with Worker(("-c", CHILD), threads=3) as worker:
        for number in (1, 2.5, 1e300):
            worker.send({"number": number})
        answers = [worker.answer() for _ in range(3)]
    assert [answer["twice"] for answer in answers] == [2, 5.0, 2e300]
    assert {answer["threads"] for answer in answers} == {"3"}
    assert len({answer["pid"] for answer in answers} - {os.getpid()}) == 1


def test_the_process_ends_with_the_block_and_when_the_block_fails():
    for error in (None, KeyError("mine")):
        try:
            with Worker(("-c", CHILD)) as worker:
                worker.send({"number": 1})
                pid = worker.answer()["pid"]
                assert psutil.pid_exists(pid)
                if error is not None:
                    raise error
        except KeyError as caught:
            assert caught is error
        assert not psutil.pid_exists(pid)


def test_a_refusal_is_a_refusal_here_too():
    with Worker(("-c", CHILD)) as worker:
        worker.send({"refuse": "all"})
        with pytest.raises(InputError, match="^expected nothing, got all: go$"):
            worker.answer()


@pytest.mark.parametrize(
    ("message", "said", "code"), [({"die": "bye"}, "bye", 1), ({"crash": 1}, "the process was killed by SIGABRT", -6)]
)
def test_a_process_that_dies_is_quoted(message, said, code):
    with Worker(("-c", CHILD)) as worker:
        worker.send({"number": 1})
        worker.send(message)
        assert worker.answer()["twice"] == 2
        with pytest.raises(ProcessError) as caught:
            worker.answer()
    assert (str(caught.value), caught.value.code) == (said, code)
    assert caught.value.output.count("a library says something") >= 1 and "another one" in caught.value.output


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (cluster.MODULE, None),
        (benchmark.MODULE, ":"),
        (module("psutil"), ""),
        (module("psutil"), f"{Path(__file__).parent}:"),
    ],
    ids=["compare", "benchmark", "empty", "colon"],
)
def test_nothing_is_imported_from_the_working_folder(tmp_path, monkeypatch, arguments, path):
    for name in ("psutil", "runpy", "json", "sitecustomize", "comp_lib"):
        (tmp_path / f"{name}.py").write_text("import os; os.write(2, b'taken over'); os._exit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    with Worker(arguments) as worker:
        worker.send({})  # no request: what the real modules say is a KeyError of theirs
        with pytest.raises(ProcessError) as caught:
            worker.answer()
    assert caught.value.code != 7 and "taken over" not in caught.value.output


def test_a_module_runs_as_with_m(tmp_path, monkeypatch):
    code = "import sys\nfrom comp_lib import __file__\nif __name__ == '__main__': sys.exit(__file__)"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker(module("mine")) as worker, pytest.raises(ProcessError) as caught:
        worker.answer()
    assert str(caught.value) == str(Path(benchmark.__file__).parents[1] / "__init__.py")
