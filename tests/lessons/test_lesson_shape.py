"""The shape of a lesson: its idea in its cells, predictions to make, a quiz, honest minutes, not too much of anything.

Each rule is a function from a lesson to what is wrong with it, and each is tested on a lesson that is wrong.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9]*.ipynb"))
LONGEST = 12  # lines of a function
LINES_OF_A_CELL = 15
FIGURES = 8  # of a lesson, at most
TABLES = 2  # of a lesson, at most
ROWS = 8  # of a table, at most
# What each lesson is about is defined in its cells, and asserted equal to comp_lib's.
IN_THE_CELLS = {
    "01_layer_importance": ("block_influence", "loss_without", "hidden_harm"),
    "02_matrix_condition": ("contributions", "condition_numbers", "prices", "refit"),
    "02b_metrics_on_trial": ("wanda_sp", "flap", "spearman", "one_round"),
    "03_hybrid_granularity": ("width_for_budget", "kl", "measured_widths"),
    "04_mask_tuning": ("solve_mask", "least_squares", "guarded_mask"),
    "05_comp_end_to_end": ("watch", "choose", "refit", "cut", "pass_on", "comp"),
    "06_your_own_model": ("recommend",),
    "07_comp_vs_baselines": ("wanda_sp", "flap", "taylor", "verdict"),
    "08_on_device": ("bytes_for_a_token", "q4_0", "fit_costs", "milliseconds"),
    "09_scale": ("walk", "bytes_held", "dual_inverse", "dual_prices"),
    "10_after_pruning": ("kl", "kl_gradient", "from_tokens", "train"),
}
LONGER = {"comp": 14}  # COMP from scratch: the loop of the whole method

specification = importlib.util.spec_from_file_location("minutes", FOLDER / "teaching" / "minutes.py")
minutes = importlib.util.module_from_spec(specification)
sys.modules["minutes"] = minutes  # a dataclass looks there
specification.loader.exec_module(minutes)

RULES = {}


def rule(function):
    RULES[function.__name__] = function
    return function


def cells(notebook, kind="code"):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def parsed(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def shown(notebook):
    """What the stored outputs of all cells show: kind -> content, for each output."""
    return [output.get("data", {}) for cell in cells(notebook) for output in cell.outputs]


@rule
def claims_honest_minutes(notebook, name):
    claimed, counted = minutes.claimed_minutes(notebook.cells), minutes.counted_minutes(notebook.cells)
    if claimed is None:
        return [
            "the first cell does not say '**Takes** about N minutes, of which the machine computes for M'"
        ]
    return (
        []
        if abs(claimed - counted) <= 3
        else [f"claims {claimed} minutes, a slow reader takes {counted:.1f}"]
    )


@rule
def has_short_cells(notebook, name):
    lengths = {cell.id: minutes.lines_of(cell) for cell in cells(notebook) if minutes.is_visible_code(cell)}
    return [
        f"cell {i} has {n} lines, at most {LINES_OF_A_CELL}"
        for i, n in lengths.items()
        if n > LINES_OF_A_CELL
    ]


@rule
def has_few_figures(notebook, name):
    """Pictures, drawings and animations: each is an image or a page with one."""
    figures = [
        data for data in shown(notebook) if re.search(r"<(img|svg|video)\b", str(data.get("text/html", "")))
    ]
    return [] if len(figures) <= FIGURES else [f"{len(figures)} figures, at most {FIGURES}"]


@rule
def has_few_short_tables(notebook, name):
    texts = [cell.source for cell in cells(notebook, "markdown")] + [
        data.get("text/markdown", "") for data in shown(notebook)
    ]
    rows = [
        found.count("\n") - 2
        for text in texts
        for found in re.findall(r"(?:^\|.*\|\n)+", f"{text}\n", re.MULTILINE)
    ]
    tables = minutes.table_count(notebook.cells)
    found = [f"{tables} tables, at most {TABLES}"] if tables > TABLES else []
    return found + [f"a table of {each} rows, at most {ROWS}" for each in rows if each > ROWS]


@rule
def shows_its_tables(notebook, name):
    """A table is shown where it is the last line of its cell; anywhere else it is lost."""
    lines = [
        node for cell in cells(notebook) for node in parsed(cell).body[:-1] if isinstance(node, ast.Expr)
    ]
    lost = [ast.unparse(line)[:60] for line in lines if re.match(r"table\(", ast.unparse(line))]
    return [f"not the last line of its cell, so not shown: {line}" for line in lost]


@rule
def asks_before_it_shows(notebook, name):
    """A prediction is a folded answer that comes right before a cell that settles it."""
    pairs = zip(notebook.cells, notebook.cells[1:], strict=False)
    predictions = [
        a for a, b in pairs if "**Predict" in a.source and "<details>" in a.source and b.cell_type == "code"
    ]
    return [] if len(predictions) >= 3 else [f"{len(predictions)} predictions before a code cell, at least 3"]


@rule
def ends_with_a_quiz(notebook, name):
    quiz = [cell.source for cell in cells(notebook, "markdown") if re.match(r"## Quiz\b", cell.source)]
    folded = sum(source.count("<details>") for source in quiz)
    return [] if folded == 5 else [f"a quiz with {folded} folded answers, expected a cell '## Quiz' with 5"]


@rule
def holds_its_method_in_its_cells(notebook, name):
    functions = [
        node
        for cell in cells(notebook)
        for node in ast.walk(parsed(cell))
        if isinstance(node, ast.FunctionDef)
    ]
    missing = set(IN_THE_CELLS.get(name, ())) - {function.name for function in functions}
    found = [f"no `def {function}` in its cells" for function in sorted(missing)]
    for function in functions:
        first = (
            function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
        )
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
PICTURE = new_output("display_data", {"text/html": '<img alt="a b c d" src="data:,"/>'})
QUIZ = "\n\n".join(f"{n}. Why?\n\n<details><summary>Answer</summary>\n\nSo.\n\n</details>" for n in range(5))


def good():
    """A small lesson with which nothing is wrong."""
    predictions = [cell for _ in range(3) for cell in (new_markdown_cell(PREDICTION), new_code_cell("x = 1"))]
    first = new_markdown_cell("# 01\n\n**Takes** about 9 minutes, of which the machine computes for 2.")
    return new_notebook(
        cells=[
            first,
            new_code_cell("def f():\n    pass"),
            *predictions,
            new_markdown_cell(f"## Quiz\n\n{QUIZ}"),
        ]
    )


def change(number, source=None, **fields):
    """A change of one cell of a lesson."""
    return lambda lesson: lesson.cells[number].update(
        **({} if source is None else {"source": source}), **fields
    )


BAD = [
    (
        "claims_honest_minutes",
        change(0, "# 01\n\n**Takes** about 13 minutes, of which the machine computes for 2."),
    ),
    ("claims_honest_minutes", change(0, "# 01")),
    ("has_short_cells", change(1, "x = 1\n" * (LINES_OF_A_CELL + 1))),
    ("has_few_figures", change(1, outputs=[PICTURE] * (FIGURES + 1))),
    ("has_few_short_tables", change(0, "| a |\n|---|\n" + "| 1 |\n" * (ROWS + 1))),
    (
        "has_few_short_tables",
        change(1, outputs=[new_output("display_data", {"text/markdown": "| 1 |\n" * (ROWS + 3)})]),
    ),
    ("has_few_short_tables", change(1, "table(a, b)\n" * (TABLES + 1))),
    ("shows_its_tables", change(1, "table(a, b)\nprint()")),
    ("asks_before_it_shows", lambda lesson: lesson.cells.pop(3)),
    ("ends_with_a_quiz", lambda lesson: lesson.cells.pop()),
    ("holds_its_method_in_its_cells", change(1, "def f():\n" + "    x = 1\n" * LONGEST)),
]


def test_each_rule_has_a_bad_lesson():
    assert {name for name, _ in BAD} == set(RULES)
    assert problems(good(), "") == []


@pytest.mark.parametrize(("name", "spoil"), BAD)
def test_a_rule_can_fail(name, spoil):
    lesson = good()
    spoil(lesson)
    assert RULES[name](lesson, "") != []
