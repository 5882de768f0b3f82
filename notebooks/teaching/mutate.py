"""Do the notebooks notice a wrong formula? `python mutate.py formulas.toml` breaks one after another.

Each formula is broken in a copy of the folder in which the command runs. Then nbval runs a notebook of the
copy, which has to fail. The table:

    [mean]                           # a name of your choice
    in = "course/average.py"         # a module, or a notebook: the formula stands in one of its code cells
    right = 'sum(x) / len(x)'        # stands there exactly once; in three quotes if it has quotes or lines
    wrong = 'sum(x)'
    notebook = "lessons/mean.ipynb"  # has to notice; may be left out where `in` is a notebook

The exit code is 0 if all formulas were noticed; 1 if one was not, or if a notebook fails as it is; and 2 if
the table is refused, before any work, or if nbval cannot run a notebook. The tool serves any course: this
file needs nbval and nothing else, so copy it.
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

SECONDS_TO_END = 10  # for pytest after an interrupt; then it is killed
NEVER_COPIED = {".git", "__pycache__", ".ipynb_checkpoints"}
# An interrupt (SIGINT) ends pytest together with its kernel. A program that was started in the background may
# ignore interrupts, and its children too; so this one turns them on again.
PYTEST = "import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler); "
PYTEST += "sys.exit(pytest.main(sys.argv[1:]))"
say = partial(print, flush=True)


class TableError(ValueError):
    """A table that is refused, or a notebook that nbval cannot run.

    The message says what was expected, what came, and what to do.
    """


@dataclass(frozen=True)
class Formula:
    """A row of the table. The paths start in the folder of the course."""

    name: str
    file: str  # with the formula: `in` of the table
    right: str
    wrong: str
    notebook: str

    def break_in(self, folder: Path) -> None:
        """Put the wrong formula in the place of the right one. Raises TableError unless that is there once.

        A module is treated as a notebook of one cell.
        """
        path = folder / self.file
        is_notebook = path.suffix == ".ipynb"
        try:
            content = path.read_text("utf-8")
            document = json.loads(content) if is_notebook else {"cells": [{"source": content}]}
            code_cells = [cell for cell in document["cells"] if cell.get("cell_type", "code") == "code"]
        except (ValueError, KeyError, TypeError) as error:
            expected = "a notebook of format 4" if is_notebook else "text in UTF-8"
            raise self.refused(
                f"{expected} in {self.file}", f"{type(error).__name__}: {error}", "save it anew"
            ) from None
        matching = [cell for cell in code_cells if self.right in "".join(cell["source"])]
        count = sum("".join(cell["source"]).count(self.right) for cell in matching)
        if count != 1:
            raise self.refused(
                f"{self.right!r} once in {self.file}", count, "correct `right`, or make it longer"
            )
        [cell] = matching
        right_source = "".join(cell["source"])
        wrong_source = right_source.replace(self.right, self.wrong)
        if is_python(right_source) and not is_python(wrong_source):
            raise self.refused(
                "a wrong formula that is Python", repr(self.wrong), "break what it says, not how"
            )
        cell["source"] = wrong_source
        path.write_text(json.dumps(document) if is_notebook else wrong_source, "utf-8")

    def refused(self, expected: str, got: object, hint: str) -> TableError:
        return TableError(f"[{self.name}]: expected {expected}, got {got}: {hint}")


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def read_table(path: Path) -> list[Formula]:
    """The rows of the table. Raises TableError where one lacks something or has too much."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # tomllib and the decoding raise ValueErrors
        raise TableError(f"expected a table in TOML, got {path} ({error}): correct it") from None
    if not table:
        raise TableError(f"expected formulas, got none in {path}: write the first row")
    return [read_row(name, row) for name, row in table.items()]


