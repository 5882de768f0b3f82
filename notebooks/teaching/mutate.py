"""Do the notebooks notice a wrong formula? `python mutate.py formulas.toml` breaks one after another.

Each is broken in a copy of the folder in which the command runs, and a notebook, run by nbval, has to fail. The table:

    [mean]                           # a name of your choice
    in = "course/average.py"         # a module, or a notebook: then the formula stands in one of its code cells
    right = 'sum(x) / len(x)'        # stands there exactly once; three quotes where it has quotes or line ends itself
    wrong = 'sum(x)'
    notebook = "lessons/mean.ipynb"  # has to notice; may be left out where `in` is a notebook

Exit code 0: all were noticed; 1: one was not, or a notebook fails as it is; 2: the table is refused, before any work,
or nbval cannot run a notebook. For any course: this file needs nbval and nothing else; copy it.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest, and so nbval, brings

GRACE = 10  # seconds in which a notebook that was told to end may end
NEVER_COPIED = {".git", "__pycache__", ".ipynb_checkpoints"}
# Whoever starts a program in the background may have it ignore SIGINT, by which pytest ends with its kernel.
PYTEST = "import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler); "
PYTEST += "sys.exit(pytest.main(sys.argv[1:]))"
say = partial(print, flush=True)


class TableError(ValueError):
    """A table that is refused, or a notebook that nbval cannot run: what was expected, what came, what to do."""


@dataclass(frozen=True)
class Formula:
    """A row of the table; paths as in the table, from the folder of the course."""

    name: str
    place: str
    right: str
    wrong: str
    notebook: str

    def break_in(self, folder: Path) -> None:
        """Put the wrong formula in the place of the right one; raises TableError unless that stands there once."""
        path = folder / self.place
        try:
            content = path.read_text("utf-8")
            document = json.loads(content) if path.suffix == ".ipynb" else {"cells": [{"source": content}]}
            sources = [cell for cell in document["cells"] if cell.get("cell_type", "code") == "code"]
        except (ValueError, KeyError, TypeError) as error:
            expected = "a notebook of format 4" if path.suffix == ".ipynb" else "text in UTF-8"
            raise self.refused(
                f"{expected} in {self.place}", f"{type(error).__name__}: {error}", "save it anew"
            ) from None
        places = [cell for cell in sources if self.right in "".join(cell["source"])]
        count = sum("".join(cell["source"]).count(self.right) for cell in places)
        if count != 1:
            raise self.refused(
                f"{self.right!r} once in {self.place}", count, "mend `right`, or make it longer"
            )
        (cell,) = places
        before = "".join(cell["source"])
        cell["source"] = before.replace(self.right, self.wrong)
        if is_python(before) and not is_python(cell["source"]):
            raise self.refused(
                "a wrong formula that is Python", repr(self.wrong), "break what it says, not how"
            )
        path.write_text(json.dumps(document) if path.suffix == ".ipynb" else cell["source"], "utf-8")

    def refused(self, expected: str, got: object, do: str) -> TableError:
        return TableError(f"[{self.name}]: expected {expected}, got {got}: {do}")


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def read_table(path: Path) -> list[Formula]:
    """The rows, of which each has what a row needs."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # also what tomllib and the decoding raise
        raise TableError(f"expected a table in TOML, got {path} ({error}): mend it") from None
    formulas = []
    for name, row in table.items():
        given = dict(row) if isinstance(row, dict) else {}
        if str(given.get("in", "")).endswith(".ipynb"):
            given = {"notebook": given["in"]} | given
        texts = {key: value for key, value in given.items() if isinstance(value, str) and value}
        if (
            given.keys() != {"in", "right", "wrong", "notebook"}
            or texts != given
            or given["right"] == given["wrong"]
        ):
            expected = "the texts in, right, another one wrong, and notebook"
            raise TableError(
                f"[{name}]: expected {expected}, got {', '.join(given) or repr(row)}: mend that row"
            )
        formulas.append(Formula(name, given["in"], given["right"], given["wrong"], given["notebook"]))
    if not formulas:
        raise TableError(f"expected formulas, got none in {path}: write the first row")
    return formulas


def check(formulas: list[Formula], root: Path) -> list[str]:
    """The files of the course, after each row was tried on them. Raises TableError for the first that does not fit."""
    files = course_files(root)
    for formula in formulas:
        for place in (formula.place, formula.notebook):
            if place not in files:
                got = "one that git ignores" if (root / place).is_file() else "none"
                raise formula.refused(
                    f"the file {place} in {root}", got, "mend the path, or start this elsewhere"
                )
        if not formula.notebook.endswith(".ipynb"):
            raise formula.refused("a notebook that has to notice", formula.notebook, "name an .ipynb file")
        with tempfile.TemporaryDirectory() as folder:
            copy(root, [formula.place], Path(folder))
            formula.break_in(Path(folder))
    return files


