"""What `make lab` opens: lessons without their answers, in a copy in which a reader's own words are safe."""

from __future__ import annotations

import ast
import copy
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from teaching import lab
from teaching.stubs import with_stubs

from comp_lib.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"

PREDICTION = "**Predict.** Which is larger?\n\n<details><summary>Answer</summary>\n\nA.\n\n</details>"
QUIZ = "## Quiz\n\n1. Why?\n\n<details><summary>Answer</summary>\n\nSo.\n\n</details>"
FIGURES = """\
show(plot([1, 2], "length"), "A is larger")
show(plot([1], "cost", "A costs more"))
show(plot([1], "cost", "768 tokens: A costs more"))
show(plot([1], 4), 12)
show(f, f"{a}")"""
FIGURES_WITH_QUESTIONS = """\
show(plot([1, 2], "length"), "What do you see?")
show(plot([1], "cost", "What do you see?"))
show(plot([1], "cost", "What do you see?"))
show(plot([1], 4), 12)
show(f, f"{a}")"""


def lesson():
    """A small lesson with one prediction, whose answer the two code cells behind it give away."""
    outputs = [new_output("stream", text="A")]
    return new_notebook(
        cells=[
            new_markdown_cell(PREDICTION, id="prediction"),
            new_code_cell(FIGURES, id="figures", outputs=outputs, execution_count=1),
            new_code_cell("assert a", id="check"),
            new_markdown_cell("Go on.", id="on"),
            new_code_cell('show(f, "As said")'),
            new_markdown_cell(QUIZ),
        ]
    )


def test_a_prediction_comes_before_all_that_gives_its_answer_away():
    stored = lesson()
    before = copy.deepcopy(stored)
    cells = lab.without_answers(stored).cells
    ids = [cell.get("id") for cell in cells[:5]]
    assert ids == ["prediction", "figures", "check", "prediction-answer", "on"]
    assert "A." not in cells[0].source
    assert cells[0].source.endswith(lab.WRITE)
    assert cells[3].source in PREDICTION
    assert cells[1].source == FIGURES_WITH_QUESTIONS
    # Where no prediction comes before, everything stays.
    assert cells[5].source == 'show(f, "As said")'
    assert cells[6].source == QUIZ
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert stored == before


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_every_prediction_of_a_lesson_is_found(path):
    stored = nbformat.read(path, as_version=4)
    copied = lab.without_answers(stored)
    predictions = sum("**Predict.**" in cell.source for cell in stored.cells)
    assert sum(cell.id.endswith("-answer") for cell in copied.cells) == predictions > 0
    nbformat.validate(copied)


EXERCISE = """\
<details><summary>Hint 1</summary>

Think.

</details>

<details><summary>Solution</summary>

```python
A
```

</details>"""


def test_graded_work_has_hints_and_checks_and_no_folded_answers():
    exercise = new_notebook(
        cells=[
            new_markdown_cell("# 01\n\nEach check says what is wrong. Each task has hints and a solution."),
            new_code_cell("checks.check_a(a)"),
            new_markdown_cell(EXERCISE),
            new_markdown_cell("<details><summary>Solution</summary>\n\nA.\n\n</details>"),
        ]
    )
    before = copy.deepcopy(exercise)
    cells = lab.without_solutions(exercise).cells
    assert [cell.source for cell in cells] == [
        "# 01\n\nEach check says what is wrong. Each task has hints.",
        "checks.check_a(a)",
        "<details><summary>Hint 1</summary>\n\nThink.\n\n</details>",
    ]
    assert exercise == before
    cells = lab.without_solutions(lab.without_answers(lesson())).cells
    assert [cell.get("id") for cell in cells[:4]] == ["prediction", "figures", "check", "on"]
    assert cells[0].source.startswith("**Predict.** Which is larger?")
    assert cells[0].source.endswith("Then run the next cell.*")
    assert cells[-1].source == "## Quiz\n\n1. Why?"


def test_solutions_of_exercises_are_not_one_click_away(tmp_path):
    lab.lay_out(tmp_path)
    folder = tmp_path / "notebooks" / "exercises"
    exercises = sorted(folder.glob("*.ipynb"))
    assert [path.name for path in exercises] == sorted(
        path.name for path in (folder / "solutions").glob("*.ipynb")
    )
    for path in exercises:
        prose = "\n".join(
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
        )
        assert "<summary>Hint 1</summary>" in prose
        assert "<summary>Solution</summary>" not in prose
        assert f"](solutions/{path.name})" in prose