def read_row(name: str, row: Any) -> Formula:
    fields = dict(row) if isinstance(row, dict) else {}
    if str(fields.get("in", "")).endswith(".ipynb"):
        fields = {"notebook": fields["in"], **fields}
    complete = fields.keys() == {"in", "right", "wrong", "notebook"}
    texts = all(isinstance(value, str) and value for value in fields.values())
    if not complete or not texts or fields["right"] == fields["wrong"]:
        expected = "the texts in, right, another one wrong, and notebook"
        raise TableError(
            f"[{name}]: expected {expected}, got {', '.join(fields) or repr(row)}: correct that row"
        )
    return Formula(name, fields["in"], fields["right"], fields["wrong"], fields["notebook"])


def check(formulas: list[Formula], root: Path) -> list[str]:
    """The files of the course, after each row was tried on them. Raises TableError for the first misfit."""
    files = course_files(root)
    for formula in formulas:
        for name in (formula.file, formula.notebook):
            if name not in files:
                actual = "one that git ignores" if (root / name).is_file() else "none"
                raise formula.refused(
                    f"the file {name} in {root}", actual, "correct the path, or start this elsewhere"
                )
        if not formula.notebook.endswith(".ipynb"):
            raise formula.refused("a notebook that has to notice", formula.notebook, "name an .ipynb file")
        with tempfile.TemporaryDirectory() as folder:
            copy(root, [formula.file], Path(folder))
            formula.break_in(Path(folder))
    return files


def course_files(root: Path) -> list[str]:
    """The files that git has or would take.

    Where there is no git: all files but those of environments and, roughly, those that .gitignore names.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git"):
        listing = subprocess.run(command, cwd=root, capture_output=True)
        if listing.returncode == 0 and listing.stdout:
            names = sorted({os.fsdecode(name) for name in listing.stdout.split(b"\0") if name})
            return [name for name in names if (root / name).exists()]
    # `is_file` leaves out links to nothing, and pipes
    return sorted(name for name in files_without_git(root) if (root / name).is_file())


def files_without_git(root: Path) -> Iterator[str]:
    """Paths below `root`, without environments and names that .gitignore has.

    Where .gitignore has an exception (`!name`), nothing that it names is left out: rather too much is copied
    than too little.
    """
    gitignore = root / ".gitignore"
    lines = gitignore.read_text("utf-8").splitlines() if gitignore.is_file() else []
    patterns = set(NEVER_COPIED)
    if not any(line.startswith("!") for line in lines):
        patterns |= {line.strip().strip("/") for line in lines if not line.startswith("#")}

    def is_copied(folder: str, name: str) -> bool:
        is_environment = Path(folder, name, "pyvenv.cfg").exists()
        return not is_environment and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if is_copied(folder, name)]
        for name in names:
            if is_copied(folder, name):
                yield Path(folder, name).relative_to(root).as_posix()


def copy(root: Path, files: list[str], folder: Path) -> None:
    """Copy files of `root` to `folder`.

    A link becomes a file: what is broken in the copy must not be broken where it came from.
    """
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():  # a repository in the repository
            shutil.copytree(root / name, target, ignore=shutil.ignore_patterns(*NEVER_COPIED))
        else:
            shutil.copy2(root / name, target)


def import_roots(formulas: list[Formula], folder: Path) -> list[str]:
    """The folders from which the copy's packages are imported: `folder`, and those above its packages."""
    roots = [folder]
    for formula in formulas:
        above = (folder / formula.file).parent
        while (above / "__init__.py").exists():
            above = above.parent
        if formula.file.endswith(".py") and above not in roots:
            roots.append(above)
    return [str(root) for root in roots]


