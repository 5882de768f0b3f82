"""What holds for the exercises of every lesson; their mistakes, lesson by lesson, are in mistakes_NN.py.

That a check accepts its solution is what nbval shows: the solutions call their checks.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import runpy

import nbformat
import numpy as np
import pytest
import torch
from lessons import EXERCISES, LESSONS, SOLUTIONS, Wrong, checks_module, functions

from comp_lib.hybrid_granularity.plan import Plan

pytestmark = pytest.mark.slow

generate = runpy.run_path(str(EXERCISES / "generate.py"))


# Random numbers with which each mistake has to be recognised; 60 draws were tried by hand.
DRAWS = int(os.environ.get("COMP_LIB_DRAWS", 4))


@contextlib.contextmanager
def other_numbers(draw):
    """All generators that a check or an answer makes get other seeds; draw 0 leaves them as they are."""
    shift = 7919 * draw
    default_rng = np.random.default_rng

    class ShiftedGenerator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(seed + shift)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", ShiftedGenerator)
        patch.setattr(np.random, "default_rng", lambda seed: default_rng(seed + shift))
        yield


def sources(path, kind):
    """The sources of the cells of one kind, "code" or "markdown", of a notebook."""
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


FUNCTIONS = [  # that learners write, with their lesson
    pytest.param(lesson, name, id=f"{lesson.name}-{name}")
    for lesson in LESSONS.values()
    for name in lesson.checks
]


@pytest.mark.parametrize("lesson, name", FUNCTIONS)
def test_a_check_refuses_the_stub(lesson, name):
    with pytest.raises(Wrong, match=f"nothing to check yet: `{name}`"):
        lesson.checks[name](functions(lesson.stubs)[name])


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_the_exercises_are_what_the_solutions_make(path, capsys):
    assert generate["main"](["--check", str(path)]) == 0, f"python notebooks/exercises/generate.py {path}"
    notebook = nbformat.read(path, 4)
    exercise = generate["exercise"](notebook)
    solutions = [cell.source for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    folded = [cell.source for cell in exercise.cells if "<summary>Solution</summary>" in cell.source]
    assert len(solutions) == len(folded) >= 1
    for solution, hints in zip(solutions, folded, strict=True):
        assert solution in hints
        assert hints.count("<details>") >= 3


HEADING = re.compile(r"^## (\d) · .+ · difficulty [1-5] of 5 · (\d+) minutes?$", re.MULTILINE)
OPEN_TASK = re.compile(r"^## Open task: .+ · difficulty [1-5] of 5 · (\d+) minutes$", re.MULTILINE)
HINT = re.compile(r"Hint \d</summary>(.*?)</details>", re.DOTALL)


WRAP_UP = "11"  # questions about another model: more of them, and no open task


@pytest.mark.parametrize("number", LESSONS)
def test_each_lesson_has_graded_exercises_and_an_open_task(number):
    lesson = LESSONS[number]
    prose = sources(lesson.solutions, "markdown")
    headings = list(filter(None, map(HEADING.match, prose)))
    tasks = list(filter(None, map(OPEN_TASK.match, prose)))
    numbers = [int(heading[1]) for heading in headings]
    assert numbers == list(range(1, len(lesson.checks) + 1))
    if number == WRAP_UP:
        assert not tasks
    else:
        assert len(numbers) <= 4
        assert 1 <= len(tasks) <= 2
    assert prose[-1 - len(tasks) : -1] == [task.string for task in tasks]
    for task in tasks:
        assert "**A good answer**" in task.string
    minutes = sum(int(heading[2]) for heading in headings) + sum(int(task[1]) for task in tasks)
    assert f"**Time** about {minutes} minutes." in prose[0]
    for source in prose:
        for hint in HINT.findall(source):
            assert "`" not in hint, "a hint says it in words, not in code"


def test_one_exercise_has_blanks_in_a_loop_that_is_written():
    blanks = []
    for lesson in LESSONS.values():
        for source in sources(lesson.stubs, "code"):
            if re.search(r"(= |return )\.\.\.  # fill", source):
                blanks.append(re.match(r"def (\w+)", source)[1])
    assert blanks == ["removed_groups"]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("x = 1", id="no function"),
        pytest.param("def f():\n    return 1", id="no docstring"),
        pytest.param("import torch\ndef f():\n    'x'\n    return 1", id="more than a function"),
    ],
)
def test_only_a_function_with_a_docstring_becomes_a_stub(source):
    with pytest.raises(SyntaxError, match="expected one function with a docstring"):
        generate["stub"](source)


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.name)
def test_each_exercise_is_checked_in_both_notebooks(lesson):
    for path in (lesson.stubs, lesson.solutions):
        code = sources(path, "code")
        for name, check in lesson.checks.items():
            assert f"checks.{check.__name__}({name})" in code


TABLES = {number: importlib.import_module(f"mistakes_{number}") for number in LESSONS}
MISTAKES = [
    pytest.param(number, name, mistake, pattern, id=f"{number}-{name}-{pattern}")
    for number, table in TABLES.items()
    for name, mistake, pattern in table.MISTAKES
]


@pytest.mark.parametrize("number, name, mistake, pattern", MISTAKES)
def test_whatever_is_drawn_a_check_names_the_mistake(number, name, mistake, pattern, monkeypatch):
    for attribute, replacement in getattr(TABLES[number], "REPLACEMENTS", {}).items():
        monkeypatch.setattr(checks_module(number), attribute, replacement)
    mistake.__name__ = name
    for draw in range(DRAWS):
        with other_numbers(draw), pytest.raises(Wrong) as refusal:
            LESSONS[number].checks[name](mistake)
        assert re.search(pattern, str(refusal.value)), f"draw {draw}: {refusal.value}"


def test_the_capstone_is_handed_in_by_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checks_05 = checks_module("05")
    my_plan = functions(LESSONS["05"].solutions)["my_plan"]
    checks_05.hand_in(my_plan, "../ada")
    assert capsys.readouterr().out.startswith("Not saved")
    with pytest.raises(Wrong, match=r"got 0\.0%"):
        checks_05.hand_in(lambda request: request.plan_with([1536] * 30), "bob")
    assert not list(tmp_path.iterdir())
    checks_05.hand_in(my_plan, "ada")
    checks_05.check(Plan.load(tmp_path / "plans" / "ada.json"), checks_05.real_outline())


RETURNING = [function for function in FUNCTIONS if function.values[1] != "finish"]  # `finish` writes files


@pytest.mark.parametrize("lesson, name", RETURNING)
def test_a_check_says_that_the_return_is_missing(lesson, name):
    def without_return(*arguments):
        pass

    without_return.__name__ = name
    with pytest.raises(Wrong, match=f"`{name}` returns nothing: end it with `return`"):
        lesson.checks[name](without_return)
