"""Open the lessons, answers folded: `python lab.py [--no-solutions | --answers] [OPTION ...]`

JupyterLab opens the lessons, which are copied to build/lab without outputs, and the answer to each prediction
is folded below the cell that shows it. A function that the reader is to write (a cell with the tag `write`)
is a stub there; a folded cell below its check has ours, with which the lesson goes on if hers has not passed.
The reader sees lessons and exercises alone; kernels find the rest by PYTHONPATH. A notebook that the reader
changed in build/lab stays as it is, and one that was deleted there is made anew. With --no-solutions the
copy, for graded work, is in build/graded, and has no answers, no solutions, and nothing of ours where the
reader writes; hints and checks stay. In the ordinary copy the solutions of the exercises are in notebooks of
their own, in the folder `solutions`. With --answers the stored lessons are opened themselves, not a copy.
All other options go to JupyterLab.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from comp_lib.utils.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent))  # a script and a test find the module beside this
from stubs import with_stubs

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
LAB = ROOT / "build" / "lab"
GRADED = ROOT / "build" / "graded"  # apart: a copy that somebody changed in LAB keeps its folded answers
JUPYTER = LAB / "jupyter"  # what JupyterLab remembers of this project
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
# Lessons read these folders or link to them; the reader does not see them.
FOLDERS_BESIDE = ("benchmarks", "data", "docs")
GLOSSARY = "notebooks/GLOSSARY.md"  # lessons link to it
TEACHERS_PAGE = "notebooks/TEACHING.md"  # it has answers
HIDDEN_PAGES = (TEACHERS_PAGE, "CONTRIBUTING.md")  # docs link to them; the reader does not see them
MARK = "made"  # key in a copy's metadata: the hash of its sources when it was made
SOLVED = re.compile(r"<details><summary>(?:Answer|Solution|The formula)</summary>.*?</details>\s*", re.DOTALL)
SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\s*", re.DOTALL)
HINTS_AND_SOLUTION = " Each task has hints and a solution."
# What the prose says of answers that are folded -> what it says where there are none.
WITHOUT_SOLUTIONS = {
    " The answer is below it.": "",
    HINTS_AND_SOLUTION: " Each task has hints.",
    " (`make lab LAB_ARGS=--no-solutions` opens a copy without solutions.)": "",
    " The folded plan is a start, not a solution.": "",
}
ANSWER = re.compile(r"<details><summary>Answer</summary>.*?</details>", re.DOTALL)
WRITE = "*Double-click here and write down what you expect. Then run the next cell. The answer is below it.*"
QUESTION = '"What do you see?"'  # as it stands in the code


def without_answers(lesson: NotebookNode) -> NotebookNode:
    """A new notebook without outputs, with each prediction before everything that gives its answer away.

    The answer stands behind the code cells that follow the prediction, in a cell of its own.
    """
    copied = nbformat.from_dict(lesson)
    cells = []
    answer = None
    for cell in copied.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
            if answer:
                cell.source = with_questions(cell.source)
        elif answer:
            cells.append(answer)
            answer = None
        cells.append(cell)
        if cell.cell_type == "markdown" and "**Predict.**" in cell.source:
            match = ANSWER.search(cell.source)
            if match:
                cell.source = cell.source.replace(match[0], WRITE)
                answer = new_markdown_cell(match[0], id=f"{cell.id}-answer")
    copied.cells = cells
    return copied


def without_solutions(lesson: NotebookNode) -> NotebookNode:
    """A new notebook without folded answers and solutions; hints and checks stay."""
    copied = nbformat.from_dict(lesson)
    for cell in copied.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLVED.sub("", cell.source).rstrip()
            for sentence, instead in WITHOUT_SOLUTIONS.items():
                cell.source = cell.source.replace(sentence, instead)
    copied.cells = [cell for cell in copied.cells if cell.source]
    return copied


def with_solutions_apart(exercise: NotebookNode, name: str) -> NotebookNode:
    """A new notebook without folded solutions, which says where they are: in `solutions`, as `name`."""
    copied = nbformat.from_dict(exercise)
    elsewhere = f" Each task has hints. The solutions are in [a notebook of their own](solutions/{name})."
    for cell in copied.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source).replace(HINTS_AND_SOLUTION, elsewhere).rstrip()
    copied.cells = [cell for cell in copied.cells if cell.source]
    return copied


def with_questions(source: str) -> str:
    """The code with a question in place of what it says of a figure, as in `show(figure, "A is larger")`.

    The sentence is the last argument of `show`, or of the call that is this argument; it begins with a
    capital or a digit.
    """
    changed = source
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "show":
            sentence = call.args[-1]
            if isinstance(sentence, ast.Call) and sentence.args:
                sentence = sentence.args[-1]
            says = sentence.value if isinstance(sentence, ast.Constant) else None
            if isinstance(says, str) and (says[:1].isupper() or says[:1].isdigit()):
                changed = changed.replace(ast.get_source_segment(source, sentence) or "", QUESTION)
    return changed


def hash_of_sources(notebook: str) -> str:
    """Hash of the sources of all cells of a notebook, which is JSON; outputs do not count."""
    sources = "\0".join("".join(cell["source"]) for cell in json.loads(notebook)["cells"])
    return hashlib.sha256(sources.encode()).hexdigest()


def copy(lesson: Path, target: Path, solutions: bool = True) -> str:
    """Write a lesson, answers folded or without any, unless the reader has changed the copy in `target`.

    Returns "made" where the copy was written, "kept" where the reader's copy stays, and "older" where it
    stays though the lesson has changed since that copy was made.
    """
    notebook = with_stubs(without_answers(nbformat.read(lesson, as_version=4)), with_ours=solutions)
    if not solutions:
        notebook = without_solutions(notebook)
    elif lesson.parent.name == "exercises":
        notebook = with_solutions_apart(notebook, lesson.name)
    new_hash = hash_of_sources(nbformat.writes(notebook))
    notebook.metadata[MARK] = new_hash
    if target.exists():
        text = target.read_text("utf-8")
        try:
            readers_hash = hash_of_sources(text)
            hash_when_made = json.loads(text)["metadata"].get(MARK)
        except (ValueError, KeyError, TypeError):  # it is no notebook any more, and so not ours to judge
            return "kept"
        if readers_hash == new_hash:
            return "kept"  # with the outputs of the reader's runs
        if readers_hash != hash_when_made:
            return "kept" if hash_when_made == new_hash else "older"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return "made"


def lay_out(folder: Path, solutions: bool = True) -> str:
    """Bring `folder` up to date, with solutions or without; returns what was done, for the reader."""
    names: dict[str, list[str]] = {"made": [], "kept": [], "older": []}
    lessons = [*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("exercises/*.ipynb")]
    if solutions:
        lessons += NOTEBOOKS.glob("exercises/solutions/*.ipynb")
    for lesson in sorted(lessons):
        name = lesson.relative_to(NOTEBOOKS)
        state = copy(lesson, folder / "notebooks" / name, solutions)
        names[state].append(name.as_posix())
    for page in (GLOSSARY, *HIDDEN_PAGES):
        if page == TEACHERS_PAGE and not solutions:  # docs link to it all the same
            (folder / page).write_text("# Teaching\n\nThis page is for the teacher.\n", "utf-8")
        else:
            shutil.copyfile(ROOT / page, folder / page)
    no_bytecode = shutil.ignore_patterns("__pycache__")
    for beside in FOLDERS_BESIDE:
        shutil.copytree(ROOT / beside, folder / beside, ignore=no_bytecode, dirs_exist_ok=True)
    kept = len(names["kept"]) + len(names["older"])
    summary = f"{folder / 'notebooks'}: {len(names['made'])} notebooks made, {kept} kept as they were."
    if kept:
        summary += " To start one afresh, delete it there and come again."
    if names["older"]:
        summary += f"\nChanged by you, while the course has a newer one: {', '.join(names['older'])}"
    return summary


def check_user(jupyter_arguments: list[str]) -> None:
    """Refuse root, for whom JupyterLab stops, unless an argument lets root in.

    Raises InputError.
    """
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Windows has no such number
    if is_root and not any("allow_root" in argument.replace("-", "_") for argument in jupyter_arguments):
        raise InputError(
            expected="a user without all rights",
            got="root",
            hint="in a container, or where nobody else reaches this machine, type make lab "
            "LAB_ARGS=--allow-root, or add --allow-root to the line that you typed",
        )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Open the lessons in JupyterLab.", allow_abbrev=False)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--answers", action="store_true", help="the stored lessons, with their outputs")
    ways.add_argument(
        "--no-solutions",
        dest="solutions",
        action="store_false",
        help="for graded work: no answers and no solutions, also not folded",
    )
    options, jupyter_arguments = parser.parse_known_args(arguments)
    check_user(jupyter_arguments)
    if options.answers:
        folder = ROOT
        hidden: list[str] = []
    else:
        folder = LAB if options.solutions else GRADED
        hidden = [*FOLDERS_BESIDE, JUPYTER.name, *(Path(page).name for page in HIDDEN_PAGES)]
        print(lay_out(folder, options.solutions), flush=True)
    paths = [str(NOTEBOOKS), str(NOTEBOOKS / "exercises"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    (JUPYTER / "settings").mkdir(parents=True, exist_ok=True)
    (JUPYTER / "settings" / "overrides.json").write_text(json.dumps(SETTINGS), "utf-8")
    command = [
        f"--ServerApp.root_dir={folder}",
        "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb",
        f"--LabApp.app_settings_dir={JUPYTER / 'settings'}",
        f"--LabApp.workspaces_dir={JUPYTER / 'workspaces'}",  # open tabs of other projects stay out of it
    ]
    command += [f"--ContentsManager.hide_globs={name}" for name in hidden]
    from jupyterlab.labapp import main as jupyterlab

    jupyterlab([*command, *jupyter_arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