def test_nothing_in_graded_work_is_or_names_a_folded_answer(tmp_path):
    lab.lay_out(tmp_path, solutions=False)
    assert "Answers" not in (tmp_path / "notebooks" / "TEACHING.md").read_text("utf-8")
    paths = sorted(tmp_path.glob("notebooks/**/*.ipynb"))
    assert [path.name for path in paths if "solutions" in path.parts] == []
    assert len(paths) == len([*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("exercises/*.ipynb")])
    complaints = []
    checks = 0
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            checks += cell.source.startswith("checks.check_")
            if cell.cell_type == "markdown":
                pattern = r"<summary>(?!Hint \d).*|.*\bsolutions?\b.*|.*folded plan.*|.*answer is below.*"
                complaints += [f"{path.name}: {line}" for line in re.findall(pattern, cell.source)]
    assert checks > 20
    assert [line for line in complaints if "least-squares solution" not in line] == []


@pytest.fixture
def stored(tmp_path):
    """The path of a lesson."""
    path = tmp_path / "lesson.ipynb"
    nbformat.write(lesson(), path)
    return path


@pytest.fixture
def copied(stored, tmp_path):
    """The path of the reader's copy, which was just made."""
    path = tmp_path / "lab" / "lesson.ipynb"
    assert lab.copy(stored, path) == "made"
    return path


def write(path, number, source):
    """Somebody writes another source into a cell."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[number].source = source
    nbformat.write(notebook, path)


def run(path):
    """A reader runs the lesson, which then has an output."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [new_output("stream", text="mine")]
    nbformat.write(notebook, path)


def test_outputs_of_a_reader_stay(stored, copied):
    run(copied)
    assert lab.copy(stored, copied) == "kept"
    assert "mine" in copied.read_text("utf-8")


def test_a_copy_that_was_only_run_gives_way_to_a_lesson_that_changed(stored, copied):
    run(copied)
    write(stored, 3, "Go on, better.")
    assert lab.copy(stored, copied) == "made"
    assert "better" in copied.read_text("utf-8")


def test_what_a_reader_wrote_stays_also_where_the_lesson_changed(stored, copied):
    write(stored, 3, "Go on, better.")
    assert lab.copy(stored, copied) == "made"
    write(copied, 0, "I expect B.")
    assert lab.copy(stored, copied) == "kept"
    assert "I expect B." in copied.read_text("utf-8")
    write(stored, 3, "Go on, best.")
    assert lab.copy(stored, copied) == "older"
    assert "I expect B." in copied.read_text("utf-8")


def test_a_file_that_is_no_notebook_stays(stored, copied):
    copied.write_text("not a notebook", "utf-8")
    assert lab.copy(stored, copied) == "kept"
    assert copied.read_text("utf-8") == "not a notebook"


def test_a_copy_that_was_deleted_is_made_again(stored, copied):
    write(copied, 0, "I expect B.")
    copied.unlink()
    assert lab.copy(stored, copied) == "made"


