"""The shape of a lesson: its idea in its cells, predictions to make, a quiz, and honest minutes.

Each rule is a function from a lesson to what is wrong with it, and each is tested on a lesson that is wrong.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9]*.ipynb"))
LONGEST = 12  # lines of a function
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 15  # of a slow reader
# What each lesson is about is defined in its cells, and asserted equal to comp_lib's.
IN_THE_CELLS = {
    "01_layer_importance": ("block_influence", "loss_without", "hidden_harm"),
    "02_matrix_condition": ("contributions", "condition_numbers", "block_scores", "refit"),
    "02b_metrics_on_trial": ("wanda_sp", "flap", "spearman", "one_round"),
    "03_hybrid_granularity": ("width_for_budget", "kl", "measured_widths"),
    "04_mask_tuning": ("solve_mask", "least_squares", "guarded_mask"),
    "05_comp_end_to_end": ("watch", "choose", "refit", "cut", "pass_on", "comp"),
    "06_your_own_model": ("recommend",),
    "07_comp_vs_baselines": ("wanda_sp", "flap", "taylor", "verdict"),
    "08_on_device": ("bytes_for_a_token", "q4_0", "fit_costs", "milliseconds"),
    "09_scale": ("walk", "bytes_held", "dual_inverse", "dual_costs"),
    "10_after_pruning": ("kl", "kl_gradient", "from_tokens", "train"),
}
LONGER = {"comp": 14}  # COMP from scratch: the loop of the whole method

RULES = {}


def rule(function):
    RULES[function.__name__] = function
    return function


def cells(notebook, kind="code"):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def is_folded(cell):
    return bool({"check", "hide-input"} & set(cell.metadata.get("tags", [])))


def parsed(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def prose(notebook):
    """What everybody reads: the folded answers are left out."""
    text = "\n".join(cell.source for cell in cells(notebook, "markdown"))
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


def code_lines(notebook):
    sources = [cell.source for cell in cells(notebook) if not is_folded(cell)]
    return sum(bool(line.strip()) for source in sources for line in source.splitlines())


def minutes(notebook):
    """(claimed, measured) in minutes."""
    first = notebook.cells[0].source
    claimed = re.search(r"\*\*Takes\*\* about (\d+) minutes", first)
    computes = re.search(r"computes for (?:about )?(\d+)", first)
    running = int(computes[1]) if computes else 0
    measured = len(prose(notebook).split()) / WORDS_A_MINUTE + code_lines(notebook) / LINES_A_MINUTE + running
    return int(claimed[1]) if claimed else None, measured


@rule
def claims_honest_minutes(notebook, name):
    claimed, measured = minutes(notebook)
    if claimed is None:
        return ["the first cell does not say '**Takes** about N minutes, of which the machine computes for M'"]
    return [] if abs(claimed - measured) <= 3 else [f"claims {claimed} minutes, a slow reader takes {measured:.1f}"]


@rule
def asks_before_it_shows(notebook, name):
    """A prediction is a folded answer that comes right before a cell that settles it."""
    pairs = zip(notebook.cells, notebook.cells[1:], strict=False)
    predictions = [a for a, b in pairs if "**Predict" in a.source and "<details>" in a.source and b.cell_type == "code"]
    return [] if len(predictions) >= 3 else [f"{len(predictions)} predictions before a code cell, at least 3"]


@rule
def ends_with_a_quiz(notebook, name):
    quiz = [cell.source for cell in cells(notebook, "markdown") if re.match(r"## Quiz\b", cell.source)]
    folded = sum(source.count("<details>") for source in quiz)
    return [] if folded == 5 else [f"a quiz with {folded} folded answers, expected a cell '## Quiz' with 5"]


@rule
def holds_its_method_in_its_cells(notebook, name):
    functions = [
        node for cell in cells(notebook) for node in ast.walk(parsed(cell)) if isinstance(node, ast.FunctionDef)
    ]
    missing = set(IN_THE_CELLS.get(name, ())) - {function.name for function in functions}
    found = [f"no `def {function}` in its cells" for function in sorted(missing)]
    for function in functions:
        first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
        lines = function.body[-1].end_lineno - first.lineno + 2  # the signature counts as one
        if lines > LONGER.get(function.name, LONGEST):
            found.append(f"`{function.name}` has {lines} lines, at most {LONGER.get(function.name, LONGEST)}")
    return found


def problems(notebook, name):
    return [f"{rule}: {problem}" for rule, check in RULES.items() for problem in check(notebook, name)]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson(path):
    assert problems(nbformat.read(path, as_version=4), path.stem) == []


# --- the rules can fail -----------------------------------------------------------------------------------------------

PREDICTION = "**Predict.** What comes?\n\n<details><summary>Answer</summary>\n\nThat.\n\n</details>"
QUIZ = "\n\n".join(f"{n}. Why?\n\n<details><summary>Answer</summary>\n\nSo.\n\n</details>" for n in range(5))


def good():
    """A small lesson with which nothing is wrong."""
    predictions = [cell for _ in range(3) for cell in (new_markdown_cell(PREDICTION), new_code_cell("x = 1"))]
    first = new_markdown_cell("# 01\n\n**Takes** about 3 minutes, of which the machine computes for 2.")
    return new_notebook(
        cells=[first, new_code_cell("def f():\n    pass"), *predictions, new_markdown_cell(f"## Quiz\n\n{QUIZ}")]
    )


BAD = {
    "claims_honest_minutes": lambda lesson: lesson.cells[0].update(source="# 01\n\n**Takes** about 9 minutes"),
    "asks_before_it_shows": lambda lesson: lesson.cells.pop(3),
    "ends_with_a_quiz": lambda lesson: lesson.cells.pop(),
    "holds_its_method_in_its_cells": lambda lesson: lesson.cells[1].update(source="def f():\n" + "    x = 1\n" * 12),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_fail(name):
    lesson = good()
    assert problems(lesson, "") == []
    BAD[name](lesson)
    assert RULES[name](lesson, "") != []