def first_failure(folder: Path, notebook: str, roots: list[str], limit: float, nbval: str) -> str | None:
    """The first cell that fails, in words; "" if all cells pass, None if they did not end in `limit` seconds.

    Raises TableError where nbval cannot run the notebook.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        report = Path(temporary) / "report.xml"
        options = [nbval, "--nbval-current-env", f"--nbval-cell-timeout={limit + 60}", "-x"]
        options += ["-p", "no:cacheprovider", f"--junitxml={report}"]
        command = [sys.executable, "-c", PYTEST, *options, notebook]
        # PYTHONPATH comes before an editable installation of the course.
        python_path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        # pytest-timeout would call a cell that hangs a failure.
        environment = os.environ | {"PYTHONPATH": python_path, "PYTEST_TIMEOUT": "0"}
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
            number = int(failed[0].split()[-1])  # nbval calls it "Cell 3"
            return number_and_first_line(folder / notebook, number)
        if code:
            lines = output.read_text("utf-8", "replace").split("\n")
            last_error = next((line for line in reversed(lines) if "error" in line.lower()), lines[-2:][0])
            raise TableError(
                f"expected cells of {notebook} that nbval runs, got {last_error.strip()}: run it by hand"
            )
    return ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End pytest as Ctrl-C does, so that it ends its kernel, unless it has ended by itself."""
    if process.poll() is not None:
        return
    if os.name == "posix":
        process.send_signal(signal.SIGINT)
    else:
        process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def number_and_first_line(notebook: Path, number: int) -> str:
    """A code cell in words; like nbval this counts code cells from 0."""
    document = json.loads(notebook.read_text("utf-8"))
    code_cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    lines = "".join(code_cells[number]["source"]).strip().split("\n")
    return f"cell {number}: {lines[0]}"


def try_all(
    formulas: list[Formula],
    run: Callable[[str, Formula | None], str | None],
    trust: bool,
    keep_going: bool,
) -> int:
    """How many formulas went unnoticed.

    `run` takes a notebook and the formula that is broken, or None; it returns what `first_failure` returns.
    With `trust` no notebook is run as it is first; without `keep_going` the first unnoticed formula is the
    last one tried.
    """
    passes: dict[str, bool] = {}  # notebook -> whether all its cells pass as they are
    unnoticed = 0
    for number, formula in enumerate(formulas, 1):
        notebook = formula.notebook
        if not trust and notebook not in passes:
            passes[notebook] = passes_as_it_is(notebook, run)
        say(f"{number} of {len(formulas)}, {formula.name}: ", end="")
        if passes.get(notebook, True):
            noticed = is_noticed(formula, run)
        else:
            noticed = False
            say("not tried, since its notebook fails as it is")
        unnoticed += not noticed
        if unnoticed and not keep_going:
            break
    return unnoticed


def passes_as_it_is(notebook: str, run: Callable[[str, Formula | None], str | None]) -> bool:
    """Run a notebook with all formulas right, and say how that went."""
    say(f"{notebook} as it is: ", end="")
    start = time.monotonic()
    failure = run(notebook, None)
    if failure is None:
        outcome = "not done within the limit"
    else:
        outcome = failure or "passes"
    say(f"{outcome}, {time.monotonic() - start:.0f} s")
    return failure == ""


def is_noticed(formula: Formula, run: Callable[[str, Formula | None], str | None]) -> bool:
    """Run the notebook of a formula with that formula broken, and say how that went."""
    failure = run(formula.notebook, formula)
    if failure is None:
        say(f"NOT NOTICED within the limit: {formula.notebook} was ended")
    elif failure == "":
        say(f"NOT NOTICED by {formula.notebook}")
    else:
        say(f"noticed by {failure}")
    return bool(failure)


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

    def run(notebook: str, formula: Formula | None) -> str | None:
        """The first failure of a notebook in a copy of the course, in which `formula` is broken."""
        with tempfile.TemporaryDirectory(prefix="mutate-", ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary).resolve() / root.name
            copy(root, files, folder)
            if formula:
                formula.break_in(folder)
            return first_failure(folder, notebook, import_roots(formulas, folder), options.limit, nbval)

    try:
        formulas = read_table(options.table)
        files = check(formulas, root)
        all_names = [formula.name for formula in formulas]
        chosen_names = options.only or all_names
        unknown = set(chosen_names) - set(all_names)
        if unknown:
            raise TableError(
                f"expected names that are in {options.table}, got {', '.join(sorted(unknown))}: look there"
            )
        if importlib.util.find_spec("nbval") is None:
            raise TableError(f"expected nbval beside {sys.executable}, got none: pip install nbval ipykernel")
        chosen = [formula for formula in formulas if formula.name in chosen_names]
        return 1 if try_all(chosen, run, options.trust, options.keep_going) else 0
    except TableError as error:
        say(f"mutate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
