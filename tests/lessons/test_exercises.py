"""What holds for the exercises of every lesson; their mistakes, lesson by lesson, are in mistakes_NN.py.

That a check accepts its solution is what nbval shows: the solutions call their checks.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import runpy
import sys

import nbformat
import numpy as np
import pytest
import torch
from lessons import EXERCISES, LESSONS, SOLUTIONS, Wrong, checks_module, functions

from comp_lib.plan import Plan

generate = runpy.run_path(str(EXERCISES / "generate.py"))


DRAWS = int(os.environ.get("COMP_LIB_DRAWS", 4))  # of which each mistake is told its own name; 60 were tried


@contextlib.contextmanager
def other_numbers(draw):
    """All generators that a check or an answer makes get other seeds; draw 0 leaves them as they are."""

    class Moved(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(seed + 7919 * draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", Moved)
        patch.setattr(
            np.random, "default_rng", lambda seed, make=np.random.default_rng: make(seed + 7919 * draw)
        )
        yield


EACH = [
    pytest.param(lesson, name, id=f"{lesson.name}-{name}")
    for lesson in LESSONS.values()
    for name in lesson.checks
]


@pytest.mark.parametrize("lesson, name", EACH)
def test_a_check_refuses_the_stub(lesson, name):
    with pytest.raises(Wrong, match=f"nothing to check yet: `{name}`"):
        lesson.checks[name](functions(lesson.stubs)[name])


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_the_exercises_are_what_the_solutions_make(path, capsys):
    assert generate["main"](["--check", str(path)]) == 0, f"python notebooks/exercises/generate.py {path}"
    exercise = generate["exercise"](nbformat.read(path, 4))
    solved = [
        cell.source for cell in nbformat.read(path, 4).cells if "solution" in cell.metadata.get("tags", [])
    ]
    hints = [cell.source for cell in exercise.cells if "<summary>Solution</summary>" in cell.source]
    assert len(solved) == len(hints) >= 1
    assert all(
        one in other and other.count("<details>") >= 3 for one, other in zip(solved, hints, strict=True)
    )


HEADING = re.compile(r"^## (\d) · .+ · difficulty [1-5] of 5 · (\d+) minutes$", re.MULTILINE)
OPEN = re.compile(r"^## Open task: .+ · difficulty [1-5] of 5 · (\d+) minutes$", re.MULTILINE)


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name)
def test_each_lesson_has_graded_exercises_and_an_open_task(lesson):
    cells = [cell.source for cell in nbformat.read(lesson.solutions, 4).cells if cell.cell_type == "markdown"]
    headings = [match for cell in cells if (match := HEADING.match(cell))]
    [task] = [match for cell in cells if (match := OPEN.match(cell))]
    assert [int(match[1]) for match in headings] == list(range(1, len(lesson.checks) + 1)) and len(
        headings
    ) <= 4
    assert "**A good answer**" in task.string and cells.index(task.string) == len(cells) - 2
    minutes = sum(int(match[2]) for match in headings) + int(task[1])
    assert f"**Time** about {minutes} minutes." in cells[0]
    assert not [
        hint
        for cell in cells
        for hint in re.findall(r"Hint \d</summary>(.*?)</details>", cell, re.S)
        if "`" in hint
    ]


def test_each_idea_has_one_exercise_with_a_blank():
    sources = [cell.source for lesson in LESSONS.values() for cell in nbformat.read(lesson.stubs, 4).cells]
    blanks = [
        re.match(r"def (\w+)", source)[1]
        for source in sources
        if re.search(r"(= |return )\.\.\.  # fill", source)
    ]
    assert blanks == ["gram", "condition", "refit", "removed_in_rounds", "widths", "mask_from_gram"]


@pytest.mark.parametrize(
    "source", ["x = 1", "def f():\n    return 1", "import torch\ndef f():\n    'x'\n    return 1"]
)
def test_only_a_function_with_words_becomes_a_stub(source):
    with pytest.raises(SyntaxError, match="expected one function with a docstring"):
        generate["stub"](source)


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name)
def test_each_exercise_is_checked_in_both_notebooks(lesson):
    for path in (lesson.stubs, lesson.solutions):
        sources = [cell.source for cell in nbformat.read(path, 4).cells]
        for name, check in lesson.checks.items():
            assert f"checks.{check.__name__}({name})" in sources


TABLES = {number: importlib.import_module(f"mistakes_{number}") for number in LESSONS}
MISTAKES = [(number, *row) for number, table in TABLES.items() for row in table.MISTAKES]


@pytest.mark.parametrize("number, name, mistake, words", MISTAKES)
def test_whatever_is_drawn_a_check_names_the_mistake(number, name, mistake, words, monkeypatch):
    for attribute, replacement in getattr(TABLES[number], "REPLACEMENTS", {}).items():
        monkeypatch.setattr(checks_module(number), attribute, replacement)
    mistake.__name__ = name
    for draw in range(DRAWS):
        with other_numbers(draw), pytest.raises(Wrong) as told:
            LESSONS[number].checks[name](mistake)
        assert re.search(words, str(told.value)), f"draw {draw}: {told.value}"


def test_the_capstone_is_handed_in_by_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checks, my_plan = sys.modules["checks_05"], functions(LESSONS["05"].solutions)["my_plan"]
    checks.hand_in(my_plan, "../ada")
    assert capsys.readouterr().out.startswith("Not saved")
    with pytest.raises(Wrong, match=r"got 0\.0%"):
        checks.hand_in(lambda asked: asked.plan([1536] * 30), "bob")
    assert not list(tmp_path.iterdir())
    checks.hand_in(my_plan, "ada")
    checks.check(Plan.load(tmp_path / "plans" / "ada.json"), checks.real_outline())


@pytest.mark.parametrize(
    "lesson, name", [each for each in EACH if each.values[1] != "finish"]
)  # it writes files
def test_an_answer_that_was_not_returned_is_told(lesson, name):
    def forgotten(*arguments):
        pass

    forgotten.__name__ = name
    with pytest.raises(Wrong, match=f"`{name}` returns nothing: end it with `return`"):
        lesson.checks[name](forgotten)
