"""What holds for the exercises of every lesson; their mistakes, lesson by lesson, are in test_exercises_NN.py."""

from __future__ import annotations

import nbformat
import pytest
from lessons import LESSONS, Wrong, functions

EACH = [pytest.param(lesson, name, id=f"{lesson.name}-{name}") for lesson in LESSONS for name in lesson.checks]


@pytest.mark.parametrize("lesson, name", EACH)
def test_a_check_refuses_the_stub(lesson, name):
    with pytest.raises(Wrong, match=f"nothing to check yet: `{name}`"):
        lesson.checks[name](functions(lesson.stubs)[name])


@pytest.mark.parametrize("lesson, name", EACH)
def test_a_check_accepts_the_solution(lesson, name, capsys):
    lesson.checks[name](functions(lesson.solutions)[name])
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize("lesson, name", EACH)
def test_the_folded_solution_is_the_solution(lesson, name):
    solved = next(c.source for c in nbformat.read(lesson.solutions, 4).cells if c.source.startswith(f"def {name}("))
    cells = [cell for cell in nbformat.read(lesson.stubs, 4).cells if cell.cell_type == "markdown"]
    folded = [cell.source for cell in cells if f"def {name}(" in cell.source]
    assert len(folded) == 1 and solved in folded[0] and folded[0].count("<details>") >= 3


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_each_exercise_is_checked_in_both_notebooks(lesson):
    for path in (lesson.stubs, lesson.solutions):
        sources = [cell.source for cell in nbformat.read(path, 4).cells]
        for name, check in lesson.checks.items():
            assert f"checks.{check.__name__}({name})" in sources


def test_a_wrong_answer_is_a_sentence_in_the_notebook():
    assert Wrong("two norms")._render_traceback_() == ["Not yet: two norms"]
