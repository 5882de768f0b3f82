"""The shape of a lesson: its idea in its cells, short cells, predictions to make, a quiz, honest minutes.

Each rule is a function from a lesson to what is wrong with it, and each is tested on a lesson that is wrong.
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from teaching import minutes

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
MINUTES_TOLERANCE = 3
OPTIONAL_MINUTES_TOLERANCE = 1
MAX_FUNCTION_LINES = 12
MAX_FUNCTION_LINES_OF = {"comp": 14}  # COMP from scratch: the loop of the method from start to end
MAX_CELL_LINES = 15
MAX_FIGURES = 8  # of a lesson
MAX_TABLES = 2  # of a lesson
MAX_ROWS = 8  # of a table
MIN_PREDICTIONS = 3
QUIZ_ANSWERS = 5
# What each lesson is about is defined in its cells, and asserted equal to comp_lib's.
IN_THE_CELLS = {
    "00_start_here": ("layer_error",),
    "01_layer_importance": ("block_influence", "run_without", "loss_without", "hidden_harm"),
    "02_matrix_condition": ("contributions", "condition_numbers", "prices", "refit"),
    "02b_metrics_on_trial": ("wanda_sp", "flap", "spearman", "one_round"),
    "03_hybrid_granularity": ("neurons_worth", "kl", "narrow_greedily"),
    "04_mask_tuning": ("solve_mask", "guarded_mask", "refit"),
    "05_comp_end_to_end": ("watch", "choose", "refit", "cut", "pass_on", "comp", "group_prices"),
    "06_your_own_model": ("recommend",),
    "07_comp_vs_baselines": ("wanda_sp", "flap", "taylor", "verdict"),
    "08_on_device": ("bytes_for_a_token", "q4_0", "fit_costs", "milliseconds"),
    "09_scale": ("walk", "layer_bytes", "bytes_held", "dual_diagonal"),
    "10_after_pruning": ("kl", "kl_gradient", "low_rank", "from_tokens", "train"),
}

RULES = {}  # name -> function of a notebook and of the lesson's name


def rule(function):
    RULES[function.__name__] = function
    return function


def cells(notebook, kind="code"):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def parsed(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def output_data(notebook):
    """What the stored outputs of all cells show: kind -> content, for each output."""
    return [output.get("data", {}) for cell in cells(notebook) for output in cell.outputs]


@rule
def claims_honest_minutes(notebook, name):
    claimed = minutes.claimed_minutes(notebook.cells)
    counted = minutes.counted_minutes(notebook.cells)
    if claimed is None:
        return [
            "the first cell does not say '**Takes** about N minutes, of which the machine computes for M'"
        ]
    if abs(claimed - counted) > MINUTES_TOLERANCE:
        return [f"claims {claimed} minutes, a slow reader takes {counted:.1f}"]
    claimed_more = minutes.claimed_optional_minutes(notebook.cells)
    counted_more = minutes.optional_minutes(notebook.cells)
    if abs(claimed_more - counted_more) > OPTIONAL_MINUTES_TOLERANCE:
        return [f"claims {claimed_more} minutes for what is optional, a slow reader takes {counted_more:.1f}"]
    return []


@rule
def has_short_cells(notebook, name):
    problems = []
    for cell in cells(notebook):
        lines = minutes.lines_of(cell)
        if minutes.is_visible_code(cell) and lines > MAX_CELL_LINES:
            problems.append(f"cell {cell.id} has {lines} lines, at most {MAX_CELL_LINES}")
    return problems


@rule
def has_few_figures(notebook, name):
    """Pictures, drawings and animations: each is an image or a page with one."""
    pages = [str(data.get("text/html", "")) for data in output_data(notebook)]
    figures = [page for page in pages if re.search(r"<(img|svg|video)\b", page)]
    if len(figures) > MAX_FIGURES:
        return [f"{len(figures)} figures, at most {MAX_FIGURES}"]
    return []


@rule
def has_few_short_tables(notebook, name):
    problems = []
    tables = minutes.table_count(notebook.cells)
    if tables > MAX_TABLES:
        problems.append(f"{tables} tables, at most {MAX_TABLES}")
    texts = [cell.source for cell in cells(notebook, "markdown")]
    texts += [data.get("text/markdown", "") for data in output_data(notebook)]
    for text in texts:
        for table in re.findall(r"(?:^\|.*\|\n)+", f"{text}\n", re.MULTILINE):
            rows = table.count("\n") - 2  # without the head and the line below it
            if rows > MAX_ROWS:
                problems.append(f"a table of {rows} rows, at most {MAX_ROWS}")
    return problems


@rule
def shows_its_tables(notebook, name):
    """A table is shown where it is the last line of its cell; anywhere else it is lost."""
    problems = []
    for cell in cells(notebook):
        for statement in parsed(cell).body[:-1]:
            source = ast.unparse(statement)
            if isinstance(statement, ast.Expr) and source.startswith("table("):
                problems.append(f"not the last line of its cell, so not shown: {source[:60]}")
    return problems


@rule
def asks_before_it_shows(notebook, name):
    """A prediction is a folded answer that comes right before a cell that settles it."""
    predictions = [
        cell
        for cell, following in pairwise(notebook.cells)
        if minutes.is_prediction(cell) and following.cell_type == "code"
    ]
    if len(predictions) < MIN_PREDICTIONS:
        return [f"{len(predictions)} predictions before a code cell, at least {MIN_PREDICTIONS}"]
    return []


@rule
def ends_with_a_quiz(notebook, name):
    quizzes = [cell.source for cell in cells(notebook, "markdown") if re.match(r"## Quiz\b", cell.source)]
    folded = sum(source.count("<details>") for source in quizzes)
    if folded != QUIZ_ANSWERS:
        return [f"a quiz with {folded} folded answers, expected a cell '## Quiz' with {QUIZ_ANSWERS}"]
    return []


def functions_of(notebook):
    """The definitions of all functions in the cells of a notebook."""
    nodes = [node for cell in cells(notebook) for node in ast.walk(parsed(cell))]
    return [node for node in nodes if isinstance(node, ast.FunctionDef)]


def lines_of_function(function):
    """Lines of a function without its docstring; the signature counts as one."""
    body = function.body
    if ast.get_docstring(function) and len(body) > 1:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 2


@rule
def holds_its_method_in_its_cells(notebook, name):
    functions = functions_of(notebook)
    missing = set(IN_THE_CELLS.get(name, ())) - {function.name for function in functions}
    problems = [f"no `def {function}` in its cells" for function in sorted(missing)]
    for function in functions:
        lines = lines_of_function(function)
        limit = MAX_FUNCTION_LINES_OF.get(function.name, MAX_FUNCTION_LINES)
        if lines > limit:
            problems.append(f"`{function.name}` has {lines} lines, at most {limit}")
    return problems


def problems_of(notebook, name):
    """What all rules find wrong with a lesson."""
    problems = []
    for rule_name, find_problems in RULES.items():
        problems += [f"{rule_name}: {problem}" for problem in find_problems(notebook, name)]
    return problems


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson(path):
    assert problems_of(nbformat.read(path, as_version=4), path.stem) == []


# --- the rules can fail -------------------------------------------------------------------------------------

FIRST = "# 01\n\n**Takes** about {} minutes, of which the machine computes for 2."
A_LONG_OPTIONAL_SECTION = "\n\n## More (optional)\n\n" + 600 * "word "
PREDICTION = "**Predict.** What comes?\n\n<details><summary>Answer</summary>\n\nThat.\n\n</details>"
PICTURE = new_output("display_data", {"text/html": '<img alt="a b c d" src="data:,"/>'})
QUIZ_QUESTION = "1. Why?\n\n<details><summary>Answer</summary>\n\nSo.\n\n</details>\n\n"


def good():
    """A small lesson with which nothing is wrong."""
    lesson = new_notebook(
        cells=[new_markdown_cell(FIRST.format(9)), new_code_cell("def f():\n    pass")],
    )
    for _ in range(MIN_PREDICTIONS):
        lesson.cells += [new_markdown_cell(PREDICTION), new_code_cell("x = 1")]
    lesson.cells.append(new_markdown_cell("## Quiz\n\n" + QUIZ_QUESTION * QUIZ_ANSWERS))
    return lesson


def change(number, **fields):
    """A function that changes one cell of a lesson."""
    return lambda lesson: lesson.cells[number].update(**fields)


def output_of(markdown):
    return [new_output("display_data", {"text/markdown": markdown})]


# (name of a rule, change of the good lesson that this rule has to notice)
BAD = [
    ("claims_honest_minutes", change(0, source=FIRST.format(40))),
    ("claims_honest_minutes", change(0, source="# 01")),
    ("claims_honest_minutes", change(0, source=FIRST.format(9) + A_LONG_OPTIONAL_SECTION)),
    ("has_short_cells", change(1, source="x = 1\n" * (MAX_CELL_LINES + 1))),
    ("has_few_figures", change(1, outputs=[PICTURE] * (MAX_FIGURES + 1))),
    ("has_few_short_tables", change(0, source="| a |\n|---|\n" + "| 1 |\n" * (MAX_ROWS + 1))),
    ("has_few_short_tables", change(1, outputs=output_of("| 1 |\n" * (MAX_ROWS + 3)))),
    ("has_few_short_tables", change(1, source="table(a, b)\n" * (MAX_TABLES + 1))),
    ("shows_its_tables", change(1, source="table(a, b)\nprint()")),
    ("asks_before_it_shows", lambda lesson: lesson.cells.pop(3)),
    ("ends_with_a_quiz", lambda lesson: lesson.cells.pop()),
    ("holds_its_method_in_its_cells", change(1, source="def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)),
]


def test_each_rule_has_a_bad_lesson():
    assert {rule_name for rule_name, _ in BAD} == set(RULES)
    assert problems_of(good(), "") == []


@pytest.mark.parametrize(("rule_name", "spoil"), BAD)
def test_a_rule_can_fail(rule_name, spoil):
    lesson = good()
    spoil(lesson)
    assert RULES[rule_name](lesson, "") != []