@pytest.fixture
def jupyterlab(tmp_path, monkeypatch):
    """The arguments with which JupyterLab was started; it is not, and the lab is laid out in `tmp_path`."""
    arguments = []
    module = ModuleType("jupyterlab.labapp")
    module.main = arguments.extend
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", module)
    monkeypatch.setattr(lab, "LAB", tmp_path)
    monkeypatch.setattr(lab, "GRADED", tmp_path / "graded")
    monkeypatch.setattr(lab, "JUPYTER", tmp_path / "jupyter")
    monkeypatch.setenv("PYTHONPATH", "theirs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    return arguments


def test_a_reader_sees_lessons_alone_and_their_kernels_find_the_rest(tmp_path, jupyterlab):
    lab.main(["--no-browser"])
    hidden = {option.partition("=")[2] for option in jupyterlab if "hide_globs" in option}
    visible = (
        {path.name for path in (tmp_path / "notebooks").rglob("*")} - {"exercises", "solutions"} - hidden
    )
    lessons = {path.name for path in NOTEBOOKS.glob("**/[0-9]*.ipynb")}
    assert visible == lessons | {"GLOSSARY.md"}
    assert {path.name for path in tmp_path.iterdir()} - hidden == {"notebooks"}

    docs = tmp_path / "docs"
    links = []
    for page in docs.glob("*.md"):
        links += re.findall(r"\]\((?!https?:)([^)#]+\.md)", page.read_text("utf-8"))
    assert links
    assert [link for link in links if not (docs / link).resolve().exists()] == []

    assert f"--ServerApp.root_dir={tmp_path}" in jupyterlab
    assert jupyterlab[-1] == "--no-browser"
    assert "fetchNews" in (tmp_path / "jupyter" / "settings" / "overrides.json").read_text("utf-8")
    course, checks, theirs = map(Path, os.environ["PYTHONPATH"].split(os.pathsep))
    assert (course / "course").is_dir()
    assert (checks / "checks_02.py").is_file()
    assert theirs == Path("theirs")

    lab.main(["--answers"])
    assert f"--ServerApp.root_dir={ROOT}" in jupyterlab


def test_graded_work_lies_in_a_folder_of_its_own(tmp_path, jupyterlab):
    lab.main(["--no-solutions", "--no-browser"])
    assert f"--ServerApp.root_dir={tmp_path / 'graded'}" in jupyterlab
    assert jupyterlab[-1] == "--no-browser"
    assert "<summary>Solution" not in "".join(
        path.read_text("utf-8") for path in (tmp_path / "graded").glob("notebooks/exercises/*.ipynb")
    )
    with pytest.raises(SystemExit):
        lab.main(["--no-solutions", "--answers"])


@pytest.mark.parametrize("option", ["--allow-root", "--ServerApp.allow_root=True"])
def test_root_is_told_what_to_type_before_any_work(tmp_path, jupyterlab, monkeypatch, option):
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    with pytest.raises(InputError, match="got root: .*LAB_ARGS=--allow-root, or add --allow-root"):
        lab.main(["--no-browser"])
    assert jupyterlab == [*tmp_path.iterdir()] == []
    lab.main([option])
    assert jupyterlab[-1] == option


# --- leaks --------------------------------------------------------------------------------------------------

NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?%?(?!\w)")
BOLD = re.compile(r"\*\*([^*]+)\*\*")


def tells(answer: str) -> set[str]:
    """What gives a folded answer away: its numbers, but for small whole ones, and its words in bold."""
    numbers = {number for number in NUMBER.findall(answer) if not re.fullmatch(r"\d", number)}
    return numbers | set(BOLD.findall(answer))


def strings(source: str) -> str:
    """All that the code of a cell can print or draw as it stands: its strings, those of f-strings too."""
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return "\n".join(constant for constant in constants if isinstance(constant, str))


def leaks(notebook) -> list[str]:
    """Numbers and bold words of a folded answer that stand in a string of the visible code above it.

    What the question itself says gives nothing away.
    """
    complaints = []
    text_shown = ""
    question = ""
    for cell in notebook.cells:
        folded = {"check", "hide-input", "ours"} & set(cell.metadata.get("tags", []))
        if cell.get("id", "").endswith("-answer"):
            for tell in sorted(tells(cell.source) - tells(question)):
                if re.search(rf"(?<![\w.]){re.escape(tell)}(?![\w.]*\w)", text_shown):
                    complaints.append(f"{cell.id}: {tell}")
        elif "**Predict.**" in cell.source:
            question = cell.source
        elif cell.cell_type == "code" and not folded:
            text_shown += "\n" + strings(cell.source)
    return complaints


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_no_title_print_or_stub_gives_an_answer_away(path):
    assert leaks(with_stubs(lab.without_answers(nbformat.read(path, as_version=4)))) == []


@pytest.mark.parametrize(
    "leak", ['show(f(x), "Half: 0.82", y)', 'print(f"it is 0.82 {x}")', 'title = "0.82"']
)
def test_a_leak_is_found(leak):
    prediction = "**Predict.** How much?\n\n<details><summary>Answer</summary>\n\nIt is 0.82.\n\n</details>"
    cells = [
        new_code_cell(leak),
        new_markdown_cell(prediction),
        new_code_cell("run()"),
        new_markdown_cell("On."),
    ]
    assert leaks(lab.without_answers(new_notebook(cells=cells))) != []
    cells[0] = new_code_cell(leak.replace("0.82", "0.5"))
    assert leaks(lab.without_answers(new_notebook(cells=cells))) == []
