"""What the sweep of hostile cases shares: a user's files, how a case ends, and how cases are drawn.

A field and a number decide a case, so the 2,000 of `make hostile` begin with those of `make check`.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command import run

from comp_lib.utils.errors import RUST_PANIC, InputError

SEED = 58
COUNT = int(os.environ.get("HOSTILE_CASES", "320"))  # cases of all fields together
ENDS = ("results", "refusals", "tracebacks", "losses", "code run")
# of the lines that a command prints while it works
PROGRESS_LINE = r"[a-z ]+: \d+ of \d+, \d+ s"
# files that Python, pip, git or a library would run if it looked for code where a user stands
TRAPS = ("pip.py", "sitecustomize.py", "torch.py", "lm_eval.py", "gguf.py", "modeling_trap.py", "setup.py")


def shown(value: object) -> str:
    """A value in the name of a case."""
    return ascii(value)[:70]


def draws(name: str, count: int) -> Iterator[tuple[int, random.Random]]:
    """The number of each case of a field, and what decides it."""
    for number in range(count):
        yield number, random.Random(f"{SEED} {name} {number}")


class Trap:
    """A pickle that makes the file `marker` when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


class Sandbox:
    """A folder of a user, who stands in it: its files stay, what is new goes after each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = folder.with_name("code-ran")  # whatever code of a stranger runs makes it
        folder.mkdir()
        for name in TRAPS:
            (folder / name).write_text(f"import os\nos.mkdir({str(self.marker)!r})\n")
        (folder / "trap.yaml").write_text("task: trap\ndataset_path: !function modeling_trap.run\n")
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(self.marker)))
        (folder / "notes.txt").write_text("mine, and a few words more. " * 400)
        (folder / "home").mkdir()
        (folder / "home" / "letter.txt").write_text("dear")
        (folder / "link").symlink_to(folder / "notes.txt")
        self.content: dict[Path, Any] = {}

    def code(self) -> list[str]:
        """Texts that make the marker if somebody takes them for code."""
        call = f"__import__('os').mkdir({str(self.marker)!r})"
        shell = f"mkdir {self.marker}"
        return [
            *(call, f"f'{{{call}}}'", f"$({shell})", f"`{shell}`", f"x; {shell}", f"| {shell}"),
            f"{{{{ cycler.__init__.__globals__.os.mkdir({str(self.marker)!r}) }}}}",
            "!!python/object/apply:os.mkdir [" + str(self.marker) + "]",
            *("modeling_trap.Trap", "modeling_trap--modeling_trap.Trap", "trap.yaml", "setup.py"),
        ]

    def look(self) -> dict[Path, Any]:
        """Everything in the folder: bytes of files, targets of links, None for folders."""
        content_now: dict[Path, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink():
                content_now[path] = os.readlink(path)
            else:
                content_now[path] = None if path.is_dir() else path.read_bytes()
        return content_now

    def keep(self) -> None:
        """What is here from now on is the user's."""
        self.content = self.look()

    def lost(self) -> list[str]:
        """Names of the user's files that are gone or changed; what is new goes, and they are as they were."""
        content_now = self.look()
        for path in sorted(content_now.keys() - self.content.keys(), reverse=True):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
        lost = [path for path, value in self.content.items() if content_now.get(path, 0) != value]
        for path in lost:
            value = self.content[path]
            if value is None:
                path.mkdir(exist_ok=True)
            elif isinstance(value, bytes):
                path.write_bytes(value)
        return [str(path.relative_to(self.folder)) for path in lost]

    def ran(self) -> bool:
        """Whether code of a stranger ran since the last look."""
        if not self.marker.exists():
            return False
        self.marker.rmdir()
        return True


@dataclass
class Tally:
    """How the cases of a field ended."""

    name: str
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # a paragraph for each case that went wrong

    def attempt(self, sandbox: Sandbox, case: str, act: Callable[[], Any]) -> None:
        """Count how `act` ends: a result, a refusal, or what may not be."""
        self.ends["cases"] += 1
        try:
            end = act() or "results"
        except InputError as error:
            end = "refusals" if one_line(str(error)) and str(error).startswith("expected ") else repr(error)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
                raise
            end = "".join(traceback.format_exception(error)[-6:])
        if end not in ENDS:
            self.note("tracebacks", case, end)
        else:
            self.ends[end] += 1
        lost = sandbox.lost()
        if lost:
            self.note("losses", case, ", ".join(lost))
        if sandbox.ran():
            self.note("code run", case, "")

    def note(self, end: str, case: str, remark: str) -> None:
        """Note a case that went wrong."""
        self.ends[end] += 1
        self.wrong.append(f"{end}: {self.name}, {case}\n{remark}")

    def row(self) -> str:
        """A row of the table."""
        return " | ".join(
            [f"| {self.name}", *(str(self.ends[name]) for name in ("cases", *ENDS)), ""]
        ).strip()

    def check(self) -> None:
        """Fail with each case that went wrong."""
        assert not self.wrong, "\n\n".join([f"{len(self.wrong)} went wrong", *self.wrong])
        assert self.ends["refusals"] and self.ends["results"], "the cases of a field must be of both kinds"
        assert self.ends["cases"] == self.ends["refusals"] + self.ends["results"]


def one_line(text: str) -> bool:
    """Whether a text is a line that can be printed."""
    return text.isprintable()


def end_of_command(*arguments: str) -> str:
    """How a command ends: "results", "refusals", or what it printed where neither was to be."""
    result = run(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception)[-6:])
    if result.exit_code == 0:
        return "results"
    lines = [line for line in result.stderr.splitlines() if not re.fullmatch(PROGRESS_LINE, line)]
    ours = [line for line in lines if line.startswith("comp-lib: ")]
    by_us = lines == ours and len(ours) == 1 and one_line(ours[0])
    by_typer = result.exit_code == 2 and bool(lines) and lines[0].startswith("Usage: ")
    if "Traceback" not in result.stderr and (by_typer or (by_us and result.exit_code in (1, 2))):
        return "refusals"
    return f"exit code {result.exit_code}\n{result.stderr}"


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A place to stand in."""
    sandbox = Sandbox(tmp_path / "sandbox")
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.setenv("HOME", str(sandbox.folder / "home"))
    monkeypatch.setenv("COMP_LIB_CACHE", str(tmp_path / "cache"))
    sandbox.keep()
    return sandbox
