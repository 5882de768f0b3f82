"""The functions that a reader writes in the lessons: stubs, checks, wrong answers, and ours below them.

The wrong answers to each are in wrong_NN.py, `WRONG`: the name of the function -> a part of what the check
says -> the source of the wrong answer.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from teaching import stubs

from course import checking
from course.checking import Wrong, accept, call, check_shape, checks

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@dataclass(frozen=True)
class Written:
    """A function that the reader of a lesson writes."""

    number: str  # of its lesson: "02b"
    name: str
    source: str  # as stored, whole
    check_call: str  # the cell below it
    before: str  # what the cells above import and define, and their constants

    def check(self, source: str) -> None:
        """Runs the check of this function on another source of it."""
        names: dict = {"__name__": "lesson"}
        with torch.no_grad():
            exec(self.before, names)
            exec(source, names)
            names["written"] = importlib.import_module(f"course.written.lesson_{self.number}")
            exec(self.check_call, names)


def definitions(source: str) -> list[str]:
    """The statements of a cell that cost nothing: imports, functions, classes, and constants."""
    kept = []
    for statement in ast.parse(source).body:
        is_constant = isinstance(statement, ast.Assign) and isinstance(
            statement.value, ast.Constant | ast.Tuple
        )
        if is_constant:
            with contextlib.suppress(ValueError):
                ast.literal_eval(statement.value)
                kept.append(ast.unparse(statement))
        elif isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            kept.append(ast.unparse(statement))
    return kept


def functions_to_write() -> list[Written]:
    """All functions that the lessons ask for, in their order."""
    functions = []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        before: list[str] = []
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for number, cell in enumerate(cells):
            if "write" in cell.metadata.get("tags", []):
                name = stubs.function_to_write(cell.source)
                below = cells[number + 1]
                assert "written" in below.metadata.get("tags", []), f"{path.name}: no check below {name}"
                functions.append(
                    Written(path.stem.split("_")[0], name, cell.source, below.source, "\n".join(before))
                )
            before += definitions(cell.source)
    return functions


WRITTEN = functions_to_write()
each_function = pytest.mark.parametrize("function", WRITTEN, ids=lambda w: f"{w.number}-{w.name}")


def what_it_says(function: Written, source: str) -> str:
    """The sentence with which the check refuses this source."""
    with pytest.raises(Wrong) as refusal:
        function.check(source)
    return str(refusal.value)


def with_body(function: Written, body: str) -> str:
    """The function with one line in place of what the reader writes."""
    given, _, _ = function.source.partition(stubs.MARK_TO_WRITE)
    return given + body


@each_function
def test_the_stored_function_passes(function, capsys):
    function.check(function.source)
    assert capsys.readouterr().out.startswith("Right: ")


@each_function
def test_a_stub_says_what_to_write(function):
    sentence = function.source.partition(stubs.MARK_TO_WRITE)[2].splitlines()[0]
    assert len(sentence.split()) > 3
    assert what_it_says(function, stubs.stub(function.source)) == f"nothing to check yet: write {sentence}"


@each_function
def test_wrong_answers_get_a_sentence_of_their_own(function):
    wrong = importlib.import_module(f"wrong_{function.number}").WRONG[function.name]
    assert len(wrong) >= 2
    messages = {what_it_says(function, source) for source in wrong.values()}
    assert len(messages) == len(wrong)
    for part, source in wrong.items():
        assert part in what_it_says(function, source)


@each_function
@pytest.mark.parametrize(
    "body, part",
    [
        ("return None", "returns nothing"),
        ("return 'a word'", "expected"),
        ("return float('nan')", "expected"),
        ("raise KeyError('mine')", "raises KeyError in its line"),
    ],
    ids=["nothing", "a-word", "nan", "raises"],
)
def test_what_is_no_answer_is_told_in_a_sentence(function, body, part):
    assert part in what_it_says(function, with_body(function, body))


def test_every_wrong_answer_belongs_to_a_function():
    numbers = {function.number for function in WRITTEN}
    listed = {
        (number, name) for number in numbers for name in importlib.import_module(f"wrong_{number}").WRONG
    }
    assert listed == {(function.number, function.name) for function in WRITTEN}


# The mechanism, on a function of its own.

DOUBLE = '''\
def double(x):
    """Twice x: (n,) -> (n,)."""
    two = 2  # given
    # write: twice of each number
    return two * x'''


@checks("double")
def check_double(double):
    answer = call(double, torch.ones(3))
    check_shape("twice x", answer, (3,))
    if not (answer == 2).all():
        raise Wrong("this is not twice x")
    accept("twice")


def lesson():
    return new_notebook(
        cells=[
            new_markdown_cell("**Write.** `double(x)`."),
            new_code_cell(DOUBLE, id="double", metadata={"tags": ["write"]}),
            new_code_cell("check_double(double)", id="check", metadata={"tags": ["written"]}),
            new_code_cell("print(double(torch.ones(1)))", id="use"),
        ]
    )


def run_all(notebook) -> str:
    """What the cells print, each run though one above it was refused where its tag says so."""
    names = {"torch": torch, "check_double": check_double}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                try:
                    exec(cell.source, names)
                except Wrong as refusal:
                    assert "raises-exception" in cell.metadata.tags
                    print(f"Not yet: {refusal}")
    return out.getvalue()


def test_the_lab_has_a_stub_a_check_and_ours_folded():
    stored = lesson()
    cells = stubs.with_stubs(stored).cells
    assert [cell.get("id") for cell in cells[1:]] == ["double", "check", "double-ours", "use"]
    assert cells[1].source.endswith(
        '    two = 2  # given\n    raise NotImplementedError("write twice of each number")'
    )
    assert cells[3].metadata.jupyter.source_hidden
    assert [cell.source for cell in stored.cells] == [cell.source for cell in lesson().cells]
    graded = stubs.with_stubs(stored, with_ours=False)
    assert [cell.get("id") for cell in graded.cells[1:]] == ["double", "check", "use"]
    assert "return two" not in nbformat.writes(graded)


def test_a_stub_left_as_it_is_goes_on_with_ours():
    messages = run_all(stubs.with_stubs(lesson()))
    assert "Not yet: nothing to check yet: write twice of each number" in messages
    assert "uses our `double`, because yours has not passed its check yet" in messages
    assert messages.endswith("tensor([2.])\n")


@pytest.mark.parametrize(
    "hers, answer", [("return x + x + 0.0", "your"), ("return 3 * x", "our")], ids=["right", "wrong"]
)
def test_the_lesson_goes_on_with_hers_only_if_it_passed(hers, answer):
    notebook = stubs.with_stubs(lesson())
    notebook.cells[1].source = f"def double(x):\n    {hers}"
    messages = run_all(notebook)
    assert f"uses {answer} `double`" in messages
    assert messages.endswith("tensor([2.])\n")


def test_an_answer_that_passed_once_and_is_wrong_now_is_not_used():
    run_all(lesson())
    assert "double" in checking._passed
    notebook = stubs.with_stubs(lesson())
    notebook.cells[1].source = "def double(x):\n    return 3 * x"
    assert "uses our `double`" in run_all(notebook)


def test_a_cell_to_write_that_is_not_one_function_is_refused():
    with pytest.raises(SyntaxError, match="expected one function"):
        stubs.stub("x = 1")
    with pytest.raises(SyntaxError, match="# write: SENTENCE"):
        stubs.stub('def f(x):\n    """A docstring."""\n    return x')


A_LOOP = '''\
def f(x):
    """A docstring."""
    for _ in range(2):
        # write: one step
        x = x + 1

        x = 2 * x
    return x
'''


def test_a_stub_in_a_loop_keeps_what_follows_the_loop():
    head, raised, after = stubs.stub(A_LOOP).splitlines()[-3:]
    assert head == "    for _ in range(2):"
    assert raised == '        raise NotImplementedError("write one step")'
    assert after == "    return x"