def course_files(root: Path) -> list[str]:
    """What git has or would take; where there is no git, all but environments and, roughly, what .gitignore names."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git"):
        listed = subprocess.run(command, cwd=root, capture_output=True)
        if listed.returncode == 0 and listed.stdout:
            names = sorted({os.fsdecode(name) for name in listed.stdout.split(b"\0") if name})
            return [name for name in names if (root / name).exists()]
    return sorted(name for name in walk(root) if (root / name).is_file())  # no link to nothing, and no pipe


def walk(root: Path) -> Iterator[str]:
    lines = (root / ".gitignore").read_text("utf-8").splitlines() if (root / ".gitignore").is_file() else []
    plain = {line.strip().strip("/") for line in lines if not line.startswith("#")}
    exceptions = any(line.startswith("!") for line in lines)  # rather too much in the copy than too little
    patterns = NEVER_COPIED if exceptions else NEVER_COPIED | plain

    def goes(folder: str, name: str) -> bool:
        environment = Path(folder, name, "pyvenv.cfg").exists()
        return not environment and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if goes(folder, name)]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in names if goes(folder, name))


def copy(root: Path, files: list[str], folder: Path) -> None:
    """No link stays one: what is broken in the copy must not be broken where it came from."""
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():  # a repository in the repository
            shutil.copytree(root / name, target, ignore=shutil.ignore_patterns(*NEVER_COPIED))
        else:
            shutil.copy2(root / name, target)


def import_roots(formulas: list[Formula], folder: Path) -> list[str]:
    """Where the copy's packages are imported from: the folder itself, and those above its packages."""
    roots = [folder]
    for formula in formulas:
        above = (folder / formula.place).parent
        while (above / "__init__.py").exists():
            above = above.parent
        if formula.place.endswith(".py") and above not in roots:
            roots.append(above)
    return [str(root) for root in roots]


def first_failure(folder: Path, notebook: str, roots: list[str], limit: float, nbval: str) -> str | None:
    """The first cell of a notebook that fails, in words; "" if all pass, None if they did not end within the limit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        report = Path(temporary) / "report.xml"
        options = [
            nbval,
            "--nbval-current-env",
            f"--nbval-cell-timeout={limit + 60}",
            "-x",
            "-p",
            "no:cacheprovider",
        ]
        command = [sys.executable, "-c", PYTEST, *options, f"--junitxml={report}", notebook]
        path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        # an editable installation comes after PYTHONPATH; pytest-timeout would call a cell that hangs a failure
        environment = os.environ | {"PYTHONPATH": path, "PYTEST_TIMEOUT": "0"}
        output = Path(temporary) / "output.txt"
        with output.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                end(process)
        cases = ElementTree.parse(report).iter("testcase") if report.exists() else []
        failed = [str(case.get("name")) for case in cases if case.find("failure") is not None]
        if failed:
            return cell_in_words(folder / notebook, int(failed[0].split()[-1]))
        if code:
            said = output.read_text("utf-8", "replace").split("\n")
            last = next((line for line in reversed(said) if "error" in line.lower()), said[-2:][0])
            raise TableError(
                f"expected cells of {notebook} that nbval runs, got {last.strip()}: run it by hand"
            )
    return ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End pytest as Ctrl-C does, so that it ends its kernel; it has died by itself if all is well."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT) if os.name == "posix" else process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cell_in_words(notebook: Path, number: int) -> str:
    """Code cells are counted from 0, as nbval does."""
    cells = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    lines = "".join(cells[number]["source"]).strip().split("\n")
    return f"cell {number}: {lines[0]}"


def try_all(
    formulas: list[Formula], fails: Callable[[str, Formula | None], str | None], trust: bool, keep_going: bool
) -> int:
    """How many went unnoticed. `fails`: the first failure of a notebook, with a formula broken or with none."""
    sound: dict[str, bool] = {}
    unnoticed = 0
    for number, formula in enumerate(formulas, 1):
        notebook = formula.notebook
        if not trust and notebook not in sound:
            say(f"{notebook} as it is: ", end="")
            start, failure = time.monotonic(), fails(notebook, None)
            sound[notebook] = failure == ""
            late = "not done within the limit"
            say(f"{'passes' if sound[notebook] else failure or late}, {time.monotonic() - start:.0f} s")
        say(f"{number} of {len(formulas)}, {formula.name}: ", end="")
        if sound.get(notebook, True):
            failure = fails(notebook, formula)
            late = f" within the limit: {notebook} was ended" if failure is None else f" by {notebook}"
            say(f"noticed by {failure}" if failure else f"NOT NOTICED{late}")
        else:
            failure = None
            say("not tried, since its notebook fails as it is")
        unnoticed += not failure
        if unnoticed and not keep_going:
            break
    return unnoticed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mutate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("table", type=Path, help="what to break, in TOML; its paths begin in this folder")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="of a formula; may be said several times"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="try the others too after one that was not noticed"
    )
    parser.add_argument("--trust", action="store_true", help="do not run the notebooks as they are first")
    parser.add_argument(
        "--limit", metavar="SECONDS", type=float, default=1800, help="for a notebook (default: 1800)"
    )
    parser.add_argument(
        "--outputs", action="store_true", help="all stored outputs must come again (nbval without -lax)"
    )
    options = parser.parse_args(arguments)
    root = Path.cwd()
    nbval = "--nbval" if options.outputs else "--nbval-lax"

    def fails(notebook: str, formula: Formula | None) -> str | None:
        with tempfile.TemporaryDirectory(prefix="mutate-", ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary).resolve() / root.name
            copy(root, files, folder)
            if formula:
                formula.break_in(folder)
            return first_failure(folder, notebook, import_roots(formulas, folder), options.limit, nbval)

    try:
        formulas = read_table(options.table)
        files = check(formulas, root)
        names = options.only or [formula.name for formula in formulas]
        if unknown := set(names) - {formula.name for formula in formulas}:
            raise TableError(
                f"expected names that are in {options.table}, got {', '.join(sorted(unknown))}: look there"
            )
        if importlib.util.find_spec("nbval") is None:
            raise TableError(f"expected nbval beside {sys.executable}, got none: pip install nbval ipykernel")
        chosen = [formula for formula in formulas if formula.name in names]
        return 1 if try_all(chosen, fails, options.trust, options.keep_going) else 0
    except TableError as error:
        say(f"mutate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
