"""A module of this package in a process of its own, and how two processes talk: JSON, a line for each message.

The parent starts the module (`Worker`), sends work and reads answers. The child (`serve`) turns the one into the other.
What libraries print in the child goes to stderr; the parent quotes its last line when the child dies. An InputError in
the child is one in the parent too. When the parent is gone, the child's stdin ends, and so does the child. (Nothing
heavy is imported, so that a Dask worker, which only waits for such processes, stays small.)
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any, cast

from ..errors import InputError

Message = dict[str, Any]  # what JSON can hold; the name "refused" is taken by refusals


# Both -m and -c put the working folder first, as ""; -P, which forbids it, came with Python 3.11.
SAFELY = "import sys; sys.path = list(filter(None, sys.path)); import runpy; "
SAFELY += "runpy.run_module(sys.argv[1], run_name='__main__', alter_sys=True)"


def module(name: str) -> tuple[str, ...]:
    """The arguments with which Python runs that module as -m does, but imports nothing from the working folder."""
    return "-c", SAFELY, name


class ProcessError(RuntimeError):
    """A process that ended without an answer: why in one line, all that it wrote, and its exit code."""

    def __init__(self, message: str, output: str = "", code: int | None = None) -> None:
        super().__init__(message, output, code)  # all of it: an error travels from a Dask worker as its `args`
        self.message, self.output, self.code = message, output, code

    def __str__(self) -> str:
        return self.message


class Worker:
    """The parent's side: a Python process with this very code, which ends with the block."""

    def __init__(self, arguments: Sequence[str], threads: int | None = None) -> None:
        """arguments: of Python, such as those of `module`. threads: that compute; None: as many as it likes."""
        path = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        # an empty part, as a colon at the end leaves one, would mean the working folder
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        environment.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask sets it for its workers, and it would slow this one down
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._log = tempfile.TemporaryFile()
        command = (sys.executable, *arguments)
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self._log, env=environment, bufsize=0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        with self._log, self._process:  # closes stdin, by which the child ends, and waits for it
            if kind is not None:
                self.kill()

    def kill(self) -> None:
        self._process.kill()

    def send(self, message: Message) -> None:
        # a process that ended before it was told anything has an exit code that says more
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], self._process.stdin).write(json.dumps(message).encode() + b"\n")

    def answer(self) -> Message:
        """The next answer. Raises InputError when the process refuses its input, ProcessError when it dies."""
        line = cast(IO[bytes], self._process.stdout).readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer: Message = json.loads(line)
        if "refused" in answer:
            raise InputError(answer["refused"])
        return answer

    def _death(self) -> ProcessError:
        code = self._process.wait()
        self._log.seek(0)
        output = self._log.read().decode("utf-8", "replace")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        why = lines[-1] if lines else f"the process ended with code {code} and said nothing"
        if code < 0:
            why = f"the process was killed by {signal.Signals(-code).name}"
        return ProcessError(why, output, code)


def serve(answers: Callable[[Iterator[Message]], Iterable[Message]]) -> None:
    """The child's side: send what `answers` makes of the messages that come. Ends with the parent, or by a refusal."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what prints, prints to stderr,
    sys.stdout = sys.stderr  # and at once: what is held back would come after the words of an error
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    try:
        for answer in answers(json.loads(line) for line in iter(lines.get, None)):
            out.write(json.dumps(answer) + "\n")
    except InputError as error:
        out.write(json.dumps({"refused": str(error)}) + "\n")


def _listen(lines: queue.SimpleQueue[bytes | None]) -> None:
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: a buffer would be locked when Python ends
        for line in stdin:
            lines.put(line)
    os._exit(1)
