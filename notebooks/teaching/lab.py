"""The lessons without their answers, in JupyterLab: `python notebooks/teaching/lab.py [--answers] [its options ...]`

They are copied to build/lab: no outputs, and the answer to each prediction folded below the cell that shows it. The
reader sees lessons and exercises alone; kernels find the rest by PYTHONPATH. A notebook that was changed there stays as
it is, and one that was deleted there is made anew. With --answers the stored lessons are opened, which nobody copies.
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

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
LAB = ROOT / "build" / "lab"
OWN = LAB / "jupyter"  # what JupyterLab remembers of this project
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
BESIDE = ("benchmarks", "data", "docs")  # what lessons read or link to, at its place beside them
SEEN = "notebooks/GLOSSARY.md"  # which lessons link to
UNSEEN = ("notebooks/TEACHING.md", "CONTRIBUTING.md")  # which docs link to
MARK = "made"  # in a copy's metadata: the hash of its sources as it was made
ANSWER = re.compile(r"<details><summary>Answer</summary>.*?</details>", re.DOTALL)
WRITE = "*Double-click here and write down what you expect. Then run the next cell. The answer is below it.*"


def without_answers(lesson: NotebookNode) -> NotebookNode:
    """The notebook (a new one) without outputs, and with each prediction before what tells its answer."""
    made, cells, answer = nbformat.from_dict(lesson), [], None
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = asking(cell.source) if answer else cell.source
        elif answer:
            cells.append(answer)
            answer = None
        cells.append(cell)
        if (
            cell.cell_type == "markdown"
            and "**Predict.**" in cell.source
            and (found := ANSWER.search(cell.source))
        ):
            cell.source = cell.source.replace(found[0], WRITE)
            answer = new_markdown_cell(found[0], id=f"{cell.id}-answer")
    made.cells = cells
    return made


def asking(source: str) -> str:
    """The code with a question where it says what its figure shows: `show(figure, "A is larger")`."""
    asked = source
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "show":
            said = call.args[-1]
            if isinstance(said, ast.Call) and said.args:
                said = said.args[-1]
            if isinstance(said, ast.Constant) and str(said.value)[:1].isupper():
                asked = asked.replace(ast.get_source_segment(source, said) or "", '"What do you see?"')
    return asked


def sources(notebook: str) -> str:
    """Hash of all that is written in the cells of a notebook, which is JSON; outputs do not count."""
    words = "\0".join("".join(cell["source"]) for cell in json.loads(notebook)["cells"])
    return hashlib.sha256(words.encode()).hexdigest()


def copy(lesson: Path, target: Path) -> str:
    """Write a lesson without its answers; returns "made", or "kept" or "older" if the reader's own stays there."""
    made = without_answers(nbformat.read(lesson, as_version=4))
    made.metadata[MARK] = sources(nbformat.writes(made))
    if target.exists():
        text = target.read_text("utf-8")
        try:
            theirs, mark = sources(text), json.loads(text)["metadata"].get(MARK)
        except (ValueError, KeyError, TypeError):  # no notebook any more: not ours to judge
            return "kept"
        if theirs == made.metadata[MARK]:
            return "kept"  # with its outputs
        if theirs != mark:
            return "kept" if mark == made.metadata[MARK] else "older"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, target)
    return "made"


def lay_out(folder: Path) -> str:
    """Bring `folder` up to date; returns what was done, for the reader."""
    states: dict[str, list[str]] = {"made": [], "kept": [], "older": []}
    for lesson in sorted([*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("exercises/*.ipynb")]):
        name = lesson.relative_to(NOTEBOOKS)
        states[copy(lesson, folder / "notebooks" / name)].append(name.as_posix())
    for name in (SEEN, *UNSEEN):
        shutil.copyfile(ROOT / name, folder / name)
    for name in BESIDE:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
    kept = len(states["kept"]) + len(states["older"])
    said = f"{folder / 'notebooks'}: {len(states['made'])} notebooks made, {kept} kept as they were."
    said += " To start one afresh, delete it there and come again." if kept else ""
    if states["older"]:
        said += f"\nChanged by you, while the course has a newer one: {', '.join(states['older'])}"
    return said


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Open the lessons in JupyterLab.", allow_abbrev=False)
    parser.add_argument("--answers", action="store_true", help="the stored lessons, with their outputs")
    ours, theirs = parser.parse_known_args(arguments)
    if not ours.answers:
        print(lay_out(LAB), flush=True)
    paths = [str(NOTEBOOKS), str(NOTEBOOKS / "exercises"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    (OWN / "settings").mkdir(parents=True, exist_ok=True)
    (OWN / "settings" / "overrides.json").write_text(json.dumps(SETTINGS), "utf-8")
    options = {
        "ServerApp.root_dir": ROOT if ours.answers else LAB,
        "LabApp.default_url": "/lab/tree/notebooks/00_start_here.ipynb",
        "LabApp.app_settings_dir": OWN / "settings",
        "LabApp.workspaces_dir": OWN / "workspaces",  # open tabs of other projects stay out of it
    }
    unseen = () if ours.answers else (*BESIDE, OWN.name, *(Path(page).name for page in UNSEEN))
    hidden = [f"--ContentsManager.hide_globs={name}" for name in unseen]
    from jupyterlab.labapp import main as jupyterlab

    jupyterlab([*(f"--{name}={value}" for name, value in options.items()), *hidden, *theirs])


if __name__ == "__main__":
    main(sys.argv[1:])
