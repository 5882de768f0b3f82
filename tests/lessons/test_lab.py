"""What `make lab` opens: lessons without their answers, in a copy in which a reader's own words are safe."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("lab", ROOT / "notebooks" / "teaching" / "lab.py")
lab = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lab)

ASKS = "**Predict.** Which is larger?\n\n<details><summary>Answer</summary>\n\nA.\n\n</details>"
QUIZ = "## Quiz\n\n1. Why?\n\n<details><summary>Answer</summary>\n\nSo.\n\n</details>"
DRAWS = (
    'show(plot([1, 2], "length"), "A is larger")\nshow(plot([1], "cost", "A costs more"))\nshow(f, f"{a}")'
)


def lesson():
    cells = [
        new_markdown_cell(ASKS, id="ask"),
        new_code_cell(DRAWS, id="draw"),
        new_code_cell("assert a", id="check"),
    ]
    cells += [
        new_markdown_cell("Go on.", id="on"),
        new_code_cell('show(f, "As said")'),
        new_markdown_cell(QUIZ),
    ]
    cells[1].outputs, cells[1].execution_count = [new_output("stream", text="A")], 1
    return new_notebook(cells=cells)


def test_a_prediction_comes_before_all_that_tells_its_answer():
    given = lesson()
    before = copy.deepcopy(given)
    cells = lab.without_answers(given).cells
    assert [cell.get("id") for cell in cells[:5]] == ["ask", "draw", "check", "ask-answer", "on"]
    assert "A." not in cells[0].source and cells[0].source.endswith(lab.WRITE) and cells[3].source in ASKS
    asked = '"What do you see?"'
    assert (
        cells[1].source
        == f'show(plot([1, 2], "length"), {asked})\nshow(plot([1], "cost", {asked}))\nshow(f, f"{{a}}")'
    )
    assert (
        cells[5].source == 'show(f, "As said")' and cells[6].source == QUIZ
    )  # after no prediction all stays
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert given == before


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem
)
def test_every_prediction_of_a_lesson_is_found(path):
    stored = nbformat.read(path, as_version=4)
    made = lab.without_answers(stored)
    asking = sum("**Predict.**" in cell.source for cell in stored.cells)
    assert sum(cell.id.endswith("-answer") for cell in made.cells) == asking > 0
    nbformat.validate(made)


def test_what_a_reader_wrote_stays(tmp_path):
    source, target = tmp_path / "lesson.ipynb", tmp_path / "lab" / "lesson.ipynb"
    nbformat.write(lesson(), source)
    assert lab.copy(source, target) == "made"

    def change(path, where, text, output=None):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[where].source = text
        notebook.cells[1].outputs = [new_output("stream", text=output)] if output else []
        nbformat.write(notebook, path)

    change(target, 1, nbformat.read(target, as_version=4).cells[1].source, output="mine")
    assert lab.copy(source, target) == "kept" and "mine" in target.read_text("utf-8")  # a run
    change(source, 3, "Go on, better.")
    assert lab.copy(source, target) == "made" and "better" in target.read_text(
        "utf-8"
    )  # nothing written in it
    change(target, 0, "I expect B.")
    for state, words in (("kept", "Go on, better."), ("older", "Go on, best.")):
        change(source, 3, words)
        assert lab.copy(source, target) == state and "I expect B." in target.read_text("utf-8")
    target.write_text("not a notebook", "utf-8")
    assert lab.copy(source, target) == "kept" and target.read_text("utf-8") == "not a notebook"
    target.unlink()
    assert lab.copy(source, target) == "made"


def test_a_reader_sees_lessons_alone_and_their_kernels_find_the_rest(tmp_path, monkeypatch):
    started = []
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", type(sys)("jupyterlab.labapp"))
    sys.modules["jupyterlab.labapp"].main = started.extend
    monkeypatch.setattr(lab, "LAB", tmp_path)
    monkeypatch.setattr(lab, "JUPYTER", tmp_path / "jupyter")
    monkeypatch.setenv("PYTHONPATH", "theirs")
    lab.main(["--no-browser"])
    seen = {path.name for path in (tmp_path / "notebooks").rglob("*")} - {"exercises"}
    hidden = {option.partition("=")[2] for option in started if "hide_globs" in option}
    assert seen - hidden == {path.name for path in (ROOT / "notebooks").glob("**/[0-9]*.ipynb")} | {
        "GLOSSARY.md"
    }
    pages = [page.read_text("utf-8") for page in tmp_path.glob("docs/*.md")]
    linked = {path for page in pages for path in re.findall(r"\]\((?!https?:)([^)#]+\.md)", page)}
    assert linked and not {path for path in linked if not (tmp_path / "docs" / path).resolve().exists()}
    assert {path.name for path in tmp_path.iterdir()} - hidden == {"notebooks"}
    assert f"--ServerApp.root_dir={tmp_path}" in started and started[-1] == "--no-browser"
    assert "fetchNews" in (tmp_path / "jupyter" / "settings" / "overrides.json").read_text("utf-8")
    course, checks, theirs = map(Path, os.environ["PYTHONPATH"].split(os.pathsep))
    assert (course / "course").is_dir() and (checks / "checking.py").is_file() and theirs == Path("theirs")
    lab.main(["--answers"])
    assert f"--ServerApp.root_dir={ROOT}" in started
